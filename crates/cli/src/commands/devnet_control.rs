//! `nicompute devnet chaos` and `nicompute devnet dump`: faults on command, and a look at everything, on a running devnet.
//!
//! Neither ever reaches another chain: only loopback addresses are asked, and whoever answers must be a devnet.

use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use nicompute_devnet::{
    Answers, Change, Chaos, ChaosDone, Control, ControlError, Dump, NeuronDump, STALL_MS_MAX,
    SubnetDump,
};

use crate::args::parse_span;
use crate::exit::{Exit, Failure};
use crate::market_args::block_on;

/// Characters of an address or hash that a table shows.
const SHOWN_CHARS: usize = 12;
/// Blocks that are listed to people.
const BLOCKS_SHOWN: usize = 12;

/// Which devnet.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Where the devnet listens; loopback only.
    #[arg(
        long,
        default_value = "127.0.0.1:9944",
        value_parser = parse_address,
        value_name = "IP:PORT"
    )]
    chain: SocketAddr,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Faults of `nicompute devnet chaos`.
#[derive(Debug, Subcommand)]
pub(crate) enum ChaosCommand {
    /// No blocks for a while.
    Stall {
        #[command(flatten)]
        target: Target,
        /// How long, such as 5s or 2m; at most 10 minutes.
        #[arg(long = "for", default_value = "10s", value_parser = parse_span, value_name = "SPAN")]
        span: Duration,
        /// Answer nothing meanwhile, on connections that stay open.
        #[arg(long)]
        silent: bool,
    },
    /// Throw the newest blocks away and put a longer branch in their place.
    Fork {
        #[command(flatten)]
        target: Target,
        /// How many blocks; at most the chain's finality lag.
        #[arg(long, default_value_t = 1)]
        depth: u32,
        /// Lose the extrinsics of those blocks instead of putting them back into the pool.
        #[arg(long)]
        drop: bool,
    },
    /// Close every connection, lose the pool, and go on from disk on the same port.
    Restart {
        #[command(flatten)]
        target: Target,
    },
    /// Run a newer runtime with other metadata from the next block on.
    Upgrade {
        #[command(flatten)]
        target: Target,
        /// What changes besides the version: nothing, the numbers of calls, a storage item, how types are written, or all.
        #[arg(
            long,
            default_value = "all",
            value_parser = ["all", "version", "calls", "storage", "profile"]
        )]
        change: String,
    },
}

/// Options of `nicompute devnet dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    target: Target,
}

/// Makes a fault on a devnet.
pub(crate) fn chaos(command: &ChaosCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let (target, chaos) = fault(command)?;
    let address = target.chain;
    let done = block_on(async move {
        let control = Control::connect(address).await.map_err(explain)?;
        control.chaos(chaos).await.map_err(explain)
    })??;
    if target.json {
        writeln!(out, "{done}")?;
        return Ok(());
    }
    match serde_json::from_value::<ChaosDone>(done) {
        Ok(done) => writeln!(
            out,
            "done: the newest block is {} ({}), the runtime is {}",
            done.block, done.hash, done.spec_version
        )?,
        // A restart is answered before it happens.
        Err(_) => writeln!(out, "done: the chain restarts")?,
    }
    Ok(())
}

/// Shows everything that a devnet has.
pub(crate) fn dump(args: &DumpArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let address = args.target.chain;
    let dump = block_on(async move {
        let control = Control::connect(address).await.map_err(explain)?;
        control.dump().await.map_err(explain)
    })??;
    if args.target.json {
        serde_json::to_writer_pretty(&mut *out, &dump)?;
        writeln!(out)?;
        return Ok(());
    }
    out.write_all(text(&dump)?.as_bytes())?;
    Ok(())
}

fn fault(command: &ChaosCommand) -> anyhow::Result<(&Target, Chaos)> {
    Ok(match command {
        ChaosCommand::Stall { target, span, silent } => {
            let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            if ms > STALL_MS_MAX {
                let what = format!("--for {span:?} is too long");
                return Err(Failure::new(Exit::Usage, what).hint("at most 10m").into());
            }
            let answers = if *silent { Answers::Withheld } else { Answers::Given };
            (target, Chaos::Stall { ms, answers })
        }
        ChaosCommand::Fork { target, depth, drop } => {
            (target, Chaos::Fork { depth: *depth, drop: *drop })
        }
        ChaosCommand::Restart { target } => (target, Chaos::Restart),
        ChaosCommand::Upgrade { target, change } => {
            let change = match change.as_str() {
                "version" => Change::Version,
                "calls" => Change::Calls,
                "storage" => Change::Storage,
                "profile" => Change::Profile,
                _ => Change::All,
            };
            (target, Chaos::Upgrade { change })
        }
    })
}

fn explain(error: ControlError) -> Failure {
    let (exit, what, hint) = match &error {
        ControlError::NotLoopback(_) | ControlError::NotADevnet { .. } => (
            Exit::NotAllowed,
            "this is for devnets only",
            "name a chain that `nicompute devnet up` or `devnet chain` runs on this machine",
        ),
        ControlError::Unreachable { .. } => (
            Exit::Unavailable,
            "there is no devnet",
            "start one with `nicompute devnet up`, or name its port with --chain 127.0.0.1:PORT",
        ),
        ControlError::Refused(_) => (
            Exit::Refused,
            "nothing was done",
            "`nicompute devnet dump` shows the chain's blocks and its finality lag",
        ),
        ControlError::Unanswered(_) => {
            (Exit::Unavailable, "the devnet did not answer", "look at its log")
        }
    };
    Failure::new(exit, what).hint(hint).because(error)
}

