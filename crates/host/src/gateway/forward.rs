//! Connections from inside to the client: ports and sockets that the agent listens on for it (`-R`), and its key agent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nicompute_agent::frames::{OpenRequest, OpenTarget, SocketPlace};
use nicompute_daemon::{CancellationToken, OnError};
use russh::ChannelId;
use russh::server::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::activity::Activity;
use super::bridge::{Bridge, open, open_with_port};
use super::lease::Lease;
use super::link::OpenStream;
use super::route::AgentForwarding;
use super::session::{Client, Entry, EntryKind};
use super::stream::Arrival;
use super::upload::Upload;
use super::{Shared, within};

/// The longest path of a socket; Linux takes no longer one.
const PATH_LEN_MAX: usize = 107;
/// The longest address to listen on; it is only given back to the client.
const ADDRESS_LEN_MAX: usize = 255;

/// What a client asked to have listened on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ForwardKey {
    Port(String, u32),
    Socket(String),
    Agent,
}

/// Where the handler, which sees a channel confirmed, and the task that opened it find the same entry, whoever is first.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    waiting: Mutex<HashMap<ChannelId, (Arc<Upload>, CancellationToken)>>,
}

impl Meeting {
    /// How many wait for their other side.
    fn len(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The entry that the other side left, or the new one, which is left for the other side.
    fn meet(
        &self,
        id: ChannelId,
        new: impl FnOnce() -> (Arc<Upload>, CancellationToken),
    ) -> (Arc<Upload>, CancellationToken) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&id).unwrap_or_else(|| {
            let entry = new();
            waiting.insert(id, (Arc::clone(&entry.0), entry.1.clone()));
            entry
        })
    }
}

/// A listener inside, and the client that its connections go to.
struct Forwarder {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    handle: Handle,
    meeting: Arc<Meeting>,
    activity: Arc<Activity>,
    key: ForwardKey,
    /// Cancelled when the client takes it back or leaves.
    over: CancellationToken,
    /// Cancelled when the client leaves.
    session_over: CancellationToken,
}

impl Client {
    /// Has a port of the container listened on; gives the port.
    pub(super) async fn forward_port(
        &mut self,
        address: &str,
        port: u32,
        handle: Handle,
    ) -> Option<u32> {
        let inside = u16::try_from(port).ok()?;
        if address.len() > ADDRESS_LEN_MAX {
            return None;
        }
        let asked = ForwardKey::Port(address.to_owned(), port);
        if port != 0 && self.forwards.contains_key(&asked) {
            return None;
        }
        let (stream, bound) = self.listen(OpenTarget::Listen { port: inside }).await?;
        let bound = u32::from(bound);
        self.serve_forward(ForwardKey::Port(address.to_owned(), bound), stream, handle);
        Some(bound)
    }

    /// Has a socket of the container's file system listened on.
    pub(super) async fn forward_socket(&mut self, path: &str, handle: Handle) -> bool {
        let key = ForwardKey::Socket(path.to_owned());
        if path.len() > PATH_LEN_MAX || path.contains('\0') || self.forwards.contains_key(&key) {
            return false;
        }
        let target = OpenTarget::ListenUnix { path: path.to_owned(), place: SocketPlace::Given };
        let Some((stream, _)) = self.listen(target).await else { return false };
        self.serve_forward(key, stream, handle);
        true
    }

    /// Has a socket inside lead to the client's key agent, where the lease allows it; gives its path.
    pub(super) async fn forward_agent(&mut self, handle: Handle) -> Option<String> {
        if self.lease()?.agent_forwarding() != AgentForwarding::On {
            return None;
        }
        if let Some(path) = &self.agent_socket {
            return Some(path.clone());
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).ok()?;
        let path = format!("/tmp/ssh-{}/agent", hex::encode(random));
        let place = SocketPlace::FreshFolder;
        let target = OpenTarget::ListenUnix { path: path.clone(), place };
        let (stream, _) = self.listen(target).await?;
        self.serve_forward(ForwardKey::Agent, stream, handle);
        self.agent_socket = Some(path.clone());
        Some(path)
    }

    /// Takes a listener back. `false` where there is none.
    pub(super) fn cancel_forward(&mut self, key: &ForwardKey) -> bool {
        self.forwards.remove(key).is_some_and(|over| {
            over.cancel();
            true
        })
    }

