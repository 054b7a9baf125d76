//! The chain's rules: what each call checks and changes, and what happens in every block.
//!
//! Everything here is synchronous and works on an [`Overlay`]; nobody here knows the clock, the network or the disk.

pub(crate) mod balances;
pub(crate) mod beacon;
pub(crate) mod commitments;
pub(crate) mod fees;
pub(crate) mod genesis;
pub(crate) mod hooks;
pub(crate) mod neurons;
pub(crate) mod registration;
pub(crate) mod reveal;
pub(crate) mod serving;
pub(crate) mod stake;
pub(crate) mod upgrade;
pub(crate) mod validity;
pub(crate) mod weights;

use parity_scale_codec::{Compact, Encode};

use crate::call::{Call, CommitmentsCall, ShieldCall, SubtensorCall};
use crate::events::{self, DispatchError, DispatchInfo, Event, Phase, ShieldEvent, SystemEvent};
use crate::hash::blake2_256;
use crate::items::{self, Account};
use crate::state::Overlay;

/// The runtime version that the interface table describes.
pub(crate) const SPEC_VERSION: u32 = 461;
/// The transaction version that signatures cover.
pub(crate) const TRANSACTION_VERSION: u32 = 1;

/// The root network, whose stake is in coins.
pub(crate) const ROOT: u16 = 0;

/// One block in the making.
#[derive(Debug)]
pub(crate) struct Exec<'s> {
    pub(crate) state: Overlay<'s>,
    pub(crate) block: u64,
    phase: Phase,
    events: Vec<(Phase, Event)>,
}

impl<'s> Exec<'s> {
    /// Work on the block with this number.
    pub(crate) const fn new(state: Overlay<'s>, block: u64) -> Self {
        Self { state, block, phase: Phase::Initialization, events: Vec::new() }
    }

    /// Deposits an event.
    pub(crate) fn emit(&mut self, event: Event) {
        self.events.push((self.phase, event));
    }

    /// Says which extrinsic comes next.
    pub(crate) fn begin_extrinsic(&mut self, index: u32) {
        self.phase = Phase::ApplyExtrinsic(index);
    }

    /// Writes the collected events into the state.
    pub(crate) fn store_events(&mut self) {
        let count = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        let mut bytes = Compact(count).encode();
        for (phase, event) in &self.events {
            phase.encode_to(&mut bytes);
            event.encode_to(&mut bytes);
            bytes.push(0);
        }
        self.state.write(items::EVENTS.0.prefix(), Some(bytes));
        items::EVENT_COUNT.put(&mut self.state, &count);
    }

    /// Carries out a call whose extrinsic was found valid: nonce and fee stay, everything else only on success.
    pub(crate) fn apply(
        &mut self,
        signer: &Account,
        call: &Call,
        tip: u64,
        encoded_len: usize,
    ) -> Result<(), DispatchError> {
        let pays = fees::pays(call);
        balances::bump_nonce(&mut self.state, signer);
        fees::charge(self, signer, pays, tip, encoded_len);
        let events_before = self.events.len();
        self.state.open();
        let outcome = dispatch(self, signer, call);
        if outcome.is_ok() {
            self.state.keep();
        } else {
            self.state.drop_call();
        }
        let info = DispatchInfo::normal(pays);
        match outcome {
            Ok(()) => self.emit(Event::System(SystemEvent::ExtrinsicSuccess(info))),
            Err(error) => {
                self.events.truncate(events_before);
                self.emit(Event::System(SystemEvent::ExtrinsicFailed(error, info)));
            }
        }
        outcome
    }
}

