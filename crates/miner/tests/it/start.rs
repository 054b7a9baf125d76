//! How a node starts, or says why not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nicompute_daemon::{SharedClock, SystemClock, Tasks};
use nicompute_host::runtime::{
    ContainerSpec, Limits, Presence, Running, Runtime, RuntimeError, RuntimeKind,
};
use nicompute_market::LeaseId;
use nicompute_miner::{
    ApiLimits, Miner, MinerConfig, Neighbours, PERMITS_AGE_MAX, StartError, UnenforcedLimits,
};
use nicompute_wire::codes::Code;
use nicompute_wire::hostkey;
use nicompute_wire::node::{NodeView, OffersView};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::http::{PATIENCE, exchange, request};
use crate::world::{ANNOUNCED_IP, Node, World, ask, key, signed};

/// A runtime that holds nobody to anything.
#[derive(Debug)]
struct Unlimited(Arc<dyn Runtime>);

#[async_trait]
impl Runtime for Unlimited {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Fake
    }

    fn limits(&self) -> Limits {
        Limits::Nothing
    }

    fn gives_gpus(&self) -> bool {
        self.0.gives_gpus()
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        self.0.images().await
    }

    async fn ensure(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        self.0.ensure(spec).await
    }

    async fn inspect(&self, lease: LeaseId) -> Result<Presence, RuntimeError> {
        self.0.inspect(lease).await
    }

    async fn pause(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        self.0.pause(lease).await
    }

    async fn resume(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        self.0.resume(lease).await
    }

    async fn remove(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        self.0.remove(lease).await
    }

    async fn list(&self) -> Result<Vec<LeaseId>, RuntimeError> {
        self.0.list().await
    }
}

async fn refused(world: &World, config: MinerConfig) -> StartError {
    match world.start_with(config, ApiLimits::standard()).await {
        Ok(_) => panic!("the node started"),
        Err(error) => error,
    }
}

async fn wait_announced(node: &Node<'_>) {
    tokio::time::timeout(PATIENCE, node.miner.announced()).await.unwrap();
}

/// Validators find a node by what it announced; a wrong entry is a node that nobody finds.
#[tokio::test]
async fn the_address_is_announced_once_and_corrected() {
    let world = World::new();
    let node = world.start().await;
    wait_announced(&node).await;
    let expected = SocketAddr::from((ANNOUNCED_IP, node.at().port()));
    assert_eq!(node.miner.addresses().announced, expected);
    assert_eq!(world.subnet.endpoint(), Some(expected));
    let wrong = SocketAddr::from(([127, 0, 0, 9], 1));
    world.subnet.change("//Miner", |member| member.endpoint = Some(wrong));
    let corrected = async {
        while world.subnet.endpoint() != Some(expected) {
            world.clock.advance(Duration::from_secs(12));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, corrected).await.unwrap();
    node.kill().await;
    let config = MinerConfig { announce_port: Some(9_999), ..world.config() };
    let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
    wait_announced(&node).await;
    assert_eq!(world.subnet.endpoint(), Some(SocketAddr::from((ANNOUNCED_IP, 9_999))));
}

/// A node that is nobody on the subnet earns nothing; its operator must be told what to do.
#[tokio::test]
async fn an_unknown_hotkey_is_told_to_register() {
    let world = World::new();
    world.subnet.remove("//Miner");
    let error = refused(&world, world.config()).await;
    assert!(matches!(error, StartError::NotRegistered { .. }), "{error}");
    assert!(error.to_string().contains(&key("//Miner").hotkey().to_string()));
    assert!(error.remedy().unwrap().starts_with("nicompute register --netuid 27"));
}

/// A port that is taken must be named with the flag that changes it.
#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let world = World::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let taken = taken.local_addr().map(|address| (address, taken)).unwrap();
    let error = refused(&world, MinerConfig { listen: taken.0, ..world.config() }).await;
    assert!(error.to_string().contains("--axon.port"), "{error}");
    assert!(error.remedy().is_some());
    let config = MinerConfig { ssh_listen: taken.0, ..world.config() };
    let neighbours = Neighbours {
        subnet: Box::new(world.subnet.clone()),
        routes: None,
        api_limits: ApiLimits::standard(),
    };
    let clock: SharedClock = world.clock.clone();
    let error = Miner::start_among(config, neighbours, clock, Tasks::new()).await.unwrap_err();
    assert!(error.to_string().contains("--ssh.port"), "{error}");
    assert!(error.remedy().is_some());
    // Nothing was left locked by the failures.
    world.start().await;
}

