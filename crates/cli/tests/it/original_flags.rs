//! The start scripts of the original, with this program in their place.

use crate::world::{World, binary};

/// An operator who moves here keeps the flags of the start script: they must mean what they meant.
#[test]
fn daemons_start_with_the_flags_of_the_original() {
    let world = World::new();
    let mut miner = world.start_miner(&[
        "--wallet.hotkey",
        "default",
        "--subtensor.network",
        "finney",
        "--logging.debug",
        "--axon.external_ip",
        "127.0.0.2",
        "--axon.external_port",
        "18091",
    ]);
    let mut validator = world.start_validator_with(&[
        "--wallet.hotkey",
        "default",
        "--subtensor.network",
        "finney",
        "--logging.debug",
    ]);
    assert_eq!(miner.ready()["axon"], "127.0.0.2:18091");
    validator.ready();
    assert!(miner.log().contains("DEBUG"), "--logging.debug was taken and ignored");
    validator.stop();
    miner.stop();
}

/// A flag that is taken and does nothing lets an operator believe that something is on.
#[test]
fn flags_without_meaning_are_refused() {
    for (daemon, flag) in [
        ("miner", "--auto_update"),
        ("miner", "--axon.max_workers=10"),
        ("miner", "--logging.record_log"),
        ("validator", "--validator.perform.hardware.query"),
        ("validator", "--no_version_checking"),
    ] {
        let output = binary().args([daemon, "--netuid", "27", flag]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
        assert!(said.contains("does nothing here") && said.contains("hint: "), "{flag}: {said}");
    }
}

/// The preferred node is down as often as not: the next one of the list must do.
#[test]
fn the_next_endpoint_of_a_list_is_used() {
    let world = World::new();
    let list = format!("ws://127.0.0.1:1,{}", world.ws);
    let read = |endpoint: &str| {
        let mut command = binary();
        command.args(["subnet", "list", "--json", "--subtensor.chain_endpoint", endpoint]);
        command.output().unwrap()
    };
    let found = read(&list);
    assert!(found.status.success(), "{found:?}");
    let by_host = world.ws.trim_start_matches("ws://").trim_end_matches('/');
    assert!(read(by_host).status.success(), "HOST:PORT is no endpoint");
    for (bad, code) in [("nowhere", 78), ("http://127.0.0.1:9944", 78), ("ws://127.0.0.1:1", 4)] {
        let refused = read(bad);
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("hint: "), "{refused:?}");
    }
}
