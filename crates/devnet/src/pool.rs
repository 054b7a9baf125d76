//! Extrinsics that wait for a block.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::call::Call;
use crate::extrinsic::Signed;
use crate::hash::H256;
use crate::items::Account;

/// The most extrinsics that wait at once.
pub(crate) const POOL_MAX: usize = 1_024;
/// The most of one signer.
pub(crate) const POOL_PER_SIGNER_MAX: usize = 64;
/// More than the states that one extrinsic goes through, even in a few forks, so that a watcher never blocks the chain.
pub(crate) const WATCH_CAPACITY: usize = 64;

/// What a watcher is told, in Substrate's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    InBlock(H256),
    /// Its block is no longer part of the best chain.
    Retracted(H256),
    Finalized(H256),
    /// It was thrown away with its block.
    Dropped,
    Invalid,
}

/// A waiting extrinsic.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) hash: H256,
    pub(crate) bytes: Vec<u8>,
    pub(crate) signed: Signed,
    pub(crate) call: Call,
    pub(crate) watcher: Option<mpsc::Sender<Status>>,
}

impl Entry {
    /// Tells the watcher. One that is gone or does not read is no concern of the chain.
    pub(crate) fn tell(&self, status: Status) {
        if let Some(watcher) = &self.watcher
            && watcher.try_send(status).is_err()
        {
            tracing::debug!("a watcher of an extrinsic is gone");
        }
    }
}

/// Why the pool itself does not take an extrinsic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    /// The same bytes wait already.
    #[error("the extrinsic is in the pool already")]
    AlreadyImported,
    /// Another extrinsic with the signer's nonce waits.
    #[error("another extrinsic with this nonce is in the pool")]
    NonceTaken,
    /// No room.
    #[error("the pool is full")]
    Full,
}

/// The waiting extrinsics, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    entries: VecDeque<Entry>,
}

impl Pool {
    /// How many of the signer's extrinsics wait.
    pub(crate) fn waiting_of(&self, signer: &Account) -> u32 {
        let count = self.entries.iter().filter(|entry| entry.signed.signer == *signer).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether there is a place for an extrinsic.
    pub(crate) fn check(&self, hash: &H256, signed: &Signed) -> Result<(), PoolError> {
        if self.entries.iter().any(|entry| entry.hash == *hash) {
            return Err(PoolError::AlreadyImported);
        }
        let same = |entry: &&Entry| entry.signed.signer == signed.signer;
        if self.entries.iter().filter(same).any(|entry| entry.signed.nonce == signed.nonce) {
            return Err(PoolError::NonceTaken);
        }
        let of_signer = self.entries.iter().filter(same).count();
        if self.entries.len() >= POOL_MAX || of_signer >= POOL_PER_SIGNER_MAX {
            return Err(PoolError::Full);
        }
        Ok(())
    }

    /// Adds a checked extrinsic.
    pub(crate) fn add(&mut self, entry: Entry) {
        entry.tell(Status::Ready);
        self.entries.push_back(entry);
    }

    /// Puts back extrinsics of blocks that were thrown away, before all others. They need no place: they had one.
    pub(crate) fn put_back(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            entry.tell(Status::Ready);
            self.entries.push_front(entry);
        }
    }

    /// The waiting extrinsics.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Takes out those with these hashes.
    pub(crate) fn remove(&mut self, hashes: &[H256]) -> Vec<Entry> {
        let all = std::mem::take(&mut self.entries);
        let (gone, left): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|entry| hashes.contains(&entry.hash));
        self.entries = left.into();
        gone
    }
}
