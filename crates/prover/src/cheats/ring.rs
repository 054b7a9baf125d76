//! Where a cheater meets the real verifier, in one process, on a clock that is a model.
//!
//! Whether an answer comes in time must not hang on the machine that runs a test, so time here is counted work: computing a row
//! costs so many times what reading one does, devices of a machine work side by side, and what is done by one device in
//! turn is added up. A bout is judged as a validator judges a provider: content by the same code, stages by the limits of
//! the profile of GPUs, and what is left by a class, whose minimums are parts of what an honest machine shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nicompute_market::{Capability, Catalogue, Class, Shortfall};
use nicompute_proof::{
    Binding, DeviceClaim, DeviceKind, DeviceOpenings, DevicePlan, Digest, EntropyError, Limits,
    Nonce, OpenDevice, ParamsRecord, ProofParams, ProverFrame, Refusal, SessionConfig, SessionKeys,
    Transcript, UnixMillis, VerifierFrame, VerifierSession, mix64,
};

use super::devices::CLAIMED_MEMORY_BYTES;
use super::frames::Answer;
use crate::cpu::CpuDevice;
use crate::device::{Device, DeviceError, FillTask, PlotView, ReportPanel};
use crate::in_process::exchange;
use crate::prover::Sink;

/// What reading a row costs on the modelled machine.
const READ_NS: u64 = 80_000;
/// What computing a row costs there. Over the classes of GPUs, computing takes 95 to 525 times as long as reading; the
/// least is the best for a cheater.
pub const MAKE_TO_READ: u64 = 95;
/// The part of an honest machine's operations and reads that the class asks for, in hundredths: as the standard catalogue.
const OPS_PERCENT: u64 = 75;
const WALK_PERCENT: u64 = 70;
const SECOND_NS: u64 = 1_000_000_000;
/// What a byte takes that is sent by itself.
pub(super) const SLOW_BYTE_NS: u64 = 1_000_000_000;

/// The sizes of a bout, and the limits of its stages.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    params: ProofParams,
    limits: Limits,
}

/// What a bout came to.
#[derive(Debug)]
pub struct Bout {
    /// The transcript of a proof that was accepted, or why it was refused.
    pub outcome: Result<Box<Transcript>, Refusal>,
    /// What is missing for the class; nothing where it was met, or where there is no proof.
    shortfalls: Vec<Shortfall>,
    /// The modelled time of the whole session.
    pub modelled_ns: u64,
}

/// What a validator makes of a bout.
#[derive(Debug, Clone, Copy)]
pub enum Judgement<'a> {
    /// There is no proof, or a wrong one.
    Refused(&'a Refusal),
    /// A proof, of too little for the class.
    Unpaid(&'a [Shortfall]),
    /// A proof that is paid.
    Paid,
}

/// What a bout follows from: who meets whom over which lease, and what the verifier draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    parties: u64,
    nonces: u64,
}

/// The modelled clock: time that is over, and what each device has done since.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    over_ns: Arc<AtomicU64>,
    lanes: Vec<Lane>,
}

/// The work of one device in the running stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane(Arc<AtomicU64>);

/// A device whose work is counted on a lane.
#[derive(Debug)]
pub(super) struct Clocked {
    inner: Box<dyn Device>,
    lane: Lane,
    /// How many times as long as an honest machine's its work takes.
    slowness: u64,
    computed_again: Option<Arc<AtomicU64>>,
    reads: u64,
}

impl Ring {
    /// A bout that takes milliseconds: 1,600 rows of 128 bytes, as many walks of 8 reads, and samples as in every profile. On the
    /// modelled clock an honest machine fills for 12 seconds and walks for one, much as GPUs do.
    ///
    /// # Panics
    /// Never: a test enters it.
    #[must_use]
    pub fn standard() -> Self {
        let record = ParamsRecord {
            n: 128,
            rows: 1_600,
            panel_rows: 64,
            walks: 1_600,
            reads: 8,
            ..ProofParams::small().record()
        };
        let params = ProofParams::try_from(record).expect("the sizes are within their bounds");
        let limits = Limits {
            hello_ns: 30 * SECOND_NS,
            ready_ns: 60 * SECOND_NS,
            fill_ns: 180 * SECOND_NS,
            walk_ns: 30 * SECOND_NS,
            openings_ns: 60 * SECOND_NS,
            ..Limits::small()
        };
        Self { params, limits }
    }

