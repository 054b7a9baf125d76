//! Rules that show only over many blocks, with a full subnet, or with several subnets and mechanisms.

use nicompute_market::{AccountId, Coldkey, Hotkey, Netuid, Rao};
use parity_scale_codec::Compact;

use super::{COIN, NETUID, OWNER, OWNER_HOT, RICH, VALIDATOR, VALIDATOR_HOT, World, first_state};
use crate::call::{Address, Axon, BalancesCall, Call, SubtensorCall, WeightVector};
use crate::config::SubnetGenesis;
use crate::events::{self, DispatchError};
use crate::items::{self, Account};
use crate::runtime::validity::{self, Invalid};
use crate::runtime::{neurons, stake};

const MINER_HOT: Account = [6; 32];
const OTHER: u16 = 15;
/// The key under which mechanism 1 of the first subnet keeps its weights.
const SECOND_INDEX: u16 = 4_096 + NETUID;

fn weigh(
    world: &mut World,
    hotkey: Account,
    (netuid, mecid): (u16, u8),
    (dests, weights): (&[u16], &[u16]),
) -> Result<(), DispatchError> {
    let (dests, weights) = (dests.to_vec(), weights.to_vec());
    let vector = WeightVector { dests, weights, version_key: 3 };
    world.subtensor(hotkey, SubtensorCall::SetMechanismWeights { netuid, mecid, vector })
}

/// Clients show the first reason that the chain gives. One that is checked out of turn sends its reader the wrong way.
#[test]
fn weights_are_refused_for_the_first_reason_in_order() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    let uneven: (&[u16], &[u16]) = (&[0, 0, 9, 9, 9, 9], &[1]);
    let long: (&[u16], &[u16]) = (&[9, 9, 9, 9], &[9, 1, 1, 1]);
    let twice: (&[u16], &[u16]) = (&[9, 9], &[9, 1]);
    let here = (NETUID, 0);
    let expect = |world: &mut World, who, target, vector, error: DispatchError| {
        assert_eq!(weigh(world, who, target, vector), Err(error));
    };
    world.set(&items::COMMIT_REVEAL_ENABLED, &true);
    expect(&mut world, MINER_HOT, (0, 7), uneven, events::CAN_NOT_SET_ROOT_WEIGHTS);
    expect(&mut world, MINER_HOT, here, uneven, events::COMMIT_REVEAL_ENABLED);
    world.set(&items::COMMIT_REVEAL_ENABLED, &false);
    world.set(&items::WEIGHTS_VERSION_KEY, &4);
    world.set(&items::WEIGHTS_RATE_LIMIT, &5);
    world.set(&items::MIN_ALLOWED_WEIGHTS, &3);
    world.set(&items::MAX_WEIGHTS_LIMIT, &20_000);
    world.set_value(&items::STAKE_THRESHOLD, &(200_000 * COIN));
    expect(&mut world, [9; 32], (NETUID, 7), uneven, events::WEIGHT_VEC_NOT_EQUAL_SIZE);
    expect(&mut world, [9; 32], (NETUID, 7), long, events::MECHANISM_DOES_NOT_EXIST);
    expect(&mut world, [9; 32], here, long, events::UIDS_LENGTH_EXCEED_UIDS);
    expect(&mut world, [9; 32], here, twice, events::NOT_REGISTERED_IN_SUBNET);
    expect(&mut world, MINER_HOT, here, twice, events::NOT_ENOUGH_STAKE_TO_SET_WEIGHTS);
    world.set_value(&items::STAKE_THRESHOLD, &0);
    expect(&mut world, MINER_HOT, here, twice, events::INCORRECT_WEIGHT_VERSION_KEY);
    world.set(&items::WEIGHTS_VERSION_KEY, &3);
    expect(&mut world, MINER_HOT, here, twice, events::SETTING_WEIGHTS_TOO_FAST);
    world.step(5);
    expect(&mut world, MINER_HOT, here, twice, events::NEURON_NO_VALIDATOR_PERMIT);
    let validator = VALIDATOR_HOT;
    expect(&mut world, validator, here, twice, events::DUPLICATE_UIDS);
    expect(&mut world, validator, here, (&[0, 9], &[9, 1]), events::UID_VEC_CONTAIN_INVALID_ONE);
    expect(&mut world, validator, here, (&[0, 1], &[9, 1]), events::WEIGHT_VEC_LENGTH_IS_LOW);
    expect(&mut world, validator, here, (&[0, 1, 2], &[9, 1, 1]), events::MAX_WEIGHT_EXCEEDED);
    world.set(&items::MAX_WEIGHTS_LIMIT, &u16::MAX);
    weigh(&mut world, validator, here, (&[0, 1, 2], &[9, 1, 1])).unwrap();
}

