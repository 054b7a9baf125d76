//! Weights by commit and reveal, and the beacon that opens them.

use ark_serialize::{CanonicalDeserialize as _, CanonicalSerialize as _};
use ark_std::rand::rngs::StdRng;
use ark_std::rand::{Rng as _, SeedableRng as _};
use parity_scale_codec::Encode;
use sha2::{Digest as _, Sha256};
use timelock::block_ciphers::AESGCMBlockCipherProvider;
use timelock::engines::EngineBLS;
use timelock::engines::drand::TinyBLS381;
use timelock::ibe::fullident::Identity;
use timelock::tlock::tle;

use super::hostile::interface;
use super::{NETUID, OWNER_HOT, RICH, VALIDATOR_HOT, World, first_state};
use crate::call::{Call, SubtensorCall};
use crate::config::{Beacon, Genesis};
use crate::events;
use crate::items;
use crate::runtime::beacon::{self, OpenError, PulseError};
use crate::runtime::reveal::{self, COMMIT_BYTES_MAX, Revealed};
use crate::runtime::validity::{Invalid, subtensor_checks};

/// Drand's quicknet and its round 1000, which are public.
const QUICKNET: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510\
                        d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
const ROUND_1000: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";
/// "hello timelock" for that round, sealed by Bittensor's own library.
const HELLO: &str = "82181a4c31de37234e7be6dd90feef14335b7cc7c25f94827fbcb38f2a912542ff836e03b26fd4f41683ef67f7b77bc613f7d23e19\
    e609da99093a238ed1ff0eb2c3b346ce02b6d48fbc6ba7518183cdfb07cec643b63842caef5e0e54aa8f0820000000000000008a9499098fff711a764\
    af2ffd3983da63b23527bbde15496bb44aadee3efa8b820000000000000002d88df4229b5c5dd46e9bb7544daa1dca1eb63e9d7337bace7b91e47272f\
    b6c63a000000000000001e000000000000005473d37d9ee5dcde3a2b663309bb03927a3034925fbd958e24407beb7e6b0c0000000000000007ca5e2e5\
    9c19cc783ebb9cf08000000000000004145535f47434d5f";
const SEED: [u8; 32] = [7; 32];

fn with(beacon: Beacon) -> Genesis {
    let mut first = first_state();
    first.beacon = Some(beacon);
    for subnet in &mut first.subnets {
        subnet.parameters.switches.commit_reveal = true;
        subnet.parameters.weights_rate_limit = 0;
    }
    first
}

fn own() -> World {
    World::of(&with(Beacon::Own { seed: SEED, period_s: 1 }))
}

fn recorded() -> World {
    let public_key = beacon::public_key(&SEED);
    World::of(&with(Beacon::Recorded { public_key, genesis_s: 0, period_s: 1 }))
}

fn quicknet() -> [u8; 96] {
    hex::decode(QUICKNET).unwrap().try_into().unwrap()
}

fn round_1000() -> [u8; 48] {
    hex::decode(ROUND_1000).unwrap().try_into().unwrap()
}

/// What a commit holds.
fn payload(hotkey: &[u8], uids: &[u16], values: &[u16]) -> Vec<u8> {
    (hotkey.to_vec(), uids.to_vec(), values.to_vec(), 0_u64).encode()
}

