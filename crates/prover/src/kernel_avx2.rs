//! The chain on AVX2: 16-bit multiply-add into 32-bit sums, four rows by sixteen columns in registers.
//!
//! The matrix is packed so that the inner loop reads it in one run: for each sixteen columns, for each pair of its rows,
//! the two cells of every column side by side, as `vpmaddwd` wants them. A run of 512 matrix rows stays in the
//! first-level cache while all operand rows of the block pass over it.

#![expect(unsafe_code, reason = "vector loads and stores, and calls that need AVX2")]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_load_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
};

use nicompute_proof::{WalkKey, mix_to_operands, mix_to_plot};

const TILE_ROWS: usize = 4;
const TILE_COLUMNS: usize = 16;
/// Pairs of matrix rows that are worked through before the next columns: 16 KiB of packed matrix.
const RUN_PAIRS: usize = 256;

/// One pair of matrix rows in sixteen columns: cell and cell below, column after column.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct PairOfRows([i16; 2 * TILE_COLUMNS]);

/// A packed matrix. It exists only where AVX2 was detected.
pub(super) struct Packed {
    n: usize,
    steps: u16,
    pairs: Vec<PairOfRows>,
}

impl Packed {
    pub(super) fn new(rows: &[i16], n: usize, steps: u16) -> Self {
        assert!(std::arch::is_x86_feature_detected!("avx2"), "the kernel was chosen by detection");
        assert!(n.is_multiple_of(64) && rows.len() == n * n, "a square matrix of whole tiles");
        let mut pairs = Vec::with_capacity(rows.len() / (2 * TILE_COLUMNS));
        for column in (0..n).step_by(TILE_COLUMNS) {
            for pair in rows.chunks_exact(2 * n) {
                let mut packed = PairOfRows([0; 2 * TILE_COLUMNS]);
                for (at, cells) in packed.0.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *cells = [pair[column + at], pair[n + column + at]];
                }
                pairs.push(packed);
            }
        }
        Self { n, steps, pairs }
    }

    pub(super) fn chain(&self, operands: &mut [i16], plot: &mut [u8]) {
        assert!(operands.len() == plot.len(), "one byte of plot for each operand");
        // SAFETY: `new` checked that this processor has AVX2.
        unsafe { self.chain_avx2(operands, plot) }
    }

    #[target_feature(enable = "avx2")]
    fn chain_avx2(&self, operands: &mut [i16], plot: &mut [u8]) {
        let n = self.n;
        let mut sums = vec![0_i32; operands.len()];
        let last = u32::from(self.steps.saturating_sub(1));
        for step in 0..last {
            self.multiply(operands, &mut sums);
            let rows = sums.chunks_exact(n).zip(operands.chunks_exact_mut(n));
            for (sums, operands) in rows {
                mix_to_operands(step, sums, operands);
            }
        }
        self.multiply(operands, &mut sums);
        for (sums, plot) in sums.chunks_exact(n).zip(plot.chunks_exact_mut(n)) {
            mix_to_plot(last, sums, plot);
        }
    }

    /// `sums = operands · B`.
    #[target_feature(enable = "avx2")]
    fn multiply(&self, operands: &[i16], sums: &mut [i32]) {
        let n = self.n;
        sums.fill(0);
        let columns = self.pairs.chunks_exact(n / 2);
        for first_pair in (0..n / 2).step_by(RUN_PAIRS) {
            let end = (first_pair + RUN_PAIRS).min(n / 2);
            for (tile, column) in columns.clone().zip((0..n).step_by(TILE_COLUMNS)) {
                let run = &tile[first_pair..end];
                let rows = operands.chunks(TILE_ROWS * n);
                for (rows, sums) in rows.zip(sums.chunks_mut(TILE_ROWS * n)) {
                    let part = |row: usize| {
                        let row = &rows[row * n..][2 * first_pair..2 * end];
                        row.as_chunks::<2>().0
                    };
                    if rows.len() == TILE_ROWS * n {
                        let parts = [part(0), part(1), part(2), part(3)];
                        add_tile(parts, run, &mut sums[column..], n);
                    } else {
                        for row in 0..rows.len() / n {
                            add_tile([part(row)], run, &mut sums[row * n + column..], n);
                        }
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("n", &self.n).field("steps", &self.steps).finish()
    }
}

/// A walk's state after it read a row, with the loop compiled for AVX2.
pub(super) fn absorb(key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
    #[target_feature(enable = "avx2")]
    fn absorb_avx2(key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
        key.absorb(mixed, row)
    }
    debug_assert!(std::arch::is_x86_feature_detected!("avx2"));
    // SAFETY: the caller asks only where it detected AVX2.
    unsafe { absorb_avx2(key, mixed, row) }
}

/// Adds the products of `ROWS` operand rows and one run of matrix rows to sixteen columns of their sums; the sums of
/// the next row are `n` further on.
#[inline]
#[target_feature(enable = "avx2")]
fn add_tile<const ROWS: usize>(
    operands: [&[[i16; 2]]; ROWS],
    run: &[PairOfRows],
    sums: &mut [i32],
    n: usize,
) {
    let operands = operands.map(|row| &row[..run.len()]);
    let mut totals = [[_mm256_setzero_si256(); 2]; ROWS];
    for (at, pair) in run.iter().enumerate() {
        let (left, right) = load_pair(pair);
        for (totals, row) in totals.iter_mut().zip(operands) {
            let both = broadcast(row[at]);
            totals[0] = _mm256_add_epi32(totals[0], _mm256_madd_epi16(both, left));
            totals[1] = _mm256_add_epi32(totals[1], _mm256_madd_epi16(both, right));
        }
    }
    for (totals, sums) in totals.iter().zip(sums.chunks_mut(n)) {
        let (halves, _) = sums[..TILE_COLUMNS].as_chunks_mut::<8>();
        for (total, half) in totals.iter().zip(halves) {
            add_to(half, *total);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_pair(pair: &PairOfRows) -> (__m256i, __m256i) {
    let cells = pair.0.as_ptr().cast::<__m256i>();
    // SAFETY: the pair is 64 bytes, aligned to 64.
    unsafe { (_mm256_load_si256(cells), _mm256_load_si256(cells.add(1))) }
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
fn add_to(sums: &mut [i32; 8], total: __m256i) {
    let place = sums.as_mut_ptr().cast::<__m256i>();
    // SAFETY: eight sums are 32 bytes, and the unaligned forms ask for no more.
    unsafe { _mm256_storeu_si256(place, _mm256_add_epi32(_mm256_loadu_si256(place), total)) }
}
