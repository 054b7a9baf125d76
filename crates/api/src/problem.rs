//! Answers: JSON, and problems with their public code.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use nicompute_validator::Denied;
use nicompute_wire::codes::{Code, PROBLEM_MEDIA_TYPE, Problem};
use serde::Serialize;

/// Characters of a detail that quotes a decoder; the rest helps nobody.
const DETAIL_CHARS_MAX: usize = 300;

/// A request that is not done, and why. The door gives it its request id.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    code: Code,
    detail: String,
    hint: Option<String>,
    retry_after_seconds: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, retry_after_seconds: None }
    }

    pub(crate) fn hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..self }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    /// The answer to the caller.
    pub(crate) fn answer(self, request_id: &str) -> Response {
        let problem = Problem::new(self.code, self.detail, request_id);
        let problem = match self.hint {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        };
        let status = StatusCode::from_u16(self.code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn unreadable(what: &str, problem: &str) -> Self {
        let text = format!("{what}: {problem}");
        let shown = text.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX);
        Self::new(Code::BadRequest, shown.collect::<String>())
            .hint("docs/market-api.md shows each request")
    }
}

/// A JSON answer that nobody keeps.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: T) -> Response {
    let mut response = (status, Json(value)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl IntoResponse for Refusal {
    /// Carries the refusal to the door, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self {
            code: denied.code,
            detail: denied.detail,
            hint: denied.hint,
            retry_after_seconds: None,
        }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::BytesRejection(BytesRejection::FailedToBufferBody(inner))
                if inner.status() == StatusCode::PAYLOAD_TOO_LARGE =>
            {
                Self::new(Code::BodyTooLarge, "the body is over the limit")
            }
            other => Self::unreadable("body", &other.body_text()),
        }
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::unreadable("query", &rejection.body_text())
    }
}
