//! The way into a lease, as the node needs it: opened, closed, and whether the lease's agent has reported.

use std::fmt;

use nicompute_daemon::{BoxError, Kind};
use nicompute_host::gateway::{Gateway, Route, RouteError};
use nicompute_market::LeaseId;

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
