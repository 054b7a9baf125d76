//! Scores become weights: integers of 16 bits, the largest 65535, as the chain wants them.

use crate::Uid;

/// One million parts.
const PPM: u128 = 1_000_000;
/// The largest weight on chain.
const WEIGHT_MAX: u128 = 65_535;

/// Parts of a part, in which the height of a cut is found.
const EPSILON: u128 = 10_000_000;
/// How often a cut is lowered before it is given up; each time by a 65,536th.
const CUTS_MAX: u32 = 64;
const CUT_SHIFT: u32 = 16;

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightPolicy {
    /// The part of all weight, in millionths, that goes to `burn_uid`; at most one million.
    pub burn_share_ppm: u32,
    /// The subnet owner's slot, which burns what it earns.
    pub burn_uid: Option<Uid>,
}

/// What a subnet asks of weights, as the chain checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightLimits {
    /// The fewest neurons that weights must name, where the subnet has as many.
    pub count_min: u16,
    /// How many neurons the subnet has.
    pub neurons: u16,
    /// The largest share of one neuron, of 65,535; 65,535 is no limit.
    pub share_max: u16,
    /// Who sets the weights: one weight on itself alone is bound by neither.
    pub own: Option<Uid>,
}

/// Why no weights follow from the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// A share above the whole.
    #[error("a burn share of {0} millionths is more than everything")]
    BurnShare(u32),
    /// Something must burn and there is no slot for it.
    #[error("weight is to be burned, but the subnet's owner has no slot on it")]
    NoBurnUid,
    /// Nobody has a score and nothing is burned: there is nothing to say on chain.
    #[error("no provider has a score above zero")]
    Nothing,
    /// The chain would refuse so few. Strangers get no weight to make up the number.
    #[error("{have} providers have a score, and the subnet asks for weights on {need}")]
    TooFew {
        /// How many have weight.
        have: usize,
        /// How many the subnet asks for.
        need: u16,
    },
    /// So few cannot all stay below the largest share.
    #[error("{have} providers cannot each stay below {share_max} of 65535")]
    TooConcentrated {
        /// How many have weight.
        have: usize,
        /// The subnet's limit.
        share_max: u16,
    },
}

impl WeightLimits {
    /// No limits at all.
    pub const NONE: Self = Self { count_min: 0, neurons: 0, share_max: u16::MAX, own: None };
}

/// Weights from scores: `w_i = score_i × (1 − burn)`, `w_burn += Σ score × burn`, clipped to the subnet's largest share, scaled
/// so that the largest is 65535 and rounded half to even, as Bittensor's clients do. Zeros are left out; the result is sorted
/// by uid, and the chain takes it.
///
/// # Errors
/// When the policy is not possible, nothing has a score, or the subnet's limits cannot be kept.
pub fn weights(
    scores: &[(Uid, u64)],
    policy: WeightPolicy,
    limits: WeightLimits,
) -> Result<Vec<(Uid, u16)>, WeightsError> {
    let parts = parts(scores, policy)?;
    let largest = parts.iter().map(|(_, part)| *part).max().unwrap_or(0);
    if largest == 0 {
        return Err(WeightsError::Nothing);
    }
    let plain = scaled(&parts, largest);
    let only_self = matches!(plain.as_slice(), [(uid, _)] if Some(*uid) == limits.own);
    if only_self {
        return Ok(plain);
    }
    let need = limits.count_min.min(limits.neurons);
    let kept = clipped(&parts, plain, limits.share_max)?;
    if kept.len() < usize::from(need) {
        return Err(WeightsError::TooFew { have: kept.len(), need });
    }
    Ok(kept)
}

