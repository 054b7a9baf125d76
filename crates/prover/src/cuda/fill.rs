//! Filling the plot, and hashing one panel of it again when it is opened.
//!
//! One queue computes rows, the other hashes them behind it, and the host only takes the roots of panels, a few panels
//! late: the GPU never waits for the host. The leaves of a panel are not kept, for the plot is; they are hashed again where
//! a row of it is opened.

use nicompute_proof::{Digest, Tree, TreeKeys};

use super::error::CudaError;
use super::kernels::{Key, Rows, Step};
use super::layout::{DIGEST_BYTES, PANELS_IN_FLIGHT};
use super::work::Work;
use crate::device::{DeviceError, FillTask, ReportPanel};

/// What the rows of a session are made with.
#[derive(Clone, Copy)]
struct Recipe {
    operands: Key,
    leaf: Key,
    node: Key,
    steps: u32,
}

impl Work {
    /// Fills the plot and reports every panel in order; returns the roots of the panels.
    pub(super) fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Vec<Digest>, DeviceError> {
        self.gpu.enter()?;
        let keys = task.keys.rows();
        let recipe = Recipe {
            operands: task.keys.operands().into(),
            leaf: (&keys.leaf).into(),
            node: (&keys.node).into(),
            steps: u32::from(task.params.steps()),
        };
        self.make_matrix(task.session.matrix().into())?;
        let panels = self.layout.panels;
        let mut roots = Vec::with_capacity(panels as usize);
        let mut queued = 0;
        for panel in 0..panels {
            while queued < panels.min(panel.saturating_add(PANELS_IN_FLIGHT)) {
                self.queue_panel(&recipe, queued)?;
                queued += 1;
            }
            let root = digests(self.roots[slot(panel)].take()?).next();
            let root = root.ok_or(DeviceError::Order)?;
            report(panel, root)?;
            roots.push(root);
        }
        Ok(roots)
    }

    fn make_matrix(&self, key: Key) -> Result<(), CudaError> {
        let n = self.layout.n;
        let rows = Rows { count: n, n };
        // SAFETY: the matrix has n rows of n operands.
        unsafe { self.gpu.kernels().operands(&self.compute, self.matrix.address(), key, 0, rows) }
    }

    /// Puts a panel into the queues, and its root behind it.
    fn queue_panel(&mut self, recipe: &Recipe, panel: u32) -> Result<(), CudaError> {
        let (n, chunk) = (self.layout.n, self.layout.chunk_rows);
        let row_bytes = u64::from(n);
        let first = u64::from(panel) * u64::from(self.layout.panel_rows);
        for done in (0..self.layout.panel_rows).step_by(chunk as usize) {
            let rows = Rows { count: chunk, n };
            let plot = self.plot.address() + (first + u64::from(done)) * row_bytes;
            self.queue_chunk(recipe, first + u64::from(done), plot, rows)?;
            self.hand_over()?;
            let leaves = self.leaves.address() + u64::from(done) * DIGEST_BYTES;
            // SAFETY: a panel is whole chunks, so rows and leaves lie within their buffers; the rows are computed before,
            // by the mark that was just handed over.
            unsafe { self.gpu.kernels().leaves(&self.hash, plot, leaves, recipe.leaf, rows)? };
        }
        self.queue_root(recipe.node, panel)
    }

    fn queue_chunk(
        &self,
        recipe: &Recipe,
        first: u64,
        plot: u64,
        rows: Rows,
    ) -> Result<(), CudaError> {
        let (kernels, stream) = (self.gpu.kernels(), &self.compute);
        let [mut now, mut next] = [&self.operands[0], &self.operands[1]].map(|b| b.address());
        // SAFETY: the buffers of operands hold a chunk each.
        unsafe { kernels.operands(stream, now, recipe.operands, first, rows)? };
        for number in 0..recipe.steps {
            let is_last = number + 1 == recipe.steps;
            let matrix = self.matrix.address();
            let step = Step { operands: now, matrix, next, plot, number, is_last };
            // SAFETY: the buffers of operands hold a chunk each, the matrix n rows, and the caller's rows lie in the plot.
            unsafe { kernels.step(stream, step, rows)? };
            std::mem::swap(&mut now, &mut next);
        }
        Ok(())
    }

    /// Hashes the leaves of a panel together and lets the root come to the host.
    fn queue_root(&mut self, node: Key, panel: u32) -> Result<(), CudaError> {
        let mut from = &self.leaves;
        let mut count = self.layout.panel_rows / 2;
        for level in 0.. {
            if count == 0 {
                break;
            }
            let to = &self.nodes[level % 2];
            let nodes = (from.address(), to.address());
            // SAFETY: each level is half of the one below it, the first half of the leaves; levels take turns.
            unsafe { self.gpu.kernels().nodes(&self.hash, nodes, node, count)? };
            (from, count) = (to, count / 2);
        }
        self.roots[slot(panel)].call((from, 0), DIGEST_BYTES, &self.hash)
    }

    /// The tree of one panel, from its rows in the GPU's memory.
    pub(super) fn panel_tree(&mut self, keys: &TreeKeys, panel: u64) -> Result<Tree, DeviceError> {
        self.gpu.enter()?;
        let (n, count) = (self.layout.n, self.layout.panel_rows);
        if panel >= u64::from(self.layout.panels) {
            return Err(DeviceError::Order);
        }
        let panel_bytes = u64::from(n) * u64::from(count);
        let plot = self.plot.address() + panel * panel_bytes;
        let (leaves, rows) = (self.leaves.address(), Rows { count, n });
        // SAFETY: the panel lies in the plot, and the buffer holds the leaves of one panel.
        unsafe { self.gpu.kernels().leaves(&self.hash, plot, leaves, (&keys.leaf).into(), rows)? };
        self.opened.call((&self.leaves, 0), u64::from(count) * DIGEST_BYTES, &self.hash)?;
        let leaves = digests(self.opened.take()?).collect();
        Ok(Tree::new(keys, leaves)?)
    }
}

const fn slot(panel: u32) -> usize {
    (panel % PANELS_IN_FLIGHT) as usize
}

fn digests(bytes: &[u8]) -> impl Iterator<Item = Digest> {
    bytes.as_chunks::<32>().0.iter().map(|bytes| Digest(*bytes))
}
