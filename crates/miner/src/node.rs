//! One node from its start to its end: what is opened in which order, and closed in the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use nicompute_chain::Chain;
use nicompute_daemon::{CancellationToken, ErrorChain, Kind, OnError, SharedClock, Tasks};
use nicompute_host::gateway::{
    Gateway, GatewayConfig, GatewayError, HostKey, HostKeyError, Limits,
};
use nicompute_host::inventory::{self, Inventory, InventoryError};
use nicompute_host::telemetry::Answer;
use nicompute_market::{EndReason, Hotkey, Lease, LeaseEvent, LeaseNetwork, Netuid, UnixMillis};
use nicompute_wire::node::FETCHES_MAX;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::axon::{self, DoorParts};
use crate::chain_subnet::{AXON_VERSION, ChainSubnet};
use crate::config::{MinerConfig, OnShutdown, SessionLimits, UnenforcedLimits};
use crate::dir_lock::{DirLock, LockError};
use crate::fuse::Fuse;
use crate::gpus::GpuWatch;
use crate::leases::Leases;
use crate::node_api::{self, Api, ApiError, ApiLimits, ApiParts};
use crate::offers::{self, Facilities, Offers, OffersError};
use crate::ports::{PortBoard, PortRange};
use crate::reconciler::{Memory, Places, Pulls, Reconciler};
use crate::routes::Routes;
use crate::store::{Store, StoreError};
use crate::subnet::{Permits, Standing, Subnet, SubnetError};

/// The gateway's key in the state directory.
const HOST_KEY_FILE: &str = "ssh_host_ed25519_key";
/// How long ending leases may take at shutdown. What is left is ended by the next start.
const END_LEASES_LIMIT: Duration = Duration::from_secs(20);
/// How long a stopping reconciler may take, its own limit and a little more.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// The parties that a node depends on.
#[derive(Debug)]
pub struct Neighbours {
    /// The chain.
    pub subnet: Box<dyn Subnet>,
    /// The ways into leases; the SSH gateway when there is none.
    pub routes: Option<Arc<dyn Routes>>,
    /// How much the node API takes on.
    pub api_limits: ApiLimits,
}

/// A running node.
#[derive(Debug)]
pub struct Miner {
    addresses: Addresses,
    on_shutdown: OnShutdown,
    trade: Trade,
    clock: SharedClock,
    stop_api: CancellationToken,
    stop_loop: CancellationToken,
    loop_ended: CancellationToken,
}

/// What the doors and the loop of a node have in common.
#[derive(Debug)]
struct Trade {
    store: Arc<Store>,
    offers: Arc<Offers>,
    permits: Arc<Permits>,
    leases: Arc<Leases>,
    ports: Arc<PortBoard>,
    watch: Option<Arc<GpuWatch>>,
}

/// Where a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The node API, as bound.
    pub api: SocketAddr,
    /// The SSH gateway, as bound.
    pub ssh: SocketAddr,
    /// The node API, as announced on chain.
    pub announced: SocketAddr,
}

