//! The JSON-RPC as clients use it.

use jsonrpsee::core::client::{ClientT, SubscriptionClientT};
use jsonrpsee::core::params::BatchRequestBuilder;
use jsonrpsee::rpc_params;
use nicompute_devnet::{BATCH_MAX, Beacon, REQUEST_BYTES_MAX};
use serde_json::{Value, json};

use crate::harness::{LIMIT, burned_register, config, key, sign, start};

/// Without a registration that really lands, no neuron can ever serve or set weights.
#[tokio::test]
async fn a_registration_lands() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let (bob, hot) = (key("//Bob"), key("//Bob//hot"));
    let bytes = up.signed(&bob, &burned_register(27, &hot)).await;
    let block = up.submit(&bytes).await.unwrap();
    let block = up.ask("chain_getBlock", vec![json!(block)]).await;
    let extrinsics = block["block"]["extrinsics"].as_array().unwrap();
    assert_eq!(extrinsics[1], json!(format!("0x{}", hex::encode(&bytes))));
    // The same bytes again are stale.
    let again = up.submit(&bytes).await.unwrap_err();
    assert!(again.contains("1010") && again.contains("outdated"), "{again}");
    // The hotkey is taken now, and the failure is a dispatch error in the block's events.
    let twice = up.signed(&bob, &burned_register(27, &hot)).await;
    up.submit(&twice).await.unwrap();
}

