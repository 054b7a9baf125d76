//! Follows the chain's head for as long as somebody holds the client, and goes back to a preferred node when one is back.

use std::sync::Weak;
use std::time::Duration;

use nicompute_daemon::{BoxError, CancellationToken, ErrorChain, SharedClock};
use nicompute_market::BlockNumber;
use subxt::config::substrate::BlakeTwo256;
use subxt::config::{Hasher as _, Header as _};
use subxt::ext::codec::Encode as _;

use crate::chain::Shared;
use crate::error::ReadError;
use crate::link::{RECONNECT, Rpc};
use crate::reads::Head;

/// A chain with a block every 12 seconds that shows none for this long is not followed but lost.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// Keeps the head up to date until the process stops or the last clone of the client is gone.
pub(crate) async fn follow(shared: Weak<Shared>, stop: CancellationToken) -> Result<(), BoxError> {
    let mut attempt = 1;
    while let Some(strong) = shared.upgrade() {
        let before = *strong.heads().borrow();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            outcome = one_subscription(&strong, &shared) => outcome,
        };
        if let Err(error) = outcome {
            tracing::debug!(error = %ErrorChain(&error), "the chain's head is not followed");
        }
        let moved = *strong.heads().borrow() != before;
        attempt = if moved { 1 } else { attempt + 1 };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = strong.link.clock().sleep(RECONNECT.delay(attempt)) => {}
        }
    }
    Ok(())
}

/// Looks for a node that is preferred to the one in use, for as long as somebody holds the client.
pub(crate) async fn come_home(
    shared: Weak<Shared>,
    (clock, every): (SharedClock, Duration),
    stop: CancellationToken,
) -> Result<(), BoxError> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = clock.sleep(every) => {}
        }
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = strong.link.come_home() => {}
        }
    }
}

/// Follows one subscription to its end, or until another connection is in use.
async fn one_subscription(strong: &Shared, weak: &Weak<Shared>) -> Result<(), ReadError> {
    let limit = strong.limits.read;
    let mut opened = strong.link.opened();
    let subscribe = |rpc: Rpc| async move { rpc.chain_subscribe_new_heads().await };
    let mut heads = strong.link.ask_once(limit, "chain_subscribeNewHeads", subscribe).await?;
    loop {
        let next = tokio::select! {
            biased;
            _ = opened.changed() => return Ok(()),
            next = heads.next() => next,
            () = strong.link.clock().sleep(SILENCE_MAX) => None,
        };
        let Some(Ok(header)) = next else {
            strong.link.reset();
            return Ok(());
        };
        let hash = BlakeTwo256.hash(&header.encode()).0;
        strong.heads().send_replace(Head { number: BlockNumber(header.number()), hash });
        // This future holds one strong reference itself.
        if weak.strong_count() <= 1 {
            return Ok(());
        }
    }
}
