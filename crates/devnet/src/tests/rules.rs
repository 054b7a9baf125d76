//! Each rule that a client can run into, with the error that it must see.

use parity_scale_codec::Compact;

use nicompute_market::{AccountId, Coldkey, Hotkey, Netuid, Rao};

use super::{COIN, NETUID, OWNER, OWNER_HOT, RICH, VALIDATOR, VALIDATOR_HOT, World, first_state};
use crate::call::{
    Address, Axon, BalancesCall, Call, CommitmentsCall, SubtensorCall, WeightVector,
};
use crate::config::{Genesis, GenesisError, MECHANISMS_MAX, Registration, SubnetGenesis};
use crate::events;
use crate::items::{self, Account};
use crate::runtime::validity::Invalid;
use crate::runtime::{genesis, neurons, serving, stake};
use crate::yuma::LiquidAlpha;

const MINER_HOT: Account = [6; 32];

fn axon(ip: u128, port: u16, ip_type: u8) -> Axon {
    Axon {
        netuid: NETUID,
        version: 190,
        ip,
        port,
        ip_type,
        protocol: 4,
        placeholder1: 0,
        placeholder2: 0,
    }
}

const SECOND_LOOPBACK: u128 = 0x7f00_0002;

/// A registration that costs nothing, costs twice, or lands on a foreign hotkey breaks the market's entry.
#[test]
fn burned_register_checks_and_charges() {
    let mut world = World::new();
    let before = world.free(&RICH);
    world.register(RICH, MINER_HOT).unwrap();
    let paid = before - world.free(&RICH);
    assert!(paid > COIN / 10 && paid < COIN / 10 + 1_000_000, "paid {paid}");
    assert_eq!(items::UIDS.get(&world.state(), &NETUID, &MINER_HOT), Some(2));
    assert_eq!(world.register(RICH, MINER_HOT), Err(events::HOTKEY_ALREADY_REGISTERED));
    assert_eq!(world.register(RICH, VALIDATOR_HOT), Err(events::HOTKEY_ALREADY_REGISTERED));
    assert_eq!(world.register([7; 32], [8; 32]), Err(events::NOT_ENOUGH_BALANCE_TO_STAKE));
    let elsewhere = SubtensorCall::BurnedRegister { netuid: 99, hotkey: [8; 32] };
    assert_eq!(world.subtensor(RICH, elsewhere), Err(events::SUBNET_NOT_EXISTS));
    let root = SubtensorCall::BurnedRegister { netuid: 0, hotkey: [8; 32] };
    assert_eq!(world.subtensor(RICH, root), Err(events::REGISTRATION_NOT_PERMITTED_ON_ROOT));
    world.set(&items::REGISTRATION_ALLOWED, &false);
    assert_eq!(world.register(RICH, [8; 32]), Err(events::REGISTRATION_DISABLED));
}

/// A hotkey that another coldkey owns must not be registered under a second owner.
#[test]
fn a_hotkey_has_one_owner() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    world.set(&items::MAX_ALLOWED_UIDS, &3);
    world.set(&items::IMMUNITY_PERIOD, &0);
    world.set(&items::MIN_NON_IMMUNE_UIDS, &0);
    // The miner's slot is given away; its owner stays.
    world.register(OWNER, [8; 32]).unwrap();
    let gone = items::UIDS.get(&world.state(), &NETUID, &MINER_HOT).is_none()
        || items::UIDS.get(&world.state(), &NETUID, &VALIDATOR_HOT).is_none();
    assert!(gone, "one of the two had to make room");
    let theft = world.register(OWNER, MINER_HOT);
    assert!(
        theft == Err(events::NON_ASSOCIATED_COLDKEY)
            || theft == Err(events::HOTKEY_ALREADY_REGISTERED),
        "{theft:?}"
    );
}

