//! What every request passes on its way in, and every answer on its way out.

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use nicompute_market::{AccountId, Hotkey};
use nicompute_wire::btauth::{self, Caller, Checked, check_headers, check_request, sign_response};
use nicompute_wire::codes::Code;
use nicompute_wire::node::BODY_BYTES_MAX;

use super::refusal::Refusal;
use super::{Api, BODY_LIMIT, HEADER_BYTES_MAX};
use crate::axon::Listed;
use crate::subnet::Permit;

/// Our own answers are small; more is a defect.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// On an answer whose body goes on: its head is signed as if the body were empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streaming;

/// Who asks to come in for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// What anybody may see who signs.
    Public,
    /// A new lease.
    NewLease,
    /// A lease that exists: its holder may come in even after its permit is gone.
    Lease,
}

pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let request_id = request_id();
    let claimed = claimed(request.headers());
    let answer = tokio::select! {
        biased;
        answer = admit_and_run(&api, request, next) => answer,
        () = api.clock.sleep(api.limits.request) => Err(Refusal::new(
            Code::Deadline,
            "the request was not finished in time",
        )),
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(refusal) => refusal.answer(&request_id),
    };
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        response = refusal.answer(&request_id);
    }
    tracing::debug!(%request_id, status = response.status().as_u16(), "answered");
    sign(&api, claimed, response).await
}

async fn admit_and_run(api: &Api, request: Request, next: Next) -> Result<Response, Refusal> {
    if header_bytes(request.headers()) > HEADER_BYTES_MAX {
        return Err(Refusal::new(Code::HeadersTooLarge, "the headers have more than 16 KiB"));
    }
    let (mut parts, body) = request.into_parts();
    let (caller, body) = arrive(api, &parts, body).await?;
    let Ok(_place) = api.requests.try_acquire() else { return Err(overloaded()) };
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
}

/// Bytes of all names and values.
pub(crate) fn header_bytes(headers: &HeaderMap) -> usize {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len().saturating_add(value.len())
    };
    headers.iter().map(line).sum()
}

/// From the head to a request that is authentic and admitted. Until then it may be anybody's, so it waits among those
/// that arrive and takes no place of those that are worked on.
async fn arrive(api: &Api, parts: &Parts, body: Body) -> Result<(Caller, Bytes), Refusal> {
    let method = parts.method.as_str();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let me = api.key.hotkey();
    check_headers(header, method, target, &me, api.clock.unix_ns())?;
    let Ok(_place) = api.arrivals.try_acquire() else { return Err(overloaded()) };
    let body = tokio::select! {
        biased;
        body = read(body) => body?,
        () = api.clock.sleep(BODY_LIMIT) => {
            return Err(Refusal::new(Code::Deadline, "the body did not come in time"));
        }
    };
    let signed = btauth::Request { method, target, body: &body };
    let checked = check_request(header, &signed, &me, api.clock.unix_ns())?;
    let caller = admit(api, checked, &parts.method, Door::of(parts.uri.path())).await?;
    Ok((caller, body))
}

fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "as many requests are under way as are taken")
        .hint("sign anew and ask again in a second")
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        let cause = std::error::Error::source(&error);
        if cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
            Refusal::new(Code::BodyTooLarge, "the body has more than 256 KiB")
        } else {
            Refusal::new(Code::BadRequest, "the body ended early or is malformed")
        }
    })
}

/// Asks who the sender is before anything about it is remembered, then remembers the request against its replay.
async fn admit(
    api: &Api,
    checked: Checked,
    method: &Method,
    door: Door,
) -> Result<Caller, Refusal> {
    let sender = Hotkey(*checked.sender());
    let permit = api.permits.of(&sender).await;
    let trusted = match door {
        Door::Public => permit == Permit::Yes,
        Door::NewLease => may_lease(api, &sender).await.map(|()| true)?,
        Door::Lease if api.store.holds_any(&sender).await? => true,
        Door::Lease => may_lease(api, &sender).await.map(|()| true)?,
    };
    // Read again: waiting for the chain may have made the request stale.
    let now_ns = api.clock.unix_ns();
    let caller = {
        let replays = if trusted { &api.admitted } else { &api.strangers };
        let mut replays = replays.lock().unwrap_or_else(PoisonError::into_inner);
        checked.admit(&mut replays, now_ns)?
    };
    // Before it is carried out, and whatever the clock says now: the next process may start with an earlier one.
    if door != Door::Public && method != Method::GET {
        api.store.raise_nonce_floor(caller.nonce_ns).await?;
    }
    Ok(caller)
}

/// Whether a hotkey may take leases, or keep them for longer: the provider's lists first, then its permit.
pub(super) async fn may_lease(api: &Api, hotkey: &Hotkey) -> Result<(), Refusal> {
    let permit = api.permits.of(hotkey).await;
    let known = api.permits.recall_member(hotkey);
    match api.access.as_ref().map(|access| access.listed(hotkey, known)) {
        Some(Listed::Blocked(reason)) => {
            Err(Refusal::new(Code::NotPermitted, format!("this provider keeps you out: {reason}"))
                .hint("leases that you hold run to their end"))
        }
        Some(Listed::Trusted) => Ok(()),
        Some(Listed::No) | None => permitted(permit),
    }
}

/// Whether a sender of whom this is known may take leases.
fn permitted(permit: Permit) -> Result<(), Refusal> {
    match permit {
        Permit::Yes => Ok(()),
        Permit::No => Err(Refusal::new(
            Code::NotPermitted,
            "leases are given to hotkeys with a validator permit on this subnet",
        )
        .hint("ask a validator's API for a rental")),
        Permit::Unknown => Err(Refusal::new(
            Code::ChainUnavailable,
            "the node cannot reach the chain and does not know who is a validator",
        )
        .hint("ask again in some seconds")),
    }
}

/// Signs the answer for whoever the request says it is from, authentic or not: that says only what we answered.
async fn sign(api: &Api, claimed: Option<(AccountId, u64)>, response: Response) -> Response {
    let Some((receiver, nonce_ns)) = claimed else { return response };
    let streaming = response.extensions().get::<Streaming>().is_some();
    let (mut parts, body) = response.into_parts();
    let (signed, body) = if streaming {
        (Bytes::new(), body)
    } else {
        let bytes = to_bytes(body, ANSWER_BYTES_MAX).await.unwrap_or_default();
        (bytes.clone(), Body::from(bytes))
    };
    let answer = btauth::Response { status: parts.status.as_u16(), body: &signed };
    for (name, value) in sign_response(&api.key, &answer, nonce_ns, &receiver).0 {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("our header names are plain");
        let value = HeaderValue::from_str(&value).expect("our header values are plain");
        parts.headers.insert(name, value);
    }
    Response::from_parts(parts, body)
}

/// The sender and nonce that the headers state, whether they are true or not.
fn claimed(headers: &HeaderMap) -> Option<(AccountId, u64)> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let sender = text("X-Bittensor-Hotkey")?.parse().ok()?;
    Some((sender, text("X-Bittensor-Nonce")?.parse().ok()?))
}

fn request_id() -> String {
    let mut bytes = [0_u8; 8];
    // Without randomness the id is zero: it only joins an answer with a log line.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [0; 8];
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

impl Door {
    fn of(path: &str) -> Self {
        match path.strip_prefix("/v1/leases") {
            Some("") => Self::NewLease,
            Some(rest) if rest.starts_with('/') => Self::Lease,
            _ => Self::Public,
        }
    }
}
