//! Figures of speed, each beside a reference that is measured in the same run.

use std::time::{Duration, Instant};

use crate::run;

/// The v1.9.0 proof's check of one element, in the language in which a validator ran it: both operand vectors value by
/// value, ten rounds of a shift register each, and their product summed. Written from the formula; `word` makes the
/// numbers, which in the original are 64-bit ones of numpy, each operation on a number of its own.
const ORIGINAL_ELEMENT: &str = "
MASK, LEFT, RIGHT, AGAIN = word(0xFFFFFFFF), word(13), word(17), word(5)

def value(seed, row, column):
    state = (word(seed) + word(row) + word(column)) & MASK
    for _ in range(10):
        state ^= (state << LEFT) & MASK
        state ^= state >> RIGHT
        state ^= (state << AGAIN) & MASK
    return state / float(0xFFFFFFFF)

n = 20704
print(sum(value(1, 17, k) * value(1000, k, 4711) for k in range(n)))
";
/// How the numbers are made: a name for the report, and what stands before the loop.
const ORIGINAL_NUMBERS: [(&str, &str); 2] = [
    ("numpy, as the original has", "from numpy import uint64 as word"),
    ("Python's own", "word = int"),
];
const ORIGINAL_RUNS: usize = 3;

/// The proof: verifier, prover on a processor, hashing, stored transcripts.
pub(crate) fn proof() -> anyhow::Result<()> {
    run::must(run::cargo(&[
        "bench",
        "--locked",
        "--package",
        "nicompute-prover",
        "--bench",
        "proof",
    ]))?;
    for (numbers, prelude) in ORIGINAL_NUMBERS {
        match original_in_python(prelude)? {
            Some(time) => println!(
                "original's one element, n 20,704, in Python  {:>9.3} ms; numbers: {numbers}; best of {ORIGINAL_RUNS}, without its start",
                time.as_secs_f64() * 1e3
            ),
            None => println!("original's one element, in Python: not here; numbers: {numbers}"),
        }
    }
    println!("GPU: `cargo xtask bench cuda` on a machine that has one");
    Ok(())
}

/// The time of the original's loop, less that of what stands before it.
fn original_in_python(prelude: &str) -> anyhow::Result<Option<Duration>> {
    if !run::succeeds(run::command("python3", &["-c", prelude])) {
        return Ok(None);
    }
    let best = |program: &str| -> anyhow::Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..ORIGINAL_RUNS {
            let began = now();
            run::output(run::command("python3", &["-c", program]))?;
            best = best.min(began.elapsed());
        }
        Ok(best)
    };
    let all = best(&format!("{prelude}\n{ORIGINAL_ELEMENT}"))?;
    Ok(Some(all.saturating_sub(best(prelude)?)))
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    Instant::now()
}
