//! Connections: accepted up to a limit, read with a limit on head and time, ended at shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nicompute_daemon::{CancellationToken, OnError, SharedClock, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// From a connection's first byte, or the last answer on it, to the end of the next head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that are buffered of a head; a head beyond it is refused by the HTTP library, without a code.
const HEAD_BUFFER_BYTES: usize = 2 * super::HEADER_BYTES_MAX;
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until it is told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    (clock, tasks): (SharedClock, Tasks),
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        // The semaphore is never closed; without a place nobody is accepted.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((socket, place)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tasks.spawn("node API connection", OnError::Log, async move {
                    converse(socket, router, stop).await;
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
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    Ok((socket, place))
}

async fn converse(socket: TcpStream, router: Router, stop: CancellationToken) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
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