/// Each one's part of all weight, without zeros, by uid. At most 64 bits each, so that what follows cannot overflow.
fn parts(scores: &[(Uid, u64)], policy: WeightPolicy) -> Result<Vec<(Uid, u128)>, WeightsError> {
    let burn = u128::from(policy.burn_share_ppm);
    if burn > PPM {
        return Err(WeightsError::BurnShare(policy.burn_share_ppm));
    }
    let kept = PPM.saturating_sub(burn);
    let total: u128 = scores.iter().map(|(_, score)| u128::from(*score)).sum();
    let mut parts = std::collections::BTreeMap::<Uid, u128>::new();
    for (uid, score) in scores {
        let part = parts.entry(*uid).or_default();
        *part = part.saturating_add(u128::from(*score).saturating_mul(kept));
    }
    if burn > 0 {
        let uid = policy.burn_uid.ok_or(WeightsError::NoBurnUid)?;
        // With no score at all everything that is said is said by burning.
        let burned = if total == 0 { 1 } else { total.saturating_mul(burn) };
        let part = parts.entry(uid).or_default();
        *part = part.saturating_add(burned);
    }
    let largest = parts.values().copied().max().unwrap_or(0);
    let surplus = u128::BITS.saturating_sub(largest.leading_zeros()).saturating_sub(u64::BITS);
    let small = parts.into_iter().map(|(uid, part)| (uid, part >> surplus));
    Ok(small.filter(|(_, part)| *part > 0).collect())
}

/// Scales parts so that `largest` becomes 65535; what is above it does too. Zeros are left out.
fn scaled(parts: &[(Uid, u128)], largest: u128) -> Vec<(Uid, u16)> {
    let scaled = parts.iter().map(|(uid, part)| (*uid, scale((*part).min(largest), largest)));
    scaled.filter(|(_, weight)| *weight > 0).collect()
}

/// Cuts the largest parts down to one height at which each has the largest share that the chain allows.
///
/// With `k` parts cut and the others adding up to `rest`, that height is `limit × rest / (1 − limit × k)`, a ten-millionth of
/// everything lower, as Bittensor's clients have it so that rounding does not lift a share above the limit.
fn clipped(
    parts: &[(Uid, u128)],
    plain: Vec<(Uid, u16)>,
    share_max: u16,
) -> Result<Vec<(Uid, u16)>, WeightsError> {
    if keeps_share(&plain, share_max) {
        return Ok(plain);
    }
    let refused = WeightsError::TooConcentrated { have: plain.len(), share_max };
    let limit = u128::from(share_max);
    let mut sorted: Vec<u128> = parts.iter().map(|(_, part)| *part).collect();
    sorted.sort_unstable();
    let total: u128 = sorted.iter().sum();
    let mut rest = total;
    let mut cut: u128 = 0;
    while let Some(highest) = sorted.pop() {
        rest = rest.saturating_sub(highest);
        cut = cut.saturating_add(1);
        let Some(room) = WEIGHT_MAX.checked_sub(limit.saturating_mul(cut)).filter(|it| *it > 0)
        else {
            break;
        };
        // In ten-millionths of a part: exact enough, and far below 128 bits.
        let height = limit
            .saturating_mul(rest)
            .saturating_mul(EPSILON)
            .saturating_sub(WEIGHT_MAX.saturating_mul(total))
            .checked_div(room)
            .unwrap_or(0);
        // The next lower part must stay below the height, or it is to be cut as well.
        if sorted.last().is_some_and(|next| next.saturating_mul(EPSILON) <= height) {
            return cut_at(parts, height, share_max).ok_or(refused);
        }
    }
    // All of one height: the chain takes it only if so many of them stay below the limit.
    let level: Vec<(Uid, u128)> = parts.iter().map(|(uid, _)| (*uid, 1)).collect();
    let level = scaled(&level, 1);
    if keeps_share(&level, share_max) { Ok(level) } else { Err(refused) }
}

