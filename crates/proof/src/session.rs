//! The verifier's side of a session, as a state machine without input or output.
//!
//! The caller moves bytes or frames and says what its monotonic clock showed when they arrived; the session answers with
//! what to send. Random bytes are asked of the caller at the moment they are needed and not before: the choice of rows
//! does not exist until the prover has committed itself twice. After a refusal the session is over.

use serde::{Deserialize, Serialize};

use nicompute_market::UnixMillis;

use crate::binding::{
    Binding, ClaimError, DeviceClaim, DeviceKind, DevicePlan, Nonce, TEXT_LEN_MAX, plan_devices,
};
use crate::derive::SessionKeys;
use crate::exchange::{DeviceExchange, Exchange, ExchangeError, Place, Verdict};
use crate::frame::{
    DeviceOpenings, ErrorCode, FrameDecoder, FrameError, OpenDevice, ProverFrame, VerifierFrame,
    encode, error_text,
};
use crate::measured::{Measured, Times};
use crate::params::{PROOF_VERSION, ProofParams};
use crate::transcript::Transcript;
use crate::tree::Digest;

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

/// The stages of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Until HELLO.
    Hello,
    /// Until READY.
    Ready,
    /// Until the last PONG.
    Pings,
    /// Until COMMIT.
    Fill,
    /// Until WROOT.
    Walk,
    /// Until the last OPENINGS.
    Openings,
    /// Nothing is expected any more.
    Over,
}