/// Weights of one mechanism that count in another pay for work that was not asked for.
#[test]
fn mechanisms_keep_their_weights_apart_and_share_the_emission() {
    let mut first = first_state();
    first.subnets[0].parameters.mechanisms = 2;
    let mut world = World::of(&first);
    world.register(RICH, MINER_HOT).unwrap();
    world.register(RICH, [7; 32]).unwrap();
    world.step(1);
    for hotkey in [OWNER_HOT, VALIDATOR_HOT] {
        weigh(&mut world, hotkey, (NETUID, 0), (&[2], &[1])).unwrap();
        weigh(&mut world, hotkey, (NETUID, 1), (&[3], &[1])).unwrap();
        let again = weigh(&mut world, hotkey, (NETUID, 1), (&[3], &[1]));
        assert_eq!(again, Err(events::SETTING_WEIGHTS_TOO_FAST));
        let third = weigh(&mut world, hotkey, (NETUID, 2), (&[3], &[1]));
        assert_eq!(third, Err(events::MECHANISM_DOES_NOT_EXIST));
    }
    assert_eq!(items::WEIGHTS.get(&world.state(), &NETUID, &1), Some(vec![(2, 65_535)]));
    assert_eq!(items::WEIGHTS.get(&world.state(), &SECOND_INDEX, &1), Some(vec![(3, 65_535)]));
    world.step(10);
    let state = world.state();
    assert_eq!(items::INCENTIVE.get(&state, &NETUID).unwrap(), [0, 0, 65_535, 0]);
    assert_eq!(items::INCENTIVE.get(&state, &SECOND_INDEX).unwrap(), [0, 0, 0, 65_535]);
    let emission = items::EMISSION.get(&state, &NETUID).unwrap();
    assert!(emission[2].abs_diff(emission[3]) < 10 && emission[2] > 2 * COIN, "{emission:?}");
    assert!(emission.iter().sum::<u64>() <= 10 * COIN);
    assert!(items::BONDS.get(&state, &SECOND_INDEX, &1).is_some_and(|bonds| !bonds.is_empty()));
}

/// A second subnet that takes from the first, or that stands still, is no second subnet.
#[test]
fn every_subnet_emits_for_itself() {
    let account = AccountId::from_bytes;
    let mut first = first_state();
    let owner = Coldkey(account(OWNER));
    let mut other = SubnetGenesis::new(Netuid(OTHER), owner, Hotkey(account(OWNER_HOT)));
    other.tempo = 5;
    other.validators = vec![(Hotkey(account(OWNER_HOT)), owner, Rao(50_000 * COIN))];
    other.miners = vec![(Hotkey(account(MINER_HOT)), Coldkey(account(RICH)))];
    first.subnets.push(other);
    let mut world = World::of(&first);
    weigh(&mut world, OWNER_HOT, (OTHER, 0), (&[1], &[1])).unwrap();
    let held = |world: &World| stake::of_pair(&world.state(), &MINER_HOT, &RICH, OTHER);
    world.step(20);
    let state = world.state();
    assert_eq!(items::SUBNET_EPOCH_INDEX.get(&state, &OTHER), Some(4));
    assert_eq!(items::SUBNET_EPOCH_INDEX.get(&state, &NETUID), Some(2));
    // 41 % of the alpha of 20 blocks.
    assert!(held(&world).abs_diff(8_200_000_000) < 20_000_000, "{}", held(&world));
    assert_eq!(stake::of_hotkey(&state, &MINER_HOT, NETUID), 0);
}

/// A price that does not fall back keeps newcomers out; one without a ceiling keeps everybody out.
#[test]
fn the_price_halves_and_has_a_floor_and_a_ceiling() {
    let mut first = first_state();
    let parameters = &mut first.subnets[0].parameters;
    parameters.burn_half_life = 10;
    parameters.burn_increase_percent = 400;
    parameters.burn_max = Rao(1_000_000_000);
    let mut world = World::of(&first);
    let price = |world: &World| items::BURN.get(&world.state(), &NETUID).unwrap();
    world.register(RICH, [10; 32]).unwrap();
    assert_eq!(price(&world), 400_000_000);
    world.register(RICH, [11; 32]).unwrap();
    assert_eq!(price(&world), 1_000_000_000, "the ceiling");
    world.step(10);
    assert!(price(&world).abs_diff(500_000_000) < 10, "{}", price(&world));
    world.step(60);
    assert_eq!(price(&world), 100_000_000, "the floor");
}

