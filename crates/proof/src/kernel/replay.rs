//! Walks without the plot: the verifier computes every row that a walk reads.
//!
//! Within one walk each read waits for the one before, so all walks of all devices of a session advance together, and
//! their rows share each reading of the matrix.

use crate::derive::DeviceKeys;
use crate::kernel::ChainMatrix;
use crate::walk::WalkKey;

/// Some walks over one device's plot.
#[derive(Debug)]
pub struct Replay<'a> {
    plot: &'a DeviceKeys,
    key: WalkKey,
    states: Vec<u64>,
}

impl<'a> Replay<'a> {
    /// The walks with these numbers under `key`, over the plot that `plot` describes.
    #[must_use]
    pub fn new(plot: &'a DeviceKeys, key: WalkKey, walks: &[u32]) -> Self {
        let states = walks.iter().map(|walk| key.start(*walk)).collect();
        Self { plot, key, states }
    }

    /// The state of each walk; after [`ChainMatrix::replay`], their results.
    #[must_use]
    pub fn states(&self) -> &[u64] {
        &self.states
    }
}

impl ChainMatrix {
    /// Advances all walks by so many reads, in step.
    pub fn replay(&self, replays: &mut [Replay<'_>], reads: u16) {
        let kernel = self.kernel();
        for _ in 0..reads {
            let reads: Vec<(&DeviceKeys, u64)> = replays
                .iter()
                .flat_map(|one| one.states.iter().map(|state| (one.plot, one.key.step(*state).1)))
                .collect();
            let plot = self.plot_rows_of(reads.into_iter());
            let mut rows = plot.chunks_exact(self.n());
            for one in replays.iter_mut() {
                for (state, row) in one.states.iter_mut().zip(&mut rows) {
                    *state = kernel.absorb(&one.key, one.key.step(*state).0, row);
                }
            }
        }
    }
}
