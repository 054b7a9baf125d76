//! The project's own tasks. They need nothing but cargo and what they install themselves.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task talks to the person who started it"
)]

mod bench;
mod check;
mod elf;
mod emulator;
mod judges;
mod kernels;
mod mock_nvml;
mod release;
mod rootfs;
mod run;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  check [--no-test]  formatting, lints, documentation, the house rules, and the tests
  tidy               the house rules alone
  test               installs what the tests need where it may, and runs them all
  bench proof        speed of verifier and prover, beside references of the same run
  bench chain        speed of the metagraph and of signed requests, beside Python's SDKs in the same run
  bench rental [PART…]
                     speed of a rental and its SSH, beside docker run, the original's way and OpenSSH's server in the same
                     run; parts are docker, embedded, many, sweep; needs root, and NICOMPUTE_TEST_ROOTFS as in the tests
  mock-cuda          builds the emulated kernels and the mock driver, and prints their folder
  mock-nvml          builds the stand-in of NVIDIA's management library, and prints its folder
  renting            makes the Debian system and the SSH clients of the renting tests, and prints where they are
  bench cuda [N ROWS PLOT_BYTES]
                     compares the CUDA kernels on this machine's GPU with their emulation, and times them
  kernels [--check]  builds the CUDA kernels' binary with a compiler that it fetches; --check compares it with the committed one
  prover             builds the prover of GPUs for old C libraries, and checks it
  release            builds the main program with that prover inside";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match *words {
        ["check"] => check::run(check::Tests::Run),
        ["check", "--no-test"] => check::run(check::Tests::Skip),
        ["tidy"] => tidy::run(),
        ["test"] => test::run(),
        ["bench", "proof"] => bench::proof(),
        ["bench", "chain"] => bench::chain(),
        ["bench", "rental", ref parts @ ..] => bench::rental(parts),
        ["kernels"] => kernels::build(),
        ["kernels", "--check"] => kernels::check(),
        ["bench", "cuda", ref sizes @ ..] => emulator::measure(sizes),
        ["mock-cuda"] => emulator::run(),
        ["mock-nvml"] => mock_nvml::run(),
        ["renting"] => rootfs::run(),
        ["prover"] => release::prover().map(drop),
        ["release"] => release::release(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
