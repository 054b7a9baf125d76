//! The blocks that are still known, and the state after each of them.
//!
//! The best chain is one line of blocks. A fork takes blocks back and puts others in their place; those taken back stay
//! readable at their hashes, each with what it changed, for as long as the block that they grew from is known.

#![expect(clippy::cast_possible_truncation, reason = "the codec's derive casts variant indices")]

use std::collections::{BTreeMap, HashMap, VecDeque};

use parity_scale_codec::{Compact, Decode, Encode};

use crate::hash::{H256, blake2_256};
use crate::state::{self, Changes, Map, Past};

/// How many blocks, with their states, can still be asked for. Twenty minutes at one block a second.
pub(crate) const HISTORY_BLOCKS: usize = 1_024;

/// A block header as Substrate writes it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Header {
    pub(crate) parent: H256,
    #[codec(compact)]
    pub(crate) number: u32,
    pub(crate) state_root: H256,
    pub(crate) extrinsics_root: H256,
    pub(crate) digest: Vec<DigestItem>,
}

/// What a header says besides: the slot in which it was made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum DigestItem {
    #[codec(index = 6)]
    PreRuntime([u8; 4], Vec<u8>),
}

impl Header {
    /// blake2b-256 of the encoded header; clients compute it again.
    pub(crate) fn hash(&self) -> H256 {
        blake2_256(&self.encode())
    }
}

/// A block as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Block {
    pub(crate) header: Header,
    pub(crate) extrinsics: Vec<Vec<u8>>,
}

impl Block {
    /// Builds the block after `parent` from what it contains and changes.
    ///
    /// The state root is a hash chain over changes, not a trie root: nobody can prove storage to a light client with it.
    pub(crate) fn new(
        parent: &Kept,
        slot: u64,
        extrinsics: Vec<Vec<u8>>,
        changes: &Changes,
    ) -> Self {
        let header = Header {
            parent: parent.hash,
            number: parent.block.header.number.saturating_add(1),
            state_root: state_root(&parent.block.header.state_root, changes),
            extrinsics_root: extrinsics_root(&extrinsics),
            digest: vec![DigestItem::PreRuntime(*b"aura", slot.encode())],
        };
        Self { header, extrinsics }
    }

    /// The first block, which holds nothing but its state.
    pub(crate) fn genesis(changes: &Changes) -> Self {
        let header = Header {
            parent: [0; 32],
            number: 0,
            state_root: state_root(&[0; 32], changes),
            extrinsics_root: extrinsics_root(&[]),
            digest: Vec::new(),
        };
        Self { header, extrinsics: Vec::new() }
    }
}

fn state_root(before: &H256, changes: &Changes) -> H256 {
    blake2_256(&(before, changes).encode())
}

fn extrinsics_root(extrinsics: &[Vec<u8>]) -> H256 {
    let mut bytes = Compact(u32::try_from(extrinsics.len()).unwrap_or(u32::MAX)).encode();
    extrinsics.iter().for_each(|extrinsic| bytes.extend_from_slice(extrinsic));
    blake2_256(&bytes)
}

/// A known block with what it overwrote.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Kept {
    pub(crate) hash: H256,
    pub(crate) block: Block,
    undo: Changes,
}

/// A block that is no longer part of the best chain, with what it changed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Stale {
    block: Block,
    redo: Changes,
}

/// The newest state and the blocks that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) genesis: H256,
    map: Map,
    blocks: VecDeque<Kept>,
    by_hash: HashMap<H256, u32>,
    stale: BTreeMap<H256, Stale>,
    head: Kept,
}

impl Ledger {
    /// A ledger of one block.
    pub(crate) fn new(block: Block, changes: Changes) -> Self {
        let mut map = Map::new();
        let undo = state::apply(&mut map, changes);
        let head = Kept { hash: block.header.hash(), block, undo };
        let by_hash = HashMap::from([(head.hash, head.block.header.number)]);
        let blocks = VecDeque::from([head.clone()]);
        Self { genesis: head.hash, map, blocks, by_hash, stale: BTreeMap::new(), head }
    }

    /// Puts a block on top. The oldest known block is forgotten when there are too many.
    pub(crate) fn push(&mut self, block: Block, changes: Changes) {
        let undo = state::apply(&mut self.map, changes);
        let kept = Kept { hash: block.header.hash(), block, undo };
        self.by_hash.insert(kept.hash, kept.block.header.number);
        self.blocks.push_back(kept.clone());
        self.head = kept;
        if self.blocks.len() > HISTORY_BLOCKS
            && let Some(oldest) = self.blocks.pop_front()
        {
            self.by_hash.remove(&oldest.hash);
            let gone = oldest.block.header.number;
            self.stale.retain(|_, stale| stale.block.header.number > gone);
        }
    }

