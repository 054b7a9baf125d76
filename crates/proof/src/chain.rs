//! The chain of a row in portable arithmetic: what the verifier computes, and what every fast kernel is compared with.
//!
//! Operands are i16 and sums are i32. The loops are written so that the compiler turns them into multiply-add
//! instructions of the baseline (on x86-64: `pmaddwd`), because this room has no `unsafe`.

use crate::derive::{DeviceKeys, SessionKeys};
use crate::operand::{MIX_COLUMN, mix_tweak, mix32, next_operand, operand_row, plot_byte};
use crate::params::ProofParams;

/// Rows whose sums share each load of a column.
const ROWS_TOGETHER: usize = 4;

/// The session's matrix, column after column, so that a sum reads two runs of memory.
#[derive(Clone)]
pub struct ChainMatrix {
    n: usize,
    steps: u16,
    columns: Vec<i16>,
}

impl ChainMatrix {
    /// Draws the matrix of a session.
    #[must_use]
    pub fn new(keys: &SessionKeys, params: &ProofParams) -> Self {
        Self::from_rows(&keys.matrix_rows(params.n()), params.n(), params.steps())
    }

    /// Transposes a matrix of `n` rows and columns.
    #[must_use]
    pub fn from_rows(rows: &[i16], n: usize, steps: u16) -> Self {
        let mut columns = vec![0; rows.len()];
        for (column, to) in columns.chunks_exact_mut(n).enumerate() {
            for (cell, row) in to.iter_mut().zip(rows.chunks_exact(n)) {
                *cell = row.get(column).copied().unwrap_or(0);
            }
        }
        Self { n, steps, columns }
    }

    /// The plot rows at these indices, one after the other, from the seed.
    #[must_use]
    pub fn plot_rows(&self, keys: &DeviceKeys, indices: &[u64]) -> Vec<u8> {
        let mut operands = vec![0; indices.len().saturating_mul(self.n)];
        let mut scratch = vec![0; self.n.saturating_mul(2)];
        for (index, row) in indices.iter().zip(operands.chunks_exact_mut(self.n)) {
            operand_row(keys.operands(), *index, &mut scratch, row);
        }
        let mut plot = vec![0; operands.len()];
        self.chain(&mut operands, &mut plot);
        plot
    }

    /// Runs the whole chain over the first operands of some rows; `operands` is used up.
    pub fn chain(&self, operands: &mut [i16], plot: &mut [u8]) {
        let mut sums = vec![0_i32; operands.len()];
        let last = u32::from(self.steps.saturating_sub(1));
        for step in 0..last {
            self.multiply(operands, &mut sums);
            let rows = sums.chunks_exact(self.n).zip(operands.chunks_exact_mut(self.n));
            for (sums, operands) in rows {
                mix_to_operands(step, sums, operands);
            }
        }
        self.multiply(operands, &mut sums);
        for (sums, plot) in sums.chunks_exact(self.n).zip(plot.chunks_exact_mut(self.n)) {
            mix_to_plot(last, sums, plot);
        }
    }

    /// `sums = operands · B`, for any number of rows.
    pub fn multiply(&self, operands: &[i16], sums: &mut [i32]) {
        let n = self.n;
        let together = n.saturating_mul(ROWS_TOGETHER);
        let mut groups = operands.chunks_exact(together);
        let mut sum_groups = sums.chunks_exact_mut(together);
        for (group, sums) in (&mut groups).zip(&mut sum_groups) {
            self.multiply_four(group, sums);
        }
        let rest = groups.remainder().chunks_exact(n);
        for (row, sums) in rest.zip(sum_groups.into_remainder().chunks_exact_mut(n)) {
            for (sum, column) in sums.iter_mut().zip(self.columns.chunks_exact(n)) {
                *sum = dot(row, column);
            }
        }
    }

    fn multiply_four(&self, rows: &[i16], sums: &mut [i32]) {
        let n = self.n;
        let half = n.saturating_mul(2);
        let (top, bottom) = rows.split_at(half);
        let ((first, second), (third, fourth)) = (top.split_at(n), bottom.split_at(n));
        let (top, bottom) = sums.split_at_mut(half);
        let (to_first, to_second) = top.split_at_mut(n);
        let (to_third, to_fourth) = bottom.split_at_mut(n);
        let to = to_first.iter_mut().zip(to_second).zip(to_third.iter_mut().zip(to_fourth));
        for (column, ((to_first, to_second), (to_third, to_fourth))) in
            self.columns.chunks_exact(n).zip(to)
        {
            let [a, b, c, d] = dot_four([first, second, third, fourth], column);
            *to_first = a;
            *to_second = b;
            *to_third = c;
            *to_fourth = d;
        }
    }
}

