//! Provers that do not do the work: each is refused, and by the check that is meant for it.
//!
//! The assertions name the place that was found wrong. With the row check taken out, the same cheaters would be refused
//! at a walk, if at all, and these tests would fail.

use nicompute_proof::{DevicePlan, Place, Refusal, Verdict, verify_transcript};
use nicompute_prover::cheats::{self, Judgement, Ring, Seed, find, fits, honest_bout, table};
use nicompute_prover::{Device, Prover, exchange, prove_in_process};

use crate::harness::{boxed, config, honest, session, ticking, tiny, validator};

fn refused_at_a_row(devices: Vec<Box<dyn Device>>, cheater: u16) {
    let mut session = session(config(tiny()), 0);
    let mut prover = Prover::new(devices);
    let refusal = prove_in_process(&mut session, &mut prover, &mut ticking()).unwrap_err();
    let Refusal::Mismatch { device, place: Place::Row(row) } = refusal else {
        panic!("refused for another reason: {refusal}")
    };
    assert_eq!(device, cheater);
    let evidence = session.take_evidence().expect("a mismatch leaves evidence");
    let report = verify_transcript(evidence.sign(&validator()).unwrap().as_bytes()).unwrap();
    assert_eq!(report.verdict, Verdict::Mismatch { device, place: Place::Row(row) });
}

/// Every cheater of the table earns nothing as often as the mathematics says, by the check that is meant for it, and leaves
/// evidence that anyone can check where there is something to compute again.
#[test]
fn every_cheater_is_caught_at_its_rate() {
    const ALARM: f64 = 1e-9;
    let ring = Ring::standard();
    for cheat in table() {
        let rate = cheat.predicted(ring.params());
        let sessions: u32 = if rate < 1.0 { 200 } else { 3 };
        let mut caught = 0;
        for session in 0..sessions {
            let bout = cheat.bout(&ring, Seed::new(u64::from(session)));
            match bout.judgement() {
                Judgement::Paid => {}
                judgement if cheat.caught_by.is(&judgement) => caught += 1,
                judgement => panic!("{}: for another reason: {judgement}", cheat.name),
            }
        }
        println!("{:<24}{caught:>4} of {sessions:>3}, predicted {rate:.6}", cheat.name);
        assert!(fits(caught, sessions, rate, ALARM), "{}: {caught} of {sessions}", cheat.name);
    }
}

/// Under the same rules honest machines are paid, so that the refusals are about cheating and nothing else.
#[test]
fn honest_machines_pass_in_the_ring() {
    let ring = Ring::standard();
    for devices in [1, 8] {
        let bout = honest_bout(&ring, Seed::new(1), devices);
        assert!(matches!(bout.judgement(), Judgement::Paid), "{devices}: {}", bout.judgement());
    }
}

/// A table in which two cheaters have one name, or none can be found, is of no use to a person.
#[test]
fn names_are_unique() {
    for cheat in table() {
        assert_eq!(find(cheat.name).map(|found| found.does), Some(cheat.does));
        assert_eq!(table().iter().filter(|other| other.name == cheat.name).count(), 1);
    }
    assert!(find("honest").is_none());
}

/// A mismatch leaves evidence that holds without the validator that found it.
#[test]
fn a_cheater_leaves_evidence() {
    refused_at_a_row(boxed(cheats::hankel()), 0);
    let first = honest();
    let plan = DevicePlan { device: 0, rows: tiny().rows(), walks: tiny().walks() };
    let copy = cheats::copy_of(&first, plan);
    let mut devices = boxed(first);
    devices.push(Box::new(copy));
    refused_at_a_row(devices, 1);
}

/// A walk root that was chosen before the openings must bind them.
#[test]
fn walk_openings_are_bound_to_their_root() {
    let mut session = session(config(tiny()), 0);
    let mut prover = Prover::new(boxed(honest()));
    let hello = prover.hello();
    let mut answer = |frame, sink: &mut dyn nicompute_prover::Sink| {
        let mut changing = Changing(sink);
        drop(prover.on_frame(frame, &mut changing));
    };
    let refusal = exchange(&mut session, &hello, &mut answer, &mut ticking()).unwrap_err();
    let walk = matches!(refusal, Refusal::Mismatch { place: Place::Walk(_), .. });
    assert!(walk, "refused for another reason: {refusal}");
}

/// Commits to another walk tree than the one that it opens.
struct Changing<'a>(&'a mut dyn nicompute_prover::Sink);

impl nicompute_prover::Sink for Changing<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), nicompute_prover::Gone> {
        let mut bytes = bytes.to_vec();
        // A WROOT frame of one device: length, tag 5, count, root.
        if bytes.len() == 4 + 2 + 32 && bytes[4] == 5 {
            bytes[10] ^= 1;
        }
        self.0.send_bytes(&bytes)
    }
}
