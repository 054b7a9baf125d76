//! The calls that a miner or a validator makes, by pallet, name and named fields.
//!
//! A call is only words until the node's metadata gives it bytes: the same call fits every runtime that has one of its
//! name. Nothing here knows an index or talks to anybody.

use nicompute_market::{AccountId, Hotkey, Netuid, Rao, Uid};
use scale_value::{Composite, Value};

use crate::error::CallError;
use crate::neurons::Endpoint;
use crate::runtime::{COMMITMENTS, SUBTENSOR, account_value, number_value};

/// The protocol number that axons announce; the SDK's constant.
const AXON_PROTOCOL: u8 = 4;
/// Blocks for which a signed extrinsic may be included, unless its caller wants fewer.
const ERA_BLOCKS_MAX: u16 = 128;
/// The shortest life that the chain's format can say.
const ERA_BLOCKS_MIN: u16 = 4;
/// The longest plain commitment that has a variant of its own; longer ones go as `BigRaw`.
const RAW_LEN_MAX: usize = 128;
/// The longest commitment at all, as the pallet bounds it.
pub const COMMITMENT_LEN_MAX: usize = 512;

/// Something to say to the chain, not yet signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub(crate) pallet: &'static str,
    pub(crate) name: &'static str,
    pub(crate) fields: Composite<()>,
    pub(crate) era_blocks: u64,
}

// === impl Call ===

impl Call {
    /// Registers a hotkey on a subnet at the price of the moment. Signed by the coldkey.
    #[must_use]
    pub fn burned_register(netuid: Netuid, hotkey: &Hotkey) -> Self {
        let fields = [("netuid", number_value(netuid.0)), ("hotkey", account_value(&hotkey.0))];
        Self::new(SUBTENSOR, "burned_register", fields)
    }

    /// The same, undone by the chain if the price is above the limit. Older runtimes have no such call. Signed by the
    /// coldkey.
    #[must_use]
    pub fn register_limit(netuid: Netuid, hotkey: &Hotkey, limit: Rao) -> Self {
        let fields = [
            ("netuid", number_value(netuid.0)),
            ("hotkey", account_value(&hotkey.0)),
            ("limit_price", number_value(limit.0)),
        ];
        Self::new(SUBTENSOR, "register_limit", fields)
    }

    /// Announces where the neuron's API is. Signed by the hotkey.
    #[must_use]
    pub fn serve_axon(netuid: Netuid, endpoint: Endpoint) -> Self {
        let placeholders = [
            ("protocol", number_value(AXON_PROTOCOL)),
            ("placeholder1", number_value(0_u8)),
            ("placeholder2", number_value(0_u8)),
        ];
        Self::new(SUBTENSOR, "serve_axon", announced(netuid, endpoint).chain(placeholders))
    }

    /// Announces where the neuron's metrics are. Signed by the hotkey.
    #[must_use]
    pub fn serve_prometheus(netuid: Netuid, endpoint: Endpoint) -> Self {
        Self::new(SUBTENSOR, "serve_prometheus", announced(netuid, endpoint))
    }

    /// Sets weights as they are given; bringing them into shape is the market's work. Signed by the hotkey.
    #[must_use]
    pub fn set_weights(netuid: Netuid, weights: &[(Uid, u16)], version_key: u64) -> Self {
        let fields = weight_fields(("dests", "weights"), weights);
        let fields = [("netuid", number_value(netuid.0))].into_iter().chain(fields);
        let fields = fields.chain([("version_key", number_value(version_key))]);
        Self::new(SUBTENSOR, "set_weights", fields)
    }

