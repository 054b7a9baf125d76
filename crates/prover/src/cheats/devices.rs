//! Devices that cheat: they go into an honest prover in the place of an honest device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nicompute_proof::{
    BLOCK_ROWS, DeviceClaim, DeviceKind, DeviceOpenings, DevicePlan, Digest, Kernel, Nonce,
    OpenDevice, ProofParams, SessionKeys, Tree, WalkKey, mix64,
};

use super::rows::{Half, Hankel, Narrow, Noise, noise, under_keys_of};
use crate::cpu::{CpuDevice, open_rows, open_walks, touched};
use crate::device::{Device, DeviceError, FillTask, ReportPanel};
use crate::plot::{Chain, InMemory, MakeRows, ReadRows, walk, walk_tree};

/// Memory that cheaters say they have.
pub(super) const CLAIMED_MEMORY_BYTES: u64 = 4 << 30;
const THREADS: usize = 2;

/// Forges with the v1.9.0 proof's operands: entry (i, j) depends on i + j alone, so that each row of the product
/// follows from the one before in O(n) instead of O(n²).
#[must_use]
pub fn hankel() -> CpuDevice {
    making("hankel", |_, task| Box::new(Hankel::new(task)))
}

/// Computes half of the rows and fills the rest with noise.
#[must_use]
pub fn half_of_the_rows() -> CpuDevice {
    making("half", |kernel, task| Box::new(Half::new(kernel, task)))
}

/// Leaves out the last product of every row.
#[must_use]
pub fn one_step_short() -> CpuDevice {
    making("short", |kernel, task| {
        let steps = task.params.steps().saturating_sub(1);
        Box::new(Chain::with_steps(kernel, task, steps))
    })
}

/// Computes products of width one, as the v1.9.0 proof allowed by reading the width back from the machine.
#[must_use]
pub fn width_one() -> CpuDevice {
    making("narrow", |_, task| Box::new(Narrow::new(task)))
}

/// A device that is not there: it answers in time, with noise.
#[must_use]
pub fn not_there(id: &str) -> CpuDevice {
    making(id, |_, task| Box::new(Noise::new(task)))
}

/// Plays back the rows of an earlier session, whose keys these are, under fresh commitments.
#[must_use]
pub fn replayed(earlier: SessionKeys) -> CpuDevice {
    making("replayed", move |kernel, task| {
        let keys = earlier.device(&claim("replayed"), &task.plan);
        Box::new(under_keys_of(kernel, &earlier, keys, task))
    })
}

/// Shows the rows of another device of the machine as its own, under commitments of its own.
#[must_use]
pub fn copy_of(device: &dyn Device, plan: DevicePlan) -> CpuDevice {
    in_place_of("copy", device.claim(), plan.device)
}

/// Has the id `id`, and computes the rows of the device that makes the claim `other` in the place `place`.
#[must_use]
pub fn in_place_of(id: &str, other: DeviceClaim, place: u16) -> CpuDevice {
    making(id, move |kernel, task| {
        let plan = DevicePlan { device: place, ..task.plan };
        let keys = task.session.device(&other, &plan);
        Box::new(Chain::new(kernel, &FillTask { keys, ..task.clone() }))
    })
}

/// Holds only a part of its rows, and computes the rest whenever a walk comes by. Its walks are right; their time is not.
#[derive(Debug)]
pub struct Partial {
    part: Part,
    /// So many of each hundred walks are not done: noise stands in the place of their results.
    skips_walks: u64,
    /// Rows that were computed while walking.
    computed_again: Arc<AtomicU64>,
    session: Option<Session>,
}

/// Which rows a [`Partial`] device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The first so many percent; it has committed to all.
    First(u64),
    /// All but so many of each hundred, in whose place it has committed to noise.
    AllBut(u64),
}

struct Session {
    params: ProofParams,
    plan: DevicePlan,
    plot: Vec<u8>,
    filled: Option<Filled>,
}

struct Filled {
    task: FillTask,
    chain: Chain,
    rows: Tree,
    walks: Option<(Vec<u64>, Tree)>,
}

/// Computes every row and keeps this percentage of them.
#[must_use]
pub fn truncated(kept_percent: u64) -> Partial {
    Partial::new(Part::First(kept_percent))
}

/// Never computes this percentage of the rows for its commitment, and computes such a row when a walk comes by.
#[must_use]
pub fn skipping(percent: u64) -> Partial {
    Partial::new(Part::AllBut(percent))
}

/// Holds every row, and does not do this percentage of its walks.
#[must_use]
pub fn skipping_walks(percent: u64) -> Partial {
    Partial { skips_walks: percent, ..Partial::new(Part::First(100)) }
}

/// Fills honestly and walks under a nonce of its own, as one would who never waited for the verifier's.
#[derive(Debug)]
pub struct InventedWalks(pub CpuDevice);

// === impl Partial ===

impl Partial {
    fn new(part: Part) -> Self {
        Self { part, skips_walks: 0, computed_again: Arc::default(), session: None }
    }

    /// Counts the rows that are computed while walking.
    pub(super) fn computed_again(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.computed_again)
    }

    fn session(&mut self) -> Result<&mut Session, DeviceError> {
        self.session.as_mut().ok_or(DeviceError::Order)
    }
}

