//! From key streams to operands, and from the sums of one step to the operands of the next.
//!
//! The functions here are the whole arithmetic of the chain besides the products; every kernel, on a CPU or a GPU,
//! gives the same numbers or is refused.

#![expect(clippy::arithmetic_side_effects, reason = "shifts and sums of numbers below 2^10")]

use chacha20::ChaCha8;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};

/// Multipliers of the mix, odd so that each is a bijection of 32 bits.
pub const MIX_MULTIPLIERS: [u32; 2] = [0x7FEB_352D, 0x846C_A68B];
/// What a column adds before the mix.
pub const MIX_COLUMN: u32 = 0x9E37_79B1;
/// What a step adds before the mix.
pub const MIX_STEP: u32 = 0x85EB_CA77;

/// Half of the nine-bit range.
const OPERAND_OFFSET: i16 = 256;

/// Fills `out` with the key stream of ChaCha8 for stream number `index` (nonce: index in 8 bytes, then 4 zero bytes).
pub fn key_stream(key: &[u8; 32], index: u64, out: &mut [u8]) {
    let mut nonce = [0_u8; 12];
    for (to, from) in nonce.iter_mut().zip(index.to_le_bytes()) {
        *to = from;
    }
    out.fill(0);
    ChaCha8::new(key.into(), &nonce.into()).apply_keystream(out);
}

/// The operands of stream number `index`: two bytes each, little endian, of which the top nine bits count.
///
/// `scratch` is the caller's, twice as long in bytes as `out` is in operands, so that a loop allocates once.
pub fn operand_row(key: &[u8; 32], index: u64, scratch: &mut [u8], out: &mut [i16]) {
    debug_assert_eq!(scratch.len(), out.len() * 2);
    key_stream(key, index, scratch);
    for (operand, pair) in out.iter_mut().zip(scratch.as_chunks::<2>().0) {
        *operand = centred(u16::from_le_bytes(*pair) >> 7);
    }
}

/// The number that is added to a sum before it is mixed, for a step (from 0) and a column.
#[inline(always)]
#[must_use]
pub const fn mix_tweak(step: u32, column: u32) -> u32 {
    step.wrapping_add(1).wrapping_mul(MIX_STEP).wrapping_add(column.wrapping_mul(MIX_COLUMN))
}

/// Two xor-shifts and two odd multiplications; the top bits of the result are used.
#[inline(always)]
#[must_use]
pub const fn mix32(sum: i32, tweak: u32) -> u32 {
    let mut word = sum.cast_unsigned().wrapping_add(tweak);
    word ^= word >> 16;
    word = word.wrapping_mul(MIX_MULTIPLIERS[0]);
    word ^= word >> 15;
    word.wrapping_mul(MIX_MULTIPLIERS[1])
}

/// The operand that a mixed word becomes: its top nine bits, centred.
#[inline(always)]
#[must_use]
pub const fn next_operand(mixed: u32) -> i16 {
    centred((mixed >> 23) as u16)
}

/// The plot's byte that a mixed word of the last step becomes: its top eight bits.
#[inline(always)]
#[must_use]
pub const fn plot_byte(mixed: u32) -> u8 {
    (mixed >> 24) as u8
}

/// 0..=511 to -255..=255; 0 maps to 0 as 256 does, so that the range is symmetric.
#[inline(always)]
const fn centred(nine_bits: u16) -> i16 {
    let value = nine_bits.cast_signed() - OPERAND_OFFSET;
    if value == -OPERAND_OFFSET { 0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::OPERAND_MAX;

    /// An operand outside -255..=255 would be rounded by a tensor core and an honest GPU refused.
    #[test]
    fn operands_stay_in_range_and_fill_it() {
        let mapped: std::collections::BTreeSet<i16> = (0..512).map(centred).collect();
        assert_eq!(mapped.len(), 511);
        assert_eq!(mapped.first(), Some(&-OPERAND_MAX));
        assert_eq!(mapped.last(), Some(&OPERAND_MAX));
        let mut out = vec![0; 4096];
        operand_row(&[3; 32], 9, &mut vec![0; 8192], &mut out);
        assert!(out.iter().all(|v| (-OPERAND_MAX..=OPERAND_MAX).contains(v)));
        assert!(out.iter().any(|v| *v < -200) && out.iter().any(|v| *v > 200));
    }

    /// A biased mix would let a cheater guess plot bytes or compress the plot.
    #[test]
    fn mixed_bytes_are_spread_evenly() {
        let mut seen = [0_u32; 256];
        for sum in -32_768..32_768 {
            let byte = plot_byte(mix32(sum, mix_tweak(1, 7)));
            seen[usize::from(byte)] += 1;
        }
        // 256 expected, standard deviation 16: six of them either way.
        assert!(seen.iter().all(|count| (160..=352).contains(count)), "{seen:?}");
    }
}
