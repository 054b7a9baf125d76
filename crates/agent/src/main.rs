//! `nicompute-agent`: see the library for what it is.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use nicompute_agent::{Mode, USAGE, parse, run, serve_sftp};

fn main() -> ExitCode {
    let mode = match parse(std::env::args_os().skip(1)) {
        Ok(mode) => mode,
        Err(error) => return complain(&format!("{error}\n{USAGE}"), 2),
    };
    match mode {
        Mode::Help => complain(USAGE, 0),
        Mode::Sftp => match sftp() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&format!("file transfer: {error}"), 1),
        },
        Mode::Supervise(options) => match run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let cause = std::error::Error::source(&error);
                complain(
                    &format!("{error}: {}", cause.map(ToString::to_string).unwrap_or_default()),
                    1,
                )
            }
        },
    }
}

/// Standard input and output as plain files: the library's own would cut the packets at line ends.
fn sftp() -> io::Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    serve_sftp(&mut input, &mut output)
}

#[expect(clippy::print_stderr, reason = "process 1 of a container has no other log")]
fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("nicompute-agent: {text}");
    ExitCode::from(code)
}
