//! Provers that do not do the work: each is refused, and by the check that is meant for it.
//!
//! The assertions name the place that was found wrong. With the row check taken out, the same cheaters would be refused
//! at a walk, if at all, and these tests would fail.

use nicompute_proof::{DevicePlan, Nonce, Place, Refusal, SessionKeys, Verdict, verify_transcript};
use nicompute_prover::{Device, Prover, cheats, exchange, prove_in_process};

use crate::harness::{boxed, config, honest, prove, session, ticking, tiny, validator};

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

/// The forger that the v1.9.0 proof accepts earns nothing here.
#[test]
fn the_hankel_forger_is_refused() {
    refused_at_a_row(boxed(cheats::hankel()), 0);
}

/// A machine at half the speed must not pass for a whole one.
#[test]
fn half_of_the_rows_is_refused() {
    refused_at_a_row(boxed(cheats::half_of_the_rows()), 0);
}

/// A product less in each row is half of the work at two steps.
#[test]
fn a_step_short_is_refused() {
    refused_at_a_row(boxed(cheats::one_step_short()), 0);
}

/// A plot that was computed before the session must be worth nothing in it.
#[test]
fn a_replayed_plot_is_refused() {
    let earlier = SessionKeys::derive(&Nonce([0xEE; 32]), &config(tiny()).binding, &tiny());
    refused_at_a_row(boxed(cheats::replayed(earlier)), 0);
}

/// One device must not stand for two.
#[test]
fn a_copied_device_is_refused() {
    let first = honest();
    let plan = DevicePlan { device: 0, rows: tiny().rows(), walks: tiny().walks() };
    let copy = cheats::copy_of(&first, plan);
    let mut devices = boxed(first);
    devices.push(Box::new(copy));
    refused_at_a_row(devices, 1);
}

/// Honest rows and invented walks: the memory was not read, so the walk check must find it.
#[test]
fn invented_walks_are_refused() {
    let refusal = prove(boxed(InventedWalks(honest()))).unwrap_err();
    let walk = matches!(refusal, Refusal::Mismatch { place: Place::Walk(_), .. });
    assert!(walk, "refused for another reason: {refusal}");
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

/// Fills honestly, then walks under a nonce of its own, as one would who never waited for the verifier's.
#[derive(Debug)]
struct InventedWalks(nicompute_prover::CpuDevice);

impl Device for InventedWalks {
    fn claim(&self) -> nicompute_proof::DeviceClaim {
        self.0.claim()
    }

    fn prepare(
        &mut self,
        params: &nicompute_proof::ProofParams,
        plan: &DevicePlan,
    ) -> Result<(), nicompute_prover::DeviceError> {
        self.0.prepare(params, plan)
    }

    fn fill(
        &mut self,
        task: &nicompute_prover::FillTask,
        report: &mut nicompute_prover::ReportPanel<'_>,
    ) -> Result<nicompute_proof::Digest, nicompute_prover::DeviceError> {
        self.0.fill(task, report)
    }

    fn walk(
        &mut self,
        _n2: &Nonce,
    ) -> Result<nicompute_proof::Digest, nicompute_prover::DeviceError> {
        self.0.walk(&Nonce([0; 32]))
    }

    fn open(
        &mut self,
        ask: &nicompute_proof::OpenDevice,
    ) -> Result<nicompute_proof::DeviceOpenings, nicompute_prover::DeviceError> {
        self.0.open(ask)
    }
}
