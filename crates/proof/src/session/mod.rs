//! The verifier's side of a session, as a state machine without input or output.
//!
//! The caller moves bytes or frames and says what its monotonic clock showed when they arrived; the session answers with
//! what to send. Random bytes are asked of the caller at the moment they are needed and not before: the choice of rows
//! does not exist until the prover has committed itself twice. After a refusal the session is over.

mod legs;
mod refusal;
mod stages;

use serde::{Deserialize, Serialize};

use nicompute_market::UnixMillis;

use crate::binding::{Binding, DeviceClaim, DeviceKind, DevicePlan, Nonce};
use crate::derive::SessionKeys;
use crate::exchange::Exchange;
use crate::frame::{FrameDecoder, FrameError, ProverFrame, VerifierFrame, encode, error_text};
use crate::measured::Times;
use crate::params::ProofParams;
use crate::session::legs::{Download, Upload};
use crate::transcript::Transcript;

pub use refusal::{Refusal, Stage};

/// Pings before START; the shortest round trip counts.
pub const PINGS: u64 = 8;

/// Where random bytes come from. The operating system, except in tests that must repeat.
pub trait Entropy: Send {
    /// 32 bytes that nobody can have known before.
    ///
    /// # Errors
    /// Where the source fails; the session then ends with [`Refusal::Entropy`].
    fn draw(&mut self) -> Result<[u8; 32], EntropyError>;
}

/// The source of random bytes failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes from the operating system")]
pub struct EntropyError;

/// How long each stage may take, on the verifier's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// From the session's beginning to HELLO.
    pub hello_ns: u64,
    /// From PREPARE to READY.
    pub ready_ns: u64,
    /// From a PING to its PONG.
    pub pong_ns: u64,
    /// From START to COMMIT.
    pub fill_ns: u64,
    /// From WALK to WROOT.
    pub walk_ns: u64,
    /// From LINK to LROOT.
    pub link_ns: u64,
    /// From COPY to CROOT.
    pub copy_ns: u64,
    /// Each direction of NET. After a quarter of it no more bytes are begun, so that a slow line ends the leg and not the
    /// session.
    pub net_ns: u64,
    /// From OPEN to the last OPENINGS.
    pub openings_ns: u64,
}

/// What a session is about.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The sizes.
    pub params: ProofParams,
    /// The kind of device that is to be proven; every device of it in the machine takes part.
    pub kind: DeviceKind,
    /// What the session is bound to.
    pub binding: Binding,
    /// How long each stage may take.
    pub limits: Limits,
    /// The wall clock now, for the transcript.
    pub set_up_at: UnixMillis,
}

/// The verifier's side of one session.
pub struct VerifierSession {
    config: SessionConfig,
    entropy: Box<dyn Entropy>,
    decoder: FrameDecoder<ProverFrame>,
    phase: Phase,
    stage_began_ns: u64,
    evidence: Option<Box<Transcript>>,
}

/// What the caller does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Wait for the next frame.
    Wait,
    /// Send this, at once where a clock runs.
    Send(VerifierFrame),
    /// Send these, one after the other; never more than [`NET_WINDOW_LEN`](crate::NET_WINDOW_LEN) and what frames add.
    SendAll(Vec<VerifierFrame>),
    /// Say BYE; the proof holds.
    Done(Box<Transcript>),
}

/// What to write to the prover, and the transcript once there is one.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Output {
    /// Bytes for the prover.
    pub send: Vec<u8>,
    /// The proof holds.
    pub done: Option<Box<Transcript>>,
}

#[derive(Debug)]
enum Phase {
    Hello,
    Ready(Prepared),
    Pings(Pinging),
    Fill(Box<Running>),
    Walk(Box<Running>),
    Link(Box<Running>),
    Copy(Box<Running>),
    Down(Box<Running>, Download),
    Up(Box<Running>, Upload),
    Openings(Box<Running>),
    Over,
}

#[derive(Debug)]
struct Prepared {
    software: String,
    claims: Vec<DeviceClaim>,
    plans: Vec<DevicePlan>,
}

