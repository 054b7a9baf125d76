//! What the APIs say about a subnet as a whole: its hyperparameters and its market.

use parity_scale_codec::{Compact, Encode};

use crate::items::{self, Map1, SubnetIdentity};
use crate::runtime::{ROOT, neurons};
use crate::state::Read;

/// The price of an alpha, one coin, as a number with 32 fractional bits.
const PRICE_FIXED: i128 = 1 << 32;

pub(super) fn exists(state: &impl Read, netuid: u16) -> bool {
    items::NETWORKS_ADDED.get(state, &netuid).unwrap_or_default()
}

/// A subnet's values, read as they are asked for.
pub(super) struct Subnet<'s, S> {
    pub(super) state: &'s S,
    pub(super) netuid: u16,
    /// The mechanism whose incentives are asked for.
    pub(super) mecid: u8,
}

impl<S: Read> Subnet<'_, S> {
    fn u16(&self, item: &Map1<u16, u16>) -> Compact<u16> {
        Compact(item.get(self.state, &self.netuid).unwrap_or_default())
    }

    pub(super) fn u64(&self, item: &Map1<u16, u64>) -> Compact<u64> {
        Compact(item.get(self.state, &self.netuid).unwrap_or_default())
    }

    fn flag(&self, item: &Map1<u16, bool>) -> bool {
        item.get(self.state, &self.netuid).unwrap_or_default()
    }

    fn alphas(&self) -> (Compact<u16>, Compact<u16>) {
        let (low, high) = items::ALPHA_VALUES.get(self.state, &self.netuid).unwrap_or_default();
        (Compact(high), Compact(low))
    }

    fn activity_cutoff(&self) -> Compact<u64> {
        Compact(u64::from(self.u16(&items::ACTIVITY_CUTOFF).0))
    }

    pub(super) fn identity(&self) -> Option<SubnetIdentity> {
        items::SUBNET_IDENTITIES.get(self.state, &self.netuid)
    }

    /// The name as the APIs write text: a sequence of compact bytes.
    pub(super) fn name(&self) -> Vec<Compact<u8>> {
        let name = if self.netuid == ROOT {
            b"root".to_vec()
        } else {
            self.identity().map(|identity| identity.subnet_name).unwrap_or_default()
        };
        name.into_iter().map(Compact).collect()
    }

    pub(super) fn symbol(&self) -> Vec<Compact<u8>> {
        let symbol = items::TOKEN_SYMBOL.get(self.state, &self.netuid).unwrap_or_default();
        symbol.into_iter().map(Compact).collect()
    }

    fn owner(&self) -> ([u8; 32], [u8; 32]) {
        let hotkey = items::SUBNET_OWNER_HOTKEY.get(self.state, &self.netuid);
        let coldkey = items::SUBNET_OWNER.get(self.state, &self.netuid);
        (hotkey.unwrap_or_default(), coldkey.unwrap_or_default())
    }

    fn pending(&self) -> Compact<u64> {
        let server = self.u64(&items::PENDING_SERVER).0;
        Compact(server.saturating_add(self.u64(&items::PENDING_VALIDATOR).0))
    }

    /// The fields of `DynamicInfo` and `Metagraph` from the emission to the moving price.
    fn market(&self) -> Vec<Vec<u8>> {
        let none = Compact(0_u64);
        vec![
            none.encode(),
            self.u64(&items::SUBNET_ALPHA_IN).encode(),
            self.u64(&items::SUBNET_ALPHA_OUT).encode(),
            self.u64(&items::SUBNET_TAO).encode(),
            self.u64(&items::ALPHA_OUT_EMISSION).encode(),
            none.encode(),
            none.encode(),
            self.pending().encode(),
            none.encode(),
            Compact(0_u128).encode(),
        ]
    }

    /// `get_dynamic_info`.
    pub(super) fn dynamic_info(&self) -> Vec<u8> {
        let (hotkey, coldkey) = self.owner();
        let mut out = (Compact(self.netuid), hotkey, coldkey, self.name(), self.symbol()).encode();
        self.u16(&items::TEMPO).encode_to(&mut out);
        self.u64(&items::LAST_STEP_BLOCK).encode_to(&mut out);
        self.u64(&items::BLOCKS_SINCE_LAST_STEP).encode_to(&mut out);
        self.market().iter().for_each(|field| out.extend_from_slice(field));
        self.u64(&items::NETWORK_REGISTERED_AT).encode_to(&mut out);
        self.identity().encode_to(&mut out);
        PRICE_FIXED.encode_to(&mut out);
        out
    }

    /// The fields of `Metagraph` that describe the subnet, in their order, from the netuid on.
    pub(super) fn metagraph_head(&self, block: u64) -> Vec<Vec<u8>> {
        let (hotkey, coldkey) = self.owner();
        let mut fields = vec![
            Compact(self.netuid).encode(),
            self.name().encode(),
            self.symbol().encode(),
            self.identity().encode(),
            self.u64(&items::NETWORK_REGISTERED_AT).encode(),
            hotkey.encode(),
            coldkey.encode(),
            Compact(block).encode(),
            self.u16(&items::TEMPO).encode(),
            self.u64(&items::LAST_STEP_BLOCK).encode(),
            self.u64(&items::BLOCKS_SINCE_LAST_STEP).encode(),
        ];
        fields.extend(self.market());
        fields.push(PRICE_FIXED.encode());
        fields.extend(self.metagraph_parameters());
        fields
    }

    fn metagraph_parameters(&self) -> Vec<Vec<u8>> {
        let (high, low) = self.alphas();
        vec![
            self.u16(&items::RHO).encode(),
            self.u16(&items::KAPPA).encode(),
            self.u16(&items::MIN_ALLOWED_WEIGHTS).encode(),
            self.u16(&items::MAX_WEIGHTS_LIMIT).encode(),
            self.u64(&items::WEIGHTS_VERSION_KEY).encode(),
            self.u64(&items::WEIGHTS_RATE_LIMIT).encode(),
            self.activity_cutoff().encode(),
            self.u16(&items::MAX_ALLOWED_VALIDATORS).encode(),
            Compact(neurons::count(self.state, self.netuid)).encode(),
            self.u16(&items::MAX_ALLOWED_UIDS).encode(),
            self.u64(&items::BURN).encode(),
            self.u64(&items::DIFFICULTY).encode(),
            self.flag(&items::REGISTRATION_ALLOWED).encode(),
            self.flag(&items::POW_REGISTRATION_ALLOWED).encode(),
            self.u16(&items::IMMUNITY_PERIOD).encode(),
            self.u64(&items::MIN_DIFFICULTY).encode(),
            self.u64(&items::MAX_DIFFICULTY).encode(),
            self.u64(&items::MIN_BURN).encode(),
            self.u64(&items::MAX_BURN).encode(),
            self.u64(&items::ADJUSTMENT_ALPHA).encode(),
            self.u16(&items::ADJUSTMENT_INTERVAL).encode(),
            self.u16(&items::TARGET_REGISTRATIONS).encode(),
            self.u16(&items::MAX_REGISTRATIONS_PER_BLOCK).encode(),
            self.u64(&items::SERVING_RATE_LIMIT).encode(),
            self.flag(&items::COMMIT_REVEAL_ENABLED).encode(),
            self.u64(&items::REVEAL_PERIOD_EPOCHS).encode(),
            self.flag(&items::LIQUID_ALPHA_ON).encode(),
            high.encode(),
            low.encode(),
            self.u64(&items::BONDS_MOVING_AVERAGE).encode(),
        ]
    }

    /// `get_subnet_hyperparams`, which the second version continues.
    pub(super) fn hyperparams(&self) -> Vec<u8> {
        let (high, low) = self.alphas();
        let mut out = Vec::new();
        for (_, value) in self.numbers_before_limits() {
            value.encode_to(&mut out);
        }
        (high, low, self.flag(&items::LIQUID_ALPHA_ON)).encode_to(&mut out);
        out
    }

    /// `get_subnet_hyperparams_v2`.
    pub(super) fn hyperparams_v2(&self) -> Vec<u8> {
        let mut out = self.hyperparams();
        for (_, value) in self.later() {
            value.encode_to(&mut out);
        }
        out
    }

    /// `get_subnet_hyperparams_v3`: names and tagged values.
    pub(super) fn hyperparams_v3(&self) -> Vec<u8> {
        let (high, low) = self.alphas();
        let mut all = self.numbers_before_limits();
        all.extend([
            ("alpha_high", Parameter::U16(high)),
            ("alpha_low", Parameter::U16(low)),
            ("liquid_alpha_enabled", Parameter::Bool(self.flag(&items::LIQUID_ALPHA_ON))),
        ]);
        all.extend(self.later());
        all.extend([
            ("bonds_penalty", Parameter::U16(self.u16(&items::BONDS_PENALTY))),
            ("max_allowed_uids", Parameter::U16(self.u16(&items::MAX_ALLOWED_UIDS))),
            ("burn_half_life", Parameter::U16(self.u16(&items::BURN_HALF_LIFE))),
            ("yuma3_enabled", Parameter::Bool(self.flag(&items::YUMA3_ON))),
        ]);
        let entries: Vec<Vec<u8>> = all
            .iter()
            .map(|(name, value)| {
                let mut entry = name.as_bytes().encode();
                entry.push(value.tag());
                value.encode_to(&mut entry);
                entry
            })
            .collect();
        super::sequence(&entries)
    }

    fn numbers_before_limits(&self) -> Vec<(&'static str, Parameter)> {
        use Parameter::{Bool, Tao, U16, U64};
        vec![
            ("rho", U16(self.u16(&items::RHO))),
            ("kappa", U16(self.u16(&items::KAPPA))),
            ("immunity_period", U16(self.u16(&items::IMMUNITY_PERIOD))),
            ("min_allowed_weights", U16(self.u16(&items::MIN_ALLOWED_WEIGHTS))),
            ("max_weights_limit", U16(self.u16(&items::MAX_WEIGHTS_LIMIT))),
            ("tempo", U16(self.u16(&items::TEMPO))),
            ("min_difficulty", U64(self.u64(&items::MIN_DIFFICULTY))),
            ("max_difficulty", U64(self.u64(&items::MAX_DIFFICULTY))),
            ("weights_version", U64(self.u64(&items::WEIGHTS_VERSION_KEY))),
            ("weights_rate_limit", U64(self.u64(&items::WEIGHTS_RATE_LIMIT))),
            ("adjustment_interval", U16(self.u16(&items::ADJUSTMENT_INTERVAL))),
            ("activity_cutoff", U64(self.activity_cutoff())),
            ("registration_allowed", Bool(self.flag(&items::REGISTRATION_ALLOWED))),
            ("target_regs_per_interval", U16(self.u16(&items::TARGET_REGISTRATIONS))),
            ("min_burn", Tao(self.u64(&items::MIN_BURN))),
            ("max_burn", Tao(self.u64(&items::MAX_BURN))),
            ("bonds_moving_avg", U64(self.u64(&items::BONDS_MOVING_AVERAGE))),
            ("max_regs_per_block", U16(self.u16(&items::MAX_REGISTRATIONS_PER_BLOCK))),
            ("serving_rate_limit", U64(self.u64(&items::SERVING_RATE_LIMIT))),
            ("max_validators", U16(self.u16(&items::MAX_ALLOWED_VALIDATORS))),
            ("adjustment_alpha", U64(self.u64(&items::ADJUSTMENT_ALPHA))),
            ("difficulty", U64(self.u64(&items::DIFFICULTY))),
            ("commit_reveal_period", U64(self.u64(&items::REVEAL_PERIOD_EPOCHS))),
            ("commit_reveal_weights_enabled", Bool(self.flag(&items::COMMIT_REVEAL_ENABLED))),
        ]
    }

    fn later(&self) -> Vec<(&'static str, Parameter)> {
        let steepness =
            items::ALPHA_SIGMOID_STEEPNESS.get(self.state, &self.netuid).unwrap_or_default();
        let yuma = if self.flag(&items::YUMA3_ON) { 3 } else { 2 };
        vec![
            ("alpha_sigmoid_steepness", Parameter::I32F32(i64::from(steepness) << 32)),
            ("yuma_version", Parameter::U16(Compact(yuma))),
            ("subnet_is_active", Parameter::Bool(self.flag(&items::SUBTOKEN_ENABLED))),
            ("transfers_enabled", Parameter::Bool(self.flag(&items::TRANSFER_TOGGLE))),
            ("bonds_reset_enabled", Parameter::Bool(self.flag(&items::BONDS_RESET_ON))),
            ("user_liquidity_enabled", Parameter::Bool(false)),
        ]
    }
}

/// A hyperparameter's value. Encoded bare in the structs of the first two versions, with its tag in the third.
enum Parameter {
    Bool(bool),
    U16(Compact<u16>),
    U64(Compact<u64>),
    Tao(Compact<u64>),
    I32F32(i64),
}

impl Parameter {
    const fn tag(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::U16(_) => 1,
            Self::U64(_) => 3,
            Self::Tao(_) => 5,
            Self::I32F32(_) => 6,
        }
    }

    fn encode_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => value.encode_to(out),
            Self::U16(value) => value.encode_to(out),
            Self::U64(value) | Self::Tao(value) => value.encode_to(out),
            Self::I32F32(bits) => bits.encode_to(out),
        }
    }
}
