//! Evidence becomes a score: a pure function of what is stored, so that anybody with the evidence gets the same number.

use crate::{Capability, Catalogue, MICRO, UnixMillis};

/// What one proof session came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The proof held; this much was shown.
    Passed(Capability),
    /// The proof was refused: the machine did not do the work.
    Refused,
    /// The provider could not be reached or gave no lease: nothing was shown.
    Unreachable,
}

/// One stored proof session of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// When it ended, on the validator's clock.
    pub at: UnixMillis,
    /// What it came to.
    pub verdict: Verdict,
}

/// How evidence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScorePolicy {
    /// Older evidence counts for nothing.
    pub age_millis_max: u64,
    /// Multiplies the score of a machine that is rented, in thousandths; 1000 leaves it as it is.
    pub rented_multiplier_milli: u64,
}

/// What is known of one provider when it is scored.
#[derive(Debug, Clone, Copy)]
pub struct Track<'a> {
    /// Every stored session, in any order.
    pub evidence: &'a [Evidence],
    /// Whether a renter holds the machine now.
    pub is_rented: bool,
}

/// A score and why it is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// In millionths of the base score 1.0.
    pub micro: u64,
    /// In millionths of a point, on the catalogue's scale.
    pub points_micro: u64,
    /// The class that was met, when one was.
    pub class: Option<String>,
    /// Why.
    pub reason: ScoreReason,
}

/// Why a score is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScoreReason {
    /// A recent proof met a class.
    Proven,
    /// A recent proof held but met no class of the catalogue.
    NoClass,
    /// The last proof was refused.
    Refused,
    /// The last session never reached the machine.
    Unreachable,
    /// The last proof is too old.
    Stale,
    /// There is no evidence at all.
    NoEvidence,
}

impl ScoreReason {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::NoClass => "no-class",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Stale => "stale",
            Self::NoEvidence => "no-evidence",
        }
    }
}

/// The score of one provider. Only the latest session counts: an old success never outlives a failure.
///
/// `base × min(devices, devices_max) × rented multiplier`, in integers, saturating. A machine's processors are one device.
#[must_use]
pub fn score(
    track: Track<'_>,
    catalogue: &Catalogue,
    policy: ScorePolicy,
    now: UnixMillis,
) -> Score {
    let nothing = |reason| Score { micro: 0, points_micro: 0, class: None, reason };
    let Some(latest) = track.evidence.iter().max_by_key(|item| item.at) else {
        return nothing(ScoreReason::NoEvidence);
    };
    let shown = match &latest.verdict {
        Verdict::Passed(shown) => shown,
        Verdict::Refused => return nothing(ScoreReason::Refused),
        Verdict::Unreachable => return nothing(ScoreReason::Unreachable),
    };
    if now.millis_since(latest.at) > policy.age_millis_max {
        return nothing(ScoreReason::Stale);
    }
    let Some(class) = catalogue.classify(shown) else {
        return nothing(ScoreReason::NoClass);
    };
    let devices = u64::from(shown.devices.min(catalogue.counted_max(shown.kind)));
    let multiplier_milli = if track.is_rented { policy.rented_multiplier_milli } else { 1000 };
    let micro = class
        .base_score_micro
        .saturating_mul(devices)
        .saturating_mul(multiplier_milli)
        .checked_div(1000)
        .unwrap_or(0);
    let points_micro = points_micro(micro, catalogue);
    Score { micro, points_micro, class: Some(class.name.clone()), reason: ScoreReason::Proven }
}

/// `score × points_top / (highest base × devices_max)`: the best paid machine without a multiplier stands at the top.
fn points_micro(score_micro: u64, catalogue: &Catalogue) -> u64 {
    let top = u128::from(catalogue.base_score_micro_max())
        .saturating_mul(u128::from(catalogue.devices_max));
    let scaled = u128::from(score_micro)
        .saturating_mul(u128::from(catalogue.points_top))
        .saturating_mul(u128::from(MICRO));
    u64::try_from(scaled.checked_div(top).unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceKind;

    const POLICY: ScorePolicy =
        ScorePolicy { age_millis_max: 1_000, rented_multiplier_milli: 2_000 };

    fn catalogue() -> Catalogue {
        let cpu = "[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 10000\n";
        let gpu =
            "[[class]]\nname = 'GPU'\ndevice = 'gpu'\nbase_score_micro = 10000\nbytes_min = 1\n";
        Catalogue::parse(&format!("version = 1\ndevices_max = 8\n{cpu}{gpu}")).unwrap()
    }

    fn passed(at: u64, devices: u32) -> Evidence {
        passed_on(DeviceKind::Gpu, at, devices)
    }

    fn passed_on(kind: DeviceKind, at: u64, devices: u32) -> Evidence {
        let shown = Capability {
            kind,
            devices,
            bytes_per_device: 1,
            ops_per_second: 1,
            walk_bytes_per_second: 1,
        };
        Evidence { at: UnixMillis(at), verdict: Verdict::Passed(shown) }
    }

    fn check(evidence: &[Evidence], expected: (u64, ScoreReason)) {
        let track = Track { evidence, is_rented: evidence.len() == 2 };
        let got = score(track, &catalogue(), POLICY, UnixMillis(2_000));
        assert_eq!((got.micro, got.reason), expected);
    }

    /// One processor that calls itself eight must be paid once.
    #[test]
    fn a_processor_is_one_device() {
        check(&[passed_on(DeviceKind::Cpu, 1_500, 8)], (10_000, ScoreReason::Proven));
    }

    /// Eight of the highest model are the top of the scale, fifty points; everything else is in proportion.
    #[test]
    fn the_scale_ends_at_eight_of_the_highest() {
        let points = |name: &str, devices: u32| {
            let catalogue = Catalogue::standard();
            let class = catalogue.classes.iter().find(|class| class.name == name).unwrap();
            let shown = Capability {
                kind: class.device,
                devices,
                bytes_per_device: class.bytes_min,
                ops_per_second: class.ops_per_second_min,
                walk_bytes_per_second: class.walk_bytes_per_second_min,
            };
            let evidence = [Evidence { at: UnixMillis(1), verdict: Verdict::Passed(shown) }];
            let track = Track { evidence: &evidence, is_rented: false };
            score(track, &catalogue, POLICY, UnixMillis(2)).points_micro
        };
        assert_eq!(points("B300", 8), 50_000_000);
        assert_eq!(points("B300", 9), 50_000_000);
        assert_eq!(points("B200", 8), 39_285_714);
        assert_eq!(points("H200", 8), 23_809_523);
        assert_eq!(points("H100 80GB HBM3", 1), 2_455_357);
        assert_eq!(points("L4", 8), 0);
    }

    /// The original paid for hardware that was gone for hours: an old success outlived the failures after it.
    #[test]
    fn only_the_latest_recent_proof_pays() {
        check(&[passed(1_500, 1)], (10_000, ScoreReason::Proven));
        check(&[passed(1_400, 1), passed(1_500, 100)], (160_000, ScoreReason::Proven));
        check(&[passed(999, 1)], (0, ScoreReason::Stale));
        check(&[], (0, ScoreReason::NoEvidence));
        let refused = Evidence { at: UnixMillis(1_600), verdict: Verdict::Refused };
        check(&[passed(1_500, 1), refused], (0, ScoreReason::Refused));
        let unreachable = Evidence { at: UnixMillis(1_600), verdict: Verdict::Unreachable };
        check(&[unreachable, passed(1_500, 1)], (0, ScoreReason::Unreachable));
    }
}
