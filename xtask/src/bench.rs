//! Figures of speed, each beside a reference that is measured in the same run.

use anyhow::Context as _;

use crate::{judges, run, test};

/// The v1.9.0 proof's check of one element, in the language in which a validator ran it: both operand vectors value by
/// value, ten rounds of a shift register each, and their product summed. Written from the formula; `word` makes the
/// numbers and `const` the constants.
const ORIGINAL_ELEMENT: &str = "
import time

def value(seed, row, column):
    mask = const(0xFFFFFFFF)
    state = (word(seed) + word(row) + word(column)) & mask
    for _ in range(10):
        state ^= (state << const(13)) & const(0xFFFFFFFF)
        state ^= (state >> const(17)) & const(0xFFFFFFFF)
        state ^= (state << const(5)) & const(0xFFFFFFFF)
    return state / float(0xFFFFFFFF)

n, times = 20704, []
for _ in range(3):
    began = time.process_time_ns()
    sum(value(1, 17, k) * value(1000, k, 4711) for k in range(n))
    times.append(time.process_time_ns() - began)
print(min(times))
";
/// Ways to make the numbers: a name for the report, what stands before the loop, and what `const` becomes.
const ORIGINAL_NUMBERS: [(&str, &str, &str); 3] = [
    (
        "numpy's, constants made anew for each operation, as the original does",
        "from numpy import uint64 as word",
        "word",
    ),
    (
        "numpy's, constants made once",
        "from numpy import uint64 as word; C = {c: word(c) for c in (0xFFFFFFFF, 13, 17, 5)}",
        "C.__getitem__",
    ),
    ("Python's own", "word = int", ""),
];

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
    for (numbers, prelude, constant) in ORIGINAL_NUMBERS {
        let name = "original's one element, n 20,704, in Python";
        if run::succeeds(run::command("python3", &["-c", prelude])) {
            let element = ORIGINAL_ELEMENT.replace("const", constant);
            let program = format!("{prelude}\n{element}");
            let nanoseconds = run::output(run::command("python3", &["-c", &program]))?;
            let nanoseconds: f64 = nanoseconds.trim().parse().context("a number of nanoseconds")?;
            println!("{name:<44} {:>10.3} ms; numbers: {numbers}", nanoseconds * 1e-6);
        } else {
            println!("{name}: not here; numbers: {numbers}");
        }
    }
    println!("GPU: `cargo xtask bench cuda` on a machine that has one");
    Ok(())
}

/// The chain: a metagraph, signed requests, and the v1.9.0 axon, each beside Python's own in the same run.
pub(crate) fn chain() -> anyhow::Result<()> {
    let judges = judges::python(&test::target_folder()?);
    for (package, bench) in [("nicompute-chain", "metagraph"), ("nicompute-miner", "axon")] {
        let mut command =
            run::cargo(&["bench", "--locked", "--package", package, "--bench", bench]);
        for (name, judge) in &judges {
            match judge {
                Ok(python) => {
                    command.env(name, python);
                }
                Err(why) => eprintln!("xtask: MISSING REFERENCE {name}: {why}"),
            }
        }
        run::must(command)?;
    }
    Ok(())
}

/// A rental from request to prompt, its SSH, a node with many leases, and the sweep of orphans, each beside its reference.
pub(crate) fn rental(parts: &[&str]) -> anyhow::Result<()> {
    let bench = ["bench", "--locked", "--package", "nicompute-cli", "--bench", "rental", "--"];
    let mut command = run::cargo(&bench);
    command.args(parts);
    run::must(command)
}
