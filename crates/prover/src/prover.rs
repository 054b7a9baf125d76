//! The prover's side of a session: answers the verifier's frames by asking the devices.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use nicompute_proof::{
    Binding, DevicePlan, Digest, ErrorCode, FrameError, Nonce, OpenDevice, PROOF_VERSION,
    ParamsError, ParamsRecord, ProofParams, ProverFrame, SessionKeys, VerifierFrame, encode,
    error_text, plans_are_sound,
};

use crate::device::{Device, DeviceError, FillTask, Gone};
use crate::disk::DiskError;
use crate::legs::LegsPlayed;
use crate::machine::with_causes;

/// What the prover calls itself.
pub const SOFTWARE: &str = concat!("nicompute-prover ", env!("CARGO_PKG_VERSION"));

/// Reports that may wait to be sent.
const REPORTS_WAITING: usize = 64;

/// Where the prover's frames go.
pub trait Sink {
    /// Sends bytes at once.
    ///
    /// # Errors
    /// Where nobody listens any more.
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone>;

    /// Sends one frame at once.
    ///
    /// # Errors
    /// Where nobody listens any more.
    fn send(&mut self, frame: &ProverFrame) -> Result<(), Gone> {
        let bytes = encode(frame).map_err(|_| Gone)?;
        self.send_bytes(&bytes)
    }
}

/// The prover's side of one session.
#[derive(Debug)]
pub struct Prover {
    devices: Vec<Box<dyn Device>>,
    stage: Stage,
}

/// Whether the session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Wait for the verifier's next frame.
    Continue,
    /// The verifier said BYE.
    End,
}

