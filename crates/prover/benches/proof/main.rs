//! The proof's speed on this machine: one line a figure, each beside a reference that is measured in the same run.
//!
//! `cargo xtask bench proof` runs it. Each time is the best of a few runs, with the median behind it, on one thread unless
//! the line says otherwise; the best is what the code can do, the median what a busy machine made of it.

#![expect(clippy::print_stdout, reason = "a report for a person")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures for a person"
)]

#[expect(dead_code, clippy::unwrap_used, reason = "made for the tests, which use the rest of it")]
#[path = "../../tests/it/harness.rs"]
mod harness;
mod reference;
mod whole;

use std::hint::black_box;
use std::time::{Duration, Instant};

use nicompute_proof::{ChainMatrix, Kernel, TreeKeys, operand_row};
use rustix::time::ClockId;

/// The widest profile: what a GPU is tested with.
pub(crate) const N: usize = 4096;
pub(crate) const STEPS: u16 = 4;
const SAMPLED_ROWS: usize = 64;
const PROVER_ROWS: usize = 1024;
const RUNS: usize = 15;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words {
        ["--verify-one", file] => whole::verify_one(file),
        _ => report(),
    }
}

fn report() {
    println!("kernel: {}", Kernel::detect().name());
    let inputs = Inputs::new();
    let rows = rows(&inputs);
    original(rows);
    kernels(&inputs);
    prover(&inputs);
    drop(inputs);
    hash();
    whole::report();
}

/// A matrix and first operands, as integers and as f32.
struct Inputs {
    matrix: Vec<i16>,
    rows: Vec<i16>,
}

impl Inputs {
    fn new() -> Self {
        let draw = |seed: u8, rows: usize| {
            let mut out = vec![0; rows * N];
            operand_row(&[seed; 32], 0, &mut vec![0; rows * N * 2], &mut out);
            out
        };
        Self { matrix: draw(1, N), rows: draw(2, PROVER_ROWS) }
    }

    fn chain(&self, matrix: &ChainMatrix, rows: usize) {
        let mut operands = self.rows[..rows * N].to_vec();
        let mut plot = vec![0; rows * N];
        matrix.chain(&mut operands, &mut plot);
        black_box(plot);
    }

    /// The chain over so many rows and the same rows' product in f32, in turns.
    fn against_gemm(&self, rows: usize, runs: usize) -> [Timed; 2] {
        let matrix = ChainMatrix::from_rows(&self.matrix, N, STEPS);
        let float =
            |values: &[i16]| values.iter().map(|value| f32::from(*value)).collect::<Vec<_>>();
        let (float_matrix, operands) = (float(&self.matrix), float(&self.rows[..rows * N]));
        let mut to = vec![0.0; rows * N];
        let mut gemm = || reference::gemm(&operands, &float_matrix, N, black_box(&mut to));
        let times = in_turns(runs, [&mut || self.chain(&matrix, rows), &mut gemm]);
        let mut sums = vec![0; rows * N];
        matrix.multiply(&self.rows[..rows * N], &mut sums);
        let same = sums.iter().zip(&to).all(|(sum, float)| *sum == *float as i32);
        assert!(same, "gemm's f32 product is exact in this range");
        times
    }
}

/// Processor time of this thread over some runs: the turns of other programs do not count.
#[derive(Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) best: Duration,
    pub(crate) median: Duration,
}

pub(crate) fn best(runs: usize, mut work: impl FnMut()) -> Timed {
    let [times] = in_turns(runs, [&mut work]);
    times
}

/// Several works, each once a round, so that what happens to the machine happens to all of them.
fn in_turns<const WORKS: usize>(
    rounds: usize,
    mut works: [&mut dyn FnMut(); WORKS],
) -> [Timed; WORKS] {
    let mut times = [const { Vec::new() }; WORKS];
    for _ in 0..rounds.max(1) {
        for (work, times) in works.iter_mut().zip(&mut times) {
            let began = processor_time(ClockId::ThreadCPUTime);
            work();
            times.push(processor_time(ClockId::ThreadCPUTime).saturating_sub(began));
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        Timed { best: times[0], median: times[times.len() / 2] }
    })
}

pub(crate) fn processor_time(clock: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::try_from(time).expect("a clock that counts up from zero")
}

/// The wall clock, for what runs on several threads.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    Instant::now()
}

/// One figure: a name, a time where it is one, and what is beside it.
pub(crate) fn line(name: &str, took: Timed, beside: &str) {
    let [best, median] = [took.best, took.median].map(|time| time.as_secs_f64() * 1e3);
    println!("{name:<44} {best:>10.3} ms (median {median:.3}); {beside}");
}

