//! Damaged streams of frames: into a verifier, and into a prover.

use std::collections::BTreeMap;

use nicompute_proof::{
    PROVER_FRAME_LEN_MAX, ProverFrame, Refusal, Stage, VERIFIER_FRAME_LEN_MAX, VerifierFrame,
    encode,
};
use nicompute_prover::{Gone, Prover, Sink, exchange, stdio};

use crate::allocations::peak_of;
use crate::mutation::{Harm, Random};
use crate::{MEMORY_BYTES, NET_BYTES, devices, session};

const INTO_VERIFIER: u64 = 3_600;
const INTO_VERIFIER_WITH_NET: u64 = 400;
const INTO_PROVER: u64 = 1_000;
/// What a verifier may hold for one prover beyond the longest frame: what came before, and what sequences are given before
/// they have proven their length.
const VERIFIER_ALLOWED: i64 = 6 << 20;
/// The same for a prover of two devices, whose plots are no larger than what it said it has.
const PROVER_ALLOWED: i64 = 6 << 20;

/// Every frame of an honest session, encoded, both ways.
pub(crate) fn recorded(net_bytes: u64) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut prover = Prover::new(devices());
    let hello = prover.hello();
    let (mut from_prover, mut from_verifier) = (vec![encode(&hello).unwrap()], Vec::new());
    let mut answer = |frame: VerifierFrame, sink: &mut dyn Sink| {
        from_verifier.push(encode(&frame).unwrap());
        drop(prover.on_frame(frame, &mut Keeping { sink, kept: &mut from_prover }));
    };
    let mut now = 0;
    let mut clock = || {
        now += 1_000_000;
        now
    };
    exchange(&mut session(net_bytes), &hello, &mut answer, &mut clock).unwrap();
    (from_prover, from_verifier)
}

struct Keeping<'a> {
    sink: &'a mut dyn Sink,
    kept: &'a mut Vec<Vec<u8>>,
}

impl Sink for Keeping<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.kept.push(bytes.to_vec());
        self.sink.send_bytes(bytes)
    }
}

/// Damages a stream of frames: inside of one, or their order.
fn damage(frames: &mut Vec<Vec<u8>>, random: &mut Random) -> (usize, &'static str) {
    let at = random.below(frames.len());
    match random.below(10) {
        0 => {
            frames.insert(at, frames[at].clone());
            (at, "frame twice")
        }
        1 => {
            frames.remove(at);
            (at, "frame left out")
        }
        2 => {
            let other = random.below(frames.len());
            frames.swap(at, other);
            (at.min(other), "frames swapped")
        }
        3 => {
            let len = u32::try_from(PROVER_FRAME_LEN_MAX + 1 + random.below(1 << 24)).unwrap();
            frames[at][..4].copy_from_slice(&len.to_le_bytes());
            (at, "oversized")
        }
        _ => {
            let harm = Harm::ALL[random.below(Harm::ALL.len())];
            harm.on(&mut frames[at], random);
            (at, "bytes harmed")
        }
    }
}

const fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Oversized { .. } => "oversized",
        Refusal::Malformed(_) => "malformed",
        Refusal::Protocol { .. } => "protocol",
        Refusal::Version(_) => "version",
        Refusal::Claims(_) => "claims",
        Refusal::Deadline { .. } => "deadline",
        Refusal::Openings(_) => "openings",
        Refusal::Mismatch { .. } => "mismatch",
        Refusal::Prover { .. } => "prover",
        Refusal::Stream { .. } => "stream",
        _ => "another",
    }
}

/// A damaged stream must end a session as the prover's fault, with a reason, and cost the validator nothing else.
#[test]
fn damaged_streams_into_a_verifier_are_refused() {
    println!("{:#?}", into_a_verifier(0, INTO_VERIFIER));
    println!("with the line: {:#?}", into_a_verifier(NET_BYTES, INTO_VERIFIER_WITH_NET));
}

/// How often each harm came to each reason.
type Reasons = BTreeMap<(&'static str, &'static str), u32>;

fn into_a_verifier(net_bytes: u64, streams: u64) -> Reasons {
    let (good, _) = recorded(net_bytes);
    let mut reasons = Reasons::new();
    for seed in 0..streams {
        let mut random = Random(seed << 20 | 2);
        let mut frames = good.clone();
        let (at, harm) = damage(&mut frames, &mut random);
        if frames == good {
            continue;
        }
        let (peak, outcome) = peak_of(|| {
            let mut session = session(net_bytes);
            let mut now = 0;
            for bytes in &frames {
                now += 1;
                match session.on_bytes(bytes, now) {
                    Ok(output) if output.done.is_some() => return Ok(()),
                    Ok(_) => {}
                    Err(refusal) => return Err(refusal),
                }
            }
            assert_ne!(session.stage(), Stage::Over, "seed {seed}: nobody would ever be told");
            session.on_time(session.deadline_ns().unwrap() + 1)
        });
        let allowed = i64::try_from(PROVER_FRAME_LEN_MAX).unwrap() + VERIFIER_ALLOWED;
        assert!(peak <= allowed, "seed {seed}, {harm}: {peak} bytes for {outcome:?}");
        let reason = match &outcome {
            Err(refusal) => {
                assert!(!refusal.is_own_fault(), "seed {seed}, {harm}: {refusal}");
                name(refusal)
            }
            // HELLO's words about itself are no evidence; panels of two devices may come in any order; and what follows
            // the last OPENINGS is not read any more.
            Ok(()) => {
                let is_order = harm == "frames swapped" && is_progress(&good, at);
                let is_after = at + 1 >= good.len();
                assert!(at == 0 || is_order || is_after, "seed {seed}, {harm} of frame {at}");
                "harmless"
            }
        };
        *reasons.entry((harm, reason)).or_default() += 1;
    }
    reasons
}

fn is_progress(frames: &[Vec<u8>], at: usize) -> bool {
    let frame = nicompute_proof::decode::<ProverFrame>(&frames[at][4..]);
    matches!(frame, Ok(ProverFrame::Progress { .. }))
}

/// A hostile verifier must not make a prover panic, hang or take more memory than it said it has.
#[test]
fn damaged_streams_into_a_prover_end_it() {
    let (_, good) = recorded(0);
    let mut ended_well = 0;
    for seed in 0..INTO_PROVER {
        let mut random = Random(seed << 20 | 3);
        let mut frames = good.clone();
        let (_, harm) = damage(&mut frames, &mut random);
        let stream = frames.concat();
        let (peak, outcome) = peak_of(|| {
            let mut prover = Prover::new(devices());
            stdio::run(&mut prover, stream.as_slice(), std::io::sink())
        });
        let frame = i64::try_from(VERIFIER_FRAME_LEN_MAX).unwrap();
        let plots = 2 * i64::try_from(MEMORY_BYTES).unwrap();
        let allowed = frame + plots + PROVER_ALLOWED;
        assert!(peak <= allowed, "seed {seed}, {harm}: {peak} bytes for {outcome:?}");
        ended_well += u32::from(outcome.is_ok());
    }
    // Another nonce or another binding is as good as the one that was recorded.
    println!("{ended_well} of {INTO_PROVER} came to BYE");
}
