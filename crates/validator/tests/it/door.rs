//! A way into leases that leads to a prover in this process, honest or not.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use nicompute_client::{LeaseKey, SshAccess};
use nicompute_prover::{CpuDevice, Device, DiskDevice, Prover, cheats, stdio};
use nicompute_validator::{ChannelError, ProofChannel, ProofDoor};
use tokio::sync::mpsc as async_mpsc;

/// What waits in a pipe, at most.
const PIPE_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    Honest,
    Hankel,
    HalfOfTheRows,
    OneStepShort,
    /// Never says a word.
    Silent,
    /// Hangs up after this many pieces from the verifier.
    HangsUpAfter(u32),
    /// Is there and says nothing more after this many pieces.
    SticksAfter(u32),
    /// Cannot be entered.
    Locked,
}

/// Leads every lease to a prover of this conduct.
#[derive(Debug)]
pub(crate) struct ProverDoor {
    pub(crate) conduct: Conduct,
    pub(crate) opened: AtomicU32,
    /// Whether a prover has stuck.
    pub(crate) stuck: Arc<AtomicBool>,
}

impl ProverDoor {
    pub(crate) fn new(conduct: Conduct) -> Arc<Self> {
        Arc::new(Self { conduct, opened: AtomicU32::new(0), stuck: Arc::default() })
    }
}

#[async_trait]
impl ProofDoor for ProverDoor {
    async fn open(
        &self,
        _access: &SshAccess,
        _key: &LeaseKey,
        prover: &[u8],
        _budget: Duration,
    ) -> Result<Box<dyn ProofChannel>, ChannelError> {
        assert_eq!(prover, b"the prover");
        self.opened.fetch_add(1, Ordering::SeqCst);
        let device: Box<dyn Device> = match self.conduct {
            Conduct::Honest
            | Conduct::Silent
            | Conduct::HangsUpAfter(_)
            | Conduct::SticksAfter(_) => Box::new(CpuDevice::new("cpu", "honest", 1 << 30, 1)),
            Conduct::Hankel => Box::new(cheats::hankel()),
            Conduct::HalfOfTheRows => Box::new(cheats::half_of_the_rows()),
            Conduct::OneStepShort => Box::new(cheats::one_step_short()),
            Conduct::Locked => return Err(ChannelError::Broken),
        };
        let (to_prover, from_verifier) = mpsc::sync_channel(PIPE_MAX);
        let (to_verifier, from_prover) = async_mpsc::channel(PIPE_MAX);
        let is_silent = self.conduct == Conduct::Silent;
        let kept = to_verifier.clone();
        drop(tokio::task::spawn_blocking(move || {
            if !is_silent {
                let disk = DiskDevice::at_first_of(&[std::env::temp_dir()], 1);
                let mut prover = Prover::new(vec![device, Box::new(disk)]);
                let input = Pipe { from: from_verifier, rest: Vec::new() };
                // A refused prover ends with an error; the verifier knows why.
                drop(stdio::run(&mut prover, input, Out(to_verifier)));
            }
        }));
        let left = match self.conduct {
            Conduct::HangsUpAfter(pieces) | Conduct::SticksAfter(pieces) => Some(pieces),
            _ => None,
        };
        // A silent prover is there and says nothing.
        let kept = is_silent.then_some(kept);
        let sticks =
            matches!(self.conduct, Conduct::SticksAfter(_)).then(|| Arc::clone(&self.stuck));
        Ok(Box::new(PipeChannel { to_prover, from_prover, left, sticks, _kept: kept }))
    }
}

struct PipeChannel {
    to_prover: mpsc::SyncSender<Vec<u8>>,
    from_prover: async_mpsc::Receiver<Vec<u8>>,
    left: Option<u32>,
    /// What is set instead of hanging up.
    sticks: Option<Arc<AtomicBool>>,
    _kept: Option<async_mpsc::Sender<Vec<u8>>>,
}

#[async_trait]
impl ProofChannel for PipeChannel {
    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        if self.left == Some(0) {
            let Some(stuck) = &self.sticks else { return Ok(None) };
            stuck.store(true, Ordering::SeqCst);
            return std::future::pending().await;
        }
        Ok(self.from_prover.recv().await)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        self.to_prover.try_send(bytes.to_vec()).map_err(|_| ChannelError::Broken)
    }
}

struct Pipe {
    from: mpsc::Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.from.recv() {
                Ok(bytes) => self.rest = bytes,
                Err(_) => return Ok(0),
            }
        }
        let len = self.rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(len)
    }
}

struct Out(async_mpsc::Sender<Vec<u8>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for PipeChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeChannel").finish_non_exhaustive()
    }
}
