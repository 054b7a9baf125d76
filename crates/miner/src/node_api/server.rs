//! Connections: accepted up to a limit in all and for each address, read with a limit on head and time, ended at shutdown.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nicompute_daemon::{CancellationToken, OnError, SharedClock, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiLimits;
use crate::axon::Peer;

/// From a connection's first byte, or the last answer on it, to the end of the next head.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that are buffered of a head; a head beyond it is refused by the HTTP library, without a code.
const HEAD_BUFFER_BYTES: usize = 2 * super::HEADER_BYTES_MAX;
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The low bits of an IPv6 address that one machine chooses freely.
const IPV6_HOST_BITS: u32 = 64;

/// The open connections of each address that has any.
type Open = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The paths of the node, told who is at the other end.
struct WithPeer {
    inner: TowerToHyperService<Router>,
    peer: Peer,
}

/// A connection's place among those of its address, until it is dropped.
struct OfAddress {
    open: Open,
    address: IpAddr,
}

/// Accepts until it is told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ApiLimits,
    (clock, tasks): (SharedClock, Tasks),
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let places = Arc::new(Semaphore::new(limits.connections));
    let open = Open::default();
    loop {
        // The semaphore is never closed; without a place nobody is accepted.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((socket, place, from)) => {
                let Some(of_address) =
                    OfAddress::take(&open, from.ip(), limits.connections_per_address)
                else {
                    tracing::debug!(%from, "an address has as many connections as it may have");
                    continue;
                };
                let (router, stop) = (router.clone(), stop.clone());
                tasks.spawn("node API connection", OnError::Log, async move {
                    converse(socket, router, Peer(from), stop).await;
                    drop((place, of_address));
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
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit, SocketAddr)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (socket, from) = listener.accept().await?;
    Ok((socket, place, from))
}

async fn converse(socket: TcpStream, router: Router, peer: Peer, stop: CancellationToken) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let service = WithPeer { inner: TowerToHyperService::new(router), peer };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BUFFER_BYTES)
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

/// The part of an address that its owner cannot choose.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(long) => IpAddr::V6(Ipv6Addr::from_bits(long.to_bits() >> IPV6_HOST_BITS)),
        short @ IpAddr::V4(_) => short,
    }
}

impl Service<Request<Incoming>> for WithPeer {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.inner.call(request)
    }
}

impl OfAddress {
    fn take(open: &Open, from: IpAddr, max: usize) -> Option<Self> {
        let address = owner(from);
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&address).copied().unwrap_or_default();
        if count >= max {
            return None;
        }
        counts.insert(address, count.saturating_add(1));
        drop(counts);
        Some(Self { open: Arc::clone(open), address })
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
