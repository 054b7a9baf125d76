//! What a validator is started with.

use std::path::PathBuf;
use std::time::Duration;

use nicompute_keys::Keypair;
use nicompute_market::{Catalogue, Netuid, ScorePolicy};
use nicompute_proof::{Limits, ProofParams};

/// Rows of one plot are this many bytes in the profiles that a processor can do.
const ROW_BYTES: u64 = 256;
/// The largest plot of the full profile on a processor: more would take longer than a proof's lease lasts.
const FULL_PLOT_BYTES_MAX: u64 = 1 << 30;
/// The part of a machine's memory that the full profile fills, as a divisor.
const FULL_MEMORY_DIVISOR: u64 = 8;
/// Longest fill of the full profile. A proof's lease lasts ten minutes in all.
const FULL_FILL_NS: u64 = 480_000_000_000;

/// How much a session proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofSize {
    /// 64 MiB: seconds, for the local market and for tests.
    Small,
    /// An eighth of the claimed memory, at most 1 GiB.
    Full,
}

/// Everything that a validator is started with.
#[derive(Debug)]
pub struct ValidatorConfig {
    /// The folder with its store.
    pub state_dir: PathBuf,
    /// The subnet.
    pub netuid: Netuid,
    /// The key that signs requests, transcripts and weights.
    pub hotkey: Keypair,
    /// The classes that are paid for.
    pub catalogue: Catalogue,
    /// How much a session proves.
    pub proof: ProofSize,
    /// The program that is uploaded.
    pub prover: Vec<u8>,
    /// How evidence counts.
    pub score: ScorePolicy,
    /// The part of all weight that is burned, in millionths.
    pub burn_share_ppm: u32,
    /// Whether this is a local market, where limits need not be enforced and everything is quicker.
    pub devnet: bool,
}

/// How often things are done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Between two readings of the metagraph and the offers.
    pub(crate) discover: Duration,
    /// A passed proof is repeated after this.
    pub(crate) prove_again_ms: u64,
    /// A refused or unreachable provider is tried again after this.
    pub(crate) retry_ms: u64,
    /// Between two looks at weights and rentals.
    pub(crate) tick: Duration,
    /// Unchanged weights are set again after this many blocks, so that the chain counts the validator as active.
    pub(crate) weights_repeat_blocks: u64,
}

impl Pace {
    /// For a local market, where a person waits.
    pub(crate) const DEVNET: Self = Self {
        discover: Duration::from_millis(500),
        prove_again_ms: 10 * 60 * 1000,
        retry_ms: 5 * 1000,
        tick: Duration::from_millis(250),
        weights_repeat_blocks: 100,
    };
    /// For a network of strangers.
    pub(crate) const NETWORK: Self = Self {
        discover: Duration::from_secs(60),
        prove_again_ms: 6 * 60 * 60 * 1000,
        retry_ms: 10 * 60 * 1000,
        tick: Duration::from_secs(6),
        weights_repeat_blocks: 1_000,
    };
}

impl ProofSize {
    /// Sizes and deadlines for a machine that claims this much memory.
    pub(crate) fn plan(self, memory_bytes: u64) -> (ProofParams, Limits) {
        let small = ProofParams::small();
        match self {
            Self::Small => (small, Limits::small()),
            Self::Full => {
                let plot = memory_bytes.checked_div(FULL_MEMORY_DIVISOR).unwrap_or(0);
                let rows = plot.min(FULL_PLOT_BYTES_MAX).checked_div(ROW_BYTES).unwrap_or(0);
                let params = small.with_rows(rows).unwrap_or(small);
                (params, Limits { fill_ns: FULL_FILL_NS, ..Limits::small() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plot beyond the lease's time would refuse honest machines; one of no rows would prove nothing.
    #[test]
    fn sizes_follow_the_machine() {
        assert_eq!(ProofSize::Small.plan(1 << 40).0, ProofParams::small());
        assert_eq!(ProofSize::Full.plan(1 << 40).0.rows() * ROW_BYTES, FULL_PLOT_BYTES_MAX);
        assert_eq!(ProofSize::Full.plan(1 << 32).0.rows() * ROW_BYTES, 1 << 29);
        assert_eq!(ProofSize::Full.plan(0).0, ProofParams::small());
    }
}