/// Why a node did not start. Nothing runs and nothing has changed then, but the state directory may have been made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime does not hold tenants to their share.
    #[error("the runtime cannot hold tenants to the limits of their lease")]
    UnenforcedLimits,
    /// The state directory.
    #[error("cannot take the state directory")]
    StateDir(#[from] LockError),
    /// The store in it.
    #[error("cannot use the store")]
    Store(#[from] StoreError),
    /// What it is to offer.
    #[error("cannot offer what the offers file says")]
    Offers(#[from] OffersError),
    /// The machine.
    #[error("cannot read what this machine has")]
    Inventory(#[from] InventoryError),
    /// The chain is there, and is none that the node can be on.
    #[error("cannot ask the chain about subnet and hotkey")]
    Chain(#[source] SubnetError),
    /// The hotkey is not on the subnet.
    #[error("the hotkey {hotkey} is not registered on subnet {netuid}")]
    NotRegistered {
        /// The hotkey.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// The node API's address.
    #[error("cannot listen on {address} (--axon.port)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A port that leases would be given is a door of the node itself.
    #[error(
        "the ports {range} for leases (--ports.range) hold the node's own port {port} ({flag})"
    )]
    PortRange {
        /// What leases would be given.
        range: PortRange,
        /// The node's own.
        port: u16,
        /// The flag that says so.
        flag: &'static str,
    },
    /// The SSH gateway.
    #[error("cannot open the SSH gateway (--ssh.port)")]
    Gateway(#[from] GatewayError),
    /// The SSH gateway's key.
    #[error("cannot use the SSH gateway's host key")]
    HostKey(#[from] HostKeyError),
    /// The SSH gateway's key is none that can be announced.
    #[error("cannot sign the SSH gateway's host key")]
    SignHostKey(#[source] nicompute_wire::hostkey::HostKeyError),
}

// === impl StartError ===

impl StartError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::UnenforcedLimits => {
                "start the node as root, or with --runtime docker; only the local market takes offers without limits"
            }
            Self::StateDir(error) => error.remedy(),
            Self::Store(error) => error.remedy()?,
            Self::Chain(error) => error.remedy?,
            Self::NotRegistered { netuid, .. } => {
                return Some(format!("nicompute register --netuid {netuid}, with the same wallet"));
            }
            Self::Listen { .. } => "stop what listens there, or give another --axon.port",
            Self::Gateway(_) => "stop what listens there, or give another --ssh.port",
            Self::PortRange { .. } => "give --ports.range ports that nothing else here uses",
            Self::HostKey(_) | Self::SignHostKey(_) => {
                "restore the file ssh_host_ed25519_key in --state-dir, or remove it to get a new host key"
            }
            Self::Offers(_) => {
                "correct the file of --offers; docs/operate/offers.md has every field"
            }
            Self::Inventory(_) => return None,
        };
        Some(text.to_owned())
    }
}

impl From<ApiError> for StartError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Store(error) => Self::Store(error),
            ApiError::HostKey(error) => Self::SignHostKey(error),
        }
    }
}

// === impl Miner ===

impl Miner {
    /// Starts a node on a chain.
    ///
    /// # Errors
    /// See [`Miner::start_among`].
    pub async fn start(
        config: MinerConfig,
        chain: Chain,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        let (netuid, hotkey) = (config.netuid, config.hotkey.clone());
        let version = match config.axon {
            Some(_) => nicompute_wire::axon::PROTOCOL_VERSION,
            None => AXON_VERSION,
        };
        let neighbours = Neighbours {
            subnet: Box::new(ChainSubnet { chain, netuid, hotkey, version }),
            routes: None,
            api_limits: ApiLimits::standard(),
        };
        Self::start_among(config, neighbours, clock, tasks).await
    }