    /// Sets weights for one of a subnet's mechanisms, of which the first is 0. Signed by the hotkey.
    #[must_use]
    pub fn set_mechanism_weights(
        netuid: Netuid,
        mecid: u8,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Self {
        let fields = [("netuid", number_value(netuid.0)), ("mecid", number_value(mecid))];
        let fields = fields.into_iter().chain(weight_fields(("dests", "weights"), weights));
        let fields = fields.chain([("version_key", number_value(version_key))]);
        Self::new(SUBTENSOR, "set_mechanism_weights", fields)
    }

    /// Commits to weights by their hash, to be revealed later. Signed by the hotkey.
    #[must_use]
    pub fn commit_weights(netuid: Netuid, hash: [u8; 32]) -> Self {
        let fields = [("netuid", number_value(netuid.0)), ("commit_hash", Value::from_bytes(hash))];
        Self::new(SUBTENSOR, "commit_weights", fields)
    }

    /// Reveals what a hash committed to. Signed by the hotkey.
    #[must_use]
    pub fn reveal_weights(
        netuid: Netuid,
        weights: &[(Uid, u16)],
        salt: &[u16],
        version_key: u64,
    ) -> Self {
        let fields = [("netuid", number_value(netuid.0))];
        let fields = fields.into_iter().chain(weight_fields(("uids", "values"), weights));
        let rest = [("salt", list(salt.to_vec())), ("version_key", number_value(version_key))];
        Self::new(SUBTENSOR, "reveal_weights", fields.chain(rest))
    }

    /// Commits to weights that the chain itself opens when the beacon's round has come. Signed by the hotkey.
    #[must_use]
    pub fn commit_timelocked_weights(
        netuid: Netuid,
        commit: &[u8],
        reveal_round: u64,
        version: u16,
    ) -> Self {
        let fields = [("netuid", number_value(netuid.0))];
        let fields = fields.into_iter().chain(timelocked(commit, reveal_round, version));
        Self::new(SUBTENSOR, "commit_timelocked_weights", fields)
    }

    /// The same for one of a subnet's mechanisms, of which the first is 0. Signed by the hotkey.
    #[must_use]
    pub fn commit_timelocked_mechanism_weights(
        netuid: Netuid,
        mecid: u8,
        commit: &[u8],
        reveal_round: u64,
        version: u16,
    ) -> Self {
        let fields = [("netuid", number_value(netuid.0)), ("mecid", number_value(mecid))];
        let fields = fields.into_iter().chain(timelocked(commit, reveal_round, version));
        Self::new(SUBTENSOR, "commit_timelocked_mechanism_weights", fields)
    }

    /// Stakes coins on a hotkey of a subnet. Signed by the coldkey.
    #[must_use]
    pub fn add_stake(netuid: Netuid, hotkey: &Hotkey, amount: Rao) -> Self {
        Self::new(SUBTENSOR, "add_stake", staked(netuid, hotkey, ("amount_staked", amount)))
    }

    /// Takes stake back, counted in the subnet's alpha. Signed by the coldkey.
    #[must_use]
    pub fn remove_stake(netuid: Netuid, hotkey: &Hotkey, alpha: Rao) -> Self {
        Self::new(SUBTENSOR, "remove_stake", staked(netuid, hotkey, ("amount_unstaked", alpha)))
    }

    /// Sends coins, never so many that the sender's account would end.
    #[must_use]
    pub fn transfer_keep_alive(to: &AccountId, amount: Rao) -> Self {
        Self::new("Balances", "transfer_keep_alive", transferred(to, amount))
    }

    /// Sends coins, even the last ones.
    #[must_use]
    pub fn transfer_allow_death(to: &AccountId, amount: Rao) -> Self {
        Self::new("Balances", "transfer_allow_death", transferred(to, amount))
    }

    /// Publishes some bytes under the hotkey that signs.
    ///
    /// # Errors
    /// When they are more than the chain takes.
    pub fn set_commitment(netuid: Netuid, bytes: &[u8]) -> Result<Self, CallError> {
        if bytes.len() > COMMITMENT_LEN_MAX {
            return Err(CallError::TooLong { len: bytes.len(), len_max: COMMITMENT_LEN_MAX });
        }
        let data = match bytes.len() {
            0..=RAW_LEN_MAX => {
                Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)])
            }
            _ => Value::unnamed_variant("BigRaw", [Value::from_bytes(bytes)]),
        };
        let info = Value::named_composite([("fields", Value::unnamed_composite([data]))]);
        let fields = [("netuid", number_value(netuid.0)), ("info", info)];
        Ok(Self::new(COMMITMENTS, "set_commitment", fields))
    }

    /// The same call, which may be included for so many blocks only. The chain's format has powers of two: this is
    /// rounded up to one, and lies between 4 and 128.
    #[must_use]
    pub fn within_blocks(mut self, blocks: u16) -> Self {
        let blocks = blocks.clamp(ERA_BLOCKS_MIN, ERA_BLOCKS_MAX).next_power_of_two();
        self.era_blocks = u64::from(blocks);
        self
    }

    /// The pallet that it speaks to.
    #[must_use]
    pub const fn pallet(&self) -> &'static str {
        self.pallet
    }

    /// Its name in that pallet.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    fn new(
        pallet: &'static str,
        name: &'static str,
        fields: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        Self {
            pallet,
            name,
            fields: Composite::named(fields),
            era_blocks: u64::from(ERA_BLOCKS_MAX),
        }
    }
}

