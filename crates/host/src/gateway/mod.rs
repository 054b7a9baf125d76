//! The SSH gateway: the one door through which renters and validators enter leases.
//!
//! Owns the SSH listener, the sockets on which agents report, and the table of who may enter what. It checks keys and
//! moves bytes; what runs is decided in the container, by the agent. Both sides are hostile: clients may send anything
//! before and after they are known, and everything an agent says is taken as if its tenant had written it.
//!
//! It never runs a program on the host, never resolves a name, and never lets one lease see another.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{SharedClock, Tasks};
use nicompute_market::LeaseId;

mod bridge;
mod door;
mod host_key;
mod lease;
mod limits;
mod link;
mod server;
mod session;
mod socket;
mod stream;
mod upload;

pub use host_key::{HostKey, HostKeyError};
pub use limits::Limits;

use lease::Leases;

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

/// Who may enter a lease, and where its agent reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The lease. Its short form is the SSH user name.
    pub lease: LeaseId,
    /// Public keys in OpenSSH's text form.
    pub keys: Vec<String>,
    /// The folder that the container sees read-only; the gateway puts its socket there.
    pub socket_dir: PathBuf,
    /// The container's first process as this host sees it. Where it is known, nobody else may speak as the agent.
    pub init_pid: Option<u32>,
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

/// Why a route was not opened. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A key that is none.
    #[error("key {index} is not an SSH public key")]
    Key {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: russh::keys::ssh_key::Error,
    },
    /// More keys than a route takes.
    #[error("a lease takes at most {max} keys")]
    TooManyKeys {
        /// The limit.
        max: usize,
    },
    /// The socket could not be made.
    #[error("could not make the agent's socket in {}", dir.display())]
    Socket {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
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
        let leases = Leases::default();
        let shared = Arc::new(Shared { limits: config.limits, clock, tasks, leases });
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

    /// Lets the route's keys into its lease. Asking again replaces keys and process: sessions of keys that are no longer
    /// listed end, and an agent that is not the given process is cut off.
    ///
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// When a key is no key or the socket cannot be made.
    pub fn open(&self, route: &Route) -> Result<(), RouteError> {
        self.shared.leases.open(&self.shared, route)
    }

    /// Ends the lease's sessions, cuts off its agent and forgets its keys. Closing what is not open does nothing.
    pub fn close(&self, lease: LeaseId) {
        self.shared.leases.close(lease);
    }

    /// Whether the lease's agent is connected.
    #[must_use]
    pub fn connected(&self, lease: LeaseId) -> bool {
        self.shared.leases.get(lease).is_some_and(|lease| lease.agent().is_some())
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
