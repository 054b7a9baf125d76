//! `nicompute devnet chain`: the local chain alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nicompute_devnet::{
    Devnet, DevnetConfig, Genesis, Parameters, Profile, SubnetGenesis, Switches,
};
use nicompute_market::{Netuid, Rao};
use serde_json::json;

use crate::args::{DaemonArgs, parse_span};
use crate::daemons;
use crate::devnet::GenesisFile;
use crate::exit::{Exit, Failure};

/// Options of `nicompute devnet chain`.
#[derive(Debug, Args)]
pub(crate) struct ChainArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The address to listen on; loopback only.
    #[arg(long, default_value = "127.0.0.1:9944", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Accounts, subnets and validators of the first block, as JSON; used only when the folder has no chain yet.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Time between two blocks, such as 250ms or 12s.
    #[arg(long, default_value = "1s", value_parser = parse_span, value_name = "SPAN")]
    block_time: Duration,
    /// How the metadata writes single-field types: `flat` works for every client, `modern` is what newer runtimes have.
    #[arg(long, default_value = "flat", value_parser = ["flat", "modern"])]
    profile: String,
    /// How many blocks the finalised head trails the best one; at 0 nothing can be undone.
    #[arg(long, default_value_t = 0, value_name = "BLOCKS")]
    finality_lag: u32,
}

/// Runs the chain until it is stopped.
pub(crate) fn run(args: &ChainArgs) -> anyhow::Result<()> {
    let genesis = genesis(GenesisFile::read(&args.genesis)?);
    let profile = if args.profile == "modern" { Profile::Modern } else { Profile::Flat };
    daemons::run("chain", &args.daemon.clone(), |setting| async move {
        let config = DevnetConfig {
            listen: args.listen,
            block_time: args.block_time,
            profile,
            finality_lag: args.finality_lag,
            ..DevnetConfig::new(setting.folder, genesis)
        };
        let started = Devnet::start(config, setting.clock, &setting.tasks).await;
        let devnet = started.map_err(|error| {
            let failure = Failure::new(Exit::Config, "the chain did not start");
            failure.because(error).hint("choose another --listen or --state-dir")
        })?;
        let url = devnet.ws_url();
        Ok((json!({ "ws": url }), async || {
            drop(devnet);
            Ok(())
        }))
    })
}

fn genesis(file: GenesisFile) -> Genesis {
    let subnets = file.subnets.into_iter().map(|subnet| {
        let netuid = Netuid(subnet.netuid);
        let validators = subnet.validators.into_iter();
        let switches = Switches { commit_reveal: subnet.commit_reveal, ..Switches::default() };
        SubnetGenesis {
            parameters: Parameters { switches, ..Parameters::default() },
            tempo: subnet.tempo,
            validators: validators.map(|v| (v.hotkey, v.coldkey, Rao(v.stake_rao))).collect(),
            ..SubnetGenesis::new(netuid, subnet.owner_coldkey, subnet.owner_hotkey)
        }
    });
    Genesis {
        endowed: file.endowed.into_iter().map(|entry| (entry.account, Rao(entry.rao))).collect(),
        subnets: subnets.collect(),
        ..Genesis::default()
    }
}
