//! The legs after the walks, honest and not.

use nicompute_proof::{
    Digest, ErrorCode, Leg, NET_CHUNK_LEN, NET_WINDOW_LEN, NetStream, Nonce, ParamsRecord, Place,
    ProofParams, ProverFrame, Refusal, Stage, Transcript, VerifierFrame, decode, verify_transcript,
};
use nicompute_prover::{
    CpuDevice, Device, DeviceError, FillTask, Peer, PlotView, Prover, ReportPanel, Sink, cheats,
    exchange, prove_in_process,
};

use crate::harness::{boxed, config, honest, prove_with, session, ticking, tiny, validator};

const CHUNK: u64 = NET_CHUNK_LEN as u64;

fn with_legs() -> ProofParams {
    ProofParams::try_from(ParamsRecord {
        link_walks: 192,
        copy_rows: 1000,
        net_down_bytes: 3 * CHUNK,
        net_up_bytes: 2 * CHUNK,
        ..tiny().record()
    })
    .unwrap()
}

fn two() -> Vec<Box<dyn Device>> {
    let mut devices = boxed(honest());
    // Another size, so that a walk over the wrong one of the two is found.
    devices.push(Box::new(CpuDevice::new("cpu-1", "second processor", 800 << 10, 1)));
    devices
}

fn prove(devices: Vec<Box<dyn Device>>) -> Result<Box<Transcript>, Refusal> {
    prove_with(config(with_legs()), devices)
}

/// A leg that was asked for and answered must be in the evidence, with its own bytes and time.
#[test]
fn every_leg_is_proven_and_measured() {
    let transcript = prove(two()).unwrap();
    let rows: Vec<u64> = transcript.exchange.devices.iter().map(|one| one.plan.rows).collect();
    assert_eq!(rows, [4096, 3072]);
    let measured = transcript.measured;
    assert_eq!(measured.link.unwrap().bytes, 2 * 192 * 8 * 128);
    assert_eq!(measured.copy.unwrap().bytes, 2 * 1000 * 128);
    assert_eq!(measured.net_down.unwrap().bytes, 3 * CHUNK);
    assert_eq!(measured.net_up.unwrap().bytes, 2 * CHUNK);
    let report = verify_transcript(transcript.sign(&validator()).unwrap().as_bytes()).unwrap();
    assert_eq!((report.sampled_rows, report.sampled_walks), (2 * 128, 2 * 48));
    assert!(report.legs.answered().link && report.legs.answered().copy);
}

/// A machine with one device has no neighbour, and must be proven without LINK all the same.
#[test]
fn one_device_is_not_asked_to_link() {
    let transcript = prove(boxed(honest())).unwrap();
    assert_eq!(transcript.exchange.params.link_walks, 0);
    assert_eq!((transcript.exchange.legs.link, transcript.measured.link), (Leg::NotAsked, None));
    assert!(transcript.measured.copy.is_some());
}

/// A machine that cannot do a leg must keep its proof, and the reason must be in the evidence.
#[test]
fn a_leg_can_be_declined() {
    let mut devices = boxed(cheats::truncated(100));
    devices.push(Box::new(honest()));
    let transcript = prove(devices).unwrap();
    let Leg::Declined { code: ErrorCode::Device, text } = &transcript.exchange.legs.link else {
        panic!("{:?}", transcript.exchange.legs.link)
    };
    assert!(text.contains("plot that others can reach"), "{text}");
    assert!(matches!(transcript.exchange.legs.copy, Leg::Declined { .. }));
    assert_eq!((transcript.measured.link, transcript.measured.copy), (None, None));
    assert!(transcript.measured.net_up.is_some());
    verify_transcript(transcript.sign(&validator()).unwrap().as_bytes()).unwrap();
}

/// What a dishonest device does instead of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fraud {
    /// Walks over its own plot in the place of its neighbour's.
    OwnPlot,
    /// Answers for another nonce.
    OtherLinkNonce,
    /// Copies other rows than it was asked to.
    OtherRows,
}

#[derive(Debug)]
struct Fraudster(CpuDevice, Fraud);

impl Device for Fraudster {
    fn claim(&self) -> nicompute_proof::DeviceClaim {
        self.0.claim()
    }

