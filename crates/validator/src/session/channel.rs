//! What a session needs of the way to a prover.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use nicompute_client::{LeaseKey, SshAccess, SshError};

/// Bytes both ways between the verifier and a prover that runs.
#[async_trait]
pub trait ProofChannel: Send {
    /// The next bytes of the prover, or nothing once it is gone. Cancel-safe.
    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError>;
    /// Sends bytes to the prover.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError>;
}

/// The way into a lease: starts the prover there.
#[async_trait]
pub trait ProofDoor: Send + Sync + Debug {
    /// Enters a lease, brings the prover in and starts it.
    async fn open(
        &self,
        access: &SshAccess,
        key: &LeaseKey,
        prover: &[u8],
        budget: Duration,
    ) -> Result<Box<dyn ProofChannel>, ChannelError>;
}

/// Why there is no way to the prover, or no more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The lease could not be entered or used.
    #[error("the proof lease cannot be used")]
    Ssh(#[from] SshError),
    /// The prover ended by itself.
    #[error("the prover ended {how}: {said}")]
    Ended {
        /// With which status or signal.
        how: String,
        /// The end of its standard error.
        said: String,
    },
    /// A way that is not SSH broke.
    #[error("the channel broke")]
    Broken,
}
