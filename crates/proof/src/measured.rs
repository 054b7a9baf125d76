//! What a session measured: bytes, operations and times as integers, and nothing that is derived from a name.

use serde::{Deserialize, Serialize};

use crate::binding::DevicePlan;
use crate::params::ProofParams;

/// The most of a round trip that is taken off a stage; a prover that answers pings slowly gains no more.
pub const RTT_CREDIT_NS_MAX: u64 = 150_000_000;
/// The part of a stage that the round trip may be at most.
const RTT_CREDIT_DIVISOR: u64 = 8;
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
    /// When WROOT was read, and OPEN sent.
    pub wroot_ns: u64,
    /// When the last OPENINGS was read.
    pub openings_ns: u64,
}

/// What was proven, in numbers. Rates are lower bounds: a machine can pretend to be slower, never faster.
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
}

impl Measured {
    /// Follows from the sizes and the times, so that anyone can compute it again.
    #[must_use]
    pub fn from_times(params: &ProofParams, plans: &[DevicePlan], times: &Times) -> Self {
        let n = params.n() as u64;
        let rows = plans.iter().fold(0_u64, |sum, plan| sum.saturating_add(plan.rows));
        let walks = plans.iter().fold(0_u64, |sum, plan| sum.saturating_add(u64::from(plan.walks)));
        let plot_bytes = rows.saturating_mul(n);
        let operations = plot_bytes
            .saturating_mul(n)
            .saturating_mul(2)
            .saturating_mul(u64::from(params.steps()));
        let walk_bytes = walks.saturating_mul(u64::from(params.reads())).saturating_mul(n);
        let fill_ns = less_credit(times.commit_ns, times.rtt_min_ns);
        let walk_ns = less_credit(times.wroot_ns.saturating_sub(times.commit_ns), times.rtt_min_ns);
        Self {
            plot_bytes,
            operations,
            fill_ns,
            operations_per_second: per_second(operations, fill_ns),
            walk_bytes,
            walk_ns,
            walk_bytes_per_second: per_second(walk_bytes, walk_ns),
        }
    }
}

/// A stage's time without the round trip, of which at most 150 ms and at most an eighth of the stage is taken off.
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

    fn times(rtt_min_ns: u64, commit_ns: u64, wroot_ns: u64) -> Times {
        Times { set_up_at_unix_ms: 0, rtt_min_ns, commit_ns, wroot_ns, openings_ns: wroot_ns }
    }

    /// A wrong count of operations or bytes would put machines into the wrong class.
    #[test]
    fn the_small_profile_in_numbers() {
        let params = ProofParams::small();
        let plan = DevicePlan { device: 0, rows: params.rows(), walks: params.walks() };
        let measured =
            Measured::from_times(&params, &[plan], &times(0, 1_000_000_000, 1_100_000_000));
        assert_eq!(measured.plot_bytes, 64 << 20);
        assert_eq!(measured.operations, 2 * 262_144 * 2 * 256 * 256);
        assert_eq!(measured.operations_per_second, measured.operations);
        assert_eq!(measured.walk_bytes, 256 << 20);
        assert_eq!(measured.walk_bytes_per_second, 10 * (256 << 20));
    }

    /// A prover that delays its pongs must not be able to divide its time by more than 8/7.
    #[test]
    fn the_round_trip_credit_is_limited() {
        assert_eq!(less_credit(10_000_000_000, 1_000_000_000), 9_850_000_000);
        assert_eq!(less_credit(800_000_000, 150_000_000), 700_000_000);
        assert_eq!(less_credit(800_000_000, 50_000_000), 750_000_000);
        assert_eq!(less_credit(0, 5), 1);
    }
}