    fn prepare(
        &mut self,
        params: &ProofParams,
        plan: &nicompute_proof::DevicePlan,
    ) -> Result<(), DeviceError> {
        self.0.prepare(params, plan)
    }

    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError> {
        self.0.fill(task, report)
    }

    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError> {
        self.0.walk(n2)
    }

    fn plot(&self) -> Option<PlotView> {
        self.0.plot()
    }

    fn link(&mut self, nonce: &Nonce, peer: &Peer) -> Result<Digest, DeviceError> {
        match self.1 {
            Fraud::OwnPlot => {
                let own = Peer { view: self.0.plot().unwrap(), rows: 4096 };
                self.0.link(nonce, &own)
            }
            Fraud::OtherLinkNonce => self.0.link(&Nonce([0xEE; 32]), peer),
            Fraud::OtherRows => self.0.link(nonce, peer),
        }
    }

    fn copy(&mut self, nonce: &Nonce) -> Result<Digest, DeviceError> {
        match self.1 {
            Fraud::OtherRows => self.0.copy(&Nonce([0xEE; 32])),
            Fraud::OwnPlot | Fraud::OtherLinkNonce => self.0.copy(nonce),
        }
    }

    fn open(
        &mut self,
        ask: &nicompute_proof::OpenDevice,
    ) -> Result<nicompute_proof::DeviceOpenings, DeviceError> {
        self.0.open(ask)
    }
}

/// A wrong answer to a leg is a wrong proof, found at the leg's own place, with evidence.
#[test]
fn wrong_answers_to_legs_are_refused() {
    for fraud in [Fraud::OwnPlot, Fraud::OtherLinkNonce, Fraud::OtherRows] {
        let mut devices = boxed(Fraudster(honest(), fraud));
        devices.extend(two().pop());
        let mut session = session(config(with_legs()), 0);
        let mut prover = Prover::new(devices);
        let refusal = prove_in_process(&mut session, &mut prover, &mut ticking()).unwrap_err();
        let Refusal::Mismatch { device: 0, place } = refusal else {
            panic!("{fraud:?}: {refusal}")
        };
        match fraud {
            Fraud::OwnPlot | Fraud::OtherLinkNonce => assert!(matches!(place, Place::Link(_))),
            Fraud::OtherRows => assert!(matches!(place, Place::Copy(_))),
        }
        let evidence = session.take_evidence().unwrap().sign(&validator()).unwrap();
        verify_transcript(evidence.as_bytes()).unwrap();
    }
}

/// Plays an honest prover whose frames pass through `change`.
fn changed(
    params: ProofParams,
    now: &std::cell::Cell<u64>,
    change: &mut dyn FnMut(ProverFrame) -> Vec<ProverFrame>,
) -> Result<Box<Transcript>, Refusal> {
    struct Changed<'a>(&'a mut dyn Sink, &'a mut dyn FnMut(ProverFrame) -> Vec<ProverFrame>);
    impl Sink for Changed<'_> {
        fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), nicompute_prover::Gone> {
            let frame = decode(&bytes[4..]).unwrap();
            for frame in (self.1)(frame) {
                self.0.send(&frame)?;
            }
            Ok(())
        }
    }
    let mut prover = Prover::new(boxed(honest()));
    let hello = prover.hello();
    let mut answer = |frame: VerifierFrame, sink: &mut dyn Sink| {
        drop(prover.on_frame(frame, &mut Changed(sink, change)));
    };
    exchange(&mut session(config(params), 0), &hello, &mut answer, &mut || now.get())
}

fn net(down: u64, up: u64) -> ProofParams {
    let record = ParamsRecord { net_down_bytes: down, net_up_bytes: up, ..tiny().record() };
    ProofParams::try_from(record).unwrap()
}