    /// Takes back the newest blocks, which stay readable at their hashes; the newest of them first. None if that many are
    /// not known any more, and then nothing is taken back.
    pub(crate) fn rewind(&mut self, depth: u32) -> Option<Vec<Kept>> {
        let depth = usize::try_from(depth).ok()?;
        if self.blocks.len() <= depth {
            return None;
        }
        let undone: Vec<Kept> = (0..depth).filter_map(|_| self.blocks.pop_back()).collect();
        for kept in &undone {
            let redo = state::apply(&mut self.map, kept.undo.clone());
            self.by_hash.remove(&kept.hash);
            self.stale.insert(kept.hash, Stale { block: kept.block.clone(), redo });
        }
        while self.stale.len() > HISTORY_BLOCKS {
            let oldest = self.stale.iter().min_by_key(|(_, stale)| stale.block.header.number);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else { break };
            self.stale.remove(&oldest);
        }
        self.head = self.blocks.back()?.clone();
        Some(undone)
    }

    /// Goes back to a block of the best chain, if it is one.
    pub(crate) fn rewind_to(&mut self, hash: &H256) -> Option<Vec<Kept>> {
        let number = *self.by_hash.get(hash)?;
        self.rewind(self.head.block.header.number.checked_sub(number)?)
    }

    /// The newest block.
    pub(crate) const fn head(&self) -> &Kept {
        &self.head
    }

    /// The newest state.
    pub(crate) const fn state(&self) -> &Map {
        &self.map
    }

    /// A known block by its hash, of the best chain or stale.
    pub(crate) fn by_hash(&self, hash: &H256) -> Option<&Block> {
        match self.by_hash.get(hash) {
            Some(number) => self.by_number(*number).map(|kept| &kept.block),
            None => self.stale.get(hash).map(|stale| &stale.block),
        }
    }

    /// The blocks of the best chain that follow one which was seen, and whether that one is still part of it. After a
    /// block that is not known any more comes the newest one alone.
    pub(crate) fn since(&self, seen: &H256) -> (Vec<&Kept>, Standing) {
        let (root, _) = self.root(*seen);
        let standing = if root == *seen { Standing::Best } else { Standing::Stale };
        let Some(number) = self.by_hash.get(&root) else {
            return (vec![&self.head], Standing::Stale);
        };
        let newer = self.blocks.iter().rev();
        let newer = newer.take_while(|kept| kept.block.header.number > *number);
        let mut newer: Vec<&Kept> = newer.collect();
        newer.reverse();
        (newer, standing)
    }

    /// The block of the best chain that a block grew from, and the changes that lead from there to it, the last first.
    fn root(&self, hash: H256) -> (H256, Vec<&Changes>) {
        let (mut at, mut redo) = (hash, Vec::new());
        while let Some(stale) = self.stale.get(&at) {
            redo.push(&stale.redo);
            at = stale.block.header.parent;
        }
        (at, redo)
    }

    /// A known block of the best chain by its number.
    pub(crate) fn by_number(&self, number: u32) -> Option<&Kept> {
        let first = self.blocks.front()?.block.header.number;
        self.blocks.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// A known block's hash by its number; the genesis is always known.
    pub(crate) fn hash_of(&self, number: u32) -> Option<H256> {
        if number == 0 { Some(self.genesis) } else { self.by_number(number).map(|kept| kept.hash) }
    }

    /// The state after a known block.
    pub(crate) fn state_after(&self, hash: &H256) -> Option<Past<'_>> {
        let (root, redo) = self.root(*hash);
        let number = *self.by_hash.get(&root)?;
        let later = self.blocks.iter().rev();
        let later = later.take_while(move |kept| kept.block.header.number > number);
        let back = later.map(|kept| &kept.undo);
        Some(Past::new(&self.map, back.chain(redo.into_iter().rev())))
    }
}

/// Whether a block is part of the best chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Best,
    Stale,
}

/// What of a ledger is written into a snapshot.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Snapshot {
    genesis: H256,
    map: Map,
    blocks: Vec<Kept>,
    stale: Vec<(H256, Stale)>,
}

impl Snapshot {
    /// Everything that is needed to go on from here.
    pub(crate) fn of(ledger: &Ledger) -> Self {
        Self {
            genesis: ledger.genesis,
            map: ledger.map.clone(),
            blocks: ledger.blocks.iter().cloned().collect(),
            stale: ledger.stale.iter().map(|(hash, stale)| (*hash, stale.clone())).collect(),
        }
    }

    /// The ledger again; none if the snapshot holds no block.
    pub(crate) fn into_ledger(self) -> Option<Ledger> {
        let head = self.blocks.last()?.clone();
        let numbered = self.blocks.iter().map(|kept| (kept.hash, kept.block.header.number));
        Some(Ledger {
            genesis: self.genesis,
            map: self.map,
            by_hash: numbered.collect(),
            blocks: self.blocks.into(),
            stale: self.stale.into_iter().collect(),
            head,
        })
    }
}