/// The price rises with each registration and falls again; `register_limit` protects from the rise.
#[test]
fn the_price_moves_and_can_be_limited() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    let raised = items::BURN.get(&world.state(), &NETUID).unwrap();
    assert!((125_000_000..=126_000_000).contains(&raised), "{raised}");
    let limited =
        |limit_price| SubtensorCall::RegisterLimit { netuid: NETUID, hotkey: [8; 32], limit_price };
    let refused = world.subtensor(RICH, limited(raised - 1));
    assert_eq!(refused, Err(events::REGISTRATION_PRICE_LIMIT));
    world.step(1);
    let fallen = items::BURN.get(&world.state(), &NETUID).unwrap();
    assert!(fallen < raised && fallen > 100_000_000, "{fallen}");
    world.subtensor(RICH, limited(raised)).unwrap();
}

/// A full subnet gives away the slot that earned least, never the owner's and no protected one without need.
#[test]
fn a_full_subnet_replaces_the_least_earning() {
    let mut world = World::new();
    world.set(&items::MAX_ALLOWED_UIDS, &4);
    world.set(&items::MIN_NON_IMMUNE_UIDS, &0);
    world.register(RICH, [10; 32]).unwrap();
    world.register(RICH, [11; 32]).unwrap();
    world.step(101);
    world.set(&items::EMISSION, &vec![0, 5, 7, 6]);
    world.register(RICH, [12; 32]).unwrap();
    assert_eq!(items::KEYS.get(&world.state(), &NETUID, &1), Some([12; 32]));
    assert_eq!(items::UIDS.get(&world.state(), &NETUID, &VALIDATOR_HOT), None);
    world.set(&items::EMISSION, &vec![0, 0, 7, 6]);
    world.register(RICH, [13; 32]).unwrap();
    // uid 1 is new and protected, so uid 3 goes.
    assert_eq!(items::KEYS.get(&world.state(), &NETUID, &3), Some([13; 32]));
    assert_eq!(items::KEYS.get(&world.state(), &NETUID, &0), Some(OWNER_HOT));
}

/// An axon at an impossible address sends validators nowhere.
#[test]
fn serve_axon_checks_address_port_and_rate() {
    let mut world = World::new();
    let cases = [
        (axon(0x7f00_0001, 8_091, 4), Err(events::INVALID_IP_ADDRESS), Some(11)),
        (axon(0, 8_091, 4), Err(events::INVALID_IP_ADDRESS), Some(11)),
        (axon(1 << 40, 8_091, 4), Err(events::INVALID_IP_ADDRESS), Some(11)),
        (axon(1, 8_091, 6), Err(events::INVALID_IP_ADDRESS), Some(11)),
        (axon(SECOND_LOOPBACK, 8_091, 5), Err(events::INVALID_IP_TYPE), Some(11)),
        (axon(SECOND_LOOPBACK, 0, 4), Err(events::INVALID_PORT), Some(13)),
        (axon(SECOND_LOOPBACK, 8_091, 4), Ok(()), None),
        (axon(0x2001_0db8 << 96, 8_091, 6), Ok(()), None),
    ];
    for (axon, expected, code) in cases {
        let pool = crate::runtime::validity::subtensor_checks(
            &world.state(),
            world.block,
            &OWNER_HOT,
            &Call::Subtensor(SubtensorCall::ServeAxon { axon: axon.clone() }),
        );
        assert_eq!(pool.err(), code.map(Invalid::Custom));
        let done = world.subtensor(OWNER_HOT, SubtensorCall::ServeAxon { axon });
        assert_eq!(done, expected);
    }
    let stranger = SubtensorCall::ServeAxon { axon: axon(SECOND_LOOPBACK, 8_091, 4) };
    assert_eq!(world.subtensor(RICH, stranger), Err(events::NOT_REGISTERED_IN_NETWORK));
    world.set(&items::SERVING_RATE_LIMIT, &50);
    let again = axon(SECOND_LOOPBACK, 8_092, 4);
    let early = serving::check_axon(&world.state(), world.block + 49, &OWNER_HOT, &again);
    assert_eq!(early, Err(events::SERVING_RATE_LIMIT_EXCEEDED));
    serving::check_axon(&world.state(), world.block + 50, &OWNER_HOT, &again).unwrap();
}

