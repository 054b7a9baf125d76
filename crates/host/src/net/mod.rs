//! The tenants' network: one wire for each lease, and rules that keep every tenant away from everything but the public
//! internet.
//!
//! It owns links and one table of the packet filter, both labelled with the node, and what it knows it finds on the machine:
//! there is no other record. Every act may be repeated, and whatever a killed node left half made goes at the next one. It
//! never changes a route, a rule, a link or a setting that it did not make, but for two labelled rules in a forward chain that
//! drops everything, and routing rules in a place of its own; forwarding itself is turned on only where the operator says so,
//! and then it stays on, since others may rely on it by the time we go.

mod cidr;
mod error;
mod fabric;
mod fake;
mod filter;
mod gate;
mod links;
mod names;
mod namespace;
mod program;
mod routes;
mod rules;
mod watch;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use nicompute_market::LeaseId;
use tokio::sync::oneshot;

pub use cidr::{Cidr, ParseCidrError};
pub use error::NetError;
use fabric::Machine;
pub use fake::FakeNetwork;
use namespace::Namespace;
use watch::Watch;

/// Resolvers that tenants are told of where none is named.
pub const PUBLIC_RESOLVERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9))];
/// Resolvers in one list; no system asks more.
pub const RESOLVERS_MAX: usize = 3;
/// Ranges that an operator may close beside the usual ones.
pub const DENIED_MAX: usize = 1024;
/// Connections of one lease at the same time, where nothing else is said.
pub const CONNECTIONS_MAX: u32 = 16_384;
/// The smallest limit of what a lease sends.
pub const BITS_PER_SECOND_MIN: u64 = 64_000;
/// The widest subnet and the narrowest.
pub const SUBNET_PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;

/// What an operator decides about the tenants' network.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The node's hotkey in text form; labels carry its digest.
    pub node_id: String,
    /// Where tenants' addresses come from; private addresses that nothing else on the machine uses. One is chosen where none
    /// is named. Wires that exist keep their address when it changes.
    pub subnet: Option<Cidr>,
    /// Ranges that tenants may not reach, beside private ones, the machine's own networks and cloud metadata.
    pub deny: Vec<Cidr>,
    /// The resolvers that tenants are told of; they may be asked wherever they are, on port 53 only.
    pub dns: Vec<IpAddr>,
    /// The most that each lease may send.
    pub egress_bits_per_second: Option<u64>,
    /// Connections of each lease at the same time.
    pub connections_max: u32,
    /// Whether the machine may be made to forward packets.
    pub forwarding: Forwarding,
    /// The network namespace that is the machine's; the node's own where none is named.
    pub machine: Option<PathBuf>,
}

/// Whether the machine may be made to forward packets between its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarding {
    /// It must forward them already; a machine with a Docker engine does.
    #[default]
    MustBeOn,
    /// It is turned on, and stays on.
    TurnOn,
}

/// A lease's way to the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The lease.
    pub lease: LeaseId,
    /// Its address.
    pub address: Ipv4Addr,
    /// The link of this machine that leads to it.
    pub link: String,
    /// Bytes that the lease has sent since it was wired.
    pub sent_bytes: u64,
    /// Bytes that it has received since then.
    pub received_bytes: u64,
}

/// What a node asks of the tenants' network. [`Fabric`] is the real one.
#[async_trait]
pub trait Network: Send + Sync + fmt::Debug {
    /// Wires a lease's container, which the number of its first process names, or finds it wired. A container that was
    /// started again has a new network namespace and is wired anew. Costs two runs of a program where nothing is to be done.
    ///
    /// # Errors
    /// When the process is gone or shares the machine's network, or the machine refuses. Nothing half made counts; the next
    /// call removes it.
    async fn attach(&self, lease: LeaseId, init_pid: u32) -> Result<Wire, NetError>;

    /// Removes a lease's wire. Removing what is not there succeeds.
    ///
    /// # Errors
    /// When the machine refuses.
    async fn detach(&self, lease: LeaseId) -> Result<(), NetError>;

    /// The leases that have a wire of this node.
    ///
    /// # Errors
    /// When the machine does not tell.
    async fn leases(&self) -> Result<Vec<LeaseId>, NetError>;

