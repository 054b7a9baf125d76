//! Keyed BLAKE3 trees over rows and over walk results, and the paths that open them.
//!
//! Leaves and nodes use different keys, and rows and walks use different pairs, so that no hash of one place can stand
//! in another. A level with an odd number of nodes hands its last node up unchanged; the shape follows from the number
//! of leaves alone, which both sides know, and so does the length of every path.

use serde::{Deserialize, Serialize};

/// A 32-byte BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub [u8; 32]);

/// The two keys of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeKeys {
    /// Hashes leaf contents.
    pub leaf: [u8; 32],
    /// Hashes pairs of nodes.
    pub node: [u8; 32],
}

/// Why a set of leaves cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There is no such leaf.
    #[error("leaf {index} of a tree with {count}")]
    OutOfRange {
        /// The leaf asked for.
        index: u64,
        /// The leaves that there are.
        count: u64,
    },
    /// The same leaf twice.
    #[error("leaf {0} twice")]
    Duplicate(u64),
    /// Leaves that do not ascend.
    #[error("leaf {0} after a later one")]
    Unordered(u64),
    /// A path that is longer or shorter than the tree is deep at that leaf.
    #[error("a path of {got} hashes, expected {expected}")]
    PathLength {
        /// Hashes in the path.
        got: usize,
        /// Hashes that it must have.
        expected: usize,
    },
    /// A tree needs at least one leaf.
    #[error("a tree without leaves")]
    Empty,
}

/// All levels of a tree, leaves first.
#[derive(Clone, Debug)]
pub struct Tree {
    levels: Vec<Vec<Digest>>,
}

impl TreeKeys {
    /// The hash of a leaf's content.
    #[must_use]
    pub fn leaf(&self, content: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.leaf, content).as_bytes())
    }

    /// The hash of two neighbours.
    #[must_use]
    pub fn node(&self, left: &Digest, right: &Digest) -> Digest {
        let mut pair = [0_u8; 64];
        let (first, second) = pair.split_at_mut(32);
        first.copy_from_slice(&left.0);
        second.copy_from_slice(&right.0);
        Digest(*blake3::keyed_hash(&self.node, &pair).as_bytes())
    }

    /// The level above `level`.
    #[must_use]
    pub fn parents(&self, level: &[Digest]) -> Vec<Digest> {
        level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => self.node(left, right),
                [last] => *last,
                _ => Digest([0; 32]),
            })
            .collect()
    }

    /// The root over these nodes, which may be the leaves or any whole level.
    ///
    /// # Errors
    /// Where there is none.
    pub fn root(&self, nodes: &[Digest]) -> Result<Digest, TreeError> {
        let mut level = nodes.to_vec();
        while level.len() > 1 {
            level = self.parents(&level);
        }
        level.first().copied().ok_or(TreeError::Empty)
    }

    /// The root that follows from a leaf and its path.
    ///
    /// # Errors
    /// Where there is no such leaf, or the path has another length than the tree has levels there.
    pub fn root_from_path(
        &self,
        count: u64,
        index: u64,
        leaf: Digest,
        path: &[Digest],
    ) -> Result<Digest, TreeError> {
        let expected = path_length(count, index)?;
        if path.len() != expected {
            return Err(TreeError::PathLength { got: path.len(), expected });
        }
        let mut siblings = path.iter();
        let mut node = leaf;
        let (mut width, mut at) = (count, index);
        while width > 1 {
            if let Some(sibling) = sibling_of(width, at).and_then(|_| siblings.next()) {
                node =
                    if at & 1 == 0 { self.node(&node, sibling) } else { self.node(sibling, &node) };
            }
            (width, at) = (width.div_ceil(2), at >> 1);
        }
        Ok(node)
    }
}

impl Tree {
    /// Builds all levels over the leaves.
    ///
    /// # Errors
    /// Where there is no leaf.
    pub fn new(keys: &TreeKeys, leaves: Vec<Digest>) -> Result<Self, TreeError> {
        if leaves.is_empty() {
            return Err(TreeError::Empty);
        }
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let parents = keys.parents(level);
            levels.push(parents);
        }
        Ok(Self { levels })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(Digest([0; 32]))
    }

    /// The path of one leaf, from its sibling upwards.
    ///
    /// # Errors
    /// Where there is no such leaf.
    pub fn path(&self, index: u64) -> Result<Vec<Digest>, TreeError> {
        let count = self.levels.first().map_or(0, |leaves| leaves.len() as u64);
        if index >= count {
            return Err(TreeError::OutOfRange { index, count });
        }
        let mut at = index;
        let mut path = Vec::new();
        for level in &self.levels {
            let sibling = usize::try_from(at ^ 1).ok().and_then(|sibling| level.get(sibling));
            path.extend(sibling);
            at >>= 1;
        }
        Ok(path)
    }
}

