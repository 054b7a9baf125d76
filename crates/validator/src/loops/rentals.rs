//! Follows the leases that were brokered: asks for those that no provider has taken yet, gives back those that their
//! renters gave back, and writes down what the providers say of the rest.
//!
//! A lease has one asker at a time, which reads the row after it became the asker and before each request: once a release
//! is written nobody asks any more. A release whose lease the provider does not know is repeated while a request may still
//! arrive, and what is given up unaccepted is owed to be given back, so that no lease runs that these books believe to be
//! over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nicompute_client::{HeldLease, NodeClient, NodeError, ReachedPort};
use nicompute_daemon::{ErrorChain, Kind};
use nicompute_market::{
    EndReason, FailReason, LeaseId, LeaseState, RENTAL_WAIT_MILLIS_MAX, UnixMillis,
};
use nicompute_wire::codes::Code;
use nicompute_wire::node::{ExtendRequest, KeysRequest};

use crate::asking::Asker;
use crate::context::Context;
use crate::loops::{LoopError, Outcome, owed};
use crate::store::{Rental, RentalUpdate, StoreError};

/// Rentals that are asked after at the same time.
const CONCURRENT_MAX: usize = 16;
/// What a provider has for each question.
const ASK_BUDGET: Duration = Duration::from_secs(5);
/// How long after its end a lease of a provider that does not answer is believed to be over.
const EXPIRY_GRACE_MS: u64 = 60_000;
/// How long a request that no provider has taken is repeated.
const REQUEST_TTL_MS: u64 = 60_000;
const MILLIS: u64 = 1000;

/// One round.
pub(crate) async fn run(ctx: &Arc<Context>) -> Outcome {
    let open = ctx.store.open_rentals().await?;
    let count = open.len();
    let results: Vec<Result<(), LoopError>> = futures_util::stream::iter(open)
        .map(|rental| async move { follow(ctx, &rental).await })
        .buffer_unordered(CONCURRENT_MAX)
        .collect()
        .await;
    results.into_iter().collect::<Result<(), LoopError>>()?;
    owed::run(ctx).await?;
    Ok(format!("{count} open rentals"))
}

/// Brings one rental as far as it can be brought now.
pub(crate) async fn follow(ctx: &Context, rental: &Rental) -> Result<(), LoopError> {
    let node = ctx.dialer.node(address(ctx, rental), rental.provider);
    let is_late = ctx.now() > rental.requested_at.saturating_add_millis(REQUEST_TTL_MS);
    let is_given_up = !rental.is_accepted && !rental.is_release_asked && is_late;
    if is_given_up {
        // The provider may have taken a request whose answer was lost: it is told to let go.
        ctx.store.ask_release(rental.lease).await?;
    }
    let answer = if rental.is_release_asked || is_given_up {
        let may_arrive = ctx.asking.may_arrive(rental.lease, ctx.clock.monotonic());
        let answer = node.release(rental.lease, ASK_BUDGET).await;
        let is_unknown =
            answer.as_ref().is_err_and(|error| error.code() == Some(Code::NoSuchLease));
        if may_arrive && is_unknown {
            return Ok(());
        }
        answer
    } else if rental.is_accepted {
        node.lease(rental.lease, ASK_BUDGET).await
    } else {
        return request(ctx, rental.lease, &node).await;
    };
    settle(ctx, rental, &node, answer).await.map(drop)
}

/// Asks for a lease once, unless somebody else does, or nobody wants it any more.
async fn request(ctx: &Context, lease: LeaseId, node: &NodeClient) -> Result<(), LoopError> {
    let Some(asker) = ctx.asking.begin(lease, ctx.clock.monotonic()) else { return Ok(()) };
    let stored = ctx.store.rental(lease).await?.filter(Rental::is_wanted);
    let Some(rental) = stored else { return Ok(()) };
    let answer = ask(ctx, &asker, node, &rental).await;
    settle_request(ctx, &rental, node, answer).await
}

/// What a renter may do with a lease that its provider has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RentalAct {
    /// Moves its end, never back.
    Extend(ExtendRequest),
    /// Freezes it.
    Pause,
    /// Lets it go on.
    Resume,
    /// Ends its processes and starts it anew on its disk.
    Restart,
    /// Replaces the keys of one slot.
    Keys(KeysRequest),
}

/// Has its provider do something to a lease, and writes down what came of it.
pub(crate) async fn act(ctx: &Context, rental: &Rental, act: &RentalAct) -> Result<(), ActError> {
    let node = ctx.dialer.node(address(ctx, rental), rental.provider);
    let (id, asked_at) = (rental.lease, ctx.now());
    let held = match act {
        RentalAct::Extend(request) => node.extend(id, request, ASK_BUDGET).await?,
        RentalAct::Pause => node.pause(id, ASK_BUDGET).await?,
        RentalAct::Resume => node.resume(id, ASK_BUDGET).await?,
        RentalAct::Restart => node.restart(id, ASK_BUDGET).await?,
        RentalAct::Keys(request) => node.keys(id, request, ASK_BUDGET).await?,
    };
    let mut update = taken(ctx, rental, &node, &held).await;
    if let RentalAct::Extend(request) = act {
        let more_ms = request.duration_seconds.saturating_mul(MILLIS);
        update.expires_at = update.expires_at.max(asked_at.saturating_add_millis(more_ms));
    }
    ctx.store.update_rental(id, &update).await?;
    Ok(())
}

