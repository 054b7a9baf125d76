//! What a person types wrongly: a clear error, a remedy, and nothing changed.

use std::fs;
use std::net::TcpListener;
use std::process::Output;

use crate::world::{World, binary};

/// The command failed, said `what`, and gave a hint.
fn refused(output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{what}: it succeeded");
    assert!(said.contains(what), "{what:?} is not in: {said}");
    assert!(said.contains("hint: "), "{what}: no remedy in: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
}

/// A mistyped word must not make a key that nobody can restore.
#[test]
fn a_wrong_mnemonic_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let phrase = dir.path().join("phrase");
    fs::write(&phrase, "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon").unwrap();
    let wallets = dir.path().join("wallets");
    let mut command = binary();
    command.args(["wallet", "regen-hotkey", "--wallet.path"]).arg(&wallets);
    command.arg("--mnemonic-file").arg(&phrase);
    refused(&command.output().unwrap(), "checksum");
    assert!(!wallets.join("default/hotkeys/default").exists());
}

/// Daemons that cannot work must say so at once, with the remedy, and leave the machine as it was.
#[test]
fn daemons_refuse_what_cannot_work() {
    let world = World::new();
    let mut miner = world.start_miner(&[]);
    let ready = miner.ready();

    // A second node on the same state folder.
    let mut second = world.start_miner_again();
    second.wait_for_end();
    let log = second.log();
    assert!(log.contains("used by another") && log.contains("hint: "), "{log}");

    // The port of the node API is taken.
    let taken = TcpListener::bind("127.0.0.3:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut other = world.start_other_miner(&["--axon.port", &port]);
    other.wait_for_end();
    let log = other.log();
    assert!(log.contains("--axon.port") && log.contains("hint: "), "{log}");

    // A hotkey that is on no subnet.
    let mut stranger = world.start_stranger();
    stranger.wait_for_end();
    let log = stranger.log();
    assert!(log.contains("not registered") && log.contains("nicompute register"), "{log}");

    // The first node never noticed.
    assert_eq!(miner.ready(), ready);
    miner.stop();
}

/// A chain that is not there is not the caller's mistake: exit code 4.
#[test]
fn a_chain_that_is_gone() {
    let world = World::new();
    let mut command = binary();
    command.args(["register", "--burn-max", "1", "--subtensor.chain_endpoint", "ws://127.0.0.1:1"]);
    command
        .arg("--wallet.path")
        .arg(world.dir.path().join("wallets"))
        .args(["--wallet.name", "miner"]);
    let output = command.output().unwrap();
    refused(&output, "ws://127.0.0.1:1");
    assert_eq!(output.status.code(), Some(4));
}

/// A mistyped image, pattern, size or class would be another offer than the operator meant, or none at all in silence.
#[test]
fn a_nodes_images_are_checked() {
    for (flag, bad, what) in [
        ("--image", "../x", "not an image's name"),
        ("--image", "box:$(id)", "not an image's name"),
        ("--image.allow", "*", "not an image pattern"),
        ("--image.allow", "ghcr.io/a*", "not an image pattern"),
        ("--image.space", "50GB", "expected a size"),
        ("--image.keep_free", "-1", "--image.keep_free"),
        ("--runtime.class", "runc", "unknown runtime class"),
    ] {
        let output = binary().arg("miner").arg(format!("{flag}={bad}")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flag} {bad}: {said}");
        assert!(said.contains(what), "{flag} {bad}: {said}");
    }
    let world = World::new();
    let mut miner = world.start_provider(&["--runtime", "docker"]);
    miner.wait_for_end();
    let log = miner.log();
    let no_engine = log.contains("tenants cannot be run here");
    assert!(no_engine || log.contains("no image can be leased"), "{log}");
    assert!(no_engine || log.contains("--image.allow"), "{log}");
    assert!(log.contains("hint: "), "{log}");
}
