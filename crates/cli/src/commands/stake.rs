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
use crate::transaction::{self, ConsentArgs, Later, Plan, Purse};

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
        None => Ok(keys.hotkey_address()?),
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
    let what = format!("stake {} coins on {hotkey} of subnet {netuid}", coins(args.amount));
    let done = format!("staked {} coins on {hotkey} of subnet {netuid}", coins(args.amount));
    let pool = pool_of(&chain, netuid).await?;
    let notes = quote(pool, args.amount, &["alpha", "coins"]);
    let call = Call::add_stake(netuid, &hotkey, args.amount);
    let plan = Plan { what, notes, done, call, cost: args.amount, price_limit: None };
    match transaction::carry_out(&chain, purse, &args.consent, &plan, out).await? {
        Some(done) => done.end(position_later(&chain, purse.coldkey, (hotkey, netuid)).await, out),
        None => Ok(()),
    }
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
        let what = if staked == Rao(0) {
            format!("no alpha are staked on {hotkey} of subnet {netuid}")
        } else {
            let (staked, amount) = (coins(staked), coins(amount));
            format!("{staked} alpha are staked on {hotkey} of subnet {netuid}, not {amount}")
        };
        return Err(Failure::new(Exit::Refused, what)
            .hint("nicompute stake list shows all")
            .into());
    }
    let what = format!("take {} alpha back from {hotkey} of subnet {netuid}", coins(amount));
    let done = format!("took {} alpha back from {hotkey} of subnet {netuid}", coins(amount));
    let (coins_in, alpha_in) = pool_of(&chain, netuid).await?;
    let mut notes = quote((alpha_in, coins_in), amount, &["coins", "alpha"]);
    if args.all {
        notes.push("what is credited from now on stays staked".to_owned());
    }
    let call = Call::remove_stake(netuid, &hotkey, amount);
    let plan = Plan { what, notes, done, call, cost: Rao(0), price_limit: None };
    match transaction::carry_out(&chain, purse, &args.consent, &plan, out).await? {
        Some(done) => done.end(position_later(&chain, purse.coldkey, (hotkey, netuid)).await, out),
        None => Ok(()),
    }
}

/// Coins and alpha in the subnet's pool.
async fn pool_of(chain: &Chain, netuid: Netuid) -> anyhow::Result<(Rao, Rao)> {
    let subnets = chain.subnets().await.map_err(unread)?;
    let subnet = subnets.iter().find(|subnet| subnet.netuid == netuid);
    Ok(subnet.map_or((Rao(0), Rao(0)), |subnet| (subnet.tao_in, subnet.alpha_in)))
}

/// What a pool that keeps the product of its two sides gives for an amount, and that nothing is promised. The pool's own rules
/// may differ, so this says how large a trade is for the pool and is no price that anybody keeps.
fn quote((gets, gives): (Rao, Rao), amount: Rao, [wanted, paid]: &[&str; 2]) -> Vec<String> {
    let limit = "there is no limit on the price: it is the pool's when this is carried out, and others can move it before";
    let (gets, gives) = (u128::from(gets.get()), u128::from(gives.get()));
    let amount = u128::from(amount.get());
    let mut notes = Vec::new();
    if gets > 0 && gives > 0 {
        let given = gives * amount / (gets + amount);
        let (given, gets, gives) = (rao(given), rao(gets), rao(gives));
        let pool = format!("the pool has {} {paid} and {} {wanted}", coins(gets), coins(gives));
        notes.push(format!("{pool}: by that about {} {wanted} now, less its fee", coins(given)));
    }
    notes.push(limit.to_owned());
    notes
}

fn rao(amount: u128) -> Rao {
    Rao(u64::try_from(amount).unwrap_or(u64::MAX))
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

async fn position_later(
    chain: &Chain,
    coldkey: Coldkey,
    (hotkey, netuid): (Hotkey, Netuid),
) -> anyhow::Result<Later> {
    let alpha = position(chain, coldkey, (hotkey, netuid)).await?;
    let text = format!("{} alpha are staked on {hotkey} of subnet {netuid}", coins(alpha));
    Ok(Later { text, name: "staked_alpha_rao", value: json!(alpha) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COIN: u64 = 1_000_000_000;

    /// Whoever stakes much in a small pool must see that he gets little for it, and that nobody keeps the price.
    #[test]
    fn a_large_amount_is_quoted_with_its_effect() {
        let pool = (Rao(100 * COIN), Rao(200 * COIN));
        let notes = quote(pool, Rao(100 * COIN), &["alpha", "coins"]);
        assert!(notes[0].contains("about 100 alpha"), "{notes:?}");
        assert!(notes[1].contains("no limit"), "{notes:?}");
        let full = quote((Rao(u64::MAX), Rao(u64::MAX)), Rao(u64::MAX), &["alpha", "coins"]);
        assert!(full[0].contains("9223372036.854775807 alpha"), "{full:?}");
        assert_eq!(quote((Rao(0), Rao(0)), Rao(COIN), &["alpha", "coins"]).len(), 1);
    }
}
