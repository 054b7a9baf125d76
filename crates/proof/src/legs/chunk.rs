//! The bytes of one frame of NET.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of NET in one frame: half of what a verifier's frame holds.
pub const NET_CHUNK_LEN: usize = 1 << 17;

/// Exactly [`NET_CHUNK_LEN`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk(Vec<u8>);

/// Bytes that are no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of {0} bytes, expected 131,072")]
pub struct ChunkError(usize);

impl Chunk {
    /// Bytes that are known to be as many as a chunk has.
    pub(crate) const fn whole(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Chunk {
    type Error = ChunkError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, ChunkError> {
        if bytes.len() == NET_CHUNK_LEN { Ok(Self(bytes)) } else { Err(ChunkError(bytes.len())) }
    }
}

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(WholeChunk)
    }
}

struct WholeChunk;

impl<'de> Visitor<'de> for WholeChunk {
    type Value = Chunk;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NET_CHUNK_LEN} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Chunk, E> {
        if bytes.len() != NET_CHUNK_LEN {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(Chunk(bytes.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Chunk, A::Error> {
        let mut taken = Vec::with_capacity(NET_CHUNK_LEN);
        while taken.len() < NET_CHUNK_LEN
            && let Some(byte) = bytes.next_element()?
        {
            taken.push(byte);
        }
        Chunk::try_from(taken).map_err(A::Error::custom)
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chunk").field(&self.0.len()).finish()
    }
}
