//! `nicompute release`: gives a lease back.

use std::io::Write;

use clap::Args;

use crate::market_args::{MarketArgs, block_on, failed, find, print};

/// Options of `nicompute release`.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// The lease: its id, or the beginning of it.
    lease: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Gives the lease back; giving back what is given back already is no error.
pub(crate) fn run(args: &ReleaseArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let api = args.market.client()?;
    let lease = block_on(async {
        let lease = find(&api, &args.lease).await?;
        api.release(lease.id).await.map_err(failed)
    })??;
    print(out, args.json.then_some(&lease), || format!("lease {} is {}\n", lease.id, lease.state))
}
