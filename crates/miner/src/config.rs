//! What a node is started with. The cli makes it once; nothing here reads the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_host::net::Network;
use nicompute_host::runtime::{ImagePattern, Runtime};
use nicompute_host::telemetry::GpuSource;
use nicompute_keys::Keypair;
use nicompute_market::{MicroUsd, Netuid};

use crate::{AccessList, KillPoint, PortRange};

/// Everything that a provider decides about a node.
#[derive(Debug, Clone)]
pub struct MinerConfig {
    /// Where the store, the host key and the leases' directories lie. One node at a time uses it.
    pub state_dir: PathBuf,
    /// The subnet that the hotkey is registered on.
    pub netuid: Netuid,
    /// Where the node API is bound; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the SSH gateway is bound; port 0 takes a free one.
    pub ssh_listen: SocketAddr,
    /// The address that others reach this machine by; announced on chain and told to holders.
    pub announce_ip: IpAddr,
    /// The port that others reach the node API by, where it is not the bound one.
    pub announce_port: Option<u16>,
    /// The provider's hotkey.
    pub hotkey: Keypair,
    /// The asking price of the whole machine for an hour, where no file says what is offered.
    pub price_per_hour: MicroUsd,
    /// What is offered; read again when it changes. The whole machine as one offer without it.
    pub offers: Option<PathBuf>,
    /// Images that are fetched for rentals, as far as the runtime may. An offers file names its own.
    pub fetches: Vec<ImagePattern>,
    /// What runs the containers. Made for this hotkey and this state directory.
    pub runtime: Arc<dyn Runtime>,
    /// What gives leases a way to the internet; without one they have none.
    pub network: Option<Arc<dyn Network>>,
    /// The ports that leases may have reached at this machine, on the SSH gateway's address; without any they have none.
    pub ports: Option<PortRange>,
    /// How long SSH sessions may last.
    pub sessions: SessionLimits,
    /// The agent's executable, readable by everybody.
    pub agent: PathBuf,
    /// Paths that a tenant must not see where the machine's own root is the image.
    pub masked_host_paths: Vec<PathBuf>,
    /// Whether a runtime that does not hold tenants to their share may be used.
    pub unenforced_limits: UnenforcedLimits,
    /// Who tells of the GPUs while the node runs; without it they are watched by nobody.
    pub gpus: Option<Arc<dyn GpuSource>>,
    /// The v1.9.0 axon door and whom it lets in; `None` keeps it shut. Its lists count at the node API too.
    pub axon: Option<AccessList>,
    /// Whom the node API keeps out or trusts where that door is shut; nobody without it.
    pub lists: Option<AccessList>,
    /// What becomes of open leases when the node is shut down.
    pub on_shutdown: OnShutdown,
    /// Tests only: the process kills itself right after this step of a lease.
    pub kill_after: Option<KillPoint>,
}

/// How long SSH sessions may last; the default is as long as their lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionLimits {
    /// Without a byte either way.
    pub idle: Option<Duration>,
    /// In all.
    pub total: Option<Duration>,
}

/// Whether a runtime without limits may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnenforcedLimits {
    /// The node does not start with one.
    Refuse,
    /// The node starts with one and its offer says so. For the local market only.
    AcceptOnDevnet,
}

/// What becomes of open leases when the node is shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnShutdown {
    /// They go on; the next start adopts them.
    KeepLeases,
    /// They end, and everything that belongs to them is removed.
    EndLeases,
}
