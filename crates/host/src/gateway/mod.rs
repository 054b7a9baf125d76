//! The SSH gateway: the one door through which renters and validators enter leases.
//!
//! Owns the SSH listener, the sockets on which agents report, and the table of who may enter what. It checks keys and
//! moves bytes; what runs is decided in the container, by the agent. Both sides are hostile: clients may send anything
//! before and after they are known, and everything an agent says is taken as if its tenant had written it.
//!
//! It never runs a program on the host, never resolves a name, and never lets one lease see another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{SharedClock, Tasks};
use nicompute_market::LeaseId;
use tokio::sync::Semaphore;

mod activity;
mod attempts;
mod bridge;
mod door;
mod forward;
mod handler;
mod host_key;
mod lease;
mod limits;
mod link;
mod lobby;
mod password;
mod publish;
mod route;
mod server;
mod session;
mod socket;
mod stall;
mod stats;
mod stream;
mod upload;

pub use host_key::{HostKey, HostKeyError};
pub use limits::Limits;
pub use password::{PasswordHash, PasswordHashError};
pub use publish::PublishError;
pub use route::{AgentForwarding, Route, RouteError};
pub use stats::GatewayStats;

use lease::Leases;
use lobby::Lobby;
use stats::Counters;

/// What the gateway is made from.
#[derive(Debug)]
pub struct GatewayConfig {
    /// Where SSH clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What the gateway proves itself with.
    pub host_key: HostKey,
    /// How much it takes on.
    pub limits: Limits,
}

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The address is taken, or not of this machine.
    #[error("could not listen for SSH on {listen}")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The host key cannot be shown as text.
    #[error("the host key is unusable")]
    HostKey(#[source] russh::keys::ssh_key::Error),
}

/// The running gateway. Cheap to clone; it ends with the tasks it was given.
#[derive(Debug, Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    host_public_key: Arc<str>,
}

/// What the parts of the gateway have in common.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    clock: SharedClock,
    tasks: Tasks,
    leases: Leases,
    lobby: Arc<Lobby>,
    /// Places of connections to published ports, of all leases together.
    published: Arc<Semaphore>,
    stats: Counters,
}

impl Gateway {
    /// Starts listening.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(
        config: GatewayConfig,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<Self, GatewayError> {
        let host_public_key = config.host_key.public_openssh().map_err(GatewayError::HostKey)?;
        let failed = |source| GatewayError::Listen { listen: config.listen, source };
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let limits = config.limits;
        let lobby = Arc::new(Lobby::new(limits.half_open, limits.half_open_per_address));
        let (leases, stats) = (Leases::default(), Counters::default());
        let published = Arc::new(Semaphore::new(limits.published_connections));
        let shared = Arc::new(Shared { limits, clock, tasks, leases, lobby, published, stats });
        server::start(Arc::clone(&shared), listener, config.host_key);
        Ok(Self { shared, local_addr, host_public_key: host_public_key.into() })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The host key in OpenSSH's text form, `ssh-ed25519 AAAA…`.
    #[must_use]
    pub fn host_public_key(&self) -> String {
        self.host_public_key.to_string()
    }

    /// Lets the route's keys into its lease. Asking again replaces what the route says: sessions of keys or a password that
    /// no longer open it end, the others go on, and an agent that is not the given process is cut off.
    ///
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// When a key is no key or the socket cannot be made.
    pub fn open(&self, route: &Route) -> Result<(), RouteError> {
        self.shared.leases.open(&self.shared, route)
    }

    /// Ends the lease's sessions, cuts off its agent, withdraws its ports and forgets its keys. Closing what is not open does nothing.
    pub fn close(&self, lease: LeaseId) {
        self.shared.leases.close(lease);
    }

    /// Whether the lease's agent is connected.
    #[must_use]
    pub fn connected(&self, lease: LeaseId) -> bool {
        self.shared.leases.get(lease).is_some_and(|lease| lease.agent().is_some())
    }

    /// Whether the lease's password still opens it: it has one, and no key has been used since it has it, also before a
    /// restart.
    #[must_use]
    pub fn password_open(&self, lease: LeaseId) -> bool {
        self.shared.leases.get(lease).is_some_and(|lease| lease.password().is_some())
    }

    /// Shows a text, such as a warning of the lease's end, on every login terminal that is open in the lease.
    pub fn notice(&self, lease: LeaseId, text: &str) {
        if let Some(lease) = self.shared.leases.get(lease) {
            lease.notify(text);
        }
    }

    /// Listens on an address of the node and passes connections on to a port inside, on the container's own 127.0.0.1.
    /// Gives the address, whose port may have been 0. Asking for the same again changes nothing; it ends with the route.
    ///
    /// Must be called inside the runtime, after [`Gateway::open`].
    ///
    /// # Errors
    /// When the lease has no route, has all ports it may have, or the address cannot be had.
    pub fn publish(
        &self,
        lease: LeaseId,
        container_port: u16,
        listen: SocketAddr,
    ) -> Result<SocketAddr, PublishError> {
        let open = self.shared.leases.get(lease).ok_or(PublishError::NoRoute(lease))?;
        publish::publish(&self.shared, &open, container_port, listen)
    }

    /// Stops listening for a published port and ends its connections.
    pub fn withdraw(&self, lease: LeaseId, container_port: u16) {
        if let Some(lease) = self.shared.leases.get(lease) {
            lease.ports.withdraw(container_port);
        }
    }

    /// The lease's published ports, and where each is reached.
    #[must_use]
    pub fn published(&self, lease: LeaseId) -> Vec<(u16, SocketAddr)> {
        self.shared.leases.get(lease).map(|lease| lease.ports.list()).unwrap_or_default()
    }

    /// What it has seen since it began.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        let mut stats = self.shared.stats.read();
        stats.half_open = self.shared.lobby.len();
        stats.inside = self.shared.leases.inside();
        stats.channels = self.shared.leases.channels(self.shared.limits.channels_per_lease);
        stats
    }
}

/// Waits for the work, but not for ever.
async fn within<T>(
    clock: &SharedClock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}
