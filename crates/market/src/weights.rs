//! Scores become weights: integers of 16 bits, the largest 65535, as the chain wants them.

use crate::Uid;

/// One million parts.
const PPM: u128 = 1_000_000;
/// The largest weight on chain.
const WEIGHT_MAX: u128 = 65_535;

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightPolicy {
    /// The part of all weight, in millionths, that goes to `burn_uid`; at most one million.
    pub burn_share_ppm: u32,
    /// The subnet owner's slot, which burns what it earns.
    pub burn_uid: Option<Uid>,
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
}

/// Weights from scores: `w_i = score_i × (1 − burn)`, `w_burn += Σ score × burn`, scaled so that the largest is 65535 and
/// rounded half to even, as Bittensor's clients do. Zeros are left out; the result is sorted by uid.
///
/// # Errors
/// When the policy is not possible or nothing has a score.
pub fn weights(
    scores: &[(Uid, u64)],
    policy: WeightPolicy,
) -> Result<Vec<(Uid, u16)>, WeightsError> {
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
    if largest == 0 {
        return Err(WeightsError::Nothing);
    }
    let scaled = parts.into_iter().map(|(uid, part)| (uid, scale(part, largest)));
    Ok(scaled.filter(|(_, weight)| *weight > 0).collect())
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
        let got = weights(&[(Uid(4), 700_000), (Uid(1), 300_000), (Uid(2), 0)], NO_BURN).unwrap();
        assert_eq!(got, [(Uid(1), 28_086), (Uid(4), 65_535)]);
    }

    /// Burning must take its share and nothing else, and must not be forgotten when nobody has a score.
    #[test]
    fn burn_share() {
        let half = WeightPolicy { burn_share_ppm: 500_000, burn_uid: Some(Uid(0)) };
        let got = weights(&[(Uid(1), 10), (Uid(2), 10)], half).unwrap();
        assert_eq!(got, [(Uid(0), 65_535), (Uid(1), 32_768), (Uid(2), 32_768)]);
        assert_eq!(weights(&[], half).unwrap(), [(Uid(0), 65_535)]);
        let nowhere = WeightPolicy { burn_uid: None, ..half };
        assert_eq!(weights(&[(Uid(1), 1)], nowhere), Err(WeightsError::NoBurnUid));
        assert_eq!(weights(&[(Uid(1), 0)], NO_BURN), Err(WeightsError::Nothing));
        let over = WeightPolicy { burn_share_ppm: 1_000_001, ..half };
        assert_eq!(weights(&[], over), Err(WeightsError::BurnShare(1_000_001)));
    }

    proptest! {
        /// More score must never mean less weight, and the best must stand at the top of the scale.
        #[test]
        fn monotone_and_full_scale(scores in proptest::collection::vec(1_u64..=u64::MAX, 1..40)) {
            let pairs: Vec<_> = scores.iter().zip(0_u16..).map(|(s, u)| (Uid(u), *s)).collect();
            let got = weights(&pairs, NO_BURN).unwrap();
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
