//! `nicompute rent`: a lease, and the plain `ssh` command that enters it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nicompute_client::{MarketClient, SshAccess};
use nicompute_market::{Hotkey, LeaseId, OfferId};
use nicompute_wire::market_api::{MarketOfferView, RentRequest, RentalView};

use crate::args::parse_span;
use crate::commands::offers::Filters;
use crate::commands::ps::ports;
use crate::commands::rent_acts::{self, RentAct};
use crate::daemons::{create_private, write_atomically};
use crate::exit::{Exit, Failure};
use crate::market_args::{MarketArgs, block_on, failed, key_pointer, print, public_half};
use crate::openssh;
use crate::wish_args::WishArgs;

/// How often a lease that is coming up is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a lease may take to come up.
const READY_MAX: Duration = Duration::from_secs(120);

/// Options of `nicompute rent`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RentArgs {
    #[command(subcommand)]
    act: Option<RentAct>,
    #[command(flatten)]
    market: MarketArgs,
    #[command(flatten)]
    filters: Filters,
    /// This offer, as `nicompute offers` names it; otherwise the cheapest free one that meets the filters.
    #[arg(long, value_name = "PROVIDER/OFFER")]
    offer: Option<String>,
    /// How long, such as 90m or 6h.
    #[arg(long, default_value = "1h", value_parser = parse_span, value_name = "SPAN")]
    duration: Duration,
    /// A secret SSH key whose public half lies beside it as FILE.pub; a fresh one for this lease otherwise.
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// The image; the offer's first one otherwise.
    #[arg(long)]
    image: Option<String>,
    #[command(flatten)]
    pub(crate) wishes: WishArgs,
    /// The lease's id, to ask again for a lease whose answer was lost.
    #[arg(long, value_name = "UUID")]
    id: Option<LeaseId>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Rents, waits until the lease can be entered, and says how.
pub(crate) fn run(args: &RentArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    if let Some(act) = &args.act {
        return rent_acts::run(act, out);
    }
    let api = args.market.client()?;
    let options = args.wishes.options()?;
    block_on(async {
        let offer = choose(args, &api).await?;
        let id = args.id.map_or_else(fresh_id, Ok)?;
        let folder = args.market.lease_folder(id)?;
        let (key, public) = key(args, &folder).await?;
        let request = RentRequest {
            id,
            provider: offer.provider,
            offer: offer.offer,
            ssh_keys: vec![public],
            image: args.image.clone(),
            duration_seconds: args.duration.as_secs(),
            price_micro_usd_per_hour_max: Some(offer.price_micro_usd_per_hour),
            terminal_key: args.wishes.terminal_key()?,
            options,
        };
        let lease = wait_until_running(&api, &request).await?;
        let access = lease.ssh.as_ref().context("a running lease can be entered")?;
        let words = openssh::arguments(&folder, &key, &SshAccess::check(access)?)?;
        print(out, args.json.then_some(&lease), || {
            let ssh = words.join(" ");
            format!("lease {id} is running; enter it with\n  ssh {ssh}\n{}", ports(&lease))
        })
    })?
}

fn fresh_id() -> anyhow::Result<LeaseId> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(LeaseId::from_random_bytes(random))
}

/// The secret key's file and the public key's text; which key it is, is noted for `nicompute ssh`.
async fn key(args: &RentArgs, folder: &Path) -> anyhow::Result<(PathBuf, String)> {
    create_private(folder)?;
    let (file, public) = match &args.ssh_key {
        Some(file) => (std::path::absolute(file)?, public_half(file)?),
        None => {
            let key = openssh::key(folder).await?;
            (key.file, key.public)
        }
    };
    write_atomically(&key_pointer(folder), &format!("{}\n", file.display()))?;
    Ok((file, public))
}

async fn choose(args: &RentArgs, api: &MarketClient) -> anyhow::Result<MarketOfferView> {
    let wanted = args.offer.as_deref().map(parse_offer).transpose()?;
    let offers = api.offers(&args.filters.query()).await.map_err(failed)?.offers;
    let is_wanted = |offer: &&MarketOfferView| match &wanted {
        Some((provider, name)) => offer.provider == *provider && offer.offer == *name,
        // One that was named refuses with its own reason.
        None => args.wishes.fit(&offer.conditions),
    };
    let free = offers.iter().filter(is_wanted).find(|offer| offer.available);
    let missing = || {
        Failure::new(Exit::NotFound, "no free offer is like that")
            .hint("nicompute offers lists all, with --json what each of them can have")
    };
    Ok(free.cloned().ok_or_else(missing)?)
}

fn parse_offer(text: &str) -> anyhow::Result<(Hotkey, OfferId)> {
    let parsed = text
        .split_once('/')
        .and_then(|(provider, offer)| Some((provider.parse().ok()?, offer.parse().ok()?)));
    let wrong = || {
        let hint =
            "write it as nicompute offers does: the provider's address, a slash, the offer's name";
        Failure::new(Exit::Usage, format!("--offer {text} names no offer")).hint(hint)
    };
    Ok(parsed.ok_or_else(wrong)?)
}

/// Asks again with the same id until the lease runs: asking twice is asking once.
async fn wait_until_running(
    api: &MarketClient,
    request: &RentRequest,
) -> anyhow::Result<RentalView> {
    let wait = async {
        loop {
            let lease = api.rent(request).await.map_err(failed)?;
            match &*lease.state {
                "running" if lease.ssh.is_some() => return Ok(lease),
                "failed" | "ended" | "ending" => {
                    let reason = lease.reason.unwrap_or_else(|| "no reason given".to_owned());
                    let what = format!("the lease is {}: {reason}", lease.state);
                    return Err(Failure::new(Exit::Refused, what)
                        .hint("rent another offer")
                        .into());
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    };
    let late = |_| {
        let what = format!("lease {} did not come up within {} s", request.id, READY_MAX.as_secs());
        let hint = format!(
            "ask again with --id {}, or give it back: nicompute release {}",
            request.id, request.id
        );
        Failure::new(Exit::Deadline, what).hint(hint)
    };
    tokio::time::timeout(READY_MAX, wait).await.map_err(late)?
}
