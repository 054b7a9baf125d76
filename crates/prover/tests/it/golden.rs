//! The session of the golden transcript, played again.

use std::fmt::Write as _;

use nicompute_proof::{ParamsRecord, ProofParams, SignedTranscript, Transcript};
use nicompute_prover::{CpuDevice, Prover, prove_in_process};

use crate::harness::{boxed, config, session, ticking, tiny, validator};

const TRANSCRIPT: &str = include_str!("../../../proof/testdata/transcript-v2.hex");

/// A prover and a verifier that drift away from the frozen session together would be noticed by nobody else.
#[test]
fn the_golden_session_is_played_again() {
    let params = ProofParams::try_from(ParamsRecord {
        rows: 192,
        panel_rows: 64,
        sampled_rows: 4,
        walks: 192,
        reads: 4,
        sampled_walks: 2,
        link_walks: 128,
        copy_rows: 100,
        net_down_bytes: 1 << 17,
        net_up_bytes: 1 << 18,
        ..tiny().record()
    })
    .unwrap();
    let mut devices = boxed(CpuDevice::new("cpu", "golden processor", 1 << 20, 1));
    devices.push(Box::new(CpuDevice::new("cpu-1", "golden processor", 1 << 20, 1)));
    let mut prover = Prover::new(devices);
    let mut session = session(config(params), 0);
    let transcript = prove_in_process(&mut session, &mut prover, &mut ticking()).unwrap();
    let golden = unhex(TRANSCRIPT.trim()).and_then(|bytes| SignedTranscript::decode(&bytes).ok());
    // Which of two devices reports a panel first is the threads' affair.
    let without_panel_times = |transcript: &Transcript| {
        let mut transcript = transcript.clone();
        transcript.exchange.devices.iter_mut().for_each(|device| device.panel_ns.clear());
        transcript
    };
    let is_same = golden.is_some_and(|golden| {
        without_panel_times(golden.transcript()) == without_panel_times(&transcript)
    });
    if !is_same {
        let signed = transcript.sign(&validator()).unwrap();
        let hex = signed.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        panic!("testdata/transcript-v2.hex is not this session; this would be:\n{hex}\n");
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}
