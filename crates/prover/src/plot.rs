//! Filling a plot in main memory and walking over it, with as many threads as the processor has.

use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;

use nicompute_proof::{
    BLOCK_ROWS, ChainMatrix, CopyKey, DeviceKeys, DevicePlan, Digest, Kernel, ProofParams, Tree,
    TreeError, TreeKeys, WALK_GROUP, WalkKey, operand_row, walk_leaf,
};

use crate::device::{DeviceError, FillTask, ReportPanel};

/// Walks that a thread keeps in step, so that the memory's latency of one hides behind the others.
const WALKS_IN_STEP: usize = 16;
/// Finished panels that may wait to be reported, per thread.
const PANELS_WAITING: usize = 2;

/// How rows come to be. The honest way is [`Chain`]; cheats have others.
pub(crate) trait MakeRows: Sync {
    /// Writes rows `first..` into `rows`, at most [`BLOCK_ROWS`] of them.
    fn make(&self, first: u64, rows: &mut [u8]);
}

/// How a walk reads a row. The honest way is [`InMemory`].
pub(crate) trait ReadRows: Sync {
    /// The state after the row was read; `scratch` holds one row.
    fn read(&self, key: &WalkKey, mixed: u64, row: u64, scratch: &mut [u8]) -> u64;
}

/// The chain of products, from the seed.
#[derive(Debug)]
pub(crate) struct Chain {
    n: usize,
    matrix: ChainMatrix,
    keys: DeviceKeys,
}

/// The whole plot in memory.
#[derive(Debug)]
pub(crate) struct InMemory<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) n: usize,
    pub(crate) plot: &'a [u8],
}

impl Chain {
    pub(crate) fn new(kernel: Kernel, task: &FillTask) -> Self {
        Self::with_steps(kernel, task, task.params.steps())
    }

    pub(crate) fn with_steps(kernel: Kernel, task: &FillTask, steps: u16) -> Self {
        let n = task.params.n();
        let matrix = ChainMatrix::on(kernel, &task.matrix, n, steps);
        Self { n, matrix, keys: task.keys.clone() }
    }
}

impl MakeRows for Chain {
    fn make(&self, first: u64, rows: &mut [u8]) {
        let mut operands = vec![0_i16; rows.len()];
        let mut scratch = vec![0_u8; 2 * self.n];
        for (index, row) in (first..).zip(operands.chunks_exact_mut(self.n)) {
            operand_row(self.keys.operands(), index, &mut scratch, row);
        }
        self.matrix.chain(&mut operands, rows);
    }
}

impl ReadRows for InMemory<'_> {
    #[inline]
    fn read(&self, key: &WalkKey, mixed: u64, row: u64, _scratch: &mut [u8]) -> u64 {
        let row = usize::try_from(row).expect("a row in memory has an index in memory");
        self.kernel.absorb(key, mixed, &self.plot[row * self.n..][..self.n])
    }
}

/// Fills `plot`, reports each panel in order, and returns the tree over all rows.
pub(crate) fn fill(
    task: &FillTask,
    threads: usize,
    make: &dyn MakeRows,
    plot: &mut [u8],
    report: &mut ReportPanel<'_>,
) -> Result<Tree, DeviceError> {
    let n = task.params.n();
    let panel_rows = task.params.panel_rows() as usize;
    let keys = task.keys.rows();
    fill_panels(task, threads, plot.chunks_mut(panel_rows * n), report, &|panel, rows| {
        Ok(fill_panel(keys, make, (panel * panel_rows) as u64, rows, n))
    })
}

