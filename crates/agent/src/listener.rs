//! What listens inside the container on a renter's behalf, and the connections that wait there to be fetched.
//!
//! A TCP listener has the container's own address 127.0.0.1 and no other: who reaches it from elsewhere is not for a
//! renter's client to decide. A socket of the file system is removed with its listener.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::frames::{Frame, INCOMING_MAX, Incoming, SocketPlace, encode};

/// Listeners at once; the gateway asks for fewer.
const LISTENERS_MAX: usize = 128;
/// Connections that the kernel holds for a listener.
const BACKLOG: i32 = 64;
/// A new socket is its owner's alone.
const SOCKET_MASK: Mode = Mode::from_raw_mode(0o177);
/// So is its folder.
const FOLDER_MODE: u32 = 0o700;

/// Why nothing listens, in words for the renter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenRefusal {
    #[error("too many listeners are open")]
    TooMany,
    #[error("cannot listen on port {0} ({1})")]
    Port(u16, io::Error),
    #[error("cannot listen on {0:?} ({1})")]
    Path(PathBuf, io::Error),
}

/// All listeners, and what they accepted.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    open: BTreeMap<u32, Listener>,
    waiting: BTreeMap<u32, Waiting>,
    next_token: u32,
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    /// What to remove at the end.
    file: Option<(PathBuf, SocketPlace)>,
    waiting: usize,
}

#[derive(Debug)]
struct Waiting {
    listener: u32,
    socket: OwnedFd,
}

impl Listeners {
    /// Whether the channel is a listener's.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.open.contains_key(&id)
    }

    /// Listens on a port of 127.0.0.1 and says which.
    pub(crate) fn listen(&mut self, id: u32, port: u16) -> Result<u16, ListenRefusal> {
        self.place()?;
        let failed = |error: Errno| ListenRefusal::Port(port, error.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .map_err(failed)?;
        // A port that was listened on a moment ago may be listened on again.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        rustix::net::bind(&socket, &address).map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
        let bound = rustix::net::getsockname(&socket).map_err(failed)?;
        let bound = SocketAddr::try_from(bound).map_err(failed)?.port();
        self.open.insert(id, Listener { socket, file: None, waiting: 0 });
        Ok(bound)
    }

    /// Listens on a socket of the file system.
    pub(crate) fn listen_unix(
        &mut self,
        id: u32,
        path: &str,
        place: SocketPlace,
    ) -> Result<(), ListenRefusal> {
        self.place()?;
        let path = PathBuf::from(path);
        match bind_unix(&path, place) {
            Ok(socket) => {
                let file = Some((path, place));
                self.open.insert(id, Listener { socket, file, waiting: 0 });
                Ok(())
            }
            Err(error) => Err(ListenRefusal::Path(path, error)),
        }
    }

    fn place(&self) -> Result<(), ListenRefusal> {
        if self.open.len() < LISTENERS_MAX { Ok(()) } else { Err(ListenRefusal::TooMany) }
    }

    /// The sockets that may have connections, of listeners that may hold one more.
    pub(crate) fn pollable(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let free = self.open.iter().filter(|(_, listener)| listener.waiting < INCOMING_MAX);
        free.map(|(id, listener)| (*id, listener.socket.as_fd()))
    }

    /// Accepts one connection and tells of it. A listener that cannot accept any more is closed: asking it again at once
    /// would be a circle.
    pub(crate) fn ready(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(listener) = self.open.get_mut(&id) else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(&listener.socket, flags) {
            Ok((socket, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                if peer.is_some() {
                    // It is a matter of speed only.
                    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
                }
                listener.waiting += 1;
                let token = self.next_token;
                self.next_token = self.next_token.wrapping_add(1);
                self.waiting.insert(token, Waiting { listener: id, socket });
                let address = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
                let port = peer.map_or(0, |peer| peer.port());
                let incoming = Incoming { token, port, peer: &address };
                encode(id, &Frame::Incoming(incoming), out);
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => {
                self.close(id);
                encode(id, &Frame::Close, out);
            }
        }
    }

    /// Hands out an accepted connection.
    pub(crate) fn fetch(&mut self, token: u32) -> Option<OwnedFd> {
        let waiting = self.waiting.remove(&token)?;
        if let Some(listener) = self.open.get_mut(&waiting.listener) {
            listener.waiting = listener.waiting.saturating_sub(1);
        }
        Some(waiting.socket)
    }

    /// Ends a listener and what waits at it; connections that were fetched go on. `false` where there is none.
    pub(crate) fn close(&mut self, id: u32) -> bool {
        self.waiting.retain(|_, waiting| waiting.listener != id);
        self.open.remove(&id).is_some()
    }

    /// Ends all of them.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.waiting.clear();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, place)) = &self.file else { return };
        // The folder is the renter's: what has taken the socket's name since is left alone.
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            drop(fs::remove_file(path));
        }
        if let (SocketPlace::FreshFolder, Some(folder)) = (place, path.parent()) {
            drop(fs::remove_dir(folder));
        }
    }
}

