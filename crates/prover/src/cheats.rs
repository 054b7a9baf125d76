//! Provers that speak the frames and do not do the work: one for each fraud that is known, as fixtures.
//!
//! Every test of the verifier's soundness, here and in whole simulated markets, takes its cheater from this module. The
//! shipped binary uses none of it.

use std::sync::Arc;

use nicompute_proof::{
    BLOCK_ROWS, DeviceClaim, DeviceKind, DeviceOpenings, DevicePlan, Digest, Kernel, Nonce,
    OpenDevice, ProofParams, SessionKeys, Tree, WalkKey, key_stream, mix_to_plot,
};

use crate::cpu::{CpuDevice, open_rows, open_walks, touched};
use crate::device::{Device, DeviceError, FillTask, ReportPanel};

use crate::plot::{Chain, InMemory, MakeRows, ReadRows, walk, walk_tree};

/// Memory that cheaters say they have.
const CLAIMED_MEMORY_BYTES: u64 = 4 << 30;
const THREADS: usize = 2;

/// Forges with the v1.9.0 proof's operands: entry (i, j) depends on i + j alone, so that each row of the product
/// follows from the one before in O(n) instead of O(n²).
#[must_use]
pub fn hankel() -> CpuDevice {
    CpuDevice::with_rows(claim("hankel"), THREADS, Arc::new(|_, task| Box::new(Hankel::new(task))))
}

/// Computes half of the rows and fills the rest with noise.
#[must_use]
pub fn half_of_the_rows() -> CpuDevice {
    let rows = |kernel, task: &FillTask| -> Box<dyn MakeRows> {
        Box::new(Half { chain: Chain::new(kernel, task), n: task.params.n() })
    };
    CpuDevice::with_rows(claim("half"), THREADS, Arc::new(rows))
}

/// Leaves out the last product of every row.
#[must_use]
pub fn one_step_short() -> CpuDevice {
    let rows = |kernel, task: &FillTask| -> Box<dyn MakeRows> {
        let steps = task.params.steps().saturating_sub(1);
        Box::new(Chain::with_steps(kernel, task, steps))
    };
    CpuDevice::with_rows(claim("short"), THREADS, Arc::new(rows))
}

/// Plays back the rows of an earlier session, whose keys these are, under fresh commitments.
#[must_use]
pub fn replayed(earlier: SessionKeys) -> CpuDevice {
    let rows = move |kernel, task: &FillTask| -> Box<dyn MakeRows> {
        let keys = earlier.device(&claim("replayed"), &task.plan);
        let matrix = Arc::new(earlier.matrix_rows(task.params.n()));
        let old = FillTask { keys, matrix, ..task.clone() };
        Box::new(Chain::new(kernel, &old))
    };
    CpuDevice::with_rows(claim("replayed"), THREADS, Arc::new(rows))
}

/// Shows the rows of another device of the machine as its own, under commitments of its own.
#[must_use]
pub fn copy_of(device: &dyn Device, plan: DevicePlan) -> CpuDevice {
    let original = device.claim();
    let rows = move |kernel, task: &FillTask| -> Box<dyn MakeRows> {
        let keys = task.session.device(&original, &plan);
        Box::new(Chain::new(kernel, &FillTask { keys, ..task.clone() }))
    };
    CpuDevice::with_rows(claim("copy"), THREADS, Arc::new(rows))
}

/// Computes every row but holds only a part of them, and computes the rest again whenever a walk comes by.
///
/// Its answers are right; only its time is not.
#[derive(Debug)]
pub struct Truncated {
    kept_percent: u64,
    session: Option<Kept>,
}

struct Kept {
    params: ProofParams,
    plan: DevicePlan,
    plot: Vec<u8>,
    filled: Option<KeptFilled>,
}

struct KeptFilled {
    task: FillTask,
    chain: Chain,
    rows: Tree,
    walks: Option<(Vec<u64>, Tree)>,
}

/// Keeps this percentage of the rows.
#[must_use]
pub const fn truncated(kept_percent: u64) -> Truncated {
    Truncated { kept_percent, session: None }
}

// === impl Hankel ===

/// The operands and the recurrence of the v1.9.0 proof, spoken in our frames.
struct Hankel {
    n: usize,
    last_step: u32,
    seed: u32,
    right: Vec<i32>,
}

impl Hankel {
    fn new(task: &FillTask) -> Self {
        let mut seeds = [0_u8; 8];
        key_stream(task.session.matrix(), 0, &mut seeds);
        let [a, b, c, d, e, f, g, h] = seeds;
        let (seed, right_seed) = (u32::from_le_bytes([a, b, c, d]), [e, f, g, h]);
        let n = task.params.n();
        Self {
            n,
            last_step: u32::from(task.params.steps().saturating_sub(1)),
            seed,
            right: diagonal(u32::from_le_bytes(right_seed), 2 * n),
        }
    }

    /// The product of Hankel matrices: the first row and the first column by their definition, everything else from its
    /// upper left neighbour.
    fn product(&self, first: u64, count: usize) -> Vec<i32> {
        let n = self.n;
        let offset = u32::try_from(first & u64::from(u32::MAX)).unwrap_or(0);
        let left = diagonal(self.seed.wrapping_add(offset), n + count);
        let entry = |row: usize, column: usize| -> i32 {
            (0..n).map(|k| left[row + k] * self.right[k + column]).sum()
        };
        let mut sums = vec![0_i32; n * count];
        for (column, sum) in sums.iter_mut().enumerate().take(n) {
            *sum = entry(0, column);
        }
        for row in 1..count {
            sums[row * n] = entry(row, 0);
            for column in 1..n {
                sums[row * n + column] = sums[(row - 1) * n + column - 1]
                    - left[row - 1] * self.right[column - 1]
                    + left[row - 1 + n] * self.right[column - 1 + n];
            }
        }
        sums
    }
}

