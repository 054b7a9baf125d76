//! Who asks: the bearer of an API key.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use nicompute_validator::Principal;
use nicompute_wire::codes::Code;

use crate::Market;
use crate::problem::Refusal;
use crate::routes::Edge;

/// Characters of an authorization header; real ones have under 100.
const HEADER_CHARS_MAX: usize = 512;
const HINT: &str =
    "send `Authorization: Bearer <API key>`; the operator of the validator gives out keys";

/// The caller, whose key was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Principal);

impl<S, M> FromRequestParts<S> for CallerOf<M>
where
    S: Send + Sync,
    M: Market,
    Edge<M>: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let refused =
            || Refusal::new(Code::ApiKeyRefused, "no API key, or none that is known").hint(HINT);
        let key = bearer(parts).ok_or_else(refused)?.to_owned();
        let edge = Edge::<M>::from_ref(state);
        let principal = edge.market.principal_of(&key).await?.ok_or_else(refused)?;
        Ok(Self { caller: Caller(principal), market: edge.market })
    }
}

/// The caller together with the market that knows it.
#[derive(Debug, Clone)]
pub(crate) struct CallerOf<M> {
    pub(crate) caller: Caller,
    pub(crate) market: M,
}

fn bearer(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    if header.len() > HEADER_CHARS_MAX {
        return None;
    }
    let (scheme, key) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}
