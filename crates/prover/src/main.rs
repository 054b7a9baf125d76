//! `nicompute-prover`: uploaded into a lease, speaks the proof's frames on standard input and output, and ends.

use std::process::ExitCode;

fn main() -> ExitCode {
    nicompute_prover::program::run()
}
