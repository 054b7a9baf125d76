//! Late answers, on the verifier's clock and on no other.

use std::time::Instant;

use nicompute_proof::{
    Limits, ParamsRecord, ProofParams, ProverFrame, Refusal, Stage, VerifierFrame, encode,
};
use nicompute_prover::{CpuDevice, Device, Prover, Sink, cheats, exchange, prove_in_process};

use crate::harness::{boxed, config, honest, session, ticking, tiny};

/// The tiny profile with every leg, one chunk of NET each way.
fn with_legs() -> ProofParams {
    let bytes = 1 << 17;
    ProofParams::try_from(ParamsRecord {
        link_walks: 128,
        copy_rows: 1000,
        net_down_bytes: bytes,
        net_up_bytes: bytes,
        ..tiny().record()
    })
    .unwrap()
}

/// Runs an honest prover with two devices, but the clock jumps by this much whenever the verifier reads a frame for which `late` holds.
fn delayed(late: fn(&ProverFrame) -> bool, by_ns: u64) -> Result<(), Refusal> {
    let now = std::cell::Cell::new(0_u64);
    let mut session = session(config(with_legs()), 0);
    let mut devices = boxed(honest());
    devices.push(Box::new(CpuDevice::new("cpu-1", "second processor", 1 << 30, 1)));
    let mut prover = Prover::new(devices);
    let hello = prover.hello();
    if late(&hello) {
        now.set(by_ns);
    }
    let mut answer = |frame, sink: &mut dyn Sink| {
        drop(prover.on_frame(frame, &mut Delaying { sink, now: &now, late, by_ns }));
    };
    exchange(&mut session, &hello, &mut answer, &mut || now.get()).map(drop)
}

struct Delaying<'a> {
    sink: &'a mut dyn Sink,
    now: &'a std::cell::Cell<u64>,
    late: fn(&ProverFrame) -> bool,
    by_ns: u64,
}

impl Sink for Delaying<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), nicompute_prover::Gone> {
        self.sink.send_bytes(bytes)
    }

    fn send(&mut self, frame: &ProverFrame) -> Result<(), nicompute_prover::Gone> {
        if (self.late)(frame) {
            self.now.set(self.now.get() + self.by_ns);
        }
        self.sink.send(frame)
    }
}

/// A stage without an end would let a slow machine pass for a fast one.
#[test]
fn every_stage_has_a_deadline() {
    type Case = (Stage, u64, fn(&ProverFrame) -> bool);
    let limits = Limits::small();
    let cases: [Case; 10] = [
        (Stage::Hello, limits.hello_ns, |f| matches!(f, ProverFrame::Hello { .. })),
        (Stage::Ready, limits.ready_ns, |f| matches!(f, ProverFrame::Ready)),
        (Stage::Pings, limits.pong_ns, |f| matches!(f, ProverFrame::Pong { number: 3 })),
        (Stage::Fill, limits.fill_ns, |f| matches!(f, ProverFrame::Commit { .. })),
        (Stage::Walk, limits.walk_ns, |f| matches!(f, ProverFrame::Wroot { .. })),
        (Stage::Link, limits.link_ns, |f| matches!(f, ProverFrame::Lroot { .. })),
        (Stage::Copy, limits.copy_ns, |f| matches!(f, ProverFrame::Croot { .. })),
        (Stage::Down, limits.net_ns, |f| matches!(f, ProverFrame::Digest { .. })),
        (Stage::Up, limits.net_ns, |f| matches!(f, ProverFrame::Up { .. })),
        (
            Stage::Openings,
            limits.openings_ns,
            |f| matches!(f, ProverFrame::Openings(openings) if openings.device == 1),
        ),
    ];
    for (late_stage, limit, late) in cases {
        assert_eq!(delayed(late, limit), Ok(()), "{late_stage} at its limit");
        let refusal = delayed(late, limit + 1).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Deadline { stage: late_stage, took_ns: limit + 1, limit_ns: limit }
        );
    }
}

