//! The validator on the local chain: who may start, and weights that arrive.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nicompute_chain::{Chain, Endpoint};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::{Devnet, DevnetConfig, Genesis, SubnetGenesis, Switches};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Netuid, Rao, Uid};
use nicompute_validator::{StartError, Validator};

use crate::door::{Conduct, ProverDoor};
use crate::provider::{Lie, Provider};
use crate::world::{self, wait_for};

const NETUID: Netuid = Netuid(27);
const COINS: Rao = Rao(1_000_000_000_000);

struct LocalChain {
    chain: Chain,
    tasks: Tasks,
    _devnet: Devnet,
    _dir: tempfile::TempDir,
}

fn coldkey() -> Keypair {
    Keypair::from_uri("//Ferdie", Scheme::Sr25519).unwrap()
}

async fn local_chain() -> LocalChain {
    chain_with(Switches::default()).await
}

async fn chain_with(switches: Switches) -> LocalChain {
    let dir = tempfile::tempdir().unwrap();
    let (validator, cold) = (world::validator_key(), coldkey());
    let mut subnet = SubnetGenesis::new(NETUID, cold.coldkey(), validator.hotkey());
    subnet.validators = vec![(validator.hotkey(), cold.coldkey(), Rao(100_000_000_000_000))];
    subnet.parameters.switches = switches;
    if switches.commit_reveal {
        // An epoch of eight seconds, so that a busy machine sees what waits.
        subnet.tempo = 32;
    }
    let genesis = Genesis {
        endowed: vec![(cold.account(), COINS)],
        subnets: vec![subnet],
        ..Genesis::default()
    };
    let config = DevnetConfig {
        block_time: Duration::from_millis(250),
        ..DevnetConfig::new(dir.path(), genesis)
    };
    let tasks = Tasks::new();
    let devnet = Devnet::start(config, SystemClock::shared(), &tasks).await.unwrap();
    let chain = Chain::connect(&devnet.ws_url(), SystemClock::shared(), &tasks).await.unwrap();
    LocalChain { chain, tasks, _devnet: devnet, _dir: dir }
}

/// The whole point: work that was proven becomes weight on the chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_becomes_weight_on_the_chain() {
    let local = local_chain().await;
    let provider = Provider::start_at(IpAddr::from([127, 0, 0, 2]), "//Bob", Lie::None).await;
    let hotkey = provider.hotkey();
    local.chain.burned_register(NETUID, &hotkey, &coldkey()).await.unwrap();
    let endpoint =
        Endpoint { ip: provider.address.ip(), port: provider.address.port(), version: 1 };
    local.chain.serve_axon(NETUID, endpoint, &provider.key).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let door = ProverDoor::new(Conduct::Honest);
    let (validator, handle) = Validator::start_through(
        world::config(dir.path()),
        local.chain.clone(),
        door,
        SystemClock::shared(),
        local.tasks.clone(),
    )
    .await
    .unwrap();
    let uid = local.chain.uid_of(NETUID, &hotkey).await.unwrap().unwrap();
    let on_chain = async || {
        let weights = local.chain.weights_of(NETUID, Uid(0)).await.unwrap();
        (!weights.is_empty()).then_some(weights)
    };
    assert_eq!(wait_for("weights", on_chain).await, [(uid, u16::MAX)]);
    let known = async || {
        let status = handle.status().await.unwrap();
        (status.weights.len() == 1 && status.weights_block.is_some()).then_some(status)
    };
    let status = wait_for("the stored weights", known).await;
    assert_eq!((status.uid, status.netuid), (Some(0), 27));
    assert!(local.tasks.shutdown(world::PATIENCE).await);
    validator.close().await;
}

/// Where weights are sealed, an operator must see that they are under way, and the chain must open them by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_weights_are_shown_until_the_chain_has_opened_them() {
    let local = chain_with(Switches { commit_reveal: true, ..Switches::default() }).await;
    let provider = Provider::start_at(IpAddr::from([127, 0, 0, 2]), "//Bob", Lie::None).await;
    let hotkey = provider.hotkey();
    local.chain.burned_register(NETUID, &hotkey, &coldkey()).await.unwrap();
    let endpoint =
        Endpoint { ip: provider.address.ip(), port: provider.address.port(), version: 1 };
    local.chain.serve_axon(NETUID, endpoint, &provider.key).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (validator, handle) = Validator::start_through(
        world::config(dir.path()),
        local.chain.clone(),
        ProverDoor::new(Conduct::Honest),
        SystemClock::shared(),
        local.tasks.clone(),
    )
    .await
    .unwrap();
    let committed = async || {
        let pending = handle.status().await.unwrap().weights_pending;
        pending.filter(|pending| pending.step == "committed")
    };
    let pending = wait_for("a commit", committed).await;
    assert_eq!((pending.way.as_str(), pending.note.as_str()), ("timelocked", ""));
    assert!(pending.reveal_block > pending.block && pending.reveal_round.is_some(), "{pending:?}");
    let uid = local.chain.uid_of(NETUID, &hotkey).await.unwrap().unwrap();
    let on_chain = async || {
        let weights = local.chain.weights_of(NETUID, Uid(0)).await.unwrap();
        (!weights.is_empty()).then_some(weights)
    };
    assert_eq!(wait_for("opened weights", on_chain).await, [(uid, u16::MAX)]);
    assert!(local.tasks.shutdown(world::PATIENCE).await);
    validator.close().await;
}

/// A hotkey that is no validator here must learn it at the start, with what to do about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_does_not_start() {
    let local = local_chain().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = world::config(dir.path());
    config.hotkey = Keypair::from_uri("//Eve", Scheme::Sr25519).unwrap();
    let start = Validator::start_through(
        config,
        local.chain.clone(),
        Arc::clone(&ProverDoor::new(Conduct::Honest)) as _,
        SystemClock::shared(),
        local.tasks.clone(),
    );
    let refused = start.await.err().unwrap();
    assert!(matches!(refused, StartError::NotRegistered { .. }), "{refused:?}");
    assert!(refused.remedy().unwrap().contains("register"));
    assert!(local.tasks.shutdown(world::PATIENCE).await);
}
