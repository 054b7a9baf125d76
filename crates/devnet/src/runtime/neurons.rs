//! Slots of a subnet: adding a neuron, replacing one, and the vectors that hold one entry per uid.

use parity_scale_codec::Codec;

use crate::items::{self, Account, Map1};
use crate::runtime::Exec;
use crate::state::{Overlay, Read};

/// How many subnets there can be; the real chain allows 128.
pub(crate) const NETUIDS_MAX: usize = 129;

/// What lies between the storage indices of one subnet's mechanisms.
const INDEX_STEP: u16 = 4_096;

/// The subnets that exist, in order.
pub(crate) fn netuids(state: &impl Read) -> Vec<u16> {
    let prefix = items::NETWORKS_ADDED.0.prefix();
    let mut out: Vec<u16> = state
        .keys(&prefix, None, NETUIDS_MAX)
        .iter()
        .filter_map(|key| {
            let id = key.get(prefix.len()..)?;
            Some(u16::from_le_bytes(id.try_into().ok()?))
        })
        .filter(|netuid| items::NETWORKS_ADDED.get(state, netuid).unwrap_or_default())
        .collect();
    out.sort_unstable();
    out
}

/// How many neurons a subnet has.
pub(crate) fn count(state: &impl Read, netuid: u16) -> u16 {
    items::SUBNETWORK_N.get(state, &netuid).unwrap_or_default()
}

/// How many mechanisms a subnet has.
pub(crate) fn mechanisms(state: &impl Read, netuid: u16) -> u8 {
    items::MECHANISM_COUNT.get(state, &netuid).unwrap_or(1)
}

/// The key under which weights, bonds and incentives of a mechanism are stored; that of mechanism 0 is the netuid.
pub(crate) fn storage_index(netuid: u16, mecid: u8) -> u16 {
    u16::from(mecid).saturating_mul(INDEX_STEP).saturating_add(netuid)
}

/// The hotkey of a uid.
pub(crate) fn hotkey(state: &impl Read, netuid: u16, uid: u16) -> Option<Account> {
    items::KEYS.get(state, &netuid, &uid)
}

/// The uid of a hotkey.
pub(crate) fn uid(state: &impl Read, netuid: u16, hotkey: &Account) -> Option<u16> {
    items::UIDS.get(state, &netuid, hotkey)
}

/// Whether a hotkey is registered anywhere.
pub(crate) fn is_registered_somewhere(state: &impl Read, hotkey: &Account) -> bool {
    netuids(state).iter().any(|netuid| uid(state, *netuid, hotkey).is_some())
}

/// One entry of a per-uid vector.
pub(crate) fn entry<T: Codec + Copy + Default>(
    state: &impl Read,
    item: &Map1<u16, Vec<T>>,
    netuid: u16,
    uid: u16,
) -> T {
    let all = item.get(state, &netuid).unwrap_or_default();
    all.get(usize::from(uid)).copied().unwrap_or_default()
}

/// Writes one entry of a per-uid vector, growing it with zeros where it is short.
pub(crate) fn set_entry<T: Codec + Clone + Default>(
    state: &mut Overlay<'_>,
    item: &Map1<u16, Vec<T>>,
    netuid: u16,
    uid: u16,
    value: T,
) {
    let mut all = item.get(state, &netuid).unwrap_or_default();
    let at = usize::from(uid);
    if all.len() <= at {
        all.resize(at.saturating_add(1), T::default());
    }
    if let Some(slot) = all.get_mut(at) {
        *slot = value;
    }
    item.put(state, &netuid, &all);
}

/// Gives a hotkey its slot: a new one while there is room, else the one that `prune` picks.
pub(crate) fn register(exec: &mut Exec<'_>, netuid: u16, hotkey: &Account) -> Option<u16> {
    let n = count(&exec.state, netuid);
    let room = items::MAX_ALLOWED_UIDS.get(&exec.state, &netuid).unwrap_or_default();
    let uid = if n < room {
        items::SUBNETWORK_N.put(&mut exec.state, &netuid, &n.saturating_add(1));
        n
    } else {
        let uid = prune(exec, netuid, n)?;
        vacate(&mut exec.state, netuid, uid);
        uid
    };
    occupy(exec, netuid, uid, hotkey);
    Some(uid)
}

