//! The market as pages, made from the public API alone: what a page shows, any program can read.
//!
//! One page so far: providers, their proofs, offers and the weights on chain. It is rendered on the server, needs no script,
//! and asks the API each time, so that it never shows something older than it says. Text from providers is escaped.

mod page;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nicompute_client::{MarketClient, OfferQuery};
use tokio::net::TcpListener;

/// What a page may load: its own style and nothing else.
const CONTENT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} for the dashboard")]
pub struct ServeError {
    /// The wanted address.
    pub listen: SocketAddr,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Binds the pages' address. Returns it (a port of 0 is replaced by the one that was free) and the work of serving, which
/// ends when `stop` does.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve<S>(
    listen: SocketAddr,
    api: MarketClient,
    stop: S,
) -> Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send), ServeError>
where
    S: Future<Output = ()> + Send + 'static,
{
    let failed = |source| ServeError { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let router = Router::new().route("/", get(market)).with_state(api);
    let work = axum::serve(listener, router).with_graceful_shutdown(stop);
    Ok((address, async move { work.await }))
}

async fn market(State(api): State<MarketClient>) -> Response {
    let everything = OfferQuery::default();
    let (status, offers) = tokio::join!(api.status(), api.offers(&everything));
    let (code, page) = match (status, offers) {
        (Ok(status), Ok(offers)) => (StatusCode::OK, page::market(&status, &offers)),
        (Err(error), _) | (_, Err(error)) => {
            (StatusCode::SERVICE_UNAVAILABLE, page::unavailable(&error))
        }
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (code, headers, page.into_string()).into_response()
}