/// A commit in the chain's layout.
fn seal(round: u64, payload: &[u8]) -> Vec<u8> {
    let key = beacon::public_key(&SEED);
    let key = <TinyBLS381 as EngineBLS>::PublicKeyGroup::deserialize_compressed(&key[..]).unwrap();
    let identity = Identity::new(b"", &Sha256::digest(round.to_be_bytes()));
    let rng = StdRng::seed_from_u64(round);
    let sealed =
        tle::<TinyBLS381, AESGCMBlockCipherProvider, _>(key, [5; 32], payload, identity, rng);
    let sealed = sealed.unwrap();
    let mut out = Vec::new();
    sealed.header.u.serialize_compressed(&mut out).unwrap();
    for part in [&sealed.header.v[..], &sealed.header.w, &sealed.body, &sealed.cipher_suite] {
        out.extend_from_slice(&u64::try_from(part.len()).unwrap().to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn sealed(commit: Vec<u8>, reveal_round: u64) -> SubtensorCall {
    SubtensorCall::CommitTimelockedWeights { netuid: NETUID, commit, reveal_round, version: 4 }
}

fn row(world: &World, uid: u16) -> Vec<(u16, u16)> {
    items::WEIGHTS.get(&world.state(), &NETUID, &uid).unwrap_or_default()
}

fn index(world: &World) -> u64 {
    items::SUBNET_EPOCH_INDEX.get(&world.state(), &NETUID).unwrap_or_default()
}

/// Makes blocks until the epoch has this number.
fn until_epoch(world: &mut World, epoch: u64) {
    for _ in 0..100 {
        if index(world) >= epoch {
            return;
        }
        world.step(1);
    }
    panic!("no epoch {epoch}");
}

/// A chain whose beacon is not drand's in every byte opens nothing that Bittensor's clients seal.
#[test]
fn the_recorded_round_of_quicknet_verifies_and_opens() {
    assert!(beacon::verify(&quicknet(), 1_000, &round_1000()));
    assert!(!beacon::verify(&quicknet(), 1_001, &round_1000()));
    assert!(!beacon::verify(&beacon::public_key(&SEED), 1_000, &round_1000()));
    let opened = beacon::open(&hex::decode(HELLO).unwrap(), &round_1000()).unwrap();
    assert_eq!(opened, b"hello timelock");
    let other = beacon::open(&hex::decode(HELLO).unwrap(), &beacon::sign(&SEED, 1_000));
    assert_eq!(other, Err(OpenError::Key));
    assert_eq!(beacon::open(&hex::decode(HELLO).unwrap(), &[0xff; 48]), Err(OpenError::Signature));
}

/// A beacon that runs ahead of the chain's clock opens commits before their time; one that skips rounds never does.
#[test]
fn the_own_beacon_follows_the_clock() {
    let mut world = own();
    let last = |world: &World| items::LAST_STORED_ROUND.get(&world.state()).unwrap();
    assert_eq!(last(&world), 2, "rounds 1 and 2 are published at 0 and 1 s");
    world.step(3);
    assert_eq!(last(&world), 5);
    let key = items::BEACON_CONFIG.get(&world.state()).unwrap().public_key;
    for round in 1..=5 {
        let pulse = items::PULSES.get(&world.state(), &round).unwrap();
        assert!(beacon::verify(&key, round, &pulse.signature.clone().try_into().unwrap()));
        assert_eq!(pulse.randomness, Sha256::digest(&pulse.signature).to_vec());
    }
    assert_eq!(items::PULSES.get(&world.state(), &6), None);
    // After a long stop a block catches up with fifty rounds at most.
    world.block += 500;
    world.step(1);
    assert_eq!(last(&world), 55);
}

/// Whoever can feed a recorded beacon anything but its own rounds opens commits, or keeps them shut.
#[test]
fn a_recorded_beacon_takes_its_own_rounds_in_order() {
    let mut world = recorded();
    let check = |world: &World, round, signature| beacon::check(&world.state(), round, &signature);
    let sign = |round| beacon::sign(&SEED, round);
    assert_eq!(check(&world, 1_000, sign(1_000)), Ok(()));
    assert_eq!(check(&world, 1_000, sign(999)), Err(PulseError::Signature));
    assert_eq!(check(&world, 1_000, [0; 48]), Err(PulseError::Signature));
    world.pulses.insert(1_000, sign(1_000));
    world.pulses.insert(1_001, sign(1_001));
    world.pulses.insert(1_003, sign(1_003));
    world.step(1);
    assert_eq!(items::LAST_STORED_ROUND.get(&world.state()), Some(1_001), "a gap waits");
    assert_eq!(check(&world, 1_001, sign(1_001)), Err(PulseError::Round));
    assert_eq!(check(&own(), 1_000, sign(1_000)), Err(PulseError::NotRecorded));
    assert_eq!(check(&World::new(), 1_000, sign(1_000)), Err(PulseError::NotRecorded));
}

/// Weights that are opened too early are no secret; opened after the epoch they count an epoch too late.
#[test]
fn sealed_weights_are_opened_before_the_epoch_of_their_reveal() {
    let mut world = own();
    let round = 12;
    let commit = seal(round, &payload(&VALIDATOR_HOT, &[0, 1], &[1, 2]));
    world.subtensor(VALIDATOR_HOT, sealed(commit.clone(), round)).unwrap();
    assert_eq!(neurons_last_update(&world, 1), world.block);
    let waiting = items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0).unwrap();
    assert_eq!(waiting, [(VALIDATOR_HOT, 1, commit, round)]);
    world.step(8);
    assert_eq!((world.block, row(&world, 1)), (9, vec![]), "the epoch has not come");
    // Block 10 runs the epoch; the round's pulse stands in the state since block 11 only.
    world.step(2);
    assert_eq!((index(&world), row(&world, 1)), (1, vec![]), "the pulse was not there yet");
    world.step(1);
    assert_eq!(row(&world, 1), [(0, 32_767), (1, 65_535)]);
    assert_eq!(items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0), None);
    assert_eq!(neurons_last_update(&world, 1), 1, "the reveal is no second commit");
    // One whose round was published in time is opened in the very block of the epoch.
    let commit = seal(15, &payload(&OWNER_HOT, &[1], &[9]));
    world.subtensor(OWNER_HOT, sealed(commit, 15)).unwrap();
    until_epoch(&mut world, 2);
    assert_eq!(row(&world, 0), [(1, 65_535)]);
}

fn neurons_last_update(world: &World, uid: usize) -> u64 {
    items::LAST_UPDATE.get(&world.state(), &NETUID).unwrap()[uid]
}

/// A commit whose round never comes must neither block the others nor be opened in a later epoch.
#[test]
fn a_commit_without_its_round_is_dropped_after_its_epoch() {
    let mut world = recorded();
    for (who, round) in [(VALIDATOR_HOT, 900), (OWNER_HOT, 500)] {
        let commit = seal(round, &payload(&who, &[1], &[1]));
        world.subtensor(who, sealed(commit, round)).unwrap();
    }
    until_epoch(&mut world, 1);
    world.pulses.insert(500, beacon::sign(&SEED, 500));
    world.step(2);
    assert_eq!((row(&world, 0).len(), row(&world, 1).len()), (1, 0));
    let left = items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0).unwrap();
    assert_eq!(left.iter().map(|commit| commit.3).collect::<Vec<_>>(), [900]);
    until_epoch(&mut world, 2);
    assert_eq!(items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0), None);
    for round in 501..=900 {
        world.pulses.insert(round, beacon::sign(&SEED, round));
    }
    world.step(10);
    assert_eq!(row(&world, 1), []);
}

