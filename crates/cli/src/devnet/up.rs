//! `nicompute devnet up`: boots the market, walks through it once, and stays up or ends.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nicompute_daemon::SystemClock;
use tokio::signal::unix::{SignalKind, signal};

use super::children::Child;
use super::dir::MarketDir;
use super::steps::Steps;
use super::walk::{self, Plan};
use crate::args::parse_span;
use crate::exit::{Exit, Failure};

/// Options of `nicompute devnet up`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(crate) struct UpArgs {
    /// The folder for everything; a new one under the temporary folder, removed at the end, when none is given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End after the steps: exit code 0 when all of them worked.
    #[arg(long)]
    check: bool,
    /// How tenants are run: a Docker engine, or the embedded sandbox that needs none.
    #[arg(long, default_value = "auto", value_parser = ["auto", "docker", "sandbox"])]
    runtime: String,
    /// How many providers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    miners: u8,
    /// How many validators.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    validators: u8,
    /// Time between two blocks, such as 250ms or 12s.
    #[arg(long, default_value = "1s", value_parser = parse_span, value_name = "SPAN")]
    block_time: Duration,
    /// A subnet beside the market's own, with the same owner and validators; may be repeated.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4_095), value_name = "NETUID")]
    netuid: Vec<u16>,
    /// How the chain's metadata writes single-field types.
    #[arg(long, default_value = "flat", value_parser = ["flat", "modern"])]
    profile: String,
    /// How many blocks the finalised head trails the best one, so that `devnet chaos fork` can undo them.
    #[arg(long, default_value_t = 0, value_name = "BLOCKS")]
    finality_lag: u32,
    /// Weights are committed first, sealed for a round of the chain's own beacon, and revealed an epoch later.
    #[arg(long)]
    commit_reveal: bool,
    /// Prove an eighth of the machine's memory, at most 1 GiB, not only 64 MiB.
    #[arg(long)]
    full_proof: bool,
}

/// Boots the market and ends it again.
pub(crate) fn run(args: &UpArgs) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(Box::pin(up(args)))
}

async fn up(args: &UpArgs) -> anyhow::Result<()> {
    let dir = MarketDir::take(args.dir.as_deref())?;
    let plan = Plan {
        dir: dir.path().to_path_buf(),
        miners: args.miners,
        validators: args.validators,
        runtime: args.runtime.clone(),
        proof: if args.full_proof { "full" } else { "small" },
        block_time: args.block_time,
        profile: args.profile.clone(),
        finality_lag: args.finality_lag,
        commit_reveal: args.commit_reveal,
        netuids: args.netuid.clone(),
    };
    let mut steps = Steps::new(SystemClock::shared());
    let mut children = Vec::new();
    steps.print(&format!("local market in {}", dir.path().display()));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let walked = tokio::select! {
        walked = walk::run(&plan, &mut steps, &mut children) => walked.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    steps.finish();
    let outcome = match walked {
        Ok(Some(ready)) if !args.check => {
            for line in ready.lines() {
                steps.print(&line);
            }
            tokio::select! {
                outcome = first_death(&mut children) => outcome,
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
            }
        }
        Ok(_) => Ok(()),
        Err(error) => {
            steps.failed();
            Err(error)
        }
    };
    let stopped = stop(&mut children, &plan).await;
    if outcome.is_ok() && stopped.is_ok() {
        steps.print(&format!(
            "ok  {:<14} {:>7.2} s  nothing is left behind",
            "all",
            steps.total().as_secs_f64()
        ));
        return dir.leave();
    }
    steps.print(&format!("logs are in {}", dir.path().join("logs").display()));
    outcome.and(stopped)
}

/// Ends the daemons in the order opposite to their start, all of them even when one fails.
async fn stop(children: &mut Vec<Child>, plan: &Plan) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(mut child) = children.pop() {
        if let Err(error) = child.stop().await {
            outcome = outcome.and(Err(error));
        }
    }
    let left = super::sweep::remains_of_market(&plan.dir);
    if left.is_empty() {
        return outcome;
    }
    outcome.and(Err(Failure::new(Exit::Failed, format!("left behind: {}", left.join(", "))).into()))
}

/// Waits until a daemon ends by itself, which none should.
async fn first_death(children: &mut [Child]) -> anyhow::Result<()> {
    loop {
        for child in children.iter_mut() {
            if !child.is_running() {
                let what = format!("{} ended by itself", child.name());
                return Err(Failure::new(Exit::Failed, what).hint(child.log_tail()).into());
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
