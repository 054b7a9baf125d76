//! The way into a lease, as the node needs it: opened, closed, and whether the lease's agent has reported.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use nicompute_daemon::{BoxError, Kind};
use nicompute_host::gateway::{Gateway, PublishError, Route, RouteError};
use nicompute_market::{LeaseId, PublishedPort};

/// Opens and closes ways into leases. [`Gateway`] is the real one.
pub trait Routes: Send + Sync + fmt::Debug + 'static {
    /// Lets the route's keys into its lease. Doing it again replaces keys and process.
    ///
    /// # Errors
    /// When a key or the agent's socket is unusable; nothing has changed then.
    fn open(&self, route: &Route) -> Result<(), RouteRefused>;

    /// Ends the lease's sessions and forgets its keys. Closing what is not open does nothing.
    fn close(&self, lease: LeaseId);

    /// Whether the lease's agent is there, so that its keys can enter.
    fn connected(&self, lease: LeaseId) -> bool;

    /// Has a port of an open lease reached at a port of this machine, until the lease is closed. Again is no error.
    ///
    /// # Errors
    /// When nobody can listen there; nothing has changed then.
    fn publish(&self, lease: LeaseId, port: PublishedPort) -> Result<(), PortRefused>;

    /// Says something to whoever is in the lease, where the door can.
    fn notice(&self, lease: LeaseId, text: &str) {
        let _ = (lease, text);
    }

    /// The port of the SSH door.
    fn port(&self) -> u16;

    /// The host key, `ssh-ed25519 AAAA…`.
    fn host_key(&self) -> String;
}

/// Why a route was not opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the way into the lease")]
pub struct RouteRefused {
    /// Whether the lease's keys or this machine are the trouble.
    pub kind: Kind,
    /// The cause.
    #[source]
    pub source: BoxError,
}

/// Why a port of a lease is not reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish a port of the lease")]
pub struct PortRefused {
    /// What its holder is told.
    pub shown: &'static str,
    /// Whether this one port of the machine is the trouble.
    pub other_port_may_do: bool,
    /// The cause.
    #[source]
    pub source: BoxError,
}

// === impl PortRefused ===

impl From<PublishError> for PortRefused {
    fn from(error: PublishError) -> Self {
        let (shown, other_port_may_do) = match &error {
            PublishError::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    ("another program of the provider's machine listens there", true)
                }
                io::ErrorKind::PermissionDenied => {
                    ("the provider's node may not listen there", true)
                }
                _ => ("the provider's node cannot listen there", false),
            },
            _ => ("the provider's node cannot listen there", false),
        };
        Self { shown, other_port_may_do, source: error.into() }
    }
}

impl Routes for Gateway {
    fn open(&self, route: &Route) -> Result<(), RouteRefused> {
        Self::open(self, route).map_err(|error| {
            let kind = match error {
                RouteError::Key { .. }
                | RouteError::KeyValue { .. }
                | RouteError::TooManyKeys { .. } => Kind::Caller,
                _ => Kind::Elsewhere,
            };
            RouteRefused { kind, source: error.into() }
        })
    }

    fn close(&self, lease: LeaseId) {
        Self::close(self, lease);
    }

    fn connected(&self, lease: LeaseId) -> bool {
        Self::connected(self, lease)
    }

    fn publish(&self, lease: LeaseId, port: PublishedPort) -> Result<(), PortRefused> {
        // Where the SSH door is, ports are too.
        let listen = SocketAddr::new(self.local_addr().ip(), port.port);
        Ok(Self::publish(self, lease, port.container_port, listen).map(drop)?)
    }

    fn notice(&self, lease: LeaseId, text: &str) {
        Self::notice(self, lease, text);
    }

    fn port(&self) -> u16 {
        self.local_addr().port()
    }

    fn host_key(&self) -> String {
        self.host_public_key()
    }
}