/// A client that does not see the real chain's refusal for each mistake cannot be tested against this one.
#[test]
fn sealed_commits_are_refused_as_on_the_real_chain() {
    let mut world = own();
    let commit = |version| SubtensorCall::CommitTimelockedWeights {
        netuid: NETUID,
        commit: vec![1],
        reveal_round: 9,
        version,
    };
    let wrong = world.subtensor(VALIDATOR_HOT, commit(3));
    assert_eq!(wrong, Err(events::INCORRECT_COMMIT_REVEAL_VERSION));
    assert_eq!(world.subtensor(RICH, commit(4)), Err(events::NOT_REGISTERED_IN_SUBNET));
    let mechanism = SubtensorCall::CommitTimelockedMechanismWeights {
        netuid: NETUID,
        mecid: 9,
        commit: vec![1],
        reveal_round: 9,
        version: 4,
    };
    let refused = world.subtensor(VALIDATOR_HOT, mechanism);
    assert_eq!(refused, Err(events::MECHANISM_DOES_NOT_EXIST));
    let older = |netuid| SubtensorCall::CommitCrv3MechanismWeights {
        netuid,
        mecid: 0,
        commit: vec![1],
        reveal_round: 9,
    };
    world.subtensor(VALIDATOR_HOT, older(NETUID)).unwrap();
    assert_eq!(world.subtensor(VALIDATOR_HOT, older(99)), Err(events::MECHANISM_DOES_NOT_EXIST));
    for _ in 1..10 {
        world.subtensor(VALIDATOR_HOT, commit(4)).unwrap();
    }
    let eleventh = world.subtensor(VALIDATOR_HOT, commit(4));
    assert_eq!(eleventh, Err(events::TOO_MANY_UNREVEALED_COMMITS));
    world.set(&items::WEIGHTS_RATE_LIMIT, &5);
    assert_eq!(world.subtensor(VALIDATOR_HOT, commit(4)), Err(events::COMMITTING_WEIGHTS_TOO_FAST));
    world.step(5);
    let pool = |world: &World, call: &SubtensorCall| {
        let call = Call::Subtensor(call.clone());
        subtensor_checks(&world.state(), world.block, &VALIDATOR_HOT, &call)
    };
    assert_eq!(pool(&world, &sealed(vec![1], 6)), Err(Invalid::Custom(15)), "round 7 is out");
    assert_eq!(pool(&world, &sealed(vec![1], 7)), Ok(()));
}