/// The order of these checks is what clients' error handling is written for.
#[test]
fn set_weights_checks_in_the_real_order() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    assert_eq!(world.weigh(VALIDATOR_HOT, &[0, 1], &[1]), Err(events::WEIGHT_VEC_NOT_EQUAL_SIZE));
    assert_eq!(
        world.weigh(VALIDATOR_HOT, &[0, 1, 2, 3], &[1; 4]),
        Err(events::UIDS_LENGTH_EXCEED_UIDS)
    );
    assert_eq!(world.weigh([9; 32], &[0], &[1]), Err(events::NOT_REGISTERED_IN_SUBNET));
    assert_eq!(world.weigh(MINER_HOT, &[2], &[1]), Err(events::SETTING_WEIGHTS_TOO_FAST));
    world.step(1);
    assert_eq!(world.weigh(MINER_HOT, &[0, 2], &[1, 1]), Err(events::NEURON_NO_VALIDATOR_PERMIT));
    world.weigh(MINER_HOT, &[2], &[1]).unwrap();
    assert_eq!(world.weigh(VALIDATOR_HOT, &[1, 1], &[1, 1]), Err(events::DUPLICATE_UIDS));
    assert_eq!(world.weigh(VALIDATOR_HOT, &[7], &[1]), Err(events::UID_VEC_CONTAIN_INVALID_ONE));
    world.set(&items::MIN_ALLOWED_WEIGHTS, &3);
    assert_eq!(world.weigh(VALIDATOR_HOT, &[1, 2], &[1, 1]), Err(events::WEIGHT_VEC_LENGTH_IS_LOW));
    world.set(&items::MIN_ALLOWED_WEIGHTS, &1);
    world.set(&items::MAX_WEIGHTS_LIMIT, &40_000);
    assert_eq!(world.weigh(VALIDATOR_HOT, &[1, 2], &[1, 9]), Err(events::MAX_WEIGHT_EXCEEDED));
    world.set(&items::MAX_WEIGHTS_LIMIT, &u16::MAX);
    world.set(&items::WEIGHTS_VERSION_KEY, &5);
    assert_eq!(
        world.weigh(VALIDATOR_HOT, &[1, 2], &[1, 9]),
        Err(events::INCORRECT_WEIGHT_VERSION_KEY)
    );
    world.set(&items::WEIGHTS_VERSION_KEY, &0);
    world.weigh(VALIDATOR_HOT, &[1, 2], &[1, 2]).unwrap();
    let row = items::WEIGHTS.get(&world.state(), &NETUID, &1).unwrap();
    assert_eq!(row, [(1, 32_767), (2, 65_535)]);
    assert_eq!(world.weigh(VALIDATOR_HOT, &[1], &[1]), Err(events::SETTING_WEIGHTS_TOO_FAST));
    let other = SubtensorCall::SetMechanismWeights {
        netuid: NETUID,
        mecid: 1,
        vector: WeightVector { dests: vec![1], weights: vec![1], version_key: 0 },
    };
    assert_eq!(world.subtensor(VALIDATOR_HOT, other), Err(events::MECHANISM_DOES_NOT_EXIST));
}

/// A subnet with commit-reveal must not take weights in the clear, and one without must not take commits.
#[test]
fn commit_reveal_is_on_or_off() {
    let mut world = World::new();
    let commit = SubtensorCall::CommitTimelockedWeights {
        netuid: NETUID,
        commit: vec![1],
        reveal_round: 1,
        version: 4,
    };
    assert_eq!(world.subtensor(VALIDATOR_HOT, commit.clone()), Err(events::COMMIT_REVEAL_DISABLED));
    world.set(&items::COMMIT_REVEAL_ENABLED, &true);
    world.step(1);
    assert_eq!(world.weigh(VALIDATOR_HOT, &[1], &[1]), Err(events::COMMIT_REVEAL_ENABLED));
    world.subtensor(VALIDATOR_HOT, commit).unwrap();
}