    /// Removes whatever is half made, puts the rules back where somebody removed them, closes networks that the machine was
    /// connected to meanwhile, and makes wires as wide as its way out. To be called often.
    ///
    /// # Errors
    /// When the machine refuses.
    async fn mend(&self) -> Result<(), NetError>;

    /// Ends when somebody may have removed rules of this node, or of the machine's forward chain. What is there to be mended, `mend` finds out.
    ///
    /// # Errors
    /// When nothing can be heard of it; the looks from time to time remain.
    async fn disturbed(&self) -> Result<(), NetError>;

    /// What tenants' `/etc/resolv.conf` says.
    fn resolv_conf(&self) -> String;
}

/// The tenants' network of one node. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Fabric(Arc<Machine>);

impl NetConfig {
    /// The usual network of a node.
    #[must_use]
    pub fn new(node_id: &str) -> Self {
        Self {
            node_id: node_id.to_owned(),
            subnet: None,
            deny: Vec::new(),
            dns: PUBLIC_RESOLVERS.into(),
            egress_bits_per_second: None,
            connections_max: CONNECTIONS_MAX,
            forwarding: Forwarding::MustBeOn,
            machine: None,
        }
    }
}

impl Fabric {
    /// Tries what the network needs on this machine, and takes over the wires that are there. Rules exist while a wire does.
    ///
    /// # Errors
    /// What is missing or stands in the way, with a remedy.
    pub async fn open(config: NetConfig) -> Result<Self, NetError> {
        let place = config.machine.clone();
        let machine = on_thread(place, move || Machine::open(config)).await?;
        Ok(Self(Arc::new(machine)))
    }

    /// Every wire of this node, with what went through it.
    ///
    /// # Errors
    /// When the machine does not tell.
    pub async fn list(&self) -> Result<Vec<Wire>, NetError> {
        self.with(|machine| machine.list()).await
    }

    /// Removes every wire whose lease is not named, and mends the rest. Gives the number of links that were removed.
    ///
    /// # Errors
    /// When the machine refuses.
    pub async fn sweep(&self, keep: &[LeaseId]) -> Result<usize, NetError> {
        let keep = keep.to_vec();
        self.with(move |machine| machine.sweep(&keep)).await
    }

    /// Where tenants' addresses come from.
    #[must_use]
    pub fn subnet(&self) -> Cidr {
        self.0.subnet()
    }

    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Machine) -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, NetError> {
        let machine = Arc::clone(&self.0);
        on_thread(machine.place(), move || act(&machine)).await
    }
}

#[async_trait]
impl Network for Fabric {
    async fn attach(&self, lease: LeaseId, init_pid: u32) -> Result<Wire, NetError> {
        self.with(move |machine| machine.attach(lease, init_pid)).await
    }

    async fn detach(&self, lease: LeaseId) -> Result<(), NetError> {
        self.with(move |machine| machine.detach(lease)).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, NetError> {
        Ok(self.list().await?.into_iter().map(|wire| wire.lease).collect())
    }

    async fn mend(&self) -> Result<(), NetError> {
        self.with(Machine::mend).await
    }

    async fn disturbed(&self) -> Result<(), NetError> {
        let failed =
            |source| NetError::Io { act: "listen at", path: "the packet filter".into(), source };
        let watch = self.with(move |machine| Watch::open(machine.table()).map_err(failed)).await?;
        watch.removal().await.map_err(failed)
    }

    fn resolv_conf(&self) -> String {
        self.0.resolvers().map(|resolver| format!("nameserver {resolver}\n")).collect()
    }
}

/// Works on a thread of its own, in the machine's network namespace. The thread goes on where the caller does not wait: an
/// act is never cut in the middle.
async fn on_thread<T: Send + 'static>(
    place: Option<PathBuf>,
    act: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        let entered = place.map_or(Ok(()), |place| Namespace::open(&place)?.enter());
        // Nobody may be waiting any more.
        drop(tell.send(entered.and_then(|()| act())));
    };
    let thread = std::thread::Builder::new().name("network".to_owned()).spawn(work);
    thread.map_err(|source| NetError::Io { act: "start", path: "a thread".into(), source })?;
    told.await.unwrap_or(Err(NetError::CutOff))
}
