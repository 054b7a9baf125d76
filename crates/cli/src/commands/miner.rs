//! `nicompute miner`: a provider's node, with the original's flags.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use nicompute_daemon::SharedClock;
use nicompute_host::net::Network;
use nicompute_host::runtime::docker::Docker;
use nicompute_host::runtime::{
    Choice, ImagePolicy, NamedImage, Rootfs, Runtime, RuntimeConfig, SandboxProgram, detect,
};
use nicompute_host::telemetry::{GpuSource, LOOK_EVERY, NvmlLibrary, Telemetry};
use nicompute_market::{Hotkey, MicroUsd, Netuid};
use nicompute_miner::{KillPoint, Miner, MinerConfig, OnShutdown, UnenforcedLimits};
use serde_json::json;

use crate::args::{DaemonArgs, KeyArgs, SubtensorArgs};
use crate::axon_args::AxonArgs;
use crate::daemons::{self, Setting};
use crate::embedded;
use crate::exit::{Exit, Failure};
use crate::image_args::ImageArgs;
use crate::net_args::NetArgs;
use crate::ssh_args::SshArgs;

/// Options of `nicompute miner`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MinerArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The address that the node API and the SSH gateway listen on.
    #[arg(long = "axon.ip", default_value = "0.0.0.0", value_name = "IP")]
    axon_ip: IpAddr,
    /// The port of the node API; 0 takes a free one.
    #[arg(long = "axon.port", default_value_t = 8091, value_name = "PORT")]
    axon_port: u16,
    /// The address that others reach this machine under; announced on chain.
    #[arg(long = "axon.external_ip", value_name = "IP")]
    external_ip: Option<IpAddr>,
    /// The port that others reach the node API under, when it is another one.
    #[arg(long = "axon.external_port", value_name = "PORT")]
    external_port: Option<u16>,
    #[command(flatten)]
    ssh: SshArgs,
    /// The asking price of the whole machine, in millionths of a US dollar an hour.
    #[arg(long, default_value_t = 0, value_name = "MICRO_USD")]
    price_per_hour: u64,
    /// A file that says what is offered (docs/operate/offers.md); the whole machine otherwise. It is read again when it
    /// changes, and at SIGHUP.
    #[arg(long, value_name = "FILE")]
    offers: Option<PathBuf>,
    #[command(flatten)]
    axon: AxonArgs,
    #[command(flatten)]
    net: NetArgs,
    /// How tenants are run.
    #[arg(long, default_value = "auto", value_parser = ["auto", "docker", "sandbox"])]
    runtime: String,
    #[command(flatten)]
    images: ImageArgs,
    /// The socket of the Docker engine; the usual places are tried without it.
    #[arg(long = "docker.socket", value_name = "PATH")]
    docker_socket: Option<PathBuf>,
    /// An unpacked image for the sandbox.
    #[arg(long, value_name = "DIR", conflicts_with = "sandbox_images")]
    rootfs: Option<PathBuf>,
    /// An image for the sandbox and the name under which it is offered: an unpacked directory, an OCI layout, an archive of
    /// one, or what `docker save` writes. Give it once for each image.
    #[arg(long = "sandbox.image", value_name = "NAME=PATH", value_parser = named_image)]
    sandbox_images: Vec<NamedImage>,
    /// Part of a local market: this machine's own root is the sandbox's image, and limits need not be enforced.
    #[arg(long, hide = true)]
    devnet: bool,
    /// Folders that tenants must not see, beside the wallets.
    #[arg(long, value_name = "DIR", hide = true)]
    mask: Vec<PathBuf>,
    /// What happens to running leases when the node stops.
    #[arg(long, default_value = "keep-leases", value_parser = ["keep-leases", "end-leases"])]
    on_shutdown: String,
    /// A test door: the process kills itself right after this step.
    #[arg(long, hide = true, value_name = "STEP")]
    kill_after: Option<KillPoint>,
}

/// Runs the node until it is stopped.
pub(crate) fn run(args: MinerArgs) -> anyhow::Result<()> {
    daemons::run("miner", &args.daemon.clone(), |setting| Box::pin(start(args, setting)))
}

