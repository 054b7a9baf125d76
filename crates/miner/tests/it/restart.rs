//! What is left of leases when the node dies or is stopped, and what the next one makes of it.

use std::time::Duration;

use nicompute_host::runtime::Presence;
use nicompute_miner::{ApiLimits, MinerConfig, OnShutdown, StartError};
use serde_json::json;

use crate::http::PATIENCE;
use crate::world::{OTHER_KEY, World, ask, id, key, path};

/// A renter must not notice that the provider's node was killed and started again.
#[tokio::test]
async fn a_running_lease_is_adopted() {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    let pid = world.machine.containers()[0].1.init_pid();
    node.kill().await;
    assert_eq!(world.machine.containers().len(), 1);
    let node = world.start().await;
    let reopened = async {
        while node.routes.of(id(1)).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.unwrap();
    let route = node.routes.of(id(1)).unwrap();
    assert_eq!((route.init_pid, world.machine.containers()[0].1.init_pid()), (pid, pid));
    assert_eq!(node.until(1, "running").await, before);
    assert!(!node.is_available().await);
    node.send("//Validator", "DELETE", &path(1), b"").await;
    node.until(1, "ended").await;
    assert!(world.machine.containers().is_empty());
}

/// What was asked for while the node was down, or just before it died, must be done by the next one.
#[tokio::test]
async fn what_was_stored_is_carried_out_later() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    // The machine refuses everything, so that intents are stored and nothing is done.
    world.machine.fail_next(u32::MAX);
    assert_eq!(
        node.post("//Validator", &format!("{}/pause", path(1)), &json!({})).await.status,
        200
    );
    node.kill().await;
    world.machine.fail_next(0);
    let node = world.start().await;
    node.until(1, "paused").await;
    let frozen = async {
        while !matches!(world.machine.containers()[0].1, Presence::Paused { .. }) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, frozen).await.unwrap();
    world.machine.fail_next(u32::MAX);
    assert_eq!(node.send("//Validator", "DELETE", &path(1), b"").await.status, 200);
    node.kill().await;
    world.machine.fail_next(0);
    world.clock.advance(Duration::from_secs(1));
    let node = world.start().await;
    let ended = node.until(1, "ended").await;
    assert_eq!(ended.reason.as_deref(), Some("released"));
    assert!(world.machine.containers().is_empty());
}

/// A lease whose time was over while the node was down must end at the next start.
#[tokio::test]
async fn a_lease_that_ran_out_meanwhile_ends() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    node.kill().await;
    world.clock.advance(Duration::from_secs(3601));
    let node = world.start().await;
    assert_eq!(node.until(1, "ended").await.reason.as_deref(), Some("expired"));
    assert!(world.machine.containers().is_empty());
}

/// A stop with Ctrl-C must leave nothing behind where the operator wants that, and everything where not.
#[tokio::test]
async fn a_stop_ends_or_keeps_the_leases() {
    let world = World::new();
    let config = MinerConfig { on_shutdown: OnShutdown::EndLeases, ..world.config() };
    let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
    node.running(1).await;
    let (miner, tasks) = (node.miner, node.tasks);
    miner.shutdown().await;
    assert!(tasks.shutdown(PATIENCE).await);
    assert!(world.machine.containers().is_empty());
    let node = world.start().await;
    assert_eq!(node.until(1, "ended").await.reason.as_deref(), Some("provider"));
    node.running(2).await;
    let (miner, tasks) = (node.miner, node.tasks);
    miner.shutdown().await;
    assert!(tasks.shutdown(PATIENCE).await);
    assert_eq!(world.machine.containers().len(), 1);
    let node = world.start().await;
    node.until(2, "running").await;
}

/// A container that went away by itself is no lease any more, and its holder must be told.
#[tokio::test]
async fn a_lost_container_ends_its_lease() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    node.kill().await;
    // The machine was reinstalled while the node was down.
    let emptied = World { machine: nicompute_host::runtime::FakeMachine::new(), ..world };
    let node = emptied.start().await;
    assert_eq!(node.until(1, "ended").await.reason.as_deref(), Some("lost"));
    assert!(node.is_available().await);
}

/// Two nodes on one directory, or another wallet on it, would fight over the same containers.
#[tokio::test]
async fn a_state_directory_has_one_node_and_one_hotkey() {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    let second = world.start_with(world.config(), ApiLimits::standard()).await;
    let Err(refused) = second else { panic!("two nodes on one directory") };
    assert!(matches!(refused, StartError::StateDir(_)), "{refused}");
    assert!(refused.remedy().unwrap().contains("--state-dir"));
    assert_eq!(node.until(1, "running").await, before);
    node.kill().await;
    let config = MinerConfig { hotkey: key("//Other"), ..world.config() };
    let Err(refused) = world.start_with(config, ApiLimits::standard()).await else {
        panic!("another hotkey on the same directory")
    };
    assert!(matches!(refused, StartError::Store(_)), "{refused}");
    assert!(refused.remedy().is_some());
    world.start().await.until(1, "running").await;
}

/// Keys that were replaced while the gateway was down must be the only ones that enter afterwards.
#[tokio::test]
async fn replaced_keys_survive_a_restart() {
    let world = World::new();
    let node = world.start().await;
    let mut request = ask(1);
    request["ssh_keys"] = json!([crate::world::KEY]);
    node.post("//Validator", "/v1/leases", &request).await;
    node.until(1, "running").await;
    let keys = json!({ "ssh_keys": [OTHER_KEY] });
    assert_eq!(node.post("//Validator", &format!("{}/keys", path(1)), &keys).await.status, 200);
    node.kill().await;
    let node = world.start().await;
    let reopened = async {
        while node.routes.of(id(1)).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.unwrap();
    assert_eq!(node.routes.of(id(1)).unwrap().keys, [OTHER_KEY]);
}