fn bind_unix(path: &Path, place: SocketPlace) -> io::Result<OwnedFd> {
    let folder = match place {
        SocketPlace::Given => None,
        SocketPlace::FreshFolder => {
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::DirBuilder::new().mode(FOLDER_MODE).create(folder)?;
            Some(folder)
        }
    };
    let bound = bind_socket(path);
    if let (Err(_), Some(folder)) = (&bound, folder) {
        drop(fs::remove_dir(folder));
    }
    Ok(bound?)
}

fn bind_socket(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The agent has one thread: nothing else is made while the mask is narrow.
    let mask = rustix::process::umask(SOCKET_MASK);
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(mask);
    bound?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::frames::parse;

    fn tokens(bytes: &[u8]) -> Vec<u32> {
        let mut rest = bytes;
        let mut tokens = Vec::new();
        while let Ok(Some((message, taken))) = parse(rest) {
            if let Frame::Incoming(incoming) = message.frame {
                tokens.push(incoming.token);
            }
            rest = &rest[taken..];
        }
        tokens
    }

    /// A listener that takes connections nobody fetches would fill the container's descriptors.
    #[test]
    fn connections_wait_up_to_a_limit_and_are_fetched_once() {
        let mut listeners = Listeners::default();
        let port = listeners.listen(1, 0).expect("listens");
        let mut clients = Vec::new();
        let mut out = Vec::new();
        for _ in 0..INCOMING_MAX {
            clients.push(TcpStream::connect(("127.0.0.1", port)).expect("connects"));
            assert_eq!(listeners.pollable().count(), 1);
            while tokens(&out).len() < clients.len() {
                listeners.ready(1, &mut out);
            }
        }
        assert_eq!(listeners.pollable().count(), 0, "it is full");
        let told = tokens(&out);
        assert!(listeners.fetch(told[0]).is_some() && listeners.fetch(told[0]).is_none());
        assert_eq!(listeners.pollable().count(), 1, "one more may come");
        assert!(listeners.close(1) && !listeners.close(1));
        assert!(listeners.fetch(told[1]).is_none(), "what waited ends with its listener");
    }

    /// An agent socket that others in the container may use lends them the renter's keys; one that stays behind keeps
    /// the next session from having its own.
    #[test]
    fn sockets_are_private_and_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("ssh-1/agent");
        let text = path.display().to_string();
        let mut listeners = Listeners::default();
        listeners.listen_unix(1, &text, SocketPlace::FreshFolder).expect("listens");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("has one"))), (0o600, 0o700));
        assert!(listeners.listen_unix(2, &text, SocketPlace::FreshFolder).is_err());
        assert!(listeners.listen_unix(2, &text, SocketPlace::Given).is_err());
        let _client = UnixStream::connect(&path).expect("connects");
        let mut out = Vec::new();
        listeners.ready(1, &mut out);
        assert_eq!(tokens(&out).len(), 1);
        listeners.clear();
        assert!(!path.parent().expect("has one").exists());
        let long = format!("/{}", "x".repeat(200));
        assert!(listeners.listen_unix(3, &long, SocketPlace::Given).is_err());
        assert!(listeners.listen_unix(3, "/no/such/folder/s", SocketPlace::FreshFolder).is_err());
    }
}
