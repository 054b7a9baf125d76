//! The session's matrix in the layout of the kernels, and the chain of products over it.
//!
//! The matrix is packed in tiles of thirty-two columns; in a tile, the pairs of its rows follow each other, so that a
//! block of operand rows reads the whole matrix once, in one run of memory. Sums never leave the first-level cache:
//! they are mixed as soon as their tile is done, and only operands of nine bits travel between steps.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "places inside matrices whose sizes are asserted where they come in, all far below 2^40"
)]

use crate::derive::{DeviceKeys, SessionKeys};
use crate::kernel::{
    Checked, GROUP_ROWS, Kernel, OperandPairs, PairOfRows, Run, Sums, TILE_COLUMNS,
};
use crate::operand::operand_row;
use crate::params::ProofParams;

/// Rows that are taken through a step together: enough to hide the reading of the matrix behind the products, and few
/// enough that their operands stay in the second-level cache.
pub const BLOCK_ROWS: usize = 64;

/// Pairs of matrix rows that are worked through for all rows of a block before the next: they stay in the first-level
/// cache.
const RUN_PAIRS: usize = 128;
/// Rows of the matrix that are drawn before they are packed.
const BAND_ROWS: usize = 16;

/// The session's matrix, laid out for a kernel.
#[derive(Clone)]
pub struct ChainMatrix {
    kernel: Checked,
    n: usize,
    steps: u16,
    pairs: Vec<PairOfRows>,
}

impl ChainMatrix {
    /// Draws the matrix of a session, for the fastest kernel of this processor.
    #[must_use]
    pub fn new(keys: &SessionKeys, params: &ProofParams) -> Self {
        let n = params.n();
        let mut matrix = Self::empty(Kernel::detect(), n, params.steps());
        let mut scratch = vec![0; 2 * n];
        let mut band = vec![0; BAND_ROWS * n];
        for first in (0..n).step_by(BAND_ROWS) {
            for (row, operands) in (first..).zip(band.chunks_exact_mut(n)) {
                operand_row(keys.matrix(), row as u64, &mut scratch, operands);
            }
            matrix.pack(first, &band);
        }
        matrix
    }

    /// Lays out a matrix of `n` rows and columns for the fastest kernel of this processor.
    ///
    /// # Panics
    /// Where `n` is not a multiple of 32, or there are not `n` rows of `n`.
    #[must_use]
    pub fn from_rows(rows: &[i16], n: usize, steps: u16) -> Self {
        Self::on(Kernel::detect(), rows, n, steps)
    }

    /// Lays out a matrix for a kernel; one that this processor lacks falls back to the portable one.
    ///
    /// # Panics
    /// As [`ChainMatrix::from_rows`].
    #[must_use]
    pub fn on(kernel: Kernel, rows: &[i16], n: usize, steps: u16) -> Self {
        assert!(rows.len() == n * n, "a matrix of n rows and n columns");
        let mut matrix = Self::empty(kernel, n, steps);
        for (band, rows) in rows.chunks(BAND_ROWS * n).enumerate() {
            matrix.pack(band * BAND_ROWS, rows);
        }
        matrix
    }

