//! Rows of the plot, brought to the host and hashed there.

use std::thread;

use nicompute_proof::{CopyKey, Digest, Tree, TreeKeys};

use super::error::CudaError;
use super::work::Work;
use crate::device::DeviceError;

/// A run of rows that lie behind each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    first: u64,
    rows: u64,
}

impl Work {
    /// Brings a run of rows here and hashes them on so many threads; one piece is hashed while the next one comes.
    pub(super) fn copy(
        &mut self,
        key: &CopyKey,
        (count, of): (u64, u64),
        threads: usize,
    ) -> Result<Tree, DeviceError> {
        self.gpu.enter()?;
        let pieces = pieces(key.row(0), (count, of), self.layout.copied_at_once());
        let mut leaves = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for at in 0..=pieces.len() {
            if let Some(piece) = pieces.get(at) {
                self.queue_copy(at, *piece)?;
            }
            if let Some(before) = at.checked_sub(1) {
                let here = self.copied.get(before % 2).ok_or(DeviceError::Order)?;
                leaves.extend(hashed(here.take()?, self.layout.n as usize, key.tree(), threads));
            }
        }
        Ok(Tree::new(key.tree(), leaves)?)
    }

    fn queue_copy(&mut self, at: usize, piece: Piece) -> Result<(), CudaError> {
        let n = u64::from(self.layout.n);
        let from = (&self.plot, piece.first * n);
        match self.copied.get_mut(at % 2) {
            Some(here) => here.call(from, piece.rows * n, &self.hash),
            None => Ok(()),
        }
    }
}

/// So many rows from one on, at most so many in a piece; after the last row comes the first.
fn pieces(start: u64, (count, of): (u64, u64), at_once: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut place = 0;
    while place < count {
        let first = (start + place) % of;
        let rows = at_once.min(count - place).min(of - first);
        pieces.push(Piece { first, rows });
        place += rows;
    }
    pieces
}

fn hashed(bytes: &[u8], n: usize, keys: &TreeKeys, threads: usize) -> Vec<Digest> {
    let share = (bytes.len() / n).div_ceil(threads.max(1)).max(1) * n;
    thread::scope(|scope| {
        let hash = |part: &[u8]| part.chunks_exact(n).map(|row| keys.leaf(row)).collect();
        let workers: Vec<_> = bytes
            .chunks(share)
            .map(|part| scope.spawn(move || -> Vec<Digest> { hash(part) }))
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join().expect("hashing cannot fail"));
        joined.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that is copied twice or never would make an honest GPU fail.
    #[test]
    fn pieces_cover_the_run_once() {
        for (start, count, of, at_once) in
            [(0, 10, 10, 3), (7, 10, 10, 3), (9, 1, 10, 3), (4, 6, 10, 100), (5, 9, 10, 1)]
        {
            let pieces = pieces(start, (count, of), at_once);
            assert!(pieces.iter().all(|piece| (1..=at_once).contains(&piece.rows)));
            let rows = pieces.iter().flat_map(|piece| piece.first..piece.first + piece.rows);
            let expected = (0..count).map(|place| (start + place) % of);
            assert!(rows.eq(expected), "{start} {count} {of} {at_once}: {pieces:?}");
        }
    }

    /// However many threads hash, the leaves are those of the rows, in order.
    #[test]
    fn threads_keep_the_order() {
        let keys = TreeKeys { leaf: [1; 32], node: [2; 32] };
        let bytes: Vec<u8> = (0..=255).collect();
        let alone: Vec<Digest> = bytes.chunks(16).map(|row| keys.leaf(row)).collect();
        for threads in [1, 2, 3, 16, 100] {
            assert_eq!(hashed(&bytes, 16, &keys, threads), alone);
        }
    }
}
