//! What a validator is started with. Nothing here has a hidden default: the command line decides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_keys::Keypair;
use nicompute_market::{Catalogue, Machine, Netuid, ScorePolicy};
use nicompute_proof::{DeviceKind, Limits, ParamsRecord, ProofParams};

use crate::catalogue::CatalogueOrigin;
use crate::legs::{LegKind, LegSet};

/// Rows of one plot are this many bytes in the profiles that a processor can do.
const ROW_BYTES: u64 = 256;
/// The largest plot of the full size: more would take a processor longer than a proof's lease lasts.
const FULL_PLOT_BYTES_MAX: u64 = 1 << 30;
/// The part of a machine's memory that the full size fills, as a divisor.
const FULL_MEMORY_DIVISOR: u64 = 8;
/// Longest fill of the full size. A proof's lease lasts ten minutes in all.
const FULL_FILL_NS: u64 = 480_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Each direction of the line; no more is begun after a quarter of it.
const NET_NS: u64 = 120 * SECOND_NS;
/// A GPU's row, panel, and the most panels and walks that the protocol knows.
const GPU_ROW_BYTES: u64 = 4096;
const GPU_PANEL_ROWS: u32 = 65_536;
const GPU_PANELS_MAX: u64 = 4096;
const GPU_WALKS_MAX: u32 = 1 << 26;
/// Half of what a processor's walks have, and twice the walks instead: a walk that is checked costs a checker every read.
const GPU_READS: u16 = 16;

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
    /// What a round measures besides.
    pub legs: LegSet,
    /// The programs that are uploaded into a proof lease.
    pub provers: Provers,
    /// How often things are done.
    pub intervals: Intervals,
    /// How evidence becomes weight.
    pub policies: Policies,
    /// Whether this is a local market, where an offer may do without enforced limits.
    pub devnet: bool,
}

/// The programs that prove, one for each kind of device. The one for GPUs needs the C library and the driver that a machine
/// with GPUs has; the other runs in any image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provers {
    /// Proves processors and disks.
    pub cpu: Arc<[u8]>,
    /// Proves GPUs.
    pub cuda: Arc<[u8]>,
}

/// How much a session proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofSize {
    /// 64 MiB: seconds, for the local market.
    Small,
    /// GPUs wholly; of a processor's memory an eighth, at most 1 GiB.
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
    /// Blocks after which a passed proof is repeated, and before which a wrong one is not.
    pub proof_blocks: u64,
    /// Blocks after which a session that did not pass, without a wrong answer, is tried again.
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
        let gpu = machine.gpus.iter().map(|gpu| gpu.memory_bytes).max().filter(|_| !self.devnet);
        let profile = match gpu {
            Some(memory_bytes) => self.proof.profile(memory_bytes, DeviceKind::Cuda),
            None => self.proof.profile(machine.memory_bytes, DeviceKind::Cpu),
        };
        self.proof.with_stages(profile, self.legs)
    }

    /// What is measured in sessions of their own after the main one.
    pub(crate) fn further(&self, machine: &Machine) -> Vec<(LegKind, Option<ProofProfile>)> {
        let main = self.profile(machine).kind;
        self.proof.further(machine, main, self.legs)
    }
}

impl Provers {
    /// The program that proves devices of a kind.
    #[must_use]
    pub fn of(&self, kind: DeviceKind) -> Arc<[u8]> {
        Arc::clone(match kind {
            DeviceKind::Cpu | DeviceKind::Disk => &self.cpu,
            DeviceKind::Cuda => &self.cuda,
        })
    }
}

impl ProofSize {
    /// What is proven of devices of this kind, the largest of which has so much memory; for a processor, of the machine
    /// with so much.
    #[must_use]
    pub fn profile(self, memory_bytes: u64, kind: DeviceKind) -> ProofProfile {
        let small = ProofParams::small();
        match self {
            Self::Fixed(profile) => profile,
            Self::Small => ProofProfile { params: small, limits: Limits::small(), kind },
            Self::Full if kind == DeviceKind::Cuda => gpu_profile(memory_bytes),
            Self::Full => {
                let plot = memory_bytes.checked_div(FULL_MEMORY_DIVISOR).unwrap_or(0);
                let rows = plot.min(FULL_PLOT_BYTES_MAX).checked_div(ROW_BYTES).unwrap_or(0);
                let params = small.with_rows(rows).unwrap_or(small);
                let limits = Limits { fill_ns: FULL_FILL_NS, net_ns: NET_NS, ..Limits::small() };
                ProofProfile { params, limits, kind }
            }
        }
    }
}

