//! No chain, or none that deserves the name: each is an error with a name and an end.

use std::time::Duration;

use jsonrpsee::RpcModule;
use nicompute_chain::{Chain, ConnectError, Limits, ReadError, SubmitError};
use nicompute_daemon::{ErrorChain, Kind, SystemClock, Tasks};
use nicompute_devnet::Profile;
use nicompute_market::{Netuid, Rao};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::world::{Local, PATIENCE, alice, fresh};

const SHORT: Limits = Limits {
    connect: Duration::from_secs(2),
    read: Duration::from_secs(1),
    submit: Duration::from_secs(2),
    come_home: Duration::from_millis(200),
};

async fn refused(endpoint: &str) -> ConnectError {
    let tasks = Tasks::new();
    let error =
        Chain::connect_with(endpoint, SHORT, SystemClock::shared(), &tasks).await.unwrap_err();
    assert!(tasks.shutdown(PATIENCE).await);
    println!("{}", ErrorChain(&error));
    error
}

/// A connection to nothing must end at once and say where it went.
#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for endpoint in [format!("ws://{address}"), format!("wss://{address}")] {
        let error = refused(&endpoint).await;
        assert_eq!(error.kind(), Kind::Elsewhere);
        assert!(error.to_string().contains(&endpoint), "{error}");
        assert!(error.remedy().is_some());
    }
    assert_eq!(refused("mainnet").await.kind(), Kind::Caller);
}

/// What listens without answering must not hold a daemon's start for ever.
#[tokio::test]
async fn somebody_listens_in_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for endpoint in [format!("ws://{address}"), format!("wss://{address}")] {
        let error = refused(&endpoint).await;
        let ConnectError::Unusable { source: ReadError::Gone { waited, .. }, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*waited, SHORT.connect);
    }
}

/// A web server, or one that hangs up, is no node; neither may panic the TLS of the client.
#[tokio::test]
async fn somebody_else_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            if stream.read(&mut request).await.is_ok() {
                let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                // A client that hung up first is as good.
                drop(stream.write_all(answer).await);
            }
        }
    };
    let clients = async {
        for endpoint in [format!("ws://{address}"), format!("wss://{address}")] {
            assert_eq!(refused(&endpoint).await.kind(), Kind::Elsewhere);
        }
    };
    tokio::select! {
        () = server => {}
        () = clients => {}
    }
}

/// A chain that goes away must be an error with a deadline for readers and senders alike.
#[tokio::test]
async fn the_chain_goes_away() {
    let mut local = Local::start(Profile::Flat).await;
    let tasks = Tasks::new();
    let chain =
        Chain::connect_with(&local.url(), SHORT, SystemClock::shared(), &tasks).await.unwrap();
    chain.head().await.unwrap();
    local.stop().await;
    let error = chain.metagraph(Netuid(27)).await.unwrap_err();
    assert!(matches!(error, ReadError::Gone { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Elsewhere);
    let error = chain.transfer(&fresh().account(), Rao(1), &alice()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Read(ReadError::Gone { .. })), "{error:?}");
    assert_eq!(error.kind(), Kind::Elsewhere);
    assert!(tasks.shutdown(PATIENCE).await, "the follower of the head did not stop");
}

/// A client that cannot move between threads cannot be used by a daemon's tasks.
#[test]
fn what_a_client_does_may_move_between_threads() {
    fn movable<T: Send>(_: T) {}
    fn check(chain: &Chain, key: &nicompute_keys::Keypair) {
        movable(chain.head());
        movable(chain.metagraph(Netuid(1)));
        movable(chain.hyperparameters(Netuid(1)));
        movable(chain.balance(&key.account()));
        movable(chain.set_weights(Netuid(1), &[], 0, key));
        movable(Chain::connect("local", SystemClock::shared(), &Tasks::new()));
    }
    // It is enough that this compiles.
    let _: fn(&Chain, &nicompute_keys::Keypair) = check;
}

/// A node that answers nonsense must be refused by name, whatever the nonsense is.
#[tokio::test]
async fn a_node_of_nonsense() {
    let hash = || format!("0x{}", "11".repeat(32));
    let header = || {
        json!({
            "parentHash": hash(), "number": "0x5", "stateRoot": hash(), "extrinsicsRoot": hash(),
            "digest": { "logs": [] },
        })
    };
    // Versions of metadata: none, unreadable, and one whose metadata is nonsense.
    for (versions, metadata) in [
        ("0x00", "0x00"),
        ("0x", "0x00"),
        ("0x0463000000", "0x00"),
        ("0x040f000000", "0x00"),
        ("0x040f000000", "0x0114deadbeef00"),
        ("0x040f000000", "0x011c6d6574610fffff"),
        ("0x040f000000", "no hex at all"),
    ] {
        let mut module = RpcModule::new(());
        let mut answer = |name: &'static str, value: Value| {
            module.register_method(name, move |_, (), _| value.clone()).unwrap();
        };
        answer("system_chain", json!("nonsense"));
        answer("chain_getBlockHash", json!(hash()));
        answer("chain_getHeader", header());
        let version = json!({"specVersion": 1, "transactionVersion": 1});
        answer("state_getRuntimeVersion", version);
        let (versions, metadata) = (versions.to_owned(), metadata.to_owned());
        let call = move |params: jsonrpsee::types::Params<'_>, (): &(), _: &_| {
            let asked: String = params.sequence().next().unwrap_or_default();
            if asked == "Metadata_metadata_versions" { versions.clone() } else { metadata.clone() }
        };
        module.register_method("state_call", call).unwrap();
        let server = jsonrpsee::server::Server::builder().build("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let handle = server.start(module);
        let error = refused(&format!("ws://{address}")).await;
        assert!(matches!(error, ConnectError::Unusable { .. }), "{error:?}");
        handle.stop().unwrap();
        handle.stopped().await;
    }
}