impl MakeRows for Hankel {
    fn make(&self, first: u64, rows: &mut [u8]) {
        let sums = self.product(first, rows.len() / self.n);
        for (sums, row) in sums.chunks_exact(self.n).zip(rows.chunks_exact_mut(self.n)) {
            mix_to_plot(self.last_step, sums, row);
        }
    }
}

/// The values along i + j: ten rounds of xorshift of the seed plus the index, scaled to our operands.
fn diagonal(seed: u32, count: usize) -> Vec<i32> {
    let value = |at: u32| {
        let mut state = seed.wrapping_add(at);
        for _ in 0..10 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
        }
        (state >> 23).cast_signed() - 256
    };
    (0..).take(count).map(value).collect()
}

// === impl Half ===

struct Half {
    chain: Chain,
    n: usize,
}

impl MakeRows for Half {
    fn make(&self, first: u64, rows: &mut [u8]) {
        let half = rows.len() / self.n / 2 * self.n;
        let (honest, noise) = rows.split_at_mut(half);
        self.chain.make(first, honest);
        key_stream(&[0xA5; 32], first, noise);
    }
}

// === impl Truncated ===

impl Device for Truncated {
    fn claim(&self) -> DeviceClaim {
        claim("truncated")
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        let kept_rows = plan.rows * self.kept_percent / 100;
        let bytes = kept_rows * params.n() as u64;
        let plot = touched(bytes).ok_or(DeviceError::Memory(bytes))?;
        self.session = Some(Kept { params: *params, plan: *plan, plot, filled: None });
        Ok(())
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        let kept = self.session.as_mut().ok_or(DeviceError::Order)?;
        let chain = Chain::new(Kernel::detect(), task);
        let n = task.params.n();
        let panel_rows = task.params.panel_rows() as usize;
        let mut leaves = Vec::new();
        let mut block = vec![0_u8; BLOCK_ROWS.min(panel_rows) * n];
        for first in (0..task.plan.rows).step_by(block.len() / n) {
            chain.make(first, &mut block);
            let at = usize::try_from(first).unwrap_or(usize::MAX).saturating_mul(n);
            if let Some(place) = kept.plot.get_mut(at..) {
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
        kept.filled = Some(KeptFilled { task: task.clone(), chain, rows, walks: None });
        Ok(root)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        let kept = self.session.as_mut().ok_or(DeviceError::Order)?;
        let filled = kept.filled.as_mut().ok_or(DeviceError::Order)?;
        let n = kept.params.n();
        let key = WalkKey::new(&filled.task.keys, n2, n, kept.plan.rows);
        let plot = InMemory { kernel: Kernel::detect(), n, plot: &kept.plot };
        let kept_rows = (kept.plot.len() / n) as u64;
        let read = OrAgain { plot, kept_rows, chain: &filled.chain };
        let results = walk(&kept.params, &key, kept.plan.walks, THREADS, &read);
        let tree = walk_tree(filled.task.keys.walks(), &results)?;
        let root = tree.root();
        filled.walks = Some((results, tree));
        Ok(root)
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        let kept = self.session.as_ref().ok_or(DeviceError::Order)?;
        let filled = kept.filled.as_ref().ok_or(DeviceError::Order)?;
        let (results, tree) = filled.walks.as_ref().ok_or(DeviceError::Order)?;
        let rows = open_rows(kept.plan.rows, &filled.rows, &ask.rows)?;
        let walks = open_walks(kept.plan.walks, tree, results, &ask.walks)?;
        let device = kept.plan.device;
        Ok(DeviceOpenings { device, rows, walks, links: Vec::new(), copies: Vec::new() })
    }
}

/// Reads a row that is held, or computes one that is not.
struct OrAgain<'a> {
    plot: InMemory<'a>,
    kept_rows: u64,
    chain: &'a Chain,
}

impl ReadRows for OrAgain<'_> {
    fn read(&self, key: &WalkKey, mixed: u64, row: u64, scratch: &mut [u8]) -> u64 {
        if row < self.kept_rows {
            return self.plot.read(key, mixed, row, scratch);
        }
        self.chain.make(row, scratch);
        key.absorb(mixed, scratch)
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("plan", &self.plan).finish_non_exhaustive()
    }
}

fn claim(id: &str) -> DeviceClaim {
    DeviceClaim {
        kind: DeviceKind::Cpu,
        id: id.to_owned(),
        name: "cheater".to_owned(),
        memory_bytes: CLAIMED_MEMORY_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A forger that cannot even forge the old proof would be no test of the new one.
    #[test]
    fn the_recurrence_gives_the_product_of_hankel_matrices() {
        let (n, count) = (32, 20);
        let hankel = Hankel { n, last_step: 1, seed: 77, right: diagonal(5, 2 * n) };
        let left = diagonal(77 + 3, n + count);
        let sums = hankel.product(3, count);
        for row in 0..count {
            for column in 0..n {
                let direct: i32 = (0..n).map(|k| left[row + k] * hankel.right[k + column]).sum();
                assert_eq!(sums[row * n + column], direct, "{row} {column}");
            }
        }
    }
}
