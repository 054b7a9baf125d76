//! The kernel for AVX2: four operand rows by sixteen columns in registers.

#![expect(unsafe_code, reason = "vector loads and stores")]
#![expect(
    clippy::indexing_slicing,
    reason = "places inside tiles of fixed size, checked by the compiler where it cannot know them"
)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_add_epi64, _mm256_load_si256, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_mul_epu32, _mm256_set1_epi32, _mm256_set1_epi64x,
    _mm256_setzero_si256, _mm256_srli_epi64, _mm256_store_si256, _mm256_storeu_si256,
    _mm256_xor_si256,
};

use crate::kernel::{GROUP_ROWS, PairOfRows, Run, Sums, portable};
use crate::walk::WalkKey;

/// Rows whose sums are in registers together.
const ROWS: usize = 4;
/// Columns of two vectors of sums.
const COLUMNS: usize = 16;
/// Bytes of a vector.
const VECTOR: usize = 32;

/// Adds the products of a group of operand rows and one run of matrix rows to the rows' sums: quarters of the tile, one
/// after the other, since a whole one does not fit in sixteen registers.
#[target_feature(enable = "avx2")]
pub(super) fn add_run(run: &Run<'_>, sums: &mut [Sums; GROUP_ROWS]) {
    for (first, sums) in (0..).step_by(ROWS).zip(sums.as_chunks_mut::<ROWS>().0) {
        for column in [0, COLUMNS] {
            add_quarter(run, (first, column), sums);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_quarter(run: &Run<'_>, (first, column): (usize, usize), sums: &mut [Sums; ROWS]) {
    let mut totals = [[_mm256_setzero_si256(); 2]; ROWS];
    for (operands, pair) in run.operands.iter().zip(run.matrix) {
        let cells = load_pair(pair, column);
        for (totals, operands) in totals.iter_mut().zip(&operands.0[first..]) {
            let both = broadcast(*operands);
            totals[0] = _mm256_add_epi32(totals[0], _mm256_madd_epi16(both, cells[0]));
            totals[1] = _mm256_add_epi32(totals[1], _mm256_madd_epi16(both, cells[1]));
        }
    }
    for (totals, sums) in totals.into_iter().zip(sums) {
        add_to(sums, column, totals);
    }
}

/// One tile of sums as operands of the next step.
#[target_feature(enable = "avx2")]
pub(super) fn mix_operands(at: (u32, u32), sums: &Sums, operands: &mut [i16]) {
    portable::mix_operands(at, &sums.0, operands);
}

/// One tile of sums as bytes of the plot.
#[target_feature(enable = "avx2")]
pub(super) fn mix_plot(at: (u32, u32), sums: &Sums, plot: &mut [u8]) {
    portable::mix_plot(at, &sums.0, plot);
}

/// A walk's state after it read a row.
#[target_feature(enable = "avx2")]
pub(super) fn absorb(key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
    let (vectors, rest) = row.as_chunks::<VECTOR>();
    let keys = key.words().as_chunks::<{ VECTOR / 8 }>().0;
    if keys.len() < vectors.len() {
        return key.absorb(mixed, row);
    }
    let state = _mm256_set1_epi64x(mixed.cast_signed());
    let mut sum = _mm256_setzero_si256();
    for (words, keys) in vectors.iter().zip(keys) {
        // SAFETY: both are 32 bytes, and the unaligned form asks for no more.
        let (words, keys) = unsafe {
            (_mm256_loadu_si256(words.as_ptr().cast()), _mm256_loadu_si256(keys.as_ptr().cast()))
        };
        let factors = _mm256_add_epi32(_mm256_xor_si256(words, state), keys);
        let product = _mm256_mul_epu32(factors, _mm256_srli_epi64::<32>(factors));
        sum = _mm256_add_epi64(sum, product);
    }
    let mut lanes = [0_u64; VECTOR / 8];
    // SAFETY: the lanes are 32 bytes, and the unaligned form asks for no more.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    let rest = key.digest(mixed, row.len().wrapping_sub(rest.len()), rest);
    lanes.into_iter().fold(mixed.wrapping_add(rest), u64::wrapping_add)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_pair(pair: &PairOfRows, column: usize) -> [__m256i; 2] {
    let cells = pair.0[column..][..COLUMNS].as_ptr().cast::<__m256i>();
    // SAFETY: sixteen cells are 64 bytes; the pair is aligned to 64, and so is its second half.
    unsafe { [_mm256_load_si256(cells), _mm256_load_si256(cells.add(1))] }
}

/// Two neighbouring operands of a row, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast([first, second]: [i16; 2]) -> __m256i {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    _mm256_set1_epi32(i32::from_ne_bytes([a, b, c, d]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_to(sums: &mut Sums, column: usize, totals: [__m256i; 2]) {
    for (sums, total) in sums.0[column..].as_chunks_mut::<8>().0.iter_mut().zip(totals) {
        let place = sums.as_mut_ptr().cast::<__m256i>();
        // SAFETY: eight sums are 32 bytes, at a multiple of 32 in a tile that is aligned to 64.
        unsafe { _mm256_store_si256(place, _mm256_add_epi32(_mm256_load_si256(place), total)) };
    }
}