/// A commit of any length would let one neuron fill the chain's state.
#[test]
fn a_commit_has_a_longest_length() {
    for (len, fits) in [(COMMIT_BYTES_MAX, true), (COMMIT_BYTES_MAX + 1, false)] {
        let mut bytes = vec![7];
        sealed(vec![1; len], 1).encode_to(&mut bytes);
        assert_eq!(Call::decode(interface(), 0, &bytes).is_ok(), fits, "{len}");
    }
}

fn hashed(weights: (&[u16], &[u16]), salt: &[u16]) -> ([u8; 32], SubtensorCall) {
    let (uids, values) = weights;
    let revealed = Revealed { uids, values, salt, version_key: 0 };
    let call = SubtensorCall::RevealWeights {
        netuid: NETUID,
        uids: uids.to_vec(),
        values: values.to_vec(),
        salt: salt.to_vec(),
        version_key: 0,
    };
    (reveal::hash_of(&VALIDATOR_HOT, NETUID, revealed), call)
}

/// Each way in which a reveal of a hash can be wrong has its own answer; the right one sets the weights once.
#[test]
fn hashed_weights_are_revealed_once_and_in_their_epoch() {
    let mut world = own();
    let commit = |hash| SubtensorCall::CommitWeights { netuid: NETUID, commit_hash: hash };
    let (hash, call) = hashed((&[0, 1], &[3, 1]), &[4, 5]);
    let (_, other) = hashed((&[0, 1], &[3, 2]), &[4, 5]);
    let pool = |world: &World, call: &SubtensorCall| {
        let call = Call::Subtensor(call.clone());
        subtensor_checks(&world.state(), world.block, &VALIDATOR_HOT, &call)
    };
    assert_eq!(world.subtensor(VALIDATOR_HOT, call.clone()), Err(events::NO_WEIGHTS_COMMIT_FOUND));
    world.subtensor(VALIDATOR_HOT, commit(hash)).unwrap();
    assert_eq!(pool(&world, &call), Err(Invalid::Custom(17)));
    assert_eq!(pool(&world, &other), Err(Invalid::Custom(16)));
    assert_eq!(world.subtensor(VALIDATOR_HOT, call.clone()), Err(events::REVEAL_TOO_EARLY));
    until_epoch(&mut world, 1);
    assert_eq!(world.subtensor(VALIDATOR_HOT, other), Err(events::INVALID_REVEAL));
    assert_eq!(world.subtensor(OWNER_HOT, call.clone()), Err(events::NO_WEIGHTS_COMMIT_FOUND));
    assert_eq!(pool(&world, &call), Ok(()));
    world.subtensor(VALIDATOR_HOT, call.clone()).unwrap();
    assert_eq!(row(&world, 1), [(0, 65_535), (1, 21_845)]);
    let again = world.subtensor(VALIDATOR_HOT, call.clone());
    assert_eq!(again, Err(events::NO_WEIGHTS_COMMIT_FOUND));
    world.subtensor(VALIDATOR_HOT, commit(hash)).unwrap();
    until_epoch(&mut world, 3);
    assert_eq!(world.subtensor(VALIDATOR_HOT, call.clone()), Err(events::EXPIRED_WEIGHT_COMMIT));
    for _ in 0..10 {
        world.subtensor(VALIDATOR_HOT, commit([1; 32])).unwrap();
    }
    let eleventh = world.subtensor(VALIDATOR_HOT, commit([2; 32]));
    assert_eq!(eleventh, Err(events::TOO_MANY_UNREVEALED_COMMITS));
    world.set(&items::COMMIT_REVEAL_ENABLED, &false);
    let off = world.subtensor(VALIDATOR_HOT, commit([2; 32]));
    assert_eq!(off, Err(events::COMMIT_REVEAL_DISABLED));
    assert_eq!(world.subtensor(VALIDATOR_HOT, call), Err(events::COMMIT_REVEAL_DISABLED));
}

