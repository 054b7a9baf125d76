//! One SSH connection: who it is, and the channels that it has.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use nicompute_agent::frames::{OpenRequest, OpenTarget, TerminalRequest};
use nicompute_daemon::{CancellationToken, OnError, SharedClock};
use russh::server::{Auth, ChannelOpenHandle, Handle, Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, MethodKind, MethodSet};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::DropGuard;

use super::Shared;
use super::activity::Activity;
use super::bridge::{Bridge, NotOpened, Screen, open};
use super::forward::{ForwardKey, Meeting};
use super::lease::{Credential, Lease, SessionPlace};
use super::stall::{Stall, Window};
use super::upload::Upload;

/// Variables of one channel.
const VARIABLES_MAX: usize = 64;
/// Bytes of one channel's variables.
const VARIABLES_LEN_MAX: usize = 16 * 1024;

/// Shared by a connection's task and its handler.
#[derive(Debug)]
pub(super) struct Progress {
    /// Cancelled when the session must end, and when it has ended.
    pub(super) over: CancellationToken,
    /// Cancelled when the client is known and inside.
    pub(super) known: CancellationToken,
    /// Cancelled when the client is known and was not let in.
    pub(super) turned_away: CancellationToken,
    pub(super) activity: Arc<Activity>,
}

impl Progress {
    pub(super) fn new(over: CancellationToken, clock: SharedClock) -> Self {
        let activity = Arc::new(Activity::new(clock));
        let (known, turned_away) = (CancellationToken::new(), CancellationToken::new());
        Self { over, known, turned_away, activity }
    }
}

/// The SSH library's view of one connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Arc<Progress>,
    pub(super) peer: SocketAddr,
    local: SocketAddr,
    pub(super) admitted: Option<(Arc<Lease>, Credential)>,
    pub(super) place: Option<SessionPlace>,
    pub(super) came_by_password: bool,
    pub(super) channels: HashMap<ChannelId, Entry>,
    pub(super) window: Window,
    /// What listens inside for this client.
    pub(super) forwards: BTreeMap<ForwardKey, CancellationToken>,
    /// The socket inside that leads to the client's key agent, once there is one.
    pub(super) agent_socket: Option<String>,
    pub(super) meeting: Arc<Meeting>,
    /// The library drops the handler with the session, however that ends; every task of the session ends then.
    _ends_session: DropGuard,
}

/// What a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Session,
    Connection,
}

/// One open channel.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) upload: Arc<Upload>,
    pub(super) over: CancellationToken,
    pub(super) terminal: Option<TerminalRequest>,
    pub(super) variables: Vec<(String, String)>,
    /// What is needed to start something; taken when it starts.
    pub(super) idle: Option<(ChannelWriteHalf<Msg>, OwnedSemaphorePermit)>,
}

pub(super) type Outcome = Result<(), russh::Error>;

pub(super) enum StartTarget {
    Shell,
    Exec(Vec<u8>),
    Sftp,
}

impl Client {
    pub(super) fn new(
        shared: Arc<Shared>,
        progress: Arc<Progress>,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let ends_session = progress.over.clone().drop_guard();
        Self {
            shared,
            progress,
            peer,
            local,
            admitted: None,
            place: None,
            came_by_password: false,
            channels: HashMap::new(),
            window: Window::default(),
            forwards: BTreeMap::new(),
            agent_socket: None,
            meeting: Arc::default(),
            _ends_session: ends_session,
        }
    }

    /// What is answered to whoever is not let in.
    pub(super) fn refused(&self, user: &str) -> Auth {
        // The methods are given again: without that the library forgets one with each refusal, and some clients then wait
        // for a prompt that never comes.
        let password = self.shared.leases.takes_password(user).then_some(MethodKind::Password);
        let methods: Vec<_> = std::iter::once(MethodKind::PublicKey).chain(password).collect();
        let methods = MethodSet::from(methods.as_slice());
        Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
    }

