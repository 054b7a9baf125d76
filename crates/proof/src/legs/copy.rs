//! COPY: rows of a device's plot, brought to the host and hashed there.

use crate::binding::Nonce;
use crate::derive::{DeviceKeys, context, scale};
use crate::operand::key_stream;
use crate::tree::TreeKeys;

/// Which rows are copied, and under which keys they are hashed.
///
/// The keys are fresh, so that the hashes of the plot's own tree are of no use and every copied byte must be read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyKey {
    start: u64,
    rows: u64,
    tree: TreeKeys,
}

impl CopyKey {
    /// Expands the copy key of a device with this many rows.
    #[must_use]
    pub fn new(keys: &DeviceKeys, nonce: &Nonce, rows: u64) -> Self {
        let key = keys.copy_key(nonce);
        let mut draw = [0_u8; 8];
        key_stream(&key, 0, &mut draw);
        let tree = TreeKeys {
            leaf: blake3::derive_key(context::COPY_LEAF, &key),
            node: blake3::derive_key(context::COPY_NODE, &key),
        };
        Self { start: scale(u64::from_le_bytes(draw), rows), rows, tree }
    }

    /// The row of the plot that stands at a place of the run. After the last row comes the first.
    #[must_use]
    pub const fn row(&self, place: u64) -> u64 {
        match self.start.wrapping_add(place).checked_rem(self.rows) {
            Some(row) => row,
            None => 0,
        }
    }

    /// The keys of the tree over the copied rows.
    #[must_use]
    pub const fn tree(&self) -> &TreeKeys {
        &self.tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that leaves the plot could not be copied by anybody.
    #[test]
    fn the_run_goes_round() {
        let tree = TreeKeys { leaf: [0; 32], node: [1; 32] };
        let key = CopyKey { start: 98, rows: 100, tree };
        let rows: Vec<u64> = (0..4).map(|place| key.row(place)).collect();
        assert_eq!(rows, [98, 99, 0, 1]);
    }
}
