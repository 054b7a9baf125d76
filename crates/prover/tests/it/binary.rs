//! The shipped binary as a child process, over its standard input and output.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nicompute_proof::{ProofParams, Refusal, Transcript, VerifierSession};

use crate::harness::{config, session, tiny};

#[expect(clippy::disallowed_methods, reason = "the binary under test is a program")]
fn start(argument: Option<&str>) -> Child {
    Command::new(env!("CARGO_BIN_EXE_nicompute-prover"))
        .args(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the times of a real process are real")]
fn prove(child: &mut Child, session: &mut VerifierSession) -> Result<Box<Transcript>, Refusal> {
    let began = Instant::now();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut buffer = [0; 4096];
    loop {
        let len = output.read(&mut buffer).unwrap();
        assert!(len > 0, "the prover ended early");
        let now = u64::try_from(began.elapsed().as_nanos()).unwrap();
        let answer = session.on_bytes(&buffer[..len], now)?;
        input.write_all(&answer.send).unwrap();
        if let Some(transcript) = answer.done {
            return Ok(transcript);
        }
    }
}

/// The binary that validators upload must complete the local market's profile and end by itself.
#[test]
fn the_binary_proves_the_small_profile() {
    let mut child = start(None);
    let mut session = session(config(ProofParams::small()), 0);
    let transcript = prove(&mut child, &mut session).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(transcript.measured.plot_bytes, 64 << 20);
    println!(
        "fill {} ms, {} Mop/s; walk {} ms, {} MB/s",
        transcript.measured.fill_ns / 1_000_000,
        transcript.measured.operations_per_second / 1_000_000,
        transcript.measured.walk_ns / 1_000_000,
        transcript.measured.walk_bytes_per_second / 1_000_000,
    );
}

/// A prover whose validator is gone must not stay behind and hold memory.
#[test]
fn the_binary_ends_with_its_input() {
    let mut child = start(None);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut child = start(Some("--help"));
    assert_eq!(child.wait().unwrap().code(), Some(2));
    let mut child = start(Some("--version"));
    assert!(child.wait().unwrap().success());
}

/// Noise on its input must end it with a frame and an exit code, not with a panic.
#[test]
fn the_binary_survives_noise() {
    let mut child = start(None);
    let mut input = child.stdin.take().unwrap();
    drop(input.write_all(&[0xFF; 64]));
    drop(input);
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(errors.starts_with("nicompute-prover: ") && !errors.contains("panicked"), "{errors}");
    assert!(tiny().rows() > 0);
}
