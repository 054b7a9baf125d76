//! Walks: chains of reads of whole rows, in which every address depends on the content of the row before.
//!
//! The digest of a row depends on the state of the walk as well as on the row, by an exclusive or before a wrapping
//! addition. With a digest under one key for all walks, a cheater could compute the digest of every row once and walk
//! over a table of eight bytes a row, without holding or reading the plot; this way there is nothing to tabulate.

use crate::binding::Nonce;
use crate::derive::{DeviceKeys, scale};
use crate::operand::key_stream;

/// What two walks are set apart by: 2^64 over the golden ratio, odd.
pub const WALK_STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;
/// Multipliers of the state's mix.
pub const MIX64_MULTIPLIERS: [u64; 2] = [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB];

/// The key of all walks over one device's plot.
#[derive(Clone, Debug)]
pub struct WalkKey {
    seed: u64,
    words: Vec<[u32; 2]>,
    rows: u64,
}

impl WalkKey {
    /// Expands the walk key of a device for rows of `n` bytes: ChaCha8 stream 0 holds the seed in its first 8 bytes,
    /// stream 1 the key words, as many bytes as a row.
    #[must_use]
    pub fn new(keys: &DeviceKeys, n2: &Nonce, n: usize, rows: u64) -> Self {
        Self::from_key(&keys.walk_key(n2), n, rows)
    }

    /// Expands the link key of a device for the plot of another one, of `rows` rows.
    #[must_use]
    pub fn link(keys: &DeviceKeys, nonce: &Nonce, n: usize, rows: u64) -> Self {
        Self::from_key(&keys.link_key(nonce), n, rows)
    }

    fn from_key(key: &[u8; 32], n: usize, rows: u64) -> Self {
        let mut seed = [0_u8; 8];
        key_stream(key, 0, &mut seed);
        let mut bytes = vec![0_u8; n];
        key_stream(key, 1, &mut bytes);
        let words = bytes.as_chunks::<8>().0.iter().map(halves).collect();
        Self { seed: u64::from_le_bytes(seed), words, rows }
    }

    /// The state before the first read of a walk.
    #[must_use]
    pub const fn start(&self, walk: u32) -> u64 {
        self.seed ^ (walk as u64).wrapping_add(1).wrapping_mul(WALK_STRIDE)
    }

    /// Mixes the state and says which row it reads next.
    #[inline(always)]
    #[must_use]
    pub const fn step(&self, state: u64) -> (u64, u64) {
        let mixed = mix64(state);
        (mixed, scale(mixed, self.rows))
    }

    /// The state after a row was read: the mixed state plus the row's digest under it.
    ///
    /// This is the definition; `Kernel::absorb` gives the same faster.
    #[inline(always)]
    #[must_use]
    pub fn absorb(&self, mixed: u64, row: &[u8]) -> u64 {
        mixed.wrapping_add(self.digest(mixed, 0, row))
    }

    /// What the bytes of a row from byte `at` on, a multiple of eight, add to the state.
    #[inline(always)]
    pub(crate) fn digest(&self, mixed: u64, at: usize, bytes: &[u8]) -> u64 {
        let [low, high] = halves(&mixed.to_le_bytes());
        let keys = self.words.get(at >> 3..).unwrap_or_default();
        let mut sum = 0_u64;
        for (words, key) in bytes.as_chunks::<8>().0.iter().zip(keys) {
            let [first, second] = halves(words);
            let [key_first, key_second] = *key;
            let left = (first ^ low).wrapping_add(key_first);
            let right = (second ^ high).wrapping_add(key_second);
            sum = sum.wrapping_add(u64::from(left).wrapping_mul(u64::from(right)));
        }
        sum
    }

    /// The key words, one pair for each eight bytes of a row.
    pub(crate) fn words(&self) -> &[[u32; 2]] {
        &self.words
    }
}

/// The finaliser of splitmix64.
#[inline(always)]
#[must_use]
pub const fn mix64(state: u64) -> u64 {
    let mut word = state;
    word ^= word >> 30;
    word = word.wrapping_mul(MIX64_MULTIPLIERS[0]);
    word ^= word >> 27;
    word = word.wrapping_mul(MIX64_MULTIPLIERS[1]);
    word ^ (word >> 31)
}

#[inline(always)]
fn halves(bytes: &[u8; 8]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = *bytes;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> WalkKey {
        let words = (0..16_u32).map(|at| [at.wrapping_mul(0x9E37_79B9), !at]).collect();
        WalkKey { seed: 7, words, rows: 1000 }
    }

    /// If a single changed bit of a row did not change the walk, a cheater could hold less than the row.
    #[test]
    fn every_bit_of_a_row_counts() {
        let row: Vec<u8> = (0..128).collect();
        let honest = key().absorb(99, &row);
        for bit in 0..128 * 8 {
            let mut other = row.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(key().absorb(99, &other), honest, "bit {bit}");
        }
    }

    /// If the digest were the same for every state, a table of digests could stand in for the plot.
    #[test]
    fn a_row_has_another_digest_under_another_state() {
        let row: Vec<u8> = (0..128).collect();
        let digests: std::collections::BTreeSet<u64> = (0..1000_u64)
            .map(|state| key().absorb(mix64(state), &row).wrapping_sub(mix64(state)))
            .collect();
        assert_eq!(digests.len(), 1000);
    }

    /// Walks that begin alike would read the same rows and prove half as much.
    #[test]
    fn walks_begin_apart_and_stay_in_range() {
        let key = key();
        let starts: std::collections::BTreeSet<u64> =
            (0..10_000).map(|walk| key.start(walk)).collect();
        assert_eq!(starts.len(), 10_000);
        assert!(starts.iter().all(|start| key.step(*start).1 < 1000));
    }
}
