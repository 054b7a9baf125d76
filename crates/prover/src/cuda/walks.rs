//! Walks over a plot, this GPU's or a neighbour's.

use nicompute_proof::{Digest, Tree, TreeKeys, WALK_GROUP, key_stream, walk_leaf};

use super::error::CudaError;
use super::kernels::Walks;
use super::layout::RESULT_BYTES;
use super::work::Work;
use crate::device::DeviceError;

/// The plot that is walked over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    /// Where it begins.
    pub(super) plot: u64,
    /// How many rows it has.
    pub(super) rows: u64,
}

/// How many walks, and how many reads of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) walks: u32,
    pub(super) reads: u16,
}

/// Results of walks and the tree over them.
pub(super) struct Walked {
    pub(super) results: Vec<u64>,
    pub(super) tree: Tree,
}

impl Work {
    /// Follows all walks. The results of one launch are fetched and hashed while the next one runs.
    pub(super) fn walk(
        &mut self,
        ground: Ground,
        key: &[u8; 32],
        tree: &TreeKeys,
        extent: Extent,
    ) -> Result<Walked, DeviceError> {
        self.gpu.enter()?;
        let seed = self.write_words(key)?;
        let at_once = self.layout.walks_at_once;
        let launches = extent.walks.div_ceil(at_once);
        let mut results = Vec::with_capacity(extent.walks as usize);
        let mut leaves: Vec<Digest> = Vec::with_capacity(results.capacity() / WALK_GROUP as usize);
        for launch in 0..=launches {
            if launch < launches {
                let first = launch * at_once;
                let count = at_once.min(extent.walks - first);
                self.queue_walks(ground, seed, (first, count), extent.reads)?;
            }
            if let Some(before) = launch.checked_sub(1) {
                let bytes = self.walked[half(before)].take()?.as_chunks::<8>().0;
                let arrived = results.len();
                results.extend(bytes.iter().map(|bytes| u64::from_le_bytes(*bytes)));
                let groups = results[arrived..].chunks(WALK_GROUP as usize);
                leaves.extend(groups.map(|group| tree.leaf(&walk_leaf(group))));
            }
        }
        Ok(Walked { tree: Tree::new(tree, leaves)?, results })
    }

    /// The key words go to the GPU in the queue of the walks, so that no walk reads older ones; the seed goes into every launch.
    fn write_words(&mut self, key: &[u8; 32]) -> Result<u64, CudaError> {
        let mut seed = [0; 8];
        key_stream(key, 0, &mut seed);
        let mut words = vec![0; self.layout.n as usize];
        key_stream(key, 1, &mut words);
        // SAFETY: words leave from there by this queue alone, and nothing arrives there.
        unsafe { self.sent.send(&words, &self.words, &self.compute)? };
        Ok(u64::from_le_bytes(seed))
    }

    fn queue_walks(
        &mut self,
        ground: Ground,
        seed: u64,
        (first, count): (u32, u32),
        reads: u16,
    ) -> Result<(), CudaError> {
        let half = half(first / self.layout.walks_at_once);
        let walks = Walks {
            plot: ground.plot,
            rows: ground.rows,
            n: self.layout.n,
            words: self.words.address(),
            seed,
            first,
            count,
            reads: u32::from(reads),
            results: self.results[half].address(),
        };
        // SAFETY: words and results are buffers of this GPU, of which this half was fetched two launches ago; the plot is
        // this GPU's, or a neighbour's that lives and that this one was allowed to read.
        unsafe { self.gpu.kernels().walks(&self.compute, walks)? };
        self.hand_over()?;
        let bytes = u64::from(count) * RESULT_BYTES;
        self.walked[half].call((&self.results[half], 0), bytes, &self.hash)
    }
}

const fn half(launch: u32) -> usize {
    launch as usize % 2
}