/// Why the prover gives up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProverError {
    /// A frame that does not belong here, or asks for something else than it may.
    #[error("{0} does not belong here")]
    Protocol(&'static str),
    /// Sizes out of bounds.
    #[error("the verifier's parameters cannot be used")]
    Params(#[from] ParamsError),
    /// A device failed.
    #[error("a device failed")]
    Device(#[from] DeviceError),
    /// The verifier ended the session.
    #[error("the verifier ended the session ({code:?}): {text}")]
    Verifier {
        /// Its code.
        code: ErrorCode,
        /// Its text.
        text: String,
    },
    /// Bytes that are no frame.
    #[error("the verifier sent bytes that are no frame")]
    Frame(#[from] FrameError),
    /// Nobody listens any more.
    #[error("the session was given up")]
    Gone(#[from] Gone),
}

/// What the session asks for, once it runs.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) params: ProofParams,
    pub(crate) plans: Vec<DevicePlan>,
    pub(crate) session: SessionKeys,
}

#[derive(Debug)]
enum Stage {
    New,
    Prepared { params: ProofParams, binding: Binding, plans: Vec<DevicePlan> },
    Filled(Work),
    Walked(Work, LegsPlayed),
    Over,
}

impl Prover {
    /// A prover over these devices, at least one.
    #[must_use]
    pub const fn new(devices: Vec<Box<dyn Device>>) -> Self {
        Self { devices, stage: Stage::New }
    }

    /// The frame with which a session begins.
    #[must_use]
    pub fn hello(&self) -> ProverFrame {
        ProverFrame::Hello {
            version: PROOF_VERSION,
            software: SOFTWARE.to_owned(),
            devices: self.devices.iter().map(|device| device.claim()).collect(),
        }
    }

    /// Does what a frame asks for and sends what belongs to it. On an error the verifier is told and the session is
    /// over.
    ///
    /// # Errors
    /// Where the prover cannot go on.
    pub fn on_frame(
        &mut self,
        frame: VerifierFrame,
        sink: &mut dyn Sink,
    ) -> Result<Flow, ProverError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let flow = self.answer(stage, frame, sink);
        if let Err(error) = &flow {
            self.stage = Stage::Over;
            let text = error_text(&with_causes(error));
            // The session is over either way; whether the verifier still hears why changes nothing.
            sink.send(&ProverFrame::Error { code: error.code(), text }).unwrap_or(());
        }
        flow
    }

    fn answer(
        &mut self,
        stage: Stage,
        frame: VerifierFrame,
        sink: &mut dyn Sink,
    ) -> Result<Flow, ProverError> {
        let name = frame.name();
        match (stage, frame) {
            (_, VerifierFrame::Bye) => return Ok(Flow::End),
            (_, VerifierFrame::Error { code, text }) => {
                return Err(ProverError::Verifier { code, text: error_text(&text) });
            }
            (Stage::New, VerifierFrame::Prepare { params, binding, plans }) => {
                self.prepare(params, binding, plans)?;
                sink.send(&ProverFrame::Ready)?;
            }
            (stage @ Stage::Prepared { .. }, VerifierFrame::Ping { number }) => {
                self.stage = stage;
                sink.send(&ProverFrame::Pong { number })?;
            }
            (Stage::Prepared { params, binding, plans }, VerifierFrame::Start { nonce }) => {
                let session = SessionKeys::derive(&nonce, &binding, &params);
                let roots = self.fill(&params, &session, &plans, sink)?;
                self.stage = Stage::Filled(Work { params, plans, session });
                sink.send(&ProverFrame::Commit { roots })?;
            }
            (Stage::Filled(work), VerifierFrame::Walk { nonce }) => {
                let roots = self.walk(&work.plans, &nonce)?;
                self.stage = Stage::Walked(work, LegsPlayed::default());
                sink.send(&ProverFrame::Wroot { roots })?;
            }
            (Stage::Walked(work, _), VerifierFrame::Open { devices }) => {
                self.open(&work.plans, &devices, sink)?;
                self.stage = Stage::Over;
            }
            (Stage::Walked(work, mut legs), frame) => {
                legs.answer(&mut self.devices, &work, frame, sink)?;
                self.stage = Stage::Walked(work, legs);
            }
            _ => return Err(ProverError::Protocol(name)),
        }
        Ok(Flow::Continue)
    }

    fn prepare(
        &mut self,
        params: ParamsRecord,
        binding: Binding,
        plans: Vec<DevicePlan>,
    ) -> Result<(), ProverError> {
        let params = ProofParams::try_from(params)?;
        let claims: Vec<_> = self.devices.iter().map(|device| device.claim()).collect();
        if !plans_are_sound(&claims, &params, &plans) {
            return Err(ProverError::Protocol("a plan for other devices"));
        }
        for plan in &plans {
            if let Some(device) = self.devices.get_mut(usize::from(plan.device)) {
                device.prepare(&params, plan)?;
            }
        }
        self.stage = Stage::Prepared { params, binding, plans };
        Ok(())
    }

    /// Fills all plots at the same time, a thread for each device, and passes their reports on.
    fn fill(
        &mut self,
        params: &ProofParams,
        session: &SessionKeys,
        plans: &[DevicePlan],
        sink: &mut dyn Sink,
    ) -> Result<Vec<Digest>, ProverError> {
        let is_needed = planned(&mut self.devices, plans).any(|(device, _)| device.needs_matrix());
        let matrix = if is_needed { session.matrix_rows(params.n()) } else { Vec::new() };
        let matrix = Arc::new(matrix);
        let (reports, reported) = sync_channel::<(u16, u32, Digest)>(REPORTS_WAITING);
        thread::scope(|scope| {
            let workers: Vec<_> = planned(&mut self.devices, plans)
                .map(|(device, plan)| {
                    let task = FillTask {
                        params: *params,
                        plan: *plan,
                        session: session.clone(),
                        keys: session.device(&device.claim(), plan),
                        matrix: Arc::clone(&matrix),
                    };
                    let reports = reports.clone();
                    scope.spawn(move || {
                        device.fill(&task, &mut |panel, root| {
                            reports.send((task.plan.device, panel, root)).map_err(|_| Gone)
                        })
                    })
                })
                .collect();
            drop(reports);
            for (device, panel, root) in reported {
                sink.send(&ProverFrame::Progress { device, panel, root })?;
            }
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a device reports its failures"))
                .map(|root| root.map_err(ProverError::from))
                .collect()
        })
    }

    /// Walks on all devices at the same time.
    fn walk(&mut self, plans: &[DevicePlan], n2: &Nonce) -> Result<Vec<Digest>, ProverError> {
        thread::scope(|scope| {
            let workers: Vec<_> = planned(&mut self.devices, plans)
                .map(|(device, _)| scope.spawn(|| device.walk(n2)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a device reports its failures"))
                .map(|root| root.map_err(ProverError::from))
                .collect()
        })
    }

    fn open(
        &mut self,
        plans: &[DevicePlan],
        asks: &[OpenDevice],
        sink: &mut dyn Sink,
    ) -> Result<(), ProverError> {
        let asked = asks.iter().map(|ask| ask.device).eq(plans.iter().map(|plan| plan.device));
        if !asked {
            return Err(ProverError::Protocol("OPEN of other devices"));
        }
        for ((device, _), ask) in planned(&mut self.devices, plans).zip(asks) {
            let openings = device.open(ask)?;
            sink.send(&ProverFrame::Openings(openings))?;
        }
        Ok(())
    }
}

impl DeviceError {
    /// The code for a frame.
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::Memory(_) => ErrorCode::Memory,
            Self::Disk(DiskError::Space(_)) => ErrorCode::Memory,
            Self::Order | Self::Disk(_) | Self::Place(_) | Self::Unsupported(_) | Self::Gone(_) => {
                ErrorCode::Device
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => ErrorCode::Device,
        }
    }
}

impl ProverError {
    const fn code(&self) -> ErrorCode {
        match self {
            Self::Protocol(_) | Self::Frame(_) | Self::Verifier { .. } | Self::Gone(_) => {
                ErrorCode::Protocol
            }
            Self::Params(ParamsError::Version(_)) => ErrorCode::Version,
            Self::Params(_) => ErrorCode::Protocol,
            Self::Device(error) => error.code(),
        }
    }
}

/// The devices that take part, each with its plan.
pub(crate) fn planned<'a>(
    devices: &'a mut [Box<dyn Device>],
    plans: &'a [DevicePlan],
) -> impl Iterator<Item = (&'a mut Box<dyn Device>, &'a DevicePlan)> {
    let mut plans = plans.iter().peekable();
    (0_u16..).zip(devices).filter_map(move |(place, device)| {
        plans.next_if(|plan| plan.device == place).map(|plan| (device, plan))
    })
}
