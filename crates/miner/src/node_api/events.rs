//! `GET /v1/leases/{id}/events`: what happened to a lease and what happens to it now, as server-sent events.
//!
//! The stream's head is signed over an empty body; its events are not signed. They are hints that something changed: a
//! caller that acts on one reads the lease, whose answer is signed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use futures_util::stream;
use nicompute_daemon::ErrorChain;
use nicompute_market::{LeaseId, LeaseState};
use nicompute_wire::codes::Code;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::guard::Streaming;
use super::leases::lease_id;
use super::refusal::Refusal;
use super::{Api, Caller};
use crate::store::StoredEvent;

/// A comment that keeps proxies from closing a quiet stream.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// A stream ends after this and may be asked for again from its last event.
const STREAM_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinceQuery {
    since: Option<u64>,
}

/// One open stream.
struct Events {
    api: Arc<Api>,
    id: LeaseId,
    seen: Option<u64>,
    changes: watch::Receiver<u64>,
    ready: VecDeque<StoredEvent>,
    ends_at: Duration,
    over: bool,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Extension(caller): Caller,
    Path(id): Path<String>,
    query: Result<Query<SinceQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| Refusal::unreadable("the query", &error))?;
    let id = lease_id(&id)?;
    // Whoever may not see the lease must not take a place.
    drop(api.held(id, &caller).await?);
    let place = Arc::clone(&api.event_streams).try_acquire_owned().map_err(|_| {
        Refusal::new(Code::Overloaded, "as many event streams are open as are taken")
            .hint("poll the lease with wait_ms instead")
    })?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let events = Events {
        id,
        seen: last.or(query.since),
        changes: api.store.changes(),
        ready: VecDeque::new(),
        ends_at: api.clock.monotonic().saturating_add(STREAM_LIMIT),
        over: false,
        _place: place,
        api,
    };
    let mut response = Response::new(Body::from_stream(stream::unfold(events, Events::next)));
    response.extensions_mut().insert(Streaming);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Events {
    /// The next piece of the stream, or its end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.seen = Some(event.generation);
                let state = LeaseState::from_names(&event.state, event.reason.as_deref());
                self.over = state.is_none_or(LeaseState::is_final);
                return Some((Ok(piece(&event)), self));
            }
            if self.over || self.api.clock.monotonic() >= self.ends_at {
                return None;
            }
            self.changes.mark_unchanged();
            match self.api.store.events_after(self.id, self.seen).await {
                Ok(events) => self.ready.extend(events),
                Err(error) => {
                    tracing::error!(error = %ErrorChain(&error), "an event stream ends early");
                    return None;
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            let api = Arc::clone(&self.api);
            tokio::select! {
                biased;
                () = api.stop.cancelled() => return None,
                // The API holds the store, so the channel is open.
                _ = self.changes.changed() => {}
                () = api.clock.sleep(HEARTBEAT_EVERY) => {
                    return Some((Ok(Bytes::from_static(b":\n\n")), self));
                }
            }
        }
    }
}

fn piece(event: &StoredEvent) -> Bytes {
    let data = serde_json::json!({
        "generation": event.generation,
        "event": event.event,
        "state": event.state,
        "reason": event.reason,
        "expires_at_unix_ms": event.expires_at.get(),
        "at_unix_ms": event.at.get(),
        "detail": event.detail,
    });
    format!("id: {}\nevent: lease\ndata: {data}\n\n", event.generation).into()
}
