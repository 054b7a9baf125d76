//! `nicompute rent extend|pause|resume|restart|keys`: what can be done to a lease that runs.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use nicompute_client::MarketClient;
use nicompute_market::LeaseId;
use nicompute_wire::market_api::RentalView;
use nicompute_wire::node::{ExtendRequest, KeysRequest};

use crate::args::parse_span;
use crate::market_args::{MarketArgs, block_on, failed, find, print, public_half};

/// Something done to a lease.
#[derive(Debug, Subcommand)]
pub(crate) enum RentAct {
    /// Move a lease's end to a span from now; never back.
    Extend(ExtendArgs),
    /// Freeze a lease: its processes stop, its data stays, its time goes on.
    Pause(LeaseArgs),
    /// Let a frozen lease go on.
    Resume(LeaseArgs),
    /// End a lease's processes and start it anew; its disk and volumes stay.
    Restart(LeaseArgs),
    /// Replace the keys that may enter; sessions of keys that stay go on.
    Keys(KeysArgs),
}

/// Which lease, and how to answer.
#[derive(Debug, Args)]
pub(crate) struct LeaseArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// The lease: its id, or the beginning of it.
    lease: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Options of `nicompute rent extend`.
#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    #[command(flatten)]
    of: LeaseArgs,
    /// From now until the new end, such as 90m or 6h.
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    duration: Duration,
}

/// Options of `nicompute rent keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    of: LeaseArgs,
    /// A secret SSH key whose public half lies beside it as FILE.pub. Give it once for each key.
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// Whose keys: your own, or those of a terminal beside them.
    #[arg(long, default_value = "user", value_parser = ["user", "terminal"])]
    slot: String,
}

/// Does it, and says where the lease stands.
pub(crate) fn run(act: &RentAct, out: &mut dyn Write) -> anyhow::Result<()> {
    let of = act.of();
    let api = of.market.client()?;
    let lease = block_on(async {
        let id = find(&api, &of.lease).await?.id;
        carry_out(act, &api, id).await
    })??;
    print(out, of.json.then_some(&lease), || format!("lease {} is {}\n", lease.id, lease.state))
}

async fn carry_out(act: &RentAct, api: &MarketClient, id: LeaseId) -> anyhow::Result<RentalView> {
    let done = match act {
        RentAct::Extend(args) => {
            let request = ExtendRequest { duration_seconds: args.duration.as_secs() };
            api.extend(id, &request).await
        }
        RentAct::Pause(_) => api.pause(id).await,
        RentAct::Resume(_) => api.resume(id).await,
        RentAct::Restart(_) => api.restart(id).await,
        RentAct::Keys(args) => {
            let keys = args.ssh_keys.iter().map(|file| public_half(file));
            let ssh_keys = keys.collect::<anyhow::Result<Vec<_>>>()?;
            api.keys(id, &KeysRequest { ssh_keys, slot: Some(args.slot.clone()) }).await
        }
    };
    done.map_err(failed)
}

impl RentAct {
    const fn of(&self) -> &LeaseArgs {
        match self {
            Self::Extend(args) => &args.of,
            Self::Pause(args) | Self::Resume(args) | Self::Restart(args) => args,
            Self::Keys(args) => &args.of,
        }
    }
}