    /// Starts a node among given neighbours.
    ///
    /// A chain that is out of reach does not keep a node from starting: leases of before go on, and new ones are given
    /// when the chain says who is a validator.
    ///
    /// # Errors
    /// When something that the node needs is missing or taken; the error names it and has a remedy.
    pub async fn start_among(
        config: MinerConfig,
        neighbours: Neighbours,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<Self, StartError> {
        check(&config)?;
        let limits_enforced = config.runtime.limits_enforced();
        let trade = Trade::open(&config, neighbours.subnet, &clock, neighbours.api_limits).await?;
        let (listener, api_address) = bind(config.listen).await?;
        let routes = match neighbours.routes {
            Some(routes) => routes,
            None => Arc::new(open_gateway(&config, &clock, &tasks).await?),
        };
        let (stop_api, stop_loop) = (tasks.token().child_token(), tasks.token().child_token());
        let addresses = addresses(&config, api_address, routes.port());
        let api = Api::new(ApiParts {
            store: Arc::clone(&trade.store),
            leases: Arc::clone(&trade.leases),
            offers: Arc::clone(&trade.offers),
            permits: Arc::clone(&trade.permits),
            access: config.axon.clone().or_else(|| config.lists.clone()),
            routes: &*routes,
            ports: Arc::clone(&trade.ports),
            key: config.hotkey.clone(),
            clock: Arc::clone(&clock),
            limits_enforced,
            announce_ip: config.announce_ip,
            limits: neighbours.api_limits,
            stop: stop_api.clone(),
        })
        .await?;
        let door = DoorParts {
            key: config.hotkey,
            clock: Arc::clone(&clock),
            store: Arc::clone(&trade.store),
            leases: Arc::clone(&trade.leases),
            offers: Arc::clone(&trade.offers),
            permits: Arc::clone(&trade.permits),
            tasks: tasks.clone(),
            ssh_port: routes.port(),
            limits: neighbours.api_limits,
        };
        let router = node_api::router(Arc::new(api), trade.watch.clone());
        let router = axon::mount(router, config.axon, door).await?;
        let reconciler = Reconciler {
            store: Arc::clone(&trade.store),
            runtime: config.runtime,
            network: config.network,
            routes,
            leases: Arc::clone(&trade.leases),
            offers: Arc::clone(&trade.offers),
            pulls: Pulls::new(tasks.clone()),
            ports: Arc::clone(&trade.ports),
            clock: Arc::clone(&clock),
            places: Places {
                state_dir: config.state_dir,
                agent: config.agent,
                masked_host_paths: config.masked_host_paths,
            },
            memory: Memory::default(),
            sweeping: Arc::default(),
        };
        let miner = Self {
            addresses,
            on_shutdown: config.on_shutdown,
            trade,
            clock,
            stop_api,
            stop_loop,
            loop_ended: CancellationToken::new(),
        };
        miner.spawn(&tasks, reconciler, (listener, router), neighbours.api_limits, config.offers);
        Ok(miner)
    }

    /// Where it is reached.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The leases on it, for whoever watches over the machine.
    #[must_use]
    pub const fn leases(&self) -> &Arc<Leases> {
        &self.trade.leases
    }

    /// Waits until the chain says the announced address.
    pub async fn announced(&self) {
        let mut announced: watch::Receiver<_> = self.trade.permits.announced();
        // The node holds the other end: the wait cannot fail.
        drop(announced.wait_for(Option::is_some).await);
    }

    /// Takes no more requests, ends or keeps the open leases as configured, and lets go of the state directory.
    ///
    /// Cancelling the tasks without this keeps the leases whatever the configuration says, as a kill would.
    pub async fn shutdown(self) {
        self.stop_api.cancel();
        if self.on_shutdown == OnShutdown::EndLeases {
            tokio::select! {
                ended = self.end_leases() => {
                    if let Err(error) = ended {
                        tracing::error!(error = %ErrorChain(&error), "cannot end the open leases");
                    }
                }
                () = self.clock.sleep(END_LEASES_LIMIT) => {
                    tracing::error!("open leases are left; the next start ends them");
                }
            }
        }
        self.stop_loop.cancel();
        tokio::select! {
            () = self.loop_ended.cancelled() => {}
            () = self.clock.sleep(STOP_LIMIT) => {}
        }
        self.trade.store.close().await;
    }

    /// Asks for the end of every open lease and waits until nothing of them is left.
    async fn end_leases(&self) -> Result<(), StoreError> {
        let mut changes = self.trade.store.changes();
        loop {
            let open = self.trade.store.open_leases().await?;
            if open.is_empty() || self.loop_ended.is_cancelled() {
                return Ok(());
            }
            for lease in &open {
                let now = UnixMillis(self.clock.unix_ms());
                let ended = LeaseEvent::EndAsked(EndReason::Provider);
                drop(self.trade.store.apply(lease, ended, now).await?);
            }
            tokio::select! {
                // This holds the store, so the channel is open.
                _ = changes.changed() => {}
                () = self.loop_ended.cancelled() => {}
            }
        }
    }

    fn spawn(
        &self,
        tasks: &Tasks,
        reconciler: Reconciler,
        (listener, router): (TcpListener, Router),
        limits: ApiLimits,
        offers_file: Option<PathBuf>,
    ) {
        let (stop, ended, drives) =
            (self.stop_loop.clone(), self.loop_ended.clone(), tasks.clone());
        tasks.spawn("reconciler", OnError::Stop, async move {
            let _ended = ended.drop_guard();
            Arc::new(reconciler).run(drives, stop).await;
            Ok(())
        });
        if let Some(watch) = self.trade.watch.clone() {
            let stop = self.stop_loop.clone();
            tasks.spawn("watch over the GPUs", OnError::Log, async move {
                watch.run(stop).await;
                Ok(())
            });
        }
        let (stop, with) = (self.stop_api.clone(), (Arc::clone(&self.clock), tasks.clone()));
        tasks.spawn("node API", OnError::Stop, async move {
            Ok(node_api::serve(listener, router, limits, with, stop).await?)
        });
        let (stop, permits) = (self.stop_api.clone(), Arc::clone(&self.trade.permits));
        let address = self.addresses.announced;
        tasks.spawn("entry on chain", OnError::Log, async move {
            tokio::select! {
                () = permits.watch(address) => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        });
        let Some(file) = offers_file else { return };
        let (stop, clock) = (self.stop_api.clone(), Arc::clone(&self.clock));
        let offers = Arc::clone(&self.trade.offers);
        tasks.spawn("offers file", OnError::Log, async move {
            Ok(offers::watch(&offers, &clock, &file, stop).await?)
        });
    }
}

// === impl Trade ===

impl Trade {
    /// Opens the store and says what there is to lease.
    async fn open(
        config: &MinerConfig,
        subnet: Box<dyn Subnet>,
        clock: &SharedClock,
        limits: ApiLimits,
    ) -> Result<Self, StartError> {
        let me = config.hotkey.hotkey();
        let lock = DirLock::take(&config.state_dir)?;
        let fuse = Fuse::new(config.kill_after);
        let store = Arc::new(Store::open(&config.state_dir, &me, fuse, lock).await?);
        let inventory = read_inventory(config).await?;
        let permits = Arc::new(Permits::new(subnet, me, Arc::clone(clock)));
        check_registered(&permits, me, config.netuid).await?;
        let (price, runtime) = (config.price_per_hour, Arc::clone(&config.runtime));
        let network = match config.network {
            Some(_) => LeaseNetwork::Egress,
            None => LeaseNetwork::None,
        };
        let fetches = config.fetches.iter().take(FETCHES_MAX).map(ToString::to_string).collect();
        let disk_bytes = disk_bytes(&config.state_dir)?;
        let facilities = Facilities { network, ports: config.ports, fetches, disk_bytes };
        let mut offers = Offers::new(&inventory, price, facilities, runtime, Arc::clone(clock));
        // Leases of a version that stored no shares go on with what they had.
        let old = store.share_with_old(&offers.whole()).await?;
        if old > 0 {
            tracing::info!(leases = old, "leases of an older version keep the whole machine");
        }
        let open = store.open_leases().await?;
        offers.begin_with(&open);
        if let Some(file) = &config.offers {
            first_load(&offers, file, &open)?;
        }
        let offers = Arc::new(offers);
        let leases = Arc::new(Leases::new(
            Arc::clone(&store),
            Arc::clone(&offers),
            Arc::clone(&permits) as _,
            Arc::clone(clock),
            limits.lease_changes,
        ));
        let watch = config.gpus.as_ref().map(|source| {
            let offered = offers.machine().gpus.iter().map(|gpu| gpu.uuid.clone());
            let (source, absent) = (Arc::clone(source), offers.absent().clone());
            let leases = Arc::clone(&leases);
            Arc::new(GpuWatch::new(source, leases, absent, offered, Arc::clone(clock)))
        });
        Ok(Self { store, offers, permits, leases, ports: Arc::default(), watch })
    }
}

/// Reads the offers file at the start. A wrong one stops a node that serves nobody; where tenants are, nothing is offered
/// until it is right, and they go on.
fn first_load(offers: &Offers, file: &Path, open: &[Lease]) -> Result<(), OffersError> {
    match offers.load(file) {
        Ok(_) => Ok(()),
        Err(error) if open.is_empty() => Err(error),
        Err(error) => {
            tracing::error!(
                error = %ErrorChain(&error),
                leases = open.len(),
                "nothing is offered until the offers file is right; the leases that are open go on"
            );
            offers.clear();
            Ok(())
        }
    }
}

/// Refuses a runtime without limits, and ports for leases that the node needs itself. A port 0 is one that is free by then.
fn check(config: &MinerConfig) -> Result<(), StartError> {
    let refuses = config.unenforced_limits == UnenforcedLimits::Refuse;
    if refuses && !config.runtime.limits_enforced() {
        return Err(StartError::UnenforcedLimits);
    }
    let Some(range) = config.ports else { return Ok(()) };
    let own = [(config.listen.port(), "--axon.port"), (config.ssh_listen.port(), "--ssh.port")];
    let found = own.into_iter().find(|(port, _)| range.contains(*port));
    found.map_or(Ok(()), |(port, flag)| Err(StartError::PortRange { range, port, flag }))
}

/// Of the file system that holds the node's state.
fn disk_bytes(state_dir: &Path) -> Result<u64, InventoryError> {
    let disk = rustix::fs::statvfs(state_dir)
        .map_err(|e| InventoryError::Read { path: state_dir.to_owned(), source: e.into() })?;
    Ok(disk.f_blocks.saturating_mul(disk.f_frsize))
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

fn addresses(config: &MinerConfig, api: SocketAddr, ssh_port: u16) -> Addresses {
    let port = config.announce_port.unwrap_or_else(|| api.port());
    Addresses {
        api,
        ssh: SocketAddr::new(config.ssh_listen.ip(), ssh_port),
        announced: SocketAddr::new(config.announce_ip, port),
    }
}

async fn read_inventory(config: &MinerConfig) -> Result<Inventory, StartError> {
    let state_dir = config.state_dir.clone();
    let read = tokio::task::spawn_blocking(move || inventory::read(&state_dir)).await;
    let mut inventory = read.expect("reading the inventory does not panic")?;
    let seen = config.gpus.as_ref().map(|source| Arc::clone(&source.looks().borrow()));
    if let Some(Answer::Gpus(gpus)) = seen.map(|look| look.answer.clone()) {
        // Who watches over the GPUs has seen them already.
        inventory.gpus = gpus.samples.into_iter().map(|sample| sample.gpu).collect();
    }
    for note in &inventory.notes {
        tracing::warn!(note, "a part of this machine is not offered");
    }
    Ok(inventory)
}

async fn check_registered(
    permits: &Permits,
    hotkey: Hotkey,
    netuid: Netuid,
) -> Result<(), StartError> {
    match permits.refresh_soon().await {
        Ok(Standing::Member(_)) => Ok(()),
        Ok(Standing::Stranger) => Err(StartError::NotRegistered { hotkey, netuid }),
        Err(error) if error.kind != Kind::Elsewhere => Err(StartError::Chain(error)),
        Err(error) => {
            tracing::warn!(
                error = %ErrorChain(&error),
                "the chain is out of reach; leases go on, new ones wait for it"
            );
            Ok(())
        }
    }
}

async fn open_gateway(
    config: &MinerConfig,
    clock: &SharedClock,
    tasks: &Tasks,
) -> Result<Gateway, StartError> {
    let host_key = HostKey::load_or_create(&config.state_dir.join(HOST_KEY_FILE))?;
    let limits = for_sessions(Limits::of_this_process(), config.sessions);
    let config = GatewayConfig { listen: config.ssh_listen, host_key, limits };
    Ok(Gateway::bind(config, Arc::clone(clock), tasks.clone()).await?)
}

fn for_sessions(mut limits: Limits, sessions: SessionLimits) -> Limits {
    limits.idle = sessions.idle;
    limits.total = sessions.total;
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator's limit that does not reach the gateway leaves sessions there for ever; one in the other's place ends the
    /// sessions of tenants who are at work.
    #[test]
    fn limits_of_sessions_reach_the_gateway() {
        let (idle, total) = (Some(Duration::from_secs(600)), Some(Duration::from_secs(900)));
        let limits = for_sessions(Limits::standard(), SessionLimits { idle, total });
        assert_eq!((limits.idle, limits.total), (idle, total));
        let none = for_sessions(Limits::standard(), SessionLimits::default());
        assert_eq!(none, Limits::standard(), "as long as the lease without any");
    }
}
