//! Starts sessions for the providers whose turn it is, and gives back the leases that nobody uses any more: those of
//! sessions that ended badly, and those of a process that was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nicompute_client::NodeError;
use nicompute_daemon::{ErrorChain, OnError};
use nicompute_market::{LeaseId, LeaseState};
use nicompute_wire::codes::Code;
use tokio::sync::OwnedSemaphorePermit;

use crate::context::Context;
use crate::loops::prove_plan::{Due, Rhythm, due};
use crate::loops::{LoopError, Outcome, session};
use crate::store::ProofLease;

/// What a provider has to take back a lease.
const RELEASE_BUDGET: Duration = Duration::from_secs(5);
/// How long after its end a lease of a provider that does not answer is believed to be over.
const EXPIRY_GRACE_MS: u64 = 60_000;

/// One round.
pub(crate) async fn run(ctx: &Arc<Context>) -> Outcome {
    let left = sweep(ctx).await?;
    let Some(view) = ctx.view() else { return Ok("waiting for the chain".to_owned()) };
    if view.own.is_none_or(|own| !own.has_permit) {
        return Ok("waiting for a validator permit".to_owned());
    }
    let latest: BTreeMap<_, _> =
        ctx.store.latest_evidence().await?.into_iter().map(|e| (e.provider, e)).collect();
    let head = ctx.head();
    let fresh_since = ctx.config.devnet.then_some(ctx.started_at);
    let rhythm = Rhythm { intervals: ctx.config.intervals, fresh_since };
    let turns = due(&view.peers, head, &latest, &ctx.board.lock(), rhythm);
    let waiting = turns.len();
    let mut started = 0_usize;
    for due in turns {
        let Ok(permit) = Arc::clone(&ctx.sessions).try_acquire_owned() else { break };
        start(ctx, due, permit)?;
        started = started.saturating_add(1);
    }
    Ok(format!("{started} of {waiting} sessions started, {left} leases to give back"))
}

fn start(ctx: &Arc<Context>, due: Due, permit: OwnedSemaphorePermit) -> Result<(), LoopError> {
    let Some(session) = session::Session::new(ctx, due) else { return Ok(()) };
    ctx.tasks.spawn("proof session", OnError::Log, async move {
        let ctx = Arc::clone(session.context());
        let outcome = session.run().await;
        drop(permit);
        ctx.nudges.weights.notify_one();
        ctx.nudges.discover.notify_one();
        ctx.nudges.prove.notify_one();
        Ok(outcome?)
    });
    Ok(())
}

/// Gives back every lease without a running session; gives how many are still to be given back.
pub(crate) async fn sweep(ctx: &Context) -> Result<usize, LoopError> {
    let busy: BTreeSet<LeaseId> =
        ctx.board.lock().sessions.values().map(|running| running.lease).collect();
    let mut left = 0_usize;
    for lease in ctx.store.proof_leases().await? {
        if busy.contains(&lease.lease) || give_back(ctx, &lease).await? {
            continue;
        }
        left = left.saturating_add(1);
    }
    Ok(left)
}

/// Gives one lease back and forgets it once it is over. Gives whether it is forgotten.
pub(crate) async fn give_back(ctx: &Context, lease: &ProofLease) -> Result<bool, LoopError> {
    let known = ctx.view().and_then(|view| view.peer(&lease.provider)?.address);
    let node = ctx.dialer.node(known.unwrap_or(lease.address), lease.provider);
    let is_over = match node.release(lease.lease, RELEASE_BUDGET).await {
        Ok(held) => matches!(
            held.state,
            LeaseState::Ending(_) | LeaseState::Ended(_) | LeaseState::Failed(_)
        ),
        Err(NodeError::Refused(refusal)) => refusal.known() == Some(Code::NoSuchLease),
        Err(error) => {
            tracing::debug!(
                lease = %lease.lease, error = %ErrorChain(&error), "a proof lease is not given back yet"
            );
            false
        }
    };
    let is_expired = ctx.now() > lease.expires_at.saturating_add_millis(EXPIRY_GRACE_MS);
    if is_over || is_expired {
        ctx.store.forget_proof_lease(lease.lease).await?;
    }
    Ok(is_over || is_expired)
}