    /// The limits of its stages: those of the profile of GPUs.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The catalogue by which it pays: one class, of the modelled machine.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        let honest = self.honest();
        let class = Class {
            name: "the modelled machine".to_owned(),
            device: honest.kind,
            reported_names: Vec::new(),
            base_score_micro: 1_000_000,
            bytes_min: honest.bytes_per_device,
            ops_per_second_min: honest.ops_per_second * OPS_PERCENT / 100,
            walk_bytes_per_second_min: honest.walk_bytes_per_second * WALK_PERCENT / 100,
        };
        Catalogue {
            version: 1,
            devices_max: 8,
            points_top: 50,
            classes: vec![class],
            known: Vec::new(),
        }
    }

    /// What an honest device shows.
    fn honest(&self) -> Capability {
        let (n, reads) = (self.params.n() as u64, u64::from(self.params.reads()));
        let (rows, walks) = (self.params.rows(), u64::from(self.params.walks()));
        let ops = 2 * u64::from(self.params.steps()) * n * n * rows;
        Capability {
            kind: nicompute_market::DeviceKind::Gpu,
            devices: 1,
            bytes_per_device: rows * n,
            ops_per_second: per_second(ops, rows * MAKE_TO_READ * READ_NS),
            walk_bytes_per_second: per_second(walks * reads * n, walks * reads * READ_NS),
        }
    }

    /// The sizes.
    #[must_use]
    pub const fn params(&self) -> &ProofParams {
        &self.params
    }

    /// The keys of the session that this seed gives: what a prover learns at START.
    pub(super) fn keys(&self, seed: Seed) -> SessionKeys {
        SessionKeys::derive(&seed.first_nonce(), &seed.binding(), &self.params)
    }

    /// The keys that another validator's session with the same provider, lease, block and even nonce has.
    pub(super) fn keys_of_other_validator(&self, seed: Seed) -> SessionKeys {
        let mut binding = seed.binding();
        binding.validator[0] ^= 1;
        SessionKeys::derive(&seed.first_nonce(), &binding, &self.params)
    }

    /// Lets somebody answer the verifier's frames.
    pub(super) fn meet(&self, seed: Seed, clock: &Clock, answer: &mut dyn Answer) -> Bout {
        let mut session = self.session(seed);
        let hello = answer.hello();
        let mut talk = |frame: VerifierFrame, sink: &mut dyn Sink| {
            clock.end_stage();
            answer.answer(frame, sink);
        };
        let outcome = exchange(&mut session, &hello, &mut talk, &mut || clock.now_ns());
        let shown = outcome.as_ref().ok().map(|transcript| shown(transcript));
        let shortfalls = shown.map_or_else(Vec::new, |shown| self.shortfalls(&shown));
        Bout { outcome, shortfalls, modelled_ns: clock.now_ns() }
    }

    /// What is missing for a class that is paid, where none is met.
    fn shortfalls(&self, shown: &Capability) -> Vec<Shortfall> {
        let catalogue = self.catalogue();
        match catalogue.classify(shown) {
            Some(_) => Vec::new(),
            None => catalogue.next_above(shown).map_or_else(Vec::new, |(_, missing)| missing),
        }
    }

    fn session(&self, seed: Seed) -> VerifierSession {
        let config = SessionConfig {
            params: self.params,
            kind: DeviceKind::Cpu,
            binding: seed.binding(),
            limits: self.limits,
            set_up_at: UnixMillis(0),
        };
        let mut entropy = seed.entropy();
        let draw = move || Ok::<_, EntropyError>(entropy.next_bytes());
        VerifierSession::new(config, Box::new(draw), 0)
    }
}

impl Bout {
    /// What a validator makes of it.
    #[must_use]
    pub fn judgement(&self) -> Judgement<'_> {
        match &self.outcome {
            Err(refusal) => Judgement::Refused(refusal),
            Ok(_) if !self.shortfalls.is_empty() => Judgement::Unpaid(&self.shortfalls),
            Ok(_) => Judgement::Paid,
        }
    }

    /// What was shown, by a proof that was accepted.
    #[must_use]
    pub fn shown(&self) -> Option<Capability> {
        self.outcome.as_ref().ok().map(|transcript| shown(transcript))
    }
}

impl std::fmt::Display for Judgement<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Unpaid(shortfalls) => {
                f.write_str("proven, and not paid: ")?;
                for (number, shortfall) in shortfalls.iter().enumerate() {
                    let gap = if number == 0 { "" } else { "; " };
                    write!(f, "{gap}{shortfall}")?;
                }
                Ok(())
            }
            Self::Paid => f.write_str("proven, and paid"),
        }
    }
}