/// The weights below a height, lowered until the chain's own check passes: rounding may lift a share by a hair.
fn cut_at(parts: &[(Uid, u128)], height: u128, share_max: u16) -> Option<Vec<(Uid, u16)>> {
    let fine: Vec<(Uid, u128)> =
        parts.iter().map(|(uid, part)| (*uid, part.saturating_mul(EPSILON))).collect();
    let mut height = height;
    for _ in 0..CUTS_MAX {
        let weights = scaled(&fine, height);
        if keeps_share(&weights, share_max) {
            return Some(weights);
        }
        height = height.saturating_sub(height >> CUT_SHIFT).saturating_sub(1).max(1);
    }
    None
}

/// The chain's check: the largest weight's share of all.
fn keeps_share(weights: &[(Uid, u16)], share_max: u16) -> bool {
    let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let max = weights.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(0);
    let full = u64::from(u16::MAX);
    share_max == u16::MAX || max.saturating_mul(full) <= u64::from(share_max).saturating_mul(sum)
}

/// `round(part × 65535 / largest)`, half to even. `part ≤ largest`, so the result fits.
fn scale(part: u128, largest: u128) -> u16 {
    let scaled = part.saturating_mul(WEIGHT_MAX);
    let whole = scaled.checked_div(largest).unwrap_or(0);
    let rest = scaled.checked_rem(largest).unwrap_or(0).saturating_mul(2);
    let up = rest > largest || (rest == largest && whole & 1 == 1);
    u16::try_from(whole.saturating_add(u128::from(up))).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_BURN: WeightPolicy = WeightPolicy { burn_share_ppm: 0, burn_uid: None };

    /// Golden value of the Python clients: 0.7 and 0.3 become 65535 and 28086.
    #[test]
    fn as_the_python_clients_round() {
        let got = weights(
            &[(Uid(4), 700_000), (Uid(1), 300_000), (Uid(2), 0)],
            NO_BURN,
            WeightLimits::NONE,
        )
        .unwrap();
        assert_eq!(got, [(Uid(1), 28_086), (Uid(4), 65_535)]);
    }

    /// Golden values of `normalize_max_weight` and `convert_weights_and_uids_for_emit` of Bittensor's SDK 9.0.0 and 10.5.0:
    /// other weights than theirs would make other payments of the same scores.
    #[test]
    fn as_the_python_clients_clip() {
        let cases: [(&[u64], u16, &[u16]); 10] = [
            (&[7, 3], 65_535, &[65_535, 28_086]),
            (&[2, 1, 0], 65_535, &[65_535, 32_768]),
            (&[10, 1, 1, 1], 20_000, &[65_535, 49_736, 49_736, 49_736]),
            (&[100, 50, 3, 2, 1], 19_661, &[65_535, 65_535, 43_688, 29_125, 14_563]),
            (
                &[1, 2, 3, 4, 5, 6, 7, 8],
                10_000,
                &[16_968, 33_936, 50_905, 65_535, 65_535, 65_535, 65_535, 65_535],
            ),
            (&[5, 0, 5, 1], 30_000, &[65_535, 65_535, 13_107]),
            (&[1_000_000, 700_000, 300_000, 0, 1], 65_535, &[65_535, 45_874, 19_660]),
            (&[3, 3, 3], 30_000, &[65_535, 65_535, 65_535]),
            (&[131_070, 1], 65_535, &[65_535]),
            (&[131_070, 3], 65_535, &[65_535, 2]),
        ];
        for (scores, share_max, expected) in cases {
            let pairs: Vec<_> = scores.iter().zip(0_u16..).map(|(s, u)| (Uid(u), *s)).collect();
            let limits = WeightLimits { share_max, ..WeightLimits::NONE };
            let got = weights(&pairs, NO_BURN, limits).unwrap();
            let got: Vec<u16> = got.into_iter().map(|(_, weight)| weight).collect();
            assert_eq!(got, expected, "{scores:?} below {share_max}");
        }
    }

    /// What the chain would refuse must be known before it is sent, with the reason; and nobody gets weight for nothing.
    #[test]
    fn limits_that_cannot_be_kept() {
        let three = [(Uid(1), 5), (Uid(2), 5), (Uid(3), 1)];
        let limits = WeightLimits { count_min: 4, neurons: 9, ..WeightLimits::NONE };
        let few = weights(&three, NO_BURN, limits);
        assert_eq!(few, Err(WeightsError::TooFew { have: 3, need: 4 }));
        let small = WeightLimits { neurons: 3, ..limits };
        assert!(weights(&three, NO_BURN, small).is_ok(), "a subnet of three asks for three");
        let tight = WeightLimits { share_max: 20_000, ..WeightLimits::NONE };
        let refused = weights(&three, NO_BURN, tight);
        assert_eq!(refused, Err(WeightsError::TooConcentrated { have: 3, share_max: 20_000 }));
        let alone = WeightLimits { own: Some(Uid(1)), ..tight };
        assert_eq!(weights(&three[..1], NO_BURN, alone).unwrap(), [(Uid(1), 65_535)]);
        assert!(weights(&three[..1], NO_BURN, tight).is_err());
    }

    /// Burning must take its share and nothing else, and must not be forgotten when nobody has a score.
    #[test]
    fn burn_share() {
        let half = WeightPolicy { burn_share_ppm: 500_000, burn_uid: Some(Uid(0)) };
        let got = weights(&[(Uid(1), 10), (Uid(2), 10)], half, WeightLimits::NONE).unwrap();
        assert_eq!(got, [(Uid(0), 65_535), (Uid(1), 32_768), (Uid(2), 32_768)]);
        assert_eq!(weights(&[], half, WeightLimits::NONE).unwrap(), [(Uid(0), 65_535)]);
        let nowhere = WeightPolicy { burn_uid: None, ..half };
        assert_eq!(
            weights(&[(Uid(1), 1)], nowhere, WeightLimits::NONE),
            Err(WeightsError::NoBurnUid)
        );
        assert_eq!(
            weights(&[(Uid(1), 0)], NO_BURN, WeightLimits::NONE),
            Err(WeightsError::Nothing)
        );
        let over = WeightPolicy { burn_share_ppm: 1_000_001, ..half };
        assert_eq!(weights(&[], over, WeightLimits::NONE), Err(WeightsError::BurnShare(1_000_001)));
    }

    proptest! {
        /// Weights that break the subnet's largest share are refused by the chain, and the validator counts as gone.
        #[test]
        fn the_largest_share_is_kept(
            scores in proptest::collection::vec(1_u64..=1 << 40, 1..60),
            share_max in 300_u16..65_535,
        ) {
            let pairs: Vec<_> = scores.iter().zip(0_u16..).map(|(s, u)| (Uid(u), *s)).collect();
            let limits = WeightLimits { share_max, ..WeightLimits::NONE };
            match weights(&pairs, NO_BURN, limits) {
                Ok(got) => prop_assert!(keeps_share(&got, share_max)),
                Err(WeightsError::TooConcentrated { have, .. }) => {
                    prop_assert!(have * usize::from(share_max) <= 65_535 + 128 * have, "{have}");
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }

        /// More score must never mean less weight, and the best must stand at the top of the scale.
        #[test]
        fn monotone_and_full_scale(scores in proptest::collection::vec(1_u64..=u64::MAX, 1..40)) {
            let pairs: Vec<_> = scores.iter().zip(0_u16..).map(|(s, u)| (Uid(u), *s)).collect();
            let got = weights(&pairs, NO_BURN, WeightLimits::NONE).unwrap();
            prop_assert_eq!(got.iter().map(|(_, w)| *w).max(), Some(65_535));
            let weight = |uid: Uid| got.iter().find(|(u, _)| *u == uid).map_or(0, |(_, w)| *w);
            for (a, score_a) in &pairs {
                for (b, score_b) in &pairs {
                    prop_assert!(score_a < score_b || weight(*a) >= weight(*b));
                }
            }
        }
    }
}
