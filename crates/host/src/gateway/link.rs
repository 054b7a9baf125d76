//! The connection of one agent: frames in, spread over the channels; frames out, in the order they were asked for.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nicompute_agent::frames::{
    CONTROL, FRAME_LEN_MAX, Frame, FrameError, HEADER_LEN, Message, OpenRequest, OpenTarget,
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, parse, to_vec,
};
use nicompute_daemon::CancellationToken;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use super::lease::Lease;
use super::stream::{Stream, StreamKind, Violation};
use super::{Shared, within};

/// Frames that wait to be sent to one agent.
const SEND_QUEUE: usize = 64;
/// Frames for channels that are closed already, between two openings. Some are natural: they were on their way.
const STRAY_MAX: u32 = 1 << 16;
/// Memory for one read.
const READ_LEN: usize = 64 * 1024;

/// Why a connection with an agent ended badly.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("no greeting in time")]
    Hello,
    #[error("a greeting of version {0}")]
    Version(u16),
    #[error("not a frame: {0}")]
    Frame(#[from] FrameError),
    #[error("broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
}

/// The agent is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// An agent that has greeted.
#[derive(Debug)]
pub(super) struct Link {
    pid: Option<u32>,
    /// The version of the protocol that the agent speaks.
    version: u16,
    channels: Mutex<Channels>,
    send: mpsc::Sender<Vec<u8>>,
    /// Channels that were given up and of which the agent has not been told.
    given_up: Mutex<Vec<u32>>,
    given_up_changed: Notify,
    gone: CancellationToken,
}

#[derive(Debug)]
struct Channels {
    open: BTreeMap<u32, Arc<Stream>>,
    /// The next number; none is used twice on one connection.
    next: u32,
    stray: u32,
}

/// A channel that its holder still wants.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) channel: u32,
    pub(super) stream: Arc<Stream>,
    pub(super) link: Arc<Link>,
}

impl Link {
    /// Serves a connection from its greeting to its end.
    pub(super) async fn serve(
        shared: &Arc<Shared>,
        lease: &Arc<Lease>,
        mut socket: UnixStream,
        pid: Option<u32>,
    ) -> Result<(), LinkError> {
        let mut received = Vec::new();
        let greeting = greet(&mut socket, &mut received);
        let version = tokio::select! {
            () = lease.closed.cancelled() => return Ok(()),
            greeted = within(&shared.clock, shared.limits.hello, greeting) => greeted.ok_or(LinkError::Hello)??,
        };
        let (send, queue) = mpsc::channel(SEND_QUEUE);
        let link = Arc::new(Self {
            pid,
            version,
            channels: Mutex::new(Channels { open: BTreeMap::new(), next: CONTROL, stray: 0 }),
            send,
            given_up: Mutex::new(Vec::new()),
            given_up_changed: Notify::new(),
            gone: lease.closed.child_token(),
        });
        if !lease.set_agent(&link) {
            return Ok(());
        }
        let (read, write) = socket.split();
        let outcome = tokio::select! {
            () = link.gone.cancelled() => Ok(()),
            read = link.receive(read, received) => read,
            written = link.transmit(write, queue) => written.map_err(LinkError::from),
        };
        lease.unset_agent(&link);
        link.cut();
        outcome
    }

    /// The agent's process, by the kernel's word.
    pub(super) const fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether the agent knows what is asked for.
    pub(super) const fn knows(&self, target: &OpenTarget) -> bool {
        target.since_version() <= self.version
    }

    /// Ends the connection, and with it every channel.
    pub(super) fn cut(&self) {
        self.gone.cancel();
        for stream in std::mem::take(&mut self.channels().open).into_values() {
            stream.lose();
        }
    }