/// Refuses indices that repeat, descend or lie outside a tree.
///
/// # Errors
/// At the first such index.
pub fn check_indices(count: u64, indices: impl IntoIterator<Item = u64>) -> Result<(), TreeError> {
    let mut before = None;
    for index in indices {
        if index >= count {
            return Err(TreeError::OutOfRange { index, count });
        }
        match before {
            Some(before) if before == index => return Err(TreeError::Duplicate(index)),
            Some(before) if before > index => return Err(TreeError::Unordered(index)),
            Some(_) | None => before = Some(index),
        }
    }
    Ok(())
}

/// The number of hashes in the path of a leaf.
///
/// # Errors
/// Where there is no such leaf.
pub fn path_length(count: u64, index: u64) -> Result<usize, TreeError> {
    if index >= count {
        return Err(TreeError::OutOfRange { index, count });
    }
    let mut length = 0_usize;
    let (mut width, mut at) = (count, index);
    while width > 1 {
        if sibling_of(width, at).is_some() {
            length = length.saturating_add(1);
        }
        (width, at) = (width.div_ceil(2), at >> 1);
    }
    Ok(length)
}

fn sibling_of(width: u64, at: u64) -> Option<u64> {
    Some(at ^ 1).filter(|sibling| *sibling < width)
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: TreeKeys = TreeKeys { leaf: [1; 32], node: [2; 32] };

    fn leaves(count: u64) -> Vec<Digest> {
        (0..count).map(|at| KEYS.leaf(&at.to_le_bytes())).collect()
    }

    /// A path that does not lead to the root would refuse honest provers; one that leads there from elsewhere would
    /// accept a cheater.
    #[test]
    fn every_leaf_opens_and_only_at_its_place() {
        for count in 1..40 {
            let leaves = leaves(count);
            let tree = Tree::new(&KEYS, leaves.clone()).unwrap();
            assert_eq!(tree.root(), KEYS.root(&leaves).unwrap());
            for index in 0..count {
                let path = tree.path(index).unwrap();
                let leaf = leaves[usize::try_from(index).unwrap()];
                assert_eq!(KEYS.root_from_path(count, index, leaf, &path), Ok(tree.root()));
                let moved = KEYS.root_from_path(count, (index + 1) % count, leaf, &path);
                assert!(count == 1 || moved != Ok(tree.root()), "{count} {index}");
                let mut longer = path.clone();
                longer.push(leaf);
                assert!(KEYS.root_from_path(count, index, leaf, &longer).is_err());
                if let Some(bad) = longer.first_mut().filter(|_| count > 1) {
                    bad.0[31] ^= 1;
                    longer.pop();
                    assert_ne!(KEYS.root_from_path(count, index, leaf, &longer), Ok(tree.root()));
                }
            }
            assert!(tree.path(count).is_err());
        }
        assert!(Tree::new(&KEYS, Vec::new()).is_err());
    }

    /// Panel roots must be nodes of the whole tree, or progress could not be tied to the commitment.
    #[test]
    fn whole_panels_are_subtrees() {
        let all = leaves(5 * 8);
        let panels: Vec<Digest> = all.chunks(8).map(|panel| KEYS.root(panel).unwrap()).collect();
        assert_eq!(KEYS.root(&panels), KEYS.root(&all));
    }

    /// Accepting the same row sixty-four times would make sixty-four checks into one.
    #[test]
    fn bad_indices_are_refused() {
        assert_eq!(check_indices(9, [0, 4, 8]), Ok(()));
        assert_eq!(check_indices(9, [4, 4]), Err(TreeError::Duplicate(4)));
        assert_eq!(check_indices(9, [4, 3]), Err(TreeError::Unordered(3)));
        assert_eq!(check_indices(9, [9]), Err(TreeError::OutOfRange { index: 9, count: 9 }));
    }
}
