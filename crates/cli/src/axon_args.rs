//! Options of the v1.9.0 axon door, with the original's names where it has them.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use nicompute_market::{AccountId, Rao};
use nicompute_miner::{AccessList, AccessListError};

use crate::exit::{Exit, Failure};

const RAO_PER_COIN: u64 = 1_000_000_000;
/// Bytes of a list that is read; ten thousand lines with reasons are less.
const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024;
const HINT: &str =
    "give SS58 addresses that begin with 5, separated by commas; a list has one a line";

/// Whether the door is open, and to whom.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The v1.9.0 axon door")]
pub(crate) struct AxonArgs {
    /// Serve /Allocate, /Challenge, /Specs and /Synapse to peers that still run the Python code. Their requests do not sign
    /// their body: see docs/axon-v190.md.
    #[arg(long = "axon.v190")]
    v190: bool,
    /// The stake that callers of the door need, in coins.
    #[arg(long = "axon.min_stake", default_value_t = 10_000, value_name = "COINS")]
    min_stake: u64,
    /// Callers of the door need no stake.
    #[arg(long = "miner.whitelist.not.enough.stake")]
    any_stake: bool,
    /// Hotkeys that the door keeps out.
    #[arg(long = "blacklist.hotkeys", value_delimiter = ',', value_name = "SS58,…")]
    blocked_hotkeys: Vec<String>,
    /// Owners whose hotkeys the door keeps out.
    #[arg(long = "blacklist.coldkeys", value_delimiter = ',', value_name = "SS58,…")]
    blocked_coldkeys: Vec<String>,
    /// A file of hotkeys and coldkeys that the door keeps out: one a line, a reason behind it if there is one.
    #[arg(long = "blacklist.file", value_name = "FILE")]
    blocked_file: Option<PathBuf>,
    /// Hotkeys that the door lets in without registration and stake.
    #[arg(long = "whitelist.hotkeys", value_delimiter = ',', value_name = "SS58,…")]
    trusted_hotkeys: Vec<String>,
    /// Owners whose hotkeys the door lets in without stake.
    #[arg(long = "whitelist.coldkeys", value_delimiter = ',', value_name = "SS58,…")]
    trusted_coldkeys: Vec<String>,
}

impl AxonArgs {
    /// Whom the door lets in; `None` where it stays shut. Lists are read in either case, so that a mistake in them is found.
    pub(crate) fn door(&self) -> anyhow::Result<Option<AccessList>> {
        let coins = if self.any_stake { 0 } else { self.min_stake };
        let mut list = AccessList::new(Rao(coins.saturating_mul(RAO_PER_COIN)));
        for text in self.trusted_hotkeys.iter().chain(&self.trusted_coldkeys) {
            list.trust(account(text, "--whitelist")?);
        }
        let blocked = [
            (&self.blocked_hotkeys, "Blacklisted hotkey"),
            (&self.blocked_coldkeys, "Blacklisted coldkey"),
        ];
        for (accounts, reason) in blocked {
            for text in accounts {
                list.block(account(text, "--blacklist")?, reason).map_err(refused)?;
            }
        }
        if let Some(file) = &self.blocked_file {
            let size = std::fs::metadata(file).map(|file| file.len());
            let size =
                size.with_context(|| format!("read {} (--blacklist.file)", file.display()))?;
            if size > LIST_BYTES_MAX {
                let what = format!("{} has more than 4 MiB (--blacklist.file)", file.display());
                return Err(Failure::new(Exit::Config, what).into());
            }
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("read {} (--blacklist.file)", file.display()))?;
            list.block_lines(&text, "Suspected exploiter").map_err(refused)?;
        }
        Ok(self.v190.then_some(list))
    }
}

fn account(text: &str, flag: &str) -> anyhow::Result<AccountId> {
    let text = text.trim();
    Ok(text.parse().map_err(|error| {
        let what = format!("{flag}: {text} is no address");
        Failure::new(Exit::Config, what).because(error).hint(HINT)
    })?)
}

fn refused(error: AccessListError) -> Failure {
    Failure::new(Exit::Config, "the list of who is kept out cannot be used")
        .because(error)
        .hint(HINT)
}
