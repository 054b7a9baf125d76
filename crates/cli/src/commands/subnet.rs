//! `nicompute subnet …`: subnets, their neurons and rules, and a slot for a hotkey.

use std::fmt::Write as _;
use std::io::Write;

use clap::{Args, Subcommand};
use nicompute_chain::{Call, Chain, Endpoint, Metagraph, Neuron};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_market::{Hotkey, Netuid, Rao};
use serde_json::{Value, json};

use crate::args::{KeyArgs, SubtensorArgs};
use crate::chain_failures::{unread, unsent};
use crate::coins::{coins, parse_coins};
use crate::market_args::{block_on, print};
use crate::transaction::{self, ConsentArgs, Later, Plan, Purse};

/// Characters of an address that a table shows.
const ADDRESS_CHARS: usize = 10;

/// Subnets.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SubnetCommand {
    /// Take a slot on the subnet for a hotkey.
    Register(RegisterArgs),
    /// All subnets of the network.
    List(ReadArgs),
    /// The neurons of the subnet.
    Metagraph(ReadArgs),
    /// The rules of the subnet, and what a slot costs.
    Hyperparameters(ReadArgs),
}

/// Options of a read.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Options of a registration.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegisterArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// The hotkey's address, where the hotkey lies on another machine; the wallet's own hotkey otherwise.
    #[arg(long, visible_alias = "hotkey-ss58-address", value_name = "ADDRESS")]
    hotkey_ss58: Option<Hotkey>,
    /// Pay at most so many coins; otherwise the price that is shown is the limit.
    #[arg(long, visible_alias = "limit", value_name = "COINS", value_parser = parse_coins)]
    max_cost: Option<Rao>,
    /// The same in rao.
    #[arg(long, value_name = "RAO", conflicts_with = "max_cost", hide = true)]
    burn_max: Option<u64>,
    /// Register by proof of work. This program does not; it says what the subnet takes.
    #[arg(long)]
    pow: bool,
}

/// Runs one subnet command.
pub(crate) fn run(command: SubnetCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        SubnetCommand::Register(args) => register(&args, out),
        SubnetCommand::List(args) => block_on(list(&args, out))?,
        SubnetCommand::Metagraph(args) => block_on(metagraph(&args, out))?,
        SubnetCommand::Hyperparameters(args) => block_on(hyperparameters(&args, out))?,
    }
}

/// Registers the wallet's hotkey.
pub(crate) fn register(args: &RegisterArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let purse = Purse::open(&args.keys)?;
    let hotkey = match args.hotkey_ss58 {
        Some(hotkey) => hotkey,
        None => args.keys.hotkey_address()?,
    };
    block_on(take_slot(args, &purse, hotkey, out))?
}

async fn take_slot(
    args: &RegisterArgs,
    purse: &Purse,
    hotkey: Hotkey,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (netuid, tasks) = (Netuid(args.subtensor.netuid), Tasks::new());
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    if args.pow {
        chain.pow_register(netuid).await.map_err(unsent)?;
    }
    if let Some(uid) = chain.uid_of(netuid, &hotkey).await.map_err(unread)? {
        let json = json!({ "sent": false, "hotkey": hotkey, "netuid": netuid, "uid": uid });
        return print(out, args.consent.json.then_some(&json), || {
            format!("{hotkey} is uid {uid} on subnet {netuid} already\n")
        });
    }
    let limit = args.max_cost.or_else(|| args.burn_max.map(Rao));
    let limit = match limit {
        Some(limit) => limit,
        None => chain.burn(netuid).await.map_err(unread)?,
    };
    let price = transaction::check_price(&chain, netuid, limit).await?;
    let chain_keeps_limit =
        chain.has_call("SubtensorModule", "register_limit").await.map_err(unread)?;
    let (call, notes) = if chain_keeps_limit {
        (Call::register_limit(netuid, &hotkey, limit), Vec::new())
    } else {
        let note = "this chain's runtime keeps no limit: the price is read once more before it is signed, and may still rise \
                    until it is in a block";
        (Call::burned_register(netuid, &hotkey), vec![note.to_owned()])
    };
    let what = format!(
        "register {hotkey} on subnet {netuid} for the price of the moment, at most {} coins, which nobody gives back",
        coins(limit)
    );
    let done = format!("{hotkey} is registered on subnet {netuid}");
    let price_limit = Some((netuid, limit));
    let plan = Plan { what, notes, done, call, cost: price, price_limit };
    match transaction::carry_out(&chain, purse, &args.consent, &plan, out).await? {
        Some(done) => done.end(uid_later(&chain, netuid, &hotkey).await, out),
        None => Ok(()),
    }
}