impl Part {
    const fn holds(self, row: u64, rows: u64) -> bool {
        match self {
            Self::First(percent) => row < rows * percent / 100,
            Self::AllBut(percent) => row % 100 >= percent,
        }
    }
}

impl Device for Partial {
    fn claim(&self) -> DeviceClaim {
        claim("partial")
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        let held = match self.part {
            Part::First(percent) => plan.rows * percent / 100,
            Part::AllBut(_) => plan.rows,
        };
        let bytes = held * params.n() as u64;
        let plot = touched(bytes).ok_or(DeviceError::Memory(bytes))?;
        self.session = Some(Session { params: *params, plan: *plan, plot, filled: None });
        Ok(())
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        let part = self.part;
        let session = self.session()?;
        let chain = Chain::new(Kernel::detect(), task);
        let n = task.params.n();
        let panel_rows = task.params.panel_rows() as usize;
        let mut leaves = Vec::new();
        let mut block = vec![0_u8; BLOCK_ROWS.min(panel_rows) * n];
        for first in (0..task.plan.rows).step_by(block.len() / n) {
            chain.make(first, &mut block);
            if matches!(part, Part::AllBut(_)) {
                let rows = (first..).zip(block.chunks_exact_mut(n));
                let skipped = rows.filter(|(row, _)| !part.holds(*row, task.plan.rows));
                skipped.for_each(|(row, place)| noise(row, place));
            }
            let at = usize::try_from(first).unwrap_or(usize::MAX).saturating_mul(n);
            if let Some(place) = session.plot.get_mut(at..) {
                let len = place.len().min(block.len());
                place[..len].copy_from_slice(&block[..len]);
            }
            leaves.extend(block.chunks_exact(n).map(|row| task.keys.rows().leaf(row)));
            if leaves.len().is_multiple_of(panel_rows) {
                let panel = &leaves[leaves.len() - panel_rows..];
                let number = u32::try_from(leaves.len() / panel_rows - 1).unwrap_or(u32::MAX);
                report(number, task.keys.rows().root(panel)?)?;
            }
        }
        let rows = Tree::new(task.keys.rows(), leaves)?;
        let root = rows.root();
        session.filled = Some(Filled { task: task.clone(), chain, rows, walks: None });
        Ok(root)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        let (part, computed_again) = (self.part, Arc::clone(&self.computed_again));
        let skips_walks = self.skips_walks;
        let Session { params, plan, plot, filled } = self.session()?;
        let filled = filled.as_mut().ok_or(DeviceError::Order)?;
        let n = params.n();
        let key = WalkKey::new(&filled.task.keys, n2, n, plan.rows);
        let read = OrAgain {
            plot: InMemory { kernel: Kernel::detect(), n, plot },
            part,
            rows: plan.rows,
            chain: &filled.chain,
            computed_again: &computed_again,
        };
        let mut results = walk(params, &key, plan.walks, THREADS, &read);
        let skipped = (0_u64..).zip(&mut results).filter(|(walk, _)| walk % 100 < skips_walks);
        skipped.for_each(|(_, result)| *result = mix64(*result));
        let tree = walk_tree(filled.task.keys.walks(), &results)?;
        let root = tree.root();
        filled.walks = Some((results, tree));
        Ok(root)
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        let Session { plan, filled, .. } = self.session()?;
        let filled = filled.as_ref().ok_or(DeviceError::Order)?;
        let (results, tree) = filled.walks.as_ref().ok_or(DeviceError::Order)?;
        let rows = open_rows(plan.rows, &filled.rows, &ask.rows)?;
        let walks = open_walks(plan.walks, tree, results, &ask.walks)?;
        let device = plan.device;
        Ok(DeviceOpenings { device, rows, walks, links: Vec::new(), copies: Vec::new() })
    }
}

/// Reads a row that is held, or computes one that is not.
struct OrAgain<'a> {
    plot: InMemory<'a>,
    part: Part,
    rows: u64,
    chain: &'a Chain,
    computed_again: &'a AtomicU64,
}

impl ReadRows for OrAgain<'_> {
    fn read(&self, key: &WalkKey, mixed: u64, row: u64, scratch: &mut [u8]) -> u64 {
        if self.part.holds(row, self.rows) {
            return self.plot.read(key, mixed, row, scratch);
        }
        self.chain.make(row, scratch);
        self.computed_again.fetch_add(1, Ordering::Relaxed);
        key.absorb(mixed, scratch)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("plan", &self.plan).finish_non_exhaustive()
    }
}

// === impl InventedWalks ===

impl Device for InventedWalks {
    fn claim(&self) -> DeviceClaim {
        self.0.claim()
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        self.0.prepare(params, plan)
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        self.0.fill(task, report)
    }

    fn walk(&mut self, _n2: &Nonce) -> Result<Digest, DeviceError> {
        self.0.walk(&Nonce([0; 32]))
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        self.0.open(ask)
    }
}

fn making(
    id: &str,
    rows: impl Fn(Kernel, &FillTask) -> Box<dyn MakeRows> + Send + Sync + 'static,
) -> CpuDevice {
    CpuDevice::with_rows(claim(id), THREADS, Arc::new(rows))
}

pub(super) fn claim(id: &str) -> DeviceClaim {
    DeviceClaim {
        kind: DeviceKind::Cpu,
        id: id.to_owned(),
        name: "cheater".to_owned(),
        memory_bytes: CLAIMED_MEMORY_BYTES,
    }
}
