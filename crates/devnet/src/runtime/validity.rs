//! What the pool asks of an extrinsic before it takes it, and again before it goes into a block.

use crate::call::{Call, SubtensorCall};
use crate::events::{self, DispatchError};
use crate::extrinsic::{Era, Signature, Signed};
use crate::hash::H256;
use crate::items::{self, Account};
use crate::runtime::reveal::{self, Revealed, SealedCommit};
use crate::runtime::{TRANSACTION_VERSION, balances, fees, serving, weights};
use crate::state::Read;

/// Why an extrinsic is not taken, with Substrate's names and Subtensor's custom numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// The balance does not cover the fee.
    #[error("Inability to pay some fees (e.g. account balance too low)")]
    Payment,
    /// The nonce leaves a gap.
    #[error("Transaction will be valid in the future")]
    Future,
    /// The nonce was used.
    #[error("Transaction is outdated")]
    Stale,
    /// The signature does not cover these bytes on this chain now.
    #[error("Transaction has a bad signature")]
    BadProof,
    /// The block that the signature refers to is no longer known.
    #[error("Transaction has an ancient birth block")]
    AncientBirthBlock,
    /// A number of Subtensor's list.
    #[error("Custom error: {0}")]
    Custom(u8),
}

/// Subtensor's number for a request that makes no sense.
pub(crate) const BAD_REQUEST: u8 = 255;

/// The chain's newest block, which an extrinsic is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tip {
    pub(crate) number: u64,
    pub(crate) hash: H256,
    pub(crate) genesis: H256,
    pub(crate) spec_version: u32,
}

/// Checks everything but the nonce against the state after the newest block.
pub(crate) fn check(
    state: &impl Read,
    tip: &Tip,
    signed: &Signed,
    call: &Call,
    encoded_len: usize,
) -> Result<(), Invalid> {
    let next = tip.number.saturating_add(1);
    let birth = match signed.era {
        Era::Immortal => tip.genesis,
        Era::Mortal { .. } if signed.era.birth(next) == tip.number => tip.hash,
        Era::Mortal { .. } => {
            let number = u32::try_from(signed.era.birth(next)).map_err(|_| Invalid::BadProof)?;
            items::BLOCK_HASH.get(state, &number).ok_or(Invalid::AncientBirthBlock)?
        }
    };
    if signed.signature == Signature::Ecdsa
        || !signed.is_signed_for((tip.spec_version, TRANSACTION_VERSION), &tip.genesis, &birth)
    {
        return Err(Invalid::BadProof);
    }
    let due = fees::fee(fees::pays(call), encoded_len).saturating_add(signed.tip);
    if balances::account(state, &signed.signer).free < due {
        return Err(Invalid::Payment);
    }
    subtensor_checks(state, next, &signed.signer, call)
}

/// Whether the nonce is the next one, given how many of the signer's extrinsics wait before it.
pub(crate) fn check_nonce(state: &impl Read, signed: &Signed, waiting: u32) -> Result<(), Invalid> {
    let used = balances::account(state, &signed.signer).nonce;
    let next = used.saturating_add(waiting);
    if signed.nonce < used {
        return Err(Invalid::Stale);
    }
    if signed.nonce > next {
        return Err(Invalid::Future);
    }
    Ok(())
}

/// The checks of Subtensor's own transaction extension.
pub(crate) fn subtensor_checks(
    state: &impl Read,
    block: u64,
    signer: &Account,
    call: &Call,
) -> Result<(), Invalid> {
    let Call::Subtensor(call) = call else { return Ok(()) };
    match call {
        SubtensorCall::SetWeights { netuid, .. }
        | SubtensorCall::SetMechanismWeights { netuid, .. }
        | SubtensorCall::CommitWeights { netuid, .. }
        | SubtensorCall::CommitMechanismWeights { netuid, .. }
        | SubtensorCall::RevealWeights { netuid, .. }
        | SubtensorCall::RevealMechanismWeights { netuid, .. }
        | SubtensorCall::CommitTimelockedWeights { netuid, .. }
        | SubtensorCall::CommitTimelockedMechanismWeights { netuid, .. }
        | SubtensorCall::CommitCrv3MechanismWeights { netuid, .. } => {
            if !weights::has_stake(state, signer, *netuid) {
                return Err(Invalid::Custom(1));
            }
            if let Some((target, revealed)) = Revealed::of(call) {
                reveal::check_reveal(state, block, signer, target, revealed).map_err(custom)?;
            }
            if let Some((_, sealed)) = SealedCommit::of(call) {
                reveal::check_round(state, sealed.round).map_err(custom)?;
            }
            Ok(())
        }
        SubtensorCall::ServeAxon { axon } | SubtensorCall::ServeAxonTls { axon, .. } => {
            serving::check_axon(state, block, signer, axon).map_err(custom)
        }
        SubtensorCall::AddStake { .. }
        | SubtensorCall::RemoveStake { .. }
        | SubtensorCall::AddStakeLimit { .. }
        | SubtensorCall::RemoveStakeLimit { .. }
        | SubtensorCall::ServePrometheus { .. }
        | SubtensorCall::BurnedRegister { .. }
        | SubtensorCall::RegisterLimit { .. } => Ok(()),
    }
}

/// Subtensor's number for a refused announcement, commit or reveal.
fn custom(error: DispatchError) -> Invalid {
    let number = match error {
        events::NOT_REGISTERED_IN_NETWORK => 10,
        events::INVALID_IP_TYPE | events::INVALID_IP_ADDRESS => 11,
        events::SERVING_RATE_LIMIT_EXCEEDED => 12,
        events::INVALID_PORT => 13,
        events::INVALID_REVEAL_ROUND => 15,
        events::NO_WEIGHTS_COMMIT_FOUND => 16,
        events::REVEAL_TOO_EARLY => 17,
        _ => BAD_REQUEST,
    };
    Invalid::Custom(number)
}