/// Bytes that were not received, or are not the stream's, must not be counted.
#[test]
fn wrong_bytes_of_net_are_refused() {
    let now = std::cell::Cell::new(0);
    let run = |change: &mut dyn FnMut(ProverFrame) -> Vec<ProverFrame>| {
        changed(net(3 * CHUNK, 3 * CHUNK), &now, change).unwrap_err()
    };
    let digest = run(&mut |frame| match frame {
        ProverFrame::Digest { .. } => vec![ProverFrame::Digest { digest: Digest([1; 32]) }],
        other => vec![other],
    });
    assert_eq!(digest, Refusal::Stream { stage: Stage::Down });
    let mut other = NetStream::new([0; 32]);
    let chunk = run(&mut |frame| match frame {
        ProverFrame::Up { .. } => vec![ProverFrame::Up { chunk: other.next_chunk() }],
        other => vec![other],
    });
    assert_eq!(chunk, Refusal::Stream { stage: Stage::Up });
    let early = run(&mut |frame| match frame {
        ProverFrame::Got { bytes } => vec![ProverFrame::Got { bytes: bytes + CHUNK }],
        other => vec![other],
    });
    assert!(matches!(early, Refusal::Protocol { stage: Stage::Down, .. }), "{early}");
    let twice = run(&mut |frame| match frame {
        ProverFrame::Got { .. } => vec![frame.clone(), frame],
        other => vec![other],
    });
    assert!(matches!(twice, Refusal::Protocol { stage: Stage::Down, .. }), "{twice}");
    let mut held = Vec::new();
    let swapped = run(&mut |frame| match frame {
        ProverFrame::Up { .. } if held.is_empty() => {
            held.push(frame);
            Vec::new()
        }
        ProverFrame::Up { .. } => [vec![frame], std::mem::take(&mut held)].concat(),
        other => vec![other],
    });
    assert_eq!(swapped, Refusal::Stream { stage: Stage::Up });
}

/// Neither side may have more than the window under way, however much is asked for.
#[test]
fn net_never_has_more_than_the_window_under_way() {
    let all = NET_WINDOW_LEN + 5 * CHUNK;
    let now = std::cell::Cell::new(0);
    let (mut got, mut sent_up) = (0, 0);
    let mut session = session(config(net(all, all)), 0);
    let mut prover = Prover::new(boxed(honest()));
    let hello = prover.hello();
    let (mut sent, mut allowed) = (0, 0);
    struct Counting<'a>(&'a mut dyn Sink, &'a mut u64, &'a mut u64);
    impl Sink for Counting<'_> {
        fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), nicompute_prover::Gone> {
            match decode(&bytes[4..]).unwrap() {
                ProverFrame::Got { bytes } => *self.1 = bytes,
                ProverFrame::Up { .. } => *self.2 += CHUNK,
                _ => {}
            }
            self.0.send_bytes(bytes)
        }
    }
    let mut answer = |frame: VerifierFrame, sink: &mut dyn Sink| {
        match &frame {
            VerifierFrame::Down { .. } => {
                sent += CHUNK;
                assert!(sent - got <= NET_WINDOW_LEN);
            }
            VerifierFrame::Up { .. } => allowed = NET_WINDOW_LEN,
            VerifierFrame::More { bytes } => {
                assert!(*bytes - sent_up <= NET_WINDOW_LEN);
                allowed = *bytes;
            }
            _ => {}
        }
        drop(prover.on_frame(frame, &mut Counting(sink, &mut got, &mut sent_up)));
    };
    exchange(&mut session, &hello, &mut answer, &mut || now.get()).unwrap();
    assert_eq!((sent, got, allowed, sent_up), (all, all, all, all));
}

/// A slow line must end NET with what went through, and neither the session nor the proof.
#[test]
fn a_slow_line_ends_net_and_not_the_session() {
    let all = NET_WINDOW_LEN + 40 * CHUNK;
    let now = std::cell::Cell::new(0);
    let second = 1_000_000_000;
    let transcript = changed(net(all, all), &now, &mut |frame| {
        if matches!(frame, ProverFrame::Got { .. } | ProverFrame::Up { .. }) {
            now.set(now.get() + second / 2);
        }
        vec![frame]
    })
    .unwrap();
    // Half a second a chunk, ten seconds to begin more: twenty chunks after the window.
    let measured = transcript.measured;
    let (down, up) = (measured.net_down.unwrap(), measured.net_up.unwrap());
    assert!(down.bytes > NET_WINDOW_LEN && down.bytes < all, "{}", down.bytes);
    assert!(up.bytes > NET_WINDOW_LEN && up.bytes < all, "{}", up.bytes);
    verify_transcript(transcript.sign(&validator()).unwrap().as_bytes()).unwrap();
}
