//! The JSON-RPC as clients use it.

use jsonrpsee::core::client::ClientT;
use jsonrpsee::rpc_params;
use serde_json::{Value, json};

use crate::harness::{burned_register, config, key, sign, start};

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
