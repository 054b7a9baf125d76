//! Connections: accepted up to a limit, read with a limit on head and time, ended at shutdown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nicompute_daemon::{CancellationToken, OnError, SharedClock, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::door::Door;
use crate::limits::{Buckets, Limits};
use crate::{Market, routes};

/// From a connection's first byte, or the last answer on it, to the end of the next head.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Bytes of one head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the API listens, and its limits.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// The address; a port of 0 takes a free one.
    pub listen: SocketAddr,
    /// How much may be asked.
    pub limits: Limits,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on --api.listen {listen}")]
pub struct ServeError {
    /// The wanted address.
    pub listen: SocketAddr,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Binds the address and serves until the tasks are told to stop. Returns the bound address. Starts one task that accepts, and
/// one for each connection.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve<M: Market>(
    config: ApiConfig,
    market: M,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError { listen: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let door = Door {
        buckets: Arc::new(Buckets::new(config.limits)),
        limits: config.limits,
        clock: SharedClock::clone(&clock),
    };
    let router = routes::router(market, door);
    let places = Arc::new(Semaphore::new(config.limits.connections_max));
    let owner = tasks.clone();
    tasks.spawn("api", OnError::Stop, async move {
        accept_all(&listener, &router, &places, &clock, &owner).await;
        Ok(())
    });
    Ok(address)
}

async fn accept_all(
    listener: &TcpListener,
    router: &Router,
    places: &Arc<Semaphore>,
    clock: &SharedClock,
    tasks: &Tasks,
) {
    let stop = tasks.token().clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = accept(listener, places) => accepted,
        };
        match accepted {
            Ok((socket, peer, place)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tasks.spawn("api connection", OnError::Log, async move {
                    converse(socket, peer, router, stop).await;
                    drop(place);
                    Ok(())
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, peer) = listener.accept().await?;
    Ok((socket, peer, place))
}

async fn converse(socket: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // The other side's doing: it went away, or it does not speak HTTP.
        tracing::debug!(%error, "a connection ended badly");
    }
}