/// The profile of GPUs: as many rows as fit, and walks over thirty-two times the plot, a second or two of its memory's
/// rate; less where that would be more walks than the protocol knows. The fill takes seconds on every class that is paid for; the limits only end what has gone wrong.
fn gpu_profile(memory_bytes: u64) -> ProofProfile {
    let panel = u64::from(GPU_PANEL_ROWS);
    let most = memory_bytes.checked_div(GPU_ROW_BYTES).unwrap_or(0);
    let panels = most.checked_div(panel).unwrap_or(0).clamp(1, GPU_PANELS_MAX);
    let rows = panels.saturating_mul(panel);
    let small = ProofParams::small();
    let record = ParamsRecord {
        n: 4096,
        steps: 4,
        rows,
        panel_rows: GPU_PANEL_ROWS,
        walks: u32::try_from(rows.saturating_mul(2)).unwrap_or(u32::MAX).min(GPU_WALKS_MAX),
        reads: GPU_READS,
        ..small.record()
    };
    let limits = Limits {
        hello_ns: 30 * SECOND_NS,
        ready_ns: 60 * SECOND_NS,
        fill_ns: 180 * SECOND_NS,
        walk_ns: 30 * SECOND_NS,
        link_ns: 60 * SECOND_NS,
        copy_ns: 60 * SECOND_NS,
        net_ns: NET_NS,
        openings_ns: 60 * SECOND_NS,
        ..Limits::small()
    };
    let params = ProofParams::try_from(record).unwrap_or(small);
    ProofProfile { params, limits, kind: DeviceKind::Cuda }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prover of GPUs does not start in an image without a C library, and the other one finds no GPU.
    #[test]
    fn each_kind_has_its_prover() {
        let provers = Provers { cpu: Arc::from([0].as_slice()), cuda: Arc::from([1].as_slice()) };
        assert_eq!(*provers.of(DeviceKind::Cpu), [0]);
        assert_eq!(*provers.of(DeviceKind::Cuda), [1]);
    }

    /// A plot beyond the lease's time would refuse honest machines; one of no rows would prove nothing.
    #[test]
    fn sizes_follow_the_machine() {
        let plan = |size: ProofSize, memory| size.profile(memory, DeviceKind::Cpu).params;
        assert_eq!(plan(ProofSize::Small, 1 << 40), ProofParams::small());
        assert_eq!(plan(ProofSize::Full, 1 << 40).rows() * ROW_BYTES, FULL_PLOT_BYTES_MAX);
        assert_eq!(plan(ProofSize::Full, 1 << 32).rows() * ROW_BYTES, 1 << 29);
        assert_eq!(plan(ProofSize::Full, 0), ProofParams::small());
    }

    /// A GPU that is asked for less than it holds would leave room for somebody else; sizes out of bounds would prove 64 MiB.
    #[test]
    fn gpus_are_filled_and_walked_over() {
        for (memory, walks_over) in
            [(16_u64 << 30, 32), (24 << 30, 32), (141 << 30, 29), (288 << 30, 14)]
        {
            let profile = ProofSize::Full.profile(memory, DeviceKind::Cuda);
            let params = profile.params;
            assert_eq!((params.n(), params.steps(), params.panel_rows()), (4096, 4, 65_536));
            let plot = params.rows() * GPU_ROW_BYTES;
            assert!(plot <= memory && memory - plot < 1 << 28, "{memory}");
            let walked = u64::from(params.walks()) * u64::from(params.reads()) * GPU_ROW_BYTES;
            assert_eq!(walked / plot, walks_over, "{memory}");
        }
        assert_eq!(ProofSize::Full.profile(0, DeviceKind::Cuda).params.rows(), 65_536);
    }
}
