//! The sandbox's helper alone, for tests of this crate and of its users. The product reaches the same function through a
//! hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    nicompute_host::runtime::sandbox::sandbox_main()
}
