//! What a session measured: bytes, operations and times as integers, and nothing that is derived from a name.

use serde::{Deserialize, Serialize};

use crate::binding::DevicePlan;
use crate::legs::Legs;
use crate::params::ProofParams;

/// The most of a round trip that is taken off a stage. The round trip is how long the prover takes to answer, so a prover
/// that answers pings slowly gets all of the credit: 150 ms, and never more than a 64th of the stage. A rate is therefore
/// at most 1/63, 1.6 %, above what the whole time of the stage gives.
pub const RTT_CREDIT_NS_MAX: u64 = 150_000_000;
/// The part of a stage that the round trip may be at most.
const RTT_CREDIT_DIVISOR: u64 = 64;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// When the stages began and ended: nanoseconds on the verifier's monotonic clock since START was sent, and the
/// wall-clock moment of that. All of these are the verifier's word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Times {
    /// The verifier's wall clock when the session was set up, milliseconds since 1970.
    pub set_up_at_unix_ms: u64,
    /// The shortest round trip of the pings.
    pub rtt_min_ns: u64,
    /// When COMMIT was read, and WALK sent.
    pub commit_ns: u64,
    /// When WROOT was read, and what follows was sent.
    pub wroot_ns: u64,
    /// When LROOT was read; as `wroot_ns` where LINK was not asked.
    pub lroot_ns: u64,
    /// When CROOT was read; as `lroot_ns` where COPY was not asked.
    pub croot_ns: u64,
    /// When the digest of NET was read; as `croot_ns` where that was not asked.
    pub down_ns: u64,
    /// When the last byte of NET was read, and OPEN sent; as `down_ns` where that was not asked.
    pub up_ns: u64,
    /// When the last OPENINGS was read.
    pub openings_ns: u64,
}

/// What was proven, in numbers. Rates are lower bounds but for the credit for the round trip, which a machine can claim
/// without need and which raises a rate by 1.6 % at most; a machine can pretend to be any amount slower.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes of plot that all devices held at once.
    pub plot_bytes: u64,
    /// Multiplications and additions of the plots.
    pub operations: u64,
    /// Nanoseconds from START to COMMIT, less the credit for the round trip.
    pub fill_ns: u64,
    /// Operations in a second.
    pub operations_per_second: u64,
    /// Bytes that the walks read.
    pub walk_bytes: u64,
    /// Nanoseconds from WALK to WROOT, less the credit for the round trip.
    pub walk_ns: u64,
    /// Walk bytes in a second.
    pub walk_bytes_per_second: u64,
    /// Bytes that devices read out of their neighbours, where LINK was answered.
    pub link: Option<Rate>,
    /// Bytes that devices brought to the host, where COPY was answered.
    pub copy: Option<Rate>,
    /// Bytes from the verifier to the prover, where that was asked.
    pub net_down: Option<Rate>,
    /// Bytes from the prover to the verifier, where that was asked.
    pub net_up: Option<Rate>,
}

/// What a leg moved, and how fast at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes.
    pub bytes: u64,
    /// Nanoseconds, less the credit for the round trip.
    pub ns: u64,
    /// Bytes in a second.
    pub bytes_per_second: u64,
}

impl Measured {
    /// Follows from the sizes and the times, so that anyone can compute it again.
    #[must_use]
    pub fn from_times(
        params: &ProofParams,
        plans: &[DevicePlan],
        legs: &Legs,
        times: &Times,
    ) -> Self {
        let n = params.n() as u64;
        let rows = plans.iter().fold(0_u64, |sum, plan| sum.saturating_add(plan.rows));
        let walks = plans.iter().fold(0_u64, |sum, plan| sum.saturating_add(u64::from(plan.walks)));
        let plot_bytes = rows.saturating_mul(n);
        let operations = plot_bytes
            .saturating_mul(n)
            .saturating_mul(2)
            .saturating_mul(u64::from(params.steps()));
        let walk_bytes = walks.saturating_mul(u64::from(params.reads())).saturating_mul(n);
        let linked = u64::from(params.link_walks())
            .saturating_mul(plans.len() as u64)
            .saturating_mul(u64::from(params.reads()))
            .saturating_mul(n);
        let fill_ns = less_credit(times.commit_ns, times.rtt_min_ns);
        let walk_ns = less_credit(times.wroot_ns.saturating_sub(times.commit_ns), times.rtt_min_ns);
        let answered = legs.answered();
        let copied = plans.iter().fold(0_u64, |sum, plan| {
            sum.saturating_add(params.copied_rows(plan.rows).saturating_mul(n))
        });
        let rate = |bytes: u64, from: u64, to: u64| {
            let ns = less_credit(to.saturating_sub(from), times.rtt_min_ns);
            Rate { bytes, ns, bytes_per_second: per_second(bytes, ns) }
        };
        let Times { wroot_ns, lroot_ns, croot_ns, down_ns, up_ns, .. } = *times;
        Self {
            plot_bytes,
            operations,
            fill_ns,
            operations_per_second: per_second(operations, fill_ns),
            walk_bytes,
            walk_ns,
            walk_bytes_per_second: per_second(walk_bytes, walk_ns),
            link: answered.link.then(|| rate(linked, wroot_ns, lroot_ns)),
            copy: answered.copy.then(|| rate(copied, lroot_ns, croot_ns)),
            net_down: legs.down.map(|net| rate(net.bytes, croot_ns, down_ns)),
            net_up: legs.up.map(|net| rate(net.bytes, down_ns, up_ns)),
        }
    }
}

