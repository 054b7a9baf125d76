//! The epoch against recorded epochs and against what must hold for any input.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const GOLDEN: &str = include_str!("../../testdata/yuma_epoch.json");
/// The registration block of every neuron, and the block of the first weights, in the recorded epochs.
const REGISTERED_AT: u64 = 0;
const FIRST_BLOCK: u64 = 10;

fn golden() -> Value {
    serde_json::from_str(GOLDEN).unwrap()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

fn subnet(stake: Vec<u64>, validators: usize) -> EpochInput {
    let n = stake.len();
    EpochInput {
        block: FIRST_BLOCK,
        tempo: 1,
        n,
        stake,
        weights: vec![Vec::new(); n],
        bonds: vec![Vec::new(); n],
        last_update: vec![FIRST_BLOCK; n],
        registered_at: vec![REGISTERED_AT; n],
        permits: (0..n).map(|i| i < validators).collect(),
        kappa: 32_767,
        bonds_moving_average: 900_000,
        bonds_penalty: 65_535,
        activity_cutoff: 5_000,
        max_validators: u16::try_from(validators).unwrap(),
        emission_rao: 1_000_000_000,
        owner_uid: None,
        last_step: 0,
        yuma3: false,
        liquid_alpha: None,
    }
}

fn next(input: &mut EpochInput, output: &EpochOutput) {
    input.bonds.clone_from(&output.bonds);
    input.last_step = input.block;
    input.block += 1;
}

fn bonds_of(step: &Value) -> Vec<Vec<(u16, u16)>> {
    let rows = step["bonds"].as_object().unwrap();
    let row = |i: usize| {
        let mut row: Vec<(u16, u16)> = rows[&i.to_string()]
            .as_object()
            .unwrap()
            .iter()
            .map(|(j, v)| (j.parse().unwrap(), u16::try_from(v.as_u64().unwrap()).unwrap()))
            .collect();
        row.sort_unstable();
        row
    };
    (0..rows.len()).map(row).collect()
}

fn widen(values: &[u16]) -> Vec<u64> {
    values.iter().map(|&v| u64::from(v)).collect()
}

/// A difference in one bit would pay miners something else than the chain pays.
#[test]
fn seven_epochs_of_bonds_are_equal_bit_for_bit() {
    let golden = golden();
    let mut input = subnet(numbers(&golden["params"]["stake"]), 8);
    let first = [(4, 16_383), (5, 32_767), (6, 49_149), (7, 65_535)];
    for row in &mut input.weights[..4] {
        *row = first.to_vec();
    }
    for (number, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        match number {
            1..=3 => input.weights[number - 1] = vec![(u16::try_from(number).unwrap() - 1, 65_535)],
            4 => input.weights[2] = vec![(7, 65_535)],
            _ => {}
        }
        let output = epoch(&input).unwrap();
        for (name, found) in [
            ("emission", output.emission.clone()),
            ("server_emission", output.server_emission.clone()),
            ("validator_emission", output.validator_emission.clone()),
            ("incentive", widen(&output.incentive)),
            ("dividends", widen(&output.dividends)),
            ("consensus", widen(&output.consensus)),
            ("validator_trust", widen(&output.validator_trust)),
        ] {
            assert_eq!(found, numbers(&step[name]), "{name} of step {number}");
        }
        assert_eq!(output.bonds, bonds_of(step), "bonds of step {number}");
        next(&mut input, &output);
    }
}

/// Compares a proportion with a recorded decimal within the recorded tolerance.
fn close(found: u16, expected: &Value) -> bool {
    (f64::from(found) / 65_535.0 - expected.as_f64().unwrap()).abs() < 1e-3
}

/// A wrong liquid alpha would reward the validators that follow instead of those that lead.
#[test]
fn yuma3_with_liquid_alpha_follows_the_recorded_case() {
    let golden = golden();
    let case = &golden["yuma3_case1"];
    let mut input = subnet(numbers(&case["stakes"]), 3);
    input.bonds_moving_average = 975_000;
    input.bonds_penalty = 0;
    input.yuma3 = true;
    input.liquid_alpha = Some(LiquidAlpha { low: 6_553, high: 19_660, steepness: 1_000 });
    let expected = case["expected_bonds_1e-3"].as_array().unwrap().iter();
    let dividends = case["expected_dividends_1e-3"].as_array().unwrap();
    for (number, (bonds, dividends)) in expected.zip(dividends).enumerate() {
        if let Some(schedule) = case["weights_schedule"].get(number.to_string()) {
            for (row, weights) in input.weights.iter_mut().zip(schedule.as_array().unwrap()) {
                let weights = numbers(weights).into_iter().map(|w| u16::try_from(w).unwrap());
                *row = (3..).zip(weights).collect();
            }
        }
        let output = epoch(&input).unwrap();
        for (row, expected) in output.bonds.iter().zip(bonds.as_array().unwrap()) {
            for (uid, expected) in (3..).zip(expected.as_array().unwrap()) {
                let found = row.iter().find(|(j, _)| *j == uid).map_or(0, |(_, bond)| *bond);
                assert!(close(found, expected), "step {number} uid {uid}: {found} {expected}");
            }
        }
        for (found, expected) in output.dividends.iter().zip(dividends.as_array().unwrap()) {
            assert!(close(*found, expected), "dividend of step {number}: {found} {expected}");
        }
        next(&mut input, &output);
    }
}

/// A validator that went silent must lose its say, and one alone with stake must not lose the emission.
#[test]
fn inactive_stake_has_no_say() {
    let mut input = subnet(vec![1, 1, 0], 2);
    input.weights[0] = vec![(2, 65_535)];
    input.weights[1] = vec![(2, 65_535)];
    input.block = FIRST_BLOCK + 5_001;
    input.last_update[1] = input.block;
    let output = epoch(&input).unwrap();
    assert_eq!(output.active, [false, true, false]);
    assert_eq!(output.dividends, [0, 65_535, 0]);
    input.last_update = vec![FIRST_BLOCK; 3];
    let output = epoch(&input).unwrap();
    assert_eq!(output.validator_emission, [500_000_000, 500_000_000, 0]);
    assert_eq!(output.server_emission, [0, 0, 0]);
}

/// A weight or bond that outlives the neuron it was meant for would pay a newcomer for another's work.
#[test]
fn a_newcomer_inherits_nothing() {
    let mut input = subnet(vec![1, 0], 1);
    input.weights[0] = vec![(1, 65_535)];
    input.bonds[0] = vec![(1, 65_535)];
    input.registered_at[1] = FIRST_BLOCK;
    let output = epoch(&input).unwrap();
    assert_eq!(output.incentive, [0, 0]);
    assert_eq!(output.bonds, [vec![], vec![]]);
    input.last_update[0] = FIRST_BLOCK + 1;
    assert_eq!(epoch(&input).unwrap().incentive, [0, 65_535]);
}

/// The owner's weight on itself is how a subnet burns its miners' share.
#[test]
fn only_the_owner_may_weigh_itself() {
    let mut input = subnet(vec![1, 0], 1);
    input.weights[0] = vec![(0, 65_535)];
    assert_eq!(epoch(&input).unwrap().incentive, [0, 0]);
    input.owner_uid = Some(0);
    assert_eq!(epoch(&input).unwrap().incentive, [65_535, 0]);
    input.permits[0] = false;
    assert_eq!(epoch(&input).unwrap().incentive, [65_535, 0], "the owner is always permitted");
}

/// Lists that do not fit each other must be refused, not read past their end.
#[test]
fn unfit_lists_are_refused() {
    let good = subnet(vec![1, 0], 1);
    let mut input = good.clone();
    input.stake.pop();
    let expected = EpochError::Length { list: "stake", found: 1, expected: 2 };
    assert_eq!(epoch(&input), Err(expected));
    let mut input = good.clone();
    input.weights[0] = vec![(2, 1)];
    assert_eq!(epoch(&input), Err(EpochError::Uid { list: "weights", row: 0, uid: 2 }));
    let mut input = good.clone();
    input.bonds[1] = vec![(0, 1), (0, 2)];
    assert_eq!(epoch(&input), Err(EpochError::Twice { list: "bonds", row: 1, uid: 0 }));
    let mut input = good;
    input.owner_uid = Some(2);
    assert_eq!(epoch(&input), Err(EpochError::Uid { list: "owner", row: 2, uid: 2 }));
    assert_eq!(epoch(&subnet(vec![0; NEURONS_MAX + 1], 0)), Err(EpochError::TooMany(4097)));
    assert!(epoch(&subnet(Vec::new(), 0)).is_ok());
}

fn any_rows(n: usize) -> impl Strategy<Value = Vec<Vec<(u16, u16)>>> {
    let row = proptest::collection::btree_map(0..u16::try_from(n).unwrap(), any::<u16>(), 0..=n);
    proptest::collection::vec(row.prop_map(|row| row.into_iter().collect()), n)
}

fn any_subnet() -> impl Strategy<Value = EpochInput> {
    (1_usize..7).prop_flat_map(|n| {
        let lists = (
            proptest::collection::vec(any::<u64>(), n),
            any_rows(n),
            any_rows(n),
            proptest::collection::vec(0_u64..40, n),
            proptest::collection::vec(0_u64..40, n),
            proptest::collection::vec(any::<bool>(), n),
        );
        let numbers = (any::<u16>(), 0..=1_000_000_u64, any::<u16>(), any::<u64>(), 0_u16..8);
        let bounds = proptest::option::of((any::<u16>(), any::<u16>(), any::<u16>()));
        let variant = (any::<bool>(), bounds, proptest::option::of(0..n), 0_u64..40);
        (lists, numbers, variant).prop_map(move |(lists, numbers, variant)| {
            let (stake, weights, bonds, last_update, registered_at, permits) = lists;
            let (kappa, bonds_moving_average, bonds_penalty, emission_rao, max_validators) =
                numbers;
            let (yuma3, bounds, owner, last_step) = variant;
            EpochInput {
                block: 41,
                tempo: 10,
                n,
                stake,
                weights,
                bonds,
                last_update,
                registered_at,
                permits,
                kappa,
                bonds_moving_average,
                bonds_penalty,
                activity_cutoff: 20,
                max_validators,
                emission_rao,
                owner_uid: owner.map(|at| u16::try_from(at).unwrap()),
                last_step,
                yuma3,
                liquid_alpha: bounds.map(|(low, high, steepness)| LiquidAlpha {
                    low,
                    high,
                    steepness,
                }),
            }
        })
    })
}

proptest! {
    /// An epoch that gives out more than the emission would print money.
    #[test]
    fn no_more_is_given_out_than_there_is(input in any_subnet()) {
        let output = epoch(&input).unwrap();
        let total = |list: &[u64]| list.iter().copied().map(u128::from).sum::<u128>();
        let emission = u128::from(input.emission_rao);
        prop_assert!(total(&output.emission) <= emission);
        prop_assert!(total(&output.server_emission) + total(&output.validator_emission) <= emission);
        let incentive: u32 = output.incentive.iter().copied().map(u32::from).sum();
        let dividends: u32 = output.dividends.iter().copied().map(u32::from).sum();
        prop_assert!(incentive <= 65_535 && dividends <= 65_535);
    }

    /// A validator without a permit must hold no bonds, and nobody may weigh itself into an income.
    #[test]
    fn permits_bound_the_bonds(input in any_subnet()) {
        let output = epoch(&input).unwrap();
        let owner = usize::from(input.owner_uid.is_some());
        let permitted = output.new_permits.iter().filter(|permit| **permit).count();
        prop_assert!(permitted <= usize::from(input.max_validators) + owner);
        for (row, permit) in output.bonds.iter().zip(&output.new_permits) {
            prop_assert!(*permit || row.is_empty());
        }
    }

    /// An epoch that depends on anything but its input would fork the chain.
    #[test]
    fn the_same_input_gives_the_same_epoch(input in any_subnet()) {
        prop_assert_eq!(epoch(&input), epoch(&input));
    }
}
