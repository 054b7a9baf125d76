//! The epoch against the figures of the chain's own tests.

use serde_json::Value;

use super::*;

const YUMA3_CASES: &str = include_str!("../../testdata/yuma3_cases.json");
/// The emission of these epochs, in rao.
const EMISSION: u64 = 1_000_000_000;

/// A subnet in which everybody may validate, as the chain's tests begin with.
fn open_subnet(stake: Vec<u64>, max_validators: u16) -> EpochInput {
    let n = stake.len();
    EpochInput {
        block: 1,
        tempo: 1,
        n,
        stake,
        weights: vec![Vec::new(); n],
        bonds: vec![Vec::new(); n],
        last_update: vec![1; n],
        registered_at: vec![0; n],
        permits: vec![true; n],
        kappa: 32_767,
        bonds_moving_average: 900_000,
        bonds_penalty: u16::MAX,
        activity_cutoff: 5_000,
        max_validators,
        emission_rao: EMISSION,
        owner_uid: None,
        last_step: 1,
        yuma3: false,
        liquid_alpha: None,
    }
}

fn bond(output: &EpochOutput, from: usize, to: u16) -> u16 {
    output.bonds[from].iter().find(|(uid, _)| *uid == to).map_or(0, |(_, bond)| *bond)
}

/// A validator that fell silent keeps its bonds for a while and earns less; a wrong share pays it for nothing.
#[test]
fn stake_that_sets_no_weights_loses_its_bonds_slowly() {
    let mut input = open_subnet(vec![1; 4], 4);
    for row in &mut input.weights[..2] {
        *row = vec![(2, 32_767), (3, 32_767)];
    }
    let output = epoch(&input).unwrap();
    assert_eq!(output.dividends[..2], [32_767, 32_767]);
    assert_eq!(output.emission, [250_000_000; 4]);
    assert_eq!([bond(&output, 0, 2), bond(&output, 1, 3)], [65_535, 65_535]);
    // Only uid 0 sets weights again, after the cutoff.
    input.bonds = output.bonds;
    input.block = 5_002;
    input.last_update = vec![5_002, 1, 0, 0];
    let output = epoch(&input).unwrap();
    assert_eq!(output.active, [true, false, false, false]);
    assert_eq!(output.dividends[..2], [36_044, 29_490]);
    assert_eq!(output.emission[..2], [274_999_999, 224_999_999]);
    assert_eq!([bond(&output, 0, 2), bond(&output, 1, 2)], [65_535, 53_619]);
    // Then uid 1 as well.
    input.bonds = output.bonds;
    input.block = 5_003;
    input.last_update = vec![5_002, 5_002, 0, 0];
    let output = epoch(&input).unwrap();
    assert_eq!(output.dividends[..2], [35_716, 29_818]);
    assert_eq!(output.emission[..2], [272_501_132, 227_498_866]);
    assert_eq!([bond(&output, 0, 3), bond(&output, 1, 3)], [65_535, 54_712]);
}

/// Weights on a neuron that was replaced are about somebody else; counted, they pay the newcomer.
#[test]
fn weights_from_before_a_registration_do_not_count() {
    let mut input = open_subnet(vec![1; 4], 4);
    for row in &mut input.weights[..2] {
        *row = vec![(2, 65_535), (3, 32_768)];
    }
    input.weights[2] = vec![(2, 65_535)];
    input.weights[3] = vec![(3, 65_535)];
    let output = epoch(&input).unwrap();
    assert_eq!(output.emission, [250_000_000, 250_000_000, 333_331_637, 166_668_361]);
    // uid 3 is replaced by a key without stake, and only uid 0 sets its weights again.
    input.bonds = output.bonds;
    input.block = 2;
    input.last_step = 0;
    input.tempo = 0;
    input.stake[3] = 0;
    input.permits[3] = false;
    input.registered_at[3] = 1;
    input.last_update = vec![2, 1, 1, 1];
    let output = epoch(&input).unwrap();
    assert_eq!(output.dividends[..2], [32_767, 32_767]);
    assert_eq!(output.emission, [250_000_000, 250_000_000, 500_000_000, 0]);
    assert_eq!([bond(&output, 0, 2), bond(&output, 1, 2)], [65_535, 65_535]);
}

