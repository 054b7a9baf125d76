//! What a holder can do with leases. Each handler stores what is wanted and answers with the lease as it is stored.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use nicompute_market::{Hotkey, KeySlot, Lease, LeaseId};
use nicompute_wire::codes::Code;
use nicompute_wire::node::{ExtendRequest, KeysRequest, LeaseRequest};
use serde::Deserialize;

use super::guard::may_lease;
use super::refusal::{Refusal, json};
use super::{Api, Caller, WAIT_MILLIS_MAX, ask as asked_for};
use crate::leases::{Created, Denied, Owner};

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
    let order = asked_for::order(Hotkey(caller.account), request)?;
    match api.leases.create(order).await? {
        Created::New(lease) => Ok(json(201, &api.view(&lease))),
        Created::Same(lease) => Ok(json(200, &api.view(&lease))),
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
    let holder = Hotkey(caller.account);
    let lease = api.leases.release(lease_id(&id)?, Owner::Holder(&holder)).await?;
    Ok(json(200, &api.view(&lease)))
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let holder = Hotkey(caller.account);
    let lease = api.leases.pause(lease_id(&id)?, Owner::Holder(&holder)).await?;
    Ok(json(200, &api.view(&lease)))
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let holder = Hotkey(caller.account);
    let lease = api.leases.resume(lease_id(&id)?, Owner::Holder(&holder)).await?;
    Ok(json(200, &api.view(&lease)))
}

pub(super) async fn restart(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let holder = Hotkey(caller.account);
    let lease = api.leases.restart(lease_id(&id)?, Owner::Holder(&holder)).await?;
    Ok(json(200, &api.view(&lease)))
}

pub(super) async fn extend(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let holder = Hotkey(caller.account);
    // Holding a lease for longer is taking one anew: without a permit it runs to the end that it has.
    may_lease(&api, &holder).await?;
    let request: ExtendRequest = asked_for::body(&bytes)?;
    let (id, owner) = (lease_id(&id)?, Owner::Holder(&holder));
    let lease = api.leases.extend(id, owner, request.duration_seconds).await?;
    Ok(json(200, &api.view(&lease)))
}

pub(super) async fn change_keys(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let holder = Hotkey(caller.account);
    let request: KeysRequest = asked_for::body(&bytes)?;
    let slot = request.slot.as_deref().map_or(Ok(KeySlot::User), str::parse);
    let slot = slot.map_err(|error| Refusal::unreadable("field slot", &error))?;
    let (id, owner) = (lease_id(&id)?, Owner::Holder(&holder));
    let lease = api.leases.change_keys(id, owner, slot, &request.ssh_keys).await?;
    Ok(json(200, &api.view(&lease)))
}

pub(super) fn lease_id(text: &str) -> Result<LeaseId, Refusal> {
    text.parse().map_err(|_| Denied::NoSuchLease.into())
}

impl Api {
    /// A lease of this caller.
    pub(super) async fn held(
        &self,
        id: LeaseId,
        caller: &nicompute_wire::btauth::Caller,
    ) -> Result<Lease, Refusal> {
        Ok(self.leases.get(id, Owner::Holder(&Hotkey(caller.account))).await?)
    }
}
