//! `Metagraph`, `SelectiveMetagraph` and `SubnetState`.
//!
//! A metagraph is built field by field, each field encoded on its own, so that the selective one is the same fields with
//! some left out.

use parity_scale_codec::{Compact, Encode};

use super::subnet::Subnet;
use crate::items::{self, Account, Map1};
use crate::runtime::{ROOT, neurons, stake};
use crate::state::Read;

/// `get_metagraph` and `get_mechagraph`.
pub(super) fn whole<S: Read>(subnet: &Subnet<'_, S>, block: u64) -> Vec<u8> {
    let mut fields = head(subnet, block);
    fields.extend(collateral(usize::from(neurons::count(subnet.state, subnet.netuid))));
    fields.concat()
}

/// `get_selective_metagraph`: the netuid, then each field if its index was asked for.
pub(super) fn selective<S: Read>(subnet: &Subnet<'_, S>, block: u64, wanted: &[u16]) -> Vec<u8> {
    let mut fields = head(subnet, block);
    fields.push(validators(subnet));
    fields.push(commitments(subnet));
    fields.extend(collateral(usize::from(neurons::count(subnet.state, subnet.netuid))));
    let mut out = Vec::new();
    for (index, field) in (0_u16..).zip(&fields) {
        if index == 0 {
            out.extend_from_slice(field);
        } else if wanted.contains(&index) {
            out.push(1);
            out.extend_from_slice(field);
        } else {
            out.push(0);
        }
    }
    out
}

/// `get_subnet_state`.
pub(super) fn state<S: Read>(subnet: &Subnet<'_, S>) -> Vec<u8> {
    let rows = Rows::new(subnet);
    let mut out = Compact(subnet.netuid).encode();
    rows.hotkeys.encode_to(&mut out);
    rows.coldkeys().encode_to(&mut out);
    rows.standing().iter().for_each(|field| out.extend_from_slice(field));
    rows.stakes().iter().for_each(|field| out.extend_from_slice(field));
    // No emission of a past epoch is kept.
    vec![Vec::<Compact<u64>>::new(); rows.hotkeys.len()].encode_to(&mut out);
    out
}

fn head<S: Read>(subnet: &Subnet<'_, S>, block: u64) -> Vec<Vec<u8>> {
    let rows = Rows::new(subnet);
    let mut fields = subnet.metagraph_head(block);
    fields.push(rows.hotkeys.encode());
    fields.push(rows.coldkeys().encode());
    // No coldkey has an identity here: the call that sets one is refused.
    fields.push(super::sequence(&vec![vec![0]; rows.hotkeys.len()]));
    fields.push(rows.axons());
    fields.extend(rows.standing());
    fields.extend(rows.stakes());
    fields.push(Vec::<(Account, Compact<u64>)>::new().encode());
    fields.push(rows.dividends());
    fields
}

/// Collateral cannot be locked here.
fn collateral(n: usize) -> [Vec<u8>; 3] {
    let zeros = vec![Compact(0_u64); n].encode();
    [zeros.clone(), zeros.clone(), zeros]
}

fn validators<S: Read>(subnet: &Subnet<'_, S>) -> Vec<u8> {
    let permits = items::VALIDATOR_PERMIT.get(subnet.state, &subnet.netuid).unwrap_or_default();
    let uids = (0_u16..).zip(permits).filter(|(_, permitted)| *permitted);
    uids.map(|(uid, _)| Compact(uid)).collect::<Vec<_>>().encode()
}

/// Each neuron's commitment: the bytes of its fields.
fn commitments<S: Read>(subnet: &Subnet<'_, S>) -> Vec<u8> {
    /// The deposit and the block come before the fields.
    const BEFORE_FIELDS: usize = 8 + 4;
    let rows = Rows::new(subnet);
    let mut out: Vec<(Account, Vec<Compact<u8>>)> = Vec::new();
    for hotkey in &rows.hotkeys {
        let stored = subnet.state.raw(&items::COMMITMENT_OF.key(&subnet.netuid, hotkey));
        if let Some(info) = stored.and_then(|bytes| bytes.get(BEFORE_FIELDS..)) {
            out.push((*hotkey, info.iter().copied().map(Compact).collect()));
        }
    }
    out.encode()
}

