//! Every kernel against the definition and against the portable one.

#![expect(clippy::arithmetic_side_effects, reason = "the definition, written plainly")]

use proptest::prelude::*;

use super::*;
use crate::binding::{Binding, Nonce};
use crate::derive::{DeviceKeys, SessionKeys};
use crate::operand::{mix_tweak, mix32, next_operand, operand_row, plot_byte};
use crate::params::ProofParams;

/// The kernels that this processor has; the others are named.
fn available() -> Vec<Kernel> {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !kernel.is_available()) {
        println!("SKIPPED: this processor has no {}", kernel.name());
    }
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()).collect()
}

fn operands(seed: u8, count: usize) -> Vec<i16> {
    let mut out = vec![0; count];
    operand_row(&[seed; 32], 0, &mut vec![0; count * 2], &mut out);
    out
}

fn chain(kernel: Kernel, rows: &[i16], n: usize, steps: u16, first: &[i16]) -> Vec<u8> {
    let matrix = ChainMatrix::on(kernel, rows, n, steps);
    assert_eq!(matrix.kernel(), kernel);
    let mut plot = vec![0; first.len()];
    matrix.chain(&mut first.to_vec(), &mut plot);
    plot
}

/// The chain in 64-bit arithmetic and plain loops, straight from the definition.
fn reference(rows: &[i16], n: usize, steps: u16, first: &[i16]) -> Vec<u8> {
    let mut operands: Vec<i64> = first.iter().map(|v| i64::from(*v)).collect();
    let mut plot = vec![0_u8; n];
    for step in 0..u32::from(steps) {
        let mut next = operands.clone();
        for column in 0..n {
            let sum: i64 = (0..n).map(|k| operands[k] * i64::from(rows[k * n + column])).sum();
            let tweak = mix_tweak(step, u32::try_from(column).unwrap());
            let mixed = mix32(i32::try_from(sum).unwrap(), tweak);
            next[column] = i64::from(next_operand(mixed));
            plot[column] = plot_byte(mixed);
        }
        operands = next;
    }
    plot
}

/// A kernel that computes another chain than the definition refuses everybody, or is refused by everybody.
#[test]
fn the_chain_equals_its_definition() {
    for kernel in available() {
        for (n, steps, count) in [(32, 2, 1), (128, 3, 5), (192, 2, 7), (320, 2, 9)] {
            let (rows, first) = (operands(1, n * n), operands(2, count * n));
            let plot = chain(kernel, &rows, n, steps, &first);
            for (first, plot) in first.chunks(n).zip(plot.chunks(n)) {
                assert_eq!(plot, reference(&rows, n, steps, first), "{} n {n}", kernel.name());
            }
        }
    }
}

/// Operands of full size in every place are the largest sums that there are: they must neither saturate nor wrap in
/// 16-bit multiply-add instructions.
#[test]
fn the_largest_sums_do_not_overflow() {
    let n = 4096;
    for (left, right) in [(255_i16, 255_i16), (-255, 255), (-255, -255)] {
        let rows = vec![right; n * n];
        for kernel in available() {
            let matrix = ChainMatrix::on(kernel, &rows, n, 2);
            let mut sums = vec![0; 5 * n];
            matrix.multiply(&vec![left; 5 * n], &mut sums);
            let expected = i32::from(left) * i32::from(right) * 4096;
            assert!(sums.iter().all(|sum| *sum == expected), "{}", kernel.name());
        }
    }
}

/// A matrix that is drawn band by band must be the one that the prover lays out whole.
#[test]
fn a_drawn_matrix_is_the_one_of_its_rows() {
    let params = ProofParams::small();
    let binding = Binding {
        validator: [1; 32],
        provider: [2; 32],
        lease: [3; 16],
        block_number: 4,
        block_hash: [5; 32],
    };
    let keys = SessionKeys::derive(&Nonce([6; 32]), &binding, &params);
    let drawn = ChainMatrix::new(&keys, &params);
    let laid_out = ChainMatrix::from_rows(&keys.matrix_rows(256), 256, params.steps());
    let first = operands(3, 256 * 3);
    let [mut one, mut other] = [[0_i32; 256 * 3]; 2];
    drawn.multiply(&first, &mut one);
    laid_out.multiply(&first, &mut other);
    assert_eq!(one, other);
}

/// Walks that are replayed together must not mix up their plots, keys or states.
#[test]
fn walks_replayed_together_are_those_replayed_alone() {
    let n = 128;
    let matrix = ChainMatrix::from_rows(&operands(1, n * n), n, 2);
    let devices = [[7_u8; 32], [8; 32]].map(DeviceKeys::from_device_key);
    let walks = [&[0_u32, 5, 9][..], &[1]];
    let key = |device: &DeviceKeys| WalkKey::new(device, &Nonce([2; 32]), n, 1 << 20);
    let mut together = [0, 1].map(|at| Replay::new(&devices[at], key(&devices[at]), walks[at]));
    matrix.replay(&mut together, 5);
    for (device, (walks, together)) in devices.iter().zip(walks.iter().zip(&together)) {
        for (walk, result) in walks.iter().zip(together.states()) {
            let (key, mut state) = (key(device), key(device).start(*walk));
            for _ in 0..5 {
                let (mixed, row) = key.step(state);
                state = key.absorb(mixed, &matrix.plot_rows(device, &[row]));
            }
            assert_eq!(*result, state);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A fast kernel with another result at some size would make every honest machine with it fail.
    #[test]
    fn kernels_agree_at_every_size(
        tiles in 1_usize..20,
        count in 1_usize..140,
        steps in 1_u16..4,
        seed in 0_u8..255,
    ) {
        let n = tiles * 32;
        let (rows, first) = (operands(seed, n * n), operands(seed + 1, n * count));
        let expected = chain(Kernel::Portable, &rows, n, steps, &first);
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            prop_assert_eq!(&chain(kernel, &rows, n, steps, &first), &expected, "{}", kernel.name());
        }
    }

    /// The products of any 16-bit operands that the exact range allows are the same on every kernel.
    #[test]
    fn products_agree_on_extreme_operands(
        picks in prop::collection::vec(prop::sample::select(vec![-255_i16, -1, 0, 1, 255]), 64),
        count in 1_usize..11,
    ) {
        let n = 64;
        let rows: Vec<i16> = (0..n * n).map(|at| picks[(at * 7 + at / n) % 64]).collect();
        let first: Vec<i16> = (0..n * count).map(|at| picks[(at * 5 + 3) % 64]).collect();
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
            let mut sums = vec![0; n * count];
            ChainMatrix::on(kernel, &rows, n, 2).multiply(&first, &mut sums);
            for (at, sum) in sums.iter().enumerate() {
                let (row, column) = (at / n, at % n);
                let product = |k: usize| i64::from(first[row * n + k]) * i64::from(rows[k * n + column]);
                prop_assert_eq!(i64::from(*sum), (0..n).map(product).sum::<i64>());
            }
        }
    }

    /// A walk's digest must be the same on every kernel, also for rows that are no whole vectors or longer than the key.
    #[test]
    fn digests_agree_at_every_length(
        row in prop::collection::vec(any::<u8>(), 0..700),
        words in 0_usize..80,
        mixed: u64,
    ) {
        let device = DeviceKeys::from_device_key([9; 32]);
        let key = WalkKey::new(&device, &Nonce([1; 32]), words * 8, 1000);
        let expected = key.absorb(mixed, &row);
        for kernel in Kernel::ALL {
            prop_assert_eq!(kernel.absorb(&key, mixed, &row), expected, "{}", kernel.name());
        }
    }
}
