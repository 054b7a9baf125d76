//! `nicompute doctor`: whether this machine can be provided, what stands in the way, and what to do about it.
//!
//! It changes nothing that outlives it and shows no secret. Each check has a limit of time of its own, so that a driver or
//! an engine that hangs is a finding and not a doctor that hangs.

mod chain;
mod container;
mod disk;
mod engine;
mod finding;
mod gpus;
mod keys;
mod machine;
mod ports;

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nicompute_daemon::{SharedClock, SystemClock, Tasks};
use nicompute_host::runtime::{Rootfs, RuntimeConfig};
use nicompute_host::telemetry::Gpus;
use nicompute_market::Hotkey;
use nicompute_miner::PortRange;

use crate::args::{KeyArgs, SubtensorArgs, home};
use crate::market_args::block_on;
use crate::text;

use finding::{Finding, Level};

/// How long a stopping connection may take.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Options of `nicompute doctor`; those that `nicompute miner` has as well mean the same.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The folder with what the node must remember [default: ~/.nicompute/miner].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How tenants are to be run.
    #[arg(long, default_value = "auto", value_parser = ["auto", "docker", "sandbox"])]
    runtime: String,
    /// An image that tenants may start; GPUs are looked for inside a container of the first one.
    #[arg(long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// An unpacked image for the sandbox.
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// The port of the node API.
    #[arg(long = "axon.port", default_value_t = 8091, value_name = "PORT")]
    axon_port: u16,
    /// The port of the SSH gateway.
    #[arg(long = "ssh.port", default_value_t = 4444, value_name = "PORT")]
    ssh_port: u16,
    /// The ports that tenants may have reached, such as 20000-20099: the first and the last one are tried too.
    #[arg(long = "ports.range", value_name = "FROM-TO")]
    ports: Option<PortRange>,
    /// The address that others reach this machine under.
    #[arg(long = "axon.external_ip", value_name = "IP")]
    external_ip: Option<IpAddr>,
    /// The node that tries our ports from outside, as HOTKEY@IP:PORT [default: one of the subnet's].
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// Look at this machine alone: no chain, no ports from outside.
    #[arg(long, conflicts_with = "from")]
    offline: bool,
    /// Prove the machine to itself as well, in the small size: seconds. `nicompute prove --local` says more.
    #[arg(long)]
    prove: bool,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

/// What the checks work on.
struct Patient<'a> {
    args: &'a DoctorArgs,
    clock: SharedClock,
    tasks: Tasks,
    state_dir: PathBuf,
    wallets: PathBuf,
    /// Where containers of the doctor's lie, and everything else that goes when it goes.
    scratch: Scratch,
}

/// Looks at everything. Ends with code 1 where there is an error, with 0 where there are warnings alone.
pub(crate) fn run(args: &DoctorArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => home()?.join(".nicompute/miner"),
    };
    let wallets = args.keys.root()?;
    let scratch = Scratch::new().context("make a folder in TMPDIR")?;
    let (clock, tasks) = (SystemClock::shared(), Tasks::new());
    let patient = Patient { args, clock, tasks, state_dir, wallets, scratch };
    let findings = block_on(async {
        let findings = patient.examine().await;
        // What is left of connections is cut off; nothing waits for it.
        let _in_time = patient.tasks.shutdown(SHUTDOWN_MAX).await;
        findings
    })?;
    let shown = if args.json {
        text::escaped(&format!("{:#}\n", finding::document(&findings)))
    } else {
        finding::lines(&findings)
    };
    out.write_all(shown.as_bytes()).and_then(|()| out.flush()).context("write the findings")?;
    let is_ill = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if is_ill { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Patient<'_> {
    async fn examine(&self) -> Vec<Finding> {
        let (mut findings, gpus) = gpus::driver().await;
        findings.extend(gpus::specs(&gpus));
        let (engine, runtime) = engine::runtimes(self).await;
        findings.extend(engine);
        findings.extend(container::gpus(self, runtime.as_ref(), &gpus).await);
        findings.extend(machine::kernel());
        findings.extend(machine::network());
        findings.extend(disk::findings(&self.state_dir).await);
        findings.extend(keys::findings(&self.wallets, &self.args.keys));
        findings.extend(machine::programs().await);
        if self.args.offline {
            findings.push(Finding::skipped("chain", "not asked with --offline"));
            findings.push(Finding::skipped("ports", "not tried with --offline"));
        } else {
            let (asked, chain) = chain::findings(self).await;
            findings.extend(asked);
            findings.extend(ports::findings(self, chain.as_ref()).await);
        }
        findings.push(self.prove().await);
        findings
    }

    async fn prove(&self) -> Finding {
        const CHECK: &str = "proof";
        if !self.args.prove {
            return Finding::skipped(CHECK, "not asked for: --prove, or nicompute prove --local");
        }
        match super::prove::small(&self.args.keys).await {
            Ok(()) => Finding::ok(CHECK, "a small proof of this machine holds"),
            Err(error) => Finding::error(CHECK, format!("a small proof does not hold: {error:#}"))
                .remedy("nicompute prove --local says more"),
        }
    }

    /// What a runtime is told, as the node would, under a name that no node has.
    fn runtime_config(&self) -> RuntimeConfig {
        let rootfs = self.args.rootfs.clone().map(Rootfs::Directory);
        let nobody = Hotkey::from_bytes([0; 32]);
        let config = super::miner::runtime_config(nobody, self.scratch.0.clone(), rootfs);
        RuntimeConfig { images: self.args.images.clone(), ..config }
    }
}

/// Whether there are GPUs to look for.
const fn has_gpus(gpus: &Gpus) -> bool {
    !gpus.samples.is_empty()
}

/// A private folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random)?;
        let path = std::env::temp_dir().join(format!("nicompute-doctor-{}", hex::encode(random)));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the doctor's folder stays");
        }
    }
}