/// Coins that appear or vanish in a transfer make every balance meaningless.
#[test]
fn transfers_conserve_coins() {
    let mut world = World::new();
    let send = |to: Account, value: u64| {
        Call::Balances(BalancesCall::TransferKeepAlive {
            dest: Address::Id(to),
            value: Compact(value),
        })
    };
    let total = |world: &World| items::BALANCES_ISSUANCE.get(&world.state()).unwrap();
    let sum = |world: &World| world.free(&RICH) + world.free(&OWNER) + world.free(&[9; 32]);
    assert_eq!(total(&world), sum(&world));
    world.call(RICH, &send([9; 32], 5 * COIN)).unwrap();
    assert_eq!(world.free(&[9; 32]), 5 * COIN);
    assert_eq!(total(&world), sum(&world));
    assert!(world.call(RICH, &send([9; 32], u64::MAX)).is_err());
    assert!(world.call([9; 32], &send(RICH, 5 * COIN)).is_err(), "the sender must stay alive");
    world.call(RICH, &send(RICH, COIN)).unwrap();
    assert_eq!(total(&world), sum(&world));
    let nonce = items::ACCOUNT.get(&world.state(), &RICH).unwrap().nonce;
    assert_eq!(nonce, 3, "a failed call counts too");
}

/// Stake that does not come back, or comes back as more, is theft by the chain.
#[test]
fn stake_goes_in_and_out() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    let add = |amount| SubtensorCall::AddStake { hotkey: MINER_HOT, netuid: NETUID, amount };
    let remove = |amount| SubtensorCall::RemoveStake { hotkey: MINER_HOT, netuid: NETUID, amount };
    assert_eq!(world.subtensor(RICH, add(1)), Err(events::AMOUNT_TOO_LOW));
    assert_eq!(world.subtensor(RICH, add(5_000 * COIN)), Err(events::NOT_ENOUGH_BALANCE_TO_STAKE));
    let before = world.free(&RICH);
    world.subtensor(RICH, add(100 * COIN)).unwrap();
    assert_eq!(stake::of_pair(&world.state(), &MINER_HOT, &RICH, NETUID), 100 * COIN);
    assert_eq!(world.subtensor(VALIDATOR, remove(COIN)), Err(events::NOT_ENOUGH_STAKE_TO_WITHDRAW));
    assert_eq!(
        world.subtensor(RICH, remove(101 * COIN)),
        Err(events::NOT_ENOUGH_STAKE_TO_WITHDRAW)
    );
    world.subtensor(RICH, remove(100 * COIN)).unwrap();
    assert_eq!(stake::of_hotkey(&world.state(), &MINER_HOT, NETUID), 0);
    let fees = before - world.free(&RICH);
    assert!(fees > 0 && fees < 2_000_000, "{fees}");
    let unknown = SubtensorCall::AddStake { hotkey: [9; 32], netuid: NETUID, amount: COIN };
    assert_eq!(world.subtensor(RICH, unknown), Err(events::HOTKEY_ACCOUNT_NOT_EXISTS));
}

/// A limit that is ignored lets a client pay more than it agreed to.
#[test]
fn stake_limits_hold_at_the_fixed_price() {
    let mut world = World::new();
    world.register(RICH, MINER_HOT).unwrap();
    let add = |limit_price| SubtensorCall::AddStakeLimit {
        hotkey: MINER_HOT,
        netuid: NETUID,
        amount: COIN,
        limit_price,
        allow_partial: false,
    };
    let remove = |limit_price| SubtensorCall::RemoveStakeLimit {
        hotkey: MINER_HOT,
        netuid: NETUID,
        amount: COIN,
        limit_price,
        allow_partial: true,
    };
    assert_eq!(world.subtensor(RICH, add(COIN - 1)), Err(events::SLIPPAGE_TOO_HIGH));
    world.subtensor(RICH, add(COIN)).unwrap();
    assert_eq!(world.subtensor(RICH, remove(COIN + 1)), Err(events::SLIPPAGE_TOO_HIGH));
    world.subtensor(RICH, remove(COIN)).unwrap();
    assert_eq!(stake::of_pair(&world.state(), &MINER_HOT, &RICH, NETUID), 0);
}

