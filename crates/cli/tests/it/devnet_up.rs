//! The newcomer's first command, whole, on each runtime and as each kind of user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::world::{binary, is_root, program, skip};

/// Every step that must be in the table, in order.
const STEPS: [&str; 15] = [
    "keys",
    "chain up",
    "registered",
    "served",
    "discovered",
    "leased",
    "proved",
    "scored",
    "weights set",
    "epoch run",
    "incentive seen",
    "rented",
    "ssh answered",
    "released",
    "swept clean",
];

/// Runs `devnet up --check` and returns its table.
fn check(command: Command, runtime: &str, dir: &Path) -> String {
    check_with(command, &["--runtime", runtime], dir)
}

fn check_with(mut command: Command, options: &[&str], dir: &Path) -> String {
    command.args(["devnet", "up", "--check"]).args(options).arg("--dir").arg(dir);
    let output = command.output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{table}\n{errors}\n{}", output.status, logs(dir));
    let mut rest = &*table;
    for step in STEPS {
        let line = format!("ok  {step} ");
        let at = rest.find(&line);
        assert!(at.is_some(), "step {step} is missing or out of order:\n{table}");
        rest = &rest[at.unwrap()..];
    }
    table
}

fn logs(dir: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(dir.join("logs")).into_iter().flatten().flatten() {
        all.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
    }
    all
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("nic").tempdir_in("/tmp").unwrap()
}

/// Without this the first command of the README does not work.
#[test]
fn the_whole_market_in_the_sandbox() {
    let base = folder();
    let dir = base.path().join("m");
    let table = check(binary(), "sandbox", &dir);
    let limits = if is_root() { "limits: enforced" } else { "limits: not enforced" };
    assert!(table.contains(limits), "{table}");
    transcript_is_checked(&dir);
}

/// Subnets of the real network have commit-reveal on: a market that works only without it works nowhere else.
#[test]
fn the_whole_market_with_sealed_weights() {
    let base = folder();
    let options = ["--runtime", "sandbox", "--commit-reveal"];
    check_with(binary(), &options, &base.path().join("m"));
}

/// Most newcomers are not root; their offer must say that limits are not enforced.
#[test]
fn the_whole_market_as_a_plain_user() {
    if !is_root() {
        return skip(
            "devnet up as another user: only root can become one (this run is a plain user's already)",
        );
    }
    let base = folder();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build may lie where other users cannot look.
    let copy = base.path().join("nicompute");
    fs::copy(env!("CARGO_BIN_EXE_nicompute"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let home = base.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(1), Some(1)).unwrap();
    let mut command = program("setpriv");
    command.args(["--reuid=1", "--regid=1", "--clear-groups"]).arg(&copy);
    command.env("HOME", &home).env("TMPDIR", "/tmp").current_dir("/");
    let table = check(command, "sandbox", &home.join("m"));
    assert!(table.contains("limits: not enforced"), "{table}");
}

/// A provider with a Docker engine offers containers; the same steps must hold there.
#[test]
fn the_whole_market_in_docker() {
    let engine = std::env::var_os("NICOMPUTE_TEST_DOCKER");
    if engine.is_none() {
        return skip("devnet up in Docker: no engine (NICOMPUTE_TEST_DOCKER is not set)");
    }
    let base = folder();
    let table = check(binary(), "docker", &base.path().join("m"));
    assert!(table.contains("docker, limits: enforced"), "{table}");
}

/// The transcript that the run wrote is accepted as it is and refused after a change.
fn transcript_is_checked(dir: &Path) {
    let transcripts = dir.join("validator-1/transcripts");
    let mut files = fs::read_dir(&transcripts).unwrap();
    let file = files.next().expect("the run wrote a transcript").unwrap().path();
    let verify = |path: &Path| binary().arg("verify").arg(path).output().unwrap();
    let good = verify(&file);
    assert!(good.status.success(), "{good:?}");
    let bytes = fs::read(&file).unwrap();
    let changed_file = dir.join("changed.pog");
    let stride = (bytes.len() / 12).max(1);
    for at in (0..bytes.len()).step_by(stride) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(&changed_file, &changed).unwrap();
        let refused = verify(&changed_file);
        assert!(!refused.status.success(), "byte {at} was changed and nobody noticed");
    }
}
