//! `StakeInfo` and what else the APIs say about stake.

use std::collections::BTreeMap;

use parity_scale_codec::{Compact, Encode};

use crate::items::{self, Account};
use crate::runtime::{neurons, stake};
use crate::state::Read;

/// The most coldkeys of one question.
const COLDKEYS_MAX: usize = 1_024;

#[derive(Debug, Encode)]
struct StakeInfo {
    hotkey: Account,
    coldkey: Account,
    netuid: Compact<u16>,
    stake: Compact<u64>,
    locked: Compact<u64>,
    emission: Compact<u64>,
    tao_emission: Compact<u64>,
    drain: Compact<u64>,
    is_registered: bool,
}

/// `get_stake_info_for_hotkey_coldkey_netuid`.
pub(super) fn of_pair(
    state: &impl Read,
    hotkey: &Account,
    coldkey: &Account,
    netuid: u16,
) -> Vec<u8> {
    info(state, hotkey, coldkey, netuid).encode()
}

/// `get_stake_info_for_coldkey`.
pub(super) fn of_coldkey(state: &impl Read, coldkey: &Account) -> Vec<u8> {
    infos(state, coldkey).encode()
}

/// `get_stake_info_for_coldkeys`. More coldkeys than the limit are left out of the answer.
pub(super) fn of_coldkeys(state: &impl Read, coldkeys: &[Account]) -> Vec<u8> {
    let some = coldkeys.iter().take(COLDKEYS_MAX);
    some.map(|coldkey| (*coldkey, infos(state, coldkey))).collect::<Vec<_>>().encode()
}

/// `get_stake_availability_for_coldkeys`: total, locked and available alpha. Nothing can be locked here.
pub(super) fn availability(
    state: &impl Read,
    coldkeys: &[Account],
    netuids: Option<&[u16]>,
) -> Vec<u8> {
    type Entry = (Compact<u64>, Compact<u64>, Compact<u64>);
    let mut out: BTreeMap<Account, BTreeMap<u16, Entry>> = BTreeMap::new();
    for coldkey in coldkeys.iter().take(COLDKEYS_MAX) {
        let mut of_coldkey: BTreeMap<u16, Entry> = BTreeMap::new();
        for info in infos(state, coldkey) {
            let netuid = info.netuid.0;
            if netuids.is_some_and(|wanted| !wanted.contains(&netuid)) {
                continue;
            }
            let entry = of_coldkey.entry(netuid).or_insert((Compact(0), Compact(0), Compact(0)));
            let total = entry.0.0.saturating_add(info.stake.0);
            *entry = (Compact(total), Compact(0), Compact(total));
        }
        out.insert(*coldkey, of_coldkey);
    }
    out.encode()
}

fn infos(state: &impl Read, coldkey: &Account) -> Vec<StakeInfo> {
    let hotkeys = items::STAKING_HOTKEYS.get(state, coldkey).unwrap_or_default();
    let netuids = neurons::netuids(state);
    let mut out = Vec::new();
    for hotkey in &hotkeys {
        for netuid in &netuids {
            let found = info(state, hotkey, coldkey, *netuid);
            out.extend(found.filter(|info| info.stake.0 > 0));
        }
    }
    out
}

fn info(state: &impl Read, hotkey: &Account, coldkey: &Account, netuid: u16) -> Option<StakeInfo> {
    if !super::subnet::exists(state, netuid) {
        return None;
    }
    let uid = neurons::uid(state, netuid, hotkey);
    let emission = uid.map(|uid| neurons::entry(state, &items::EMISSION, netuid, uid));
    Some(StakeInfo {
        hotkey: *hotkey,
        coldkey: *coldkey,
        netuid: Compact(netuid),
        stake: Compact(stake::of_pair(state, hotkey, coldkey, netuid)),
        locked: Compact(0),
        emission: Compact(emission.unwrap_or_default()),
        tao_emission: Compact(0),
        drain: Compact(0),
        is_registered: uid.is_some(),
    })
}
