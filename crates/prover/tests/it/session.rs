//! Honest sessions.

use nicompute_proof::{
    DeviceKind, EntropyError, ParamsRecord, ProofParams, ProverFrame, Refusal, Verdict,
    VerifierSession, verify_transcript,
};
use nicompute_prover::{CpuDevice, Kernel, Prover, prove_in_process};

use crate::harness::{boxed, config, honest, prove, prove_with, session, ticking, tiny, validator};

/// An honest machine that is refused earns nothing for its work.
#[test]
fn an_honest_machine_is_proven() {
    let transcript = prove(boxed(honest())).unwrap();
    assert_eq!(transcript.verdict, Verdict::Proven);
    assert_eq!(transcript.measured.plot_bytes, 4096 * 128);
    assert_eq!(transcript.measured.operations, 2 * 4096 * 2 * 128 * 128);
    assert_eq!(transcript.measured.walk_bytes, 256 * 8 * 128);
    let signed = transcript.sign(&validator()).unwrap();
    let report = verify_transcript(signed.as_bytes()).unwrap();
    assert_eq!((report.signer, report.verdict), (validator().hotkey(), Verdict::Proven));
    assert_eq!((report.sampled_rows, report.sampled_walks), (64, 24));
}

/// The profile of the local market must hold as it stands, on every kernel.
#[test]
fn the_small_profile_is_proven_on_every_kernel() {
    let quarter = ProofParams::small().with_rows(65_536).unwrap();
    for kernel in [Kernel::Portable, Kernel::detect()] {
        let transcript = prove_with(config(quarter), boxed(honest().on_kernel(kernel))).unwrap();
        assert_eq!(transcript.measured.plot_bytes, 16 << 20);
    }
}

/// Widths that are no power of two, long chains, and row counts whose tree is not full must work too.
#[test]
fn other_sizes_are_proven() {
    let base = tiny().record();
    for record in [
        ParamsRecord { n: 192, steps: 5, rows: 3 * 1024, ..base },
        ParamsRecord { n: 1088, rows: 256, panel_rows: 64, sampled_rows: 3, ..base },
        ParamsRecord { rows: 64 * 5, panel_rows: 64, walks: 64 * 3, reads: 1, ..base },
    ] {
        let params = ProofParams::try_from(record).unwrap();
        prove_with(config(params), boxed(honest())).unwrap();
    }
}

/// A machine with several devices proves all of them at once, each with rows of its own.
#[test]
fn several_devices_are_proven_together() {
    let mut two = boxed(honest());
    two.push(Box::new(CpuDevice::new("cpu-1", "second processor", 1 << 30, 1)));
    let transcript = prove(two).unwrap();
    let [first, second] = transcript.exchange.devices.as_slice() else {
        panic!("two devices were planned")
    };
    assert_ne!(first.row_root, second.row_root);
    assert_eq!(transcript.measured.plot_bytes, 2 * 4096 * 128);
}

/// A machine short of memory must be able to prove what it has.
#[test]
fn a_machine_short_of_memory_is_asked_for_less() {
    let small = CpuDevice::new("cpu", "small", 700 << 10, 1);
    let transcript = prove(boxed(small)).unwrap();
    assert_eq!(transcript.exchange.devices[0].plan.rows, 2 * 1024);
    let none = CpuDevice::new("cpu", "none", 100 << 10, 1);
    assert!(matches!(prove(boxed(none)), Err(Refusal::Claims(_))));
}

/// Two sessions that shared a row would let a plot be used twice.
#[test]
fn every_part_of_the_binding_changes_the_plot() {
    let root = |change: &dyn Fn(&mut nicompute_proof::Binding), seed| {
        let mut config = config(tiny());
        change(&mut config.binding);
        let mut prover = Prover::new(boxed(honest()));
        let transcript =
            prove_in_process(&mut session(config, seed), &mut prover, &mut ticking()).unwrap();
        transcript.exchange.devices[0].row_root
    };
    let roots = [
        root(&|_| (), 0),
        root(&|_| (), 1),
        root(&|binding| binding.validator[0] ^= 1, 0),
        root(&|binding| binding.provider[0] ^= 1, 0),
        root(&|binding| binding.lease[0] ^= 1, 0),
        root(&|binding| binding.block_number += 1, 0),
        root(&|binding| binding.block_hash[31] ^= 1, 0),
    ];
    let distinct: std::collections::HashSet<_> = roots.iter().collect();
    assert_eq!(distinct.len(), roots.len());
    assert_eq!(roots[0], root(&|_| (), 0));
}

/// Asking for GPUs on a machine without any must say so, and not prove the processor instead.
#[test]
fn a_kind_that_the_machine_lacks_is_refused() {
    let mut config = config(tiny());
    config.kind = DeviceKind::Cuda;
    let refusal = prove_with(config, boxed(honest())).unwrap_err();
    assert!(matches!(refusal, Refusal::Claims(_)), "{refusal}");
    assert!(!refusal.is_own_fault());
}

/// A validator without random bytes must not run a session with predictable ones, nor blame the provider.
#[test]
fn no_entropy_ends_the_session() {
    let none = || Err::<[u8; 32], _>(EntropyError);
    let mut session = VerifierSession::new(config(tiny()), Box::new(none), 0);
    let mut prover = Prover::new(boxed(honest()));
    let refusal = prove_in_process(&mut session, &mut prover, &mut ticking()).unwrap_err();
    assert_eq!(refusal, Refusal::Entropy(EntropyError));
    assert!(refusal.is_own_fault());
}

/// A session that is over must not be woken by another frame.
#[test]
fn nothing_follows_a_refusal() {
    let mut session = session(config(tiny()), 0);
    assert!(session.on_frame(ProverFrame::Ready, 1).is_err());
    let hello = Prover::new(boxed(honest())).hello();
    assert!(matches!(session.on_frame(hello, 2), Err(Refusal::Protocol { .. })));
    assert_eq!(session.deadline_ns(), None);
}