/// Somebody else's commit, sent again, must not set that one's weights; nor may one that the chain would refuse in the clear.
#[test]
fn foreign_and_impossible_commits_are_dropped() {
    let mut world = own();
    let stolen = seal(5, &payload(&VALIDATOR_HOT, &[0], &[1]));
    let impossible = seal(5, &payload(&OWNER_HOT, &[9], &[1]));
    let short = seal(5, &payload(&[1, 2, 3], &[0], &[1]));
    let older = seal(5, &(vec![1_u16], vec![1_u16], 0_u64).encode());
    for commit in [stolen, impossible, short, seal(5, b""), older] {
        world.subtensor(OWNER_HOT, sealed(commit, 5)).unwrap();
    }
    until_epoch(&mut world, 1);
    assert_eq!(row(&world, 1), []);
    assert_eq!(row(&world, 0), [(1, 65_535)], "the older payload names no hotkey and counts");
    assert_eq!(items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0), None);
}

/// A commit that ends the process ends the chain: every length and every byte of it is the sender's.
#[test]
fn hostile_commits_open_to_nothing() {
    let signature = beacon::sign(&SEED, 5);
    let good = seal(5, &payload(&VALIDATOR_HOT, &[0, 1], &[1, 2]));
    assert!(beacon::open(&good, &signature).is_ok());
    for len in 0..good.len() {
        assert!(beacon::open(&good[..len], &signature).is_err(), "{len} bytes");
    }
    // Every length field, at absurd values: a decoder that trusts it allocates before it reads.
    for at in [96, 136, 176, 184, good.len() - 16] {
        for len in [u64::MAX, 1 << 62, 1 << 40, 33, 31, 0] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&len.to_le_bytes());
            let opened = beacon::open(&bad, &signature);
            assert!(opened.is_err() || at == good.len() - 16, "{at}: {len}");
        }
    }
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..300 {
        let mut bad = good.clone();
        for _ in 0..rng.gen_range(1..4) {
            let at = rng.gen_range(0..bad.len() - 16);
            bad[at] ^= rng.gen_range(1..=255_u8);
        }
        assert!(bad == good || beacon::open(&bad, &signature).is_err());
        let noise: Vec<u8> = (0..rng.gen_range(0..400)).map(|_| rng.gen_range(0..=255)).collect();
        assert!(beacon::open(&noise, &signature).is_err());
    }
    // The neutral point is a point: it must not open either.
    let mut neutral = good;
    neutral[..96].fill(0);
    neutral[0] = 0xc0;
    assert!(beacon::open(&neutral, &signature).is_err());
}

