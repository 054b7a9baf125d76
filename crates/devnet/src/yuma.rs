//! One epoch of a subnet: who earned what from the weights of those who have stake.
//!
//! Subtensor's own steps in its own order and number format, in the older variant (bonds of stake, "Yuma 2") and the newer
//! one (bonds of weights, "Yuma 3"), with and without liquid alpha. A pure function: it owns no storage, knows no block
//! and pays nobody. Stakes below a subnet's threshold are the caller's to leave out.

#[cfg(test)]
mod cases;
mod fixed;
mod matrix;
#[cfg(test)]
mod tests;

use fixed::Fixed;
use matrix::{Row, Sparse};

/// The most neurons of one subnet that an epoch is computed for.
pub const NEURONS_MAX: usize = 4096;
/// The divisor of the moving average's parameter.
const MILLION: u128 = 1_000_000;

/// What an epoch is computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochInput {
    /// The block at which the epoch runs.
    pub block: u64,
    /// Blocks between epochs; stands in for `last_step` while that is zero.
    pub tempo: u64,
    /// Neurons of the subnet; every list below has as many entries.
    pub n: usize,
    /// Stake weight of each neuron in rao, zero where it is below the subnet's threshold.
    pub stake: Vec<u64>,
    /// Each neuron's weights as `(uid, weight)`, as they were set. A weight of zero is a statement too.
    pub weights: Vec<Vec<(u16, u16)>>,
    /// Each neuron's bonds as the last epoch left them.
    pub bonds: Vec<Vec<(u16, u16)>>,
    /// The block at which each neuron last set weights.
    pub last_update: Vec<u64>,
    /// The block at which each neuron registered.
    pub registered_at: Vec<u64>,
    /// Who holds a validator permit now.
    pub permits: Vec<bool>,
    /// The share of stake that makes a consensus, of 65535.
    pub kappa: u16,
    /// How much of the old bonds stays, in millionths.
    pub bonds_moving_average: u64,
    /// How much of a weight above the consensus is left out of the bonds, of 65535.
    pub bonds_penalty: u16,
    /// Blocks after which a neuron that set no weights counts as inactive.
    pub activity_cutoff: u64,
    /// How many permits there are.
    pub max_validators: u16,
    /// What is given out, in rao.
    pub emission_rao: u64,
    /// The subnet owner's neuron: always permitted, may weigh itself.
    pub owner_uid: Option<u16>,
    /// The block of the epoch before this one, zero if there was none.
    pub last_step: u64,
    /// Bonds of weights instead of bonds of stake.
    pub yuma3: bool,
    /// With `yuma3`: a moving average of its own for each bond.
    pub liquid_alpha: Option<LiquidAlpha>,
}

/// The bounds between which each bond's own moving average lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiquidAlpha {
    /// The lower bound, of 65535.
    pub low: u16,
    /// The upper bound, of 65535.
    pub high: u16,
    /// How sharply it moves between them, in hundredths.
    pub steepness: u16,
}

/// What an epoch changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochOutput {
    /// Each neuron's share of what servers earn, of 65535.
    pub incentive: Vec<u16>,
    /// Each neuron's share of what validators earn, of 65535.
    pub dividends: Vec<u16>,
    /// The weight that the majority of stake gives each neuron, of 65535.
    pub consensus: Vec<u16>,
    /// How much of each validator's weights lies within the consensus, of 65535.
    pub validator_trust: Vec<u16>,
    /// Each neuron's whole share of the emission, in rao.
    pub emission: Vec<u64>,
    /// Its share for serving, in rao.
    pub server_emission: Vec<u64>,
    /// Its share for validating, in rao.
    pub validator_emission: Vec<u64>,
    /// The new bonds, for those with a new permit.
    pub bonds: Vec<Vec<(u16, u16)>>,
    /// Who holds a permit from now on.
    pub new_permits: Vec<bool>,
    /// Who set weights recently enough.
    pub active: Vec<bool>,
}

