//! `nicompute rent list|show|extend|pause|resume|restart|keys`: what can be seen of leases, and done to one that runs.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use nicompute_client::MarketClient;
use nicompute_wire::market_api::RentalView;
use nicompute_wire::node::{ExtendRequest, KeysRequest};

use crate::args::parse_span;
use crate::commands::ps::{self, PsArgs};
use crate::market_args::{MarketArgs, block_on, failed, find, print, public_half};

/// Something done to a lease.
#[derive(Debug, Subcommand)]
pub(crate) enum RentAct {
    /// List your leases; the same as `nicompute ps`.
    List(PsArgs),
    /// Show one lease: where it stands, how it is entered, where its ports are reached.
    Show(LeaseArgs),
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
    let of = match act {
        RentAct::List(args) => return ps::run(args, out),
        RentAct::Show(of) | RentAct::Pause(of) | RentAct::Resume(of) | RentAct::Restart(of) => of,
        RentAct::Extend(args) => &args.of,
        RentAct::Keys(args) => &args.of,
    };
    let api = of.market.client()?;
    let lease = block_on(async {
        let found = find(&api, &of.lease).await?;
        carry_out(act, &api, found).await
    })??;
    print(out, of.json.then_some(&lease), || match act {
        RentAct::Show(_) => ps::whole(&lease),
        _ => format!("lease {} is {}\n", lease.id, lease.state),
    })
}

async fn carry_out(
    act: &RentAct,
    api: &MarketClient,
    found: RentalView,
) -> anyhow::Result<RentalView> {
    let id = found.id;
    let done = match act {
        RentAct::List(_) => return Ok(found),
        // By its id it was asked for just now; by a part of it the list was read, which may be older.
        RentAct::Show(_) => api.lease(id).await,
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
