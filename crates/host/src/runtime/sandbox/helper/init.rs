//! The container's first process, up to the moment at which it becomes the agent.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::super::{AGENT_IN_CONTAINER, SOCKET_IN_CONTAINER};
use super::super::protocol::{Failure, InStep as _, Order, Remedy, Step};
use super::{Event, GO, await_word, report, sys, tree};

/// What the container's root keeps; the same as `CAPABILITIES` in words.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT);
/// The kernel has 41 capabilities; more would answer that they do not exist.
const CAPABILITY_BITS: u32 = 64;
/// What programs expect where neither the image nor the lease says otherwise.
const DEFAULT_ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LANG", "C.UTF-8"),
];
/// How many files a program may have open unless it asks for more.
const USUAL_DESCRIPTORS: u64 = 1024;
/// The first descriptor that is not a standard one.
const FIRST_OTHER_FD: libc::c_uint = 3;

/// Builds the container around this process and becomes the agent.
pub(super) fn run(order: &Order, wire: UnixStream) -> ! {
    let failure = match prepare(order) {
        Ok(()) => {
            report(&wire, &Event::Ready);
            match await_word(&wire, GO) {
                Ok(()) => become_agent(order),
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    report(&wire, &Event::Failed(failure));
    drop(wire);
    sys::exit_now(1)
}

fn prepare(order: &Order) -> Step<()> {
    // The namer leads no session here; the agent's terminals must not be able to become the node's.
    rustix::process::setsid().step("make a session")?;
    sys::new_session_keyring().step("make a keyring")?;
    let name = format!("nicompute-{}", order.lease.short());
    rustix::system::sethostname(name.as_bytes()).step("name the container")?;
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    sys::loopback_up(std::os::fd::AsFd::as_fd(&socket.step("open a socket")?))
        .step("switch loopback on")?;
    tree::enter(order)?;
    // A core dump is written by a program of the machine's choice, on the machine.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).step("forbid core dumps")?;
    own_descriptors().step("limit open files")?;
    be_killable().step("become killable")?;
    drop_capabilities()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("close the input")?;
    rustix::stdio::dup2_stdout(&null).step("close the output")?;
    rustix::stdio::dup2_stderr(&null).step("close the error output")?;
    sys::close_on_exec_from(FIRST_OTHER_FD).step("close files")?;
    sys::reset_signals().step("reset signals")?;
    // The agent does the same to itself; here it holds for whatever is started in its place.
    nicompute_agent::filter_calls().map_err(io::Error::other).step("filter system calls")
}

/// The node raises its own limit. Programs that were made for the usual one must not inherit it; they may raise theirs.
fn own_descriptors() -> io::Result<()> {
    let given = rustix::process::getrlimit(Resource::Nofile);
    let current = Some(given.maximum.map_or(USUAL_DESCRIPTORS, |max| max.min(USUAL_DESCRIPTORS)));
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current, ..given })?)
}

/// A node may be protected from the machine running out of memory; its tenants must not be.
fn be_killable() -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let protected = fs::read_to_string(FILE)?.trim().starts_with('-');
    if protected { fs::write(FILE, "0") } else { Ok(()) }
}

fn drop_capabilities() -> Step<()> {
    const STEP: &str = "drop capabilities";
    for bit in 0..CAPABILITY_BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Err(rustix::io::Errno::INVAL) => break,
            dropped => dropped.step(STEP)?,
        }
    }
    rustix::thread::clear_ambient_capability_set().step(STEP)?;
    let kept =
        CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, kept).step(STEP)?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")
}

/// Returns only when it could not.
fn become_agent(order: &Order) -> Failure {
    const STEP: &str = "start the agent";
    let strings = |texts: &[String]| -> Result<Vec<CString>, std::ffi::NulError> {
        texts.iter().map(|text| CString::new(text.as_bytes())).collect()
    };
    let args = [AGENT_IN_CONTAINER, "--socket", SOCKET_IN_CONTAINER].map(str::to_owned);
    match (strings(&args), strings(&environment(order))) {
        (Ok(args), Ok(env)) => {
            Failure::new(STEP, &sys::exec(&args[0], &args, &env), Some(Remedy::Agent))
        }
        _ => Failure::because(STEP, "a name contains a zero byte", None),
    }
}

/// `NAME=value` of every variable: ours to begin with, then the image's, then the lease's, and last what nobody may change.
fn environment(order: &Order) -> Vec<String> {
    let mut variables: BTreeMap<&str, &str> = DEFAULT_ENVIRONMENT.into();
    let wished = order.extras.environment.iter();
    variables.extend(wished.map(|(name, value)| (name.as_str(), value.as_str())));
    let lease = order.lease.to_string();
    variables.extend([("container", "nicompute"), ("NICOMPUTE_LEASE", &lease)]);
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
