//! The one binary of the project, and its only composition root: here settings become daemons and commands.

mod args;
mod axon_args;
mod catalogue_args;
mod chain_failures;
mod coins;
mod commands;
mod daemons;
mod devnet;
mod embedded;
mod exit;
mod image_args;
mod market_args;
mod net_args;
mod openssh;
mod original_flags;
mod ssh_args;
mod text;
mod transaction;
mod wish_args;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    catalogue, chain, cheat, devnet_control, doctor, miner, offers, prove, ps, release, rent, ssh,
    stake, subnet, validator, verify, wallet,
};

/// A GPU compute market on Bittensor: provide, validate, rent.
#[derive(Debug, Parser)]
#[command(name = "nicompute", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keys and wallets, in Bittensor's own layout.
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Subnets: their neurons, their rules, and a slot for a hotkey.
    #[command(subcommand)]
    Subnet(subnet::SubnetCommand),
    /// What stands behind a validator.
    #[command(subcommand)]
    Stake(stake::StakeCommand),
    /// Take a slot on the subnet for a hotkey; the same as `subnet register`.
    Register(subnet::RegisterArgs),
    /// Provide this machine.
    Miner(Box<miner::MinerArgs>),
    /// Verify providers, score them, set weights, and serve the market's API.
    Validator(Box<validator::ValidatorArgs>),
    /// A whole market on this machine.
    #[command(subcommand)]
    Devnet(DevnetCommand),
    /// List what can be rented.
    Offers(offers::OffersArgs),
    /// Rent a machine.
    Rent(Box<rent::RentArgs>),
    /// Enter a rented machine.
    Ssh(ssh::SshArgs),
    /// List your leases.
    Ps(ps::PsArgs),
    /// Give a lease back.
    Release(release::ReleaseArgs),
    /// The classes of hardware that are paid for.
    #[command(subcommand)]
    Catalogue(catalogue::CatalogueCommand),
    /// Can this machine be provided, what stands in the way, and what to do about it?
    Doctor(Box<doctor::DoctorArgs>),
    /// What would a validator measure on this machine?
    Prove(Box<prove::ProveArgs>),
    /// Let a cheater loose on a verifier and see how it is caught.
    Cheat(cheat::CheatArgs),
    /// Check a proof's transcript again, offline.
    Verify(verify::VerifyArgs),
    /// The first process of a sandbox; started by the provider's node.
    #[command(name = "__sandbox", hide = true)]
    Sandbox,
    /// Write the embedded programs into a folder, for tests of other rooms.
    #[command(name = "__materialize", hide = true)]
    Materialize {
        /// The folder.
        folder: std::path::PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum DevnetCommand {
    /// Boot the whole market, rent once, and stay up.
    Up(devnet::UpArgs),
    /// The local chain alone.
    Chain(chain::ChainArgs),
    /// Make a fault on a running devnet: stall, fork, restart, upgrade.
    #[command(subcommand)]
    Chaos(devnet_control::ChaosCommand),
    /// Show everything that a running devnet has.
    Dump(devnet_control::DumpArgs),
}

fn main() -> ExitCode {
    if let Err(error) = original_flags::check(std::env::args_os()) {
        return exit::report(&error);
    }
    let command = Cli::parse().command;
    if matches!(command, Command::Sandbox) {
        return nicompute_host::runtime::sandbox::sandbox_main();
    }
    match run(command) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Wallet(command) => wallet::run(command, &mut out)?,
        Command::Subnet(command) => subnet::run(command, &mut out)?,
        Command::Stake(command) => stake::run(command, &mut out)?,
        Command::Register(args) => subnet::register(&args, &mut out)?,
        Command::Miner(args) => miner::run(*args)?,
        Command::Validator(args) => validator::run(*args)?,
        Command::Devnet(DevnetCommand::Up(args)) => {
            drop(out);
            devnet::run(&args)?;
        }
        Command::Devnet(DevnetCommand::Chain(args)) => chain::run(&args)?,
        Command::Devnet(DevnetCommand::Chaos(fault)) => devnet_control::chaos(&fault, &mut out)?,
        Command::Devnet(DevnetCommand::Dump(args)) => devnet_control::dump(&args, &mut out)?,
        Command::Offers(args) => offers::run(&args, &mut out)?,
        Command::Rent(args) => rent::run(&args, &mut out)?,
        Command::Ssh(args) => return ssh::run(&args),
        Command::Ps(args) => ps::run(&args, &mut out)?,
        Command::Release(args) => release::run(&args, &mut out)?,
        Command::Catalogue(command) => catalogue::run(&command, &mut out)?,
        Command::Doctor(args) => return doctor::run(&args, &mut out),
        Command::Prove(args) => prove::run(&args, &mut out)?,
        Command::Cheat(args) => cheat::run(&args, &mut out)?,
        Command::Verify(args) => verify::run(&args, &mut out)?,
        Command::Sandbox => {}
        Command::Materialize { folder } => drop(embedded::materialize(&folder)?),
    }
    Ok(ExitCode::SUCCESS)
}