fn occupy(exec: &mut Exec<'_>, netuid: u16, uid: u16, hotkey: &Account) {
    let block = exec.block;
    let state = &mut exec.state;
    items::KEYS.put(state, &netuid, &uid, hotkey);
    items::UIDS.put(state, &netuid, hotkey, &uid);
    items::IS_NETWORK_MEMBER.put(state, hotkey, &netuid, &true);
    items::BLOCK_AT_REGISTRATION.put(state, &netuid, &uid, &block);
    set_entry(state, &items::ACTIVE, netuid, uid, true);
    for mecid in 0..mechanisms(state, netuid) {
        let index = storage_index(netuid, mecid);
        set_entry(state, &items::LAST_UPDATE, index, uid, block);
        set_entry(state, &items::INCENTIVE, index, uid, 0);
    }
    set_entry(state, &items::EMISSION, netuid, uid, 0);
    set_entry(state, &items::VALIDATOR_PERMIT, netuid, uid, false);
    for item in
        [&items::CONSENSUS, &items::DIVIDENDS, &items::VALIDATOR_TRUST, &items::STAKE_WEIGHT]
    {
        set_entry(state, item, netuid, uid, 0);
    }
}

/// Removes all traces of the neuron in a slot; its stake stays with its owner.
fn vacate(state: &mut Overlay<'_>, netuid: u16, uid: u16) {
    let Some(old) = hotkey(state, netuid, uid) else { return };
    items::UIDS.remove(state, &netuid, &old);
    items::IS_NETWORK_MEMBER.remove(state, &old, &netuid);
    items::AXONS.remove(state, &netuid, &old);
    items::PROMETHEUS.remove(state, &netuid, &old);
    items::NEURON_CERTIFICATES.remove(state, &netuid, &old);
    for mecid in 0..mechanisms(state, netuid) {
        let index = storage_index(netuid, mecid);
        items::WEIGHTS.remove(state, &index, &uid);
        items::BONDS.remove(state, &index, &uid);
    }
}

/// The slot to give away: lowest emission, then oldest registration, then lowest uid, among those that may go. A neuron
/// within its immunity period goes only if enough others are beyond theirs; the owner's hotkey never goes.
fn prune(exec: &Exec<'_>, netuid: u16, n: u16) -> Option<u16> {
    let state = &exec.state;
    let owner = items::SUBNET_OWNER_HOTKEY.get(state, &netuid);
    let immunity = items::IMMUNITY_PERIOD.get(state, &netuid).unwrap_or_default();
    let emission = items::EMISSION.get(state, &netuid).unwrap_or_default();
    let mut free: Vec<(u64, u64, u16)> = Vec::new();
    let mut immune: Vec<(u64, u64, u16)> = Vec::new();
    for uid in 0..n {
        if hotkey(state, netuid, uid) == owner {
            continue;
        }
        let since = items::BLOCK_AT_REGISTRATION.get(state, &netuid, &uid).unwrap_or_default();
        let earned = emission.get(usize::from(uid)).copied().unwrap_or_default();
        let is_immune = exec.block.saturating_sub(since) < u64::from(immunity);
        if is_immune { &mut immune } else { &mut free }.push((earned, since, uid));
    }
    let keep_free = items::MIN_NON_IMMUNE_UIDS.get(state, &netuid).unwrap_or_default();
    let candidates = if free.len() > usize::from(keep_free) { free } else { immune };
    candidates.into_iter().min().map(|(_, _, uid)| uid)
}

/// Makes a hotkey belong to a coldkey, unless somebody owns it already. Returns whether it now belongs to this one.
pub(crate) fn associate(state: &mut Overlay<'_>, coldkey: &Account, hotkey: &Account) -> bool {
    if let Some(owner) = items::OWNER.get(state, hotkey) {
        return owner == *coldkey;
    }
    items::OWNER.put(state, hotkey, coldkey);
    for item in [&items::OWNED_HOTKEYS, &items::STAKING_HOTKEYS] {
        let mut all = item.get(state, coldkey).unwrap_or_default();
        if !all.contains(hotkey) {
            all.push(*hotkey);
            item.put(state, coldkey, &all);
        }
    }
    true
}
