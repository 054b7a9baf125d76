//! A node and everything around it: a fake machine, a fake subnet, fake routes, callers with keys.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use nicompute_daemon::{Clock as _, Kind, ManualClock, SharedClock, Tasks};
use nicompute_host::gateway::Route;
use nicompute_host::runtime::{
    FakeMachine, FakeRuntime, ImagePolicy, RuntimeConfig, SandboxProgram,
};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{LeaseId, MicroUsd, Netuid, PublishedPort, Rao};
use nicompute_miner::{
    ApiLimits, MIN_STAKE, Member, Miner, MinerConfig, Neighbours, OnShutdown, PortRefused,
    RouteRefused, Routes, SessionLimits, StartError, Subnet, SubnetError, UnenforcedLimits,
};
use nicompute_wire::btauth::{self, Headers, sign_request, verify_response};
use nicompute_wire::node::{LeaseView, OffersView};
use serde_json::{Value, json};

use crate::http::{Answer, PATIENCE, exchange, request};

pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
pub(crate) const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAIBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
pub(crate) const START_MS: u64 = 1_700_000_000_000;
pub(crate) const SSH_PORT: u16 = 4444;
/// What the node announces; never connected to.
pub(crate) const ANNOUNCED_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub(crate) fn key(name: &str) -> Keypair {
    Keypair::from_uri(name, Scheme::Sr25519).unwrap()
}

/// Ways into leases that only remember.
#[derive(Debug, Default, Clone)]
pub(crate) struct FakeRoutes(Arc<Mutex<BTreeMap<LeaseId, Route>>>, Arc<Mutex<Option<u16>>>);

impl FakeRoutes {
    pub(crate) fn of(&self, lease: LeaseId) -> Option<Route> {
        self.0.lock().unwrap().get(&lease).cloned()
    }

    /// From now on somebody else listens at the outside port of this port inside.
    pub(crate) fn take_port(&self, inside: Option<u16>) {
        *self.1.lock().unwrap() = inside;
    }
}

impl Routes for FakeRoutes {
    fn open(&self, route: &Route) -> Result<(), RouteRefused> {
        self.0.lock().unwrap().insert(route.lease, route.clone());
        Ok(())
    }

    fn close(&self, lease: LeaseId) {
        self.0.lock().unwrap().remove(&lease);
    }

    fn connected(&self, lease: LeaseId) -> bool {
        self.of(lease).is_some_and(|route| route.init_pid.is_some())
    }

    fn publish(&self, _: LeaseId, port: PublishedPort) -> Result<(), PortRefused> {
        if *self.1.lock().unwrap() == Some(port.container_port) {
            let (shown, source) = ("somebody else listens there", "in use".into());
            return Err(PortRefused { shown, other_port_may_do: true, source });
        }
        Ok(())
    }

    fn port(&self) -> u16 {
        SSH_PORT
    }

    fn host_key(&self) -> String {
        HOST_KEY.to_owned()
    }
}

/// A subnet of a few members, which can be out of reach.
#[derive(Debug, Clone)]
pub(crate) struct FakeSubnet(Arc<SubnetState>);

#[derive(Debug)]
struct SubnetState {
    members: Mutex<Vec<Member>>,
    gone: AtomicBool,
    reads: AtomicU64,
}

impl FakeSubnet {
    fn new() -> Self {
        let member = |name: &str, validator_permit| Member {
            hotkey: key(name).hotkey(),
            coldkey: key(&format!("{name}//coldkey")).coldkey(),
            stake: if validator_permit { MIN_STAKE } else { Rao(0) },
            endpoint: None,
            validator_permit,
        };
        let members = vec![
            member("//Miner", false),
            member("//Validator", true),
            member("//Other", true),
            member("//Plain", false),
        ];
        Self(Arc::new(SubnetState {
            members: Mutex::new(members),
            gone: AtomicBool::new(false),
            reads: AtomicU64::new(0),
        }))
    }

