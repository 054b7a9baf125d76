//! What a validator is started with. Nothing here has a hidden default: the command line decides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_keys::Keypair;
use nicompute_market::{Catalogue, Machine, Netuid, ScorePolicy};
use nicompute_proof::{DeviceKind, Limits, ProofParams};

use crate::catalogue::CatalogueOrigin;

/// Rows of one plot are this many bytes in the profiles that a processor can do.
const ROW_BYTES: u64 = 256;
/// The largest plot of the full size: more would take a processor longer than a proof's lease lasts.
const FULL_PLOT_BYTES_MAX: u64 = 1 << 30;
/// The part of a machine's memory that the full size fills, as a divisor.
const FULL_MEMORY_DIVISOR: u64 = 8;
/// Longest fill of the full size. A proof's lease lasts ten minutes in all.
const FULL_FILL_NS: u64 = 480_000_000_000;

/// Everything that a validator is started with.
#[derive(Debug, Clone)]
pub struct ValidatorConfig {
    /// The folder with its store and its transcripts; no other process may use it.
    pub state_dir: PathBuf,
    /// The subnet.
    pub netuid: Netuid,
    /// The key that signs requests, transcripts and weights.
    pub hotkey: Keypair,
    /// The classes that are paid for.
    pub catalogue: Catalogue,
    /// Who signed the catalogue, where it came in a signed file.
    pub catalogue_origin: Option<CatalogueOrigin>,
    /// How much a session proves.
    pub proof: ProofSize,
    /// The program that is uploaded into a proof lease.
    pub prover: Arc<[u8]>,
    /// How often things are done.
    pub intervals: Intervals,
    /// How evidence becomes weight.
    pub policies: Policies,
    /// Whether this is a local market, where an offer may do without enforced limits.
    pub devnet: bool,
}

/// How much a session proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofSize {
    /// 64 MiB: seconds, for the local market.
    Small,
    /// An eighth of the claimed memory, at most 1 GiB.
    Full,
    /// The same for every machine.
    Fixed(ProofProfile),
}

/// What a session proves, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofProfile {
    /// The sizes.
    pub params: ProofParams,
    /// How long each stage may take.
    pub limits: Limits,
    /// The kind of device that is proven.
    pub kind: DeviceKind,
}

/// How often things are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// Between two readings of the metagraph.
    pub chain: Duration,
    /// Between two rounds over the providers' offers.
    pub discover: Duration,
    /// Between two looks at what is to be proven, set on chain, or polled.
    pub tick: Duration,
    /// Blocks after which a passed proof is repeated.
    pub proof_blocks: u64,
    /// Blocks after which a session that did not pass is tried again.
    pub retry_blocks: u64,
}

/// How evidence becomes weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// How evidence counts.
    pub score: ScorePolicy,
    /// The part of all weight that is burned, in millionths.
    pub burn_share_ppm: u32,
    /// Sessions at the same time.
    pub sessions_max: usize,
}

impl Intervals {
    /// For a local market with a block each second, where a person waits.
    pub const DEVNET: Self = Self {
        chain: Duration::from_millis(500),
        discover: Duration::from_millis(500),
        tick: Duration::from_millis(250),
        proof_blocks: 600,
        retry_blocks: 3,
    };
    /// For a network of strangers with a block each twelve seconds: six hours, and ten minutes.
    pub const NETWORK: Self = Self {
        chain: Duration::from_secs(12),
        discover: Duration::from_secs(60),
        tick: Duration::from_secs(6),
        proof_blocks: 1_800,
        retry_blocks: 50,
    };
}

impl ValidatorConfig {
    /// What is proven of a machine. On a local market that is its processor, also where it has GPUs.
    pub(crate) fn profile(&self, machine: &Machine) -> ProofProfile {
        let is_cpu = self.devnet || machine.gpus.is_empty();
        let kind = if is_cpu { DeviceKind::Cpu } else { DeviceKind::Cuda };
        self.proof.profile(machine.memory_bytes, kind)
    }
}

impl ProofSize {
    /// What is proven of a machine with this much memory.
    #[must_use]
    pub fn profile(self, memory_bytes: u64, kind: DeviceKind) -> ProofProfile {
        let small = ProofParams::small();
        match self {
            Self::Fixed(profile) => profile,
            Self::Small => ProofProfile { params: small, limits: Limits::small(), kind },
            Self::Full => {
                let plot = memory_bytes.checked_div(FULL_MEMORY_DIVISOR).unwrap_or(0);
                let rows = plot.min(FULL_PLOT_BYTES_MAX).checked_div(ROW_BYTES).unwrap_or(0);
                let params = small.with_rows(rows).unwrap_or(small);
                let limits = Limits { fill_ns: FULL_FILL_NS, ..Limits::small() };
                ProofProfile { params, limits, kind }
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
        let plan = |size: ProofSize, memory| size.profile(memory, DeviceKind::Cpu).params;
        assert_eq!(plan(ProofSize::Small, 1 << 40), ProofParams::small());
        assert_eq!(plan(ProofSize::Full, 1 << 40).rows() * ROW_BYTES, FULL_PLOT_BYTES_MAX);
        assert_eq!(plan(ProofSize::Full, 1 << 32).rows() * ROW_BYTES, 1 << 29);
        assert_eq!(plan(ProofSize::Full, 0), ProofParams::small());
    }
}
