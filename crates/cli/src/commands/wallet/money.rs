//! `nicompute wallet balance` and `transfer`: the coldkey's coins.

use std::io::Write;

use clap::Args;
use nicompute_chain::{Call, Chain};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_market::{AccountId, Coldkey, Rao};
use serde_json::json;

use crate::args::{KeyArgs, SubtensorArgs};
use crate::chain_failures::unread;
use crate::coins::{coins, parse_amount};
use crate::commands::stake::{positions_json, positions_table};
use crate::market_args::{block_on, print};
use crate::transaction::{self, ConsentArgs, Later, Plan, Purse};

/// Options of `balance`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BalanceArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The account's address; the wallet's own coldkey otherwise.
    #[arg(long, visible_alias = "ss58-address", value_name = "ADDRESS")]
    ss58: Option<Coldkey>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Options of `transfer`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// The address that gets the coins.
    #[arg(long, visible_aliases = ["dest", "destination"], value_name = "ADDRESS")]
    to: AccountId,
    /// How many coins.
    #[arg(long, value_name = "COINS", value_parser = parse_amount)]
    amount: Rao,
    /// Let the sending account end where nothing remains in it.
    #[arg(long)]
    allow_death: bool,
}

/// Shows coins and stake.
pub(super) fn balance(args: &BalanceArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let coldkey = match args.ss58 {
        Some(coldkey) => coldkey,
        None => Purse::open(&args.keys)?.coldkey,
    };
    block_on(show_balance(args, coldkey, out))?
}

/// Sends coins.
pub(super) fn transfer(args: &TransferArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let purse = Purse::open(&args.keys)?;
    block_on(send(args, &purse, out))?
}

async fn show_balance(
    args: &BalanceArgs,
    coldkey: Coldkey,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let free = chain.balance(&coldkey.0).await.map_err(unread)?;
    let positions = chain.stakes_of(&coldkey).await.map_err(unread)?;
    let json = json!({
        "coldkey": coldkey,
        "free_rao": free,
        "stake": positions_json(&positions),
    });
    print(out, args.json.then_some(&json), || {
        let stake = if positions.is_empty() { String::new() } else { positions_table(&positions) };
        format!("coldkey  {coldkey}\nfree     {} coins\n{stake}", coins(free))
    })
}

async fn send(args: &TransferArgs, purse: &Purse, out: &mut dyn Write) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let call = if args.allow_death {
        Call::transfer_allow_death(&args.to, args.amount)
    } else {
        Call::transfer_keep_alive(&args.to, args.amount)
    };
    let what =
        format!("send {} coins to {}; nobody can take that back", coins(args.amount), args.to);
    let done = format!("sent {} coins to {}", coins(args.amount), args.to);
    let plan = Plan { what, notes: Vec::new(), done, call, cost: args.amount, price_limit: None };
    match transaction::carry_out(&chain, purse, &args.consent, &plan, out).await? {
        Some(done) => done.end(left(&chain, purse).await, out),
        None => Ok(()),
    }
}

async fn left(chain: &Chain, purse: &Purse) -> anyhow::Result<Later> {
    let left = chain.balance(&purse.coldkey.0).await.map_err(unread)?;
    let text = format!("{} coins are left", coins(left));
    Ok(Later { text, name: "balance_after_rao", value: json!(left) })
}
