//! How long a metagraph of 256 neurons takes, asked and decoded over loopback, beside Python's SDK 10 on the same chain in the
//! same run.
//!
//! `NICOMPUTE_TEST_PY10` names the Python; without it its lines say so. Every count is fixed, so the run ends.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: it prints, reads the clock, starts its reference, and stops at the first fault"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nicompute_chain::Chain;
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::{Devnet, DevnetConfig, Genesis, SubnetGenesis};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Netuid, Rao};

const PYTHON: &str = "NICOMPUTE_TEST_PY10";
const NETUID: Netuid = Netuid(27);
/// A full subnet.
const NEURONS: usize = 256;
const VALIDATORS: usize = 16;
const ROUNDS: usize = 50;
const ROUNDS_OF_PYTHON: usize = 10;
const COIN: u64 = 1_000_000_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, tasks) = (SystemClock::shared(), Tasks::new());
    let devnet = Devnet::start(config(folder.path()), clock.clone(), &tasks).await.unwrap();
    let url = devnet.ws_url();
    let chain = Chain::connect(&url, clock, &tasks).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let graph = chain.metagraph(NETUID).await.unwrap();
        times.push(began.elapsed());
        assert_eq!(graph.neurons.len(), NEURONS);
    }
    let ours = line("metagraph of 256 neurons", &mut times, "");
    match std::env::var_os(PYTHON).map(PathBuf::from).filter(|path| path.exists()) {
        Some(python) => {
            for what in ["get_metagraph_info", "metagraph"] {
                let mut times = pythons(&python, &url, what);
                let name = format!("Python SDK 10, {what} (reference)");
                let theirs = line(&name, &mut times, "");
                println!("  ours is {:.0} times faster", theirs.as_secs_f64() / ours.as_secs_f64());
            }
        }
        None => println!("Python's bittensor: not here ({PYTHON} names none)"),
    }
    tasks.shutdown(Duration::from_secs(10)).await;
}

fn config(folder: &Path) -> DevnetConfig {
    let owner = Keypair::generate(Scheme::Sr25519);
    let hotkeys: Vec<_> =
        (0..NEURONS).map(|_| Keypair::generate(Scheme::Sr25519).hotkey()).collect();
    let (validators, miners) = hotkeys.split_at(VALIDATORS);
    let first = validators.first().unwrap();
    let mut subnet = SubnetGenesis::new(NETUID, owner.coldkey(), *first);
    let coldkey = owner.coldkey();
    subnet.validators = validators.iter().map(|key| (*key, coldkey, Rao(1_000 * COIN))).collect();
    subnet.miners = miners.iter().map(|key| (*key, coldkey)).collect();
    let genesis = Genesis { subnets: vec![subnet], ..Genesis::default() };
    let mut config = DevnetConfig::new(folder.join("chain"), genesis);
    config.listen = ([127, 0, 0, 1], 0).into();
    config.block_time = Duration::from_secs(12);
    config
}

/// The times of the SDK's own method, measured by its own clock.
fn pythons(python: &Path, url: &str, what: &str) -> Vec<Duration> {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/judges/metagraph_times.py");
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(python)
        .arg(script)
        .args([url, &NETUID.to_string(), what, &ROUNDS_OF_PYTHON.to_string()])
        .env("HOME", home.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap();
    last.split_whitespace().map(|nanos| Duration::from_nanos(nanos.parse().unwrap())).collect()
}

/// Prints best and median, and returns the median.
fn line(name: &str, times: &mut [Duration], remark: &str) -> Duration {
    times.sort_unstable();
    let (best, median) = (*times.first().unwrap(), *times.get(times.len() / 2).unwrap());
    let (best_ms, median_ms) = (best.as_secs_f64() * 1e3, median.as_secs_f64() * 1e3);
    println!("{name:<50} best {best_ms:>9.2} ms, median {median_ms:>9.2} ms{remark}");
    median
}