    pub(crate) fn goes(&self) {
        self.0.gone.store(true, Ordering::SeqCst);
    }

    pub(crate) fn comes_back(&self) {
        self.0.gone.store(false, Ordering::SeqCst);
    }

    pub(crate) fn reads(&self) -> u64 {
        self.0.reads.load(Ordering::SeqCst)
    }

    pub(crate) fn change(&self, name: &str, change: impl Fn(&mut Member)) {
        let hotkey = key(name).hotkey();
        self.0.members.lock().unwrap().iter_mut().filter(|m| m.hotkey == hotkey).for_each(change);
    }

    pub(crate) fn remove(&self, name: &str) {
        let hotkey = key(name).hotkey();
        self.0.members.lock().unwrap().retain(|member| member.hotkey != hotkey);
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        let hotkey = key("//Miner").hotkey();
        self.0.members.lock().unwrap().iter().find(|m| m.hotkey == hotkey)?.endpoint
    }

    fn reach(&self) -> Result<(), SubnetError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        if self.0.gone.load(Ordering::SeqCst) {
            let source = "the fake chain is gone".into();
            return Err(SubnetError { kind: Kind::Elsewhere, remedy: None, source });
        }
        Ok(())
    }
}

#[async_trait]
impl Subnet for FakeSubnet {
    async fn members(&self) -> Result<Vec<Member>, SubnetError> {
        self.reach()?;
        Ok(self.0.members.lock().unwrap().clone())
    }

    async fn announce(&self, at: SocketAddr) -> Result<(), SubnetError> {
        self.reach()?;
        self.change("//Miner", |member| member.endpoint = Some(at));
        Ok(())
    }
}

/// What outlives a node.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) machine: FakeMachine,
    pub(crate) subnet: FakeSubnet,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) nonce: AtomicU64,
}

/// A running node.
pub(crate) struct Node<'w> {
    pub(crate) world: &'w World,
    pub(crate) miner: Miner,
    pub(crate) tasks: Tasks,
    pub(crate) routes: FakeRoutes,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            machine: FakeMachine::new(),
            subnet: FakeSubnet::new(),
            clock: ManualClock::at_unix_ms(START_MS),
            nonce: AtomicU64::new(0),
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn config(&self) -> MinerConfig {
        let hotkey = key("//Miner");
        let config = RuntimeConfig {
            node_id: hotkey.hotkey().to_string(),
            state_dir: self.state_dir(),
            rootfs: None,
            sandbox_program: SandboxProgram { path: "/none".into(), args: Vec::new() },
            docker_socket: None,
            images: Vec::new(),
            image_policy: ImagePolicy::default(),
            trial_agent: None,
            classes: Vec::new(),
        };
        MinerConfig {
            state_dir: self.state_dir(),
            netuid: Netuid(27),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ssh_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            announce_ip: IpAddr::from(ANNOUNCED_IP),
            announce_port: None,
            hotkey,
            price_per_hour: MicroUsd(250_000),
            offers: None,
            fetches: Vec::new(),
            runtime: Arc::new(FakeRuntime::new(config, self.machine.clone())),
            network: None,
            ports: None,
            sessions: SessionLimits::default(),
            agent: "/agent".into(),
            masked_host_paths: vec!["/home".into()],
            unenforced_limits: UnenforcedLimits::Refuse,
            gpus: None,
            axon: None,
            lists: None,
            on_shutdown: OnShutdown::KeepLeases,
            kill_after: None,
        }
    }

    pub(crate) async fn start(&self) -> Node<'_> {
        self.start_with(self.config(), ApiLimits::standard()).await.unwrap()
    }

    pub(crate) async fn start_with(
        &self,
        config: MinerConfig,
        api_limits: ApiLimits,
    ) -> Result<Node<'_>, StartError> {
        let (tasks, routes) = (Tasks::new(), FakeRoutes::default());
        let neighbours = Neighbours {
            subnet: Box::new(self.subnet.clone()),
            routes: Some(Arc::new(routes.clone())),
            api_limits,
        };
        let clock: SharedClock = self.clock.clone();
        let miner = Miner::start_among(config, neighbours, clock, tasks.clone()).await?;
        Ok(Node { world: self, miner, tasks, routes })
    }

    /// A nonce that was never used, at the clock's time.
    pub(crate) fn nonce(&self) -> u64 {
        self.clock.unix_ns() + self.nonce.fetch_add(1, Ordering::SeqCst)
    }
}