/// A commitment beyond its quota, or of somebody who is no neuron, would fill the chain.
#[test]
fn commitments_have_a_quota() {
    let mut world = World::new();
    let set =
        |info: Vec<u8>| Call::Commitments(CommitmentsCall::SetCommitment { netuid: NETUID, info });
    assert_eq!(world.call(RICH, &set(vec![0])), Err(events::ACCOUNT_NOT_ALLOWED_COMMIT));
    assert_eq!(world.call(OWNER_HOT, &set(vec![16])), Err(events::TOO_MANY_FIELDS));
    for _ in 0..31 {
        world.call(OWNER_HOT, &set(vec![4, 2, b'x'])).unwrap();
    }
    let over = world.call(OWNER_HOT, &set(vec![4, 2, b'x']));
    assert_eq!(over, Err(events::SPACE_LIMIT_EXCEEDED));
    world.step(10);
    world.call(OWNER_HOT, &set(vec![4, 2, b'x'])).unwrap();
}

/// A call that is listed and not carried out must say so; silent success would fool its sender.
#[test]
fn what_is_not_carried_out_is_refused() {
    let mut world = World::new();
    for (pallet, expected) in
        [(12, events::REQUIRE_SUDO), (7, events::CALL_FILTERED), (0, events::CALL_FILTERED)]
    {
        assert_eq!(world.call(RICH, &Call::Listed(pallet)), Err(expected));
    }
}

/// A first state that the chain does not begin with makes every test of a large or second subnet a test of nothing.
#[test]
fn subnets_begin_as_they_are_described() {
    let mut first = first_state();
    let key = |number: u16| {
        let mut bytes = [0x77; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        AccountId::from_bytes(bytes)
    };
    first.subnets[0].miners = (0..254).map(|n| (Hotkey(key(n)), Coldkey(key(n)))).collect();
    let mut second = SubnetGenesis::new(Netuid(15), Coldkey(key(900)), Hotkey(key(901)));
    second.tempo = 20;
    second.parameters.registration = Registration::Closed;
    second.parameters.liquid_alpha = Some(LiquidAlpha { low: 1, high: 2, steepness: 300 });
    second.parameters.burn_increase_percent = 200;
    first.subnets.push(second);
    first.stake_threshold = Rao(7);
    let mut world = World::of(&first);
    let state = world.state();
    assert_eq!(neurons::count(&state, NETUID), 256);
    assert_eq!(items::INCENTIVE.get(&state, &NETUID).unwrap().len(), 256);
    assert_eq!(items::TEMPO.get(&state, &15), Some(20));
    assert_eq!(items::ALPHA_VALUES.get(&state, &15), Some((1, 2)));
    assert_eq!(items::LIQUID_ALPHA_ON.get(&state, &NETUID), Some(false));
    assert_eq!(items::BURN_INCREASE_MULT.get(&state, &15), Some(2 << 64));
    assert_eq!(items::STAKE_THRESHOLD.get(&state), Some(7));
    let call = SubtensorCall::BurnedRegister { netuid: 15, hotkey: MINER_HOT };
    assert_eq!(world.subtensor(RICH, call), Err(events::REGISTRATION_DISABLED));
    world.step(20);
    let mut full = first.clone();
    full.subnets[0].miners.push((Hotkey(key(800)), Coldkey(key(800))));
    let refused = |first: &Genesis| genesis::build(first, [0; 32]).unwrap_err();
    assert_eq!(refused(&full), GenesisError::TooManyNeurons(NETUID));
    let mut twice = first.clone();
    twice.subnets[0].miners[1] = twice.subnets[0].miners[0];
    assert_eq!(refused(&twice), GenesisError::Hotkey(Hotkey(key(0))));
    let mut wide = first.clone();
    wide.subnets[1].parameters.max_uids = 4_097;
    assert_eq!(refused(&wide), GenesisError::Uids(15, 4_097));
    let mut split = first;
    split.subnets[1].parameters.mechanisms = MECHANISMS_MAX + 1;
    assert_eq!(refused(&split), GenesisError::Mechanisms(15, MECHANISMS_MAX + 1));
}