/// Without usable weights the emission must go to stake, not nowhere.
#[test]
fn zero_weights_pay_the_stake() {
    let mut input = open_subnet(vec![1, 0], 1);
    input.permits[1] = false;
    assert_eq!(epoch(&input).unwrap().emission, [EMISSION, 0]);
    // A weight on oneself says nothing.
    input.weights[1] = vec![(1, 65_535)];
    assert_eq!(epoch(&input).unwrap().emission, [EMISSION, 0]);
    // Nor does one on a neuron that was registered since.
    input.weights[0] = vec![(1, 65_535)];
    input.registered_at[1] = 2;
    assert_eq!(epoch(&input).unwrap().emission, [EMISSION, 0]);
    input.last_update[0] = 3;
    input.block = 3;
    assert_eq!(epoch(&input).unwrap().emission, [EMISSION / 2, EMISSION / 2]);
}

/// A bond on a neuron that is gone would pay its validators from the newcomer's work.
#[test]
fn bonds_on_a_replaced_miner_end_with_the_next_epoch() {
    for yuma3 in [false, true] {
        let mut input = open_subnet(vec![1, 1, 0, 0], 2);
        input.yuma3 = yuma3;
        for row in &mut input.weights[..2] {
            *row = vec![(2, 32_767), (3, 65_535)];
        }
        let before = epoch(&input).unwrap();
        assert!(bond(&before, 0, 3) > 0);
        input.bonds = before.bonds;
        input.last_step = 1;
        input.block = 12;
        input.registered_at[3] = 7;
        let after = epoch(&input).unwrap();
        assert_eq!([bond(&after, 0, 3), bond(&after, 1, 3)], [0, 0], "yuma3 {yuma3}");
        assert!(bond(&after, 0, 2) > 0);
        // A registration in the epoch's own block counts as since the last one; an older one does not.
        input.registered_at[3] = 1;
        assert!(bond(&epoch(&input).unwrap(), 0, 3) > 0);
    }
}

/// Validators and servers of a network by turns: all validators first, in turn with a server, or each after its servers.
fn places(validators: usize, n: usize, interleave: usize) -> (Vec<usize>, Vec<usize>) {
    let all: Vec<usize> = match interleave {
        0 => (0..validators).collect(),
        1 => (0..validators).map(|i| 2 * i).collect(),
        _ => (0..validators).map(|i| i * (n / validators)).collect(),
    };
    let servers = (0..n).filter(|uid| !all.contains(uid)).collect();
    (all, servers)
}

/// A permit that does not follow the stake gives a say to those who risk nothing.
#[test]
fn permits_follow_the_stake() {
    for (interleave, (n, validators), graded) in (0..3)
        .flat_map(|i| [(2_usize, 1_u16), (4, 2), (8, 4)].map(|size| (i, size)))
        .flat_map(|(i, size)| [false, true].map(|graded| (i, size, graded)))
    {
        let (first, servers) = places(usize::from(validators), n, interleave);
        let mut stake = vec![0; n];
        for &uid in &first {
            stake[uid] = if graded { u64::try_from(uid + n).unwrap() } else { 1 };
        }
        for &uid in &servers {
            stake[uid] = if graded { u64::try_from(uid).unwrap() } else { 0 };
        }
        let mut input = open_subnet(stake, validators);
        let held = |input: &EpochInput, uids: &[usize]| {
            let permits = epoch(input).unwrap().new_permits;
            uids.iter().filter(|uid| permits[**uid]).count()
        };
        assert_eq!(held(&input, &first), first.len());
        assert_eq!(held(&input, &servers), 0);
        for &uid in &servers {
            input.stake[uid] += u64::try_from(2 * n).unwrap();
        }
        assert_eq!(held(&input, &first), 0);
        assert_eq!(held(&input, &servers), servers.len());
    }
}

