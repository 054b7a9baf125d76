//! How many signed requests a node takes: verified on one core, and answered over HTTP by a process of its own, each beside
//! the bare signature check and beside Python's `bittensor` 9.0.0 in the same run.
//!
//! `NICOMPUTE_TEST_PY9` names the Python; without it its lines say so. Every count is fixed, so the run ends.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: it prints, starts the processes that it measures, and stops at the first fault"
)]

mod load;
mod node;
mod verify;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nicompute_daemon::SystemClock;
use nicompute_keys::{Keypair, Scheme};
use serde_json::Value;

/// The only argument: be the node that is measured.
const SERVE: &str = "serve";
const PYTHON: &str = "NICOMPUTE_TEST_PY9";
/// Requests over HTTP, on all connections together. Python's axon answers about 14 in a second.
const REQUESTS: usize = 8_000;
const REQUESTS_OF_PYTHON: usize = 64;

/// A server in a process of its own, ended with the measurement.
struct Server {
    child: Child,
    address: SocketAddr,
}

fn main() {
    if std::env::args().any(|argument| argument == SERVE) {
        node::serve();
        return;
    }
    let python = std::env::var_os(PYTHON).map(PathBuf::from).filter(|path| path.exists());
    println!("requests verified on one core, best of three");
    let raw = verify::raw();
    line("sr25519 signature alone (reference)", raw, "/s", "");
    for (name, rate) in [("axon request", verify::axon()), ("btauth/1 request", verify::btauth())] {
        line(name, rate, "/s", &format!("{:.0} % of the signature alone", 100.0 * rate / raw));
    }
    match &python {
        Some(python) => python_verifies(python),
        None => println!("Python's bittensor: not here ({PYTHON} names none)"),
    }
    println!("requests over HTTP, 8 connections, client on the same machine");
    let door = over_http("axon door, /Allocate check", &Server::ours(), REQUESTS, load::axon);
    over_http("btauth/1, GET /v1/offers", &Server::ours(), REQUESTS, load::btauth);
    if let Some(python) = &python {
        let server = Server::pythons(python);
        let theirs =
            over_http("Python's axon 9.0.0, /Allocate", &server, REQUESTS_OF_PYTHON, load::axon);
        line("axon door against Python's axon", door / theirs, " times", "");
    }
}

/// One figure.
fn line(name: &str, figure: f64, unit: &str, note: &str) {
    let note = if note.is_empty() { String::new() } else { format!("; {note}") };
    println!("{name:<44} {figure:>10.1}{unit}{note}");
}

fn over_http(name: &str, server: &Server, count: usize, make: load::Make) -> f64 {
    let before = memory_mib(server.child.id());
    let rate = load::run(server.address, count, make);
    let after = memory_mib(server.child.id());
    line(
        name,
        rate,
        "/s",
        &format!("{before:.1} MiB before, {after:.1} MiB after {count} requests"),
    );
    rate
}

/// What the process holds in memory.
fn memory_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

fn python_verifies(python: &Path) {
    let told = Command::new(python)
        .arg(judges().join("axon9_bench.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    let told: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap();
    line("Python's signature alone (reference)", told["signature"].as_f64().unwrap(), "/s", "");
    line("Python's axon request (9.0.0)", told["request"].as_f64().unwrap(), "/s", "");
}

fn judges() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/judges")
}

impl Server {
    fn ours() -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()).arg(SERVE))
    }

    fn pythons(python: &Path) -> Self {
        let mut command = Command::new(python);
        let command = command.arg(judges().join("axon9_axon.py"));
        Self::start(command.env("PYTHONDONTWRITEBYTECODE", "1").stderr(Stdio::null()))
    }

    /// Starts a server that says its port on a line of JSON.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| serde_json::from_str::<Value>(&line).ok()?["port"].as_u64());
        let port = u16::try_from(port.expect("the server says its port")).unwrap();
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn key(uri: &str) -> Keypair {
    Keypair::from_uri(uri, Scheme::Sr25519).unwrap()
}

/// How many of these are done in a second, best of three rounds.
fn per_second<T>(count: usize, mut round: impl FnMut() -> Vec<T>) -> f64 {
    let clock = SystemClock::shared();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let began = clock.monotonic();
        assert_eq!(round().len(), count, "everything was accepted");
        best = best.min(clock.monotonic().saturating_sub(began).as_secs_f64());
    }
    f64::from(u32::try_from(count).unwrap()) / best
}