/// A validator whose commit still waits did not mean a miner that came after it: without this rule a newcomer inherits the
/// weight of whoever had its slot.
#[test]
fn the_consensus_ignores_weights_for_newcomers_behind_a_commit() {
    let mut world = own();
    let (hash, _) = hashed((&[0], &[1]), &[1]);
    world.step(1);
    world
        .subtensor(
            VALIDATOR_HOT,
            SubtensorCall::CommitWeights { netuid: NETUID, commit_hash: hash },
        )
        .unwrap();
    let since = |world: &World| reveal::waiting_since(&world.state(), world.block, (NETUID, 0), 3);
    assert_eq!(since(&world), [None, Some(2), None]);
    let commit = seal(5_000, &payload(&OWNER_HOT, &[1], &[1]));
    world.step(1);
    world.subtensor(OWNER_HOT, sealed(commit, 5_000)).unwrap();
    assert_eq!(since(&world), [Some(3), Some(2), None]);
    until_epoch(&mut world, 2);
    assert_eq!(since(&world), [None, None, None], "what is expired waits no longer");
    world.set(&items::COMMIT_REVEAL_ENABLED, &false);
    assert_eq!(since(&world), [None, None, None]);
}

/// A chain that starts with a key that is none, or a beacon without time, could never open anything.
#[test]
fn impossible_beacons_are_refused() {
    for beacon in [
        Beacon::Own { seed: SEED, period_s: 0 },
        Beacon::Own { seed: [0; 32], period_s: 1 },
        Beacon::Recorded { public_key: [0; 96], genesis_s: 0, period_s: 1 },
        Beacon::Recorded { public_key: [0xff; 96], genesis_s: 0, period_s: 1 },
    ] {
        assert!(beacon::genesis(&beacon, 0).is_err(), "{beacon:?}");
    }
    let mut neutral = [0; 96];
    neutral[0] = 0xc0;
    let neutral = Beacon::Recorded { public_key: neutral, genesis_s: 0, period_s: 1 };
    assert!(beacon::genesis(&neutral, 0).is_err());
}

/// Old rounds that stay forever would fill the disk of a chain that runs for weeks.
#[test]
fn old_rounds_are_forgotten() {
    let mut world = recorded();
    // A signature costs time: only the first and the last rounds are real ones, and nobody checks them again.
    for round in 1..=4_200 {
        world.pulses.insert(round, [1; 48]);
    }
    world.step(84);
    let state = world.state();
    assert_eq!(items::LAST_STORED_ROUND.get(&state), Some(4_200));
    let oldest = items::OLDEST_STORED_ROUND.get(&state).unwrap();
    assert_eq!(oldest, 4_200 - 4_096 + 1);
    assert!(items::PULSES.get(&state, &(oldest - 1)).is_none());
    assert!(items::PULSES.get(&state, &oldest).is_some());
}

/// Commits that cost a block more time than it has would stop the chain; what is too much for one block waits for the next.
#[test]
fn a_block_opens_so_many_commits() {
    let mut world = own();
    let commits: Vec<items::TimelockedCommit> =
        (0..300_u64).map(|at| (VALIDATOR_HOT, at, vec![1], 1)).collect();
    let mut overlay = crate::state::Overlay::new(&world.map);
    items::TIMELOCKED_COMMITS.put(&mut overlay, &NETUID, &0, &commits);
    let changes = overlay.into_changes();
    crate::state::apply(&mut world.map, changes);
    until_epoch(&mut world, 1);
    let left = items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0).unwrap();
    assert_eq!(left, commits[256..], "the oldest are opened first");
    world.step(1);
    assert_eq!(items::TIMELOCKED_COMMITS.get(&world.state(), &NETUID, &0), None);
}