async fn start(
    args: MinerArgs,
    setting: Setting,
) -> anyhow::Result<(serde_json::Value, impl FnOnce() -> End)> {
    let wallets = args.keys.root()?;
    let hotkey = args.keys.load_hotkey()?;
    if args.devnet {
        only_on_this_machine(&args)?;
    }
    let announce_ip = announce_ip(&args)?;
    let programs = embedded::materialize(&setting.folder.join("programs"))?;
    let mut runtime_config = runtime_config(hotkey.hotkey(), setting.folder.clone(), rootfs(&args));
    args.images.apply(&mut runtime_config);
    runtime_config.docker_socket.clone_from(&args.docker_socket);
    runtime_config.trial_agent = Some(programs.agent.clone());
    let runtime = Box::pin(runtime(&args, &runtime_config, &setting)).await?;
    let network = args.net.open(hotkey.hotkey()).await?;
    let mut masked_host_paths = args.mask.clone();
    masked_host_paths.extend([wallets, setting.folder.clone()]);
    let chain = args.subtensor.connect(&setting.clock, &setting.tasks).await?;
    let config = MinerConfig {
        state_dir: setting.folder,
        netuid: Netuid(args.subtensor.netuid),
        listen: SocketAddr::new(args.axon_ip, args.axon_port),
        ssh_listen: SocketAddr::new(args.axon_ip, args.ssh.port),
        announce_ip,
        announce_port: args.external_port,
        hotkey,
        price_per_hour: MicroUsd(args.price_per_hour),
        offers: args.offers.clone(),
        fetches: args.images.fetched_by(&*runtime),
        runtime,
        network: network.map(|network| Arc::new(network) as Arc<dyn Network>),
        ports: args.ssh.ports,
        sessions: args.ssh.sessions(),
        agent: programs.agent,
        masked_host_paths,
        unenforced_limits: if args.devnet {
            UnenforcedLimits::AcceptOnDevnet
        } else {
            UnenforcedLimits::Refuse
        },
        gpus: Some(watch_gpus(&setting.clock)?),
        axon: args.axon.door()?,
        lists: args.axon.lists()?,
        on_shutdown: match &*args.on_shutdown {
            "end-leases" => OnShutdown::EndLeases,
            _ => OnShutdown::KeepLeases,
        },
        kill_after: args.kill_after,
    };
    let miner = Box::pin(Miner::start(config, chain, setting.clock, setting.tasks)).await;
    let miner = miner.map_err(|error| {
        let remedy = error.remedy();
        let failure = Failure::new(Exit::Config, "the node does not start").because(error);
        match remedy {
            Some(remedy) => failure.hint(remedy),
            None => failure,
        }
    })?;
    let addresses = miner.addresses();
    let shown = json!({
        "axon": addresses.announced.to_string(),
        "ssh": addresses.ssh.to_string(),
    });
    let end = move || -> End {
        Box::pin(async move {
            miner.shutdown().await;
            Ok(())
        })
    };
    Ok((shown, end))
}

type End = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// The runtime that is wanted and works. On a local market a Docker engine gets an image of our own, made without a network.
async fn runtime(
    args: &MinerArgs,
    config: &RuntimeConfig,
    setting: &Setting,
) -> anyhow::Result<Arc<dyn Runtime>> {
    let clock = &setting.clock;
    let choice = choice(&args.runtime);
    let found = match choice {
        Choice::Docker if args.devnet => return docker_with_image(config, clock).await,
        Choice::Auto if args.devnet => match detect(Choice::Sandbox, config, clock).await {
            Ok(found) => Ok(found),
            Err(error) => match docker_with_image(config, clock).await {
                Ok(found) => Ok(found),
                Err(_) => Err(error),
            },
        },
        Choice::Auto | Choice::Docker | Choice::Sandbox => detect(choice, config, clock).await,
    };
    let found = found.map_err(|error| {
        let remedy = error.remedy();
        Failure::new(Exit::Config, "tenants cannot be run here").because(error).hint(remedy)
    })?;
    if !args.devnet {
        args.images.check(&*found)?;
        args.images.fetch_missing(&found, &setting.tasks);
    }
    Ok(found)
}