/// Outside of the local market a tenant must be held to what was leased.
#[tokio::test]
async fn a_runtime_without_limits_is_for_the_devnet() {
    let world = World::new();
    let mut config = world.config();
    config.runtime = Arc::new(Unlimited(config.runtime));
    let error = refused(&world, config.clone()).await;
    assert!(matches!(error, StartError::UnenforcedLimits), "{error}");
    assert!(error.remedy().is_some());
    config.unenforced_limits = UnenforcedLimits::AcceptOnDevnet;
    let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
    let offers: OffersView = node.get("//Validator", "/v1/offers").await.json();
    assert_eq!(offers.offers[0].limits, "not enforced");
    let view: NodeView = node.get("//Validator", "/v1/node").await.json();
    assert!(!view.limits_enforced);
}

/// A chain that is gone must not take running leases with it, nor keep a node from starting.
#[tokio::test]
async fn a_node_lives_without_the_chain() {
    let world = World::new();
    world.subnet.goes();
    let node = world.start().await;
    let refused = node.post("//Validator", "/v1/leases", &ask(1)).await;
    assert_eq!((refused.status, refused.code()), (503, Some(Code::ChainUnavailable)));
    world.subnet.comes_back();
    world.clock.advance(Duration::from_secs(12));
    wait_announced(&node).await;
    node.running(1).await;
    world.subnet.goes();
    node.send("//Validator", "DELETE", &crate::world::path(1), b"").await;
    node.until(1, "ended").await;
    // The last known validators count for a while, and not for ever.
    node.running(2).await;
    node.send("//Validator", "DELETE", &crate::world::path(2), b"").await;
    node.until(2, "ended").await;
    world.clock.advance(PERMITS_AGE_MAX + Duration::from_secs(13));
    let refused = node.post("//Validator", "/v1/leases", &ask(3)).await;
    assert_eq!((refused.status, refused.code()), (503, Some(Code::ChainUnavailable)));
}

/// The real gateway, the real clock: what a provider starts must listen for SSH under the key that it announces.
#[tokio::test]
async fn the_real_gateway_listens_under_the_signed_key() {
    let world = World::new();
    let clock = SystemClock::shared();
    let start = async || {
        let (tasks, config) = (Tasks::new(), world.config());
        let neighbours = Neighbours {
            subnet: Box::new(world.subnet.clone()),
            routes: None,
            api_limits: ApiLimits::standard(),
        };
        let miner = Miner::start_among(config, neighbours, clock.clone(), tasks.clone()).await;
        (miner.unwrap(), tasks)
    };
    let view = async |miner: &Miner| {
        let caller = key("//Validator");
        let headers = signed(&caller, "GET", "/v1/node", b"", clock.unix_ns());
        let at = miner.addresses().api;
        exchange(at, &request("GET", "/v1/node", &headers, b"")).await.json::<NodeView>()
    };
    let (miner, tasks) = start().await;
    let first = view(&miner).await;
    assert_eq!(first.ssh.port, miner.addresses().ssh.port());
    hostkey::verify(&first.hotkey, &first.ssh.host_key, &first.ssh.host_key_signature).unwrap();
    let mut socket = TcpStream::connect(miner.addresses().ssh).await.unwrap();
    let mut banner = [0; 8];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut banner)).await.unwrap().unwrap();
    assert_eq!(&banner, b"SSH-2.0-");
    drop(socket);
    miner.shutdown().await;
    assert!(tasks.shutdown(PATIENCE).await);
    let (miner, _tasks) = start().await;
    let second = view(&miner).await;
    assert_eq!(second.ssh.host_key, first.ssh.host_key, "a new key would lock renters out");
}