fn dispatch(exec: &mut Exec<'_>, signer: &Account, call: &Call) -> Result<(), DispatchError> {
    match call {
        Call::Balances(call) => balances::transfer(exec, signer, call),
        Call::Subtensor(call) => subtensor(exec, signer, call),
        Call::Commitments(CommitmentsCall::SetCommitment { netuid, info }) => {
            commitments::set(exec, signer, *netuid, info)
        }
        // Nobody is sudo here.
        Call::Listed(12) => Err(events::REQUIRE_SUDO),
        Call::Shield(ShieldCall::SubmitEncrypted { ciphertext }) => {
            // The block's author opens it and applies what is inside as an extrinsic of its own.
            let id = blake2_256(&(signer, ciphertext).encode());
            exec.emit(Event::MevShield(ShieldEvent::EncryptedSubmitted { id, who: *signer }));
            Ok(())
        }
        Call::Listed(_) => Err(events::CALL_FILTERED),
    }
}

fn subtensor(
    exec: &mut Exec<'_>,
    signer: &Account,
    call: &SubtensorCall,
) -> Result<(), DispatchError> {
    match call {
        SubtensorCall::SetWeights { netuid, vector } => {
            weights::set(exec, signer, *netuid, 0, vector)
        }
        SubtensorCall::SetMechanismWeights { netuid, mecid, vector } => {
            weights::set(exec, signer, *netuid, *mecid, vector)
        }
        SubtensorCall::AddStake { hotkey, netuid, amount } => {
            stake::add(exec, signer, hotkey, *netuid, *amount)
        }
        SubtensorCall::RemoveStake { hotkey, netuid, amount } => {
            stake::remove(exec, signer, hotkey, *netuid, *amount)
        }
        SubtensorCall::AddStakeLimit { hotkey, netuid, amount, limit_price, .. } => {
            stake::check_buying(*limit_price)?;
            stake::add(exec, signer, hotkey, *netuid, *amount)
        }
        SubtensorCall::RemoveStakeLimit { hotkey, netuid, amount, limit_price, .. } => {
            stake::check_selling(*limit_price)?;
            stake::remove(exec, signer, hotkey, *netuid, *amount)
        }
        SubtensorCall::ServeAxon { axon } => serving::axon(exec, signer, axon, None),
        SubtensorCall::ServeAxonTls { axon, certificate } => {
            serving::axon(exec, signer, axon, Some(certificate))
        }
        SubtensorCall::ServePrometheus { netuid, version, ip, port, ip_type } => {
            let info = items::PrometheusInfo {
                block: exec.block,
                version: *version,
                ip: *ip,
                port: *port,
                ip_type: *ip_type,
            };
            serving::prometheus(exec, signer, *netuid, &info)
        }
        SubtensorCall::BurnedRegister { netuid, hotkey } => {
            registration::burned(exec, signer, *netuid, hotkey, None)
        }
        SubtensorCall::RegisterLimit { netuid, hotkey, limit_price } => {
            registration::burned(exec, signer, *netuid, hotkey, Some(*limit_price))
        }
        SubtensorCall::CommitWeights { .. }
        | SubtensorCall::CommitMechanismWeights { .. }
        | SubtensorCall::RevealWeights { .. }
        | SubtensorCall::RevealMechanismWeights { .. }
        | SubtensorCall::CommitTimelockedWeights { .. }
        | SubtensorCall::CommitTimelockedMechanismWeights { .. }
        | SubtensorCall::CommitCrv3MechanismWeights { .. } => committed(exec, signer, call),
    }
}

/// The calls of commit and reveal; those without a mechanism mean the first.
fn committed(
    exec: &mut Exec<'_>,
    signer: &Account,
    call: &SubtensorCall,
) -> Result<(), DispatchError> {
    match call {
        SubtensorCall::CommitWeights { netuid, commit_hash } => {
            reveal::commit_hash(exec, signer, (*netuid, 0), *commit_hash)
        }
        SubtensorCall::CommitMechanismWeights { netuid, mecid, commit_hash } => {
            reveal::commit_hash(exec, signer, (*netuid, *mecid), *commit_hash)
        }
        call => match (reveal::Revealed::of(call), reveal::SealedCommit::of(call)) {
            (Some((target, revealed)), _) => reveal::reveal(exec, signer, target, revealed),
            (None, Some((target, sealed))) => reveal::commit_sealed(exec, signer, target, sealed),
            (None, None) => Err(events::CALL_FILTERED),
        },
    }
}
