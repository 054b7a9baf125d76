//! The command line. Nothing else configures the agent.

use std::ffi::OsString;
use std::path::PathBuf;

/// How to call it.
pub const USAGE: &str = "usage: nicompute-agent --socket PATH [--no-seccomp] | --sftp";

/// What the process is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Process 1 of a container.
    Supervise(Options),
    /// The file transfer subsystem on standard input and output; the agent starts itself so.
    Sftp,
    /// Say how to call it.
    Help,
}

/// How to supervise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The gateway's socket.
    pub socket: PathBuf,
    /// Whether to give up the dangerous system calls first.
    pub seccomp: bool,
}

/// Why a command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseArgsError {
    /// An option that does not exist.
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    /// `--socket` at the end.
    #[error("--socket needs a path")]
    NoPath,
    /// Neither `--socket` nor `--sftp`.
    #[error("--socket is required")]
    NoSocket,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// When they do not say what to do.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Mode, ParseArgsError> {
    let mut socket = None;
    let mut seccomp = true;
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--socket") => {
                socket = Some(PathBuf::from(args.next().ok_or(ParseArgsError::NoPath)?));
            }
            Some("--no-seccomp") => seccomp = false,
            Some("--sftp") => return Ok(Mode::Sftp),
            Some("--help" | "-h") => return Ok(Mode::Help),
            Some(_) | None => return Err(ParseArgsError::Unknown(arg)),
        }
    }
    let socket = socket.ok_or(ParseArgsError::NoSocket)?;
    Ok(Mode::Supervise(Options { socket, seccomp }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Mode, ParseArgsError> {
        parse(text.split_whitespace().map(OsString::from))
    }

    /// A container whose first process misreads its command line is a lease that nobody can enter.
    #[test]
    fn command_lines() {
        let socket = PathBuf::from("/s");
        assert_eq!(
            of("--socket /s"),
            Ok(Mode::Supervise(Options { socket: socket.clone(), seccomp: true }))
        );
        assert_eq!(
            of("--no-seccomp --socket /s"),
            Ok(Mode::Supervise(Options { socket, seccomp: false }))
        );
        assert_eq!(of("--sftp"), Ok(Mode::Sftp));
        assert_eq!(of(""), Err(ParseArgsError::NoSocket));
        assert_eq!(of("--socket"), Err(ParseArgsError::NoPath));
        assert_eq!(of("--sock x"), Err(ParseArgsError::Unknown("--sock".into())));
    }
}
