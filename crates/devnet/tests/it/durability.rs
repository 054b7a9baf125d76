//! What survives a restart and a crash.

use std::time::Duration;

use nicompute_devnet::{StartError, StoreError};
use nicompute_market::Rao;
use serde_json::json;

use crate::harness::{burned_register, config, key, start};

/// A chain that forgets a registration after a crash loses its miners.
#[tokio::test]
async fn a_block_that_was_heard_of_survives() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let bytes = up.signed(&key("//Bob"), &burned_register(27, &key("//Bob//hot"))).await;
    let block = up.submit(&bytes).await.unwrap();
    let (genesis, head) = (up.devnet.genesis_hash(), up.devnet.head());
    assert!(up.tasks.shutdown(Duration::from_secs(10)).await);
    drop(up);
    // A crash in the middle of a write leaves an unfinished record behind.
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "log") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.extend([9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let mut again = config(dir.path());
    again.genesis.endowed.push((key("//Eve").account(), Rao(1)));
    let up = start(again).await.unwrap();
    assert_eq!(up.devnet.genesis_hash(), genesis);
    assert!(up.devnet.head() >= head);
    let found = up.ask("chain_getBlock", vec![json!(block)]).await;
    assert_eq!(found["block"]["extrinsics"][1], format!("0x{}", hex::encode(&bytes)));
    up.wait_for_block(head + 3).await;
}

/// Two chains in one folder would destroy each other's log.
#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let up = start(config(dir.path())).await.unwrap();
    let refused = start(config(dir.path())).await.err().expect("a refusal");
    let StartError::Store { source: StoreError::InUse(_), .. } = refused else {
        panic!("{refused:?}")
    };
    let mut elsewhere = tempfile::tempdir().map(|dir| (config(dir.path()), dir)).unwrap();
    elsewhere.0.listen = up.devnet.address();
    assert!(matches!(start(elsewhere.0).await.err(), Some(StartError::PortTaken(_))));
}

/// A devnet that others can reach hands out everybody's coins.
#[tokio::test]
async fn only_loopback_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = config(dir.path());
    open.listen = ([0, 0, 0, 0], 0).into();
    assert!(matches!(start(open).await.err(), Some(StartError::NotLoopback(_))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
