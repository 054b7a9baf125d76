//! The socket on which a lease's agent reports.
//!
//! The gateway owns it and the container sees its folder read-only, so that no tenant can put a link in its place. The
//! folder can be entered and the socket connected to by the container's mapped root; who connects is checked by the
//! kernel's word.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::OnError;
use rustix::fs::{AtFlags, Mode, OFlags, chmodat, unlinkat};
use tokio::net::{UnixListener, UnixStream};

use super::Shared;
use super::lease::Lease;
use super::link::Link;

/// The socket's name in its folder.
const SOCKET_NAME: &str = "gateway.sock";
/// The folder: listed and changed by its owner alone, passed through by anyone who is inside the mount.
const DIR_MODE: u32 = 0o711;
/// The socket: the container's root is another user on this side.
const SOCKET_MODE: Mode = Mode::from_raw_mode(0o666);
/// After a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        fs::set_permissions(path, fs::Permissions::from_mode(DIR_MODE))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
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
