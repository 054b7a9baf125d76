//! Whole sessions: what the check of one GPU and of eight costs, in time and memory, and a store of transcripts.

use std::fs;
use std::hint::black_box;

use nicompute_proof::{
    ChainMatrix, ParamsRecord, ProofParams, SessionKeys, SignedTranscript, Transcript, Verdict,
    verify_transcript,
};
use nicompute_prover::{CpuDevice, Device, Prover, prove_in_process};
use rustix::time::ClockId;

use crate::{N, STEPS, Timed, best, harness, line, now, processor_time};

/// The rows of each pretended GPU: the verifier's work does not depend on them, but for the length of paths.
const GPU_ROWS: u64 = 1024;
/// Different transcripts of the store, and how often it is gone through.
const STORED: u8 = 20;
const STORE_PASSES: usize = 50;

pub(crate) fn report() {
    prover(
        "prover, a session of 2,048 rows, n 4096",
        ParamsRecord { rows: 2048, ..gpu_params().record() },
    );
    prover("prover, a session of the small profile, n 256", ProofParams::small().record());
    let one = transcript(gpu_params(), 1, 0);
    matrix(&one);
    check(&one, "verifier, rows and walks of one GPU, n 4096");
    let eight = transcript(gpu_params(), 8, 0);
    check(&eight, "verifier, rows and walks of eight GPUs, n 4096");
    let legs = ParamsRecord { link_walks: 256, copy_rows: 512, ..gpu_params().record() };
    let legs = ProofParams::try_from(legs).expect("sizes within their bounds");
    let eight = transcript(legs, 8, 0);
    check(&eight, "  the same with LINK and COPY");
    memory(&signed(&eight));
    store();
}

/// The sizes with which a GPU is tested, but for the rows of the plot and the number of walks.
fn gpu_params() -> ProofParams {
    ProofParams::try_from(ParamsRecord {
        n: N as u32,
        steps: STEPS,
        rows: GPU_ROWS,
        panel_rows: 512,
        sampled_rows: 64,
        walks: 256,
        reads: 16,
        sampled_walks: 24,
        ..ProofParams::small().record()
    })
    .expect("sizes within their bounds")
}

fn transcript(params: ProofParams, devices: usize, seed: u8) -> Transcript {
    let device = |number: usize| -> Box<dyn Device> {
        Box::new(CpuDevice::new(&format!("device {number}"), "processor", 4 << 30, 1))
    };
    let mut prover = Prover::new((0..devices).map(device).collect());
    let began = now();
    let mut clock = || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut session = harness::session(harness::config(params), seed);
    let transcript = prove_in_process(&mut session, &mut prover, &mut clock);
    *transcript.expect("an honest prover is not refused")
}

fn signed(transcript: &Transcript) -> SignedTranscript {
    transcript.clone().sign(&harness::validator()).expect("the validator of the session signs")
}

/// A prover with one thread through a whole session: operands, products, hashes, tree, walks, and a verifier that samples
/// next to nothing, all in processor time.
fn prover(name: &str, record: ParamsRecord) {
    let record = ParamsRecord { sampled_rows: 1, sampled_walks: 1, ..record };
    let params = ProofParams::try_from(record).expect("sizes within their bounds");
    let began = processor_time(ClockId::ProcessCPUTime);
    let measured = transcript(params, 1, 0).measured;
    let took = processor_time(ClockId::ProcessCPUTime).saturating_sub(began);
    let rate = measured.operations as f64 / 2.0 / took.as_secs_f64() / 1e9;
    line(
        name,
        Timed { best: took, median: took },
        &format!("{rate:.1} GMAC/s a core, all told; one run"),
    );
}

/// Drawing and packing the matrix, which all devices of a machine share.
fn matrix(transcript: &Transcript) {
    let exchange = &transcript.exchange;
    let params = ProofParams::try_from(exchange.params).expect("sizes within their bounds");
    let keys = SessionKeys::derive(&exchange.n1, &exchange.binding, &params);
    let took = best(5, || {
        black_box(ChainMatrix::new(&keys, &params));
    });
    let gigabytes = (N * N * 2) as f64 / took.best.as_secs_f64() / 1e9;
    line(
        "matrix of 4096 x 4096, drawn and packed",
        took,
        &format!("{gigabytes:.2} GB/s of key stream"),
    );
}

fn check(transcript: &Transcript, name: &str) {
    let took = best(3, || {
        assert_eq!(transcript.exchange.check(), Ok(Verdict::Proven));
    });
    let file = signed(transcript);
    line(
        name,
        took,
        &format!(
            "keys, matrix, rows, walks and paths; transcript of {} bytes",
            file.as_bytes().len()
        ),
    );
}

/// The peak memory of a process that does nothing but check a transcript of eight GPUs.
fn memory(file: &SignedTranscript) {
    let path = std::env::temp_dir().join(format!("nicompute-bench-{}", std::process::id()));
    fs::write(&path, file.as_bytes()).expect("write the transcript");
    let program = std::env::current_exe().expect("this program has a path");
    #[expect(clippy::disallowed_methods, reason = "a fresh process has a peak of its own")]
    let status = std::process::Command::new(program).arg("--verify-one").arg(&path).status();
    fs::remove_file(&path).expect("remove the transcript");
    assert!(status.is_ok_and(|status| status.success()), "the transcript holds");
}

/// The other process: checks one transcript and says how much memory it took.
pub(crate) fn verify_one(path: &str) {
    let before = kibibytes("VmHWM:");
    let bytes = fs::read(path).expect("read the transcript");
    let report = verify_transcript(&bytes).expect("the transcript holds");
    let peak = kibibytes("VmHWM:");
    println!(
        "verifier, peak memory for {} GPUs: {:.1} MB ({:.1} MB before the check)",
        report.claims.len(),
        peak * 1.024e-3,
        before * 1.024e-3
    );
}

fn kibibytes(field: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix("kB"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(f64::NAN)
}

/// A thousand checks of stored transcripts in one process: the last hundred must cost what the first hundred do.
fn store() {
    let store: Vec<SignedTranscript> =
        (0..STORED).map(|seed| signed(&transcript(ProofParams::small(), 1, seed))).collect();
    let resident = kibibytes("VmRSS:");
    let mut hundreds = Vec::new();
    let began = processor_time(ClockId::ThreadCPUTime);
    let mut last = began;
    for (count, file) in std::iter::repeat_n(&store, STORE_PASSES).flatten().enumerate() {
        let report = verify_transcript(file.as_bytes()).expect("the transcript holds");
        assert_eq!(report.verdict, Verdict::Proven);
        if (count + 1) % 100 == 0 {
            let at = processor_time(ClockId::ThreadCPUTime);
            hundreds.push((at - last).as_secs_f64());
            last = at;
        }
    }
    let grown = (kibibytes("VmRSS:") - resident) * 1.024e-3;
    println!(
        "store of {} transcripts, small profile: {:.2} s; first hundred {:.3} s, last hundred {:.3} s, slowest {:.3} s; \
         memory grew by {grown:.1} MB",
        hundreds.len() * 100,
        (last - began).as_secs_f64(),
        hundreds[0],
        hundreds[hundreds.len() - 1],
        hundreds.iter().copied().fold(0.0, f64::max),
    );
}
