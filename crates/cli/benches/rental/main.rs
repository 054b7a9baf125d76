//! From a request to a prompt: how long a rental takes on Docker and in the sandbox, how fast its SSH is, and what a node with
//! many leases costs, each beside its reference in the same run: `docker run`, the original's build and run of the same
//! image, and OpenSSH's server in a container of the same image.
//!
//! `NICOMPUTE_TEST_ROOTFS` names the root file system of the image, with a shell and OpenSSH's server; the Docker engine is
//! the one that `docker` speaks to. What is missing is said loudly, and its lines are left out. Every count is fixed, so the
//! run ends; what it makes is removed, also when it fails.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measuring program: it prints, starts the programs that it measures, and stops at the first fault"
)]

mod docker;
mod figures;
mod many;
mod provider;
mod ssh;
#[expect(dead_code, reason = "the tests' own world, of which a part is needed here")]
#[path = "../../tests/it/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use docker::{Original, Reference};
use figures::{Figures, Target, line, median, timed, title};
use provider::{Kind, Provider};
use ssh::{Door, Way};
use world::{World, is_root};

const ROOTFS: &str = "NICOMPUTE_TEST_ROOTFS";
/// How often each way is gone; the median counts.
const ROUNDS: usize = 20;
/// The original's way is slow; half as often tells as much.
const ROUNDS_OF_ORIGINAL: usize = 10;
/// Connections at once.
const CONNECTIONS: usize = 50;
/// Bytes in one direction, and how often.
const BULK_BYTES: u64 = 256 << 20;
const BULK_ROUNDS: usize = 5;

/// A part of the measurement.
const PARTS: [&str; 4] = ["docker", "embedded", "many", "sweep"];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let Some(word) = words.iter().find(|word| !PARTS.contains(&word.as_str())) {
        eprintln!("no part is called {word}; there are {}", PARTS.join(", "));
        return ExitCode::from(2);
    }
    let wants = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    if !is_root() {
        eprintln!("SKIPPED: only root can hold tenants to their share; nothing was measured");
        return ExitCode::FAILURE;
    }
    let rootfs = std::env::var_os(ROOTFS).map(PathBuf::from).filter(|path| path.is_dir());
    let Some(rootfs) = rootfs else {
        eprintln!("SKIPPED: {ROOTFS} names no root file system; nothing was measured");
        return ExitCode::FAILURE;
    };
    let mut figures = Figures::default();
    let world = World::new();
    let reference = Reference::new(&rootfs);
    if let Err(why) = &reference {
        figures.skip(&format!("the Docker engine and everything beside it: {why}"));
    }
    let reference = reference.ok();
    if wants("docker")
        && let Some(reference) = &reference
    {
        on_docker(&mut figures, &world, reference);
    }
    if wants("embedded") {
        embedded(&mut figures, &world, &rootfs, reference.as_ref());
    }
    if wants("many") {
        many::leases(&mut figures, &world, &rootfs);
    }
    if wants("sweep") {
        many::orphans(&mut figures, &world, &rootfs);
    }
    figures.verdict();
    ExitCode::SUCCESS
}

/// A rental on the engine, beside the engine alone and the original's way to the same.
fn on_docker(figures: &mut Figures, world: &World, reference: &Reference) {
    title("Docker: request → first output of `ssh host cmd`, image present");
    let alone = median(ROUNDS, || reference.run_alone());
    line("docker run alone (reference)", alone * 1e3, "ms", "no network, as ours");
    let provider = Provider::start(world, &Kind::Docker { image: reference.image() });
    let ours = median(ROUNDS, || provider.to_first_output());
    line("lease on Docker", ours * 1e3, "ms", "");
    of_it(&provider);
    figures.target("against docker run alone", ours / alone, Target::AtMost(1.3), "times");
    let original = Original::new(reference);
    let theirs = median(ROUNDS_OF_ORIGINAL, || original.build_run_login());
    line("the original's build, run and login", theirs * 1e3, "ms", "three RUN layers, sshd");
    line("the original against ours", theirs / ours, "times", "");
    doors(figures, &provider, Some(reference));
}

/// The same without an engine.
fn embedded(figures: &mut Figures, world: &World, rootfs: &Path, reference: Option<&Reference>) {
    title("Sandbox: request → first output of `ssh host cmd`");
    let provider = Provider::start(world, &Kind::Sandbox { rootfs });
    let mut rounds = provider_rounds(&provider);
    rounds.sort_by(f64::total_cmp);
    let (middle, late) = (rounds[ROUNDS / 2], rounds[ROUNDS * 9 / 10]);
    figures.target("lease in the sandbox", middle * 1e3, Target::AtMost(100.0), "ms");
    line("the slowest tenth", late * 1e3, "ms", "");
    of_it(&provider);
    doors(figures, &provider, reference);
}

/// Where the time goes: what is neither container nor SSH are the request and what the node stores.
fn of_it(provider: &Provider) {
    if let Some(bring_up) = provider.bring_up() {
        line("of it, container and agent, by the node's log", bring_up * 1e3, "ms", "");
    }
    let lease = provider.lease();
    let ssh = median(ROUNDS, || timed(|| lease.door().first_output()).0);
    line("of it, ssh to the first output", ssh * 1e3, "ms", "");
}

fn provider_rounds(provider: &Provider) -> Vec<f64> {
    // The first pays for what all others find warm.
    provider.to_first_output();
    (0..ROUNDS).map(|_| provider.to_first_output()).collect()
}

/// What the SSH door costs, beside OpenSSH's own server in a container of the same image.
fn doors(figures: &mut Figures, provider: &Provider, reference: Option<&Reference>) {
    let lease = provider.lease();
    let ours = lease.door();
    let theirs = reference.map(Reference::sshd);
    let theirs = theirs.as_ref().map(docker::Sshd::door);
    title("`ssh host true`, connection to exit");
    let at_once = |door: &Door| median(ROUNDS, || door.true_once());
    let (us, them) = beside(ours, theirs, "ms", 1e3, at_once);
    if let Some(them) = them {
        figures.target("against sshd", us / them, Target::AtMost(0.25), "times");
    }
    title(&format!("{CONNECTIONS} connections at once, until the last has ended"));
    beside(ours, theirs, "ms", 1e3, |door| door.parallel(CONNECTIONS));
    for way in [Way::Down, Way::Up] {
        title(&format!("{} MiB {}, chacha20-poly1305", BULK_BYTES >> 20, way.words()));
        let rate = |door: &Door| median(BULK_ROUNDS, || door.bulk(way, BULK_BYTES));
        let (us, them) = beside(ours, theirs, "MB/s", 1e-6, rate);
        if let Some(them) = them {
            figures.target("against sshd", us / them, Target::AtLeast(0.8), "times");
        }
    }
    drop(lease);
}

/// Measures both in the same way.
fn beside(
    ours: &Door,
    theirs: Option<&Door>,
    unit: &str,
    scale: f64,
    measure: impl Fn(&Door) -> f64,
) -> (f64, Option<f64>) {
    let them = theirs.map(&measure);
    if let Some(them) = them {
        line("OpenSSH's sshd (reference)", them * scale, unit, "");
    }
    let us = measure(ours);
    line("the gateway", us * scale, unit, "");
    (us, them)
}
