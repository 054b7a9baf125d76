//! One channel: what runs behind it, the data on its way in, and what it may still send.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::buffer::Buffer;
use crate::frames::{
    DATA_LEN_MAX, DataKind, Exit, Frame, WINDOW, WindowSize, begin_data, encode, finish_data,
};
use crate::process::{Started, signal_group};
use crate::terminal;

/// Credit is returned in pieces of at least this size, so that small reads do not double the number of frames.
const CREDIT_STEP: u32 = WINDOW / 4;

/// One of a channel's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Input,
    Output,
    Error,
}

/// What is at the other end of the descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipes,
    Terminal,
    /// A connection that is being made; nothing has been said to the gateway yet.
    Connecting,
    Connected,
}

/// The gateway did what its own rules forbid. The connection is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway sent more than its credit")]
pub(crate) struct Overrun;

/// An open channel.
#[derive(Debug)]
pub(crate) struct Channel {
    id: u32,
    leader: Option<Pid>,
    kind: Kind,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
    waiting: Buffer,
    input_ended: bool,
    /// How many bytes the gateway still takes.
    credit: u32,
    /// How many bytes of its data were taken and not yet granted again.
    taken: u32,
    exit: Option<Exit>,
}

impl Channel {
    /// A channel over what was started.
    pub(crate) fn new(id: u32, started: Started) -> Self {
        let kind = match (started.leader, started.terminal) {
            (None, _) => Kind::Connecting,
            (Some(_), true) => Kind::Terminal,
            (Some(_), false) => Kind::Pipes,
        };
        Self {
            id,
            leader: started.leader,
            kind,
            input: Some(started.input),
            output: Some(started.output),
            error: started.error,
            waiting: Buffer::default(),
            input_ended: false,
            credit: WINDOW,
            taken: 0,
            exit: None,
        }
    }

    /// The process whose end ends the channel.
    pub(crate) const fn leader(&self) -> Option<Pid> {
        self.leader
    }

    /// Takes the process away, to be ended by someone else.
    pub(crate) fn into_leader(self) -> Option<Pid> {
        if self.exit.is_some() { None } else { self.leader }
    }

    /// The descriptor that takes data, while there is some.
    pub(crate) fn writable(&self) -> Option<(Port, BorrowedFd<'_>)> {
        let wanted = self.kind == Kind::Connecting || !self.waiting.is_empty();
        let input = self.input.as_ref().filter(|_| wanted)?;
        Some((Port::Input, input.as_fd()))
    }

    /// The descriptors that give data, while the gateway takes it.
    pub(crate) fn readable(&self) -> impl Iterator<Item = (Port, BorrowedFd<'_>)> {
        let wanted = self.kind != Kind::Connecting && self.credit > 0;
        let output = self.output.as_ref().map(|fd| (Port::Output, fd.as_fd()));
        let error = self.error.as_ref().map(|fd| (Port::Error, fd.as_fd()));
        output.into_iter().chain(error).filter(move |_| wanted)
    }

    /// Makes progress on one descriptor. Frames are appended to `out`; `scratch` is the memory to read into.
    pub(crate) fn ready(&mut self, port: Port, scratch: &mut [u8], out: &mut Vec<u8>) {
        match port {
            Port::Input if self.kind == Kind::Connecting => self.connected(out),
            Port::Input => self.write_waiting(out),
            Port::Output => self.read(DataKind::Plain, scratch, out),
            Port::Error => self.read(DataKind::Error, scratch, out),
        }
    }

    /// Whether output may be left after the process ended, although nobody says so: what a background job on the same
    /// terminal wrote is read until nothing is there, and then the terminal goes.
    pub(crate) fn lingers(&self) -> bool {
        self.kind == Kind::Terminal
            && self.exit.is_some()
            && self.output.is_some()
            && self.credit > 0
    }

    /// Data from the gateway.
    pub(crate) fn data(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Overrun> {
        let window = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        if self.waiting.len() + bytes.len() > window {
            return Err(Overrun);
        }
        if self.input.is_none() {
            // The program closed its input. The data is dropped as a broken pipe would drop it, and the client goes on.
            self.credit_back(bytes.len(), out);
            return Ok(());
        }
        self.waiting.tail().extend_from_slice(bytes);
        if self.kind != Kind::Connecting {
            self.write_waiting(out);
        }
        Ok(())
    }

    /// No more data from the gateway.
    pub(crate) fn end_of_input(&mut self) {
        // On a terminal the end of input is a character that the client types; closing would hang up.
        self.input_ended = self.kind != Kind::Terminal;
        self.end_input_when_empty();
    }

    /// The gateway has room for more.
    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), Overrun> {
        self.credit = self.credit.checked_add(bytes).filter(|sum| *sum <= WINDOW).ok_or(Overrun)?;
        Ok(())
    }