/// What each device of a transcript has shown. All devices of a bout have the same sizes, and the model's are GPUs.
fn shown(transcript: &Transcript) -> Capability {
    let count = transcript.exchange.devices.len().max(1);
    let (devices, measured) = (count as u64, &transcript.measured);
    Capability {
        kind: nicompute_market::DeviceKind::Gpu,
        devices: u32::try_from(count).unwrap_or(u32::MAX),
        bytes_per_device: measured.plot_bytes / devices,
        ops_per_second: measured.operations_per_second / devices,
        walk_bytes_per_second: measured.walk_bytes_per_second / devices,
    }
}

fn per_second(amount: u64, ns: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(SECOND_NS) / u128::from(ns.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

impl Seed {
    /// The seed with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self { parties: number, nonces: number }
    }

    /// An earlier session between the same parties, over the same lease and block.
    pub(super) const fn earlier(self) -> Self {
        Self { nonces: self.nonces ^ 0xA5A5_A5A5_A5A5_A5A5, ..self }
    }

    fn first_nonce(self) -> Nonce {
        Nonce(self.entropy().next_bytes())
    }

    fn binding(self) -> Binding {
        let mut random = Random(mix64(self.parties));
        let [validator, provider, block_hash] = [(); 3].map(|()| random.next_bytes());
        Binding { validator, provider, lease: [7; 16], block_number: 1, block_hash }
    }

    const fn entropy(self) -> Random {
        Random(self.nonces)
    }
}

/// Small and repeatable; the verifier of a bout draws from it instead of the operating system.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next_bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            chunk.copy_from_slice(&mix64(self.0).to_le_bytes());
        }
        bytes
    }
}

impl Clock {
    /// A lane of its own for one more device.
    pub(super) fn lane(&mut self) -> Lane {
        let lane = Lane::default();
        self.lanes.push(lane.clone());
        lane
    }

    /// Everybody waits for the slowest before the next stage begins.
    fn end_stage(&self) {
        let now_ns = self.now_ns();
        self.lanes.iter().for_each(|lane| lane.0.store(0, Ordering::Relaxed));
        self.over_ns.store(now_ns, Ordering::Relaxed);
    }

    fn now_ns(&self) -> u64 {
        let slowest = self.lanes.iter().map(|lane| lane.0.load(Ordering::Relaxed)).max();
        self.over_ns.load(Ordering::Relaxed).saturating_add(slowest.unwrap_or(0))
    }
}

impl Lane {
    pub(super) fn work(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

/// An honest device with this id.
pub(super) fn honest(id: &str) -> CpuDevice {
    CpuDevice::new(id, "honest", CLAIMED_MEMORY_BYTES, 1)
}

impl Clocked {
    pub(super) fn new(inner: impl Device + 'static, lane: Lane) -> Self {
        Self { inner: Box::new(inner), lane, slowness: 1, computed_again: None, reads: 0 }
    }

    pub(super) fn slower(self, slowness: u64) -> Self {
        Self { slowness, ..self }
    }

    /// Rows that the device computes while walking cost what computing costs.
    pub(super) fn counting(self, computed_again: Arc<AtomicU64>) -> Self {
        Self { computed_again: Some(computed_again), ..self }
    }
}

impl Device for Clocked {
    fn claim(&self) -> DeviceClaim {
        self.inner.claim()
    }

    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError> {
        self.reads = u64::from(plan.walks) * u64::from(params.reads());
        self.inner.prepare(params, plan)
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        let root = self.inner.fill(task, report)?;
        self.lane.work(task.plan.rows * MAKE_TO_READ * READ_NS * self.slowness);
        Ok(root)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        let root = self.inner.walk(n2)?;
        let made = self.computed_again.as_ref().map_or(0, |made| made.load(Ordering::Relaxed));
        let read_ns = self.reads.saturating_sub(made) * READ_NS;
        self.lane.work((read_ns + made * MAKE_TO_READ * READ_NS) * self.slowness);
        Ok(root)
    }

    fn plot(&self) -> Option<PlotView> {
        self.inner.plot()
    }

    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError> {
        self.inner.open(ask)
    }
}

/// An honest session's frames, as a cheater would keep them: what was sent first, and after each frame of the verifier.
pub(super) fn recorded(ring: &Ring, seed: Seed) -> (ProverFrame, Vec<Vec<ProverFrame>>) {
    let mut honest = super::frames::Recording::new(vec![Box::new(honest("cpu"))]);
    let bout = ring.meet(seed, &Clock::default(), &mut honest);
    debug_assert!(bout.outcome.is_ok(), "an honest machine was refused");
    honest.into_frames()
}
