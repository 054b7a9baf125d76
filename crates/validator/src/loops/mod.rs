//! The validator's loops. Each compares what should be with what is, takes no input, may be repeated at any time, and is
//! woken by its timer or a nudge. Each leaves a status that an operator can see.

pub(crate) mod discover;
pub(crate) mod follow;
mod owed;
pub(crate) mod prove;
pub(crate) mod prove_plan;
pub(crate) mod rentals;
pub(crate) mod session;
pub(crate) mod submission;
pub(crate) mod weights;

use std::sync::Arc;
use std::time::Duration;

use nicompute_chain::timelock::{RoundError, SealError};
use nicompute_chain::{ReadError, SubmitError};
use nicompute_daemon::{ErrorChain, OnError};
use nicompute_market::{UnixMillis, WeightsError};
use tokio::sync::Notify;

use crate::context::Context;
use crate::store::StoreError;

/// How a loop's last run went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoopStatus {
    /// Runs since the start.
    pub runs: u64,
    /// When the last one ended; zero before the first.
    pub at: UnixMillis,
    /// How long it took.
    pub took_ms: u64,
    /// What it did, or why it failed.
    pub outcome: String,
    /// Whether it failed.
    pub is_failing: bool,
}

/// Why a run failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoopError {
    #[error("the chain could not be read")]
    Chain(#[from] ReadError),
    #[error("the weights could not be set")]
    Submit(#[from] SubmitError),
    #[error("the weights do not follow from the scores")]
    Weights(#[from] WeightsError),
    #[error("the weights could not be sealed")]
    Seal(#[from] SealError),
    #[error("no round of the beacon opens the weights in time")]
    Round(#[from] RoundError),
    #[error("the subnet asks for sealed weights, and the chain follows no beacon")]
    NoBeacon,
    #[error("the machine gave no random bytes")]
    Random,
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// What one run of a loop came to, in words.
pub(crate) type Outcome = Result<String, LoopError>;

/// Starts every loop.
pub(crate) fn start(ctx: &Arc<Context>) {
    let intervals = ctx.config.intervals;
    if ctx.chain.is_some() {
        let lease = Arc::clone(ctx);
        ctx.tasks.spawn("validator follow", OnError::Stop, async move {
            run(&lease, "follow", intervals.chain, None, |ctx| Box::pin(follow::run(ctx))).await;
            Ok(())
        });
    }
    let lease = Arc::clone(ctx);
    ctx.tasks.spawn("validator discover", OnError::Stop, async move {
        let nudge = Some(&lease.nudges.discover);
        run(&lease, "discover", intervals.discover, nudge, |ctx| Box::pin(discover::run(ctx)))
            .await;
        Ok(())
    });
    let lease = Arc::clone(ctx);
    ctx.tasks.spawn("validator prove", OnError::Stop, async move {
        let nudge = Some(&lease.nudges.prove);
        run(&lease, "prove", intervals.tick, nudge, |ctx| Box::pin(prove::run(ctx))).await;
        Ok(())
    });
    let lease = Arc::clone(ctx);
    ctx.tasks.spawn("validator weights", OnError::Stop, async move {
        let nudge = Some(&lease.nudges.weights);
        run(&lease, "weights", intervals.tick, nudge, |ctx| Box::pin(weights::run(ctx))).await;
        Ok(())
    });
    let lease = Arc::clone(ctx);
    ctx.tasks.spawn("validator rentals", OnError::Stop, async move {
        let nudge = Some(&lease.nudges.rentals);
        run(&lease, "rentals", intervals.tick, nudge, |ctx| Box::pin(rentals::run(ctx))).await;
        Ok(())
    });
}

type Run<'a> = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Repeats a run until the process is asked to stop. A failure is logged when it begins, not at every repetition.
async fn run(
    ctx: &Arc<Context>,
    name: &'static str,
    interval: Duration,
    nudge: Option<&Notify>,
    once: impl for<'a> Fn(&'a Arc<Context>) -> Run<'a>,
) {
    let stop = ctx.tasks.token().clone();
    let mut status = LoopStatus::default();
    loop {
        let began = ctx.clock.monotonic();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            outcome = once(ctx) => outcome,
        };
        let took = ctx.clock.monotonic().saturating_sub(began);
        let (text, is_failing) = match outcome {
            Ok(text) => (text, false),
            Err(error) => (ErrorChain(&error).to_string(), true),
        };
        if is_failing && (!status.is_failing || status.outcome != text) {
            tracing::warn!(task = name, error = text, "a round failed; the next one tries again");
        }
        status = LoopStatus {
            runs: status.runs.saturating_add(1),
            at: ctx.now(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            outcome: text,
            is_failing,
        };
        ctx.set_status(name, status.clone());
        let nudged = async {
            match nudge {
                Some(nudge) => nudge.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = ctx.clock.sleep(interval) => {}
            () = nudged => {}
        }
    }
}
