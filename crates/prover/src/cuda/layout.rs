//! What a session takes of a GPU's memory, in bytes, before anything is allocated.

use nicompute_proof::{DevicePlan, ProofParams};

use super::error::CudaError;
use super::kernels::TILE;

/// Rows that are computed at a time: enough blocks for every GPU there is, and operands that stay in a large cache.
const CHUNK_ROWS_MAX: u32 = 16_384;
/// Walks of one launch. Their results are fetched while the next launch runs.
const WALKS_AT_ONCE: u32 = 1 << 20;
/// Bytes of rows that are brought to the host at a time.
const COPIED_AT_ONCE: u64 = 32 << 20;
/// Panels that are in the queues at most, so that the GPU has work while the host takes roots.
pub(super) const PANELS_IN_FLIGHT: u32 = 4;
/// Bytes of one leaf or node.
pub(super) const DIGEST_BYTES: u64 = 32;
/// Bytes of a walk's result.
pub(super) const RESULT_BYTES: u64 = 8;
/// Bytes of an operand on the GPU.
const OPERAND_BYTES: u64 = 2;
/// What the driver rounds an allocation up to.
const PAGE: u64 = 2 << 20;
/// The largest sizes that parameters allow.
const N_MAX: u64 = 4096;
const PANEL_ROWS_MAX: u64 = 1 << 20;
/// What the driver may still take for itself after it said how much is free.
const DRIVER_RESERVE: u64 = 64 << 20;

/// The sizes of a session on one GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) n: u32,
    pub(super) panel_rows: u32,
    pub(super) panels: u32,
    pub(super) chunk_rows: u32,
    pub(super) walks_at_once: u32,
    /// Bytes of all rows.
    pub(super) plot: u64,
    /// Bytes of everything else.
    pub(super) buffers: Buffers,
}

/// Bytes of the buffers beside the plot. Operands, nodes and results are there twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Buffers {
    /// The operands of a chunk.
    pub(super) operands: u64,
    /// The session's matrix.
    pub(super) matrix: u64,
    /// The leaves of a panel.
    pub(super) leaves: u64,
    /// Half of them.
    pub(super) nodes: u64,
    /// Key words of the walks.
    pub(super) words: u64,
    /// Results of one launch of walks.
    pub(super) results: u64,
}

impl Layout {
    /// The buffers for a share of the work.
    ///
    /// # Errors
    /// Where the kernels do not do these sizes.
    pub(super) fn new(params: &ProofParams, plan: &DevicePlan) -> Result<Self, CudaError> {
        let record = params.record();
        if !record.n.is_multiple_of(TILE) {
            let expected = "a width that is a multiple of 128";
            return Err(CudaError::Shape { field: "n", value: u64::from(record.n), expected });
        }
        if record.panel_rows < TILE {
            let (value, expected) = (u64::from(record.panel_rows), "panels of at least 128 rows");
            return Err(CudaError::Shape { field: "panel_rows", value, expected });
        }
        let chunk_rows = record.panel_rows.min(CHUNK_ROWS_MAX);
        let walks_at_once = plan.walks.clamp(1, WALKS_AT_ONCE);
        let panels = plan.rows.checked_div(u64::from(record.panel_rows)).unwrap_or(0);
        let buffers = Buffers::new(
            u64::from(record.n),
            u64::from(record.panel_rows),
            u64::from(chunk_rows),
            u64::from(walks_at_once),
        );
        Ok(Self {
            n: record.n,
            panel_rows: record.panel_rows,
            panels: u32::try_from(panels).unwrap_or(u32::MAX),
            chunk_rows,
            walks_at_once,
            plot: plan.rows.saturating_mul(u64::from(record.n)),
            buffers,
        })
    }

    /// Rows that are brought to the host at a time.
    pub(super) fn copied_at_once(&self) -> u64 {
        COPIED_AT_ONCE.checked_div(u64::from(self.n)).unwrap_or(1)
    }

    /// All of it.
    pub(super) const fn bytes(&self) -> u64 {
        self.plot.next_multiple_of(PAGE).saturating_add(self.buffers.bytes())
    }
}

