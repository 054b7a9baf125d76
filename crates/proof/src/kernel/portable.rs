//! The kernel of every processor. Its loops are written so that the compiler turns them into multiply-add instructions of
//! the baseline (on x86-64: `pmaddwd`).

use crate::kernel::{Group, PairOfRows, Sums, TILE_COLUMNS};
use crate::operand::{MIX_COLUMN, mix_tweak, mix32, next_operand, plot_byte};

/// Columns whose sums the registers of the baseline hold.
const COLUMNS: usize = 16;

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

pub(super) fn add_run(group: &Group<'_>, run: &[PairOfRows], sums: &mut [Sums]) {
    for (operands, sums) in group.pairs(run).zip(sums) {
        for half in 0..TILE_COLUMNS / COLUMNS {
            add_row(operands, run, sums, half);
        }
    }
}

fn add_row(operands: &[[i16; 2]], run: &[PairOfRows], sums: &mut Sums, half: usize) {
    let mut totals = [0_i32; COLUMNS];
    for (operands, pair) in operands.iter().zip(run) {
        let Some(cells) = pair.0.as_chunks::<COLUMNS>().0.get(half) else { return };
        for (total, cells) in totals.iter_mut().zip(cells) {
            *total = add_products(*total, *operands, *cells);
        }
    }
    let Some(sums) = sums.0.as_chunks_mut::<COLUMNS>().0.get_mut(half) else { return };
    for (sum, total) in sums.iter_mut().zip(totals) {
        *sum = sum.wrapping_add(total);
    }
}

/// Cannot wrap: at most 4096 products of nine-bit operands stay below 2^28. Written without overflow checks, which
/// would keep the loop from becoming vector code in test builds.
#[inline(always)]
fn add_products(sum: i32, [a, b]: [i16; 2], [c, d]: [i16; 2]) -> i32 {
    let first = i32::from(a).wrapping_mul(i32::from(c));
    let second = i32::from(b).wrapping_mul(i32::from(d));
    sum.wrapping_add(first.wrapping_add(second))
}
