//! Faults on command: another branch, another runtime, and the chain as it comes back from disk.

use super::{Draft, Node, Taken};
use crate::chaos::{Change, ChaosError};
use crate::hash::{H256, blake2_256};
use crate::items;
use crate::ledger::{Block, Kept, Ledger};
use crate::pool::{Entry, Pool, Status};
use crate::state::{Changes, Overlay};

/// The key under which the first block of a branch names the block that it outgrew, so that no two branches are equal.
const BRANCH_KEY: &[u8] = b":nicompute-devnet:branch";

/// What becomes of the extrinsics of blocks that are thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undone {
    /// They wait in the pool again.
    PutBack,
    /// They are gone.
    Lost,
}

impl Node {
    /// Throws the newest blocks away and puts a branch of one block more in their place, in which nothing happened.
    /// Blocking: it writes to disk, the whole branch at once.
    pub(crate) fn fork(&self, depth: u32, undone: Undone) -> Result<(), ChaosError> {
        let mut store = self.store();
        let mut ledger = self.read().ledger.clone();
        let blocks = ledger.head().block.header.number;
        if depth > self.finality_lag() {
            return Err(ChaosError::TooDeep { depth, lag: self.finality_lag() });
        }
        let outgrown = ledger.head().hash;
        let rewound = if depth == 0 { None } else { ledger.rewind(depth) };
        let old = rewound.ok_or(ChaosError::Depth { depth, blocks })?;
        let mut branch = Vec::new();
        for step in 0..=depth {
            let from = (step == 0).then_some(outgrown);
            let (block, changes) = self.branch_block(&ledger, from);
            ledger.push(block.clone(), changes.clone());
            branch.push((block, changes));
        }
        store.append(&branch).map_err(ChaosError::Store)?;
        let mut inner = self.write();
        inner.ledger = ledger;
        let from = blocks.saturating_sub(depth);
        let taken: Vec<Taken> = inner.unfinal.extract_if(.., |taken| taken.number > from).collect();
        let entries = self.entries_of(&old, taken);
        for (block, entry) in &entries {
            entry.tell(Status::Retracted(*block));
        }
        match undone {
            Undone::PutBack => {
                inner.pool.put_back(entries.into_iter().map(|(_, entry)| entry).collect());
            }
            Undone::Lost => entries.iter().for_each(|(_, entry)| entry.tell(Status::Dropped)),
        }
        self.finalize(&mut inner);
        drop(inner);
        self.announce();
        Ok(())
    }

    /// An empty block on top of a branch. Its time follows its parent's, so that a branch does not run ahead of the clock.
    fn branch_block(&self, ledger: &Ledger, outgrown: Option<H256>) -> (Block, Changes) {
        let last = items::NOW.get(&Overlay::new(ledger.state())).unwrap_or_default();
        let follows = last.saturating_add(self.block_ms());
        let now = follows.min(self.clock.unix_ms()).max(last.saturating_add(1));
        let Draft { mut block, mut changes, .. } =
            self.draft(ledger, std::iter::empty(), now, None);
        if let Some(outgrown) = outgrown {
            changes.insert(BRANCH_KEY.to_vec(), Some(outgrown.to_vec()));
            let slot = now.checked_div(self.block_ms()).unwrap_or_default();
            block = Block::new(ledger.head(), slot, block.extrinsics, &changes);
        }
        (block, changes)
    }

    /// The extrinsics of blocks that were thrown away, in their order: those that the pool gave with their watchers, and
    /// after a restart those that the blocks hold. Every block begins with the timestamp, which nobody sent.
    fn entries_of(&self, old: &[Kept], taken: Vec<Taken>) -> Vec<(H256, Entry)> {
        let mut known: std::collections::BTreeMap<H256, Vec<Entry>> =
            taken.into_iter().map(|taken| (taken.block, taken.entries)).collect();
        let mut all = Vec::new();
        for kept in old.iter().rev() {
            let entries = known.remove(&kept.hash).unwrap_or_else(|| {
                let sent = kept.block.extrinsics.iter().skip(1);
                sent.filter_map(|bytes| self.unwatched(bytes)).collect()
            });
            all.extend(entries.into_iter().map(|entry| (kept.hash, entry)));
        }
        all
    }

    fn unwatched(&self, bytes: &[u8]) -> Option<Entry> {
        let (signed, call) = self.decode(bytes).ok()?;
        let hash = blake2_256(bytes);
        Some(Entry { hash, bytes: bytes.to_vec(), signed, call, watcher: None })
    }

    /// Lets the next block write a newer runtime.
    pub(crate) fn upgrade(&self, change: Change) {
        let mut inner = self.write();
        let runtime = self.face_of(&Overlay::new(inner.ledger.state())).runtime;
        inner.upgrade = Some(runtime.upgraded(change));
    }

    /// Forgets everything and reads the chain from its folder, as another process would after this one. Blocking.
    pub(crate) fn reload(&self) -> Result<(), ChaosError> {
        let mut store = self.store();
        let ledger = store.reload().map_err(ChaosError::Store)?;
        let mut inner = self.write();
        inner.ledger = ledger;
        inner.pool = Pool::default();
        inner.unfinal.clear();
        inner.upgrade = None;
        drop(inner);
        self.announce();
        Ok(())
    }
}
