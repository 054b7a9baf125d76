//! NET: bytes that cannot be compressed or known before, counted by the chunk.

use crate::legs::chunk::{Chunk, NET_CHUNK_LEN};
use crate::operand::key_stream;
use crate::tree::Digest;

/// Bytes that may be under way and not yet confirmed: neither side buffers more, and a way that stops reading after
/// 8 MiB never has more to hold. What a line carries is shown up to this much in one round trip.
pub const NET_WINDOW_LEN: u64 = 32 * (NET_CHUNK_LEN as u64);

/// The bytes of one direction, made chunk by chunk, with their running digest.
#[derive(Clone)]
pub struct NetStream {
    key: [u8; 32],
    bytes: u64,
    hasher: blake3::Hasher,
}

impl NetStream {
    /// A stream at its beginning.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, bytes: 0, hasher: blake3::Hasher::new() }
    }

    /// The next chunk: number `i`, counted from 0, is the beginning of key stream `i`.
    pub fn next_chunk(&mut self) -> Chunk {
        let number = self.bytes.checked_div(NET_CHUNK_LEN as u64).unwrap_or(0);
        let mut chunk = vec![0; NET_CHUNK_LEN];
        key_stream(&self.key, number, &mut chunk);
        self.bytes = self.bytes.saturating_add(NET_CHUNK_LEN as u64);
        self.hasher.update(&chunk);
        Chunk::whole(chunk)
    }

    /// Bytes made so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// BLAKE3 of the bytes made so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(*self.hasher.finalize().as_bytes())
    }

    /// BLAKE3 of the first so many bytes of a stream, whole chunks.
    #[must_use]
    pub fn digest_of(key: [u8; 32], bytes: u64) -> Digest {
        let mut stream = Self::new(key);
        while stream.bytes < bytes {
            drop(stream.next_chunk());
        }
        stream.digest()
    }
}

impl std::fmt::Debug for NetStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetStream").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that repeats, or a digest that depends on how it is made, would accuse honest machines.
    #[test]
    fn chunks_differ_and_the_digest_is_of_all() {
        let mut stream = NetStream::new([4; 32]);
        let (first, second) = (stream.next_chunk(), stream.next_chunk());
        assert_ne!(first, second);
        let both = [first.as_bytes(), second.as_bytes()].concat();
        assert_eq!(stream.digest(), Digest(*blake3::hash(&both).as_bytes()));
        assert_eq!(stream.digest(), NetStream::digest_of([4; 32], stream.bytes()));
    }
}
