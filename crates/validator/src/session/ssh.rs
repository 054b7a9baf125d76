//! The way into a lease that a renter takes too: SSH, a file, a command.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use nicompute_client::{ExecEvent, ExecStream, LeaseKey, LeaseSession, SshAccess, plain};

use super::channel::{ChannelError, ProofChannel, ProofDoor};

/// Where the prover is put, with a number behind it: the program of a session before may still be running, and a file
/// that runs cannot be written. The directory lies in memory and allows programs.
const PROVER_PATH: &str = "/run/nicompute/prover";
/// Numbers the provers of this process.
static OPENED: AtomicU64 = AtomicU64::new(0);
/// Everybody in the lease may run it.
const PROVER_MODE: u32 = 0o755;
/// Bytes of the prover's standard error that are kept to explain a failure.
const STDERR_BYTES_MAX: usize = 2048;
/// Characters of it that are shown.
const STDERR_CHARS_SHOWN: usize = 300;

/// Enters leases by SSH.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SshDoor;

#[async_trait]
impl ProofDoor for SshDoor {
    async fn open(
        &self,
        access: &SshAccess,
        key: &LeaseKey,
        prover: &[u8],
        budget: Duration,
    ) -> Result<Box<dyn ProofChannel>, ChannelError> {
        let session = LeaseSession::connect(access, key, budget).await?;
        let path = next_path();
        session.upload(&path, prover, PROVER_MODE, budget).await?;
        let stream = session.exec(&path, budget).await?;
        Ok(Box::new(SshChannel { stream, stderr: Vec::new(), _session: session }))
    }
}

/// A prover's standard input and output. The connection lives as long as this.
#[derive(Debug)]
struct SshChannel {
    stream: ExecStream,
    stderr: Vec<u8>,
    _session: LeaseSession,
}

#[async_trait]
impl ProofChannel for SshChannel {
    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        loop {
            match self.stream.next().await {
                None => return Ok(None),
                Some(ExecEvent::Stdout(bytes)) => return Ok(Some(bytes)),
                Some(ExecEvent::Stderr(bytes)) => {
                    let room = STDERR_BYTES_MAX.saturating_sub(self.stderr.len());
                    self.stderr.extend(bytes.into_iter().take(room));
                }
                Some(ExecEvent::Exited(status)) => {
                    return Err(self.ended(format!("with status {status}")));
                }
                Some(ExecEvent::Signalled(signal)) => {
                    return Err(self.ended(format!("by signal {}", plain(&signal, 16))));
                }
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        Ok(self.stream.write(bytes).await?)
    }
}

impl SshChannel {
    fn ended(&self, how: String) -> ChannelError {
        let said = String::from_utf8_lossy(&self.stderr);
        ChannelError::Ended { how, said: plain(said.trim(), STDERR_CHARS_SHOWN) }
    }
}

fn next_path() -> String {
    format!("{PROVER_PATH}-{}", OPENED.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A further session of a lease could not bring its prover in while the one before is still ending.
    #[test]
    fn no_two_provers_share_a_file() {
        assert_ne!(next_path(), next_path());
    }
}