async fn uid_later(chain: &Chain, netuid: Netuid, hotkey: &Hotkey) -> anyhow::Result<Later> {
    let uid = chain.uid_of(netuid, hotkey).await.map_err(unread)?;
    let text = uid.map_or_else(|| "uid not listed yet".to_owned(), |uid| format!("uid {uid}"));
    Ok(Later { text, name: "uid", value: json!(uid) })
}

async fn list(args: &ReadArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let mut subnets = chain.subnets().await.map_err(unread)?;
    subnets.sort_by_key(|subnet| subnet.netuid);
    let value = |subnet: &nicompute_chain::SubnetInfo| {
        json!({
            "netuid": subnet.netuid,
            "name": subnet.name,
            "symbol": subnet.symbol,
            "tempo": subnet.tempo,
            "owner_hotkey": subnet.owner_hotkey,
            "owner_coldkey": subnet.owner_coldkey,
            "registered_at": subnet.registered_at,
            "tao_in_rao": subnet.tao_in,
            "alpha_in_rao": subnet.alpha_in,
            "alpha_out_rao": subnet.alpha_out,
        })
    };
    let json = json!({ "subnets": subnets.iter().map(value).collect::<Vec<Value>>() });
    print(out, args.json.then_some(&json), || {
        let mut text = format!(
            "{:>6}  {:<24} {:>6} {:>24}  {}\n",
            "NETUID", "NAME", "TEMPO", "TAO IN POOL", "OWNER"
        );
        for subnet in &subnets {
            let name = crate::text::plain(&subnet.name, 24);
            let (netuid, pool) = (subnet.netuid.get(), coins(subnet.tao_in));
            let (tempo, owner) = (subnet.tempo, subnet.owner_coldkey);
            line(&mut text, format_args!("{netuid:>6}  {name:<24} {tempo:>6} {pool:>24}  {owner}"));
        }
        text
    })
}

async fn metagraph(args: &ReadArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let (netuid, tasks) = (Netuid(args.subtensor.netuid), Tasks::new());
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let graph = chain.metagraph(netuid).await.map_err(unread)?;
    let json = json!({
        "netuid": netuid,
        "block": graph.block,
        "neurons": graph.neurons.iter().map(neuron_json).collect::<Vec<Value>>(),
    });
    print(out, args.json.then_some(&json), || neurons_table(&graph))
}

fn neuron_json(neuron: &Neuron) -> Value {
    json!({
        "uid": neuron.uid,
        "hotkey": neuron.hotkey,
        "coldkey": neuron.coldkey,
        "axon": neuron.axon.map(endpoint_json),
        "stake_rao": neuron.stake,
        "alpha_stake_rao": neuron.alpha_stake,
        "tao_stake_rao": neuron.tao_stake,
        "validator_permit": neuron.validator_permit,
        "active": neuron.active,
        "last_update": neuron.last_update,
        "registered_at": neuron.registered_at,
        "incentive": neuron.incentive,
        "dividends": neuron.dividends,
        "consensus": neuron.consensus,
        "validator_trust": neuron.validator_trust,
        "emission_rao": neuron.emission,
    })
}

