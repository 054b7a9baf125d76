//! `nicompute stake …`: what stands behind a validator.

use std::fmt::Write as _;
use std::io::Write;

use clap::{Args, Subcommand};
use nicompute_chain::{Call, Chain, StakePosition};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_market::{Coldkey, Hotkey, Netuid, Rao};
use serde_json::{Value, json};

use crate::args::{KeyArgs, SubtensorArgs};
use crate::chain_failures::unread;
use crate::coins::{coins, parse_amount};
use crate::exit::{Exit, Failure};
use crate::market_args::{block_on, print};
use crate::transaction::{self, ConsentArgs, Plan, Purse};

/// Stake.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum StakeCommand {
    /// Stake coins on a hotkey of the subnet.
    Add(AddArgs),
    /// Take stake back, counted in the subnet's alpha.
    Remove(RemoveArgs),
    /// Everything that a coldkey has staked.
    List(ListArgs),
}

/// Options of `stake add`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// The hotkey's address; the wallet's own hotkey otherwise.
    #[arg(long, visible_alias = "hotkey-ss58-address", value_name = "ADDRESS")]
    hotkey_ss58: Option<Hotkey>,
    /// How many coins.
    #[arg(long, value_name = "COINS", value_parser = parse_amount)]
    amount: Rao,
}

/// Options of `stake remove`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// The hotkey's address; the wallet's own hotkey otherwise.
    #[arg(long, visible_alias = "hotkey-ss58-address", value_name = "ADDRESS")]
    hotkey_ss58: Option<Hotkey>,
    /// How much alpha.
    #[arg(long, value_name = "ALPHA", value_parser = parse_amount, required_unless_present = "all")]
    amount: Option<Rao>,
    /// All that the coldkey has on this hotkey and subnet.
    #[arg(long, conflicts_with = "amount")]
    all: bool,
}

/// Options of `stake list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The coldkey's address; the wallet's own otherwise.
    #[arg(long, visible_alias = "ss58-address", value_name = "ADDRESS")]
    ss58: Option<Coldkey>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs one stake command.
pub(crate) fn run(command: StakeCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        StakeCommand::Add(args) => {
            let purse = Purse::open(&args.keys)?;
            let hotkey = hotkey_of(args.hotkey_ss58, &args.keys)?;
            block_on(add(&args, &purse, hotkey, out))?
        }
        StakeCommand::Remove(args) => {
            let purse = Purse::open(&args.keys)?;
            let hotkey = hotkey_of(args.hotkey_ss58, &args.keys)?;
            block_on(remove(&args, &purse, hotkey, out))?
        }
        StakeCommand::List(args) => {
            let coldkey = match args.ss58 {
                Some(coldkey) => coldkey,
                None => Purse::open(&args.keys)?.coldkey,
            };
            block_on(list(&args, coldkey, out))?
        }
    }
}

fn hotkey_of(named: Option<Hotkey>, keys: &KeyArgs) -> anyhow::Result<Hotkey> {
    match named {
        Some(hotkey) => Ok(hotkey),
        None => Ok(keys.load_hotkey()?.hotkey()),
    }
}

async fn add(
    args: &AddArgs,
    purse: &Purse,
    hotkey: Hotkey,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (netuid, tasks) = (Netuid(args.subtensor.netuid), Tasks::new());
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let what = format!(
        "stake {} coins on {hotkey} of subnet {netuid}, at the pool's price of the moment",
        coins(args.amount)
    );
    let plan =
        Plan { what, call: Call::add_stake(netuid, &hotkey, args.amount), cost: args.amount };
    if transaction::carry_out(&chain, purse, &args.consent, &plan).await?.is_none() {
        return Ok(());
    }
    say_position(&chain, purse.coldkey, (hotkey, netuid), out).await
}

async fn remove(
    args: &RemoveArgs,
    purse: &Purse,
    hotkey: Hotkey,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (netuid, tasks) = (Netuid(args.subtensor.netuid), Tasks::new());
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let staked = position(&chain, purse.coldkey, (hotkey, netuid)).await?;
    let amount = args.amount.unwrap_or(staked);
    if staked == Rao(0) || amount > staked {
        let what = format!(
            "{} alpha are staked on {hotkey} of subnet {netuid}, not {}",
            coins(staked),
            if args.all { "any".to_owned() } else { coins(amount) }
        );
        return Err(Failure::new(Exit::Refused, what)
            .hint("nicompute stake list shows all")
            .into());
    }
    let what = format!(
        "take {} alpha back from {hotkey} of subnet {netuid}, at the pool's price of the moment",
        coins(amount)
    );
    let plan = Plan { what, call: Call::remove_stake(netuid, &hotkey, amount), cost: Rao(0) };
    if transaction::carry_out(&chain, purse, &args.consent, &plan).await?.is_none() {
        return Ok(());
    }
    say_position(&chain, purse.coldkey, (hotkey, netuid), out).await
}

async fn list(args: &ListArgs, coldkey: Coldkey, out: &mut dyn Write) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let positions = chain.stakes_of(&coldkey).await.map_err(unread)?;
    let json = json!({ "coldkey": coldkey, "stake": positions_json(&positions) });
    print(out, args.json.then_some(&json), || positions_table(&positions))
}

/// Stake positions as JSON.
pub(crate) fn positions_json(positions: &[StakePosition]) -> Value {
    let value = |position: &StakePosition| {
        json!({
            "hotkey": position.hotkey,
            "netuid": position.netuid,
            "alpha_rao": position.alpha,
        })
    };
    positions.iter().map(value).collect()
}

/// Stake positions as a table.
pub(crate) fn positions_table(positions: &[StakePosition]) -> String {
    let mut text = format!("{:<48} {:>6} {:>24}\n", "HOTKEY", "NETUID", "ALPHA");
    for position in positions {
        let (hotkey, netuid) = (position.hotkey.to_string(), position.netuid.get());
        let written = writeln!(text, "{hotkey:<48} {netuid:>6} {:>24}", coins(position.alpha));
        debug_assert!(written.is_ok(), "writing into a string cannot fail");
    }
    text
}

async fn position(
    chain: &Chain,
    coldkey: Coldkey,
    (hotkey, netuid): (Hotkey, Netuid),
) -> anyhow::Result<Rao> {
    let positions = chain.stakes_of(&coldkey).await.map_err(unread)?;
    let own = positions.iter().find(|own| own.hotkey == hotkey && own.netuid == netuid);
    Ok(own.map_or(Rao(0), |own| own.alpha))
}

async fn say_position(
    chain: &Chain,
    coldkey: Coldkey,
    (hotkey, netuid): (Hotkey, Netuid),
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let alpha = coins(position(chain, coldkey, (hotkey, netuid)).await?);
    Ok(writeln!(out, "{alpha} alpha are staked on {hotkey} of subnet {netuid}")?)
}