/// One byte a second keeps a connection alive, and must not keep a session alive: the stage's limit is on the whole.
#[test]
fn a_trickle_of_bytes_ends_at_the_limit() {
    let second = 1_000_000_000;
    let mut session = session(config(tiny()), 0);
    let hello = encode(&Prover::new(boxed(honest())).hello()).unwrap();
    let mut now = 0;
    let ended = hello.iter().find_map(|byte| {
        now += second;
        session.on_bytes(&[*byte], now).and_then(|_| session.on_time(now)).err()
    });
    let limit_ns = Limits::small().hello_ns;
    let took_ns = limit_ns + second;
    assert_eq!(ended, Some(Refusal::Deadline { stage: Stage::Hello, took_ns, limit_ns }));
}

/// A prover that falls silent must be given up at the stage's limit, not waited for.
#[test]
fn silence_ends_at_the_limit() {
    let mut session = session(config(tiny()), 0);
    assert_eq!(session.deadline_ns(), Some(Limits::small().hello_ns));
    let hello = Prover::new(boxed(honest())).hello();
    session.on_frame(hello, 5).unwrap();
    let deadline = session.deadline_ns().unwrap();
    assert_eq!(deadline, 5 + Limits::small().ready_ns);
    assert_eq!(session.on_time(deadline), Ok(()));
    let late = session.on_time(deadline + 1).unwrap_err();
    assert!(matches!(late, Refusal::Deadline { stage: Stage::Ready, .. }));
    assert_eq!(session.on_time(4), Err(Refusal::Clock));
}

/// A machine that holds only nine tenths of its plot answers rightly and too late. Memory that is missing must cost more
/// time than any verifier grants: here ten times what the whole plot takes.
#[test]
fn a_truncated_plot_misses_the_walk_deadline() {
    let params = ProofParams::try_from(ParamsRecord {
        n: 1024,
        steps: 4,
        rows: 2048,
        panel_rows: 256,
        walks: 4096,
        reads: 8,
        ..ProofParams::small().record()
    })
    .unwrap();
    let walk_ns = |device: Box<dyn Device>, limit_ns| {
        let mut config = config(params);
        config.limits.walk_ns = limit_ns;
        let mut prover = Prover::new(vec![device]);
        let mut clock = real_clock();
        prove_in_process(&mut session(config, 0), &mut prover, &mut clock)
            .map(|transcript| transcript.times.wroot_ns - transcript.times.commit_ns)
    };
    let whole = walk_ns(Box::new(honest()), Limits::small().walk_ns).unwrap();
    let limit = 10 * whole;
    let refusal = walk_ns(Box::new(cheats::truncated(90)), limit).unwrap_err();
    let Refusal::Deadline { stage: Stage::Walk, took_ns, .. } = refusal else {
        panic!("refused for another reason: {refusal}")
    };
    assert!(took_ns > limit);
    // Given all the time in the world, the same answers are right: it is the clock that refuses.
    walk_ns(Box::new(cheats::truncated(90)), u64::MAX).unwrap();
}

/// The credit for the round trip must come from the pings, so that a distant honest machine is not called slow.
#[test]
fn the_round_trip_is_measured_by_the_pings() {
    let mut prover = Prover::new(boxed(honest()));
    let transcript =
        prove_in_process(&mut session(config(tiny()), 0), &mut prover, &mut ticking()).unwrap();
    assert_eq!(transcript.times.rtt_min_ns, 1_000_000);
    assert_eq!(transcript.times.commit_ns, 5_000_000);
    assert_eq!(transcript.measured.fill_ns, 5_000_000 - 78_125);
}

/// The farewell must tell the prover, in a frame that it can read.
#[test]
fn a_refusal_has_a_farewell() {
    let refusal = delayed(|f| matches!(f, ProverFrame::Commit { .. }), u64::MAX / 2).unwrap_err();
    assert!(matches!(refusal.farewell(), VerifierFrame::Error { .. }));
}

#[expect(clippy::disallowed_methods, reason = "the cheat is real work, so its time must be real")]
fn real_clock() -> impl FnMut() -> u64 {
    let began = Instant::now();
    move || u64::try_from(began.elapsed().as_nanos()).unwrap()
}
