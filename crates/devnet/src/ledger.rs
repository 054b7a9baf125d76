//! The blocks that are still known, and the state after each of them.

#![expect(clippy::cast_possible_truncation, reason = "the codec's derive casts variant indices")]

use std::collections::{HashMap, VecDeque};

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

/// The newest state and the blocks that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) genesis: H256,
    map: Map,
    blocks: VecDeque<Kept>,
    by_hash: HashMap<H256, u32>,
    head: Kept,
}

impl Ledger {
    /// A ledger of one block.
    pub(crate) fn new(block: Block, changes: Changes) -> Self {
        let mut map = Map::new();
        let undo = state::apply(&mut map, changes);
        let head = Kept { hash: block.header.hash(), block, undo };
        Self::restore(head.hash, map, VecDeque::from([head.clone()]), head)
    }

    fn restore(genesis: H256, map: Map, blocks: VecDeque<Kept>, head: Kept) -> Self {
        let by_hash = blocks.iter().map(|kept| (kept.hash, kept.block.header.number)).collect();
        Self { genesis, map, blocks, by_hash, head }
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
        }
    }

    /// The newest block.
    pub(crate) const fn head(&self) -> &Kept {
        &self.head
    }

    /// The newest state.
    pub(crate) const fn state(&self) -> &Map {
        &self.map
    }

    /// A known block by its hash.
    pub(crate) fn by_hash(&self, hash: &H256) -> Option<&Kept> {
        self.by_number(*self.by_hash.get(hash)?)
    }

    /// A known block by its number.
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
        let number = *self.by_hash.get(hash)?;
        let later = self.blocks.iter().rev();
        let later = later.take_while(move |kept| kept.block.header.number > number);
        Some(Past::new(&self.map, later.map(|kept| &kept.undo)))
    }
}

/// What of a ledger is written into a snapshot.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Snapshot {
    genesis: H256,
    map: Map,
    blocks: Vec<Kept>,
}

impl Snapshot {
    /// Everything that is needed to go on from here.
    pub(crate) fn of(ledger: &Ledger) -> Self {
        Self {
            genesis: ledger.genesis,
            map: ledger.map.clone(),
            blocks: ledger.blocks.iter().cloned().collect(),
        }
    }

    /// The ledger again; none if the snapshot holds no block.
    pub(crate) fn into_ledger(self) -> Option<Ledger> {
        let head = self.blocks.last()?.clone();
        Some(Ledger::restore(self.genesis, self.map, self.blocks.into(), head))
    }
}
