//! The prover's program with its GPUs, over pipes, against the real verifier. The driver is a pretended one whose kernels are
//! emulated; everything above it is what runs on a machine with GPUs.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nicompute_proof::{
    ClaimError, DeviceExchange, DeviceKind, Digest, ErrorCode, Leg, NET_CHUNK_LEN, ParamsRecord,
    ProofParams, Refusal, SessionConfig, SessionKeys, Stage, Transcript, Verdict, VerifierSession,
    verify_transcript,
};
use nicompute_prover::{CpuDevice, Device as _, FillTask, Peer};

use crate::emulated::folder as driver;
use crate::harness::{config, session, tiny, validator};

/// Memory of a pretended GPU: enough for what the prover keeps back, little is really used.
const MEMORY: &str = "1073741824";
/// Reads that may wait.
const READS_WAITING: usize = 64;

/// The program on a machine with some pretended GPUs.
struct Program {
    child: Child,
    from: Receiver<Vec<u8>>,
    began: Instant,
}

impl Program {
    fn on(driver: Option<&PathBuf>, settings: &[(&str, &str)]) -> Self {
        let mut command = command(driver, settings);
        let mut child = command.spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, from) = sync_channel(READS_WAITING);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        #[expect(clippy::disallowed_methods, reason = "the times of a real process are real")]
        let began = Instant::now();
        Self { child, from, began }
    }

    /// Plays the verifier's side on a real clock, its deadlines included.
    fn prove(&mut self, session: &mut VerifierSession) -> Result<Box<Transcript>, Refusal> {
        let input = self.child.stdin.as_mut().unwrap();
        loop {
            let left = session.deadline_ns().unwrap().saturating_sub(nanoseconds(self.began));
            let received = self.from.recv_timeout(Duration::from_nanos(left + 1));
            let now = nanoseconds(self.began);
            let bytes = match received {
                Ok(bytes) => bytes,
                Err(RecvTimeoutError::Timeout) => {
                    session.on_time(now)?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the prover ended early"),
            };
            let answer = session.on_bytes(&bytes, now)?;
            input.write_all(&answer.send).unwrap();
            if let Some(transcript) = answer.done {
                return Ok(transcript);
            }
        }
    }

    /// Ends the input, and returns the exit code and what stands on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

fn command(driver: Option<&PathBuf>, settings: &[(&str, &str)]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the binary under test is a program")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicompute-prover"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("LD_LIBRARY_PATH").env("NICOMPUTE_MOCK_CUDA_MEMORY_BYTES", MEMORY);
    if let Some(folder) = driver {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command
        .envs(settings.iter().map(|(name, value)| (format!("NICOMPUTE_MOCK_CUDA_{name}"), value)));
    command
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap()
}

/// Emulation is slow: so many rows in panels of 128, and few walks.
fn few(rows: u64) -> ProofParams {
    let walks = 128;
    let record = ParamsRecord { rows, panel_rows: 128, walks, ..tiny().record() };
    ProofParams::try_from(record).unwrap()
}

fn cuda(params: ProofParams) -> SessionConfig {
    SessionConfig { kind: DeviceKind::Cuda, ..config(params) }
}

/// Runs a session that is to be refused, and returns the refusal and the program's end.
fn refused(settings: &[(&str, &str)], config: SessionConfig) -> Option<(Refusal, Option<i32>)> {
    let driver = driver()?;
    let mut program = Program::on(Some(&driver), settings);
    let refusal = program.prove(&mut session(config, 0)).unwrap_err();
    let (code, errors) = program.end();
    assert!(!errors.contains("panicked"), "{errors}");
    Some((refusal, code))
}

/// Every root that a processor computes for the same session: rows, walks, and those of the legs that were answered.
fn roots_of_processors(transcript: &Transcript) -> Vec<[Option<Digest>; 4]> {
    let exchange = &transcript.exchange;
    let params = ProofParams::try_from(exchange.params).unwrap();
    let session = SessionKeys::derive(&exchange.n1, &exchange.binding, &params);
    let matrix = Arc::new(session.matrix_rows(params.n()));
    let plans = exchange.devices.iter().map(|device| device.plan);
    let filled = plans.map(|plan| {
        let keys = session.device(&exchange.claims[usize::from(plan.device)], &plan);
        let mut device = CpuDevice::new("cpu", "processor", 1 << 30, 1);
        device.prepare(&params, &plan).unwrap();
        let (session, matrix) = (session.clone(), Arc::clone(&matrix));
        let task = FillTask { params, plan, session, keys, matrix };
        let rows = device.fill(&task, &mut |_, _| Ok(())).unwrap();
        let walks = device.walk(&exchange.n2).unwrap();
        let peer = Peer { view: device.plot().unwrap(), rows: plan.rows };
        (device, [rows, walks], peer)
    });
    let (mut devices, mut peers) = (Vec::new(), Vec::new());
    for (device, roots, peer) in filled {
        devices.push((device, roots));
        peers.push(peer);
    }
    peers.rotate_left(1);
    let roots = devices.into_iter().zip(&peers).map(|((mut device, [rows, walks]), peer)| {
        let link = exchange.legs.link.nonce().map(|nonce| device.link(nonce, peer).unwrap());
        let copy = exchange.legs.copy.nonce().map(|nonce| device.copy(nonce).unwrap());
        [Some(rows), Some(walks), link, copy]
    });
    roots.collect()
}

/// A session with so many GPUs that must hold, and in which a processor must come to the same roots.
fn proven(settings: &[(&str, &str)], params: ProofParams) -> Option<Box<Transcript>> {
    let driver = driver()?;
    let mut program = Program::on(Some(&driver), settings);
    let transcript = program.prove(&mut session(cuda(params), 0)).unwrap();
    assert_eq!(program.end(), (Some(0), String::new()));
    assert_eq!(transcript.verdict, Verdict::Proven);
    let exchange = &transcript.exchange;
    for (device, roots) in exchange.devices.iter().zip(roots_of_processors(&transcript)) {
        let DeviceExchange { row_root, walk_root, link_root, copy_root, .. } = *device;
        let found = [Some(row_root), Some(walk_root), link_root, copy_root];
        assert_eq!(found, roots, "{:?}", device.plan);
    }
    let signed = transcript.clone().sign(&validator()).unwrap();
    verify_transcript(signed.as_bytes()).unwrap();
    Some(transcript)
}

/// One, two and eight GPUs at once must give the very rows and walks that a processor gives, each under keys of its own.
#[test]
fn machines_with_gpus_are_proven() {
    let cases = [("1", 768, "80"), ("1", 256, "75"), ("2", 256, "90,89"), ("8", 128, "80")];
    for (devices, rows, capability) in cases {
        let settings = [("DEVICES", devices), ("CAPABILITY", capability)];
        let Some(transcript) = proven(&settings, few(rows)) else { return };
        let exchange = &transcript.exchange;
        assert_eq!(exchange.devices.len().to_string(), devices);
        let ids: HashSet<_> = exchange.claims.iter().map(|claim| &claim.id).collect();
        assert_eq!(ids.len(), exchange.claims.len());
        let gpus = exchange.claims.iter().filter(|claim| claim.kind == DeviceKind::Cuda);
        assert!(gpus.clone().all(|claim| claim.id.starts_with("GPU-")));
        assert_eq!(gpus.count(), exchange.devices.len());
    }
}

/// A machine whose GPUs are opened one after the other would greet seconds late, the later the more it has.
#[test]
fn gpus_are_opened_at_the_same_time() {
    let Some(driver) = driver() else { return };
    for devices in ["8", "32"] {
        // No context is ready before all were asked for.
        let settings = [("DEVICES", devices), ("TOGETHER", "1")];
        let listed = command(Some(&driver), &settings).arg("--devices").output().unwrap();
        let lines = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(lines.matches("\ncuda ").count().to_string(), devices, "{lines}");
    }
}

/// Walks over a neighbour's memory, rows brought to the host, and the line must be right on GPUs too.
#[test]
fn every_leg_is_proven_between_gpus() {
    let chunk = NET_CHUNK_LEN as u64;
    let with_legs = |rows| {
        // All rows are copied from somewhere on, so that the run goes on at the first row.
        let legs = ParamsRecord { link_walks: 64, copy_rows: rows, ..few(rows).record() };
        let legs = ParamsRecord { net_down_bytes: 2 * chunk, net_up_bytes: 2 * chunk, ..legs };
        ProofParams::try_from(legs).unwrap()
    };
    for (devices, rows) in [("2", 256), ("8", 128)] {
        let Some(transcript) = proven(&[("DEVICES", devices)], with_legs(rows)) else { return };
        assert!(transcript.exchange.devices.iter().all(|one| one.link_root.is_some()));
        let measured = transcript.measured;
        assert_eq!(measured.link.unwrap().bytes, measured.walk_bytes / 2);
        assert_eq!(measured.copy.unwrap().bytes, measured.plot_bytes);
        assert!(measured.net_down.is_some() && measured.net_up.is_some());
    }
}

/// GPUs that cannot read each other must be proven all the same, and the reason must be in the evidence.
#[test]
fn gpus_without_a_way_to_each_other_decline() {
    let record = ParamsRecord { link_walks: 64, ..few(128).record() };
    let params = ProofParams::try_from(record).unwrap();
    let settings = [("DEVICES", "2"), ("PEER", "0")];
    let Some(transcript) = proven(&settings, params) else { return };
    let Leg::Declined { code: ErrorCode::Device, text } = &transcript.exchange.legs.link else {
        panic!("{:?}", transcript.exchange.legs.link)
    };
    assert!(text.contains("cannot read the memory of GPU"), "{text}");
}

/// The processor of a machine with GPUs is proven by the same program, and the GPUs are left alone.
#[test]
fn a_processor_beside_gpus_is_proven() {
    let Some(driver) = driver() else { return };
    let mut program = Program::on(Some(&driver), &[("FAIL", "launch")]);
    let transcript = program.prove(&mut session(config(tiny()), 0)).unwrap();
    assert_eq!(transcript.exchange.devices[0].plan.device, 0);
    assert_eq!(program.end(), (Some(0), String::new()));
}

/// A GPU whose memory is taken must say so before any clock runs, with the code for it.
#[test]
fn memory_that_cannot_be_had_is_said() {
    let settings = [("DEVICES", "2"), ("FAIL", "alloc:1@3")];
    let Some((refusal, code)) = refused(&settings, cuda(few(128))) else { return };
    assert!(matches!(&refusal, Refusal::Prover { code: ErrorCode::Memory, .. }), "{refusal}");
    assert_eq!(code, Some(3));
}

/// Whoever reads why a proof failed must see the driver's own name for it.
#[test]
fn failed_kernels_are_named() {
    for (fail, name) in [
        ("launch@9", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        ("fault:0@9", "CUDA_ERROR_LAUNCH_FAILED"),
    ] {
        let Some((refusal, code)) = refused(&[("FAIL", fail)], cuda(few(256))) else { return };
        let Refusal::Prover { code: ErrorCode::Device, text } = &refusal else {
            panic!("refused for another reason: {refusal}")
        };
        assert!(text.contains(name), "{text}");
        assert_eq!(code, Some(3));
    }
}

/// A GPU that computes one bit wrongly must be found out as soon as its row is sampled, and not by the GPU.
#[test]
fn a_wrong_bit_is_found() {
    let Some(driver) = driver() else { return };
    // The wrong bit stands in the first of 128 rows, of which half are sampled.
    let found = (0..16).any(|seed| {
        let mut program = Program::on(Some(&driver), &[("FAIL", "wrong")]);
        let outcome = program.prove(&mut session(cuda(few(128)), seed));
        assert!(matches!(outcome, Ok(_) | Err(Refusal::Mismatch { device: 2, .. })), "{outcome:?}");
        outcome.is_err()
    });
    assert!(found);
}

/// A GPU that hangs costs its deadline; the program must not stay behind and hold the machine's memory.
#[test]
fn a_hung_gpu_is_cut_off() {
    let mut config = cuda(few(128));
    config.limits.fill_ns = 1_000_000_000;
    let settings = [("DEVICES", "8"), ("FAIL", "hang:5")];
    let Some((refusal, code)) = refused(&settings, config) else { return };
    assert!(matches!(refusal, Refusal::Deadline { stage: Stage::Fill, .. }), "{refusal}");
    assert_eq!(code, Some(3), "the program ends by itself");
}

/// Sizes that a GPU cannot do must be refused by name.
#[test]
fn other_widths_are_refused() {
    let params = ProofParams::try_from(ParamsRecord { n: 192, ..tiny().record() }).unwrap();
    let Some((refusal, _)) = refused(&[], cuda(params)) else { return };
    assert!(refusal.to_string().contains("n is 192"), "{refusal}");
}

/// A GPU for which there is no kernel must not keep the others from being proven.
#[test]
fn a_gpu_without_kernels_is_left_out() {
    let Some(driver) = driver() else { return };
    let settings = [("DEVICES", "2"), ("FAIL", "image:0")];
    let mut program = Program::on(Some(&driver), &settings);
    let transcript = program.prove(&mut session(cuda(few(128)), 0)).unwrap();
    assert_eq!(transcript.exchange.devices.len(), 1);
    let (code, errors) = program.end();
    assert_eq!(code, Some(0));
    assert!(errors.contains("CUDA_ERROR_NO_BINARY_FOR_GPU"), "{errors}");
}

/// A machine whose GPUs are not there, or not given to the container, must say so in words.
#[test]
fn no_gpu_is_said_in_words() {
    let mut driver_and_reason =
        vec![(None, "no GPU: no NVIDIA driver here: libcuda.so.1 cannot be loaded")];
    let pretended = driver();
    if pretended.is_some() {
        driver_and_reason.push((pretended.as_ref(), "no GPU: the NVIDIA driver shows no GPU"));
    }
    for (driver, reason) in driver_and_reason {
        let settings = [("FAIL", "init")];
        let listed = command(driver, &settings).arg("--devices").output().unwrap();
        let lines = String::from_utf8(listed.stdout).unwrap();
        if driver.is_none() && lines.contains("\ncuda ") {
            println!("this machine has GPUs; a machine without any is not tested here");
            continue;
        }
        assert!(lines.starts_with("cpu cpu ") && !lines.contains("\ncuda "), "{lines}");
        let mut program = Program::on(driver, &settings);
        let refusal = program.prove(&mut session(cuda(few(128)), 0)).unwrap_err();
        assert_eq!(refusal, Refusal::Claims(ClaimError::NoneOfKind));
        let (_, errors) = program.end();
        assert!(errors.contains(reason), "{errors}");
    }
}