/// Why an epoch cannot be computed from what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// A list that has not one entry per neuron.
    #[error("{list} has {found} entries for {expected} neurons")]
    Length {
        /// Which list.
        list: &'static str,
        /// Its entries.
        found: usize,
        /// The neurons.
        expected: usize,
    },
    /// More neurons than a subnet may have.
    #[error("{0} neurons, at most {NEURONS_MAX}")]
    TooMany(usize),
    /// An entry for a neuron that does not exist.
    #[error("{list} of neuron {row} names uid {uid}, which does not exist")]
    Uid {
        /// Which list.
        list: &'static str,
        /// Whose row.
        row: usize,
        /// The uid.
        uid: u16,
    },
    /// Two entries for one neuron.
    #[error("{list} of neuron {row} names uid {uid} twice")]
    Twice {
        /// Which list.
        list: &'static str,
        /// Whose row.
        row: usize,
        /// The uid.
        uid: u16,
    },
}

/// The stake of an epoch, normalised, and who of its holders counts.
struct Standing {
    /// Everybody's stake.
    stake: Vec<Fixed>,
    /// The stake of those that are active and permitted.
    active_stake: Vec<Fixed>,
    active: Vec<bool>,
    permits: Vec<bool>,
    new_permits: Vec<bool>,
}

/// What the weights say.
struct Verdict {
    weights: Sparse,
    clipped: Sparse,
    consensus: Vec<Fixed>,
    validator_trust: Vec<Fixed>,
    incentive: Vec<Fixed>,
}

/// Computes one epoch.
///
/// # Errors
/// When the lists do not fit each other. Nothing that fits them fails: every sum is held at the ends of its range.
pub fn epoch(input: &EpochInput) -> Result<EpochOutput, EpochError> {
    check(input)?;
    let standing = standing(input);
    let verdict = verdict(input, &standing);
    let (bonds, dividends) = bonds_and_dividends(input, &standing, &verdict);
    let shares = emission_shares(&standing, &verdict.incentive, &dividends);
    let rao = |shares: &[Fixed]| -> Vec<u64> {
        shares.iter().map(|share| share.share_of(input.emission_rao)).collect()
    };
    let stored_bonds = bonds.iter().zip(&standing.new_permits).map(|(row, permitted)| {
        let keep = |&(j, value): &(usize, Fixed)| (uid(j), value.to_proportion());
        if *permitted { row.iter().map(keep).collect() } else { Vec::new() }
    });
    Ok(EpochOutput {
        incentive: proportions(&verdict.incentive),
        dividends: proportions(&dividends),
        consensus: proportions(&verdict.consensus),
        validator_trust: proportions(&verdict.validator_trust),
        emission: rao(&shares.combined),
        server_emission: rao(&shares.server),
        validator_emission: rao(&shares.validator),
        bonds: stored_bonds.collect(),
        new_permits: standing.new_permits,
        active: standing.active,
    })
}

fn check(input: &EpochInput) -> Result<(), EpochError> {
    let expected = input.n;
    if expected > NEURONS_MAX {
        return Err(EpochError::TooMany(expected));
    }
    let lengths = [
        ("stake", input.stake.len()),
        ("weights", input.weights.len()),
        ("bonds", input.bonds.len()),
        ("last update", input.last_update.len()),
        ("registration", input.registered_at.len()),
        ("permits", input.permits.len()),
    ];
    for (list, found) in lengths {
        if found != expected {
            return Err(EpochError::Length { list, found, expected });
        }
    }
    if let Some(uid) = input.owner_uid.filter(|uid| usize::from(*uid) >= expected) {
        return Err(EpochError::Uid { list: "owner", row: usize::from(uid), uid });
    }
    check_rows("weights", &input.weights)?;
    check_rows("bonds", &input.bonds)
}

fn check_rows(list: &'static str, rows: &[Vec<(u16, u16)>]) -> Result<(), EpochError> {
    let mut seen_in = vec![None; rows.len()];
    for (row, entries) in rows.iter().enumerate() {
        for &(uid, _) in entries {
            let Some(seen) = seen_in.get_mut(usize::from(uid)) else {
                return Err(EpochError::Uid { list, row, uid });
            };
            if seen.replace(row) == Some(row) {
                return Err(EpochError::Twice { list, row, uid });
            }
        }
    }
    Ok(())
}

