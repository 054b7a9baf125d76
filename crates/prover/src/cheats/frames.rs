//! Provers that cheat with the frames themselves: what they answer, and how they put it on the wire.

use nicompute_proof::{Digest, ProverFrame, VerifierFrame, encode};

use super::ring::{Lane, SLOW_BYTE_NS};
use crate::device::{Device, Gone};
use crate::prover::{Prover, Sink};

/// One side of a session: anything that answers a verifier.
pub trait Answer {
    /// The frame with which it begins.
    fn hello(&self) -> ProverFrame;

    /// Answers one frame.
    fn answer(&mut self, frame: VerifierFrame, sink: &mut dyn Sink);
}

/// Bends one frame on its way out; `None` leaves it as it is.
pub(super) type Bend = fn(&ProverFrame) -> Option<Vec<u8>>;

/// An honest prover whose frames are bent.
pub(super) struct Bent {
    pub(super) prover: Prover,
    pub(super) bend: Bend,
}

/// An honest prover whose frames go out a byte at a time.
pub(super) struct Dripping {
    pub(super) prover: Prover,
    pub(super) lane: Lane,
}

/// Plays back what another prover sent in another session.
pub(super) struct Replay {
    pub(super) hello: ProverFrame,
    pub(super) answers: std::vec::IntoIter<Vec<ProverFrame>>,
}

/// An honest prover that keeps what it sends.
pub(super) struct Recording {
    prover: Prover,
    answers: Vec<Vec<ProverFrame>>,
}

impl Answer for Prover {
    fn hello(&self) -> ProverFrame {
        Self::hello(self)
    }

    fn answer(&mut self, frame: VerifierFrame, sink: &mut dyn Sink) {
        // What the prover could not do, it has told the verifier in a frame.
        drop(self.on_frame(frame, sink));
    }
}

impl Answer for Bent {
    fn hello(&self) -> ProverFrame {
        self.prover.hello()
    }

    fn answer(&mut self, frame: VerifierFrame, sink: &mut dyn Sink) {
        drop(self.prover.on_frame(frame, &mut Bending { sink, bend: self.bend }));
    }
}

impl Answer for Dripping {
    fn hello(&self) -> ProverFrame {
        self.prover.hello()
    }

    fn answer(&mut self, frame: VerifierFrame, sink: &mut dyn Sink) {
        drop(self.prover.on_frame(frame, &mut Drip { sink, lane: &self.lane }));
    }
}

impl Answer for Replay {
    fn hello(&self) -> ProverFrame {
        self.hello.clone()
    }

    fn answer(&mut self, _frame: VerifierFrame, sink: &mut dyn Sink) {
        for frame in self.answers.next().unwrap_or_default() {
            if sink.send(&frame).is_err() {
                return;
            }
        }
    }
}

impl Recording {
    pub(super) const fn new(devices: Vec<Box<dyn Device>>) -> Self {
        Self { prover: Prover::new(devices), answers: Vec::new() }
    }

    pub(super) fn into_frames(self) -> (ProverFrame, Vec<Vec<ProverFrame>>) {
        (self.prover.hello(), self.answers)
    }
}

impl Answer for Recording {
    fn hello(&self) -> ProverFrame {
        self.prover.hello()
    }

    fn answer(&mut self, frame: VerifierFrame, sink: &mut dyn Sink) {
        let mut kept = Vec::new();
        drop(self.prover.on_frame(frame, &mut Keeping { sink, kept: &mut kept }));
        self.answers.push(kept);
    }
}

/// One root less than there are devices.
pub(super) fn fewer_roots(frame: &ProverFrame) -> Option<Vec<u8>> {
    let ProverFrame::Commit { roots } = frame else { return None };
    let fewer: Vec<Digest> = roots.iter().skip(1).copied().collect();
    encode(&ProverFrame::Commit { roots: fewer }).ok()
}

/// A commitment that announces four gigabytes.
pub(super) fn oversized(frame: &ProverFrame) -> Option<Vec<u8>> {
    matches!(frame, ProverFrame::Commit { .. }).then(|| vec![0xFF; 4])
}

/// Half of a commitment, and nothing after it.
pub(super) fn truncated(frame: &ProverFrame) -> Option<Vec<u8>> {
    let ProverFrame::Commit { .. } = frame else { return None };
    let mut bytes = encode(frame).ok()?;
    bytes.truncate(bytes.len() / 2);
    Some(bytes)
}

struct Bending<'a> {
    sink: &'a mut dyn Sink,
    bend: Bend,
}

impl Sink for Bending<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.sink.send_bytes(bytes)
    }

    fn send(&mut self, frame: &ProverFrame) -> Result<(), Gone> {
        match (self.bend)(frame) {
            Some(bytes) => self.sink.send_bytes(&bytes),
            None => self.sink.send(frame),
        }
    }
}

struct Drip<'a> {
    sink: &'a mut dyn Sink,
    lane: &'a Lane,
}

impl Sink for Drip<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        bytes.iter().try_for_each(|byte| {
            self.lane.work(SLOW_BYTE_NS);
            self.sink.send_bytes(std::slice::from_ref(byte))
        })
    }
}

struct Keeping<'a> {
    sink: &'a mut dyn Sink,
    kept: &'a mut Vec<ProverFrame>,
}

impl Sink for Keeping<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.sink.send_bytes(bytes)
    }

    fn send(&mut self, frame: &ProverFrame) -> Result<(), Gone> {
        self.kept.push(frame.clone());
        self.sink.send(frame)
    }
}