/// Reads `IP:PORT`, also as the URL that the devnet prints.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix("ws://").unwrap_or(text).trim_end_matches('/');
    bare.parse().map_err(|_| "expected IP:PORT, such as 127.0.0.1:9944".to_owned())
}

fn text(dump: &Dump) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(out, "genesis    {}", dump.genesis)?;
    writeln!(out, "runtime    {} ({})", dump.spec_version, dump.profile)?;
    writeln!(out, "best       {}", dump.best)?;
    writeln!(out, "finalized  {} (lag {})", dump.finalized, dump.finality_lag)?;
    writeln!(out, "block time {} ms", dump.block_time_ms)?;
    writeln!(out, "\nBLOCKS")?;
    for block in dump.blocks.iter().take(BLOCKS_SHOWN) {
        let mark = if block.is_final { "final" } else { "best" };
        let calls = block.calls.join(" ");
        writeln!(out, "{:>8}  {}  {mark:<5}  {calls}", block.number, short(&block.hash))?;
    }
    for entry in &dump.subnets {
        subnet(&mut out, entry)?;
    }
    writeln!(out, "\nACCOUNTS")?;
    for account in &dump.accounts {
        let coins = coins(account.free_rao);
        writeln!(out, "{}  {coins:>22}  nonce {}", account.account, account.nonce)?;
    }
    writeln!(out, "\nPOOL  {} waiting", dump.pool.len())?;
    for waiting in &dump.pool {
        let (hash, signer) = (short(&waiting.hash), short(&waiting.signer));
        writeln!(out, "{hash}  {signer}  nonce {:>4}  {}", waiting.nonce, waiting.call)?;
    }
    Ok(out)
}

fn subnet(out: &mut String, subnet: &SubnetDump) -> std::fmt::Result {
    writeln!(
        out,
        "\nSUBNET {}  {}  {} neurons, {} epochs, the last in block {}",
        subnet.netuid,
        subnet.name,
        subnet.neurons.len(),
        subnet.epochs,
        subnet.last_epoch_block
    )?;
    writeln!(out, "  owner {}  hotkey {}", subnet.owner, subnet.owner_hotkey)?;
    for (name, value) in &subnet.hyperparameters {
        writeln!(out, "  {name:<28} {value}")?;
    }
    writeln!(
        out,
        "  {:>4}  {:<12}  {:<12}  {:>20}  {:<9}  {:>5}  {:>5}  {:>5}  {:>18}  {:>8}  axon",
        "uid", "hotkey", "coldkey", "stake", "", "inc", "div", "cons", "emission", "updated"
    )?;
    for entry in &subnet.neurons {
        neuron(out, entry)?;
    }
    for commit in &subnet.pending_commits {
        let opens = match (&commit.hash, commit.round) {
            (_, Some(round)) => format!("sealed for round {round}"),
            (Some(hash), None) => format!("promised by {hash}"),
            (None, None) => String::new(),
        };
        let (hotkey, block) = (short(&commit.hotkey), commit.block);
        writeln!(out, "  commit ({})  {hotkey}  block {block}  {opens}", commit.mechanism)?;
    }
    Ok(())
}

fn neuron(out: &mut String, neuron: &NeuronDump) -> std::fmt::Result {
    writeln!(
        out,
        "  {:>4}  {:<12}  {:<12}  {:>20}  {:<9}  {:>5}  {:>5}  {:>5}  {:>18}  {:>8}  {}",
        neuron.uid,
        short(&neuron.hotkey),
        short(&neuron.coldkey),
        coins(neuron.stake_rao),
        if neuron.validator_permit { "validator" } else { "" },
        neuron.incentive,
        neuron.dividends,
        neuron.consensus,
        coins(neuron.emission_rao),
        neuron.last_update,
        neuron.axon.as_deref().unwrap_or("-")
    )?;
    for (name, rows) in [("weights", &neuron.weights), ("bonds", &neuron.bonds)] {
        for (mechanism, row) in rows {
            let row: Vec<String> =
                row.iter().map(|(uid, value)| format!("{uid}:{value}")).collect();
            writeln!(out, "        {name} ({mechanism})  {}", row.join(" "))?;
        }
    }
    Ok(())
}

/// Rao as coins with all nine digits.
fn coins(rao: u64) -> String {
    const RAO: u64 = 1_000_000_000;
    format!("{}.{:09}", rao / RAO, rao % RAO)
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address that is misread sends a fault to another chain, or to none.
    #[test]
    fn addresses_are_read_as_the_devnet_prints_them() {
        let expected: SocketAddr = ([127, 0, 0, 1], 9944).into();
        for text in ["127.0.0.1:9944", "ws://127.0.0.1:9944", "ws://127.0.0.1:9944/"] {
            assert_eq!(parse_address(text), Ok(expected), "{text}");
        }
        for text in ["wss://127.0.0.1:9944", "localhost:9944", "127.0.0.1", ""] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    /// Coins that lose a digit make every balance look wrong.
    #[test]
    fn coins_have_nine_digits() {
        assert_eq!(coins(1), "0.000000001");
        assert_eq!(coins(100_000_000_000_000), "100000.000000000");
    }
}
