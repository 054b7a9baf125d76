//! What a holder can do with leases. Each handler stores what is wanted and answers with the lease as it is stored.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use nicompute_market::{
    EndReason, FailReason, Hotkey, Lease, LeaseEvent, LeaseId, LeaseRefusal, UnixMillis,
};
use nicompute_wire::codes::Code;
use nicompute_wire::node::{ExtendRequest, KeysRequest, LeaseRequest};
use serde::Deserialize;

use super::guard::permitted;
use super::refusal::{Refusal, json};
use super::{Api, Caller, WAIT_MILLIS_MAX, ask as asked_for};
use crate::store::{Applied, Asked};

/// How often a change is tried again because something else changed the lease in between.
const TRIES_MAX: u32 = 8;

/// The query of a lease: wait until it is newer than a generation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    wait_ms: Option<u64>,
    generation: Option<u64>,
}

pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let request: LeaseRequest = asked_for::body(&bytes)?;
    let (lease, words) = asked_for::lease(&api, Hotkey(caller.account), request, api.now()).await?;
    match api.store.ask(&lease, words).await? {
        Asked::New(lease) => Ok(json(201, &api.view(&api.reserve(lease).await?))),
        Asked::Same(lease) => Ok(json(200, &api.view(&lease))),
        Asked::OtherWords => Err(Refusal::new(
            Code::LeaseConflict,
            "this lease id was used before, in a request with other words",
        )
        .hint("draw a new id for a new lease; repeat a request word for word")),
        Asked::Occupied => Err(occupied()),
    }
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| Refusal::unreadable("the query", &error))?;
    let wait_ms = query.wait_ms.unwrap_or(0);
    if wait_ms > WAIT_MILLIS_MAX {
        return Err(Refusal::new(Code::BadRequest, "query wait_ms is more than 10000"));
    }
    let id = lease_id(&id)?;
    let mut changes = api.store.changes();
    let mut lease = api.held(id, &caller).await?;
    let seen = query.generation.unwrap_or(lease.generation);
    let over = api.clock.sleep(Duration::from_millis(wait_ms));
    tokio::pin!(over);
    while wait_ms > 0 && lease.generation <= seen && !lease.state.is_final() {
        tokio::select! {
            biased;
            () = &mut over => break,
            () = api.stop.cancelled() => break,
            // The API holds the store, so the channel is open.
            _ = changes.changed() => lease = api.held(id, &caller).await?,
        }
    }
    Ok(json(200, &api.view(&lease)))
}

pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    api.change(&id, &caller, |_, _| Ok(LeaseEvent::EndAsked(EndReason::Released))).await
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    api.change(&id, &caller, |_, _| Ok(LeaseEvent::PauseAsked)).await
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    api.change(&id, &caller, |_, _| Ok(LeaseEvent::ResumeAsked)).await
}

pub(super) async fn extend(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    // Holding a lease for longer is taking one anew: without a permit it runs to the end that it has.
    permitted(api.permits.of(&Hotkey(caller.account)).await)?;
    let request: ExtendRequest = asked_for::body(&bytes)?;
    api.change(&id, &caller, |lease, now| {
        asked_for::new_end(lease, request.duration_seconds, now).map(LeaseEvent::Extended)
    })
    .await
}

pub(super) async fn replace_keys(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let request: KeysRequest = asked_for::body(&bytes)?;
    let keys = asked_for::ssh_keys(&request.ssh_keys)?;
    let id = lease_id(&id)?;
    for _ in 0..TRIES_MAX {
        let lease = api.held(id, &caller).await?;
        api.may_change_again(&lease)?;
        if !lease.state.holds_offer()
            || matches!(lease.state, nicompute_market::LeaseState::Ending(_))
        {
            return Err(wrong_state(LeaseRefusal {
                state: lease.state,
                asked: "given other keys",
            }));
        }
        match api.store.replace_keys(&lease, keys.clone(), api.now()).await? {
            Applied::Stored(lease) => return Ok(json(200, &api.view(&lease))),
            Applied::Refused(refusal) => return Err(wrong_state(refusal)),
            Applied::Superseded | Applied::Occupied => {}
        }
    }
    Err(changing())
}