fn standing(input: &EpochInput) -> Standing {
    let total: u128 = input.stake.iter().copied().map(u128::from).sum();
    let stake: Vec<Fixed> =
        input.stake.iter().map(|&stake| Fixed::ratio(u128::from(stake), total)).collect();
    let recent = |updated: &u64| updated.saturating_add(input.activity_cutoff) >= input.block;
    let active: Vec<bool> = input.last_update.iter().map(recent).collect();
    let mut permits = input.permits.clone();
    let mut new_permits = matrix::top_nonzero(&stake, usize::from(input.max_validators));
    if let Some(owner) = input.owner_uid {
        permits[usize::from(owner)] = true;
        new_permits[usize::from(owner)] = true;
    }
    let mut active_stake = stake.clone();
    for (i, value) in active_stake.iter_mut().enumerate() {
        if !active[i] || !permits[i] {
            *value = Fixed::ZERO;
        }
    }
    matrix::normalise(&mut active_stake);
    Standing { stake, active_stake, active, permits, new_permits }
}

fn verdict(input: &EpochInput, standing: &Standing) -> Verdict {
    let mut weights = usable_weights(input, &standing.permits);
    matrix::normalise_rows(&mut weights);
    let kappa = Fixed::proportion(input.kappa);
    let consensus =
        matrix::weighted_median_columns(&standing.active_stake, &weights, input.n, kappa);
    let clipped = matrix::clip_columns(&weights, &consensus);
    let validator_trust = matrix::row_sums(&clipped);
    let mut incentive = matrix::column_products(&clipped, &standing.active_stake, input.n);
    matrix::normalise(&mut incentive);
    Verdict { weights, clipped, consensus, validator_trust, incentive }
}

/// The weights of permitted validators, without those on themselves (the owner's stays) and without those on a neuron
/// that registered after they were set.
fn usable_weights(input: &EpochInput, permits: &[bool]) -> Sparse {
    let row = |i: usize| {
        let counts = |j: usize| {
            let own = i == j && input.owner_uid.map(usize::from) != Some(i);
            !own && input.last_update[i] > input.registered_at[j]
        };
        let entries = input.weights[i].iter().filter(|_| permits[i]);
        entries
            .map(|&(j, weight)| (usize::from(j), Fixed::whole(weight)))
            .filter(|&(j, _)| counts(j))
            .collect()
    };
    (0..input.n).map(row).collect()
}

fn bonds_and_dividends(
    input: &EpochInput,
    standing: &Standing,
    verdict: &Verdict,
) -> (Sparse, Vec<Fixed>) {
    let penalty = Fixed::proportion(input.bonds_penalty);
    let weights = matrix::interpolate(&verdict.weights, &verdict.clipped, input.n, penalty);
    if input.yuma3 {
        bonds_of_weights(input, standing, verdict, &weights)
    } else {
        bonds_of_stake(input, standing, &verdict.incentive, &weights)
    }
}

/// Yuma 2: a bond is a share of all that was staked on a neuron.
fn bonds_of_stake(
    input: &EpochInput,
    standing: &Standing,
    incentive: &[Fixed],
    weights: &Sparse,
) -> (Sparse, Vec<Fixed>) {
    let mut old = old_bonds(input, Fixed::whole);
    matrix::normalise_columns(&mut old, input.n);
    let mut delta = matrix::scale_rows(weights, &standing.active_stake);
    matrix::normalise_columns(&mut delta, input.n);
    let mut bonds = matrix::moving_average(&delta, &old, input.n, plain_alpha(input));
    matrix::normalise_columns(&mut bonds, input.n);
    let mut dividends = matrix::row_products(&bonds, incentive);
    matrix::normalise(&mut dividends);
    matrix::upscale_columns(&mut bonds, input.n);
    (bonds, dividends)
}