/// Makes the panels on threads, wherever they are kept, reports each in order, and returns the tree over all rows.
pub(crate) fn fill_panels<P: Send>(
    task: &FillTask,
    threads: usize,
    panels: impl ExactSizeIterator<Item = P> + Send,
    report: &mut ReportPanel<'_>,
    make: &(dyn Fn(usize, P) -> Result<Vec<Digest>, DeviceError> + Sync),
) -> Result<Tree, DeviceError> {
    let count = panels.len();
    let panels = Mutex::new(panels.enumerate());
    let keys = task.keys.rows();
    let (done, finished) =
        sync_channel::<(usize, Result<Vec<Digest>, DeviceError>)>(threads * PANELS_WAITING);
    let mut leaves: Vec<Option<Vec<Digest>>> = vec![None; count];
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            let (done, panels) = (done.clone(), &panels);
            scope.spawn(move || {
                loop {
                    let next = panels.lock().expect("no thread panics while it holds this").next();
                    let Some((panel, rows)) = next else { break };
                    if done.send((panel, make(panel, rows))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        let mut next = 0;
        // Dropping the channel on an error ends the threads.
        for (panel, panel_leaves) in finished {
            leaves[panel] = Some(panel_leaves?);
            while let Some(ready) = leaves.get(next).and_then(Option::as_ref) {
                report(u32::try_from(next).unwrap_or(u32::MAX), keys.root(ready)?)?;
                next += 1;
            }
        }
        Ok::<(), DeviceError>(())
    })?;
    let leaves = leaves.into_iter().flatten().flatten().collect();
    Ok(Tree::new(keys, leaves)?)
}

fn fill_panel(
    keys: &TreeKeys,
    make: &dyn MakeRows,
    first: u64,
    panel: &mut [u8],
    n: usize,
) -> Vec<Digest> {
    let mut leaves = Vec::with_capacity(panel.len() / n);
    let blocks = panel.chunks_mut(BLOCK_ROWS * n);
    for (first, block) in (first..).step_by(BLOCK_ROWS).zip(blocks) {
        make.make(first, block);
        leaves.extend(block.chunks_exact(n).map(|row| keys.leaf(row)));
    }
    leaves
}

/// Runs all walks of a device.
pub(crate) fn walk(
    params: &ProofParams,
    key: &WalkKey,
    walks: u32,
    threads: usize,
    read: &dyn ReadRows,
) -> Vec<u64> {
    let mut results = vec![0_u64; walks as usize];
    let share = results.len().div_ceil(threads.max(1)).next_multiple_of(WALKS_IN_STEP);
    thread::scope(|scope| {
        for (part, results) in results.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                let mut scratch = vec![0_u8; params.n()];
                let first = part * share;
                for (at, states) in results.chunks_mut(WALKS_IN_STEP).enumerate() {
                    let walk = u32::try_from(first + at * WALKS_IN_STEP).unwrap_or(u32::MAX);
                    walk_in_step(params, key, walk, read, (states, &mut scratch));
                }
            });
        }
    });
    results
}

fn walk_in_step(
    params: &ProofParams,
    key: &WalkKey,
    first: u32,
    read: &dyn ReadRows,
    (states, scratch): (&mut [u64], &mut [u8]),
) {
    for (walk, state) in (first..).zip(states.iter_mut()) {
        *state = key.start(walk);
    }
    for _ in 0..params.reads() {
        for state in states.iter_mut() {
            let (mixed, row) = key.step(*state);
            *state = read.read(key, mixed, row, scratch);
        }
    }
}

/// The tree over the run of rows that COPY asks for, hashed out of main memory.
pub(crate) fn copy_tree(
    params: &ProofParams,
    key: &CopyKey,
    plan: &DevicePlan,
    threads: usize,
    plot: &[u8],
) -> Result<Tree, TreeError> {
    let n = params.n();
    let count = usize::try_from(params.copied_rows(plan.rows)).unwrap_or(usize::MAX);
    let mut leaves = vec![Digest([0; 32]); count];
    let share = count.div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        for (part, leaves) in leaves.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (place, leaf) in (part * share..).zip(leaves) {
                    let row = usize::try_from(key.row(place as u64)).unwrap_or(usize::MAX);
                    *leaf = key.tree().leaf(&plot[row * n..][..n]);
                }
            });
        }
    });
    Tree::new(key.tree(), leaves)
}

/// The tree over walk results.
pub(crate) fn walk_tree(keys: &TreeKeys, results: &[u64]) -> Result<Tree, TreeError> {
    let groups = results.chunks(WALK_GROUP as usize);
    Tree::new(keys, groups.map(|group| keys.leaf(&walk_leaf(group))).collect())
}
