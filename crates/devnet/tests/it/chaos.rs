//! Faults on command, as clients see them.

use std::time::Duration;

use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::WsClientBuilder;
use nicompute_devnet::{
    Answers, Change, Chaos, ChaosError, Control, ControlError, DevnetConfig, STALL_MS_MAX,
    StartError,
};
use serde_json::{Value, json};

use crate::harness::{LIMIT, Up, burned_register, config, key, start};

async fn lagging(dir: &std::path::Path) -> Up {
    start(DevnetConfig { finality_lag: 4, ..config(dir) }).await.expect("a devnet")
}

async fn subscribe(up: &Up, what: &str) -> Subscription<Value> {
    let (subscribe, unsubscribe) =
        (format!("chain_subscribe{what}Heads"), format!("chain_unsubscribe{what}Heads"));
    up.client.subscribe(&subscribe, rpc_params![], &unsubscribe).await.expect("a subscription")
}

async fn next(heads: &mut Subscription<Value>) -> u64 {
    let head = tokio::time::timeout(LIMIT, heads.next()).await.expect("a head in time");
    let head = head.expect("an open subscription").expect("a head");
    let number = head["number"].as_str().and_then(|text| text.strip_prefix("0x"));
    u64::from_str_radix(number.expect("hex"), 16).expect("a number")
}

/// A client that follows finalised heads must never see one twice, and one that follows the best ones must see the fork.
#[tokio::test]
async fn a_fork_shows_in_the_heads_and_never_in_the_final_ones() {
    let dir = tempfile::tempdir().unwrap();
    let up = lagging(dir.path()).await;
    up.wait_for_block(8).await;
    let mut last = subscribe(&up, "Finalized").await;
    let mut all = subscribe(&up, "All").await;
    let (mut seen_all, mut seen_final) = (vec![next(&mut all).await], vec![next(&mut last).await]);
    let params = json!({ "fork": { "depth": 4, "drop": true } });
    let done = up.ask("devnet_chaos", vec![params]).await;
    let longer = done["block"].as_u64().unwrap();
    let hash = up.ask("chain_getBlockHash", vec![json!(longer)]).await;
    assert_eq!(hash, done["hash"]);
    while seen_all.last() < Some(&longer) || seen_all.len() < 6 {
        seen_all.push(next(&mut all).await);
    }
    let went_back = seen_all.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    assert_eq!(went_back, 1, "{seen_all:?}");
    while seen_final.len() < 8 {
        seen_final.push(next(&mut last).await);
    }
    assert!(seen_final.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen_final:?}");
    let head = up.ask("chain_getFinalizedHead", vec![]).await;
    let header = up.ask("chain_getHeader", vec![head]).await;
    assert!(header["number"].is_string());
}

/// A fork, a stall or an order that the chain's own limits forbid must be refused with the reason.
#[tokio::test]
async fn impossible_faults_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    up.wait_for_block(2).await;
    let deep = up.devnet.chaos(Chaos::Fork { depth: 1, drop: false }).await;
    assert!(matches!(deep, Err(ChaosError::TooDeep { depth: 1, lag: 0 })), "{deep:?}");
    let long = Chaos::Stall { ms: STALL_MS_MAX + 1, answers: Answers::Given };
    assert!(matches!(up.devnet.chaos(long).await, Err(ChaosError::TooLong(_))));
    for bad in [json!("explode"), json!({ "fork": {} }), json!({ "stall": { "ms": -1 } }), json!(7)]
    {
        assert!(up.client.request::<Value, _>("devnet_chaos", vec![bad]).await.is_err());
    }
    let other = tempfile::tempdir().unwrap();
    let lazy = start(DevnetConfig { finality_lag: 65, ..config(other.path()) }).await.err();
    assert!(matches!(lazy, Some(StartError::FinalityLag(65))));
}