    /// The lease that the client is inside.
    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        self.place.as_ref().map(|place| Arc::clone(place.lease()))
    }

    /// A place for one more channel, or why there is none.
    pub(super) fn admit_channel(
        &mut self,
    ) -> Result<(Arc<Lease>, OwnedSemaphorePermit), ChannelOpenFailure> {
        self.channels.retain(|_, entry| !entry.over.is_cancelled());
        let lease = self.lease().ok_or(ChannelOpenFailure::AdministrativelyProhibited)?;
        if self.channels.len() >= self.shared.limits.channels_per_connection {
            return Err(ChannelOpenFailure::ResourceShortage);
        }
        let place = Arc::clone(&lease.channel_room).try_acquire_owned();
        Ok((lease, place.map_err(|_| ChannelOpenFailure::ResourceShortage)?))
    }

    pub(super) fn entry(&self, lease: &Lease, kind: EntryKind) -> Entry {
        let upload = Upload::of(&self.shared.limits, lease);
        Entry::new(kind, Arc::new(upload), self.progress.over.child_token())
    }

    /// Starts what a channel asks for and answers the request. The answer comes at once; whether the machine can do it
    /// is said on the channel, where there are words for it.
    pub(super) fn start(
        &mut self,
        id: ChannelId,
        target: StartTarget,
        session: &mut Session,
    ) -> Outcome {
        let connection = format!(
            "{} {} {} {}",
            self.peer.ip().to_canonical(),
            self.peer.port(),
            self.local.ip().to_canonical(),
            self.local.port()
        );
        let (Some(lease), Some(entry)) = (self.lease(), self.channels.get_mut(&id)) else {
            return session.channel_failure(id);
        };
        let request = entry.request(target, connection);
        let ready = if request.fits() { entry.idle.take() } else { None };
        let Some((writer, place)) = ready else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let login = matches!(request.target, OpenTarget::Shell { terminal: Some(_) });
        let screen = login.then(|| Screen { greeting: lease.greeting(), notices: lease.notices() });
        let bridge = Bridge {
            shared: Arc::clone(&self.shared),
            lease,
            upload: Arc::clone(&entry.upload),
            writer,
            handle: session.handle(),
            over: entry.over.clone(),
            activity: Arc::clone(&self.progress.activity),
            _place: place,
        };
        self.shared.tasks.spawn("ssh channel", OnError::Log, async move {
            bridge.run(request, screen).await;
            Ok(())
        });
        Ok(())
    }

    /// Opens a channel that is a connection to somewhere inside.
    pub(super) async fn connect(
        &mut self,
        channel: Channel<Msg>,
        target: OpenTarget,
        reply: ChannelOpenHandle,
        handle: Handle,
    ) -> Outcome {
        let (lease, place) = match self.admit_channel() {
            Ok(admitted) => admitted,
            Err(why) => {
                reply.reject(why).await;
                return Ok(());
            }
        };
        let entry = self.entry(&lease, EntryKind::Connection);
        let id = channel.id();
        let (_, writer) = channel.split();
        let bridge = Bridge {
            shared: Arc::clone(&self.shared),
            lease,
            upload: Arc::clone(&entry.upload),
            writer,
            handle,
            over: entry.over.clone(),
            activity: Arc::clone(&self.progress.activity),
            _place: place,
        };
        self.channels.insert(id, entry);
        let request = OpenRequest { target, variables: Vec::new() };
        self.shared.tasks.spawn("ssh forwarding", OnError::Log, async move {
            dial(bridge, request, reply).await;
            Ok(())
        });
        Ok(())
    }

    /// How full the client's channels are.
    pub(super) fn stall(&self, id: ChannelId) -> Stall {
        let others = self.channels.iter().filter(|(other, _)| **other != id);
        let own = self.channels.get(&id).is_some_and(|entry| entry.upload.is_stalled());
        match own {
            true => Stall::Own,
            false if others.into_iter().any(|(_, entry)| entry.upload.is_stalled()) => {
                Stall::Others
            }
            false => Stall::None,
        }
    }
}

impl Entry {
    pub(super) const fn new(kind: EntryKind, upload: Arc<Upload>, over: CancellationToken) -> Self {
        Self { kind, upload, over, terminal: None, variables: Vec::new(), idle: None }
    }

    fn request(&mut self, target: StartTarget, connection: String) -> OpenRequest {
        let terminal = self.terminal.take();
        let mut variables = std::mem::take(&mut self.variables);
        variables.push(("SSH_CONNECTION".to_owned(), connection));
        let target = match target {
            StartTarget::Shell => OpenTarget::Shell { terminal },
            StartTarget::Exec(command) => OpenTarget::Exec { command, terminal },
            StartTarget::Sftp => OpenTarget::Sftp,
        };
        OpenRequest { target, variables }
    }

    /// Whether a client may set a variable, and has room for it.
    pub(super) fn takes_variable(&self, name: &str, value: &str) -> bool {
        let len: usize = self.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        let allowed = ["LANG", "TERM", "COLORTERM"].contains(&name)
            || ["LC_", "NI_"].iter().any(|prefix| name.starts_with(prefix));
        allowed
            && self.idle.is_some()
            && self.variables.len() < VARIABLES_MAX
            && len + name.len() + value.len() <= VARIABLES_LEN_MAX
    }
}

/// Answers a forwarding request when it is known whether the connection stands.
async fn dial(bridge: Bridge, request: OpenRequest, reply: ChannelOpenHandle) {
    let over = bridge.over.clone();
    let opened = tokio::select! {
        () = over.cancelled() => return,
        opened = open(&bridge.shared, &bridge.lease, request) => opened,
    };
    match opened {
        Ok(stream) => {
            reply.accept().await;
            bridge.run_connection(stream).await;
        }
        Err(why) => {
            over.cancel();
            reply.reject(connect_failure(&why)).await;
        }
    }
}

fn connect_failure(why: &NotOpened) -> ChannelOpenFailure {
    const CONNECT_FAILED: u32 = 2;
    ChannelOpenFailure::Other { code: CONNECT_FAILED, reason: why.to_string() }
}
