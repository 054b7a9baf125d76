//! The kernels for AVX-512, with and without VNNI: eight operand rows by thirty-two columns in registers.

#![expect(unsafe_code, reason = "vector loads and stores")]
#![expect(
    clippy::indexing_slicing,
    reason = "places inside tiles of fixed size, checked by the compiler where it cannot know them"
)]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_add_epi64, _mm512_dpwssd_epi32, _mm512_load_si512,
    _mm512_loadu_si512, _mm512_madd_epi16, _mm512_mul_epu32, _mm512_reduce_add_epi64,
    _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_srli_epi64,
    _mm512_store_si512, _mm512_xor_si512,
};

use crate::kernel::{Group, PairOfRows, Sums, portable, take};
use crate::walk::WalkKey;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// The same loops for two instruction sets, which differ in how a product is added to its sum.
macro_rules! add_run {
    ($name:ident, $rows:ident, $features:literal, $add:expr) => {
        /// Adds the products of some operand rows and one run of matrix rows to the rows' sums.
        #[target_feature(enable = $features)]
        pub(super) fn $name(group: &Group<'_>, run: &[PairOfRows], sums: &mut [Sums]) {
            let mut rows = group.pairs(run);
            let (eights, rest) = sums.as_chunks_mut::<8>();
            let (twos, rest) = rest.as_chunks_mut::<2>();
            eights.iter_mut().for_each(|sums| $rows(take(&mut rows), run, sums));
            twos.iter_mut().for_each(|sums| $rows(take(&mut rows), run, sums));
            rest.iter_mut()
                .for_each(|sums| $rows(take(&mut rows), run, std::array::from_mut(sums)));
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn $rows<const ROWS: usize>(
            operands: [&[[i16; 2]]; ROWS],
            run: &[PairOfRows],
            sums: &mut [Sums; ROWS],
        ) {
            let operands = operands.map(|row| &row[..run.len()]);
            let mut totals = [[_mm512_setzero_si512(); 2]; ROWS];
            for (at, pair) in run.iter().enumerate() {
                let cells = load_pair(pair);
                for (totals, row) in totals.iter_mut().zip(operands) {
                    let both = broadcast(row[at]);
                    totals[0] = $add(totals[0], both, cells[0]);
                    totals[1] = $add(totals[1], both, cells[1]);
                }
            }
            for (totals, sums) in totals.into_iter().zip(sums.iter_mut()) {
                let old = load_sums(sums);
                let new =
                    [_mm512_add_epi32(old[0], totals[0]), _mm512_add_epi32(old[1], totals[1])];
                store(sums, new);
            }
        }
    };
}

add_run!(add_run, add_rows, "avx512f,avx512bw", |sum, left, right| {
    _mm512_add_epi32(sum, _mm512_madd_epi16(left, right))
});
add_run!(add_run_vnni, add_rows_vnni, "avx512f,avx512bw,avx512vnni", _mm512_dpwssd_epi32);

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
