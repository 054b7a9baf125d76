//! Answers: JSON, and problems with their public code.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use nicompute_daemon::ErrorChain;
use nicompute_host::runtime::RuntimeError;
use nicompute_wire::btauth::AuthError;
use nicompute_wire::codes::{Code, PROBLEM_MEDIA_TYPE, Problem};
use serde::Serialize;

use crate::leases::Denied;
use crate::store::StoreError;

/// Characters of a detail that quotes a decoder; the rest helps nobody.
const DETAIL_CHARS_MAX: usize = 300;

/// A request that is not done, and why. The guard gives it its request id and signature.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: Code,
    detail: String,
    hint: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None }
    }

    pub(super) fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// A body or query that cannot be read.
    pub(super) fn unreadable(what: &str, problem: &dyn std::fmt::Display) -> Self {
        let text = format!("{what}: {problem}");
        let shown = text.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX);
        Self::new(Code::BadRequest, shown.collect::<String>())
    }

    pub(super) fn answer(self, request_id: &str) -> Response {
        let problem = Problem::new(self.code, self.detail, request_id);
        let problem = match self.hint {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        };
        let mut response = json(self.code.status(), &problem);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        response
    }
}

/// A signed JSON answer, but for the signature.
pub(super) fn json(status: u16, value: &impl Serialize) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(value).expect("views have text keys and plain values");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl IntoResponse for Refusal {
    /// Carries the refusal to the guard, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::new(error.code(), error.to_string()).hint(error.hint())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %ErrorChain(&error), "a request failed in the store");
        Self::new(Code::Internal, "the node could not read or write its store")
            .hint("ask again later; the operator finds the cause in the log")
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        tracing::error!(error = %ErrorChain(&error), "a request failed in the runtime");
        Self::new(Code::RuntimeFailed, "the runtime of the node does not answer")
            .hint("ask again later; the operator finds the cause in the log")
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let detail = denied.to_string();
        match denied {
            Denied::NoSuchOffer(_) => {
                Self::new(Code::NoSuchOffer, detail).hint("GET /v1/offers lists what there is")
            }
            Denied::Occupied => {
                Self::new(Code::Occupied, detail).hint("GET /v1/offers says when it is available")
            }
            Denied::GpuMissing(_) => Self::new(Code::NoCapacity, detail)
                .hint("GET /v1/offers says when the offer is available again"),
            Denied::NoPorts => {
                Self::new(Code::NoCapacity, detail).hint("ask for fewer ports, or wait")
            }
            Denied::OtherWords => Self::new(Code::LeaseConflict, detail)
                .hint("draw a new id for a new lease; repeat a request word for word"),
            Denied::NoSuchImage => {
                Self::new(Code::NoSuchImage, detail).hint("GET /v1/offers lists them")
            }
            Denied::NoImages => Self::new(Code::NoSuchImage, detail),
            Denied::Field { .. } => Self::new(Code::BadRequest, detail),
            Denied::BadKey(_) => Self::new(Code::BadSshKey, detail)
                .hint("give the one line of a .pub file, such as ~/.ssh/id_ed25519.pub"),
            Denied::NoSuchLease => Self::new(Code::NoSuchLease, detail),
            Denied::WrongState(_) => {
                Self::new(Code::WrongState, detail).hint("GET the lease to see where it stands")
            }
            Denied::Spent => Self::new(Code::WrongState, detail)
                .hint("let it run to its end, or release it and take a new one"),
            Denied::Changing => Self::new(Code::Overloaded, detail).hint("ask again in a second"),
            Denied::Store(error) => error.into(),
            Denied::Runtime(error) => error.into(),
        }
    }
}