/// A large network in which everybody agrees has one right answer; a sum that drifts with its size pays nobody rightly.
#[test]
fn a_network_of_512_shares_equally() {
    const N: usize = 512;
    const VALIDATORS: usize = 64;
    for interleave in 0..3 {
        let (validators, servers) = places(VALIDATORS, N, interleave);
        let mut stake = vec![0; N];
        for &uid in &validators {
            stake[uid] = 328_125_000_000_000;
        }
        let mut input = open_subnet(stake, 64);
        let weights: Vec<(u16, u16)> = servers.iter().map(|uid| (self::uid(*uid), 1)).collect();
        for &uid in &validators {
            input.weights[uid].clone_from(&weights);
        }
        input.permits = (0..N).map(|uid| validators.contains(&uid)).collect();
        for _ in 0..3 {
            let output = epoch(&input).unwrap();
            for &uid in &validators {
                assert_eq!(output.dividends[uid], 1_023);
                assert_eq!(output.emission[uid], 7_812_500);
                assert_eq!(bond(&output, uid, self::uid(servers[0])), 65_535);
            }
            for &uid in &servers {
                assert_eq!([output.consensus[uid], output.incentive[uid]], [146, 146]);
                assert_eq!(output.emission[uid], 1_116_071);
            }
            input.bonds = output.bonds;
            input.last_step = input.block;
            input.block += 1;
        }
    }
}

fn close(found: u16, expected: &Value) -> bool {
    (f64::from(found) / 65_535.0 - expected.as_f64().unwrap()).abs() < 1e-3
}

/// Sets the weights of the three validators as a case has them for an epoch; an epoch that it leaves out keeps them.
fn set_weights(input: &mut EpochInput, case: &Value, number: usize) {
    let Some(rows) = case["weights"].get(number.to_string()) else { return };
    for (row, weights) in input.weights.iter_mut().zip(rows.as_array().unwrap()) {
        let weights = weights.as_array().unwrap().iter();
        let weights = weights.map(|weight| u16::try_from(weight.as_u64().unwrap()).unwrap());
        *row = (3..).zip(weights).collect();
    }
}

/// Validators that lead, follow or stay behind are paid by how their bonds move; a wrong move pays the wrong ones.
#[test]
fn yuma3_moves_bonds_as_in_every_recorded_case() {
    let all: Value = serde_json::from_str(YUMA3_CASES).unwrap();
    let all = all["cases"].as_array().unwrap();
    assert_eq!(all.len(), 5);
    for case in all {
        let name = case["name"].as_str().unwrap();
        let stakes = case["stakes"].as_array().unwrap().iter();
        let mut input = open_subnet(stakes.map(|stake| stake.as_u64().unwrap()).collect(), 3);
        input.bonds_moving_average = 975_000;
        input.bonds_penalty = 0;
        input.yuma3 = true;
        let on = case["liquid_alpha"].as_bool().unwrap();
        let bounds = LiquidAlpha { low: 6_553, high: 19_660, steepness: 1_000 };
        input.liquid_alpha = on.then_some(bounds);
        let bonds = case["bonds"].as_array().unwrap().iter();
        for (number, (bonds, dividends)) in
            bonds.zip(case["dividends"].as_array().unwrap()).enumerate()
        {
            set_weights(&mut input, case, number);
            let output = epoch(&input).unwrap();
            for (from, row) in bonds.as_array().unwrap().iter().enumerate() {
                for (to, expected) in (3..).zip(row.as_array().unwrap()) {
                    let found = bond(&output, from, to);
                    assert!(
                        close(found, expected),
                        "{name}, epoch {number}, bond {from} to {to}: {found}, {expected}"
                    );
                }
            }
            for (found, expected) in output.dividends.iter().zip(dividends.as_array().unwrap()) {
                assert!(close(*found, expected), "{name}, epoch {number}: {found}, {expected}");
            }
            input.bonds = output.bonds;
            input.last_step = input.block;
            input.block += 1;
        }
    }
}
