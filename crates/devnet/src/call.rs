//! The calls that this chain carries out, decoded.

#![expect(clippy::cast_possible_truncation, reason = "the codec's derive casts variant indices")]

use parity_scale_codec::{Compact, Decode, Encode};

use crate::items::Account;
use crate::runtime::reveal::COMMIT_BYTES_MAX;
use crate::schema::{Interface, skip};

/// A decoded call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Balances(BalancesCall),
    Subtensor(SubtensorCall),
    Commitments(CommitmentsCall),
    Shield(ShieldCall),
    /// Listed in the metadata and not carried out here, by pallet index.
    Listed(u8),
}

/// An account or another way to name one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Address {
    Id(Account),
    #[codec(index = 3)]
    Address32(Account),
}

impl Address {
    /// The account that is meant.
    pub(crate) const fn account(&self) -> &Account {
        match self {
            Self::Id(account) | Self::Address32(account) => account,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum BalancesCall {
    #[codec(index = 0)]
    TransferAllowDeath { dest: Address, value: Compact<u64> },
    #[codec(index = 3)]
    TransferKeepAlive { dest: Address, value: Compact<u64> },
}

/// Fields that `serve_axon` and `serve_axon_tls` share.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Axon {
    pub(crate) netuid: u16,
    pub(crate) version: u32,
    pub(crate) ip: u128,
    pub(crate) port: u16,
    pub(crate) ip_type: u8,
    pub(crate) protocol: u8,
    pub(crate) placeholder1: u8,
    pub(crate) placeholder2: u8,
}

/// Fields of all calls that set weights in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WeightVector {
    pub(crate) dests: Vec<u16>,
    pub(crate) weights: Vec<u16>,
    pub(crate) version_key: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum SubtensorCall {
    #[codec(index = 0)]
    SetWeights { netuid: u16, vector: WeightVector },
    #[codec(index = 2)]
    AddStake { hotkey: Account, netuid: u16, amount: u64 },
    #[codec(index = 3)]
    RemoveStake { hotkey: Account, netuid: u16, amount: u64 },
    #[codec(index = 4)]
    ServeAxon { axon: Axon },
    #[codec(index = 5)]
    ServePrometheus { netuid: u16, version: u32, ip: u128, port: u16, ip_type: u8 },
    #[codec(index = 7)]
    BurnedRegister { netuid: u16, hotkey: Account },
    #[codec(index = 40)]
    ServeAxonTls { axon: Axon, certificate: Vec<u8> },
    #[codec(index = 88)]
    AddStakeLimit {
        hotkey: Account,
        netuid: u16,
        amount: u64,
        limit_price: u64,
        allow_partial: bool,
    },
    #[codec(index = 89)]
    RemoveStakeLimit {
        hotkey: Account,
        netuid: u16,
        amount: u64,
        limit_price: u64,
        allow_partial: bool,
    },
    #[codec(index = 96)]
    CommitWeights { netuid: u16, commit_hash: [u8; 32] },
    #[codec(index = 97)]
    RevealWeights {
        netuid: u16,
        uids: Vec<u16>,
        values: Vec<u16>,
        salt: Vec<u16>,
        version_key: u64,
    },
    #[codec(index = 113)]
    CommitTimelockedWeights { netuid: u16, commit: Vec<u8>, reveal_round: u64, version: u16 },
    #[codec(index = 115)]
    CommitMechanismWeights { netuid: u16, mecid: u8, commit_hash: [u8; 32] },
    #[codec(index = 116)]
    RevealMechanismWeights {
        netuid: u16,
        mecid: u8,
        uids: Vec<u16>,
        values: Vec<u16>,
        salt: Vec<u16>,
        version_key: u64,
    },
    #[codec(index = 117)]
    CommitCrv3MechanismWeights { netuid: u16, mecid: u8, commit: Vec<u8>, reveal_round: u64 },
    #[codec(index = 118)]
    CommitTimelockedMechanismWeights {
        netuid: u16,
        mecid: u8,
        commit: Vec<u8>,
        reveal_round: u64,
        version: u16,
    },
    #[codec(index = 119)]
    SetMechanismWeights { netuid: u16, mecid: u8, vector: WeightVector },
    #[codec(index = 134)]
    RegisterLimit { netuid: u16, hotkey: Account, limit_price: u64 },
}

/// `set_commitment` keeps the info's bytes as they came; the interface table has checked them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitmentsCall {
    SetCommitment { netuid: u16, info: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum ShieldCall {
    #[codec(index = 1)]
    SubmitEncrypted { ciphertext: Vec<u8> },
}

/// Bytes that are no call of this chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a call of this chain")]
pub(crate) struct NotACall;

impl Call {
    /// Decodes a whole call; nothing may follow it. The interface's own numbers of Subtensor's calls may lie `moved_by`
    /// above those of the table.
    pub(crate) fn decode(
        interface: &Interface,
        moved_by: u8,
        bytes: &[u8],
    ) -> Result<Self, NotACall> {
        let id = interface.named("RuntimeCall").map_err(|_| NotACall)?;
        let mut rest = bytes;
        skip(&interface.registry, id, &mut rest).map_err(|_| NotACall)?;
        if !rest.is_empty() {
            return Err(NotACall);
        }
        let (pallet, body) = bytes.split_first().ok_or(NotACall)?;
        let known = match pallet {
            5 => whole(body).map(Self::Balances),
            7 => subtensor(body, moved_by).map(bounded).transpose()?.map(Self::Subtensor),
            18 => commitment(body).map(Self::Commitments),
            30 => whole(body).map(Self::Shield),
            _ => None,
        };
        Ok(known.unwrap_or(Self::Listed(*pallet)))
    }
}

fn whole<C: Decode>(mut body: &[u8]) -> Option<C> {
    let call = C::decode(&mut body).ok()?;
    body.is_empty().then_some(call)
}

/// The metadata says only that a commit is bounded; the real chain's decoder knows by how much.
fn bounded(call: SubtensorCall) -> Result<SubtensorCall, NotACall> {
    match &call {
        SubtensorCall::CommitTimelockedWeights { commit, .. }
        | SubtensorCall::CommitTimelockedMechanismWeights { commit, .. }
        | SubtensorCall::CommitCrv3MechanismWeights { commit, .. }
            if commit.len() > COMMIT_BYTES_MAX =>
        {
            Err(NotACall)
        }
        _ => Ok(call),
    }
}

fn subtensor(body: &[u8], moved_by: u8) -> Option<SubtensorCall> {
    let (number, rest) = body.split_first()?;
    let mut listed = vec![number.wrapping_sub(moved_by)];
    listed.extend_from_slice(rest);
    whole(&listed)
}

fn commitment(body: &[u8]) -> Option<CommitmentsCall> {
    let mut body = body.strip_prefix(&[0])?;
    let netuid = u16::decode(&mut body).ok()?;
    Some(CommitmentsCall::SetCommitment { netuid, info: body.to_vec() })
}