impl Buffers {
    const fn new(n: u64, panel_rows: u64, chunk_rows: u64, walks_at_once: u64) -> Self {
        let leaves = panel_rows * DIGEST_BYTES;
        Self {
            operands: chunk_rows * n * OPERAND_BYTES,
            matrix: n * n * OPERAND_BYTES,
            leaves,
            nodes: leaves / 2,
            words: n,
            results: walks_at_once * RESULT_BYTES,
        }
    }

    /// All of them, as the driver allocates them.
    const fn bytes(&self) -> u64 {
        let Self { operands, matrix, leaves, nodes, words, results } = *self;
        let twice = operands.next_multiple_of(PAGE)
            + nodes.next_multiple_of(PAGE)
            + results.next_multiple_of(PAGE);
        let once = matrix.next_multiple_of(PAGE)
            + leaves.next_multiple_of(PAGE)
            + words.next_multiple_of(PAGE);
        2 * twice + once
    }
}

/// The memory that a GPU claims for plots when so much of it is free: all but what the widest session needs beside its
/// plot. A verifier asks for 99 % of the claim, so that a session of any size fits.
pub(super) const fn claimable(free: u64) -> u64 {
    const WIDEST: Buffers =
        Buffers::new(N_MAX, PANEL_ROWS_MAX, CHUNK_ROWS_MAX as u64, WALKS_AT_ONCE as u64);
    free.saturating_sub(WIDEST.bytes() + DRIVER_RESERVE + PAGE)
}

#[cfg(test)]
mod tests {
    use nicompute_proof::{DeviceClaim, DeviceKind, ParamsRecord, plan_devices};

    use super::*;

    fn claim(memory_bytes: u64) -> DeviceClaim {
        let (id, name) = ("GPU-0".to_owned(), "a GPU".to_owned());
        DeviceClaim { kind: DeviceKind::Cuda, id, name, memory_bytes }
    }

    fn params(n: u32, panel_rows: u32) -> ProofParams {
        let small = ProofParams::small().record();
        let rows = (1_u64 << 42) / u64::from(n) / u64::from(panel_rows);
        let rows = rows.min(4096) * u64::from(panel_rows);
        let walks = 1 << 26;
        ProofParams::try_from(ParamsRecord { n, rows, panel_rows, walks, ..small }).unwrap()
    }

    /// A GPU that claims more than it can hold fails in the middle of a session and earns nothing.
    #[test]
    fn what_a_verifier_asks_for_fits() {
        for free in [2_u64 << 30, 24 << 30, 80 << 30, 141 << 30, 288 << 30] {
            let claims = [claim(claimable(free))];
            for (n, panel_rows) in [(128, 128), (256, 16_384), (4096, 65_536), (4096, 1 << 18)] {
                let params = params(n, panel_rows);
                let Ok(plans) = plan_devices(&claims, DeviceKind::Cuda, &params) else { continue };
                let layout = Layout::new(&params, &plans[0]).unwrap();
                assert!(layout.bytes() <= free, "{free} {n} {panel_rows}");
            }
            let widest = Buffers::new(N_MAX, PANEL_ROWS_MAX, 16_384, 1 << 20).bytes();
            assert!(claimable(free) + widest < free);
        }
        assert_eq!(claimable(1 << 20), 0);
    }

    /// Whoever holds nine tenths of a large GPU must not pass for its owner: the claim leaves almost nothing out.
    #[test]
    fn a_large_gpu_is_claimed_almost_whole() {
        assert!(claimable(80 << 30) > (80 << 30) / 1000 * 993);
    }

    /// Sizes that the kernels do not do must be refused by name, not computed wrongly.
    #[test]
    fn other_shapes_are_refused() {
        let plan = DevicePlan { device: 0, rows: 1 << 20, walks: 64 };
        let refused = |n, panel_rows| Layout::new(&params(n, panel_rows), &plan).unwrap_err();
        assert!(matches!(refused(192, 1024), CudaError::Shape { field: "n", value: 192, .. }));
        let panel = refused(256, 64);
        assert!(matches!(panel, CudaError::Shape { field: "panel_rows", value: 64, .. }));
    }
}
