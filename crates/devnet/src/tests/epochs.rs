//! Epochs: weights turn into incentive, and emission into stake.

use super::{COIN, NETUID, OWNER, OWNER_HOT, RICH, VALIDATOR, VALIDATOR_HOT, World};
use crate::items;
use crate::runtime::stake;

const MINER_HOT: [u8; 32] = [6; 32];
const TEMPO: u64 = 10;

/// A miner that validators weigh and that earns nothing would leave.
#[test]
fn weights_become_incentive_and_stake() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    world.step(1);
    world.weigh(OWNER_HOT, &[2], &[65_535]).unwrap();
    world.weigh(VALIDATOR_HOT, &[2], &[65_535]).unwrap();
    world.step(TEMPO);
    let state = world.state();
    assert_eq!(items::INCENTIVE.get(&state, &NETUID).unwrap(), [0, 0, 65_535]);
    let dividends = items::DIVIDENDS.get(&state, &NETUID).unwrap();
    assert!(dividends[0] > 32_000 && dividends[1] > 32_000, "{dividends:?}");
    assert_eq!(items::VALIDATOR_PERMIT.get(&state, &NETUID).unwrap()[..2], [true, true]);
    let earned = stake::of_pair(&state, &MINER_HOT, &RICH, NETUID);
    // Ten blocks of one alpha, 41 % of it for miners.
    assert!(earned > 4_050_000_000 && earned < 4_110_000_000, "{earned}");
    let validator = stake::of_pair(&state, &VALIDATOR_HOT, &VALIDATOR, NETUID);
    assert!(validator > 100_002 * COIN && validator < 100_003 * COIN, "{validator}");
}

/// An emission that is lost or doubled changes what everybody owns.
#[test]
fn each_block_emits_one_alpha_and_no_more() {
    let mut world = World::new();
    let all = |world: &World| {
        [OWNER_HOT, VALIDATOR_HOT]
            .iter()
            .map(|hotkey| stake::of_hotkey(&world.state(), hotkey, NETUID))
            .sum::<u64>()
    };
    let before = all(&world);
    world.step(TEMPO * 3);
    let state = world.state();
    let pending: u64 =
        [&items::PENDING_OWNER_CUT, &items::PENDING_SERVER, &items::PENDING_VALIDATOR]
            .iter()
            .map(|item| item.get(&state, &NETUID).unwrap_or_default())
            .sum();
    let emitted = all(&world) - before + pending;
    let blocks = world.block * COIN;
    assert!(emitted <= blocks && emitted + 1_000 > blocks, "{emitted} of {blocks}");
    assert_eq!(items::SUBNET_EPOCH_INDEX.get(&state, &NETUID), Some(world.block / TEMPO));
}

/// Weights on the owner's neuron mean "burn": the owner must not be paid for them.
#[test]
fn what_the_owner_earns_by_serving_is_burned() {
    let mut world = World::new();
    world.step(1);
    world.weigh(VALIDATOR_HOT, &[0], &[65_535]).unwrap();
    world.weigh(OWNER_HOT, &[0], &[65_535]).unwrap();
    let before = stake::of_pair(&world.state(), &OWNER_HOT, &OWNER, NETUID);
    world.step(TEMPO);
    let state = world.state();
    assert_eq!(items::INCENTIVE.get(&state, &NETUID).unwrap()[0], 65_535);
    let gained = stake::of_pair(&state, &OWNER_HOT, &OWNER, NETUID) - before;
    // The cut of 18 % and at most the validators' 41 %, never the miners' 41 %.
    assert!(gained < 6 * COIN, "{gained}");
}
