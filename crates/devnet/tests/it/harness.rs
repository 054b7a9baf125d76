//! A devnet in a temporary folder, and hand-made extrinsics for it.

use std::path::Path;
use std::time::Duration;

use jsonrpsee::core::client::ClientT;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::{DEFAULT_NETUID, Devnet, DevnetConfig, Genesis, StartError, SubnetGenesis};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Rao;
use parity_scale_codec::{Compact, Encode};
use serde_json::Value;

/// How long a test waits for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
const COIN: u64 = 1_000_000_000;

/// A running devnet with a client.
pub(crate) struct Up {
    pub(crate) devnet: Devnet,
    pub(crate) client: WsClient,
    pub(crate) tasks: Tasks,
}

pub(crate) fn key(name: &str) -> Keypair {
    Keypair::from_uri(name, Scheme::Sr25519).expect("a key")
}

/// Alice owns the subnet and validates with `//Alice//hot`; Bob has coins.
pub(crate) fn config(dir: &Path) -> DevnetConfig {
    let (alice, hot) = (key("//Alice"), key("//Alice//hot"));
    let mut subnet = SubnetGenesis::new(DEFAULT_NETUID, alice.coldkey(), hot.hotkey());
    subnet.validators.push((hot.hotkey(), alice.coldkey(), Rao(100_000 * COIN)));
    let genesis = Genesis {
        endowed: vec![
            (alice.account(), Rao(1_000 * COIN)),
            (key("//Bob").account(), Rao(1_000 * COIN)),
        ],
        subnets: vec![subnet],
        ..Genesis::default()
    };
    DevnetConfig { block_time: Duration::from_millis(50), ..DevnetConfig::new(dir, genesis) }
}

pub(crate) async fn start(config: DevnetConfig) -> Result<Up, StartError> {
    let tasks = Tasks::new();
    let devnet = Devnet::start(config, SystemClock::shared(), &tasks).await?;
    let client = WsClientBuilder::default().build(devnet.ws_url()).await.expect("a connection");
    Ok(Up { devnet, client, tasks })
}

impl Up {
    pub(crate) async fn ask(&self, method: &str, params: Vec<Value>) -> Value {
        self.client.request(method, params).await.expect("an answer")
    }

    /// An extrinsic of the key's next nonce, signed for this chain.
    pub(crate) async fn signed(&self, key: &Keypair, call: &[u8]) -> Vec<u8> {
        let nonce: u32 = self
            .client
            .request("account_nextIndex", rpc_params![key.account().to_string()])
            .await
            .expect("a nonce");
        sign(key, call, nonce, &self.devnet.genesis_hash())
    }

    /// Waits until an extrinsic is final; the hash of its block.
    pub(crate) async fn submit(&self, bytes: &[u8]) -> Result<String, String> {
        use jsonrpsee::core::client::SubscriptionClientT;
        let subscribed = self
            .client
            .subscribe::<Value, _>(
                "author_submitAndWatchExtrinsic",
                rpc_params![format!("0x{}", hex::encode(bytes))],
                "author_unwatchExtrinsic",
            )
            .await;
        let mut statuses = subscribed.map_err(|error| error.to_string())?;
        let mut seen = Vec::new();
        loop {
            let next = tokio::time::timeout(LIMIT, statuses.next()).await.expect("a status");
            let status = next.expect("an open subscription").expect("a status");
            seen.push(status.clone());
            if let Some(hash) = status.get("finalized") {
                assert_eq!(seen[0], "ready");
                assert!(seen[1].get("inBlock").is_some(), "{seen:?}");
                return Ok(hash.as_str().expect("a hash").to_owned());
            }
            if status == "invalid" {
                return Err("invalid".to_owned());
            }
        }
    }

    pub(crate) async fn wait_for_block(&self, number: u64) {
        let reached = async {
            while self.devnet.head() < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.expect("blocks");
    }
}

/// An immortal extrinsic.
pub(crate) fn sign(key: &Keypair, call: &[u8], nonce: u32, genesis: &[u8; 32]) -> Vec<u8> {
    let mut extra = vec![0];
    Compact(nonce).encode_to(&mut extra);
    extra.extend([0, 0]);
    let mut payload = [call, &extra].concat();
    (461_u32, 1_u32, genesis, genesis, 0_u8).encode_to(&mut payload);
    assert!(payload.len() <= 256, "these tests sign short calls only");
    let mut body = vec![0x84, 0];
    body.extend(key.account().as_bytes());
    body.push(1);
    body.extend(key.sign(&payload));
    body.extend(extra);
    body.extend(call);
    body.encode()
}

pub(crate) fn burned_register(netuid: u16, hotkey: &Keypair) -> Vec<u8> {
    let mut call = vec![7, 7];
    (netuid, hotkey.account().as_bytes()).encode_to(&mut call);
    call
}
