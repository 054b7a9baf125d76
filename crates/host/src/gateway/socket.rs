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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(cancel: &CancellationToken) -> (ClientSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let connect = TcpStream::connect(listener.local_addr().expect("bound"));
        let (accepted, client) = tokio::join!(listener.accept(), connect);
        (ClientSocket::new(accepted.expect("accepts").0, cancel), client.expect("connects"))
    }

    /// Acknowledgements that wait for company stall half of all logins by 40 ms; the kernel forgets the mode by itself.
    #[tokio::test]
    async fn every_read_asks_for_quick_acknowledgements() {
        let (mut ours, mut theirs) = pair(&CancellationToken::new()).await;
        for _ in 0..3 {
            rustix::net::sockopt::set_tcp_quickack(&ours.socket, false).expect("off");
            theirs.write_all(b"x").await.expect("writes");
            assert_eq!(ours.read_u8().await.expect("reads"), b'x');
            assert!(rustix::net::sockopt::tcp_quickack(&ours.socket).expect("is asked"));
        }
    }

    /// A session that was ended must not hang on a client that neither sends nor reads.
    #[tokio::test]
    async fn the_end_ends_a_read_and_a_write_that_wait() {
        let cancel = CancellationToken::new();
        let (ours, _theirs) = pair(&cancel).await;
        let (mut read, mut write) = tokio::io::split(ours);
        let both = async {
            let endless = async { while write.write_all(&[0; 4096]).await.is_ok() {} };
            tokio::join!(read.read_u8(), endless).0
        };
        tokio::pin!(both);
        tokio::select! { biased; _ = &mut both => panic!("nobody sent"), () = tokio::task::yield_now() => {} }
        cancel.cancel();
        let error = both.await.expect_err("ends");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
