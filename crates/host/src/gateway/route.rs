//! What the node tells the gateway about a lease.

use std::path::PathBuf;

use nicompute_market::LeaseId;
use nicompute_market::ssh_key::SshKeyError;

use super::password::PasswordHash;

/// Who may enter a lease, and where its agent reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The lease. Its short form is the SSH user name, which always works; `root` stands for the lease of the key or password
    /// where there is no doubt which that is, see `holder`.
    pub lease: LeaseId,
    /// Public keys in OpenSSH's text form.
    pub keys: Vec<String>,
    /// The folder that the container sees read-only; the gateway puts its socket there.
    pub socket_dir: PathBuf,
    /// The container's first process as this host sees it. Where it is known, nobody else may speak as the agent.
    pub init_pid: Option<u32>,
    /// The password of a lease that came through the v1.9.0 door; others have none. It opens the lease until the first
    /// login by a key.
    pub password: Option<PasswordHash>,
    /// Who rents it, where that is known: a mark that no other holder has. Public keys are public, so anybody can put
    /// somebody else's into a lease: `root` with a key that leases of different holders have had at the same time opens none of
    /// them, and leases whose holder is not known are of different holders. A lease with a password is not touched by
    /// those without.
    pub holder: Option<[u8; 32]>,
    /// Whether clients may lend their keys to programs in the container.
    pub agent_forwarding: AgentForwarding,
    /// What a login shell on a terminal shows first, such as the lease's GPUs and its expiry. Nothing is shown to
    /// commands and transfers.
    pub greeting: Option<String>,
}

/// Whether a client's key agent may be used from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentForwarding {
    /// Requests for it are refused; the session goes on without.
    #[default]
    Off,
    /// A client that asks for it gets a socket in the container that leads to its agent.
    On,
}

impl Route {
    /// A route without password, greeting and agent forwarding, of a container that is not known yet.
    #[must_use]
    pub const fn new(lease: LeaseId, keys: Vec<String>, socket_dir: PathBuf) -> Self {
        Self {
            lease,
            keys,
            socket_dir,
            init_pid: None,
            password: None,
            holder: None,
            agent_forwarding: AgentForwarding::Off,
            greeting: None,
        }
    }
}

/// Why a route was not opened. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A key that is none, or of a kind that is not taken.
    #[error("key {index} cannot be used")]
    Key {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: SshKeyError,
    },
    /// A key that has the right form and is none.
    #[error("key {index} is not an SSH public key")]
    KeyValue {
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