    /// A channel to the client stands: its data comes from now on. `false` when the client confirms more than it was asked
    /// for in time.
    pub(super) fn confirmed(&mut self, id: ChannelId) -> bool {
        self.channels.retain(|_, entry| !entry.over.is_cancelled());
        let max = self.shared.limits.channels_per_lease;
        if self.channels.len() >= max || self.meeting.len() >= max {
            return false;
        }
        let Some(lease) = self.lease() else { return false };
        let (limits, over) = (&self.shared.limits, &self.progress.over);
        let new = || (Arc::new(Upload::of(limits, &lease)), over.child_token());
        let (upload, over) = self.meeting.meet(id, new);
        self.channels.insert(id, Entry::new(EntryKind::Connection, upload, over));
        true
    }

    async fn listen(&mut self, target: OpenTarget) -> Option<(OpenStream, u16)> {
        self.forwards.retain(|_, over| !over.is_cancelled());
        if self.forwards.len() >= self.shared.limits.forwards_per_connection {
            return None;
        }
        let lease = self.lease()?;
        let request = OpenRequest { target, variables: Vec::new() };
        match open_with_port(&self.shared, &lease, request).await {
            Ok(opened) => Some(opened),
            Err(why) => {
                // The protocol has no words for it.
                tracing::debug!(lease = %lease.id, %why, "nothing is listened on");
                None
            }
        }
    }

    fn serve_forward(&mut self, key: ForwardKey, stream: OpenStream, handle: Handle) {
        let Some(lease) = self.lease() else { return };
        let over = self.progress.over.child_token();
        self.forwards.insert(key.clone(), over.clone());
        let forwarder = Forwarder {
            shared: Arc::clone(&self.shared),
            lease,
            handle,
            meeting: Arc::clone(&self.meeting),
            activity: Arc::clone(&self.progress.activity),
            key,
            over,
            session_over: self.progress.over.clone(),
        };
        self.shared.tasks.spawn("ssh listener inside", OnError::Log, async move {
            Arc::new(forwarder).run(stream).await;
            Ok(())
        });
    }
}

impl Forwarder {
    async fn run(self: Arc<Self>, open: OpenStream) {
        loop {
            // The next is taken when this one has a place: the agent may offer as many as it likes.
            let next = async {
                let arrival = open.stream.arrival().await?;
                let place = Arc::clone(&self.lease.channel_room).acquire_owned().await.ok()?;
                Some((arrival, place))
            };
            let next = tokio::select! {
                () = self.over.cancelled() => break,
                next = next => next,
            };
            let Some((arrival, place)) = next else { break };
            let forwarder = Arc::clone(&self);
            self.shared.tasks.spawn("ssh connection from inside", OnError::Log, async move {
                tokio::select! {
                    () = forwarder.session_over.cancelled() => {}
                    () = forwarder.pass_on(arrival, place) => {}
                }
                Ok(())
            });
        }
        self.over.cancel();
    }

    async fn pass_on(&self, arrival: Arrival, place: OwnedSemaphorePermit) {
        let target = OpenTarget::Accept { token: arrival.token };
        let request = OpenRequest { target, variables: Vec::new() };
        let Ok(stream) = open(&self.shared, &self.lease, request).await else { return };
        let asked = within(&self.shared.clock, self.shared.limits.agent, self.ask(&arrival)).await;
        let Some(Ok(channel)) = asked else { return };
        let id = channel.id();
        // The reading half is dropped: data is taken by the handler, where each channel has its own room.
        let (_, writer) = channel.split();
        let limits = &self.shared.limits;
        let new = || (Arc::new(Upload::of(limits, &self.lease)), self.session_over.child_token());
        let (upload, over) = self.meeting.meet(id, new);
        let bridge = Bridge {
            shared: Arc::clone(&self.shared),
            lease: Arc::clone(&self.lease),
            upload,
            writer,
            handle: self.handle.clone(),
            over,
            activity: Arc::clone(&self.activity),
            _place: place,
        };
        bridge.run_connection(stream).await;
    }

    /// Asks the client whether it takes the connection.
    async fn ask(
        &self,
        arrival: &Arrival,
    ) -> Result<russh::Channel<russh::server::Msg>, russh::Error> {
        match &self.key {
            ForwardKey::Port(address, port) => {
                let (peer, from) = (arrival.peer.as_str(), u32::from(arrival.port));
                self.handle.channel_open_forwarded_tcpip(address.as_str(), *port, peer, from).await
            }
            ForwardKey::Socket(path) => {
                self.handle.channel_open_forwarded_streamlocal(path.as_str()).await
            }
            ForwardKey::Agent => self.handle.channel_open_agent().await,
        }
    }
}
