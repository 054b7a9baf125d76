//! The kernels for AVX-512, with and without VNNI: eight operand rows by thirty-two columns in registers.

#![expect(unsafe_code, reason = "vector loads and stores")]

use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_add_epi64, _mm512_dpwssd_epi32,
    _mm512_load_si512, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_mul_epu32,
    _mm512_reduce_add_epi64, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_srli_epi64, _mm512_store_si512, _mm512_xor_si512,
};

use crate::kernel::{GROUP_ROWS, PairOfRows, Run, Sums, portable};
use crate::walk::WalkKey;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// The same loop for two instruction sets, which differ in how a product is added to its sum.
macro_rules! add_run {
    ($name:ident, $features:literal, $add:expr) => {
        /// Adds the products of a group of operand rows and one run of matrix rows to the rows' sums.
        #[target_feature(enable = $features)]
        pub(super) fn $name(run: &Run<'_>, sums: &mut [Sums; GROUP_ROWS]) {
            let mut totals = [[_mm512_setzero_si512(); 2]; GROUP_ROWS];
            // The next run comes in with this one, a part of it for each part of this.
            let part = run.matrix.len().div_ceil(run.ahead.len().max(1)).max(1);
            let mut ahead = run.ahead.iter();
            let parts = run.operands.chunks(part).zip(run.matrix.chunks(part));
            for (operands, pairs) in parts {
                if let Some(pair) = ahead.next() {
                    fetch(pair);
                }
                for (operands, pair) in operands.iter().zip(pairs) {
                    let cells = load_pair(pair);
                    for (totals, operands) in totals.iter_mut().zip(operands.0) {
                        let both = broadcast(operands);
                        totals[0] = $add(totals[0], both, cells[0]);
                        totals[1] = $add(totals[1], both, cells[1]);
                    }
                }
            }
            for (totals, sums) in totals.into_iter().zip(sums) {
                let old = load_sums(sums);
                let new =
                    [_mm512_add_epi32(old[0], totals[0]), _mm512_add_epi32(old[1], totals[1])];
                store(sums, new);
            }
        }
    };
}

add_run!(add_run, "avx512f,avx512bw", |sum, left, right| {
    _mm512_add_epi32(sum, _mm512_madd_epi16(left, right))
});
add_run!(add_run_vnni, "avx512f,avx512bw,avx512vnni", _mm512_dpwssd_epi32);

/// Asks for both lines of a pair of matrix rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn fetch(pair: &PairOfRows) {
    let place = pair.0.as_ptr().cast::<i8>();
    // SAFETY: a request to the cache has no effect on memory; both places lie in the pair.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(place);
        _mm_prefetch::<_MM_HINT_T0>(place.add(VECTOR));
    }
}

/// One tile of sums as operands of the next step.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn mix_operands(at: (u32, u32), sums: &Sums, operands: &mut [i16]) {
    portable::mix_operands(at, &sums.0, operands);
}

/// One tile of sums as bytes of the plot.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn mix_plot(at: (u32, u32), sums: &Sums, plot: &mut [u8]) {
    portable::mix_plot(at, &sums.0, plot);
}

/// A walk's state after it read a row.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn absorb(key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
    let (vectors, rest) = row.as_chunks::<VECTOR>();
    let keys = key.words().as_chunks::<{ VECTOR / 8 }>().0;
    if keys.len() < vectors.len() {
        return key.absorb(mixed, row);
    }
    let state = _mm512_set1_epi64(mixed.cast_signed());
    let mut sum = _mm512_setzero_si512();
    for (words, keys) in vectors.iter().zip(keys) {
        // SAFETY: both are 64 bytes, and the unaligned form asks for no more.
        let (words, keys) = unsafe {
            (_mm512_loadu_si512(words.as_ptr().cast()), _mm512_loadu_si512(keys.as_ptr().cast()))
        };
        let factors = _mm512_add_epi32(_mm512_xor_si512(words, state), keys);
        let product = _mm512_mul_epu32(factors, _mm512_srli_epi64::<32>(factors));
        sum = _mm512_add_epi64(sum, product);
    }
    let rest = key.digest(mixed, row.len().wrapping_sub(rest.len()), rest);
    let sum = _mm512_reduce_add_epi64(sum).cast_unsigned();
    mixed.wrapping_add(rest).wrapping_add(sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_pair(pair: &PairOfRows) -> [__m512i; 2] {
    let place = pair.0.as_ptr().cast::<__m512i>();
    // SAFETY: a pair is 128 bytes, aligned to 64.
    unsafe { [_mm512_load_si512(place), _mm512_load_si512(place.add(1))] }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_sums(sums: &Sums) -> [__m512i; 2] {
    let place = sums.0.as_ptr().cast::<__m512i>();
    // SAFETY: sums are 128 bytes, aligned to 64.
    unsafe { [_mm512_load_si512(place), _mm512_load_si512(place.add(1))] }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(sums: &mut Sums, new: [__m512i; 2]) {
    let place = sums.0.as_mut_ptr().cast::<__m512i>();
    // SAFETY: sums are 128 bytes, aligned to 64.
    unsafe {
        _mm512_store_si512(place, new[0]);
        _mm512_store_si512(place.add(1), new[1]);
    }
}

/// Two neighbouring operands of a row, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast([first, second]: [i16; 2]) -> __m512i {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    _mm512_set1_epi32(i32::from_ne_bytes([a, b, c, d]))
}
