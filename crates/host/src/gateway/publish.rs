//! Ports of a lease that the node offers to everybody: it listens, and the agent dials 127.0.0.1 inside.
//!
//! The bytes are passed on as they come. A connection that cannot be made is reset, so that a client sees at once that
//! nothing is there, and not an empty answer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_agent::frames::{DATA_LEN_MAX, Frame, OpenRequest, OpenTarget, to_vec};
use nicompute_daemon::{CancellationToken, OnError};
use nicompute_market::LeaseId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;
use super::activity::Activity;
use super::attempts::origin;
use super::bridge::open;
use super::lease::Lease;
use super::link::OpenStream;
use super::stream::Piece;

/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A silent client's machine is asked by the kernel after this time whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Where connections go inside.
const INSIDE: &str = "127.0.0.1";

/// Why a port is not published. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The lease has no open route.
    #[error("lease {0} has no open route")]
    NoRoute(LeaseId),
    /// Port 0 is none.
    #[error("port 0 cannot be published")]
    Port,
    /// More than a lease may have.
    #[error("a lease publishes at most {max} ports")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// It is published at another address.
    #[error("port {port} is published at {at} already")]
    Elsewhere {
        /// The port inside.
        port: u16,
        /// Where.
        at: SocketAddr,
    },
    /// The address is taken, or not of this machine.
    #[error("could not listen on {listen}")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The published ports of one lease.
#[derive(Debug)]
pub(super) struct Ports {
    open: Mutex<BTreeMap<u16, Port>>,
    room: Arc<Room>,
}