    /// The kernel that runs.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.kernel.0
    }

    /// Width of the matrix.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// The plot rows at these indices, one after the other, from the seed.
    #[must_use]
    pub fn plot_rows(&self, keys: &DeviceKeys, indices: &[u64]) -> Vec<u8> {
        self.plot_rows_of(indices.iter().map(|index| (keys, *index)))
    }

    /// The plot rows at these indices of these devices.
    pub(crate) fn plot_rows_of<'a>(
        &self,
        places: impl ExactSizeIterator<Item = (&'a DeviceKeys, u64)>,
    ) -> Vec<u8> {
        let mut operands = vec![0; places.len() * self.n];
        let mut scratch = vec![0; self.n * 2];
        for ((keys, index), row) in places.zip(operands.chunks_exact_mut(self.n)) {
            operand_row(keys.operands(), index, &mut scratch, row);
        }
        let mut plot = vec![0; operands.len()];
        self.chain(&mut operands, &mut plot);
        plot
    }

    /// Runs the whole chain over the first operands of some rows; `operands` is used up.
    ///
    /// # Panics
    /// Where there is not one byte of plot for each operand, or a row is not whole.
    pub fn chain(&self, operands: &mut [i16], plot: &mut [u8]) {
        let block = BLOCK_ROWS * self.n;
        assert!(operands.len() == plot.len(), "one byte of plot for each operand");
        let mut next = vec![0; operands.len().min(block)];
        let mut packed = Vec::new();
        for (operands, plot) in operands.chunks_mut(block).zip(plot.chunks_mut(block)) {
            let (mut from, mut to) = (operands, &mut next[..plot.len()]);
            let last = u32::from(self.steps.saturating_sub(1));
            for step in 0..last {
                self.multiply_block(from, &mut packed, |place, column, sums| {
                    let to = &mut to[place..][..TILE_COLUMNS];
                    self.kernel.mix_operands((step, column), sums, to);
                });
                std::mem::swap(&mut from, &mut to);
            }
            self.multiply_block(from, &mut packed, |place, column, sums| {
                self.kernel.mix_plot((last, column), sums, &mut plot[place..][..TILE_COLUMNS]);
            });
        }
    }

    /// `sums = operands · B`, for any number of rows.
    ///
    /// # Panics
    /// Where there is not one sum for each operand, or a row is not whole.
    pub fn multiply(&self, operands: &[i16], sums: &mut [i32]) {
        let block = BLOCK_ROWS * self.n;
        assert!(operands.len() == sums.len(), "one sum for each operand");
        let mut packed = Vec::new();
        for (operands, to) in operands.chunks(block).zip(sums.chunks_mut(block)) {
            self.multiply_block(operands, &mut packed, |place, _, sums| {
                to[place..][..TILE_COLUMNS].copy_from_slice(&sums.0);
            });
        }
    }

    /// The products of one block, handed out tile by tile: where the tile of a row begins among the block's operands,
    /// its first column, and its sums.
    fn multiply_block(
        &self,
        operands: &[i16],
        packed: &mut Vec<OperandPairs>,
        mut each: impl FnMut(usize, u32, &Sums),
    ) {
        let (n, pairs) = (self.n, self.n / 2);
        pack_operands(operands, n, packed);
        let groups = packed.len() / pairs;
        let mut block = [[Sums::ZERO; GROUP_ROWS]; BLOCK_ROWS / GROUP_ROWS];
        let sums = &mut block[..groups];
        for (tile, column) in self.pairs.chunks_exact(pairs).zip((0_u32..).step_by(TILE_COLUMNS)) {
            sums.as_flattened_mut().fill(Sums::ZERO);
            for (matrix, first) in tile.chunks(RUN_PAIRS).zip((0..).step_by(RUN_PAIRS)) {
                let after = column as usize / TILE_COLUMNS * pairs + first + matrix.len();
                let ahead = &self.pairs[after..(after + RUN_PAIRS).min(self.pairs.len())];
                let mut ahead = ahead.chunks(RUN_PAIRS.div_ceil(groups));
                for (group, sums) in packed.chunks_exact(pairs).zip(sums.iter_mut()) {
                    let operands = &group[first..][..matrix.len()];
                    let ahead = ahead.next().unwrap_or_default();
                    self.kernel.add_run(&Run { operands, matrix, ahead }, sums);
                }
            }
            for (row, sums) in sums.as_flattened()[..operands.len() / n].iter().enumerate() {
                each(row * n + column as usize, column, sums);
            }
        }
    }

    fn empty(kernel: Kernel, n: usize, steps: u16) -> Self {
        assert!(n > 0 && n.is_multiple_of(TILE_COLUMNS), "whole tiles");
        let pairs = vec![PairOfRows::ZERO; n / 2 * (n / TILE_COLUMNS)];
        Self { kernel: kernel.checked(), n, steps, pairs }
    }

    /// Puts some rows of the matrix, from an even one on, into their places.
    fn pack(&mut self, first: usize, rows: &[i16]) {
        let n = self.n;
        for (tile, pairs) in self.pairs.chunks_exact_mut(n / 2).enumerate() {
            let rows = rows.chunks_exact(2 * n);
            for (pair, both) in pairs[first / 2..].iter_mut().zip(rows) {
                let (upper, lower) = both.split_at(n);
                let upper = &upper[tile * TILE_COLUMNS..][..TILE_COLUMNS];
                let lower = &lower[tile * TILE_COLUMNS..][..TILE_COLUMNS];
                for (cells, (upper, lower)) in pair.0.iter_mut().zip(upper.iter().zip(lower)) {
                    *cells = [*upper, *lower];
                }
            }
        }
    }
}

/// Whole rows of operands as groups, in which the operands that meet one pair of matrix rows lie together.
fn pack_operands(operands: &[i16], n: usize, packed: &mut Vec<OperandPairs>) {
    assert!(operands.len().is_multiple_of(n), "whole rows");
    packed.clear();
    packed.resize(operands.len().div_ceil(GROUP_ROWS * n) * (n / 2), OperandPairs::ZERO);
    let groups = operands.chunks(GROUP_ROWS * n).zip(packed.chunks_exact_mut(n / 2));
    for (rows, group) in groups {
        for (at, row) in rows.chunks_exact(n).enumerate() {
            for (pairs, operands) in group.iter_mut().zip(row.as_chunks::<2>().0) {
                pairs.0[at] = *operands;
            }
        }
    }
}

impl std::fmt::Debug for ChainMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainMatrix")
            .field("kernel", &self.kernel())
            .field("n", &self.n)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
