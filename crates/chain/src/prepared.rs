//! A signed extrinsic as bytes that outlive the process.
//!
//! Stored before it is sent, it can be looked for and sent again after a crash: the same bytes are carried out at most
//! once, so a daemon that keeps them never does a thing twice.

use std::fmt;
use std::sync::Arc;

use nicompute_market::{AccountId, BlockNumber};
use subxt::config::Hasher as _;
use subxt::config::substrate::BlakeTwo256;
use subxt::ext::codec::{Decode, Encode};

use crate::nonces::Slot;
use crate::reads::Head;

/// The version of the stored form.
const VERSION: u8 = 1;
/// The longest stored form: far above a commit of weights for 4096 neurons.
pub(crate) const PREPARED_LEN_MAX: usize = 256 * 1024;

/// A signed extrinsic with everything that is needed to follow it.
///
/// While it lives, no other extrinsic of this client gets its nonce. One that is dropped without having been sent gives
/// the nonce back.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) facts: Facts,
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: [u8; 32],
    /// The hold on the nonce; none for one that was read back.
    pub(crate) slot: Option<Arc<Slot>>,
}

/// What it was signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) genesis: [u8; 32],
    pub(crate) signer: AccountId,
    pub(crate) nonce: u64,
    pub(crate) birth: Head,
    pub(crate) era_blocks: u64,
    pub(crate) spec_version: u32,
    pub(crate) transaction_version: u32,
}

/// Why stored bytes are no signed extrinsic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreparedError {
    /// Longer than any that this client makes.
    #[error("a stored extrinsic has at most {PREPARED_LEN_MAX} bytes")]
    TooLong,
    /// Written by another version of this program.
    #[error("the stored extrinsic is of version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// Cut off, or not one at all.
    #[error("the stored extrinsic is damaged")]
    Damaged,
}

type Stored = ([u8; 32], [u8; 32], u64, (u64, [u8; 32], u64), (u32, u32), Vec<u8>);

// === impl Prepared ===

impl Prepared {
    pub(crate) fn new(facts: Facts, bytes: Vec<u8>, slot: Option<Arc<Slot>>) -> Self {
        let hash = BlakeTwo256.hash(&bytes).0;
        Self { facts, bytes, hash, slot }
    }

    /// The form in which it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let facts = &self.facts;
        let birth = (facts.birth.number.0, facts.birth.hash, facts.era_blocks);
        let versions = (facts.spec_version, facts.transaction_version);
        let mut stored = vec![VERSION];
        let signer = *facts.signer.as_bytes();
        (facts.genesis, signer, facts.nonce, birth, versions, &self.bytes).encode_to(&mut stored);
        stored
    }

    /// Reads what was stored.
    ///
    /// # Errors
    /// When the bytes are not what [`Prepared::encode`] wrote.
    pub fn decode(stored: &[u8]) -> Result<Self, PreparedError> {
        if stored.len() > PREPARED_LEN_MAX {
            return Err(PreparedError::TooLong);
        }
        let (version, mut rest) = stored.split_first().ok_or(PreparedError::Damaged)?;
        if *version != VERSION {
            return Err(PreparedError::Version(*version));
        }
        let decoded = Stored::decode(&mut rest).map_err(|_| PreparedError::Damaged)?;
        let (genesis, signer, nonce, (number, hash, era_blocks), versions, bytes) = decoded;
        let life_fits = era_blocks.is_power_of_two() && era_blocks <= 1 << 16;
        if !rest.is_empty() || bytes.is_empty() || !life_fits {
            return Err(PreparedError::Damaged);
        }
        let facts = Facts {
            genesis,
            signer: AccountId::from_bytes(signer),
            nonce,
            birth: Head { number: BlockNumber(number), hash },
            era_blocks,
            spec_version: versions.0,
            transaction_version: versions.1,
        };
        Ok(Self::new(facts, bytes, None))
    }

    /// The hash by which explorers and nodes name it.
    #[must_use]
    pub const fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Its number among the signer's extrinsics.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.facts.nonce
    }

    /// Who signed it.
    #[must_use]
    pub const fn signer(&self) -> AccountId {
        self.facts.signer
    }

    /// The block that its signature refers to.
    #[must_use]
    pub const fn birth(&self) -> Head {
        self.facts.birth
    }

    /// The last block that it can be in.
    #[must_use]
    pub const fn last_block(&self) -> BlockNumber {
        let blocks = self.facts.era_blocks.saturating_sub(1);
        BlockNumber(self.facts.birth.number.0.saturating_add(blocks))
    }

    /// The extrinsic as the chain takes it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("hash", &hex::encode(self.hash))
            .field("nonce", &self.facts.nonce)
            .field("birth", &self.facts.birth.number)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Prepared {
    fn eq(&self, other: &Self) -> bool {
        self.facts == other.facts && self.bytes == other.bytes
    }
}

impl Eq for Prepared {}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> Prepared {
        let facts = Facts {
            genesis: [1; 32],
            signer: AccountId::from_bytes([2; 32]),
            nonce: 3,
            birth: Head { number: BlockNumber(4), hash: [5; 32] },
            era_blocks: 128,
            spec_version: 6,
            transaction_version: 7,
        };
        Prepared::new(facts, vec![8; 200], None)
    }

    /// Weights that a restarted validator cannot read back would be set twice.
    #[test]
    fn what_is_stored_is_read_back() {
        let read = Prepared::decode(&prepared().encode()).unwrap();
        assert_eq!(read, prepared());
        assert_eq!((read.nonce(), read.last_block()), (3, BlockNumber(131)));
        assert_eq!(read.hash(), BlakeTwo256.hash(&[8; 200]).0);
    }

    /// A damaged store must be an error with a name, not a panic and not another extrinsic.
    #[test]
    fn damage_is_noticed() {
        let whole = prepared().encode();
        for end in 0..whole.len() {
            assert_eq!(Prepared::decode(&whole[..end]), Err(PreparedError::Damaged), "{end}");
        }
        assert_eq!(Prepared::decode(&[&whole[..], &[0]].concat()), Err(PreparedError::Damaged));
        let newer = [&[2], &whole[1..]].concat();
        assert_eq!(Prepared::decode(&newer), Err(PreparedError::Version(2)));
        let long = vec![VERSION; PREPARED_LEN_MAX + 1];
        assert_eq!(Prepared::decode(&long), Err(PreparedError::TooLong));
        // A length that claims more than there is.
        let mut claims = whole.clone();
        let at = whole.len() - 202;
        claims[at..at + 2].copy_from_slice(&[0xfe, 0xff]);
        assert_eq!(Prepared::decode(&claims), Err(PreparedError::Damaged));
    }
}