/// Why something was not done to a lease, or not written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    #[error("the provider did not do it")]
    Node(#[from] NodeError),
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// One request for a lease.
pub(crate) async fn ask(
    ctx: &Context,
    asker: &Asker<'_>,
    node: &NodeClient,
    rental: &Rental,
) -> Result<HeldLease, NodeError> {
    asker.sends(ctx.clock.monotonic());
    let answer = node.create_lease(&rental.request, ASK_BUDGET).await;
    if matches!(answer, Ok(_) | Err(NodeError::Refused(_))) {
        asker.is_answered();
    }
    answer
}

/// Writes down the answer to a request. A lease that was given although these books call it over goes back.
pub(crate) async fn settle_request(
    ctx: &Context,
    rental: &Rental,
    node: &NodeClient,
    answer: Result<HeldLease, NodeError>,
) -> Result<(), LoopError> {
    let given = answer.as_ref().ok().map(|held| held.state).filter(|state| !state.is_final());
    let is_written = settle(ctx, rental, node, answer).await?;
    if let Some(state) = given.filter(|_| !is_written) {
        let lease = rental.lease;
        tracing::warn!(%lease, "a lease was given that was believed to be over; it goes back");
        ctx.store.reopen_rental(lease, state).await?;
        ctx.nudges.rentals.notify_one();
    }
    Ok(())
}

/// Writes down what an answer means for a rental. Gives false when it was over already.
async fn settle(
    ctx: &Context,
    rental: &Rental,
    node: &NodeClient,
    answer: Result<HeldLease, NodeError>,
) -> Result<bool, LoopError> {
    let update = match answer {
        Ok(held) => taken(ctx, rental, node, &held).await,
        Err(error) => match verdict(ctx, rental, &error) {
            Some(state) => {
                let expires_at = rental.expires_at;
                let (is_accepted, ports) = (false, Vec::new());
                let update =
                    RentalUpdate { state, expires_at, is_accepted, ssh: None, ports, detail: None };
                if rental.is_accepted {
                    update
                } else {
                    // It may have been taken in an answer that was lost.
                    let owed = owed::of(rental, ctx.now());
                    return Ok(ctx.store.give_up_rental(&update, &owed).await?);
                }
            }
            None => {
                let lease = rental.lease;
                tracing::debug!(%lease, error = %ErrorChain(&error), "a rental cannot be asked after");
                ctx.store.lose_sight_of_rental(lease).await?;
                return Ok(true);
            }
        },
    };
    Ok(ctx.store.update_rental(rental.lease, &update).await?)
}

/// What the provider says of a lease that it has. How to enter is shown only if the provider's hotkey vouches for it.
async fn taken(
    ctx: &Context,
    rental: &Rental,
    node: &NodeClient,
    held: &HeldLease,
) -> RentalUpdate {
    let can_enter = matches!(held.state, LeaseState::Running | LeaseState::Paused);
    let ssh = match &rental.ssh {
        Some(known) if can_enter && rental.address == address(ctx, rental) => Some(known.clone()),
        _ if can_enter => access(node, held).await,
        _ => None,
    };
    RentalUpdate {
        state: held.state,
        expires_at: rental.expires_at.max(held.expires_at.min(latest_end(rental))),
        is_accepted: true,
        ssh,
        ports: held.ports.iter().filter(|_| can_enter).map(ReachedPort::view).collect(),
        detail: held.detail.clone(),
    }
}

/// The latest end that a rental has without being extended: where it waited its time begins later, whatever its provider
/// says.
fn latest_end(rental: &Rental) -> UnixMillis {
    let asked = rental.request.duration_seconds.saturating_mul(1000);
    rental.requested_at.saturating_add_millis(asked.saturating_add(RENTAL_WAIT_MILLIS_MAX))
}

async fn access(
    node: &NodeClient,
    held: &HeldLease,
) -> Option<nicompute_wire::node::SshAccessView> {
    let found = match node.node(ASK_BUDGET).await {
        Ok(who) => who.access(held),
        Err(error) => Err(error),
    };
    match found {
        Ok(access) => access.map(|access| access.view()),
        Err(error) => {
            let lease = held.id;
            tracing::warn!(%lease, error = %ErrorChain(&error), "a lease cannot be entered safely");
            None
        }
    }
}

/// The state that an error proves, if it proves one.
fn verdict(ctx: &Context, rental: &Rental, error: &NodeError) -> Option<LeaseState> {
    let now = ctx.now();
    let is_expired = now > rental.expires_at.saturating_add_millis(EXPIRY_GRACE_MS);
    match error.code() {
        // The provider has never heard of it, or has forgotten it after its end.
        Some(Code::NoSuchLease) if !rental.is_accepted => {
            Some(LeaseState::Failed(FailReason::Cancelled))
        }
        Some(Code::NoSuchLease) if rental.is_release_asked => {
            Some(LeaseState::Ended(EndReason::Released))
        }
        Some(Code::NoSuchLease) => Some(LeaseState::Ended(EndReason::Lost)),
        _ if is_expired => Some(LeaseState::Ended(EndReason::Expired)),
        Some(Code::Occupied | Code::NoCapacity) if !rental.is_accepted => {
            Some(LeaseState::Failed(FailReason::Occupied))
        }
        Some(Code::NoSuchImage) if !rental.is_accepted => {
            Some(LeaseState::Failed(FailReason::Image))
        }
        _ if rental.is_accepted => None,
        _ if matches!(error, NodeError::Refused(_)) && error.kind() == Kind::Caller => {
            Some(LeaseState::Failed(FailReason::Cancelled))
        }
        _ => None,
    }
}

/// Where the provider is now, or was when the lease was taken.
fn address(ctx: &Context, rental: &Rental) -> SocketAddr {
    let known = ctx.view().and_then(|view| view.peer(&rental.provider)?.address);
    known.unwrap_or(rental.address)
}
