//! The system calls that have no safe wrapper elsewhere, each behind a function that is safe to call in the helper: a
//! process with one thread that ends in `exec` or `_exit`.

#![expect(unsafe_code, reason = "fork, exec, mount attributes have no safe wrapper")]

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Which side of a fork one is on.
#[derive(Debug)]
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Attributes of a mount, set for it alone or for all mounts below it too.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MountAttributes<'fd> {
    /// `MOUNT_ATTR_*` to set.
    pub(super) set: u64,
    /// The user namespace whose map shifts the owners of files.
    pub(super) idmap: Option<BorrowedFd<'fd>>,
    /// Whether mounts below it change too.
    pub(super) recursive: bool,
}

// Linux's `MOUNT_ATTR_*`.
pub(super) const ATTR_RDONLY: u64 = 0x1;
pub(super) const ATTR_NOSUID: u64 = 0x2;
pub(super) const ATTR_NODEV: u64 = 0x4;
pub(super) const ATTR_NOEXEC: u64 = 0x8;
const ATTR_IDMAP: u64 = 0x10_0000;
const AT_RECURSIVE: libc::c_int = 0x8000;

/// Linux's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Splits the process in two.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: the helper has one thread (checked at its start), so the child owns a consistent copy of everything.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Leaves the namespaces that the flags name for fresh ones.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the one unsafe flag is FILES, which is never passed.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags - UnshareFlags::FILES) }?)
}

/// Ends this process at once, without running anything that the parent registered for its own end.
pub(super) fn exit_now(code: libc::c_int) -> ! {
    // SAFETY: `_exit` takes any number and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Replaces this program. Returns only on failure.
pub(super) fn exec(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Changes the attributes of the mount that a descriptor of `open_tree` or `fsmount` names.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, change: MountAttributes<'_>) -> io::Result<()> {
    let idmap = change.idmap.map_or(0, |_| ATTR_IDMAP);
    let userns_fd = change.idmap.and_then(|fd| u64::try_from(fd.as_raw_fd()).ok()).unwrap_or(0);
    let attr = MountAttr { set: change.set | idmap, clear: 0, propagation: 0, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is the kernel's struct and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            mem::size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Marks every descriptor above the three standard ones to be closed by `exec`, also those that someone leaked to us.
pub(super) fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: only descriptor flags change; no descriptor is closed under its owner.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives every signal its default meaning and unblocks all: both survive `exec`.
pub(super) fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is always a valid handler. Signals that cannot be changed answer with an error that means so.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: zeroed is the empty set on Linux, and `sigemptyset` makes it one by the book.
    let empty = unsafe {
        let mut set = mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        set
    };
    // SAFETY: `empty` is an initialised set, the old one is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut()) })?;
    Ok(())
}

/// Leaves the session keyring of whoever started us for an empty one.
pub(super) fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches the loopback interface of the current network namespace on.
pub(super) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).unwrap_or(0);
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(up).unwrap_or(0);
    // SAFETY: `request` is a complete `ifreq` with a terminated name and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}