/// The neurons of a subnet, column by column.
struct Rows<'s, S> {
    state: &'s S,
    netuid: u16,
    /// The key of what each mechanism has for itself.
    index: u16,
    hotkeys: Vec<Account>,
}

impl<'s, S: Read> Rows<'s, S> {
    fn new(subnet: &Subnet<'s, S>) -> Self {
        let (state, netuid) = (subnet.state, subnet.netuid);
        let hotkey = |uid| neurons::hotkey(state, netuid, uid).unwrap_or_default();
        let hotkeys = (0..neurons::count(state, netuid)).map(hotkey).collect();
        let index = neurons::storage_index(netuid, subnet.mecid);
        Self { state, netuid, index, hotkeys }
    }

    fn coldkeys(&self) -> Vec<Account> {
        self.hotkeys
            .iter()
            .map(|hotkey| items::OWNER.get(self.state, hotkey).unwrap_or_default())
            .collect()
    }

    fn axons(&self) -> Vec<u8> {
        let axon = |hotkey| items::AXONS.get(self.state, &self.netuid, hotkey).unwrap_or_default();
        self.hotkeys.iter().map(axon).collect::<Vec<_>>().encode()
    }

    fn flags(&self, item: &Map1<u16, Vec<bool>>) -> Vec<u8> {
        let mut flags = item.get(self.state, &self.netuid).unwrap_or_default();
        flags.resize(self.hotkeys.len(), false);
        flags.encode()
    }

    fn shares(&self, item: &Map1<u16, Vec<u16>>, index: u16) -> Vec<u8> {
        let mut shares = item.get(self.state, &index).unwrap_or_default();
        shares.resize(self.hotkeys.len(), 0);
        shares.into_iter().map(Compact).collect::<Vec<_>>().encode()
    }

    fn numbers(&self, item: &Map1<u16, Vec<u64>>, index: u16) -> Vec<u8> {
        let mut numbers = item.get(self.state, &index).unwrap_or_default();
        numbers.resize(self.hotkeys.len(), 0);
        numbers.into_iter().map(Compact).collect::<Vec<_>>().encode()
    }

    /// From `active` to `block_at_registration`.
    fn standing(&self) -> Vec<Vec<u8>> {
        // Pruning scores, trusts and ranks are no longer computed by the chain; the fields stay.
        let retired = vec![Compact(0_u16); self.hotkeys.len()].encode();
        let registered: Vec<Compact<u64>> = (0_u16..)
            .zip(&self.hotkeys)
            .map(|(uid, _)| items::BLOCK_AT_REGISTRATION.get(self.state, &self.netuid, &uid))
            .map(|block| Compact(block.unwrap_or_default()))
            .collect();
        vec![
            self.flags(&items::ACTIVE),
            self.flags(&items::VALIDATOR_PERMIT),
            retired.clone(),
            self.numbers(&items::LAST_UPDATE, self.index),
            self.numbers(&items::EMISSION, self.netuid),
            self.shares(&items::DIVIDENDS, self.netuid),
            self.shares(&items::INCENTIVE, self.index),
            self.shares(&items::CONSENSUS, self.netuid),
            retired.clone(),
            retired,
            registered.encode(),
        ]
    }

    /// Alpha, coins on root as far as they count here, and both together.
    fn stakes(&self) -> Vec<Vec<u8>> {
        let column = |of: &dyn Fn(&Account) -> u64| {
            self.hotkeys.iter().map(|hotkey| Compact(of(hotkey))).collect::<Vec<_>>().encode()
        };
        vec![
            column(&|hotkey| stake::of_hotkey(self.state, hotkey, self.netuid)),
            column(&|hotkey| stake::of_hotkey(self.state, hotkey, ROOT)),
            column(&|hotkey| stake::weight(self.state, hotkey, self.netuid)),
        ]
    }

    fn dividends(&self) -> Vec<u8> {
        let mut out: Vec<(Account, Compact<u64>)> = Vec::new();
        for hotkey in &self.hotkeys {
            let paid = items::ALPHA_DIVIDENDS.get(self.state, &self.netuid, hotkey);
            out.push((*hotkey, Compact(paid.unwrap_or_default())));
        }
        out.encode()
    }
}
