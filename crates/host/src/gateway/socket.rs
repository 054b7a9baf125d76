//! A client's TCP connection, with the two things that the SSH library does not do: it ends when it is told to, in
//! whatever state the session is, and it acknowledges at once, since delayed acknowledgements stall half of all logins
//! by 40 ms.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use nicompute_daemon::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

pub(super) struct ClientSocket {
    socket: TcpStream,
    read_cancel: Pin<Box<WaitForCancellationFutureOwned>>,
    write_cancel: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl ClientSocket {
    pub(super) fn new(socket: TcpStream, cancel: &CancellationToken) -> Self {
        Self {
            socket,
            read_cancel: Box::pin(cancel.clone().cancelled_owned()),
            write_cancel: Box::pin(cancel.clone().cancelled_owned()),
        }
    }
}

fn cancelled() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the session was ended")
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_cancel.as_mut().poll(ctx).is_ready() {
            return Poll::Ready(Err(cancelled()));
        }
        let read = Pin::new(&mut self.socket).poll_read(ctx, buf);
        if read.is_ready() {
            // The kernel forgets this mode after every acknowledgement. It is a matter of speed only.
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.socket, true);
        }
        read
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_cancel.as_mut().poll(ctx).is_ready() {
            return Poll::Ready(Err(cancelled()));
        }
        Pin::new(&mut self.socket).poll_write(ctx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(ctx)
    }
}
