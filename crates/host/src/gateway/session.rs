//! One SSH connection: who it is, and what its channels ask for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nicompute_agent::frames::{OpenRequest, OpenTarget, TerminalRequest, WindowSize};
use nicompute_daemon::{CancellationToken, OnError};
use russh::keys::{Algorithm, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Disconnect, MethodKind, MethodSet,
    Pty, Sig,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::DropGuard;

use super::Shared;
use super::bridge::{Bridge, NotOpened, signal_number};
use super::lease::{Lease, SessionPlace};
use super::upload::Upload;

/// Variables of one channel.
const VARIABLES_MAX: usize = 64;
/// Bytes of one channel's variables.
const VARIABLES_LEN_MAX: usize = 16 * 1024;
/// The longest terminal name.
const TERMINAL_NAME_MAX: usize = 64;
/// The longest host name in a forwarding request.
const HOST_LEN_MAX: usize = 255;
/// Where a client may ask for a connection to; SSH carries a number of 32 bits.
const PORTS: std::ops::RangeInclusive<u32> = 1..=65_535;

/// Shared by a connection's task and its handler.
#[derive(Debug)]
pub(super) struct Progress {
    /// Cancelled when the session must end, and when it has ended.
    pub(super) over: CancellationToken,
    /// Cancelled when the client is known.
    pub(super) known: CancellationToken,
}

/// The SSH library's view of one connection.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    peer: SocketAddr,
    local: SocketAddr,
    admitted: Option<(Arc<Lease>, PublicKey)>,
    place: Option<SessionPlace>,
    channels: HashMap<ChannelId, Entry>,
    /// The library drops the handler with the session, however that ends; every task of the session ends then.
    _ends_session: DropGuard,
}

/// One open channel.
#[derive(Debug)]
struct Entry {
    upload: Arc<Upload>,
    over: CancellationToken,
    terminal: Option<TerminalRequest>,
    variables: Vec<(String, String)>,
    /// What is needed to start something; taken when it starts.
    idle: Option<(ChannelWriteHalf<Msg>, OwnedSemaphorePermit)>,
}

type Outcome = Result<(), russh::Error>;

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
            channels: HashMap::new(),
            _ends_session: ends_session,
        }
    }

    /// A place for one more channel, or why there is none.
    fn admit_channel(&mut self) -> Result<(Arc<Lease>, OwnedSemaphorePermit), ChannelOpenFailure> {
        self.channels.retain(|_, entry| !entry.over.is_cancelled());
        let lease = self.place.as_ref().map(SessionPlace::lease);
        let lease = lease.ok_or(ChannelOpenFailure::AdministrativelyProhibited)?;
        if self.channels.len() >= self.shared.limits.channels_per_connection {
            return Err(ChannelOpenFailure::ResourceShortage);
        }
        let place = Arc::clone(&lease.channel_room).try_acquire_owned();
        Ok((Arc::clone(lease), place.map_err(|_| ChannelOpenFailure::ResourceShortage)?))
    }

    fn entry(&self, lease: &Lease) -> Entry {
        let room = Arc::clone(&lease.upload_room);
        Entry {
            upload: Arc::new(Upload::new(self.shared.limits.upload_per_channel, room)),
            over: self.progress.over.child_token(),
            terminal: None,
            variables: Vec::new(),
            idle: None,
        }
    }

    /// Starts what a channel asks for and answers the request. The answer comes at once; whether the machine can do it
    /// is said on the channel, where there are words for it.
    fn start(&mut self, id: ChannelId, target: StartTarget, session: &mut Session) -> Outcome {
        let connection = format!(
            "{} {} {} {}",
            self.peer.ip().to_canonical(),
            self.peer.port(),
            self.local.ip().to_canonical(),
            self.local.port()
        );
        let lease = self.place.as_ref().map(|place| Arc::clone(place.lease()));
        let (Some(lease), Some(entry)) = (lease, self.channels.get_mut(&id)) else {
            return session.channel_failure(id);
        };
        let request = entry.request(target, connection);
        let ready = if request.fits() { entry.idle.take() } else { None };
        let Some((writer, place)) = ready else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let bridge = Bridge {
            shared: Arc::clone(&self.shared),
            lease,
            upload: Arc::clone(&entry.upload),
            writer,
            handle: session.handle(),
            over: entry.over.clone(),
            _place: place,
        };
        self.shared.tasks.spawn("ssh channel", OnError::Log, async move {
            bridge.run(request).await;
            Ok(())
        });
        Ok(())
    }
}

enum StartTarget {
    Shell,
    Exec(Vec<u8>),
    Sftp,
}

impl Entry {
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

    fn takes_variable(&self, name: &str, value: &str) -> bool {
        let len: usize = self.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        let allowed = ["LANG", "TERM", "COLORTERM"].contains(&name)
            || ["LC_", "NI_"].iter().any(|prefix| name.starts_with(prefix));
        allowed
            && self.idle.is_some()
            && self.variables.len() < VARIABLES_MAX
            && len + name.len() + value.len() <= VARIABLES_LEN_MAX
    }
}

