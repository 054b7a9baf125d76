//! `nicompute offers`: what can be rented.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use nicompute_client::OfferQuery;
use nicompute_wire::market_api::{LegView, MarketOfferView};

use crate::market_args::{MarketArgs, block_on, dollars, failed, print};
use crate::text::plain;

/// Characters of a reason that are shown.
const REASON_CHARS_SHOWN: usize = 120;

/// What an offer must have.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filters {
    /// Part of the GPUs' name.
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// GPUs, at least.
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// Memory of each GPU in GiB, at least.
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
    min_vram_gib: Option<u64>,
    /// Logical processors, at least.
    #[arg(long, value_name = "N")]
    cores: Option<u32>,
    /// Main memory in GiB, at least.
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    memory_gib: Option<u64>,
    /// The price in millionths of a dollar an hour, at most.
    #[arg(long, value_name = "MICRO_USD")]
    max_price: Option<u64>,
}

impl Filters {
    /// The filters as the API takes them.
    pub(crate) fn query(&self) -> OfferQuery {
        OfferQuery {
            gpu: self.gpu.clone(),
            gpus: self.gpus,
            min_vram_bytes: self.min_vram_gib.map(|gib| gib << 30),
            cores: self.cores,
            memory_bytes: self.memory_gib.map(|gib| gib << 30),
            max_price: self.max_price,
        }
    }
}

/// Options of `nicompute offers`.
#[derive(Debug, Args)]
pub(crate) struct OffersArgs {
    #[command(flatten)]
    market: MarketArgs,
    #[command(flatten)]
    filters: Filters,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Lists the offers, cheapest first.
pub(crate) fn run(args: &OffersArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let api = args.market.client()?;
    let view = block_on(api.offers(&args.filters.query()))?.map_err(failed)?;
    print(out, args.json.then_some(&view), || table(&view.offers))
}

fn table(offers: &[MarketOfferView]) -> String {
    let mut text = format!(
        "{:<60} {:>10} {:>5} {:>8}  {:<28} {:<12} {:<14} {}\n",
        "OFFER", "$/HOUR", "CORES", "MEM GiB", "GPUS", "RUNTIME", "LIMITS", "PROOF"
    );
    for offer in offers {
        let gpus: Vec<&str> = offer.machine.gpus.iter().map(|gpu| &*gpu.name).collect();
        let gpus = if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") };
        let proof = offer.proof.as_ref().map_or_else(
            || "none yet".to_owned(),
            |proof| format!("{} ({})", proof.class.as_deref().unwrap_or("no class"), proof.verdict),
        );
        let free = if offer.available { "" } else { " [taken]" };
        let written = writeln!(
            text,
            "{:<60} {:>10} {:>5} {:>8}  {gpus:<28} {:<12} {:<14} {proof}{free}",
            format!("{}/{}", offer.provider, offer.offer),
            dollars(offer.price_micro_usd_per_hour),
            offer.machine.cores,
            offer.machine.memory_bytes >> 30,
            offer.runtime,
            offer.limits,
        );
        debug_assert!(written.is_ok(), "writing into a string cannot fail");
        let legs = offer.proof.iter().flat_map(|proof| &proof.legs).map(leg).collect::<Vec<_>>();
        if !legs.is_empty() {
            text.extend(["    ", &legs.join("; "), "\n"]);
        }
    }
    text
}

/// What was measured besides, in megabytes a second, or why it was not.
fn leg(leg: &LegView) -> String {
    match &leg.reason {
        None => {
            // Where the plots of these lay is not shown; `docs/proof.md` says why.
            let is_own = matches!(leg.leg.as_str(), "ram" | "disk" | "disk-random");
            let how = if is_own { "answered at " } else { "" };
            format!("{} {how}{} MB/s", leg.leg, leg.bytes_per_second / 1_000_000)
        }
        Some(why) => format!("{} not shown: {}", leg.leg, plain(why, REASON_CHARS_SHOWN)),
    }
}