/// A chain that takes forged or foreign signatures is no chain.
#[tokio::test]
async fn foreign_and_early_extrinsics_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let call = burned_register(27, &key("//Bob//hot"));
    let genesis = up.devnet.genesis_hash();
    let cases = [
        (sign(&key("//Bob"), &call, 0, &[7; 32]), "bad signature"),
        (sign(&key("//Bob"), &call, 3, &genesis), "in the future"),
        (sign(&key("//Nobody"), &call, 0, &genesis), "Inability to pay"),
        (sign(&key("//Bob"), &[7, 250], 0, &genesis), "not one of this chain's"),
    ];
    for (bytes, expected) in cases {
        let params = rpc_params![format!("0x{}", hex::encode(bytes))];
        let refused = up.client.request::<Value, _>("author_submitExtrinsic", params).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

/// Clients recompute a block's hash; one that differs makes every transaction look lost.
#[tokio::test]
async fn hashes_and_versions_agree() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    up.wait_for_block(3).await;
    let first = up.ask("chain_getBlockHash", vec![json!(0)]).await;
    assert_eq!(first, json!(format!("0x{}", hex::encode(up.devnet.genesis_hash()))));
    let list = up.ask("chain_getBlockHash", vec![json!([1, "0x2", 999_999])]).await;
    assert_eq!(list[2], Value::Null);
    let header = up.ask("chain_getHeader", vec![list[1].clone()]).await;
    assert_eq!(header["parentHash"], list[0]);
    assert_eq!(header["number"], "0x2");
    let version = up.ask("state_getRuntimeVersion", vec![]).await;
    assert_eq!(version["specVersion"], 461);
    let methods = up.ask("rpc_methods", vec![]).await;
    let methods: Vec<&str> =
        methods["methods"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(methods.contains(&"author_submitAndWatchExtrinsic"));
    assert!(!methods.iter().any(|name| name.starts_with("chainHead")));
}

/// Only the beacon's own rounds may open commits, and whoever feeds them must learn why one is not taken.
#[tokio::test]
async fn pulses_are_handed_in_with_their_signature() {
    const QUICKNET: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d10\
                            64510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991e\
                            f5ece45a";
    const ROUND_1000: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";
    // `Drand.LastStoredRound`.
    const LAST_ROUND_KEY: &str =
        "0xa285cdb66e8b8524ea70b1693c7b1e05087f3dd6e0ceded0e388dd34f810a73d";
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let public_key = hex::decode(QUICKNET).unwrap().try_into().unwrap();
    config.genesis.beacon =
        Some(Beacon::Recorded { public_key, genesis_s: 1_692_803_367, period_s: 3 });
    let up = start(config).await.unwrap();
    let long = "0x".to_owned() + &"00".repeat(49);
    for (params, expected) in [
        (rpc_params![999, ROUND_1000], "not the beacon's"),
        (rpc_params![0, ROUND_1000], "past"),
        (rpc_params![1_000, long], "Invalid params"),
        (rpc_params![1_000], "Invalid params"),
    ] {
        let refused = up.client.request::<Value, _>("devnet_pulse", params).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(up.ask("devnet_pulse", vec![json!(1_000), json!(ROUND_1000)]).await, json!(1_000));
    let head = up.devnet.head();
    up.wait_for_block(head + 2).await;
    let last = up.ask("state_getStorage", vec![json!(LAST_ROUND_KEY)]).await;
    assert_eq!(last, json!("0xe803000000000000"));
}

/// A door without limits is closed by the first client that asks for too much.
#[tokio::test]
async fn limits_are_answered_with_errors() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let page = |count: u32| rpc_params!["0x", count];
    up.client.request::<Value, _>("state_getKeysPaged", page(1_000)).await.unwrap();
    assert!(up.client.request::<Value, _>("state_getKeysPaged", page(1_001)).await.is_err());
    for batch in [BATCH_MAX, BATCH_MAX + 1] {
        let mut requests = BatchRequestBuilder::new();
        for _ in 0..batch {
            requests.insert("system_name", rpc_params![]).unwrap();
        }
        let answered = up.client.batch_request::<Value>(requests).await;
        assert_eq!(answered.is_ok_and(|all| all.num_successful_calls() > 0), batch == BATCH_MAX);
    }
    for (method, params) in [
        ("state_getStorage", vec![json!("0xzz")]),
        ("state_getStorage", vec![]),
        ("state_getStorage", vec![json!("0x00"), json!("0x11")]),
        ("state_getStorage", vec![json!("0x00"), json!(format!("0x{}", "11".repeat(32)))]),
        ("state_call", vec![json!("Nobody_knows"), json!("0x")]),
        ("state_call", vec![json!("AccountNonceApi_account_nonce"), json!("0x00")]),
        ("chain_getBlockHash", vec![json!({ "number": 1 })]),
        ("account_nextIndex", vec![json!("5Grwv")]),
        ("author_submitExtrinsic", vec![json!("0x00")]),
    ] {
        let refused = up.client.request::<Value, _>(method, params).await;
        assert!(refused.is_err(), "{method}");
    }
    let long = format!("0x{}", "00".repeat(usize::try_from(REQUEST_BYTES_MAX).unwrap() / 2));
    let refused = up.client.request::<Value, _>("author_submitExtrinsic", rpc_params![long]).await;
    assert!(refused.is_err());
    up.wait_for_block(up.devnet.head() + 1).await;
}

/// A subscription that misses a block or a change leaves a daemon waiting for ever.
#[tokio::test]
async fn heads_and_storage_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let mut heads = up
        .client
        .subscribe::<Value, _>(
            "chain_subscribeNewHeads",
            rpc_params![],
            "chain_unsubscribeNewHeads",
        )
        .await
        .unwrap();
    let mut numbers = Vec::new();
    for _ in 0..4 {
        let head = tokio::time::timeout(LIMIT, heads.next()).await.unwrap().unwrap().unwrap();
        let number = head["number"].as_str().unwrap().trim_start_matches("0x").to_owned();
        numbers.push(u64::from_str_radix(&number, 16).unwrap());
    }
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    // System.Number
    let key = "0x26aa394eea5630e07c48ae0c9558cef702a5c1b19ab7a04f536c519aca4983ac";
    let mut changes = up
        .client
        .subscribe::<Value, _>(
            "state_subscribeStorage",
            rpc_params![[key]],
            "state_unsubscribeStorage",
        )
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let set = tokio::time::timeout(LIMIT, changes.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(set["changes"][0][0], key);
        seen.push(set["changes"][0][1].clone());
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
}
