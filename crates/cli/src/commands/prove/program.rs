//! The embedded prover as a child process of this one, in a folder that goes with it.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use nicompute_proof::{
    DeviceClaim, DeviceKind, FrameDecoder, PROOF_VERSION, ProverFrame, VerifierFrame,
};
use nicompute_validator::{ChannelError, ProofChannel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::progress::Progress;
use crate::embedded;
use crate::exit::{Exit, Failure};

/// Bytes that are read at a time.
const READ_LEN: usize = 64 * 1024;
/// Bytes of the prover's standard error that are kept to explain a failure.
const STDERR_LEN_MAX: u64 = 2048;
/// How long the prover may take to say what the machine has: drivers are slow to wake up.
const HELLO_MAX: Duration = Duration::from_secs(60);
/// Bytes that HELLO can have at most, with room.
const HELLO_LEN_MAX: usize = 64 * 1024;
/// How long a prover that was told to go may take.
const END_MAX: Duration = Duration::from_secs(5);

/// A private folder with the provers in it, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    provers: Provers,
}

/// Where the provers are.
#[derive(Debug, Default)]
struct Provers {
    cpu: PathBuf,
    cuda: PathBuf,
}

/// What the machine has, in the provers' words.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) claims: Vec<DeviceClaim>,
    /// What they said besides, such as why there is no GPU.
    pub(super) said: String,
}

/// A prover that runs, and its pipes.
pub(super) struct LocalProver {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    errors: Option<ChildStderr>,
    progress: Progress,
    from_prover: FrameDecoder<ProverFrame>,
    from_verifier: FrameDecoder<VerifierFrame>,
    buffer: Vec<u8>,
}

impl Folder {
    /// Writes the provers out.
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).context("draw random bytes")?;
        let path = std::env::temp_dir().join(format!("nicompute-prove-{}", hex::encode(random)));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            Failure::new(Exit::Config, format!("cannot make {}", path.display()))
                .because(error)
                .hint("set TMPDIR to a folder in which programs may run")
        })?;
        // From here on the folder is removed, also where writing into it fails.
        let mut folder = Self { path, provers: Provers::default() };
        let programs = embedded::materialize(&folder.path)?;
        folder.provers = Provers { cpu: programs.prover, cuda: programs.cuda_prover };
        Ok(folder)
    }

    /// Starts a prover once to hear what the machine has, and ends it. The one for GPUs knows more, but needs a C library that
    /// not every machine has; where it does not start, the other one is heard.
    pub(super) async fn claims(&self) -> anyhow::Result<Heard> {
        match self.claims_of(DeviceKind::Cuda).await {
            Ok(heard) => Ok(heard),
            Err(error) => {
                let said = format!("the prover of GPUs does not work here: {error:#}");
                let heard = self.claims_of(DeviceKind::Cpu).await?;
                Ok(Heard { said, ..heard })
            }
        }
    }

    async fn claims_of(&self, kind: DeviceKind) -> anyhow::Result<Heard> {
        let mut prover = self.start(kind, Progress::hidden())?;
        let hello = tokio::time::timeout(HELLO_MAX, prover.hello()).await;
        let said = prover.end().await;
        match hello {
            Ok(Some(claims)) => Ok(Heard { claims, said }),
            Ok(None) => Err(Failure::new(Exit::Failed, "the prover said nothing that makes sense")
                .because(std::io::Error::other(said))
                .hint("start it by hand: nicompute __materialize DIR, then DIR/nicompute-prover")
                .into()),
            Err(_) => Err(Failure::new(Exit::Deadline, "the prover did not start in a minute")
                .hint("a driver that hangs does that: look at nvidia-smi and dmesg")
                .into()),
        }
    }

    /// Starts the prover of this kind of device for a session.
    pub(super) fn start(
        &self,
        kind: DeviceKind,
        progress: Progress,
    ) -> anyhow::Result<LocalProver> {
        let program = match kind {
            DeviceKind::Cpu | DeviceKind::Disk => &self.provers.cpu,
            DeviceKind::Cuda => &self.provers.cuda,
        };
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A terminal's Ctrl-C reaches the whole group: the child ends with its input, in good order.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Exit::Config, format!("cannot start {}", program.display()))
                .because(error)
                .hint("set TMPDIR to a folder in which programs may run")
        })?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.context("the prover's pipes")?;
        let errors = child.stderr.take();
        Ok(LocalProver {
            child,
            input,
            output,
            errors,
            progress,
            from_prover: FrameDecoder::new(),
            from_verifier: FrameDecoder::new(),
            buffer: vec![0; READ_LEN],
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What cannot be removed stays in the system's folder for what may be lost.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(%error, path = %path.display(), "a folder was left behind");
    }
}

impl LocalProver {
    /// Ends the prover; gives the end of what it wrote to its standard error.
    pub(super) async fn end(mut self) -> String {
        let mut said = String::new();
        if self.child.start_kill().is_ok()
            && tokio::time::timeout(END_MAX, self.child.wait()).await.is_err()
        {
            tracing::warn!("the prover does not end");
        }
        if let Some(errors) = self.errors.take() {
            let mut errors = errors.take(STDERR_LEN_MAX);
            let read = errors.read_to_string(&mut said);
            drop(tokio::time::timeout(END_MAX, read).await);
        }
        said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    async fn hello(&mut self) -> Option<Vec<DeviceClaim>> {
        let mut taken = 0;
        while taken < HELLO_LEN_MAX {
            let len = self.output.read(&mut self.buffer).await.ok().filter(|len| *len > 0)?;
            taken += len;
            let mut bytes = &self.buffer[..len];
            match self.from_prover.take(&mut bytes) {
                Ok(None) => {}
                Ok(Some(ProverFrame::Hello { version, devices, .. })) => {
                    return (version == PROOF_VERSION).then_some(devices);
                }
                Ok(Some(_)) | Err(_) => return None,
            }
        }
        None
    }
}

#[async_trait]
impl ProofChannel for LocalProver {
    async fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let len = self.output.read(&mut self.buffer).await.map_err(|_| ChannelError::Broken)?;
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = &self.buffer[..len];
        // Only for the display: what is no frame is the session's to refuse.
        while let Ok(Some(frame)) = self.from_prover.take(&mut bytes) {
            self.progress.on_prover(&frame);
        }
        Ok(Some(self.buffer[..len].to_vec()))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let mut rest = bytes;
        while let Ok(Some(frame)) = self.from_verifier.take(&mut rest) {
            self.progress.on_verifier(&frame);
        }
        let sent = self.input.write_all(bytes).await;
        sent.map_err(|_| ChannelError::Broken)?;
        self.input.flush().await.map_err(|_| ChannelError::Broken)
    }
}
