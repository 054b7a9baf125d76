//! A lease entered by SSH: one pinned host key, one key per lease, exec and SFTP.

mod exec;
mod key;
mod session;

use std::time::Duration;

use nicompute_daemon::Kind;

pub use exec::{EXEC_OUTPUT_BYTES_MAX, ExecEvent, ExecStream, Ran};
pub use key::{LeaseKey, LeaseKeyError};
pub use session::LeaseSession;

/// Why a lease could not be entered or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshError {
    /// No connection to the gateway.
    #[error("the SSH gateway cannot be reached")]
    Connect(#[source] std::io::Error),
    /// The gateway has another host key than the provider's hotkey vouches for.
    #[error("the SSH gateway shows another host key than the one that its provider signed")]
    HostKey,
    /// The gateway does not take the lease's key.
    #[error("the SSH gateway does not accept this lease's key")]
    Denied,
    /// The connection failed or ended.
    #[error("the SSH connection failed")]
    Protocol(#[source] russh::Error),
    /// The gateway refused to start the command or subsystem.
    #[error("the lease refused to start {0}")]
    NotStarted(&'static str),
    /// The connection ended in the middle.
    #[error("the SSH connection ended")]
    Ended,
    /// A file could not be written.
    #[error("the file {path} could not be written in the lease")]
    Sftp {
        /// The path in the lease.
        path: String,
        /// What the server said.
        #[source]
        source: russh_sftp::client::error::Error,
    },
    /// Output above the limit.
    #[error("the command wrote more than {limit_bytes} bytes")]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// The caller's budget is used up.
    #[error("not done within {} ms", .0.as_millis())]
    Deadline(Duration),
}

impl SshError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::HostKey | Self::Denied => Kind::Caller,
            Self::Connect(_)
            | Self::Protocol(_)
            | Self::NotStarted(_)
            | Self::Ended
            | Self::Sftp { .. }
            | Self::TooLong { .. }
            | Self::Deadline(_) => Kind::Elsewhere,
        }
    }
}

impl From<russh::Error> for SshError {
    fn from(error: russh::Error) -> Self {
        Self::Protocol(error)
    }
}

/// Runs a step within its budget.
async fn within<T>(
    budget: Duration,
    step: impl Future<Output = Result<T, SshError>>,
) -> Result<T, SshError> {
    match tokio::time::timeout(budget, step).await {
        Ok(result) => result,
        Err(_) => Err(SshError::Deadline(budget)),
    }
}