/// Yuma 3: a bond follows the weight itself; stake counts once, in the dividend.
fn bonds_of_weights(
    input: &EpochInput,
    standing: &Standing,
    verdict: &Verdict,
    weights: &Sparse,
) -> (Sparse, Vec<Fixed>) {
    let old = old_bonds(input, Fixed::proportion);
    let agreed = verdict.consensus.iter().any(|value| *value != Fixed::ZERO);
    let bonds = match input.liquid_alpha.filter(|_| agreed) {
        Some(bounds) => liquid_average(weights, &old, &verdict.consensus, bounds),
        None => matrix::moving_average(weights, &old, input.n, plain_alpha(input)),
    };
    let mut shares = bonds.clone();
    matrix::normalise_columns(&mut shares, input.n);
    let totals = matrix::row_products(&shares, &verdict.incentive);
    let weighed = totals.iter().zip(&standing.active_stake);
    let mut dividends: Vec<Fixed> = weighed.map(|(total, stake)| total.times(*stake)).collect();
    matrix::normalise(&mut dividends);
    (bonds, dividends)
}

/// The stored bonds without those on a neuron that registered since the last epoch.
fn old_bonds(input: &EpochInput, number: impl Fn(u16) -> Fixed) -> Sparse {
    let last_tempo = match input.last_step {
        0 => input.block.saturating_sub(input.tempo),
        step => step.saturating_add(1),
    };
    let row = |row: &Vec<(u16, u16)>| {
        row.iter()
            .map(|&(j, bond)| (usize::from(j), number(bond)))
            .filter(|&(j, _)| last_tempo > input.registered_at[j])
            .collect()
    };
    input.bonds.iter().map(row).collect()
}

fn plain_alpha(input: &EpochInput) -> Fixed {
    Fixed::ONE.minus(Fixed::ratio(u128::from(input.bonds_moving_average), MILLION))
}

/// A moving average of its own for each bond. A bond without a new weight is gone.
fn liquid_average(
    weights: &Sparse,
    old: &Sparse,
    consensus: &[Fixed],
    bounds: LiquidAlpha,
) -> Sparse {
    let row = |(new, old): (&Row, &Row)| {
        let old = matrix::dense(old, consensus.len());
        let step = |&(j, weight): &(usize, Fixed)| {
            let alpha = liquid_alpha(consensus[j], weight, old[j], bounds);
            let decayed = Fixed::ONE.minus(alpha).times(old[j]);
            let bond = decayed.plus(alpha.times(weight)).min(Fixed::ONE);
            (bond > Fixed::ZERO).then_some((j, bond))
        };
        new.iter().filter_map(step).collect()
    };
    weights.iter().zip(old).map(row).collect()
}

fn liquid_alpha(consensus: Fixed, weight: Fixed, bond: Fixed, bounds: LiquidAlpha) -> Fixed {
    let (low, high) = (Fixed::proportion(bounds.low), Fixed::proportion(bounds.high));
    let distance = if weight >= bond { weight.minus(consensus) } else { bond.minus(weight) };
    let distance = distance.clamp(Fixed::ZERO, Fixed::ONE);
    let slope = Fixed::whole(bounds.steepness).over(Fixed::whole(100));
    let power = slope.times(Fixed::HALF.minus(distance)).exp();
    let sigmoid = Fixed::ONE.over(Fixed::ONE.plus(power));
    let alpha = low.plus(sigmoid.times(high.minus(low)));
    alpha.min(high.max(low)).max(low.min(high))
}

struct Shares {
    server: Vec<Fixed>,
    validator: Vec<Fixed>,
    combined: Vec<Fixed>,
}

fn emission_shares(standing: &Standing, incentive: &[Fixed], dividends: &[Fixed]) -> Shares {
    let mut combined: Vec<Fixed> = incentive
        .iter()
        .zip(dividends)
        .map(|(server, validator)| server.plus(*validator))
        .collect();
    let sum = Fixed::sum(combined.iter().copied());
    let of_sum = |values: &[Fixed]| values.iter().map(|value| value.over(sum)).collect();
    if sum == Fixed::ZERO {
        let idle = standing.active_stake.iter().all(|stake| *stake == Fixed::ZERO);
        let by_stake = if idle { &standing.stake } else { &standing.active_stake };
        return Shares {
            server: vec![Fixed::ZERO; incentive.len()],
            validator: by_stake.clone(),
            combined: by_stake.clone(),
        };
    }
    matrix::normalise(&mut combined);
    Shares { server: of_sum(incentive), validator: of_sum(dividends), combined }
}

fn proportions(values: &[Fixed]) -> Vec<u16> {
    values.iter().map(|value| value.to_proportion()).collect()
}

fn uid(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}