/// Thousand millions of multiply-adds in a second.
fn rate(products: usize, time: Duration) -> f64 {
    products as f64 / time.as_secs_f64() / 1e9
}

/// The chain's products over so many rows.
const fn products(rows: usize) -> usize {
    rows * N * N * STEPS as usize
}

/// Ours in a chain beside gemm's in one step: lines, and the ratio of best to best and of median to median.
fn beside_gemm(name: &str, inputs: &Inputs, rows: usize, runs: usize) -> Timed {
    let [ours, gemm] = inputs.against_gemm(rows, runs);
    let rates = |time: fn(&Timed) -> Duration| {
        (rate(products(rows), time(&ours)), rate(rows * N * N, time(&gemm)))
    };
    let (best, median) = (rates(|timed| timed.best), rates(|timed| timed.median));
    line(name, ours, &format!("{:.1} GMAC/s", best.0));
    line("  gemm f32, the same rows, one step", gemm, &format!("{:.1} GMAC/s", best.1));
    println!(
        "  over gemm f32: {:.2} times (medians: {:.2} times)",
        best.0 / best.1,
        median.0 / median.1
    );
    ours
}

/// The verifier's rows, beside the same products in f32. Returns the time of the rows.
fn rows(inputs: &Inputs) -> Timed {
    beside_gemm("verifier, 64 rows x 4 steps, n 4096", inputs, SAMPLED_ROWS, RUNS)
}

/// Each kernel of this processor, beside the most that a core issues of its instructions from registers alone.
fn kernels(inputs: &Inputs) {
    const ROUNDS: u64 = 2_000_000;
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        let matrix = ChainMatrix::on(kernel, &inputs.matrix, N, STEPS);
        let mut in_registers = 0;
        let mut peak = || {
            in_registers = reference::multiply_adds_in_registers(kernel, ROUNDS).unwrap_or(0);
        };
        let runs = if kernel == Kernel::Portable { 2 } else { RUNS };
        let mut chain = || inputs.chain(&matrix, SAMPLED_ROWS);
        let [ours, peak] = in_turns(runs, [&mut chain, &mut peak]);
        let share = |time: fn(&Timed) -> Duration| {
            let peak = rate(usize::try_from(in_registers).unwrap_or(0), time(&peak));
            (peak, 100.0 * rate(products(SAMPLED_ROWS), time(&ours)) / peak)
        };
        let (best, median) = (share(|timed| timed.best), share(|timed| timed.median));
        let of_peak = format!(
            ", {:.0} % of {:.1} GMAC/s from registers (medians: {:.0} % of {:.1})",
            best.1, best.0, median.1, median.0
        );
        let of_peak = if in_registers == 0 { String::new() } else { of_peak };
        let reached = rate(products(SAMPLED_ROWS), ours.best);
        let name = format!("kernel {}, the same rows", kernel.name());
        line(&name, ours, &format!("{reached:.1} GMAC/s{of_peak}"));
    }
}

/// The original's check of one element, in this language, beside ours of 64 rows.
fn original(rows: Timed) {
    let took = best(RUNS, || {
        black_box(reference::original_element([1, 1000], 17, 4711, reference::ORIGINAL_N));
    });
    let elements = SAMPLED_ROWS * N;
    let ratio = rows.best.as_secs_f64() / took.best.as_secs_f64();
    let element = rows.best.as_secs_f64() / elements as f64;
    line(
        "original's one element, n 20,704, in Rust",
        took,
        &format!(
            "our 64 rows take {ratio:.1} times as long and check {elements} elements; for each element {:.0} times less",
            took.best.as_secs_f64() / element
        ),
    );
}

/// A processor's prover, the chain alone, at the row count that suits the reference.
fn prover(inputs: &Inputs) {
    beside_gemm("prover, 1,024 rows x 4 steps, n 4096", inputs, PROVER_ROWS, 3);
}

fn hash() {
    let bytes = vec![7_u8; 16 << 20];
    let gigabytes = |took: Timed| bytes.len() as f64 / took.best.as_secs_f64() / 1e9;
    let keys = TreeKeys { leaf: [1; 32], node: [2; 32] };
    for width in [256, N] {
        let took = best(RUNS, || {
            bytes.chunks(width).for_each(|row| {
                black_box(keys.leaf(row));
            });
        });
        let name = format!("BLAKE3, leaves of rows of {width} bytes, 16 MiB");
        line(&name, took, &format!("{:.2} GB/s", gigabytes(took)));
    }
    let took = best(RUNS, || {
        black_box(blake3::hash(&bytes));
    });
    line("BLAKE3, one run of 16 MiB", took, &format!("{:.2} GB/s", gigabytes(took)));
}