type Field = (&'static str, Value);

fn list(numbers: Vec<u16>) -> Value {
    Value::unnamed_composite(numbers.into_iter().map(number_value))
}

fn announced(netuid: Netuid, endpoint: Endpoint) -> impl Iterator<Item = Field> {
    let (ip, ip_type) = endpoint.ip_number();
    let fields = [
        ("netuid", number_value(netuid.0)),
        ("version", number_value(endpoint.version)),
        ("ip", number_value(ip)),
        ("port", number_value(endpoint.port)),
        ("ip_type", number_value(ip_type)),
    ];
    fields.into_iter()
}

fn weight_fields(
    (uids, values): (&'static str, &'static str),
    weights: &[(Uid, u16)],
) -> [Field; 2] {
    [
        (uids, list(weights.iter().map(|(uid, _)| uid.0).collect())),
        (values, list(weights.iter().map(|(_, weight)| *weight).collect())),
    ]
}

fn timelocked(commit: &[u8], round: u64, version: u16) -> [Field; 3] {
    [
        ("commit", Value::from_bytes(commit)),
        ("reveal_round", number_value(round)),
        ("commit_reveal_version", number_value(version)),
    ]
}

fn staked(netuid: Netuid, hotkey: &Hotkey, (field, amount): (&'static str, Rao)) -> [Field; 3] {
    [
        ("hotkey", account_value(&hotkey.0)),
        ("netuid", number_value(netuid.0)),
        (field, number_value(amount.0)),
    ]
}

fn transferred(to: &AccountId, amount: Rao) -> [Field; 2] {
    let dest = Value::unnamed_variant("Id", [account_value(to)]);
    [("dest", dest), ("value", number_value(amount.0))]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A life that the format cannot say would be signed as another one, and the chain would call it a forgery.
    #[test]
    fn lives_are_powers_of_two_within_bounds() {
        let call = || Call::commit_weights(Netuid(1), [0; 32]);
        assert_eq!(call().era_blocks, 128);
        for (asked, given) in [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (100, 128), (129, 128)] {
            assert_eq!(call().within_blocks(asked).era_blocks, given);
        }
        assert_eq!(call().within_blocks(32_768).era_blocks, 128);
    }

    /// A commitment that the chain must refuse would cost a place in the pool each time that it is tried.
    #[test]
    fn a_commitments_length_is_checked_before_anything_is_sent() {
        assert!(Call::set_commitment(Netuid(1), &[0; COMMITMENT_LEN_MAX]).is_ok());
        let error = Call::set_commitment(Netuid(1), &[0; COMMITMENT_LEN_MAX + 1]).unwrap_err();
        assert_eq!(error, CallError::TooLong { len: 513, len_max: 512 });
    }
}
