//! The loop of process 1: one thread that waits for the gateway, the channels and the children, and never for one of them.
#![expect(unsafe_code, reason = "signals are taken from a descriptor, which has no safe wrapper")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, wait};

use crate::args::Options;
use crate::channel::{Channel, Overrun, Port};
use crate::frames::{
    CONTROL, Exit, Frame, Message, OpenRequest, OpenTarget, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    encode,
};
use crate::hardening::{HardenError, filter_calls, lower_rights};
use crate::link::{Link, LinkError};
use crate::listener::Listeners;
use crate::process::{Started, exit_of, signal_group, start};

/// How long to wait before asking for the gateway again.
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// How long a process group has between SIGHUP and SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(3);
/// Channels open at once.
const CHANNELS_MAX: usize = 512;
/// Memory for one read.
const READ_LEN: usize = 64 * 1024;

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its rights were not lowered.
    #[error("cannot lower rights")]
    Harden(#[from] HardenError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// Waiting itself failed.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// The connection must be dropped.
#[derive(Debug, thiserror::Error)]
enum Drop {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Overrun(#[from] Overrun),
    #[error("the gateway broke the protocol")]
    Protocol,
}

/// Serves until it is told to stop from outside.
///
/// # Errors
/// When it cannot begin. Afterwards nothing that a client, a tenant or the gateway does ends it.
pub fn run(options: &Options) -> Result<(), StartError> {
    let signals = take_signals()?;
    lower_rights()?;
    if options.seccomp {
        filter_calls()?;
    }
    let mut supervisor = Supervisor {
        is_init: rustix::process::getpid().is_init(),
        channels: BTreeMap::new(),
        listeners: Listeners::default(),
        ending: Vec::new(),
        link: None,
        gateway: options.socket.clone(),
        connect_at: now(),
        scratch: vec![0; READ_LEN],
    };
    while supervisor.turn(options, &signals)? {}
    supervisor.hang_up();
    supervisor.kill_all();
    Ok(())
}

/// A process whose channel is gone.
#[derive(Debug)]
struct Ending {
    leader: Pid,
    kill_at: Instant,
}

#[derive(Debug)]
struct Supervisor {
    is_init: bool,
    channels: BTreeMap<u32, Channel>,
    listeners: Listeners,
    ending: Vec<Ending>,
    link: Option<Link>,
    /// The gateway's socket.
    gateway: PathBuf,
    connect_at: Instant,
    scratch: Vec<u8>,
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Signals,
    Link(PollFlags),
    Channel(u32, Port),
    Listener(u32),
}

impl Supervisor {
    /// One round. `false` when it was told to stop.
    fn turn(&mut self, options: &Options, signals: &OwnedFd) -> Result<bool, StartError> {
        if self.link.is_none() && now() >= self.connect_at {
            self.link = Link::connect(&options.socket).ok();
            self.connect_at = now() + RECONNECT_AFTER;
        }
        for ready in self.wait(signals)? {
            match ready {
                Ready::Signals => {
                    if self.stop_asked(signals) {
                        return Ok(false);
                    }
                    self.reap();
                }
                Ready::Link(flags) => self.link_ready(flags),
                Ready::Channel(id, port) => self.channel_ready(id, port),
                Ready::Listener(id) => {
                    if let Some(link) = self.link.as_mut() {
                        self.listeners.ready(id, link.send.tail());
                    }
                }
            }
        }
        self.finish_channels();
        self.kill_late();
        if let Some(Err(_)) = self.link.as_mut().map(Link::flush) {
            self.hang_up();
        }
        Ok(true)
    }

    fn wait(&self, signals: &OwnedFd) -> Result<Vec<Ready>, StartError> {
        let may_send = self.link.as_ref().is_some_and(Link::may_send);
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let mut meanings = vec![Ready::Signals];
        for (id, channel) in &self.channels {
            if let Some((port, fd)) = channel.writable() {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
                meanings.push(Ready::Channel(*id, port));
            }
            for (port, fd) in channel.readable().filter(|_| may_send) {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                meanings.push(Ready::Channel(*id, port));
            }
        }
        for (id, fd) in self.listeners.pollable().filter(|_| may_send) {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            meanings.push(Ready::Listener(id));
        }
        let link_at = self.link.as_ref().map(|link| {
            let (fd, flags) = link.interest();
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            fds.len() - 1
        });
        match poll(&mut fds, self.timeout().as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(StartError::Wait(error.into())),
        }
        let mut ready = Vec::new();
        for (at, fd) in fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty()) {
            ready.push(match meanings.get(at) {
                _ if Some(at) == link_at => Ready::Link(fd.revents()),
                Some(meaning) => *meaning,
                None => Ready::Signals,
            });
        }
        let lingering = self.channels.iter().filter(|(_, channel)| may_send && channel.lingers());
        ready.extend(lingering.map(|(id, _)| Ready::Channel(*id, Port::Output)));
        Ok(ready)
    }

    fn timeout(&self) -> Option<Timespec> {
        let reconnect = self.link.is_none().then_some(self.connect_at);
        let lingering = self.channels.values().any(Channel::lingers).then(now);
        let kill = self.ending.iter().map(|ending| ending.kill_at);
        let next = kill.chain(reconnect).chain(lingering).min()?;
        Timespec::try_from(next.saturating_duration_since(now())).ok()
    }

    fn link_ready(&mut self, flags: PollFlags) {
        let Some(mut link) = self.link.take() else { return };
        let mut served = Ok(());
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            served = link.receive(&mut self.scratch).map_err(Drop::from);
            if served.is_ok() {
                served = link.drain(|message, out| self.serve(&message, out));
            }
        }
        self.link = Some(link);
        if served.is_err() {
            self.hang_up();
        }
    }

    fn serve(&mut self, message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), Drop> {
        let id = message.channel;
        match &message.frame {
            Frame::Hello { version: PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION } if id == CONTROL => {
                return Ok(());
            }
            Frame::Open(request) if id != CONTROL && self.is_free(id) => {
                self.open(id, request, out);
                return Ok(());
            }
            Frame::Hello { .. }
            | Frame::Open(_)
            | Frame::Opened
            | Frame::Refused(_)
            | Frame::ErrorData(_)
            | Frame::Listening { .. }
            | Frame::Incoming(_)
            | Frame::Exit(_) => return Err(Drop::Protocol),
            Frame::Close => {
                if self.listeners.close(id) {
                    encode(id, &Frame::Close, out);
                }
                if let Some(channel) = self.channels.remove(&id) {
                    self.end(channel);
                    encode(id, &Frame::Close, out);
                }
                return Ok(());
            }
            Frame::Data(_)
            | Frame::Eof
            | Frame::Credit(_)
            | Frame::Resize(_)
            | Frame::Signal(_) => {}
        }
        // A channel that ended here may still be spoken to by a gateway that has not heard of it.
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        match message.frame {
            Frame::Data(bytes) => channel.data(bytes, out)?,
            Frame::Eof => channel.end_of_input(),
            Frame::Credit(bytes) => channel.grant(bytes)?,
            Frame::Resize(size) => channel.resize(size),
            Frame::Signal(number) => channel.signal(number),
            _ => return Err(Drop::Protocol),
        }
        Ok(())
    }

    fn is_free(&self, id: u32) -> bool {
        !self.channels.contains_key(&id) && !self.listeners.contains(id)
    }

    /// Starts what is asked for and answers.
    fn open(&mut self, id: u32, request: &OpenRequest, out: &mut Vec<u8>) {
        let listening = match &request.target {
            OpenTarget::Listen { port } => self.listeners.listen(id, *port),
            OpenTarget::ListenUnix { path, place } => {
                self.listeners.listen_unix(id, path, *place).map(|()| 0)
            }
            _ => return self.start(id, request, out),
        };
        match listening {
            Ok(port) => encode(id, &Frame::Listening { port }, out),
            Err(refusal) => encode(id, &Frame::Refused(&refusal.to_string()), out),
        }
    }

    fn start(&mut self, id: u32, request: &OpenRequest, out: &mut Vec<u8>) {
        if self.channels.len() >= CHANNELS_MAX {
            encode(id, &Frame::Refused("too many channels are open"), out);
            return;
        }
        let started = match request.target {
            OpenTarget::Accept { token } => match self.listeners.fetch(token) {
                Some(socket) => Started::connection(socket).map_err(|error| error.to_string()),
                None => Err("the connection is gone".to_owned()),
            },
            _ => start(request, &self.gateway).map_err(|error| error.to_string()),
        };
        match started {
            Ok(started) => {
                if started.leader.is_some() {
                    encode(id, &Frame::Opened, out);
                }
                self.channels.insert(id, Channel::new(id, started));
            }
            Err(refusal) => encode(id, &Frame::Refused(&refusal), out),
        }
    }

    fn channel_ready(&mut self, id: u32, port: Port) {
        if let (Some(channel), Some(link)) = (self.channels.get_mut(&id), self.link.as_mut()) {
            channel.ready(port, &mut self.scratch, link.send.tail());
        }
    }

    fn finish_channels(&mut self) {
        if let Some(link) = self.link.as_mut() {
            self.channels.retain(|_, channel| !channel.finish(link.send.tail()));
        }
    }

    /// The gateway is gone: nobody listens to what runs in the channels.
    fn hang_up(&mut self) {
        self.link = None;
        self.connect_at = now() + RECONNECT_AFTER;
        self.listeners.clear();
        for channel in std::mem::take(&mut self.channels).into_values() {
            self.end(channel);
        }
    }

    /// Ends a channel's process as a lost terminal would, and by force if that is not enough. A program that was told
    /// to outlive its session (`nohup`) does so once the leader has gone.
    fn end(&mut self, channel: Channel) {
        if let Some(leader) = channel.into_leader() {
            signal_group(leader, Signal::HUP);
            signal_group(leader, Signal::CONT);
            self.ending.push(Ending { leader, kill_at: now() + KILL_AFTER });
        }
    }

    fn kill_late(&mut self) {
        let now = now();
        for ending in self.ending.iter_mut().filter(|ending| ending.kill_at <= now) {
            signal_group(ending.leader, Signal::KILL);
            // One that is stuck in the kernel is asked again at the same pace, not in a circle.
            ending.kill_at = now + KILL_AFTER;
        }
    }

    fn kill_all(&self) {
        for ending in &self.ending {
            signal_group(ending.leader, Signal::KILL);
        }
    }

    /// Takes every ended child, orphans of the whole container among them.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(exit) = exit_of(status) else { continue };
            self.ending.retain(|ending| ending.leader != pid);
            self.exited(pid, exit);
        }
    }

    fn exited(&mut self, pid: Pid, exit: Exit) {
        if let Some(channel) = self.channels.values_mut().find(|c| c.leader() == Some(pid)) {
            channel.exited(exit);
        }
    }

    /// Reads the waiting signals. Process 1 stops only for one from outside of its container, whose sender it cannot see.
    fn stop_asked(&self, signals: &OwnedFd) -> bool {
        let mut stop = false;
        loop {
            // SAFETY: the structure is plain data for which zero is a valid value.
            let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
            let len = size_of_val(&info);
            // SAFETY: the pointer and the length are those of a structure that lives through the call.
            let read = unsafe { libc::read(signals.as_raw_fd(), (&raw mut info).cast(), len) };
            if usize::try_from(read) != Ok(len) {
                return stop;
            }
            let child = u32::try_from(libc::SIGCHLD) == Ok(info.ssi_signo);
            stop |= !child && (!self.is_init || info.ssi_pid == 0);
        }
    }
}

/// Blocks the signals that matter and returns the descriptor on which they arrive.
fn take_signals() -> Result<OwnedFd, StartError> {
    // SAFETY: the set lives on this stack and is initialised by sigemptyset; the descriptor is new and owned by nobody.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
        }
        // Where it is ignored the kernel buries the dead, and nobody learns how they ended.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(StartError::Signals(io::Error::last_os_error()));
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(StartError::Signals(io::Error::last_os_error()));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn now() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "the agent knows no other room, the clock included"
    )]
    Instant::now()
}
