//! The program `nicompute-prover`: what it does with its arguments, and how it ends.
//!
//! It takes no configuration and opens no connection. What it writes to standard error is for a person who started it by
//! hand, or who reads why a proof did not come about.

use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::machine::{Machine, look, with_causes};
use crate::prover::{Prover, SOFTWARE};
use crate::stdio;

/// The other side ended or broke the session.
const EXIT_REFUSED: u8 = 3;
const EXIT_USAGE: u8 = 2;
/// Bytes that are read at a time, and reads that may wait.
const READ_LEN: usize = 16 * 1024;
const READS_WAITING: usize = 64;
/// How long a session may go on after its input has ended. A GPU that hangs would hold its memory for ever.
const AFTER_END: Duration = Duration::from_secs(2);

const USAGE: &str = "\
usage: nicompute-prover [--devices | --version]
speaks the frames of docs/proof.md on standard input and output;
--devices lists what it would prove: kind, id, bytes, name";

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => session(),
        (Some("--version"), None) => say(&mut io::stdout(), SOFTWARE, ExitCode::SUCCESS),
        (Some("--devices"), None) => devices(),
        (Some(_), _) => say(&mut io::stderr(), USAGE, ExitCode::from(EXIT_USAGE)),
    }
}

fn devices() -> ExitCode {
    let Machine { devices, notes } = look();
    for claim in devices.iter().map(|device| device.claim()) {
        let kind = format!("{:?}", claim.kind).to_lowercase();
        let line = format!("{kind} {} {} {}", claim.id, claim.memory_bytes, claim.name);
        say(&mut io::stdout(), &line, ExitCode::SUCCESS);
    }
    for note in notes {
        say(&mut io::stderr(), &note, ExitCode::SUCCESS);
    }
    ExitCode::SUCCESS
}

fn session() -> ExitCode {
    let Machine { devices, notes } = look();
    for note in notes {
        say(&mut io::stderr(), &format!("nicompute-prover: {note}"), ExitCode::SUCCESS);
    }
    let (ended, end) = sync_channel(0);
    let mut prover = Prover::new(devices);
    let outcome = stdio::run(&mut prover, watched_input(end), io::stdout().lock());
    drop(ended);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("nicompute-prover: {}", with_causes(&error));
            say(&mut io::stderr(), &text, ExitCode::from(EXIT_REFUSED))
        }
    }
}

/// Standard input, read by a thread of its own: where it ends while a device is busy, or hangs, the session has a moment to
/// end by itself, and then the process does.
fn watched_input(end: Receiver<()>) -> Input {
    let (sender, receiver) = sync_channel(READS_WAITING);
    thread::spawn(move || {
        pass_on(&sender);
        drop(sender);
        // Nothing is ever sent: the session is over, or the time is.
        if end.recv_timeout(AFTER_END) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let text = "nicompute-prover: the session was given up while a device was busy";
            say(&mut io::stderr(), text, ExitCode::SUCCESS);
            #[expect(clippy::exit, reason = "the thread that could return waits for a device")]
            std::process::exit(i32::from(EXIT_REFUSED));
        }
    });
    Input { receiver, rest: Vec::new() }
}

fn pass_on(sender: &SyncSender<Vec<u8>>) {
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; READ_LEN];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) if sender.send(buffer[..len].to_vec()).is_err() => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

struct Input {
    receiver: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Read for Input {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            // The other end is dropped when the input has ended.
            self.rest = self.receiver.recv().unwrap_or_default();
        }
        let len = self.rest.len().min(to.len());
        for (to, from) in to.iter_mut().zip(self.rest.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }
}

/// Writes a line; where nobody reads it, the exit code alone must do.
fn say(to: &mut dyn io::Write, text: &str, code: ExitCode) -> ExitCode {
    drop(writeln!(to, "{text}").and_then(|()| to.flush()));
    code
}
