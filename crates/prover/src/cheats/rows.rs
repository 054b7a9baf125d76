//! Ways to make rows that are not the work.

use nicompute_proof::{Kernel, SessionKeys, key_stream, mix_to_plot, operand_row};

use crate::device::FillTask;
use crate::plot::{Chain, MakeRows};

/// The key of what cheaters write in the place of rows.
const NOISE: [u8; 32] = [0xA5; 32];

/// The operands and the recurrence of the v1.9.0 proof, spoken in our frames.
pub(super) struct Hankel {
    n: usize,
    last_step: u32,
    seed: u32,
    right: Vec<i32>,
}

/// The first half of every block, and noise after it.
pub(super) struct Half {
    chain: Chain,
    n: usize,
}

/// A chain of products of width one, stretched over the whole row.
pub(super) struct Narrow {
    task: FillTask,
    corner: i32,
}

/// Nothing but noise, which depends on the row and on no key.
pub(super) struct Noise {
    n: usize,
}

/// The rows of another session or of another device.
pub(super) fn under_keys_of(
    kernel: Kernel,
    session: &SessionKeys,
    keys: nicompute_proof::DeviceKeys,
    task: &FillTask,
) -> Chain {
    let matrix = std::sync::Arc::new(session.matrix_rows(task.params.n()));
    Chain::new(kernel, &FillTask { keys, matrix, ..task.clone() })
}

// === impl Hankel ===

impl Hankel {
    pub(super) fn new(task: &FillTask) -> Self {
        let mut seeds = [0_u8; 8];
        key_stream(task.session.matrix(), 0, &mut seeds);
        let [a, b, c, d, e, f, g, h] = seeds;
        let (seed, right_seed) = (u32::from_le_bytes([a, b, c, d]), [e, f, g, h]);
        let n = task.params.n();
        Self {
            n,
            last_step: u32::from(task.params.steps().saturating_sub(1)),
            seed,
            right: diagonal(u32::from_le_bytes(right_seed), 2 * n),
        }
    }

    /// The product of Hankel matrices: the first row and the first column by their definition, everything else from its
    /// upper left neighbour.
    fn product(&self, first: u64, count: usize) -> Vec<i32> {
        let n = self.n;
        let offset = u32::try_from(first & u64::from(u32::MAX)).unwrap_or(0);
        let left = diagonal(self.seed.wrapping_add(offset), n + count);
        let entry = |row: usize, column: usize| -> i32 {
            (0..n).map(|k| left[row + k] * self.right[k + column]).sum()
        };
        let mut sums = vec![0_i32; n * count];
        for (column, sum) in sums.iter_mut().enumerate().take(n) {
            *sum = entry(0, column);
        }
        for row in 1..count {
            sums[row * n] = entry(row, 0);
            for column in 1..n {
                sums[row * n + column] = sums[(row - 1) * n + column - 1]
                    - left[row - 1] * self.right[column - 1]
                    + left[row - 1 + n] * self.right[column - 1 + n];
            }
        }
        sums
    }
}

impl MakeRows for Hankel {
    fn make(&self, first: u64, rows: &mut [u8]) {
        let sums = self.product(first, rows.len() / self.n);
        for (sums, row) in sums.chunks_exact(self.n).zip(rows.chunks_exact_mut(self.n)) {
            mix_to_plot(self.last_step, sums, row);
        }
    }
}

/// The values along i + j: ten rounds of xorshift of the seed plus the index, scaled to our operands.
fn diagonal(seed: u32, count: usize) -> Vec<i32> {
    let value = |at: u32| {
        let mut state = seed.wrapping_add(at);
        for _ in 0..10 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
        }
        (state >> 23).cast_signed() - 256
    };
    (0..).take(count).map(value).collect()
}

// === impl Half ===

impl Half {
    pub(super) fn new(kernel: Kernel, task: &FillTask) -> Self {
        Self { chain: Chain::new(kernel, task), n: task.params.n() }
    }
}

impl MakeRows for Half {
    fn make(&self, first: u64, rows: &mut [u8]) {
        let half = rows.len() / self.n / 2 * self.n;
        let (honest, noise) = rows.split_at_mut(half);
        self.chain.make(first, honest);
        key_stream(&NOISE, first, noise);
    }
}

// === impl Narrow ===

impl Narrow {
    pub(super) fn new(task: &FillTask) -> Self {
        let corner = task.matrix.first().copied().unwrap_or(0);
        Self { task: task.clone(), corner: i32::from(corner) }
    }
}

impl MakeRows for Narrow {
    fn make(&self, first: u64, rows: &mut [u8]) {
        let n = self.task.params.n();
        let (mut scratch, mut operands) = (vec![0_u8; 2 * n], vec![0_i16; n]);
        for (row, place) in (first..).zip(rows.chunks_exact_mut(n)) {
            operand_row(self.task.keys.operands(), row, &mut scratch, &mut operands);
            let mut operand = i32::from(operands[0]);
            for step in 0..u32::from(self.task.params.steps()) {
                let sums = [operand * self.corner];
                let mut byte = [0_u8];
                mix_to_plot(step, &sums, &mut byte);
                operand = i32::from(byte[0]) * 2 - 256;
            }
            place.fill(u8::try_from((operand + 256) / 2).unwrap_or(0));
        }
    }
}

// === impl Noise ===

impl Noise {
    pub(super) const fn new(task: &FillTask) -> Self {
        Self { n: task.params.n() }
    }
}

impl MakeRows for Noise {
    fn make(&self, first: u64, rows: &mut [u8]) {
        for (row, place) in (first..).zip(rows.chunks_exact_mut(self.n)) {
            key_stream(&NOISE, row, place);
        }
    }
}

/// What stands in the place of one row that was not computed.
pub(super) fn noise(row: u64, place: &mut [u8]) {
    key_stream(&NOISE, row, place);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A forger that cannot even forge the old proof would be no test of the new one.
    #[test]
    fn the_recurrence_gives_the_product_of_hankel_matrices() {
        let (n, count) = (32, 20);
        let hankel = Hankel { n, last_step: 1, seed: 77, right: diagonal(5, 2 * n) };
        let left = diagonal(77 + 3, n + count);
        let sums = hankel.product(3, count);
        for row in 0..count {
            for column in 0..n {
                let direct: i32 = (0..n).map(|k| left[row + k] * hankel.right[k + column]).sum();
                assert_eq!(sums[row * n + column], direct, "{row} {column}");
            }
        }
    }
}
