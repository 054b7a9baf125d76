//! Setting weights, with the checks of the real chain in its order.

use std::collections::BTreeSet;

use crate::call::WeightVector;
use crate::events::{self, DispatchError, Event, SubtensorEvent};
use crate::items::{self, Account};
use crate::runtime::reveal::{self, Target};
use crate::runtime::{Exec, ROOT, neurons, stake};
use crate::state::Read;

/// `set_weights` and `set_mechanism_weights`: in the clear, which a subnet with commit-reveal refuses.
pub(crate) fn set(
    exec: &mut Exec<'_>,
    hotkey: &Account,
    netuid: u16,
    mecid: u8,
    vector: &WeightVector,
) -> Result<(), DispatchError> {
    if netuid != ROOT && reveal::is_on(&exec.state, netuid) {
        return Err(events::COMMIT_REVEAL_ENABLED);
    }
    apply(exec, hotkey, (netuid, mecid), vector)
}

/// Checks weights and writes them, whether they were said in the clear or revealed.
pub(crate) fn apply(
    exec: &mut Exec<'_>,
    hotkey: &Account,
    target: Target,
    vector: &WeightVector,
) -> Result<(), DispatchError> {
    let uid = check(&exec.state, exec.block, hotkey, target, vector)?;
    let index = index(target);
    let scaled = upscale(&vector.weights);
    let row: Vec<(u16, u16)> = vector.dests.iter().copied().zip(scaled).collect();
    items::WEIGHTS.put(&mut exec.state, &index, &uid, &row);
    if !reveal::is_on(&exec.state, target.0) {
        neurons::set_entry(&mut exec.state, &items::LAST_UPDATE, index, uid, exec.block);
    }
    exec.emit(Event::Subtensor(SubtensorEvent::WeightsSet(index, uid)));
    Ok(())
}

/// Whether a subnet and its mechanism exist.
pub(crate) fn ensure_mechanism(
    state: &impl Read,
    netuid: u16,
    mecid: u8,
) -> Result<(), DispatchError> {
    let exists = items::NETWORKS_ADDED.get(state, &netuid).unwrap_or_default();
    if exists && mecid < neurons::mechanisms(state, netuid) {
        Ok(())
    } else {
        Err(events::MECHANISM_DOES_NOT_EXIST)
    }
}

/// The key of a mechanism's weights: `mechanism · 4096 + netuid`.
pub(crate) fn index((netuid, mecid): Target) -> u16 {
    neurons::storage_index(netuid, mecid)
}

/// Whether a neuron's last weights or commit are long enough ago. One that never said anything need not wait.
pub(crate) fn rate_allows(state: &impl Read, block: u64, target: Target, uid: u16) -> bool {
    let last = neurons::entry(state, &items::LAST_UPDATE, index(target), uid);
    let limit = items::WEIGHTS_RATE_LIMIT.get(state, &target.0).unwrap_or_default();
    last == 0 || block.saturating_sub(last) >= limit
}

/// Whether the hotkey has the stake that the chain asks of those who set weights.
pub(crate) fn has_stake(state: &impl Read, hotkey: &Account, netuid: u16) -> bool {
    let threshold = items::STAKE_THRESHOLD.get(state).unwrap_or_default();
    stake::weight(state, hotkey, netuid) >= threshold
}

