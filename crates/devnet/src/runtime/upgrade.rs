//! Which runtime the chain runs, and its upgrade in mid-run.
//!
//! As on a real chain the new runtime is written by one block and runs from the next one on; that next block writes
//! `System.LastRuntimeUpgrade`. What a block's extrinsics are signed for and how they are numbered follows from the state
//! before it, so that every block stays readable with the metadata of its own time.

use parity_scale_codec::{Compact, Decode, Encode};

use crate::chaos::Change;
use crate::events::{Event, SystemEvent};
use crate::hash::twox_128;
use crate::items;
use crate::runtime::{Exec, SPEC_VERSION};
use crate::schema::Profile;
use crate::state::Read;
use crate::version::SPEC_NAME;

/// The key of the runtime, which is absent before the first upgrade.
const RUNTIME_KEY: &[u8] = b":nicompute-devnet:runtime";
/// What an upgrade that moves calls adds to the numbers of Subtensor's calls. The highest one is below 156.
const CALLS_MOVED_BY: u8 = 100;
/// The storage item that an upgrade adds, with its type: how many upgrades there were.
pub(crate) const ADDED_ITEM: (&str, &str) = ("DevnetUpgrades", "u32");

/// What clients see of the program that the chain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct Runtime {
    pub(crate) spec_version: u32,
    pub(crate) profile: Profile,
    /// How far the numbers of Subtensor's calls lie above those of the interface table.
    pub(crate) calls_moved_by: u8,
    /// Whether the added storage item is there.
    pub(crate) item_added: bool,
}

impl Runtime {
    /// The runtime of the interface table.
    pub(crate) const fn first(profile: Profile) -> Self {
        Self { spec_version: SPEC_VERSION, profile, calls_moved_by: 0, item_added: false }
    }

    /// What a state runs: `first` until there is an upgrade.
    pub(crate) fn of(state: &impl Read, first: Self) -> Self {
        state.decoded(RUNTIME_KEY).unwrap_or(first)
    }

    /// The next runtime.
    pub(crate) const fn upgraded(self, change: Change) -> Self {
        let mut next = self;
        next.spec_version = self.spec_version.saturating_add(1);
        if matches!(change, Change::Calls | Change::All) {
            next.calls_moved_by = if self.calls_moved_by == 0 { CALLS_MOVED_BY } else { 0 };
        }
        if matches!(change, Change::Storage | Change::All) {
            next.item_added = true;
        }
        if matches!(change, Change::Profile | Change::All) {
            next.profile = match self.profile {
                Profile::Flat => Profile::Modern,
                Profile::Modern => Profile::Flat,
            };
        }
        next
    }
}

/// Notes in the first block of a runtime that it runs.
pub(crate) fn begin(exec: &mut Exec<'_>, runtime: Runtime) {
    let spec_version = Compact(runtime.spec_version);
    let last = items::LAST_RUNTIME_UPGRADE.get(&exec.state);
    if last.is_none_or(|(known, _)| known != spec_version) {
        let entry = (spec_version, SPEC_NAME.as_bytes().to_vec());
        items::LAST_RUNTIME_UPGRADE.put(&mut exec.state, &entry);
    }
}

/// Writes a new runtime, which runs from the next block on.
pub(crate) fn write(exec: &mut Exec<'_>, runtime: Runtime) {
    exec.state.write(RUNTIME_KEY.to_vec(), Some(runtime.encode()));
    if runtime.item_added {
        let (pallet, (name, _)) = ("SubtensorModule", ADDED_ITEM);
        let key = [twox_128(pallet.as_bytes()), twox_128(name.as_bytes())].concat();
        let count: u32 = exec.state.decoded(&key).unwrap_or_default();
        exec.state.write(key, Some(count.saturating_add(1).encode()));
    }
    exec.emit(Event::System(SystemEvent::CodeUpdated));
}