pub(super) async fn restart(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let lease = api.held(lease_id(&id)?, &caller).await?;
    Err(Refusal::new(
        Code::NotSupported,
        format!("the runtime of this node cannot restart lease {}", lease.terms.id.short()),
    )
    .hint("end the processes over SSH, or release the lease and take a new one"))
}

pub(super) fn lease_id(text: &str) -> Result<LeaseId, Refusal> {
    text.parse().map_err(|_| no_such_lease())
}

/// What is not yours does not exist.
fn no_such_lease() -> Refusal {
    Refusal::new(Code::NoSuchLease, "you hold no lease of this id here")
}

fn occupied() -> Refusal {
    Refusal::new(Code::Occupied, "another lease holds the offer, or is still being cleared away")
        .hint("GET /v1/offers says when it is available")
}

fn wrong_state(refusal: LeaseRefusal) -> Refusal {
    Refusal::new(Code::WrongState, refusal.to_string()).hint("GET the lease to see where it stands")
}

fn changing() -> Refusal {
    Refusal::new(Code::Overloaded, "the lease is changing too fast").hint("ask again in a second")
}

impl Api {
    pub(super) fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.unix_ms())
    }

    /// A lease of this caller.
    pub(super) async fn held(
        &self,
        id: LeaseId,
        caller: &nicompute_wire::btauth::Caller,
    ) -> Result<Lease, Refusal> {
        let lease = self.store.get(id).await?;
        lease.filter(|lease| lease.terms.holder.0 == caller.account).ok_or_else(no_such_lease)
    }

    /// Holds the offer for a lease that was just stored. The reconciler does the same for one that was left behind.
    async fn reserve(&self, lease: Lease) -> Result<Lease, Refusal> {
        match self.store.apply(&lease, LeaseEvent::Reserved, self.now()).await? {
            Applied::Stored(reserved) => Ok(reserved),
            Applied::Occupied => {
                let failed = LeaseEvent::PrepareFailed(FailReason::Occupied);
                drop(self.store.apply(&lease, failed, self.now()).await?);
                Err(occupied())
            }
            Applied::Refused(_) | Applied::Superseded => self.reread(lease.terms.id).await,
        }
    }

    async fn reread(&self, id: LeaseId) -> Result<Lease, Refusal> {
        let lease = self.store.get(id).await?.ok_or_else(no_such_lease)?;
        match lease.state {
            nicompute_market::LeaseState::Failed(FailReason::Occupied) => Err(occupied()),
            _ => Ok(lease),
        }
    }

    /// Every change stays in the store as long as its lease: one lease must not fill the disk.
    fn may_change_again(&self, lease: &Lease) -> Result<(), Refusal> {
        if lease.generation < self.limits.lease_changes {
            return Ok(());
        }
        Err(Refusal::new(Code::WrongState, "the lease was changed as often as a lease can be")
            .hint("let it run to its end, or release it and take a new one"))
    }

    async fn change(
        &self,
        id: &str,
        caller: &nicompute_wire::btauth::Caller,
        event: impl Fn(&Lease, UnixMillis) -> Result<LeaseEvent, Refusal>,
    ) -> Result<Response, Refusal> {
        let id = lease_id(id)?;
        for _ in 0..TRIES_MAX {
            let lease = self.held(id, caller).await?;
            let now = self.now();
            let event = event(&lease, now)?;
            if !matches!(event, LeaseEvent::EndAsked(_)) {
                self.may_change_again(&lease)?;
            }
            match self.store.apply(&lease, event, now).await? {
                Applied::Stored(lease) => return Ok(json(200, &self.view(&lease))),
                Applied::Refused(refusal) => return Err(wrong_state(refusal)),
                Applied::Superseded | Applied::Occupied => {}
            }
        }
        Err(changing())
    }
}