impl std::fmt::Debug for ChainMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainMatrix").field("n", &self.n).field("steps", &self.steps).finish()
    }
}

/// The sums of a step that is not the last, as the operands of the next.
#[inline(always)]
pub fn mix_to_operands(step: u32, sums: &[i32], operands: &mut [i16]) {
    let mut tweak = mix_tweak(step, 0);
    for (sum, operand) in sums.iter().zip(operands) {
        *operand = next_operand(mix32(*sum, tweak));
        tweak = tweak.wrapping_add(MIX_COLUMN);
    }
}

/// The sums of the last step, as bytes of the plot.
#[inline(always)]
pub fn mix_to_plot(step: u32, sums: &[i32], plot: &mut [u8]) {
    let mut tweak = mix_tweak(step, 0);
    for (sum, byte) in sums.iter().zip(plot) {
        *byte = plot_byte(mix32(*sum, tweak));
        tweak = tweak.wrapping_add(MIX_COLUMN);
    }
}

#[inline]
fn dot(row: &[i16], column: &[i16]) -> i32 {
    row.iter().zip(column).fold(0, |sum, (a, b)| add_product(sum, *a, *b))
}

/// Four sums over one column.
#[inline]
fn dot_four(rows: [&[i16]; 4], column: &[i16]) -> [i32; 4] {
    let [first, second, third, fourth] = rows;
    let [mut a, mut b, mut c, mut d] = [0_i32; 4];
    let cells = first.iter().zip(second).zip(third.iter().zip(fourth)).zip(column);
    for (((w, x), (y, z)), cell) in cells {
        a = add_product(a, *w, *cell);
        b = add_product(b, *x, *cell);
        c = add_product(c, *y, *cell);
        d = add_product(d, *z, *cell);
    }
    [a, b, c, d]
}

/// Cannot wrap: at most 4096 products of nine-bit operands stay below 2^28. Written without overflow checks, which
/// would keep the loop from becoming vector code in test builds.
#[inline(always)]
fn add_product(sum: i32, a: i16, b: i16) -> i32 {
    sum.wrapping_add(i32::from(a).wrapping_mul(i32::from(b)))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the definition, written plainly")]
mod tests {
    use super::*;

    /// The chain in 64-bit arithmetic and plain loops, straight from the definition.
    fn reference(rows: &[i16], n: usize, steps: u16, first: &[i16]) -> Vec<u8> {
        let mut operands: Vec<i64> = first.iter().map(|v| i64::from(*v)).collect();
        let mut plot = vec![0_u8; n];
        for step in 0..u32::from(steps) {
            let mut next = operands.clone();
            for column in 0..n {
                let sum: i64 = (0..n).map(|k| operands[k] * i64::from(rows[k * n + column])).sum();
                let tweak = mix_tweak(step, u32::try_from(column).unwrap());
                let mixed = mix32(i32::try_from(sum).unwrap(), tweak);
                next[column] = i64::from(next_operand(mixed));
                plot[column] = plot_byte(mixed);
            }
            operands = next;
        }
        plot
    }

    /// A verifier that computes another chain than the definition refuses everybody.
    #[test]
    fn the_chain_equals_its_definition() {
        for (n, steps, count) in [(128, 2, 1), (128, 3, 5), (192, 2, 7), (256, 2, 9)] {
            let mut rows = vec![0; n * n];
            operand_row(&[1; 32], 0, &mut vec![0; 2 * n * n], &mut rows);
            let mut first = vec![0; count * n];
            operand_row(&[2; 32], 0, &mut vec![0; 2 * count * n], &mut first);
            let matrix = ChainMatrix::from_rows(&rows, n, steps);
            let mut plot = vec![0; count * n];
            matrix.chain(&mut first.clone(), &mut plot);
            for (first, plot) in first.chunks(n).zip(plot.chunks(n)) {
                assert_eq!(plot, reference(&rows, n, steps, first));
            }
        }
    }

    /// Operands of full size in every place are the largest sums that there are.
    #[test]
    fn the_largest_sums_do_not_overflow() {
        let n = 4096;
        let matrix = ChainMatrix::from_rows(&vec![-255; n * n], n, 2);
        let mut sums = vec![0; 5 * n];
        matrix.multiply(&vec![255; 5 * n], &mut sums);
        assert!(sums.iter().all(|sum| *sum == -255 * 255 * 4096));
    }
}
