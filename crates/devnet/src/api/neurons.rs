//! `NeuronInfo` and `NeuronInfoLite`.

use parity_scale_codec::{Compact, Encode};

use crate::items::{self, Account, AxonInfo, PrometheusInfo};
use crate::runtime::{neurons, stake};
use crate::state::Read;

/// A neuron without its weights and bonds.
#[derive(Debug, Encode)]
struct Head {
    hotkey: Account,
    coldkey: Account,
    uid: Compact<u16>,
    netuid: Compact<u16>,
    active: bool,
    axon_info: AxonInfo,
    prometheus_info: PrometheusInfo,
    stake: Vec<(Account, Compact<u64>)>,
    rank: Compact<u16>,
    emission: Compact<u64>,
    incentive: Compact<u16>,
    consensus: Compact<u16>,
    trust: Compact<u16>,
    validator_trust: Compact<u16>,
    dividends: Compact<u16>,
    last_update: Compact<u64>,
    validator_permit: bool,
}

/// Ranks, trusts and pruning scores are no longer computed by the chain; the fields stay.
const RETIRED: Compact<u16> = Compact(0);

/// `get_neuron_lite`.
pub(super) fn lite(state: &impl Read, netuid: u16, uid: u16) -> Option<Vec<u8>> {
    let mut out = head(state, netuid, uid)?.encode();
    RETIRED.encode_to(&mut out);
    Some(out)
}

/// `get_neuron`.
pub(super) fn full(state: &impl Read, netuid: u16, uid: u16) -> Option<Vec<u8>> {
    let mut out = head(state, netuid, uid)?.encode();
    for item in [&items::WEIGHTS, &items::BONDS] {
        compact_pairs(&item.get(state, &netuid, &uid).unwrap_or_default()).encode_to(&mut out);
    }
    RETIRED.encode_to(&mut out);
    Some(out)
}

/// `get_neurons_lite` and `get_neurons`: a sequence of what `one` makes.
pub(super) fn all<S: Read>(
    state: &S,
    netuid: u16,
    one: fn(&S, u16, u16) -> Option<Vec<u8>>,
) -> Vec<u8> {
    let neurons: Vec<Vec<u8>> =
        (0..neurons::count(state, netuid)).filter_map(|uid| one(state, netuid, uid)).collect();
    super::sequence(&neurons)
}

fn compact_pairs(pairs: &[(u16, u16)]) -> Vec<(Compact<u16>, Compact<u16>)> {
    pairs.iter().map(|(uid, value)| (Compact(*uid), Compact(*value))).collect()
}

fn head(state: &impl Read, netuid: u16, uid: u16) -> Option<Head> {
    let hotkey = neurons::hotkey(state, netuid, uid)?;
    let coldkey = items::OWNER.get(state, &hotkey).unwrap_or_default();
    let of = |item| Compact(neurons::entry::<u16>(state, item, netuid, uid));
    Some(Head {
        hotkey,
        coldkey,
        uid: Compact(uid),
        netuid: Compact(netuid),
        active: neurons::entry(state, &items::ACTIVE, netuid, uid),
        axon_info: items::AXONS.get(state, &netuid, &hotkey).unwrap_or_default(),
        prometheus_info: items::PROMETHEUS.get(state, &netuid, &hotkey).unwrap_or_default(),
        stake: vec![(coldkey, Compact(stake::weight(state, &hotkey, netuid)))],
        rank: RETIRED,
        emission: Compact(neurons::entry(state, &items::EMISSION, netuid, uid)),
        incentive: of(&items::INCENTIVE),
        consensus: of(&items::CONSENSUS),
        trust: RETIRED,
        validator_trust: of(&items::VALIDATOR_TRUST),
        dividends: of(&items::DIVIDENDS),
        last_update: Compact(neurons::entry(state, &items::LAST_UPDATE, netuid, uid)),
        validator_permit: neurons::entry(state, &items::VALIDATOR_PERMIT, netuid, uid),
    })
}
