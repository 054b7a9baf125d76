//! Gives back what was given up. A provider that refused an order may have taken it before, in an answer that was lost: it is
//! told to let go until it says that nothing of it is there, less and less often, and no longer than the lease would last.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nicompute_daemon::ErrorChain;
use nicompute_market::{LeaseState, UnixMillis};
use nicompute_wire::codes::Code;

use crate::asking::REQUEST_LIFE;
use crate::context::Context;
use crate::loops::LoopError;
use crate::store::{OwedRelease, Rental};

/// What a provider has to take back a lease.
const RELEASE_BUDGET: Duration = Duration::from_secs(5);
/// Releases in one round, and at the same time.
const ROUND_MAX: u32 = 64;
const CONCURRENT_MAX: usize = 8;
/// After the first try, and then twice as long each time up to the next.
const PAUSE_MS: u64 = 1_000;
const PAUSE_MS_MAX: u64 = 10 * 60 * 1_000;
/// How long after its end a lease that waited for its turn may still run.
const GRACE_MS: u64 = 10 * 60 * 1_000;

/// What is owed for an order that is given up now.
pub(super) fn of(rental: &Rental, now: UnixMillis) -> OwedRelease {
    OwedRelease {
        lease: rental.lease,
        provider: rental.provider,
        address: rental.address,
        since: now,
        until: rental.expires_at.max(now).saturating_add_millis(GRACE_MS),
        tries: 0,
    }
}

/// One round.
pub(super) async fn run(ctx: &Arc<Context>) -> Result<(), LoopError> {
    let due = ctx.store.owed_releases(ctx.now(), ROUND_MAX).await?;
    let results: Vec<Result<(), LoopError>> = futures_util::stream::iter(due)
        .map(|owed| async move { give_back(ctx, &owed).await })
        .buffer_unordered(CONCURRENT_MAX)
        .collect()
        .await;
    results.into_iter().collect()
}

async fn give_back(ctx: &Context, owed: &OwedRelease) -> Result<(), LoopError> {
    let known = ctx.view().and_then(|view| view.peer(&owed.provider)?.address);
    let node = ctx.dialer.node(known.unwrap_or(owed.address), owed.provider);
    let answer = node.release(owed.lease, RELEASE_BUDGET).await;
    let (lease, now) = (owed.lease, ctx.now());
    // A request that was sent before a kill may arrive after this answer.
    let arrives_until = owed.since.saturating_add_millis(millis(REQUEST_LIFE));
    let mut next_at = now.saturating_add_millis(pause_ms(owed.tries));
    let is_gone = match &answer {
        Ok(held) => matches!(
            held.state,
            LeaseState::Ending(_) | LeaseState::Ended(_) | LeaseState::Failed(_)
        ),
        Err(error) if error.code() == Some(Code::NoSuchLease) => {
            next_at = arrives_until.max(next_at);
            now >= arrives_until && !ctx.asking.may_arrive(lease, ctx.clock.monotonic())
        }
        Err(error) => {
            tracing::debug!(%lease, error = %ErrorChain(error), "an order that was given up is not given back yet");
            false
        }
    };
    if !is_gone && now <= owed.until {
        return Ok(ctx.store.put_off_release(lease, next_at).await?);
    }
    if !is_gone {
        tracing::warn!(%lease, provider = %owed.provider, "an order that was given up was never given back; it is over by now");
    }
    Ok(ctx.store.forget_owed_release(lease).await?)
}

fn pause_ms(tries: u32) -> u64 {
    PAUSE_MS.saturating_mul(1_u64.checked_shl(tries).unwrap_or(u64::MAX)).min(PAUSE_MS_MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider that is gone for days must not be called every second, nor forgotten.
    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!([0, 1, 2].map(pause_ms), [1_000, 2_000, 4_000]);
        assert_eq!([10, 63, 64, u32::MAX].map(pause_ms), [PAUSE_MS_MAX; 4]);
    }
}
