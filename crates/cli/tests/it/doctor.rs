//! `nicompute doctor`, on machines as they are and as a stand-in of the driver's library makes them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

use std::fs;
use std::path::{Path, PathBuf};

use nicompute_keys::wallet::WalletPath;
use serde_json::Value;

use crate::world::{World, binary, skip};

/// The finding lines of one check.
fn of<'a>(document: &'a Value, check: &str) -> Vec<&'a Value> {
    let findings = document["findings"].as_array().unwrap();
    findings.iter().filter(|finding| finding["check"] == check).collect()
}

fn levels(document: &Value, check: &str) -> Vec<String> {
    of(document, check).iter().map(|f| f["level"].as_str().unwrap().to_owned()).collect()
}

/// Runs the doctor and reads its document; the exit code must say what the document says.
fn examine(words: &[&str], libraries: Option<&Path>) -> (Value, String) {
    let mut command = binary();
    command.args(["doctor", "--json"]).args(words);
    if let Some(folder) = libraries {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr))
    });
    let is_ill = document["errors"] != 0;
    assert_eq!(output.status.code(), Some(i32::from(is_ill)), "{text}");
    for finding in document["findings"].as_array().unwrap() {
        if finding["level"] == "error" {
            assert!(
                finding["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
                "{finding}"
            );
        }
    }
    (document, text + &String::from_utf8_lossy(&output.stderr))
}

/// A folder with a stand-in of the driver's library that tells of these GPUs.
fn mock(gpus: &str) -> Option<tempfile::TempDir> {
    #[expect(clippy::disallowed_methods, reason = "the gate names the judges in the environment")]
    let folder = std::env::var("NICOMPUTE_TEST_MOCK_NVML").ok().map(PathBuf::from);
    let Some(folder) = folder else {
        skip("NICOMPUTE_TEST_MOCK_NVML names no folder with a stand-in of NVIDIA's library");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::copy(folder.join("libnvidia-ml.so.1"), dir.path().join("libnvidia-ml.so.1")).unwrap();
    let text = format!("driver\tversion=550.54.15\tcuda=12040\n{gpus}");
    fs::write(dir.path().join("gpus.txt"), text).unwrap();
    Some(dir)
}

/// A provider would buy a card, wait for tenants, and never learn that the driver or the card is broken.
#[test]
fn gpus_are_judged_one_by_one() {
    let gpus = "gpu\tuuid=GPU-well\tname=NVIDIA Test\tmemory=85899345920\tminor=0\n\
                gpu\tuuid=GPU-ill\tname=evil\u{1b}[2J\tmemory=1\tminor=1\tecc=0,7\n\
                gpu\tuuid=GPU-gone\tname=x\tmemory=1\terror=15\n\
                gpu\tuuid=GPU-hot\tname=y\tmemory=1\tthrottle=64\n";
    let Some(libraries) = mock(gpus) else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let words = ["--offline", "--state-dir", &at, "--wallet.path", &at];
    let (document, text) = examine(&words, Some(libraries.path()));
    assert_eq!(levels(&document, "gpu.driver"), ["ok"]);
    assert_eq!(levels(&document, "gpu.device"), ["ok", "error", "warning", "error"], "{text}");
    let specs = levels(&document, "gpu.cdi");
    assert!(specs.len() >= 3, "{text}");
    assert_eq!(levels(&document, "wallet"), ["error"], "there is none: {text}");
    assert!(!text.contains('\u{1b}'), "a card's name moves no cursor");
    assert!(of(&document, "chain")[0]["level"] == "skipped");
    fs::write(libraries.path().join("gpus.txt"), "init\terror=9\n").unwrap();
    let (document, _) = examine(&words, Some(libraries.path()));
    assert_eq!(levels(&document, "gpu.driver"), ["error"]);
    assert_eq!(levels(&document, "gpu.cdi"), ["skipped"]);
}

/// A doctor that prints keys, or leaves files behind, is an illness itself.
#[test]
fn nothing_secret_is_shown_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let wallet = WalletPath::new(&dir.path().join("wallets"), "default").unwrap();
    let pair = nicompute_keys::Keypair::generate(nicompute_keys::Scheme::Sr25519);
    let existing = nicompute_keys::Existing::Refuse;
    wallet.write_hotkey("default", &pair, None, existing).unwrap();
    wallet.write_coldkey(&pair, None, existing).unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let (wallets, at) = (dir.path().join("wallets"), state.display().to_string());
    let words = ["--offline", "--state-dir", &at, "--wallet.path", wallets.to_str().unwrap()];
    let (document, text) = examine(&words, None);
    let hotkey = of(&document, "wallet")[0]["reason"].as_str().unwrap().to_owned();
    assert!(hotkey.contains(&pair.hotkey().to_string()), "{hotkey}");
    let coldkey_warned = of(&document, "wallet")
        .iter()
        .any(|finding| finding["reason"].as_str().is_some_and(|reason| reason.contains("coldkey")));
    assert!(coldkey_warned, "{text}");
    let file = fs::read_to_string(wallet.hotkey_file("default").unwrap()).unwrap();
    let secrets: Value = serde_json::from_str(&file).unwrap();
    for field in ["secretPhrase", "secretSeed", "privateKey"] {
        let Some(secret) = secrets[field].as_str().filter(|secret| secret.len() > 8) else {
            continue;
        };
        assert!(!text.contains(secret.trim_start_matches("0x")), "{field} is shown");
    }
    let left: Vec<_> =
        fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    for check in ["disk.free", "disk.state", "disk.speed", "system.cgroups", "programs"] {
        assert_eq!(of(&document, check).len().min(1), 1, "{check}: {text}");
    }
    let page = binary().args(["doctor"]).args(words).output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.lines().last().unwrap().ends_with("warnings"), "{page}");
}

/// Whether others reach the machine is the one thing that it cannot find out by itself.
#[test]
fn another_node_tries_the_ports() {
    let world = World::new();
    let mut node = world.start_miner(&[]);
    let at = node.ready()["axon"].as_str().unwrap().to_owned();
    let free = || std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let ports = [free().to_string(), free().to_string()];
    let from = format!("{}@{at}", world.miner.hotkey());
    let wallets = world.dir.path().join("wallets").display().to_string();
    let state = world.dir.path().join("doctor").display().to_string();
    let words = [
        "--from",
        &from,
        "--axon.port",
        &ports[0],
        "--ssh.port",
        &ports[1],
        "--wallet.name",
        "validator",
        "--wallet.path",
        &wallets,
        "--subtensor.chain_endpoint",
        &world.ws,
        "--state-dir",
        &state,
        "--prove",
    ];
    let (document, text) = examine(&words, None);
    assert_eq!(levels(&document, "ports"), ["ok", "ok"], "{text}");
    assert_eq!(levels(&document, "chain"), ["ok"], "{text}");
    assert_eq!(levels(&document, "chain.hotkey"), ["ok"], "{text}");
    assert_eq!(levels(&document, "clock"), ["ok"], "{text}");
    assert_eq!(levels(&document, "proof"), ["ok"], "{text}");
    let mut again: Vec<&str> = words[..words.len() - 1].to_vec();
    again[1] = "nobody";
    let (document, _) = examine(&again, None);
    assert_eq!(levels(&document, "ports"), ["error"]);
    node.stop();
}
