//! `nicompute-prover`: uploaded into a lease, speaks the proof's frames on standard input and output, and ends.
//!
//! It takes no options, reads no configuration and opens no connection. What it writes to standard error is for a
//! person who started it by hand.

use std::io;
use std::process::ExitCode;

use nicompute_prover::{Prover, SOFTWARE, machine, stdio};

/// The other side ended or broke the session.
const EXIT_REFUSED: u8 = 3;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => session(),
        (Some("--version"), None) => say(&mut io::stdout(), SOFTWARE, ExitCode::SUCCESS),
        (Some(_), _) => {
            let usage = "usage: nicompute-prover [--version]\n\
                         speaks the frames of docs/proof.md on standard input and output";
            say(&mut io::stderr(), usage, ExitCode::from(EXIT_USAGE))
        }
    }
}

fn session() -> ExitCode {
    let mut prover = Prover::new(machine::devices());
    match stdio::run(&mut prover, io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("nicompute-prover: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            say(&mut io::stderr(), &text, ExitCode::from(EXIT_REFUSED))
        }
    }
}

/// Writes a line; where nobody reads it, the exit code alone must do.
fn say(to: &mut dyn io::Write, text: &str, code: ExitCode) -> ExitCode {
    drop(writeln!(to, "{text}").and_then(|()| to.flush()));
    code
}