/// A stall that still makes blocks, or that closes connections, tests nothing.
#[tokio::test]
async fn a_stalled_chain_makes_no_block_and_may_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    up.wait_for_block(2).await;
    let stall = |answers| Chaos::Stall { ms: 1_500, answers };
    let at = up.devnet.chaos(stall(Answers::Given)).await.unwrap().block;
    assert_eq!(up.ask("system_name", vec![]).await, json!("nicompute-devnet"));
    assert_eq!(up.devnet.head(), at);
    up.wait_for_block(at + 2).await;
    let at = up.devnet.chaos(stall(Answers::Withheld)).await.unwrap().block;
    // The answer comes over the same connection when the stall is over, and by then blocks are made again.
    let asked = tokio::time::timeout(LIMIT, up.ask("system_name", vec![]));
    let dumped = up.ask("devnet_dump", vec![]);
    let (answer, dump) = tokio::join!(asked, dumped);
    assert_eq!(answer.expect("an answer"), json!("nicompute-devnet"));
    assert_eq!(dump["best"], json!(at), "the dump is not held back");
    up.wait_for_block(at + 1).await;
}

/// A restart must look like one: connections end, the chain goes on, the port stays.
#[tokio::test]
async fn a_restart_closes_connections_and_keeps_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let bytes = up.signed(&key("//Bob"), &burned_register(27, &key("//Bob//hot"))).await;
    let block = up.submit(&bytes).await.unwrap();
    let mut heads = subscribe(&up, "New").await;
    assert_eq!(up.ask("devnet_chaos", vec![json!("restart")]).await, Value::Null);
    let ended = async { while heads.next().await.is_some() {} };
    tokio::time::timeout(LIMIT, ended).await.expect("the connection ends");
    let client = WsClientBuilder::default().build(up.devnet.ws_url()).await.unwrap();
    let found: Value = client.request("chain_getBlock", rpc_params![block]).await.unwrap();
    assert_eq!(found["block"]["extrinsics"][1], format!("0x{}", hex::encode(&bytes)));
    let at = up.devnet.head();
    up.wait_for_block(at + 2).await;
    up.devnet.chaos(Chaos::Restart).await.unwrap();
    assert!(up.tasks.shutdown(Duration::from_secs(10)).await);
    let after = up.devnet.chaos(Chaos::Restart).await;
    assert!(matches!(after, Err(ChaosError::Stopped)), "{after:?}");
}

/// A client that is not told of an upgrade signs for a runtime that is gone.
#[tokio::test]
async fn an_upgrade_is_told_to_whoever_follows_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let mut versions: Subscription<Value> = up
        .client
        .subscribe(
            "state_subscribeRuntimeVersion",
            rpc_params![],
            "state_unsubscribeRuntimeVersion",
        )
        .await
        .unwrap();
    let mut version = async || {
        let next = tokio::time::timeout(LIMIT, versions.next()).await.expect("a version");
        next.unwrap().unwrap()["specVersion"].as_u64().unwrap()
    };
    assert_eq!(version().await, 461);
    let before = up.ask("chain_getBlockHash", vec![]).await;
    let metadata = up.ask("state_getMetadata", vec![]).await;
    let done = up.devnet.chaos(Chaos::Upgrade { change: Change::Calls }).await.unwrap();
    assert_eq!(done.spec_version, 462);
    assert_eq!(version().await, 462);
    let now = up.ask("state_getRuntimeVersion", vec![]).await;
    assert_eq!(now["specVersion"], 462);
    assert_ne!(up.ask("state_getMetadata", vec![]).await, metadata);
    assert_eq!(up.ask("state_getMetadata", vec![before.clone()]).await, metadata);
    let old = up.ask("state_getRuntimeVersion", vec![before]).await;
    assert_eq!(old["specVersion"], 461);
}

/// Faults must reach a devnet and nothing else, and its state must be told whole.
#[tokio::test]
async fn control_finds_devnets_only() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let control = Control::connect(up.devnet.address()).await.unwrap();
    let refused = control.chaos(Chaos::Fork { depth: 2, drop: false }).await.unwrap_err();
    assert!(matches!(&refused, ControlError::Refused(why) if why.contains("finality lag")));
    let dump = control.dump().await.unwrap();
    assert_eq!(dump.subnets[0].neurons[0].stake_rao, 100_000 * 1_000_000_000);
    assert_eq!(dump.subnets[0].hyperparameters["Tempo"], 10);
    assert_eq!(dump.accounts.len(), 2);
    let far = Control::connect(([10, 0, 0, 1], 9944).into()).await.unwrap_err();
    assert!(matches!(far, ControlError::NotLoopback(_)));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = Control::connect(nobody).await.unwrap_err();
    assert!(matches!(silent, ControlError::Unreachable { .. }));
}
