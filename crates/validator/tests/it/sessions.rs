//! A session over a channel in memory, with the provers that we know.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use nicompute_daemon::{BoxError, SharedClock, SystemClock};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::LeaseId;
use nicompute_proof::{DeviceKind, Limits, ParamsRecord, ProofParams, Refusal, verify_transcript};
use nicompute_prover::{CpuDevice, Device, Prover, cheats};
use nicompute_validator::{Channel, ChannelEvent, Proven, SessionError, SessionPlan, prove};
use tokio::sync::mpsc as tokio_mpsc;

/// A profile that takes milliseconds.
fn tiny() -> ProofParams {
    let record = ParamsRecord {
        n: 128,
        rows: 4096,
        panel_rows: 1024,
        walks: 256,
        reads: 8,
        ..ProofParams::small().record()
    };
    ProofParams::try_from(record).unwrap()
}

fn validator() -> Keypair {
    Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap()
}

fn plan() -> SessionPlan {
    SessionPlan {
        provider: Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap().hotkey(),
        lease: LeaseId::from_random_bytes([3; 16]),
        block: (7, [9; 32]),
        params: tiny(),
        limits: Limits::small(),
        kind: DeviceKind::Cpu,
    }
}

/// The prover's real standard-stream loop in a thread of its own.
struct Threaded {
    to_prover: Option<mpsc::Sender<Vec<u8>>>,
    from_prover: tokio_mpsc::Receiver<Vec<u8>>,
}

struct Reader {
    source: mpsc::Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl std::io::Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.source.recv().unwrap_or_default();
        }
        let count = self.rest.len().min(out.len());
        out[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

struct Writer(tokio_mpsc::Sender<Vec<u8>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.blocking_send(bytes.to_vec()).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Threaded {
    fn start(device: Box<dyn Device>) -> Self {
        let (to_prover, source) = mpsc::channel();
        let (sink, from_prover) = tokio_mpsc::channel(64);
        std::thread::spawn(move || {
            let reader = Reader { source, rest: Vec::new() };
            // How it ended is the verifier's to judge.
            let mut prover = Prover::new(vec![device]);
            drop(nicompute_prover::stdio::run(&mut prover, reader, Writer(sink)));
        });
        Self { to_prover: Some(to_prover), from_prover }
    }
}

#[async_trait]
impl Channel for Threaded {
    async fn next(&mut self) -> ChannelEvent {
        self.from_prover.recv().await.map_or(ChannelEvent::Closed, ChannelEvent::Bytes)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        let sender = self.to_prover.as_ref().ok_or("closed")?;
        Ok(sender.send(bytes.to_vec())?)
    }
}

async fn session(device: Box<dyn Device>) -> Proven {
    let clock: SharedClock = SystemClock::shared();
    prove(plan(), &validator(), &clock, &mut Threaded::start(device)).await.unwrap()
}

fn honest() -> Box<dyn Device> {
    Box::new(CpuDevice::new("cpu", "honest", 1 << 30, 1))
}

/// An honest machine must pass, and its evidence must convince somebody who was not there.
#[tokio::test]
async fn an_honest_prover_passes() {
    let Proven::Passed { shown, transcript } = session(honest()).await else {
        panic!("an honest prover was refused");
    };
    assert_eq!(shown.bytes_per_device, 4096 * 128);
    assert!(shown.ops_per_second > 0 && shown.walk_bytes_per_second > 0);
    let report = verify_transcript(transcript.as_bytes()).unwrap();
    assert_eq!(report.signer, validator().hotkey());
}

/// A machine that does not do the work must be refused by the recomputed sample, with evidence for everybody.
#[tokio::test]
async fn cheaters_are_refused_with_evidence() {
    let cheaters: [Box<dyn Device>; 3] = [
        Box::new(cheats::hankel()),
        Box::new(cheats::half_of_the_rows()),
        Box::new(cheats::one_step_short()),
    ];
    for device in cheaters {
        let Proven::Refused { refusal, transcript } = session(device).await else {
            panic!("a cheater passed");
        };
        assert!(matches!(refusal, Refusal::Mismatch { .. }), "{refusal:?}");
        verify_transcript(transcript.unwrap().as_bytes()).unwrap();
    }
}

/// Says nothing, or goes away.
struct Silent {
    closed: bool,
}

#[async_trait]
impl Channel for Silent {
    async fn next(&mut self) -> ChannelEvent {
        if self.closed {
            return ChannelEvent::Closed;
        }
        std::future::pending().await
    }

    async fn send(&mut self, _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A prover that stays silent must be refused when its time is over; one that is gone gives no verdict at all.
#[tokio::test]
async fn silence_ends() {
    let clock: SharedClock = Arc::new(SystemClock::new());
    let limits = Limits { hello_ns: 50_000_000, ..Limits::small() };
    let (key, mut silent) = (validator(), Silent { closed: false });
    let late = prove(SessionPlan { limits, ..plan() }, &key, &clock, &mut silent);
    let late = tokio::time::timeout(Duration::from_secs(20), late).await.unwrap().unwrap();
    assert!(matches!(late, Proven::Refused { refusal: Refusal::Deadline { .. }, .. }), "{late:?}");
    let gone = prove(plan(), &validator(), &clock, &mut Silent { closed: true }).await;
    assert!(matches!(gone, Err(SessionError::Closed(_))));
}

/// Bytes that are no frames must be refused, not crash the validator.
#[tokio::test]
async fn noise_is_refused() {
    struct Noise(u64);
    #[async_trait]
    impl Channel for Noise {
        async fn next(&mut self) -> ChannelEvent {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ChannelEvent::Bytes(self.0.to_be_bytes().to_vec())
        }

        async fn send(&mut self, _: &[u8]) -> Result<(), BoxError> {
            Ok(())
        }
    }
    let clock: SharedClock = SystemClock::shared();
    for seed in 0..64 {
        let outcome = prove(plan(), &validator(), &clock, &mut Noise(seed)).await.unwrap();
        assert!(matches!(outcome, Proven::Refused { transcript: None, .. }), "{outcome:?}");
    }
}