    /// The client's window changed.
    pub(crate) fn resize(&self, size: WindowSize) {
        if let (Kind::Terminal, Some(master)) = (self.kind, &self.input) {
            // A terminal whose last program is gone cannot be resized, and need not be.
            drop(terminal::resize(master, size));
        }
    }

    /// The client sends a signal to what runs.
    pub(crate) fn signal(&self, number: u8) {
        if let (Some(leader), None) = (self.leader, self.exit)
            && let Some(signal) = Signal::from_named_raw(i32::from(number))
        {
            signal_group(leader, signal);
        }
    }

    /// The process has ended and is reaped.
    pub(crate) const fn exited(&mut self, exit: Exit) {
        self.exit = Some(exit);
    }

    /// Whether all is said; if so, says the end.
    pub(crate) fn finish(&self, out: &mut Vec<u8>) -> bool {
        let silent = self.output.is_none() && self.error.is_none();
        let over = match self.leader {
            Some(_) => silent && self.exit.is_some(),
            None => silent && self.input.is_none(),
        };
        if over {
            if let Some(exit) = self.exit {
                encode(self.id, &Frame::Exit(exit), out);
            }
            encode(self.id, &Frame::Close, out);
        }
        over
    }

    fn connected(&mut self, out: &mut Vec<u8>) {
        self.kind = Kind::Connected;
        let Some(socket) = &self.input else { return };
        let failure = match rustix::net::sockopt::socket_error(socket) {
            Ok(Ok(())) => {
                encode(self.id, &Frame::Opened, out);
                self.write_waiting(out);
                return;
            }
            Ok(Err(error)) | Err(error) => io::Error::from(error),
        };
        encode(self.id, &Frame::Refused(&format!("cannot connect ({failure})")), out);
        self.input = None;
        self.output = None;
    }

    fn write_waiting(&mut self, out: &mut Vec<u8>) {
        let mut written = 0;
        while let (Some(input), false) = (&self.input, self.waiting.is_empty()) {
            match rustix::io::write(input, self.waiting.waiting()) {
                Ok(count) => {
                    self.waiting.take(count);
                    written += count;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    written += self.waiting.len();
                    self.waiting.clear();
                    self.input = None;
                }
            }
        }
        self.credit_back(written, out);
        self.end_input_when_empty();
    }

    fn end_input_when_empty(&mut self) {
        if self.input_ended && self.waiting.is_empty() && self.kind != Kind::Connecting {
            if let (Some(socket), None) = (&self.input, self.leader) {
                // Half of the connection closes; a peer that is gone already has closed both.
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
            }
            self.input = None;
        }
    }

    fn credit_back(&mut self, bytes: usize, out: &mut Vec<u8>) {
        self.taken = self.taken.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.taken >= CREDIT_STEP || (self.taken > 0 && self.waiting.is_empty()) {
            encode(self.id, &Frame::Credit(self.taken), out);
            self.taken = 0;
        }
    }

    fn read(&mut self, kind: DataKind, scratch: &mut [u8], out: &mut Vec<u8>) {
        let source = match kind {
            DataKind::Plain => &mut self.output,
            DataKind::Error => &mut self.error,
        };
        let Some(fd) = source else { return };
        let room = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let limit = room.min(DATA_LEN_MAX).min(scratch.len());
        if limit == 0 {
            return;
        }
        match rustix::io::read(&*fd, &mut scratch[..limit]) {
            Ok(count @ 1..) => {
                let start = begin_data(out);
                out.extend_from_slice(&scratch[..count]);
                finish_data(start, self.id, kind, out);
                self.credit -= u32::try_from(count).unwrap_or(self.credit);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if self.kind == Kind::Terminal && self.exit.is_some() => {
                *source = None;
            }
            Err(Errno::AGAIN) => {}
            // The end, or an error that ends it: a terminal without programs reads as EIO.
            Ok(0) | Err(_) => {
                *source = None;
                if self.leader.is_none() {
                    encode(self.id, &Frame::Eof, out);
                }
            }
        }
    }
}
