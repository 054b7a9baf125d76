//! The disk as a device.

use std::path::{Path, PathBuf};

use nicompute_proof::{
    DeviceKind, ErrorCode, ParamsRecord, ProofParams, Refusal, verify_transcript,
};
use nicompute_prover::DiskDevice;

use crate::harness::{boxed, config, prove_with, tiny, validator};

fn params() -> ProofParams {
    // Rows that begin in the middle of a block, and a run that goes round.
    let record = ParamsRecord { n: 192, copy_rows: 4000, ..tiny().record() };
    ProofParams::try_from(record).unwrap()
}

/// A disk must be provable as memory is, where the file system lets itself be read past the cache; else it must say so.
#[test]
fn a_disk_is_proven_or_says_why_not() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut config = config(params());
    config.kind = DeviceKind::Disk;
    match prove_with(config, boxed(DiskDevice::at_first_of(&[dir], 2))) {
        Ok(transcript) => {
            assert_eq!(transcript.measured.plot_bytes, 4096 * 192);
            assert_eq!(transcript.measured.copy.unwrap().bytes, 4000 * 192);
            let signed = transcript.sign(&validator()).unwrap();
            verify_transcript(signed.as_bytes()).unwrap();
        }
        Err(Refusal::Prover { code: ErrorCode::Device, text }) => {
            assert!(text.starts_with("a device failed: the disk cannot be proven: "), "{text}");
        }
        Err(other) => panic!("{other}"),
    }
}

/// A file system in memory would be sold as a disk of a million reads a second.
#[test]
fn memory_is_no_disk() {
    let memory = Path::new("/dev/shm");
    let mut config = config(params());
    config.kind = DeviceKind::Disk;
    let refusal = prove_with(config, boxed(DiskDevice::at_first_of(&[memory.to_owned()], 2)));
    // Where there is no such folder, there is no room in it either.
    match refusal.unwrap_err() {
        Refusal::Prover { text, .. } => assert!(text.contains("cannot be proven"), "{text}"),
        Refusal::Claims(_) => {}
        other => panic!("{other}"),
    }
}

/// A full disk must refuse the plot before anything is computed.
#[test]
fn a_disk_without_room_is_refused() {
    let dir = PathBuf::from("/proc");
    let mut config = config(params());
    config.kind = DeviceKind::Disk;
    let refusal = prove_with(config, boxed(DiskDevice::at_first_of(&[dir], 2))).unwrap_err();
    assert!(matches!(refusal, Refusal::Claims(_) | Refusal::Prover { .. }), "{refusal}");
}
