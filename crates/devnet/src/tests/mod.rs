//! Tests of the chain's rules, without clock, network or server.

mod chaos;
mod disk;
mod epochs;
mod hostile;
mod interface;
mod market;
mod pool;
mod reveal;
mod rules;
mod vectors;

use crate::call::{Call, SubtensorCall, WeightVector};
use crate::config::{DEFAULT_NETUID, Genesis, SubnetGenesis};
use crate::events::DispatchError;
use crate::items::{self, Account};
use crate::runtime::beacon::{self, Recorded};
use crate::runtime::{Exec, genesis, hooks};
use crate::state::{self, Map, Overlay};

use nicompute_market::{AccountId, Coldkey, Hotkey, Rao};

pub(super) const COIN: u64 = 1_000_000_000;
pub(super) const NETUID: u16 = DEFAULT_NETUID.0;

/// Owner of the subnet.
pub(super) const OWNER: Account = [1; 32];
/// The owner's hotkey; its neuron is uid 0 and a validator.
pub(super) const OWNER_HOT: Account = [2; 32];
/// A second validator's coldkey and hotkey, uid 1.
pub(super) const VALIDATOR: Account = [3; 32];
pub(super) const VALIDATOR_HOT: Account = [4; 32];
/// A rich coldkey without neurons.
pub(super) const RICH: Account = [5; 32];

/// A genesis with two validators.
pub(super) fn first_state() -> Genesis {
    let account = AccountId::from_bytes;
    let (owner, owner_hot) = (Coldkey(account(OWNER)), Hotkey(account(OWNER_HOT)));
    let mut subnet = SubnetGenesis::new(DEFAULT_NETUID, owner, owner_hot);
    subnet.validators = vec![
        (owner_hot, owner, Rao(100_000 * COIN)),
        (Hotkey(account(VALIDATOR_HOT)), Coldkey(account(VALIDATOR)), Rao(100_000 * COIN)),
    ];
    Genesis {
        endowed: vec![(account(OWNER), Rao(100 * COIN)), (account(RICH), Rao(1_000 * COIN))],
        subnets: vec![subnet],
        ..Genesis::default()
    }
}

/// A chain as a map and a block number.
pub(super) struct World {
    pub(super) map: Map,
    pub(super) block: u64,
    /// What a recorded beacon was fed.
    pub(super) pulses: Recorded,
}

impl World {
    pub(super) fn new() -> Self {
        Self::of(&first_state())
    }

    pub(super) fn of(first: &Genesis) -> Self {
        let mut map = Map::new();
        state::apply(&mut map, genesis::build(first, [0; 32]).unwrap());
        if let Some(beacon) = &first.beacon {
            state::apply(&mut map, beacon::genesis(beacon, 0).unwrap());
        }
        let mut world = Self { map, block: 0, pulses: Recorded::new() };
        world.step(1);
        world
    }

    /// Makes empty blocks.
    pub(super) fn step(&mut self, blocks: u64) {
        for _ in 0..blocks {
            self.block += 1;
            let mut exec = Exec::new(Overlay::new(&self.map), self.block);
            hooks::begin(&mut exec, &[9; 32], self.block * 1_000, self.block);
            beacon::step(&mut exec, self.block * 1_000, &self.pulses);
            hooks::end(&mut exec, 1);
            let changes = exec.state.into_changes();
            state::apply(&mut self.map, changes);
        }
    }

    /// Carries out a call in the current block.
    pub(super) fn call(&mut self, signer: Account, call: &Call) -> Result<(), DispatchError> {
        let mut exec = Exec::new(Overlay::new(&self.map), self.block);
        let outcome = exec.apply(&signer, call, 0, 150);
        exec.store_events();
        let changes = exec.state.into_changes();
        state::apply(&mut self.map, changes);
        outcome
    }

    pub(super) fn subtensor(
        &mut self,
        signer: Account,
        call: SubtensorCall,
    ) -> Result<(), DispatchError> {
        self.call(signer, &Call::Subtensor(call))
    }

    pub(super) fn register(
        &mut self,
        coldkey: Account,
        hotkey: Account,
    ) -> Result<(), DispatchError> {
        self.subtensor(coldkey, SubtensorCall::BurnedRegister { netuid: NETUID, hotkey })
    }

    pub(super) fn weigh(
        &mut self,
        hotkey: Account,
        dests: &[u16],
        weights: &[u16],
    ) -> Result<(), DispatchError> {
        let vector =
            WeightVector { dests: dests.to_vec(), weights: weights.to_vec(), version_key: 0 };
        self.subtensor(hotkey, SubtensorCall::SetWeights { netuid: NETUID, vector })
    }

    pub(super) fn state(&self) -> Overlay<'_> {
        Overlay::new(&self.map)
    }

    pub(super) fn free(&self, who: &Account) -> u64 {
        items::ACCOUNT.get(&self.state(), who).unwrap_or_default().free
    }

    /// Writes a value of the whole chain as if governance had.
    pub(super) fn set_value<V: parity_scale_codec::Codec>(
        &mut self,
        item: &items::Value<V>,
        value: &V,
    ) {
        let mut overlay = Overlay::new(&self.map);
        item.put(&mut overlay, value);
        let changes = overlay.into_changes();
        state::apply(&mut self.map, changes);
    }

    /// Writes a value as if governance had.
    pub(super) fn set<V: parity_scale_codec::Codec>(
        &mut self,
        item: &items::Map1<u16, V>,
        value: &V,
    ) {
        let mut overlay = Overlay::new(&self.map);
        item.put(&mut overlay, &NETUID, value);
        let changes = overlay.into_changes();
        state::apply(&mut self.map, changes);
    }
}
