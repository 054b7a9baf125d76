//! The one connection to the gateway: bytes in until frames are whole, frames out until the socket takes them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::buffer::Buffer;
use crate::frames::{CONTROL, Frame, FrameError, Message, PROTOCOL_VERSION, encode, parse};

/// Channels are not read while more than this waits to be sent.
const SEND_HIGH: usize = 1 << 20;
/// The gateway is not read while more than this waits to be sent, so that requests cannot pile up answers.
const SEND_MAX: usize = 4 << 20;

/// The connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the gateway closed the connection")]
    Closed,
    #[error("the connection to the gateway failed")]
    Io(#[source] io::Error),
    #[error("the gateway sent what is no frame")]
    Frame(#[from] FrameError),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    received: Buffer,
    pub(crate) send: Buffer,
}

impl Link {
    /// Connects and greets. Never waits: a gateway that is not there is an error at once.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let mut send = Buffer::default();
        encode(CONTROL, &Frame::Hello { version: PROTOCOL_VERSION }, send.tail());
        Ok(Self { socket, received: Buffer::default(), send })
    }

    /// Whether channels may add data.
    pub(crate) const fn may_send(&self) -> bool {
        self.send.len() < SEND_HIGH
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.send.len() < SEND_MAX);
        flags.set(PollFlags::OUT, !self.send.is_empty());
        (self.socket.as_fd(), flags)
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while !self.send.is_empty() {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, self.send.waiting(), flags) {
                Ok(count) => self.send.take(count),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(LinkError::Io(error.into())),
            }
        }
        Ok(())
    }

    /// Receives once.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<(), LinkError> {
        match rustix::io::read(&self.socket, &mut *scratch) {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => {
                self.received.tail().extend_from_slice(&scratch[..count]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(LinkError::Io(error.into())),
        }
    }

    /// Hands every whole frame to `each`, with the place for its answers.
    pub(crate) fn drain<E: From<LinkError>>(
        &mut self,
        mut each: impl FnMut(Message<'_>, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some((message, taken)) =
            parse(self.received.waiting()).map_err(LinkError::from)?
        {
            each(message, self.send.tail())?;
            self.received.take(taken);
        }
        Ok(())
    }
}