#[derive(Debug)]
struct Pinging {
    prepared: Prepared,
    number: u64,
    rtt_min_ns: u64,
}

#[derive(Debug)]
struct Running {
    exchange: Exchange,
    keys: SessionKeys,
    times: Times,
    start_ns: u64,
    opened: usize,
}

impl<F: FnMut() -> Result<[u8; 32], EntropyError> + Send> Entropy for F {
    fn draw(&mut self) -> Result<[u8; 32], EntropyError> {
        self()
    }
}

impl Limits {
    /// Generous limits for the local market's small profile, on a machine that builds or serves at the same time.
    #[must_use]
    pub const fn small() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            hello_ns: 20 * SECOND,
            ready_ns: 20 * SECOND,
            pong_ns: 5 * SECOND,
            fill_ns: 60 * SECOND,
            walk_ns: 10 * SECOND,
            link_ns: 10 * SECOND,
            copy_ns: 10 * SECOND,
            net_ns: 40 * SECOND,
            openings_ns: 20 * SECOND,
        }
    }
}

impl VerifierSession {
    /// A session whose first deadline runs from `at_ns`.
    #[must_use]
    pub fn new(config: SessionConfig, entropy: Box<dyn Entropy>, at_ns: u64) -> Self {
        Self {
            config,
            entropy,
            decoder: FrameDecoder::new(),
            phase: Phase::Hello,
            stage_began_ns: at_ns,
            evidence: None,
        }
    }

    /// Takes bytes that arrived at `at_ns`. The last OPENINGS makes this compute for as long as the profile's sample
    /// takes: milliseconds for the small one, half a second for each GPU.
    ///
    /// # Errors
    /// Where the session ends without a proof.
    pub fn on_bytes(&mut self, bytes: &[u8], at_ns: u64) -> Result<Output, Refusal> {
        let mut output = Output::default();
        let mut rest = bytes;
        loop {
            let frame = self.decoder.take(&mut rest).map_err(|error| self.bad_frame(error))?;
            let Some(frame) = frame else { return Ok(output) };
            match self.on_frame(frame, at_ns)? {
                Step::Wait => {}
                Step::Send(frame) => output.push(&frame)?,
                Step::SendAll(frames) => frames.iter().try_for_each(|frame| output.push(frame))?,
                Step::Done(transcript) => {
                    output.push(&VerifierFrame::Bye)?;
                    output.done = Some(transcript);
                }
            }
        }
    }

    /// Takes one frame that arrived at `at_ns`; see [`Self::on_bytes`].
    ///
    /// # Errors
    /// Where the session ends without a proof.
    pub fn on_frame(&mut self, frame: ProverFrame, at_ns: u64) -> Result<Step, Refusal> {
        if let Err(refusal) = self.on_time(at_ns) {
            self.phase = Phase::Over;
            return Err(refusal);
        }
        // A refusal below leaves the session over.
        let stage = self.stage();
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        if let ProverFrame::Error { code, text } = frame {
            return Err(Refusal::Prover { code, text: error_text(&text) });
        }
        let got = frame.name();
        match (phase, frame) {
            (Phase::Hello, ProverFrame::Hello { version, software, devices }) => {
                self.on_hello(version, software, devices, at_ns)
            }
            (Phase::Ready(prepared), ProverFrame::Ready) => {
                self.ping(Pinging { prepared, number: 0, rtt_min_ns: u64::MAX }, at_ns)
            }
            (Phase::Pings(pinging), ProverFrame::Pong { number }) => {
                self.on_pong(pinging, number, at_ns)
            }
            (Phase::Fill(running), ProverFrame::Progress { device, panel, root }) => {
                self.on_progress(running, (device, panel), root, at_ns)
            }
            (Phase::Fill(running), ProverFrame::Commit { roots }) => {
                self.on_commit(running, &roots, at_ns)
            }
            (Phase::Walk(running), ProverFrame::Wroot { roots }) => {
                self.on_wroot(running, &roots, at_ns)
            }
            (Phase::Link(running), ProverFrame::Lroot { roots }) => {
                self.on_lroot(running, &roots, at_ns)
            }
            (Phase::Copy(running), ProverFrame::Croot { roots }) => {
                self.on_croot(running, &roots, at_ns)
            }
            (phase @ (Phase::Link(_) | Phase::Copy(_)), ProverFrame::Decline { code, text }) => {
                self.on_decline(phase, code, &text, at_ns)
            }
            (Phase::Down(running, download), ProverFrame::Got { bytes }) => {
                self.on_got(running, download, bytes, at_ns)
            }
            (Phase::Down(running, download), ProverFrame::Digest { digest }) => {
                self.on_digest(running, &download, digest, at_ns)
            }
            (Phase::Up(running, upload), ProverFrame::Up { chunk }) => {
                self.on_up(running, upload, &chunk, at_ns)
            }
            (Phase::Openings(running), ProverFrame::Openings(openings)) => {
                self.on_openings(running, openings, at_ns)
            }
            _ => Err(Refusal::Protocol { stage, got }),
        }
    }

