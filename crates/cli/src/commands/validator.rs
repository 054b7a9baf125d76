//! `nicompute validator`: verify, score, set weights, and serve the market's API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nicompute_api::{ApiConfig, Limits};
use nicompute_client::{ApiBase, MarketClient};
use nicompute_daemon::{OnError, SharedClock};
use nicompute_market::{Netuid, ScorePolicy};
use nicompute_validator::{
    Handle, Intervals, LegSet, Policies, ProofSize, Provers, Validator, ValidatorConfig,
};
use serde_json::json;

use crate::args::{DaemonArgs, KeyArgs, SubtensorArgs};
use crate::catalogue_args::CatalogueArgs;
use crate::daemons::{self, Setting};
use crate::embedded;
use crate::exit::{Exit, Failure};

/// The longest question of the dashboard to the API.
const DASHBOARD_CALL_MAX: Duration = Duration::from_secs(5);
/// Proofs at the same time. Each is checked on one core when its prover is done.
const SESSIONS_MAX: usize = 4;
/// Evidence counts for a day; a rented machine is worth what a free one is.
const SCORE: ScorePolicy =
    ScorePolicy { age_millis_max: 24 * 60 * 60 * 1000, rented_multiplier_milli: 1000 };

/// Options of `nicompute validator`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ValidatorArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The address of the market's API.
    #[arg(long = "api.listen", default_value = "127.0.0.1:8092", value_name = "IP:PORT")]
    api_listen: SocketAddr,
    /// The address of the dashboard; none is served without it.
    #[arg(long = "dashboard.listen", value_name = "IP:PORT")]
    dashboard_listen: Option<SocketAddr>,
    #[command(flatten)]
    catalogue: CatalogueArgs,
    /// A file that gets an API key at the first start.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// How much a session proves: 64 MiB; or GPUs wholly, and of a machine without one an eighth of its memory and at most
    /// 1 GiB.
    #[arg(long, default_value = "full", value_parser = ["small", "full"])]
    proof: String,
    /// What a round measures besides, as a list of link, copy, net, ram and disk, or none; otherwise everything, and for
    /// the small size the line alone.
    #[arg(long = "proof.legs", value_name = "LEGS")]
    proof_legs: Option<LegSet>,
    /// The part of all weight that is burned, in millionths.
    #[arg(long, default_value_t = 0, value_name = "PPM")]
    burn_share_ppm: u32,
    /// Part of a local market: offers without enforced limits are accepted.
    #[arg(long, hide = true)]
    devnet: bool,
}

/// Runs the validator until it is stopped.
pub(crate) fn run(args: ValidatorArgs) -> anyhow::Result<()> {
    daemons::run("validator", &args.daemon.clone(), |setting| Box::pin(start(args, setting)))
}

async fn start(
    args: ValidatorArgs,
    setting: Setting,
) -> anyhow::Result<(serde_json::Value, impl FnOnce() -> std::future::Ready<anyhow::Result<()>>)> {
    let hotkey = args.keys.load_hotkey()?;
    let (catalogue, catalogue_origin) = args.catalogue.load()?;
    let chain = args.subtensor.connect(&setting.clock, &setting.tasks).await?;
    let proof = if args.proof == "small" { ProofSize::Small } else { ProofSize::Full };
    let usual = if proof == ProofSize::Small { LegSet::NET } else { LegSet::ALL };
    let config = ValidatorConfig {
        state_dir: setting.folder.clone(),
        netuid: Netuid(args.subtensor.netuid),
        hotkey,
        catalogue,
        catalogue_origin,
        proof,
        legs: args.proof_legs.unwrap_or(usual),
        provers: Provers {
            cpu: Arc::from(embedded::prover()),
            cuda: Arc::from(embedded::cuda_prover()),
        },
        intervals: if args.devnet { Intervals::DEVNET } else { Intervals::NETWORK },
        policies: Policies {
            score: SCORE,
            burn_share_ppm: args.burn_share_ppm,
            sessions_max: SESSIONS_MAX,
        },
        devnet: args.devnet,
    };
    let (clock, tasks) = (SharedClock::clone(&setting.clock), setting.tasks.clone());
    let started = Box::pin(Validator::start(config, chain, clock, tasks)).await;
    let (_, handle) = started.map_err(|error| {
        let remedy = error.remedy();
        let failure = Failure::new(Exit::Config, "the validator does not start").because(error);
        match remedy {
            Some(remedy) => failure.hint(remedy),
            None => failure,
        }
    })?;
    if let Some(file) = &args.api_key_file {
        api_key(&handle, file).await?;
    }
    let config = ApiConfig { listen: args.api_listen, limits: Limits::default() };
    let clock = SharedClock::clone(&setting.clock);
    let api = nicompute_api::serve(config, handle, clock, setting.tasks.clone()).await?;
    let mut shown = json!({ "api": api.to_string() });
    if let Some(listen) = args.dashboard_listen {
        shown["dashboard"] = json!(dashboard(listen, api, &setting).await?.to_string());
    }
    Ok((shown, || std::future::ready(Ok(()))))
}

/// The pages are a client of the API like any other.
async fn dashboard(
    listen: SocketAddr,
    api: SocketAddr,
    setting: &Setting,
) -> anyhow::Result<SocketAddr> {
    let base: ApiBase = format!("http://{api}").parse()?;
    let client = MarketClient::new(base, None, DASHBOARD_CALL_MAX)?;
    let stop = setting.tasks.token().clone().cancelled_owned();
    let (address, work) = nicompute_dashboard::serve(listen, client, stop).await?;
    setting.tasks.spawn("dashboard", OnError::Log, async move { Ok(work.await?) });
    Ok(address)
}

/// Makes an API key at the first start; a file that is there is left alone.
async fn api_key(handle: &Handle, file: &std::path::Path) -> anyhow::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let key = handle.create_api_key("first").await?;
    write_private(file, key.expose())
}

fn write_private(file: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let next = file.with_extension("next");
    let mut open = std::fs::OpenOptions::new();
    let mut out = open.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    writeln!(out, "{text}")?;
    out.sync_all()?;
    std::fs::rename(&next, file).with_context(|| format!("write {}", file.display()))
}
