//! `nicompute ssh`: enters a lease with your own OpenSSH client.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use nicompute_client::SshAccess;

use crate::daemons::create_private;
use crate::exit::{Exit, Failure};
use crate::market_args::{MarketArgs, block_on, find, key_of};
use crate::openssh;

/// Options of `nicompute ssh`.
#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// The lease: its id, or the beginning of it.
    lease: String,
    /// The secret SSH key, when `nicompute rent` was called on another machine.
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// Print a block for ~/.ssh/config instead, with the host key pinned: for VS Code, rsync, Ansible and plain ssh.
    #[arg(long, conflicts_with = "command")]
    config: bool,
    /// A command to run there instead of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Becomes `ssh`; returns only when that fails, or when the configuration is asked for.
pub(crate) fn run(args: &SshArgs) -> anyhow::Result<ExitCode> {
    let api = args.market.client()?;
    let lease = block_on(find(&api, &args.lease))??;
    let closed = || {
        let what = format!("lease {} is {} and cannot be entered", lease.id, lease.state);
        Failure::new(Exit::Refused, what).hint("nicompute ps shows your leases")
    };
    let access = SshAccess::check(lease.ssh.as_ref().ok_or_else(closed)?)?;
    let folder = args.market.lease_folder(lease.id)?;
    create_private(&folder)?;
    let key = match &args.ssh_key {
        Some(file) => std::path::absolute(file)?,
        None => key_of(&folder)?,
    };
    let words = openssh::arguments(&folder, &key, &access)?;
    if args.config {
        let name = format!("nicompute-{}", lease.id.short());
        let block = openssh::config_block(&folder, &key, &access, &name)?;
        std::io::stdout().write_all(block.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    #[expect(clippy::disallowed_methods, reason = "the command's purpose is to become ssh")]
    let mut ssh = Command::new("ssh");
    let error = ssh.args(words).args(&args.command).exec();
    let hint = "install the OpenSSH client: apt-get install openssh-client";
    Err(Failure::new(Exit::Config, "cannot start ssh").because(error).hint(hint).into())
}
