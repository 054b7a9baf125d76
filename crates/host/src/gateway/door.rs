//! The socket on which a lease's agent reports.
//!
//! The gateway owns it and the container sees its folder read-only, so that no tenant can put a link in its place. The
//! folder can be entered and the socket connected to by the container's mapped root; who connects is checked by the
//! kernel's word.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::OnError;
use rustix::fs::{AtFlags, Mode, OFlags, chmodat, fchmod, openat, unlinkat};
use tokio::net::{UnixListener, UnixStream};

use super::Shared;
use super::lease::Lease;
use super::link::Link;

/// The socket's name in its folder.
const SOCKET_NAME: &str = "gateway.sock";
/// The folder: listed and changed by its owner alone, passed through by anyone who is inside the mount.
const DIR_MODE: Mode = Mode::from_raw_mode(0o711);
/// The socket: the container's root is another user on this side.
const SOCKET_MODE: Mode = Mode::from_raw_mode(0o666);
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The file that says which password a key has switched off. The container may read it; it is no secret.
const PASSWORD_OFF: &str = "password-off";
/// Its name until it is whole.
const PASSWORD_OFF_NEW: &str = "password-off.new";
/// A longer file is not ours.
const PASSWORD_OFF_LEN_MAX: u64 = 256;

/// What outlives the gateway, in the folder of the socket.
#[derive(Debug)]
pub(super) struct Memory {
    /// Locked while something is remembered: what is not whole yet has one name.
    dir: Mutex<OwnedFd>,
}

impl Memory {
    /// Remembers a password that is switched off. Waits for the disk, which a tenant may keep busy.
    pub(super) fn switch_password_off(&self, mark: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        let file = openat(&*dir, PASSWORD_OFF_NEW, flags | OFlags::NOFOLLOW, mode)?;
        let mut file = fs::File::from(file);
        file.write_all(mark.as_bytes())?;
        file.sync_all()?;
        Ok(rustix::fs::renameat(&*dir, PASSWORD_OFF_NEW, &*dir, PASSWORD_OFF)?)
    }
}

/// A listening socket, and its folder by which it is removed.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    dir: OwnedFd,
}

impl Door {
    /// Makes the folder if need be, and the socket in place of one that an earlier gateway left.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        // Everything from here on goes by the descriptor: what has the path's name later, or is a link, is not touched.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        fchmod(&dir, DIR_MODE)?;
        match unlinkat(&dir, SOCKET_NAME, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        // By way of the descriptor, since a socket's own path may have 107 bytes and a lease's folder is deep.
        let short = format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        chmodat(&dir, SOCKET_NAME, SOCKET_MODE, AtFlags::empty())?;
        Ok(Self { listener, dir })
    }

    /// What is remembered of the lease's password beside the socket: that a key has switched this one off.
    pub(super) fn password_off(&self) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = openat(&self.dir, PASSWORD_OFF, flags, Mode::empty()).ok()?;
        let mut text = String::new();
        fs::File::from(file).take(PASSWORD_OFF_LEN_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// A way to remember that a key has switched a password off, for a gateway that starts later.
    pub(super) fn memory(&self) -> io::Result<Memory> {
        Ok(Memory { dir: Mutex::new(self.dir.try_clone()?) })
    }

    /// Admits agents until the route is closed.
    pub(super) fn serve(self, shared: Arc<Shared>, lease: Arc<Lease>) {
        let tasks = shared.tasks.clone();
        tasks.spawn("agent door", OnError::Log, async move {
            loop {
                let accepted = tokio::select! {
                    () = lease.closed.cancelled() => break,
                    accepted = self.listener.accept() => accepted,
                };
                match accepted {
                    Ok((socket, _)) => admit(&shared, &lease, socket),
                    Err(error) => {
                        tracing::warn!(lease = %lease.id, %error, "agent not accepted");
                        shared.clock.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            // The folder may have been removed before its route; then the socket is gone with it.
            let _ = unlinkat(&self.dir, SOCKET_NAME, AtFlags::empty());
            Ok(())
        });
    }
}

fn admit(shared: &Arc<Shared>, lease: &Arc<Lease>, socket: UnixStream) {
    let peer = socket.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
    if !lease.accepts_peer(peer) {
        tracing::debug!(lease = %lease.id, pid = peer, "a process that is not the agent was turned away");
        return;
    }
    let (shared, lease) = (Arc::clone(shared), Arc::clone(lease));
    let tasks = shared.tasks.clone();
    tasks.spawn("agent link", OnError::Log, async move {
        match Link::serve(&shared, &lease, socket, peer).await {
            Ok(()) => tracing::debug!(lease = %lease.id, "agent disconnected"),
            Err(error) => tracing::warn!(lease = %lease.id, %error, "agent cut off"),
        }
        Ok(())
    });
}