/// Why a session ended without a proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A frame that is longer than any frame may be.
    #[error("a frame of {len} bytes, at most {max}")]
    Oversized {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes that are no frame.
    #[error("the prover sent bytes that are no frame")]
    Malformed(#[source] FrameError),
    /// A frame that does not belong here.
    #[error("{got} in the stage {stage}")]
    Protocol {
        /// The stage.
        stage: Stage,
        /// The frame's name, or what is wrong with it.
        got: &'static str,
    },
    /// Another version of the format.
    #[error("the prover speaks version {0} of the proof, this verifier {PROOF_VERSION}")]
    Version(u16),
    /// Claims that cannot be planned with.
    #[error("the prover's claims cannot be used")]
    Claims(#[source] ClaimError),
    /// Too late.
    #[error("the stage {stage} took {took_ns} ns, at most {limit_ns}")]
    Deadline {
        /// The stage.
        stage: Stage,
        /// How long it took, or has taken.
        took_ns: u64,
        /// How long it may take.
        limit_ns: u64,
    },
    /// Commitments or openings that contradict themselves.
    #[error("the prover's commitments or openings contradict themselves")]
    Openings(#[source] ExchangeError),
    /// The sampled places are not what the keys give. This is a wrong proof.
    #[error("device {device}: {place} is not what the session's keys give")]
    Mismatch {
        /// The device.
        device: u16,
        /// The first wrong place.
        place: Place,
    },
    /// The prover gave up.
    #[error("the prover ended the session ({code:?}): {text}")]
    Prover {
        /// Its code.
        code: ErrorCode,
        /// Its text, cut and cleaned.
        text: String,
    },
    /// The caller's clock went backwards. Not the prover's fault.
    #[error("the verifier's clock went backwards")]
    Clock,
    /// No random bytes. Not the prover's fault.
    #[error("the verifier has no random bytes")]
    Entropy(#[source] EntropyError),
    /// A frame of ours is too long to send. Not the prover's fault.
    #[error("the verifier's frame is too long")]
    Unsendable(#[source] FrameError),
}

#[derive(Debug)]
enum Phase {
    Hello,
    Ready(Prepared),
    Pings(Pinging),
    Fill(Box<Running>),
    Walk(Box<Running>),
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
            openings_ns: 20 * SECOND,
        }
    }
}

impl Refusal {
    /// Whether the session failed on the verifier's side, so that it says nothing about the provider.
    #[must_use]
    pub const fn is_own_fault(&self) -> bool {
        matches!(self, Self::Clock | Self::Entropy(_) | Self::Unsendable(_))
    }

    /// The ERROR frame that tells the prover.
    #[must_use]
    pub fn farewell(&self) -> VerifierFrame {
        let code = match self {
            Self::Oversized { .. }
            | Self::Malformed(_)
            | Self::Protocol { .. }
            | Self::Claims(_)
            | Self::Prover { .. }
            | Self::Openings(_) => ErrorCode::Protocol,
            Self::Version(_) => ErrorCode::Version,
            Self::Deadline { .. } => ErrorCode::Deadline,
            Self::Mismatch { .. } => ErrorCode::Refused,
            Self::Clock | Self::Entropy(_) | Self::Unsendable(_) => ErrorCode::Device,
        };
        VerifierFrame::Error { code, text: error_text(&self.to_string()) }
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

    fn on_hello(
        &mut self,
        version: u16,
        software: String,
        claims: Vec<DeviceClaim>,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if version != PROOF_VERSION {
            return Err(Refusal::Version(version));
        }
        if software.len() > TEXT_LEN_MAX || software.chars().any(char::is_control) {
            return Err(Refusal::Protocol { stage: Stage::Hello, got: "a bad software name" });
        }
        let SessionConfig { params, kind, binding, .. } = &self.config;
        let plans = plan_devices(&claims, *kind, params).map_err(Refusal::Claims)?;
        let frame = VerifierFrame::Prepare {
            params: params.record(),
            binding: *binding,
            plans: plans.clone(),
        };
        self.enter(Phase::Ready(Prepared { software, claims, plans }), at_ns);
        Ok(Step::Send(frame))
    }

    fn ping(&mut self, pinging: Pinging, at_ns: u64) -> Result<Step, Refusal> {
        let number = pinging.number;
        self.enter(Phase::Pings(pinging), at_ns);
        Ok(Step::Send(VerifierFrame::Ping { number }))
    }

    fn on_pong(&mut self, pinging: Pinging, number: u64, at_ns: u64) -> Result<Step, Refusal> {
        if number != pinging.number {
            return Err(Refusal::Protocol { stage: Stage::Pings, got: "a PONG to another PING" });
        }
        let rtt_ns = at_ns.saturating_sub(self.stage_began_ns);
        let rtt_min_ns = pinging.rtt_min_ns.min(rtt_ns);
        let number = number.saturating_add(1);
        if number < PINGS {
            return self.ping(Pinging { number, rtt_min_ns, ..pinging }, at_ns);
        }
        self.start(pinging.prepared, rtt_min_ns, at_ns)
    }

    fn start(&mut self, prepared: Prepared, rtt_min_ns: u64, at_ns: u64) -> Result<Step, Refusal> {
        let n1 = self.draw()?;
        let SessionConfig { params, binding, set_up_at, .. } = &self.config;
        let exchange = Exchange {
            binding: *binding,
            params: params.record(),
            software: prepared.software,
            claims: prepared.claims,
            n1,
            n2: Nonce([0; 32]),
            n3: Nonce([0; 32]),
            devices: prepared.plans.iter().map(|plan| DeviceExchange::new(*plan)).collect(),
        };
        let times = Times {
            set_up_at_unix_ms: set_up_at.get(),
            rtt_min_ns,
            commit_ns: 0,
            wroot_ns: 0,
            openings_ns: 0,
        };
        let keys = SessionKeys::derive(&n1, binding, params);
        let running = Running { exchange, keys, times, start_ns: at_ns, opened: 0 };
        self.enter(Phase::Fill(Box::new(running)), at_ns);
        Ok(Step::Send(VerifierFrame::Start { nonce: n1 }))
    }

    fn on_progress(
        &mut self,
        mut running: Box<Running>,
        (device, panel): (u16, u32),
        root: Digest,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let since_start = at_ns.saturating_sub(running.start_ns);
        let panel_rows = u64::from(self.config.params.panel_rows());
        let wrong = Refusal::Protocol { stage: Stage::Fill, got: "PROGRESS out of order" };
        let device = running.exchange.devices.iter_mut().find(|one| one.plan.device == device);
        let device = device.ok_or_else(|| wrong.clone())?;
        let done = device.panel_roots.len() as u64;
        let all = device.plan.rows.checked_div(panel_rows).unwrap_or(0);
        if u64::from(panel) != done || done >= all {
            return Err(wrong);
        }
        device.panel_roots.push(root);
        device.panel_ns.push(since_start);
        self.phase = Phase::Fill(running);
        Ok(Step::Wait)
    }

    fn on_commit(
        &mut self,
        mut running: Box<Running>,
        roots: &[Digest],
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if roots.len() != running.exchange.devices.len() {
            return Err(Refusal::Protocol { stage: Stage::Fill, got: "COMMIT of other devices" });
        }
        for (device, root) in running.exchange.devices.iter_mut().zip(roots) {
            device.row_root = *root;
        }
        running.check_panels(&self.config.params).map_err(Refusal::Openings)?;
        let nonce = self.draw()?;
        running.exchange.n2 = nonce;
        running.times.commit_ns = at_ns.saturating_sub(running.start_ns);
        self.enter(Phase::Walk(running), at_ns);
        Ok(Step::Send(VerifierFrame::Walk { nonce }))
    }

    fn on_wroot(
        &mut self,
        mut running: Box<Running>,
        roots: &[Digest],
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if roots.len() != running.exchange.devices.len() {
            return Err(Refusal::Protocol { stage: Stage::Walk, got: "WROOT of other devices" });
        }
        for (device, root) in running.exchange.devices.iter_mut().zip(roots) {
            device.walk_root = *root;
        }
        running.exchange.n3 = self.draw()?;
        running.times.wroot_ns = at_ns.saturating_sub(running.start_ns);
        let devices = running.samples(&self.config.params);
        self.enter(Phase::Openings(running), at_ns);
        Ok(Step::Send(VerifierFrame::Open { devices }))
    }

    fn on_openings(
        &mut self,
        mut running: Box<Running>,
        openings: DeviceOpenings,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let stage = Stage::Openings;
        let next = running.exchange.devices.get_mut(running.opened);
        let device = next.filter(|next| next.plan.device == openings.device);
        let device =
            device.ok_or(Refusal::Protocol { stage, got: "OPENINGS of another device" })?;
        device.set_openings(openings);
        running.opened = running.opened.saturating_add(1);
        if running.opened < running.exchange.devices.len() {
            self.phase = Phase::Openings(running);
            return Ok(Step::Wait);
        }
        running.times.openings_ns = at_ns.saturating_sub(running.start_ns);
        self.conclude(*running)
    }

    fn conclude(&mut self, running: Running) -> Result<Step, Refusal> {
        let Running { exchange, times, .. } = running;
        let verdict = exchange.check().map_err(Refusal::Openings)?;
        let plans: Vec<DevicePlan> = exchange.devices.iter().map(|device| device.plan).collect();
        let measured = Measured::from_times(&self.config.params, &plans, &times);
        let limits = self.config.limits;
        let transcript = Box::new(Transcript { exchange, limits, times, verdict, measured });
        match verdict {
            Verdict::Proven => Ok(Step::Done(transcript)),
            Verdict::Mismatch { device, place } => {
                self.evidence = Some(transcript);
                Err(Refusal::Mismatch { device, place })
            }
        }
    }
}

impl Running {
    fn check_panels(&self, params: &ProofParams) -> Result<(), ExchangeError> {
        for device in &self.exchange.devices {
            let claim = self.exchange.claims.get(usize::from(device.plan.device));
            let claim = claim.ok_or(ExchangeError::Plans)?;
            device.check_panels(&self.keys.device(claim, &device.plan), params)?;
        }
        Ok(())
    }

    fn samples(&self, params: &ProofParams) -> Vec<OpenDevice> {
        let claims = &self.exchange.claims;
        let planned = self.exchange.devices.iter().map(|device| device.plan);
        planned
            .filter_map(|plan| {
                let keys = self.keys.device(claims.get(usize::from(plan.device))?, &plan);
                let sample = keys.sample(&self.exchange.n3, params, &plan);
                Some(OpenDevice { device: plan.device, rows: sample.rows, walks: sample.walks })
            })
            .collect()
    }
}

impl Output {
    fn push(&mut self, frame: &VerifierFrame) -> Result<(), Refusal> {
        self.send.extend(encode(frame).map_err(Refusal::Unsendable)?);
        Ok(())
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Ready => "ready",
            Self::Pings => "pings",
            Self::Fill => "fill",
            Self::Walk => "walk",
            Self::Openings => "openings",
            Self::Over => "over",
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(row) => write!(f, "row {row}"),
            Self::Walk(walk) => write!(f, "walk {walk}"),
        }
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