    /// Refuses if the running stage is over its limit at `at_ns`; for the caller's timer.
    ///
    /// # Errors
    /// Where it is, or where the clock went backwards.
    pub fn on_time(&self, at_ns: u64) -> Result<(), Refusal> {
        let took_ns = at_ns.checked_sub(self.stage_began_ns).ok_or(Refusal::Clock)?;
        match self.limit_ns() {
            Some(limit_ns) if took_ns > limit_ns => {
                Err(Refusal::Deadline { stage: self.stage(), took_ns, limit_ns })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// When the running stage is over its limit, for the caller's timer; `None` once the session is over.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        self.limit_ns().map(|limit| self.stage_began_ns.saturating_add(limit))
    }

    /// The stage that the session is in.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.phase {
            Phase::Hello => Stage::Hello,
            Phase::Ready(_) => Stage::Ready,
            Phase::Pings(_) => Stage::Pings,
            Phase::Fill(_) => Stage::Fill,
            Phase::Walk(_) => Stage::Walk,
            Phase::Link(_) => Stage::Link,
            Phase::Copy(_) => Stage::Copy,
            Phase::Down(..) => Stage::Down,
            Phase::Up(..) => Stage::Up,
            Phase::Openings(_) => Stage::Openings,
            Phase::Over => Stage::Over,
        }
    }

    /// After [`Refusal::Mismatch`]: the transcript that shows it to anyone who computes it again. Other refusals leave
    /// none, for there would be nothing in it to compute.
    #[must_use]
    pub fn take_evidence(&mut self) -> Option<Box<Transcript>> {
        self.evidence.take()
    }

    fn limit_ns(&self) -> Option<u64> {
        let limits = &self.config.limits;
        match self.stage() {
            Stage::Hello => Some(limits.hello_ns),
            Stage::Ready => Some(limits.ready_ns),
            Stage::Pings => Some(limits.pong_ns),
            Stage::Fill => Some(limits.fill_ns),
            Stage::Walk => Some(limits.walk_ns),
            Stage::Link => Some(limits.link_ns),
            Stage::Copy => Some(limits.copy_ns),
            Stage::Down | Stage::Up => Some(limits.net_ns),
            Stage::Openings => Some(limits.openings_ns),
            Stage::Over => None,
        }
    }

    fn bad_frame(&mut self, error: FrameError) -> Refusal {
        self.phase = Phase::Over;
        match error {
            FrameError::Oversized { len, max } => Refusal::Oversized { len, max },
            FrameError::Malformed | FrameError::NotCanonical => Refusal::Malformed(error),
        }
    }

    fn draw(&mut self) -> Result<Nonce, Refusal> {
        self.entropy.draw().map(Nonce).map_err(Refusal::Entropy)
    }

    fn enter(&mut self, phase: Phase, at_ns: u64) {
        self.phase = phase;
        self.stage_began_ns = at_ns;
    }
}

impl Output {
    fn push(&mut self, frame: &VerifierFrame) -> Result<(), Refusal> {
        self.send.extend(encode(frame).map_err(Refusal::Unsendable)?);
        Ok(())
    }
}

impl std::fmt::Debug for VerifierSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifierSession")
            .field("binding", &self.config.binding)
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}
