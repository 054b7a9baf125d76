//! Leases that were brokered: followed until they are over, and given back when their renter said so.

use std::time::Duration;

use nicompute_client::{HeldLease, NodeClient, NodeError};
use nicompute_daemon::ErrorChain;
use nicompute_market::LeaseState;
use nicompute_wire::codes::Code;

use crate::state::Shared;
use crate::store::{Rental, StoreError};

/// How long a provider may take to answer a question.
const ASK_MAX: Duration = Duration::from_secs(5);

/// Looks at every rental that is not over.
pub(crate) async fn round(shared: &Shared) {
    let open = match shared.store.open_rentals().await {
        Ok(open) => open,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "the rentals were not read");
            return;
        }
    };
    for rental in open {
        if let Err(error) = refresh(shared, rental).await {
            tracing::error!(error = %ErrorChain(&error), "a rental was not noted");
        }
    }
}

/// Asks the provider how a rental stands and notes it; gives it back where the renter wants that. A provider that does not
/// answer leaves the note as it was: the absence of an answer is no answer.
pub(crate) async fn refresh(shared: &Shared, rental: Rental) -> Result<Rental, StoreError> {
    if rental.is_final() {
        return Ok(rental);
    }
    let id = rental.request.id;
    let node = shared.node(rental.address, rental.request.provider);
    let answer = if rental.release_asked {
        node.release(id, ASK_MAX).await
    } else {
        node.lease(id, ASK_MAX).await
    };
    let after = match answer {
        Ok(held) => noted(&node, rental, &held).await,
        Err(error) if is_unknown(&error) => gone(rental, shared),
        Err(error) => {
            tracing::debug!(lease = %id, error = %ErrorChain(&error), "a rental was not seen");
            return Ok(rental);
        }
    };
    shared.store.update_rental(&after).await?;
    Ok(after)
}

fn is_unknown(error: &NodeError) -> bool {
    error.code() == Some(Code::NoSuchLease)
}

/// The provider does not know the lease. Right after it was asked for that may only mean that the request is still on its way.
fn gone(rental: Rental, shared: &Shared) -> Rental {
    const ON_ITS_WAY_MS: u64 = 30_000;
    let age_ms = shared.now().millis_since(rental.requested);
    if rental.state == "requested" && age_ms < ON_ITS_WAY_MS && !rental.release_asked {
        return rental;
    }
    let (state, reason) =
        if rental.state == "requested" { ("failed", "never-started") } else { ("ended", "lost") };
    Rental { state: state.to_owned(), reason: Some(reason.to_owned()), ssh: None, ..rental }
}

async fn noted(node: &NodeClient, rental: Rental, held: &HeldLease) -> Rental {
    let can_enter = matches!(held.state, LeaseState::Running | LeaseState::Paused);
    let ssh = match (&rental.ssh, can_enter) {
        (_, false) => None,
        (Some(known), true) => Some(known.clone()),
        (None, true) => door(node, held).await,
    };
    Rental {
        state: held.state.name().to_owned(),
        reason: held.state.reason().map(str::to_owned),
        expires: held.expires_at,
        ssh,
        ..rental
    }
}

/// How the renter enters, with the host key that the provider's hotkey vouches for.
async fn door(node: &NodeClient, held: &HeldLease) -> Option<nicompute_wire::node::SshAccessView> {
    let access = match node.node(ASK_MAX).await {
        Ok(identity) => identity.access(held),
        Err(error) => Err(error),
    };
    match access {
        Ok(access) => access.map(|access| access.view()),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "a rental's door is not known yet");
            None
        }
    }
}