/// Whoever loses its slot must lose everything that belongs to the slot, and nothing that belongs to its owner.
#[test]
fn a_replaced_neuron_leaves_its_stake_and_nothing_else() {
    let mut first = first_state();
    let parameters = &mut first.subnets[0].parameters;
    (parameters.max_uids, parameters.min_non_immune_uids) = (3, 0);
    parameters.immunity_period = 20;
    let mut world = World::of(&first);
    world.register(RICH, MINER_HOT).unwrap();
    let add = SubtensorCall::AddStake { hotkey: MINER_HOT, netuid: NETUID, amount: 9 * COIN };
    world.subtensor(RICH, add).unwrap();
    let axon = Axon {
        netuid: NETUID,
        version: 190,
        ip: 0x7f00_0002,
        port: 8_091,
        ip_type: 4,
        protocol: 4,
        placeholder1: 0,
        placeholder2: 0,
    };
    let serve = SubtensorCall::ServeAxon { axon };
    world.subtensor(MINER_HOT, serve.clone()).unwrap();
    world.step(1);
    world.weigh(VALIDATOR_HOT, &[2], &[1]).unwrap();
    world.weigh(MINER_HOT, &[2], &[1]).unwrap();
    // Within its immunity it stays while another may go; uid 1 earned nothing yet.
    world.step(20);
    world.set(&items::EMISSION, &vec![9, 9, 1]);
    world.register(RICH, [7; 32]).unwrap();
    let state = world.state();
    assert_eq!(items::KEYS.get(&state, &NETUID, &2), Some([7; 32]));
    assert_eq!(items::UIDS.get(&state, &NETUID, &MINER_HOT), None);
    assert_eq!(items::AXONS.get(&state, &NETUID, &MINER_HOT), None);
    assert_eq!(items::WEIGHTS.get(&state, &NETUID, &2), None);
    assert_eq!(neurons::entry(&state, &items::EMISSION, NETUID, 2), 0);
    assert!(stake::of_pair(&state, &MINER_HOT, &RICH, NETUID) >= 9 * COIN);
    // The hotkey is a stranger from the next call on, and its owner takes the stake back.
    let call = Call::Subtensor(serve.clone());
    let refused = validity::subtensor_checks(&world.state(), world.block, &MINER_HOT, &call);
    assert_eq!(refused, Err(Invalid::Custom(10)));
    assert_eq!(world.subtensor(MINER_HOT, serve), Err(events::NOT_REGISTERED_IN_NETWORK));
    assert_eq!(world.weigh(MINER_HOT, &[2], &[1]), Err(events::NOT_REGISTERED_IN_SUBNET));
    let remove = SubtensorCall::RemoveStake { hotkey: MINER_HOT, netuid: NETUID, amount: 9 * COIN };
    world.subtensor(RICH, remove).unwrap();
    // The validator's old weight on uid 2 is not one on the newcomer.
    world.step(10);
    let incentive = items::INCENTIVE.get(&world.state(), &NETUID).unwrap();
    assert_eq!(incentive[2], 0);
    // Everybody but the owner's is immune or earns more: the newcomer is protected, the validator goes.
    world.set(&items::EMISSION, &vec![0, 5, 0]);
    world.register(RICH, [8; 32]).unwrap();
    assert_eq!(items::KEYS.get(&world.state(), &NETUID, &1), Some([8; 32]));
    assert_eq!(items::OWNER.get(&world.state(), &VALIDATOR_HOT), Some(VALIDATOR));
}

/// An account that is emptied on purpose may be; one that is emptied by accident must not be.
#[test]
fn the_two_transfers_differ_in_what_they_may_leave() {
    let mut world = World::new();
    let (poor, dest): (Account, Account) = ([40; 32], [41; 32]);
    let keep = |to: Account, value| {
        let dest = Address::Id(to);
        Call::Balances(BalancesCall::TransferKeepAlive { dest, value: Compact(value) })
    };
    world.call(RICH, &keep(poor, COIN)).unwrap();
    // A new account needs the existential deposit.
    assert!(world.call(RICH, &keep(dest, 499)).is_err());
    world.call(RICH, &keep(dest, 500)).unwrap();
    // The fee of 100,000 rao and 500 a byte is taken first.
    let fee = 100_000 + 150 * 500;
    let left = world.free(&poor) - fee;
    assert!(world.call(poor, &keep(dest, left)).is_err(), "it must stay alive");
    let left = world.free(&poor) - fee;
    let all = BalancesCall::TransferAllowDeath { dest: Address::Id(dest), value: Compact(left) };
    world.call(poor, &Call::Balances(all)).unwrap();
    assert_eq!((world.free(&poor), world.free(&dest)), (0, 500 + left));
}