/// A stage's time without the round trip, of which at most 150 ms and at most a 64th of the stage is taken off.
fn less_credit(stage_ns: u64, rtt_ns: u64) -> u64 {
    let part = stage_ns.checked_div(RTT_CREDIT_DIVISOR).unwrap_or(0);
    stage_ns.saturating_sub(rtt_ns.min(RTT_CREDIT_NS_MAX).min(part)).max(1)
}

fn per_second(amount: u64, ns: u64) -> u64 {
    let scaled = u128::from(amount).saturating_mul(NANOS_PER_SECOND);
    u64::try_from(scaled.checked_div(u128::from(ns)).unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Nonce;
    use crate::legs::{Leg, Net};
    use crate::params::ParamsRecord;

    fn times(rtt_min_ns: u64, commit_ns: u64, wroot_ns: u64) -> Times {
        let later = |ns: u64| wroot_ns.saturating_add(ns);
        Times {
            set_up_at_unix_ms: 0,
            rtt_min_ns,
            commit_ns,
            wroot_ns,
            lroot_ns: later(200),
            croot_ns: later(700),
            down_ns: later(1_700),
            up_ns: later(3_700),
            openings_ns: later(4_000),
        }
    }

    /// A wrong count of operations or bytes would put machines into the wrong class.
    #[test]
    fn the_small_profile_in_numbers() {
        let params = ProofParams::small();
        let plan = DevicePlan { device: 0, rows: params.rows(), walks: params.walks() };
        let times = times(0, 1_000_000_000, 1_100_000_000);
        let measured = Measured::from_times(&params, &[plan], &Legs::NONE, &times);
        assert_eq!(measured.plot_bytes, 64 << 20);
        assert_eq!(measured.operations, 2 * 262_144 * 2 * 256 * 256);
        assert_eq!(measured.operations_per_second, measured.operations);
        assert_eq!(measured.walk_bytes, 256 << 20);
        assert_eq!(measured.walk_bytes_per_second, 10 * (256 << 20));
        let legs = [measured.link, measured.copy, measured.net_down, measured.net_up];
        assert_eq!(legs, [None; 4]);
    }

    /// A leg's figure must come from its own bytes and its own time.
    #[test]
    fn each_leg_has_its_own_rate() {
        let record =
            ParamsRecord { link_walks: 640, copy_rows: 1000, ..ProofParams::small().record() };
        let params = ProofParams::try_from(record).unwrap();
        let plan = |device| DevicePlan { device, rows: 16_384, walks: params.walks() };
        let net = |bytes| {
            Some(Net { nonce: Nonce([0; 32]), bytes, digest: crate::tree::Digest([0; 32]) })
        };
        let answered = Leg::Answered { nonce: Nonce([0; 32]) };
        let legs = Legs { link: answered.clone(), copy: answered, down: net(9), up: net(4) };
        let measured = Measured::from_times(&params, &[plan(0), plan(1)], &legs, &times(0, 1, 2));
        let rate = |rate: Option<Rate>| rate.map(|rate| (rate.bytes, rate.ns)).unwrap();
        assert_eq!(rate(measured.link), (2 * 640 * 32 * 256, 200));
        assert_eq!(rate(measured.copy), (2 * 1000 * 256, 500));
        assert_eq!(rate(measured.net_down), (9, 1000));
        assert_eq!(rate(measured.net_up), (4, 2000));
        assert_eq!(measured.net_up.unwrap().bytes_per_second, 2_000_000);
    }

    /// A prover that delays its pongs must not be able to raise its rate by more than 1.6 %.
    #[test]
    fn the_round_trip_credit_is_limited() {
        assert_eq!(less_credit(10_000_000_000, 1_000_000_000), 9_850_000_000);
        assert_eq!(less_credit(6_400_000_000, 150_000_000), 6_300_000_000);
        assert_eq!(less_credit(6_400_000_000, 50_000_000), 6_350_000_000);
        assert_eq!(less_credit(0, 5), 1);
    }
}