/// Places of connections to one lease, all together and for each origin.
#[derive(Debug)]
struct Room {
    places: Arc<Semaphore>,
    max: usize,
    origins: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One place; given back when it is dropped.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    origin: IpAddr,
    _one_of_the_lease: OwnedSemaphorePermit,
    /// None where the lease is within its reserve and the gateway is full.
    _one_of_all: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Port {
    asked: SocketAddr,
    at: SocketAddr,
    over: CancellationToken,
}

impl Ports {
    pub(super) fn new(connections: usize) -> Self {
        let (places, origins) = (Arc::new(Semaphore::new(connections)), Mutex::default());
        let room = Arc::new(Room { places, max: connections, origins });
        Self { open: Mutex::default(), room }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Port>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every published port and where it is reached.
    pub(super) fn list(&self) -> Vec<(u16, SocketAddr)> {
        self.lock().iter().map(|(inside, port)| (*inside, port.at)).collect()
    }

    /// Stops listening for a port and ends its connections.
    pub(super) fn withdraw(&self, inside: u16) {
        if let Some(port) = self.lock().remove(&inside) {
            port.over.cancel();
        }
    }
}

impl Room {
    fn origins(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, as long as there are some, its origin has not had its share, and the gateway is not full;
    /// a full one has a few for each lease, so that nobody shuts the ports of all by flooding those of some.
    fn enter(self: &Arc<Self>, address: IpAddr, shared: &Shared) -> Option<Place> {
        let one_of_the_lease = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let one_of_all = Arc::clone(&shared.published).try_acquire_owned().ok();
        let inside = self.max.saturating_sub(self.places.available_permits());
        if one_of_all.is_none() && inside > shared.limits.connections_reserved_per_lease {
            return None;
        }
        let origin = origin(address);
        let mut origins = self.origins();
        let held = origins.entry(origin).or_default();
        if *held >= shared.limits.published_connections_per_address {
            return None;
        }
        *held += 1;
        drop(origins);
        let room = Arc::clone(self);
        Some(Place { room, origin, _one_of_the_lease: one_of_the_lease, _one_of_all: one_of_all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut origins = self.room.origins();
        if let Some(held) = origins.get_mut(&self.origin) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                origins.remove(&self.origin);
            }
        }
    }
}

/// Publishes a port of a lease. Asking for the same again answers the same.
pub(super) fn publish(
    shared: &Arc<Shared>,
    lease: &Arc<Lease>,
    inside: u16,
    listen: SocketAddr,
) -> Result<SocketAddr, PublishError> {
    if inside == 0 {
        return Err(PublishError::Port);
    }
    let mut ports = lease.ports.lock();
    match ports.get(&inside) {
        Some(port) if port.asked == listen || port.at == listen => return Ok(port.at),
        Some(port) => return Err(PublishError::Elsewhere { port: inside, at: port.at }),
        None => {}
    }
    let max = shared.limits.published_per_lease;
    if ports.len() >= max {
        return Err(PublishError::TooMany { max });
    }
    let (listener, at) = bind(listen).map_err(|source| PublishError::Listen { listen, source })?;
    let over = lease.closed.child_token();
    ports.insert(inside, Port { asked: listen, at, over: over.clone() });
    drop(ports);
    let (shared, lease) = (Arc::clone(shared), Arc::clone(lease));
    let tasks = shared.tasks.clone();
    tasks.spawn("published port", OnError::Log, async move {
        accept(&shared, &lease, inside, listener, &over).await;
        Ok(())
    });
    Ok(at)
}

fn bind(listen: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = StdListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, at))
}

async fn accept(
    shared: &Arc<Shared>,
    lease: &Arc<Lease>,
    inside: u16,
    listener: TcpListener,
    over: &CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = over.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => match lease.ports.room.enter(peer.ip(), shared) {
                Some(place) => {
                    let visit = Visit {
                        shared: Arc::clone(shared),
                        lease: Arc::clone(lease),
                        inside,
                        over: over.clone(),
                        _place: place,
                    };
                    shared.stats.published();
                    shared.tasks.spawn("published connection", OnError::Log, visit.serve(socket));
                }
                None => {
                    shared.stats.published_refused();
                    reset(&socket);
                }
            },
            Err(error) => {
                tracing::warn!(lease = %lease.id, inside, %error, "published port: not accepted");
                shared.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection to a published port.
struct Visit {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    inside: u16,
    over: CancellationToken,
    _place: Place,
}

impl Visit {
    async fn serve(self, mut socket: TcpStream) -> Result<(), nicompute_daemon::BoxError> {
        // All three are a matter of speed and tidiness only.
        drop(socket.set_nodelay(true));
        let _ = rustix::net::sockopt::set_socket_keepalive(&socket, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE);
        let target = OpenTarget::Dial { host: INSIDE.to_owned(), port: self.inside };
        let request = OpenRequest { target, variables: Vec::new() };
        let activity = Activity::new(Arc::clone(&self.shared.clock));
        let visit = async {
            match open(&self.shared, &self.lease, request).await {
                Ok(stream) => join(&mut socket, &stream, &activity).await,
                Err(why) => {
                    self.shared.stats.published_refused();
                    tracing::debug!(lease = %self.lease.id, inside = self.inside, %why, "published port");
                    false
                }
            }
        };
        let whole = tokio::select! {
            () = self.over.cancelled() => false,
            () = activity.idle_for(self.shared.limits.published_idle) => false,
            whole = visit => whole,
        };
        if !whole {
            reset(&socket);
        }
        Ok(())
    }
}

/// Moves bytes both ways until both ends are over; `false` where it was cut short.
async fn join(socket: &mut TcpStream, open: &OpenStream, activity: &Activity) -> bool {
    let (read, write) = socket.split();
    tokio::select! {
        whole = download(open, write, activity) => whole,
        () = upload(open, read, activity) => false,
    }
}

async fn download(open: &OpenStream, mut write: WriteHalf<'_>, activity: &Activity) -> bool {
    loop {
        // What a connection has no place for, such as standard error, is dropped.
        let Piece { output, error, eof, end } = open.stream.next().await;
        let count = u32::try_from(output.len() + error.len()).unwrap_or(u32::MAX);
        if write.write_all(&output).await.is_err() {
            return false;
        }
        activity.touch();
        if eof && write.shutdown().await.is_err() {
            return false;
        }
        if let Some(end) = end {
            return end.is_closed();
        }
        if count > 0 {
            open.stream.reopen(count);
            // A lost agent shows at the next piece.
            let _ = open.link.send(to_vec(open.channel, &Frame::Credit(count))).await;
        }
    }
}

/// Returns when the client's side broke; after its proper end the rest is for the download to say.
async fn upload(open: &OpenStream, mut read: ReadHalf<'_>, activity: &Activity) {
    let mut buffer = vec![0; DATA_LEN_MAX];
    loop {
        let count = match read.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return,
        };
        activity.touch();
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let want = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let credit = usize::try_from(open.stream.take_credit(want)).unwrap_or(0);
            if credit == 0 {
                open.stream.granted().await;
                continue;
            }
            let (now, later) = rest.split_at(credit.min(rest.len()));
            if open.link.send(to_vec(open.channel, &Frame::Data(now))).await.is_err() {
                return;
            }
            rest = later;
        }
    }
    let _ = open.link.send(to_vec(open.channel, &Frame::Eof)).await;
    std::future::pending::<()>().await;
}

/// Makes the close that follows a reset.
fn reset(socket: &TcpStream) {
    // Without it the client sees an end in place of an error.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