fn check(
    state: &impl Read,
    block: u64,
    hotkey: &Account,
    (netuid, mecid): (u16, u8),
    vector: &WeightVector,
) -> Result<u16, DispatchError> {
    let WeightVector { dests, weights, version_key } = vector;
    if netuid == ROOT {
        return Err(events::CAN_NOT_SET_ROOT_WEIGHTS);
    }
    if dests.len() != weights.len() {
        return Err(events::WEIGHT_VEC_NOT_EQUAL_SIZE);
    }
    ensure_mechanism(state, netuid, mecid)?;
    let n = neurons::count(state, netuid);
    if dests.len() > usize::from(n) {
        return Err(events::UIDS_LENGTH_EXCEED_UIDS);
    }
    let uid = neurons::uid(state, netuid, hotkey).ok_or(events::NOT_REGISTERED_IN_SUBNET)?;
    if !has_stake(state, hotkey, netuid) {
        return Err(events::NOT_ENOUGH_STAKE_TO_SET_WEIGHTS);
    }
    let required = items::WEIGHTS_VERSION_KEY.get(state, &netuid).unwrap_or_default();
    if required != 0 && *version_key < required {
        return Err(events::INCORRECT_WEIGHT_VERSION_KEY);
    }
    if !reveal::is_on(state, netuid) && !rate_allows(state, block, (netuid, mecid), uid) {
        return Err(events::SETTING_WEIGHTS_TOO_FAST);
    }
    check_permit(state, hotkey, netuid, uid, dests)?;
    check_vector(state, netuid, (n, uid), vector)?;
    Ok(uid)
}

/// Anyone may set one weight on itself; the owner's hotkey and permitted validators may set any.
fn check_permit(
    state: &impl Read,
    hotkey: &Account,
    netuid: u16,
    uid: u16,
    dests: &[u16],
) -> Result<(), DispatchError> {
    let permitted = neurons::entry(state, &items::VALIDATOR_PERMIT, netuid, uid);
    let is_owner = items::SUBNET_OWNER_HOTKEY.get(state, &netuid) == Some(*hotkey);
    if permitted || is_owner || dests == [uid] {
        Ok(())
    } else {
        Err(events::NEURON_NO_VALIDATOR_PERMIT)
    }
}

fn check_vector(
    state: &impl Read,
    netuid: u16,
    (n, uid): (u16, u16),
    vector: &WeightVector,
) -> Result<(), DispatchError> {
    let unique: BTreeSet<u16> = vector.dests.iter().copied().collect();
    if unique.len() != vector.dests.len() {
        return Err(events::DUPLICATE_UIDS);
    }
    if unique.last().is_some_and(|last| *last >= n) {
        return Err(events::UID_VEC_CONTAIN_INVALID_ONE);
    }
    let fewest = items::MIN_ALLOWED_WEIGHTS.get(state, &netuid).unwrap_or_default().min(n);
    let only_self = vector.dests == [uid];
    if vector.dests.len() < usize::from(fewest) && !only_self {
        return Err(events::WEIGHT_VEC_LENGTH_IS_LOW);
    }
    let limit = items::MAX_WEIGHTS_LIMIT.get(state, &netuid).unwrap_or(u16::MAX);
    let sum: u64 = vector.weights.iter().map(|weight| u64::from(*weight)).sum();
    let max = vector.weights.iter().max().copied().unwrap_or_default();
    let share = stake::scale(u64::from(max), u64::from(u16::MAX), sum);
    if limit != u16::MAX && !only_self && share > u64::from(limit) {
        return Err(events::MAX_WEIGHT_EXCEEDED);
    }
    Ok(())
}

/// Scales a vector so that its largest entry is 65,535.
fn upscale(weights: &[u16]) -> Vec<u16> {
    let max = u64::from(weights.iter().max().copied().unwrap_or_default());
    let full = u64::from(u16::MAX);
    let scaled = weights.iter().map(|weight| stake::scale(u64::from(*weight), full, max));
    scaled.map(|weight| u16::try_from(weight).unwrap_or(u16::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights that lose their proportions pay the wrong miners.
    #[test]
    fn the_largest_weight_fills_the_scale() {
        assert_eq!(upscale(&[2, 1, 0]), [65_535, 32_767, 0]);
        assert_eq!(upscale(&[65_535, 28_086]), [65_535, 28_086]);
        assert_eq!(upscale(&[0, 0]), [0, 0]);
        assert!(upscale(&[]).is_empty());
    }
}