fn endpoint_json(endpoint: Endpoint) -> Value {
    json!({ "ip": endpoint.ip, "port": endpoint.port, "version": endpoint.version })
}

fn neurons_table(graph: &Metagraph) -> String {
    let mut text = format!(
        "{:>4} {:>20} {:>9} {:>9} {:>16} {:>8} {:<6} {:<22} {:<12} {}\n",
        "UID",
        "STAKE",
        "INCENTIVE",
        "DIVIDENDS",
        "EMISSION",
        "UPDATED",
        "PERMIT",
        "AXON",
        "HOTKEY",
        "COLDKEY"
    );
    for neuron in &graph.neurons {
        let ago = graph.block.get().saturating_sub(neuron.last_update.get());
        let axon = neuron.axon.map_or_else(
            || "-".to_owned(),
            |axon| std::net::SocketAddr::new(axon.ip, axon.port).to_string(),
        );
        line(
            &mut text,
            format_args!(
                "{:>4} {:>20} {:>9} {:>9} {:>16} {:>8} {:<6} {axon:<22} {:<12} {}",
                neuron.uid.get(),
                coins(neuron.stake),
                share(neuron.incentive),
                share(neuron.dividends),
                coins(neuron.emission),
                ago,
                if neuron.validator_permit { "yes" } else { "no" },
                short(&neuron.hotkey.to_string()),
                short(&neuron.coldkey.to_string()),
            ),
        );
    }
    line(&mut text, format_args!("block {}, {} neurons", graph.block, graph.neurons.len()));
    text
}

async fn hyperparameters(args: &ReadArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let (netuid, tasks) = (Netuid(args.subtensor.netuid), Tasks::new());
    let chain = args.subtensor.connect(&SystemClock::shared(), &tasks).await?;
    let json = rules_json(&chain, netuid).await?;
    print(out, args.json.then_some(&json), || {
        let mut text = String::new();
        for (name, value) in json.as_object().into_iter().flatten() {
            line(&mut text, format_args!("{name:<28} {value}"));
        }
        text
    })
}

async fn rules_json(chain: &Chain, netuid: Netuid) -> anyhow::Result<Value> {
    let rules = chain.hyperparameters(netuid).await.map_err(unread)?;
    let price = chain.burn(netuid).await.map_err(unread)?;
    let next_epoch = chain.next_epoch_start(netuid).await.map_err(unread)?;
    Ok(json!({
        "netuid": netuid,
        "registration_price_rao": price,
        "registration_price_min_rao": rules.min_burn,
        "registration_price_max_rao": rules.max_burn,
        "registration_allowed": rules.registration_allowed,
        "pow_registration_allowed": rules.pow_registration_allowed,
        "tempo": rules.tempo,
        "next_epoch_block": next_epoch,
        "weights_rate_limit": rules.weights_rate_limit,
        "weights_version_key": rules.weights_version_key,
        "min_allowed_weights": rules.min_allowed_weights,
        "max_weight_limit": rules.max_weight_limit,
        "commit_reveal": rules.commit_reveal,
        "commit_reveal_version": rules.commit_reveal_version,
        "reveal_period_epochs": rules.reveal_period_epochs,
        "immunity_period": rules.immunity_period,
        "activity_cutoff": rules.activity_cutoff,
        "serving_rate_limit": rules.serving_rate_limit,
        "max_neurons": rules.max_neurons,
        "max_validators": rules.max_validators,
        "kappa": rules.kappa,
        "bonds_moving_average": rules.bonds_moving_average,
        "stake_threshold_rao": rules.stake_threshold,
        "mechanisms": rules.mechanisms,
    }))
}

/// A share of 65535 in percent with one digit.
fn share(part: u16) -> String {
    let tenths = (u32::from(part) * 1000 + 32_767) / 65_535;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn short(address: &str) -> String {
    let shown: String = address.chars().take(ADDRESS_CHARS).collect();
    format!("{shown}…")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok(), "writing into a string cannot fail");
}
