//! The hashes of Substrate's storage keys, headers and extrinsics.

use blake2::Digest as _;
use blake2::digest::consts::{U16, U32};

/// A 256-bit hash as it stands on the wire.
pub(crate) type H256 = [u8; 32];

/// blake2b-256.
pub(crate) fn blake2_256(data: &[u8]) -> H256 {
    blake2::Blake2b::<U32>::digest(data).into()
}

/// blake2b-128.
pub(crate) fn blake2_128(data: &[u8]) -> [u8; 16] {
    blake2::Blake2b::<U16>::digest(data).into()
}

/// xxh64 with seed 0, little endian.
pub(crate) fn twox_64(data: &[u8]) -> [u8; 8] {
    twox_hash::XxHash64::oneshot(0, data).to_le_bytes()
}

/// Two xxh64 with seeds 0 and 1, little endian.
pub(crate) fn twox_128(data: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    let (low, high) = out.split_at_mut(8);
    low.copy_from_slice(&twox_64(data));
    high.copy_from_slice(&twox_hash::XxHash64::oneshot(1, data).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With another hash no client finds any storage item.
    #[test]
    fn known_storage_prefixes() {
        assert_eq!(hex::encode(twox_128(b"System")), "26aa394eea5630e07c48ae0c9558cef7");
        assert_eq!(hex::encode(twox_128(b"Account")), "b99d880ec681799c0cf30e8886371da9");
        assert_eq!(hex::encode(twox_128(b"SubtensorModule")), "658faa385070e074c85bf6b568cf0555");
    }
}