fn refused() -> Auth {
    // The methods are given again: without that the library forgets one with each refusal, and some clients then wait
    // for a prompt that never comes.
    let methods = MethodSet::from([MethodKind::PublicKey].as_slice());
    Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
}

fn window_size(columns: u32, rows: u32, width: u32, height: u32) -> WindowSize {
    let clamp = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    WindowSize {
        columns: clamp(columns),
        rows: clamp(rows),
        width_px: clamp(width),
        height_px: clamp(height),
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        Ok(refused())
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let sha1 = matches!(offer.algorithm, Algorithm::Rsa { hash: None });
        let known = !sha1 && self.shared.leases.authorize(user, offer.public_key).is_some();
        Ok(if known { Auth::Accept } else { refused() })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let Some(lease) = self.shared.leases.authorize(user, key.public_key) else {
            return Ok(refused());
        };
        self.admitted = Some((lease, key.public_key.clone()));
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Outcome {
        self.progress.known.cancel();
        let max = self.shared.limits.connections_per_lease;
        let over = self.progress.over.clone();
        self.place = self.admitted.take().and_then(|(lease, key)| lease.enter(&key, over, max));
        if self.place.is_none() {
            let text = "too many connections into this lease, or it has just ended";
            session.disconnect(Disconnect::TooManyConnections, text, "en")?;
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome {
        match self.admit_channel() {
            Ok((lease, place)) => {
                let id = channel.id();
                // The reading half is dropped: data is taken in `data`, where each channel has its own room.
                let (_, writer) = channel.split();
                let idle = Some((writer, place));
                let entry = Entry { idle, ..self.entry(&lease) };
                self.channels.insert(id, entry);
                reply.accept().await;
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Outcome {
        let port = u16::try_from(port).ok().filter(|_| PORTS.contains(&port));
        let (Some(port), true) = (port, host.len() <= HOST_LEN_MAX) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let (lease, place) = match self.admit_channel() {
            Ok(admitted) => admitted,
            Err(why) => {
                reply.reject(why).await;
                return Ok(());
            }
        };
        let entry = self.entry(&lease);
        let id = channel.id();
        let (_, writer) = channel.split();
        let bridge = Bridge {
            shared: Arc::clone(&self.shared),
            lease,
            upload: Arc::clone(&entry.upload),
            writer,
            handle: session.handle(),
            over: entry.over.clone(),
            _place: place,
        };
        self.channels.insert(id, entry);
        let target = OpenTarget::Dial { host: host.to_owned(), port };
        let request = OpenRequest { target, variables: Vec::new() };
        self.shared.tasks.spawn("ssh forwarding", OnError::Log, async move {
            dial(bridge, request, reply).await;
            Ok(())
        });
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Outcome {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Outcome {
        if let Some(entry) = self.channels.remove(&id) {
            entry.over.cancel();
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Outcome {
        if let Some(entry) = self.channels.get(&id) {
            entry.upload.end();
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut Session) -> Outcome {
        if let Some(entry) = self.channels.get(&id) {
            entry.upload.push(data, &entry.over).await;
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Outcome {
        let plain = term.len() <= TERMINAL_NAME_MAX && !term.contains('\0');
        match self.channels.get_mut(&id).filter(|entry| plain && entry.idle.is_some()) {
            Some(entry) => {
                entry.terminal = Some(TerminalRequest {
                    name: term.to_owned(),
                    size: window_size(columns, rows, width, height),
                    modes: modes.iter().map(|(code, value)| (*code as u8, *value)).collect(),
                });
                session.channel_success(id)
            }
            None => session.channel_failure(id),
        }
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Outcome {
        session.channel_failure(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Outcome {
        match self.channels.get_mut(&id).filter(|entry| entry.takes_variable(name, value)) {
            Some(entry) => {
                entry.variables.push((name.to_owned(), value.to_owned()));
                session.channel_success(id)
            }
            None => session.channel_failure(id),
        }
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Outcome {
        self.start(id, StartTarget::Shell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Outcome {
        self.start(id, StartTarget::Exec(command.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Outcome {
        match name {
            "sftp" => self.start(id, StartTarget::Sftp, session),
            _ => session.channel_failure(id),
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        _: &mut Session,
    ) -> Outcome {
        if let Some(entry) = self.channels.get(&id) {
            entry.upload.resize(window_size(columns, rows, width, height));
        }
        Ok(())
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _: &mut Session) -> Outcome {
        if let (Some(entry), Some(number)) = (self.channels.get(&id), signal_number(&signal)) {
            entry.upload.signal(number);
        }
        Ok(())
    }
}

/// Answers a forwarding request when it is known whether the connection stands.
async fn dial(bridge: Bridge, request: OpenRequest, reply: ChannelOpenHandle) {
    let over = bridge.over.clone();
    let opened = tokio::select! {
        () = over.cancelled() => return,
        opened = bridge.open(request) => opened,
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
