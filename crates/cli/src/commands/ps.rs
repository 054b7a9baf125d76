//! `nicompute ps`: your leases.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use nicompute_wire::market_api::RentalView;

use crate::market_args::{MarketArgs, block_on, dollars, failed, print};

/// Options of `nicompute ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// Those that are over, too.
    #[arg(long)]
    all: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Lists the caller's leases, newest first.
pub(crate) fn run(args: &PsArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let api = args.market.client()?;
    let mut view = block_on(api.leases())?.map_err(failed)?;
    if !args.all {
        view.leases.retain(|lease| !matches!(&*lease.state, "ended" | "failed"));
    }
    print(out, args.json.then_some(&view), || table(&view.leases))
}

fn table(leases: &[RentalView]) -> String {
    let mut text = format!("{:<36} {:<22} {:>10}  {}\n", "LEASE", "STATE", "$/HOUR", "ENTER");
    for lease in leases {
        let reason =
            lease.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let enter = lease.ssh.as_ref().map_or_else(
            || "-".to_owned(),
            |ssh| format!("{}@{} port {}", ssh.user, ssh.host, ssh.port),
        );
        let state = format!("{}{reason}", lease.state);
        let price = dollars(lease.price_micro_usd_per_hour);
        let written = writeln!(text, "{:<36} {state:<22} {price:>10}  {enter}", lease.id);
        debug_assert!(written.is_ok(), "writing into a string cannot fail");
    }
    text
}