async fn docker_with_image(
    config: &RuntimeConfig,
    clock: &SharedClock,
) -> anyhow::Result<Arc<dyn Runtime>> {
    let mut docker =
        Docker::detect(config.clone(), SharedClock::clone(clock)).await.map_err(|error| {
            let remedy = error.remedy();
            Failure::new(Exit::Config, "no Docker engine can be used").because(error).hint(remedy)
        })?;
    let image = docker.build_devnet_image().await.map_err(|error| {
        let remedy = error.remedy();
        Failure::new(Exit::Config, "the local market's image cannot be made")
            .because(error)
            .hint(remedy)
    })?;
    tracing::info!(%image, "image is there");
    Ok(Arc::new(docker))
}

/// The watch over the machine's GPUs; on a machine without any it finds that out again and again, which costs nothing.
fn watch_gpus(clock: &SharedClock) -> anyhow::Result<Arc<dyn GpuSource>> {
    let library = NvmlLibrary::default();
    let telemetry = Telemetry::start(library, LOOK_EVERY, SharedClock::clone(clock));
    Ok(Arc::new(telemetry.map_err(|error| {
        Failure::new(Exit::Failed, "the watch over the GPUs does not start").because(error)
    })?))
}

/// A local market shows the machine's own root to its tenants, so nobody from outside may become one: its node listens on
/// loopback and its chain is on loopback too.
fn only_on_this_machine(args: &MinerArgs) -> anyhow::Result<()> {
    let hint = "--devnet is set by nicompute devnet up; leave it out on a real network";
    if !args.axon_ip.is_loopback() {
        let what = format!("--devnet with --axon.ip {}, which others can reach", args.axon_ip);
        return Err(Failure::new(Exit::Config, what).hint(hint).into());
    }
    if !args.subtensor.is_on_loopback() {
        let what = "--devnet with a chain that is not on this machine";
        return Err(Failure::new(Exit::Config, what).hint(hint).into());
    }
    Ok(())
}

/// What a runtime needs to know about the node of this hotkey.
pub(crate) fn runtime_config(
    hotkey: Hotkey,
    state_dir: PathBuf,
    rootfs: Option<Rootfs>,
) -> RuntimeConfig {
    RuntimeConfig {
        node_id: hotkey.to_string(),
        state_dir,
        rootfs,
        sandbox_program: SandboxProgram {
            path: PathBuf::from("/proc/self/exe"),
            args: vec!["__sandbox".to_owned()],
        },
        docker_socket: None,
        images: Vec::new(),
        image_policy: ImagePolicy::default(),
        trial_agent: None,
        classes: Vec::new(),
    }
}

/// The runtime that `--runtime` names.
pub(crate) fn choice(text: &str) -> Choice {
    match text {
        "docker" => Choice::Docker,
        "sandbox" => Choice::Sandbox,
        _ => Choice::Auto,
    }
}

fn rootfs(args: &MinerArgs) -> Option<Rootfs> {
    match &args.rootfs {
        Some(folder) => Some(Rootfs::Directory(folder.clone())),
        None if !args.sandbox_images.is_empty() => {
            Some(Rootfs::Images(args.sandbox_images.clone()))
        }
        None => args.devnet.then_some(Rootfs::Host),
    }
}

/// `NAME=PATH`; a name has no `=`, a path may.
fn named_image(text: &str) -> anyhow::Result<NamedImage> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok(NamedImage { name: name.to_owned(), path: PathBuf::from(path) })
        }
        _ => Err(anyhow::anyhow!("expected NAME=PATH")),
    }
}

fn announce_ip(args: &MinerArgs) -> anyhow::Result<IpAddr> {
    let ip = args.external_ip.unwrap_or(args.axon_ip);
    if ip.is_unspecified() {
        let what = "the address that others reach this machine under is not known";
        let hint = "name it: --axon.external_ip IP";
        return Err(Failure::new(Exit::Config, what).hint(hint).into());
    }
    Ok(ip)
}
