//! One HTTP exchange: a body that is read up to a limit, no redirects, no proxies, and the caller's time budget.

use std::time::Duration;

use nicompute_daemon::Kind;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder};

/// Connections to one host that are kept open while nothing is asked.
const IDLE_CONNECTIONS_MAX: usize = 2;
/// How long an unused connection is kept.
const IDLE_SECONDS: u64 = 30;

/// Why an exchange did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The HTTP library could not be set up.
    #[error("the HTTP client could not be made")]
    Setup(#[source] reqwest::Error),
    /// No connection, or it broke.
    #[error("the other side cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// An answer above the limit; the rest was not read.
    #[error("the answer is longer than {limit_bytes} bytes")]
    TooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// The caller's budget is used up.
    #[error("no answer within {} ms", .0.as_millis())]
    Deadline(Duration),
}

/// The shared HTTP client; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Http(Client);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

// === impl TransportError ===

impl TransportError {
    /// Whether asking again may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Setup(_) => Kind::Bug,
            Self::Unreachable(_) | Self::TooLong { .. } | Self::Deadline(_) => Kind::Elsewhere,
        }
    }
}

// === impl Http ===

impl Http {
    pub(crate) fn new() -> Result<Self, TransportError> {
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(Duration::from_secs(IDLE_SECONDS))
            .build()
            .map_err(TransportError::Setup)?;
        Ok(Self(client))
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.0
    }
}

// === impl Answer ===

impl Answer {
    /// Redirects are not followed, so they are no success either.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Sends a request and reads its answer, all of it within the budget.
pub(crate) async fn exchange(
    request: RequestBuilder,
    body_bytes_max: usize,
    budget: Duration,
) -> Result<Answer, TransportError> {
    match tokio::time::timeout(budget, fetch(request, body_bytes_max)).await {
        Ok(result) => result,
        Err(_) => Err(TransportError::Deadline(budget)),
    }
}

async fn fetch(request: RequestBuilder, body_bytes_max: usize) -> Result<Answer, TransportError> {
    let too_long = || TransportError::TooLong { limit_bytes: body_bytes_max };
    let mut response = request.send().await.map_err(TransportError::Unreachable)?;
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(TransportError::Unreachable)? {
        if body.len().saturating_add(chunk.len()) > body_bytes_max {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body })
}
