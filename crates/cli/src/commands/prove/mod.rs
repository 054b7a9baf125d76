//! `nicompute prove --local`: what a validator would measure on this machine, before one does.
//!
//! The real exchange between the validator's own session and the prover that it would upload, over pipes instead of SSH. The
//! transcript is signed by a key of this machine, so its times are this machine's word and earn nothing.

mod findings;
mod program;
mod progress;
mod report;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use nicompute_daemon::SystemClock;
use nicompute_host::inventory::Inventory;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{LeaseId, UnixMillis};
use nicompute_proof::{DeviceClaim, DeviceKind, SignedTranscript};
use nicompute_validator::{LegSet, ProofSize, Proven, SessionPlan, prove, shown_by_device};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::KeyArgs;
use crate::catalogue_args::CatalogueArgs;
use crate::daemons::write_bytes_atomically;
use crate::exit::{Exit, Failure};
use crate::market_args::block_on;

use program::{Folder, Heard};
use progress::Progress;
use report::Report;

/// Options of `nicompute prove`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// Prove this machine to itself; there is no other way to be asked for a proof by hand.
    #[arg(long, required = true)]
    local: bool,
    /// 64 MiB instead of what a validator of the network asks for: seconds.
    #[arg(long)]
    small: bool,
    /// What is proven; `auto` takes the GPUs where the prover finds any, else the processor.
    #[arg(long, value_enum, default_value = "auto")]
    device: Device,
    /// Where the signed transcript goes; `nicompute verify FILE` checks it.
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
    /// Sign with the hotkey of the wallet instead of a key that is drawn now and forgotten.
    #[arg(long)]
    with_hotkey: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    catalogue: CatalogueArgs,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    Auto,
    Gpu,
    Cpu,
}

/// A machine that does not prove itself ends with code 3; everything else that goes wrong with 1.
pub(crate) fn run(args: &ProveArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let report = block_on(async {
        // Before anything is written or started, so that whatever stops this finds it ready to clean up.
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        tokio::select! {
            report = report(args) => return report,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Err(Failure::new(Exit::Failed, "stopped; the prover was ended and removed").into())
    })??;
    let text = if args.json { format!("{:#}\n", report.document()) } else { report.lines() };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write the report")
}

/// What the embedded provers see on this machine, in words, and what they say besides.
pub(crate) async fn what_provers_see() -> anyhow::Result<(String, String)> {
    let Heard { claims, said } = Folder::new()?.claims().await?;
    let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
    Ok((names.join(", "), said))
}

/// A proof in the small size of whatever the machine has, thrown away when it holds.
pub(crate) async fn small(keys: &KeyArgs) -> anyhow::Result<()> {
    let args = ProveArgs {
        local: true,
        small: true,
        device: Device::Auto,
        transcript: None,
        with_hotkey: false,
        keys: keys.clone(),
        catalogue: CatalogueArgs::default(),
        json: false,
    };
    report(&args).await.map(drop)
}

async fn report(args: &ProveArgs) -> anyhow::Result<Report> {
    let (catalogue, _) = args.catalogue.load()?;
    let key = key(args)?;
    let folder = Folder::new()?;
    let inventory = nicompute_host::inventory::read(&std::env::temp_dir())?;
    let Heard { claims, said } = folder.claims().await?;
    let kind = kind(args.device, &claims)?;
    let size = if args.small { ProofSize::Small } else { ProofSize::Full };
    let memory_bytes = memory_bytes(&inventory, &claims, kind);
    let clock = SystemClock::shared();
    let plan = SessionPlan {
        provider: key.hotkey(),
        lease: LeaseId::from_random_bytes(random()?),
        // No chain was asked: the session is mixed with fresh random bytes only.
        block: (0, [0; 32]),
        profile: size.with_stages(size.profile(memory_bytes, kind), LegSet::DEVICES),
    };
    let mut prover = folder.start(kind, Progress::shown())?;
    let proven = prove(&plan, &key, &clock, &mut prover).await;
    let last_words = prover.end().await;
    let transcript = passed(proven, &last_words)?;
    if let Some(file) = &args.transcript {
        write_bytes_atomically(file, transcript.as_bytes())?;
    }
    let judged = findings::judge(shown_by_device(transcript.transcript()), &catalogue);
    let machine = findings::Seen { inventory: &inventory, claims: &claims, said: &said };
    let findings = findings::findings(machine, &judged, &catalogue);
    Ok(Report {
        score: nicompute_validator::capability(transcript.transcript())
            .map(|shown| findings::machine_score(shown, &catalogue, UnixMillis(clock.unix_ms()))),
        measured: transcript.transcript().measured,
        digest: transcript.digest(),
        signer: key.hotkey(),
        is_ephemeral: !args.with_hotkey,
        file: args.transcript.clone(),
        judged,
        findings,
    })
}

/// The memory that a validator would plan with: the machine's, or that of its largest GPU.
fn memory_bytes(inventory: &Inventory, claims: &[DeviceClaim], kind: DeviceKind) -> u64 {
    if kind == DeviceKind::Cpu {
        return inventory.memory_bytes;
    }
    let listed = inventory.gpus.iter().map(|gpu| gpu.memory_bytes);
    let claimed = claims.iter().filter(|claim| claim.kind == kind).map(|claim| claim.memory_bytes);
    listed.chain(claimed).max().unwrap_or(0)
}

/// The transcript of a proof that holds.
fn passed(proven: Proven, said: &str) -> anyhow::Result<Box<SignedTranscript>> {
    let failed = |exit, what: String, hint: &str| Err(Failure::new(exit, what).hint(hint).into());
    match proven {
        Proven::Passed { transcript, .. } => Ok(transcript),
        Proven::Refused { detail, .. } => failed(
            Exit::Refused,
            format!("a validator would refuse this machine: {detail} {said}"),
            "memory that fails, an overclocked device or too little time do that",
        ),
        Proven::LegStuck { detail, .. } => failed(
            Exit::Failed,
            format!("a leg after the walks does not end: {detail} {said}"),
            "a validator would not prove this machine; peer-to-peer access between GPUs, or a mapping of pinned memory, \
             is broken",
        ),
        Proven::Lost(detail) => failed(
            Exit::Failed,
            format!("the prover did not get as far as the start of the clock: {detail} {said}"),
            "look at the kernel's log: a process that takes too much memory is ended by the system",
        ),
        Proven::Own(detail) => {
            failed(Exit::Failed, format!("the verifier failed: {detail}"), "try again")
        }
    }
}

fn key(args: &ProveArgs) -> anyhow::Result<Keypair> {
    if args.with_hotkey {
        return args.keys.load_hotkey();
    }
    Ok(Keypair::from_seed(random()?, Scheme::Sr25519))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("draw random bytes")?;
    Ok(bytes)
}

fn kind(device: Device, claims: &[DeviceClaim]) -> anyhow::Result<DeviceKind> {
    let has_gpu = claims.iter().any(|claim| claim.kind == DeviceKind::Cuda);
    match device {
        Device::Gpu if !has_gpu => {
            Err(Failure::new(Exit::NotFound, "the prover finds no GPU on this machine")
                .hint("install the NVIDIA driver, or pass the GPUs into the container")
                .into())
        }
        Device::Auto | Device::Gpu if has_gpu => Ok(DeviceKind::Cuda),
        Device::Auto | Device::Gpu | Device::Cpu => Ok(DeviceKind::Cpu),
    }
}
