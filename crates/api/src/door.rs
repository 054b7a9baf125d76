//! What every request passes: an id, the caller's bucket, a deadline, and the words of a refusal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use nicompute_daemon::SharedClock;
use nicompute_wire::codes::Code;

use crate::limits::{Buckets, Limits};
use crate::problem::Refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the door needs.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) limits: Limits,
    pub(crate) clock: SharedClock,
}

/// Lets a request in, and makes every refusal a problem with the request's id.
pub(crate) async fn pass(State(door): State<Door>, request: Request, next: Next) -> Response {
    let request_id = request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match door.buckets.take(&caller(&request), door.clock.monotonic()) {
        Ok(()) => match tokio::time::timeout(door.limits.answer_max, next.run(request)).await {
            Ok(response) => refuse_in_words(response, &request_id),
            Err(_) => Refusal::new(Code::Deadline, "the answer took too long")
                .hint("ask again; a request with an id is safe to repeat")
                .answer(&request_id),
        },
        Err(wait) => Refusal::new(Code::TooManyRequests, "this caller asks too often")
            .retry_after(seconds(wait))
            .answer(&request_id),
    };
    let status = response.status().as_u16();
    tracing::debug!(%method, path, status, request_id, "answered");
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Refusals of our own carry their words; those of the router have only a status.
fn refuse_in_words(mut response: Response, request_id: &str) -> Response {
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        return refusal.answer(request_id);
    }
    let refusal = match response.status() {
        StatusCode::NOT_FOUND => Refusal::new(Code::NoSuchPath, "no such path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Refusal::new(Code::MethodNotAllowed, "this path does not take that method")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(Code::BodyTooLarge, "the body is over the limit")
        }
        _ => return response,
    };
    let mut answer = refusal.answer(request_id);
    if let Some(allow) = response.headers().get(axum::http::header::ALLOW) {
        answer.headers_mut().insert(axum::http::header::ALLOW, allow.clone());
    }
    answer
}

/// The bucket of a caller: its address. Before a key is checked it is only a text, and no text may open a fresh bucket.
fn caller(request: &Request<Body>) -> String {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    address.map_or_else(String::new, |ConnectInfo(address)| address.ip().to_string())
}

fn request_id() -> String {
    // Without randomness the id is empty, and the answer is still right.
    getrandom::u64().map_or_else(|_| String::new(), |number| format!("{number:016x}"))
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}