    /// Asks the agent to start something.
    pub(super) async fn open(self: &Arc<Self>, request: OpenRequest) -> Result<OpenStream, Lost> {
        let kind = match request.target {
            OpenTarget::Listen { .. } | OpenTarget::ListenUnix { .. } => StreamKind::Listener,
            _ => StreamKind::Bytes,
        };
        let stream = Arc::new(Stream::new(kind));
        let channel = {
            let mut channels = self.channels();
            if self.gone.is_cancelled() {
                return Err(Lost);
            }
            channels.next = channels.next.checked_add(1).ok_or(Lost)?;
            channels.stray = 0;
            let channel = channels.next;
            channels.open.insert(channel, Arc::clone(&stream));
            channel
        };
        // Held from here on, so that a caller who gives up while waiting gives the channel back.
        let open = OpenStream { channel, stream, link: Arc::clone(self) };
        self.send(to_vec(channel, &Frame::Open(request))).await?;
        Ok(open)
    }

    /// Queues frames; waits while the agent takes none.
    pub(super) async fn send(&self, frames: Vec<u8>) -> Result<(), Lost> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Lost),
            sent = self.send.send(frames) => sent.map_err(|_| Lost),
        }
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn receive(
        &self,
        mut socket: impl AsyncRead + Unpin,
        mut received: Vec<u8>,
    ) -> Result<(), LinkError> {
        loop {
            let mut taken = 0;
            while let Some((message, len)) = parse(received.get(taken..).unwrap_or_default())? {
                self.dispatch(&message)?;
                taken += len;
            }
            received.drain(..taken);
            if read_some(&mut socket, &mut received).await? == 0 {
                return Ok(());
            }
        }
    }

    fn dispatch(&self, message: &Message<'_>) -> Result<(), Violation> {
        let mut channels = self.channels();
        let Some(stream) = channels.open.get(&message.channel).cloned() else {
            if message.channel == CONTROL || message.channel > channels.next {
                return Err(Violation::UnknownChannel);
            }
            channels.stray += 1;
            return if channels.stray > STRAY_MAX { Err(Violation::Stray) } else { Ok(()) };
        };
        if stream.accept(&message.frame)? {
            channels.open.remove(&message.channel);
        }
        Ok(())
    }

    async fn transmit(
        &self,
        mut socket: impl AsyncWrite + Unpin,
        mut queue: mpsc::Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        loop {
            let frames = tokio::select! {
                biased;
                () = self.given_up_changed.notified() => self.take_given_up(),
                frames = queue.recv() => match frames {
                    Some(frames) => frames,
                    None => return Ok(()),
                },
            };
            socket.write_all(&frames).await?;
        }
    }

    fn take_given_up(&self) -> Vec<u8> {
        let channels =
            std::mem::take(&mut *self.given_up.lock().unwrap_or_else(PoisonError::into_inner));
        channels.into_iter().flat_map(|channel| to_vec(channel, &Frame::Close)).collect()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // Still in the table means that the agent has not closed it.
        if self.link.channels().open.remove(&self.channel).is_some() {
            self.link.given_up.lock().unwrap_or_else(PoisonError::into_inner).push(self.channel);
            self.link.given_up_changed.notify_one();
        }
    }
}

/// Reads the agent's greeting and answers it with the same version, which it gives. What came after stays in `received`.
async fn greet(socket: &mut UnixStream, received: &mut Vec<u8>) -> Result<u16, LinkError> {
    let version = loop {
        if let Some((message, taken)) = parse(received)? {
            let version = match message {
                Message {
                    channel: CONTROL,
                    frame:
                        Frame::Hello { version: version @ PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION },
                } => version,
                Message { frame: Frame::Hello { version }, .. } => {
                    return Err(LinkError::Version(version));
                }
                Message { .. } => return Err(Violation::Order.into()),
            };
            received.drain(..taken);
            break version;
        }
        if read_some(socket, received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    socket.write_all(&to_vec(CONTROL, &Frame::Hello { version })).await?;
    Ok(version)
}

/// Reads once. At most one frame is ever incomplete, so what is held is bounded by the longest frame and one read.
async fn read_some(socket: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<usize> {
    debug_assert!(into.len() < HEADER_LEN + FRAME_LEN_MAX, "whole frames are taken out first");
    into.reserve(READ_LEN);
    socket.read_buf(into).await
}
