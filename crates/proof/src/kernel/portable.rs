//! The kernel of every processor. Its loops are written so that the compiler turns them into multiply-add instructions of
//! the baseline (on x86-64: `pmaddwd`).

use crate::kernel::{GROUP_ROWS, PairOfRows, Run, Sums};
use crate::operand::{MIX_COLUMN, mix_tweak, mix32, next_operand, plot_byte};

/// The sums of a step that is not the last, from column 0, as the operands of the next.
pub fn mix_to_operands(step: u32, sums: &[i32], operands: &mut [i16]) {
    mix_operands((step, 0), sums, operands);
}

/// The sums of the last step, from column 0, as bytes of the plot.
pub fn mix_to_plot(step: u32, sums: &[i32], plot: &mut [u8]) {
    mix_plot((step, 0), sums, plot);
}

/// The same from any column: `at` is the step and the first column.
#[inline(always)]
pub(super) fn mix_operands((step, column): (u32, u32), sums: &[i32], operands: &mut [i16]) {
    let mut tweak = mix_tweak(step, column);
    for (sum, operand) in sums.iter().zip(operands) {
        *operand = next_operand(mix32(*sum, tweak));
        tweak = tweak.wrapping_add(MIX_COLUMN);
    }
}

/// The same from any column: `at` is the step and the first column.
#[inline(always)]
pub(super) fn mix_plot((step, column): (u32, u32), sums: &[i32], plot: &mut [u8]) {
    let mut tweak = mix_tweak(step, column);
    for (sum, byte) in sums.iter().zip(plot) {
        *byte = plot_byte(mix32(*sum, tweak));
        tweak = tweak.wrapping_add(MIX_COLUMN);
    }
}

pub(super) fn add_run(run: &Run<'_>, sums: &mut [Sums; GROUP_ROWS]) {
    for (operands, pair) in run.operands.iter().zip(run.matrix) {
        for (operands, sums) in operands.0.iter().zip(sums.iter_mut()) {
            add_pair(*operands, pair, sums);
        }
    }
}

/// One row's products with one pair of matrix rows. A function of its own, so that the compiler lays its vectors across
/// the columns, where the pairs lie as multiply-add instructions want them.
///
/// Cannot wrap: at most 4096 products of nine-bit operands stay below 2^28. Written without overflow checks, which
/// would keep the loop from becoming vector code in test builds.
#[inline(never)]
fn add_pair([first, second]: [i16; 2], pair: &PairOfRows, sums: &mut Sums) {
    let (first, second) = (i32::from(first), i32::from(second));
    for (sum, cells) in sums.0.iter_mut().zip(&pair.0) {
        let upper = first.wrapping_mul(i32::from(cells[0]));
        let lower = second.wrapping_mul(i32::from(cells[1]));
        *sum = sum.wrapping_add(upper.wrapping_add(lower));
    }
}