impl Node<'_> {
    pub(crate) fn at(&self) -> SocketAddr {
        self.miner.addresses().api
    }

    /// Ends the process as a kill does: nothing is asked, nothing is finished.
    pub(crate) async fn kill(self) {
        self.tasks.token().cancel();
        drop(self.miner);
        assert!(self.tasks.shutdown(PATIENCE).await);
    }

    /// Sends a request, signed by a caller for this node, and checks that the answer is signed by the node.
    pub(crate) async fn send(&self, by: &str, method: &str, target: &str, body: &[u8]) -> Answer {
        let (caller, nonce) = (key(by), self.world.nonce());
        let headers = signed(&caller, method, target, body, nonce);
        let answer = exchange(self.at(), &request(method, target, &headers, body)).await;
        believe(&answer, nonce, &caller);
        answer
    }

    pub(crate) async fn get(&self, by: &str, target: &str) -> Answer {
        self.send(by, "GET", target, b"").await
    }

    pub(crate) async fn post(&self, by: &str, target: &str, body: &Value) -> Answer {
        self.send(by, "POST", target, body.to_string().as_bytes()).await
    }

    /// Takes a lease as the validator and waits until it runs.
    pub(crate) async fn running(&self, byte: u8) -> LeaseView {
        let answer = self.post("//Validator", "/v1/leases", &ask(byte)).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        self.until(byte, "running").await
    }

    /// The validator's lease as it stands now.
    pub(crate) async fn lease(&self, byte: u8) -> LeaseView {
        self.get("//Validator", &path(byte)).await.json()
    }

    /// Waits until the validator's lease is in a state.
    pub(crate) async fn until(&self, byte: u8, state: &str) -> LeaseView {
        let reached = async {
            let mut view: LeaseView = self.get("//Validator", &path(byte)).await.json();
            while view.state != state {
                let wait = format!("{}?wait_ms=1000&generation={}", path(byte), view.generation);
                view = self.get("//Validator", &wait).await.json();
            }
            view
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        waited.unwrap_or_else(|_| panic!("lease {byte} is not {state} in time"))
    }

    pub(crate) async fn is_available(&self) -> bool {
        let offers: OffersView = self.get("//Validator", "/v1/offers").await.json();
        offers.offers[0].available
    }
}

pub(crate) fn id(byte: u8) -> LeaseId {
    LeaseId::from_random_bytes([byte; 16])
}

pub(crate) fn path(byte: u8) -> String {
    format!("/v1/leases/{}", id(byte))
}

/// A request for a lease that is taken.
pub(crate) fn ask(byte: u8) -> Value {
    json!({
        "id": id(byte),
        "offer": "machine",
        "purpose": "rental",
        "ssh_keys": [KEY],
        "duration_seconds": 3600,
    })
}

pub(crate) fn signed(
    caller: &Keypair,
    method: &str,
    target: &str,
    body: &[u8],
    nonce: u64,
) -> Vec<(String, String)> {
    let request = btauth::Request { method, target, body };
    let Headers(headers) = sign_request(caller, &request, Some(&key("//Miner").hotkey()), nonce);
    headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The answer is the node's, to this request of this caller.
pub(crate) fn believe(answer: &Answer, nonce: u64, caller: &Keypair) {
    let response = btauth::Response { status: answer.status, body: &answer.body };
    let node = key("//Miner").hotkey();
    verify_response(|name| answer.header(name), &response, nonce, &node, &caller.account())
        .unwrap_or_else(|error| panic!("{error}: {answer:?}"));
}
