//! Starts what a channel asked for, each in a session of its own, and ends it by process group.
#![expect(unsafe_code, reason = "the new process prepares itself between fork and exec")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::accounts::{self, Account};
use crate::frames::{Exit, OpenRequest, OpenTarget, TerminalRequest};
use crate::terminal;

/// Where programs are looked for when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Programs that the host adds, last in line so that the image's own win.
const OWN_PROGRAMS: &str = "/.nicompute/bin";
/// The numbers of Linux's signals end here.
const SIGNALS_MAX: libc::c_int = 64;
/// Variables that a client may set; a name that ends in `_` stands for all that begin so.
const VARIABLES_ALLOWED: &[&str] =
    &["LANG", "LC_", "TERM", "COLORTERM", "NI_", "SSH_AUTH_SOCK", "SSH_CONNECTION", "SSH_CLIENT"];

/// The agent's ends of what was started. All of them are non-blocking.
#[derive(Debug)]
pub(crate) struct Started {
    /// The process, which leads its group; none for a connection.
    pub(crate) leader: Option<Pid>,
    /// Takes the client's data.
    pub(crate) input: OwnedFd,
    /// Gives data.
    pub(crate) output: OwnedFd,
    /// Gives standard error, where it is separate.
    pub(crate) error: Option<OwnedFd>,
    /// Whether input and output are a terminal.
    pub(crate) terminal: bool,
}

impl Started {
    /// Over a connection, made or being made.
    pub(crate) fn connection(socket: OwnedFd) -> io::Result<Self> {
        let output = socket.try_clone()?;
        Ok(Self { leader: None, input: socket, output, error: None, terminal: false })
    }
}

/// Why something was not started, in words for the renter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartRefusal {
    #[error("the image has no shell")]
    NoShell,
    #[error(
        "the image has no shell: a command may be plain words alone, without quotes, variables or redirections"
    )]
    NoShellForCommand,
    #[error("the image has no shell and no program {0:?}")]
    NoProgram(String),
    #[error("cannot connect to {0:?} ({1})")]
    ConnectUnix(String, io::Error),
    #[error("that is not started but listened on or fetched")]
    NotStarted,
    #[error("cannot open a terminal ({0})")]
    Terminal(io::Error),
    #[error("cannot start {0} ({1})")]
    Spawn(PathBuf, io::Error),
    #[error("cannot connect: {0:?} is neither an address nor localhost")]
    Host(String),
    #[error("cannot connect to {0} ({1})")]
    Connect(SocketAddr, io::Error),
    #[error("cannot prepare the channel ({0})")]
    Prepare(#[from] io::Error),
}

/// Starts it. Connections to the gateway's own socket are not made.
pub(crate) fn start(request: &OpenRequest, gateway: &Path) -> Result<Started, StartRefusal> {
    let variables = &request.variables;
    match &request.target {
        OpenTarget::Shell { terminal } => {
            let account = Account::current();
            let shell = account.shell().ok_or(StartRefusal::NoShell)?;
            let mut command = session_command(&shell, &account, variables);
            command.arg0(login_name(&shell));
            start_session(command, &shell, terminal.as_ref())
        }
        OpenTarget::Exec { command: line, terminal } => {
            let account = Account::current();
            let Some(shell) = account.shell() else {
                return start_words(&account, line, variables, terminal.as_ref());
            };
            let mut command = session_command(&shell, &account, variables);
            command.arg("-c").arg(OsStr::from_bytes(line));
            start_session(command, &shell, terminal.as_ref())
        }
        OpenTarget::Sftp => {
            let own = own_program();
            let mut command = session_command(&own, &Account::current(), variables);
            command.arg("--sftp");
            start_session(command, &own, None)
        }
        OpenTarget::Dial { host, port } => dial(host, *port),
        OpenTarget::DialUnix { path } => dial_unix(path, gateway),
        OpenTarget::Listen { .. } | OpenTarget::ListenUnix { .. } | OpenTarget::Accept { .. } => {
            Err(StartRefusal::NotStarted)
        }
    }
}

/// Runs a command without a shell, where its words mean the same without one.
fn start_words(
    account: &Account,
    line: &[u8],
    variables: &[(String, String)],
    terminal: Option<&TerminalRequest>,
) -> Result<Started, StartRefusal> {
    let words = plain_words(line).ok_or(StartRefusal::NoShellForCommand)?;
    let (name, args) = words.split_first().ok_or(StartRefusal::NoShellForCommand)?;
    let program = find_program(name).ok_or_else(|| StartRefusal::NoProgram((*name).to_owned()))?;
    let mut command = session_command(&program, account, variables);
    command.arg0(name).args(args);
    start_session(command, &program, terminal)
}

/// The words of a line in which nothing is for a shell to interpret.
fn plain_words(line: &[u8]) -> Option<Vec<&str>> {
    let line = std::str::from_utf8(line).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_./:=,@%+".contains(c);
    // A word with `=` at the front would be an assignment.
    let first = line.split(' ').find(|word| !word.is_empty())?;
    (line.chars().all(plain) && !first.contains('='))
        .then(|| line.split(' ').filter(|word| !word.is_empty()).collect())
}

fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| accounts::is_program(path));
    }
    let search = search_path();
    let folders = search.as_bytes().split(|byte| *byte == b':');
    folders
        .map(|folder| Path::new(OsStr::from_bytes(folder)).join(name))
        .find(|path| path.is_absolute() && accounts::is_program(path))
}

/// The image's PATH, and the host's own programs last.
fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let mut search = path.into_vec();
    search.push(b':');
    search.extend_from_slice(OWN_PROGRAMS.as_bytes());
    OsString::from_vec(search)
}

/// Sends a signal to a group whose leader has not been reaped; its number cannot have been given to another.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    // The group may be gone already, which is what the signal was for.
    let _ = kill_process_group(leader, signal);
}

/// The exit that a wait status tells of, if it is one.
pub(crate) fn exit_of(status: rustix::process::WaitStatus) -> Option<Exit> {
    if let Some(code) = status.exit_status() {
        return Some(Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
    }
    let number = u8::try_from(status.terminating_signal()?).ok()?;
    Some(Exit::Signal { number, core_dumped: libc::WCOREDUMP(status.as_raw()) })
}

/// The agent's own file: its path where it is visible, else by the process's own link.
fn own_program() -> PathBuf {
    std::env::current_exe()
        .ok()
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn login_name(shell: &Path) -> OsString {
    let mut name = b"-".to_vec();
    name.extend_from_slice(shell.file_name().unwrap_or_else(|| OsStr::new("sh")).as_bytes());
    OsString::from_vec(name)
}

/// A command with the image's environment, the account's names and the client's allowed variables.
fn session_command(program: &Path, account: &Account, variables: &[(String, String)]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "starting programs is what the agent is for")]
    let mut command = Command::new(program);
    for (name, value) in variables.iter().filter(|(name, _)| may_be_set(name)) {
        if !value.contains('\0') {
            command.env(name, value);
        }
    }
    command
        .env("PATH", search_path())
        .env("HOME", &account.home)
        .env("USER", &account.name)
        .env("LOGNAME", &account.name)
        .env("SHELL", account.shell().unwrap_or_else(|| program.to_path_buf()))
        .current_dir(account.start_dir());
    command
}

fn may_be_set(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let listed = |allowed: &str| match allowed.ends_with('_') {
        true => name.starts_with(allowed),
        false => name == allowed,
    };
    name.chars().all(plain) && VARIABLES_ALLOWED.iter().any(|allowed| listed(allowed))
}

fn start_session(
    command: Command,
    program: &Path,
    terminal: Option<&TerminalRequest>,
) -> Result<Started, StartRefusal> {
    match terminal {
        Some(request) => start_on_terminal(command, program, request),
        None => start_on_pipes(command, program),
    }
}

fn start_on_terminal(
    mut command: Command,
    program: &Path,
    request: &TerminalRequest,
) -> Result<Started, StartRefusal> {
    let terminal = terminal::open(request).map_err(StartRefusal::Terminal)?;
    command.env("TERM", &request.name);
    if let Some(path) = &terminal.path {
        command.env("SSH_TTY", path);
    }
    command.stdin(terminal.slave.try_clone()?).stdout(terminal.slave.try_clone()?);
    command.stderr(terminal.slave);
    let leader = spawn(command, program, begin_on_terminal)?;
    set_nonblocking(&terminal.master)?;
    let output = terminal.master.try_clone()?;
    Ok(Started {
        leader: Some(leader),
        input: terminal.master,
        output,
        error: None,
        terminal: true,
    })
}

fn start_on_pipes(mut command: Command, program: &Path) -> Result<Started, StartRefusal> {
    let (their_input, input) = pipe()?;
    let (output, their_output) = pipe()?;
    let (error, their_error) = pipe()?;
    command.stdin(Stdio::from(their_input)).stdout(their_output).stderr(their_error);
    let leader = spawn(command, program, begin)?;
    for ours in [&input, &output, &error] {
        set_nonblocking(ours)?;
    }
    Ok(Started { leader: Some(leader), input, output, error: Some(error), terminal: false })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// Starts the process, which runs `prepare` first. The command is dropped here, and with it the process's ends.
fn spawn(
    mut command: Command,
    program: &Path,
    prepare: fn() -> io::Result<()>,
) -> Result<Pid, StartRefusal> {
    // SAFETY: between fork and exec the closure makes system calls only: it takes no lock and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let child =
        command.spawn().map_err(|error| StartRefusal::Spawn(program.to_path_buf(), error))?;
    // Dropping the handle neither waits nor kills: the supervisor reaps every child by its number.
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    id.ok_or_else(|| StartRefusal::Spawn(program.to_path_buf(), io::ErrorKind::Other.into()))
}

/// Makes the new process the leader of a session and a group.
fn begin() -> io::Result<()> {
    rustix::process::setsid()?;
    heed_signals();
    unblock_signals()
}

/// The same, with the terminal as the session's own.
fn begin_on_terminal() -> io::Result<()> {
    begin()?;
    Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
}

/// What was started with signals ignored, as a shell starts what runs beside it, hands that on to every program after it; a
/// tenant's Ctrl-C must end the tenant's program all the same.
fn heed_signals() {
    for number in 1..=SIGNALS_MAX {
        // SAFETY: the default is no function of ours. The two that cannot be changed are refused, which changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// The agent takes its signals from a descriptor and blocks them; a program must not begin life deaf to them.
fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set lives on this stack and is initialised by sigemptyset before it is read.
    let outcome = unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Connects without waiting; whether it succeeded shows when the socket becomes writable.
fn dial(host: &str, port: u16) -> Result<Started, StartRefusal> {
    let addresses = match host {
        "localhost" => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        address => {
            vec![
                address
                    .parse()
                    .map_err(|_| StartRefusal::Host(address.chars().take(64).collect()))?,
            ]
        }
    };
    let mut refusal = StartRefusal::Host(host.to_owned());
    for address in addresses {
        match connect(SocketAddr::new(address, port)) {
            Ok(started) => return Ok(started),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

fn connect(address: SocketAddr) -> Result<Started, StartRefusal> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let failed = |error: rustix::io::Errno| StartRefusal::Connect(address, error.into());
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    // Interactive protocols run over forwarded ports too.
    rustix::net::sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(Started::connection(socket)?)
}

/// Connects to a socket of the container's file system. Such a connection stands at once or not at all.
///
/// The gateway knows the agent by its process; a client that came to the gateway's socket by way of the agent would speak
/// in its name. Whatever the path is called, links and renames included, the file that is looked at is the one connected to.
fn dial_unix(path: &str, gateway: &Path) -> Result<Started, StartRefusal> {
    let failed = |error: rustix::io::Errno| {
        StartRefusal::ConnectUnix(path.chars().take(128).collect(), error.into())
    };
    let held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let held = held.map_err(failed)?;
    let file = rustix::fs::fstat(&held).map_err(failed)?;
    // Without a socket of its own there is nothing to mistake it for.
    let own = rustix::fs::stat(gateway).ok();
    if own.is_some_and(|own| (own.st_dev, own.st_ino) == (file.st_dev, file.st_ino)) {
        return Err(failed(rustix::io::Errno::ACCESS));
    }
    let by_descriptor = format!("/proc/self/fd/{}", held.as_raw_fd());
    let address = SocketAddrUnix::new(by_descriptor).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    Ok(Started::connection(socket)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that was started in the background of a script ignores Ctrl-C; its tenants' programs must not.
    #[test]
    fn ignored_signals_are_not_handed_on() {
        // SAFETY: ignoring is no function of ours, and nothing else of this program uses the signal.
        unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
        let ignored = |prepare: fn() -> io::Result<()>| {
            #[expect(clippy::disallowed_methods, reason = "a program that tells what it was given")]
            let mut command = Command::new("grep");
            command.args(["^SigIgn:", "/proc/self/status"]);
            // SAFETY: as in `spawn`.
            unsafe { command.pre_exec(prepare) };
            let said = String::from_utf8(command.output().expect("grep").stdout).expect("text");
            // The C library keeps two numbers above for itself.
            u64::from_str_radix(said["SigIgn:".len()..].trim(), 16).expect("a set") & 0x7fff_ffff
        };
        assert_ne!(ignored(|| Ok(())) & 0x800, 0);
        assert_eq!(ignored(begin), 0);
    }

    /// A client that may set LD_PRELOAD or PATH runs code in other people's scripts.
    #[test]
    fn clients_set_only_listed_variables() {
        for name in ["LANG", "LC_ALL", "TERM", "COLORTERM", "NI_JOB", "SSH_CONNECTION"] {
            assert!(may_be_set(name), "{name}");
        }
        for name in ["PATH", "LD_PRELOAD", "BASH_ENV", "LANGUAGE", "XLC_ALL", "NI_=x", ""] {
            assert!(!may_be_set(name), "{name}");
        }
    }

    /// In an image without a shell a command must run as it stands or be refused, never half understood.
    #[test]
    fn only_plain_words_run_without_a_shell() {
        assert_eq!(plain_words(b"/bin/app  --port=80 a"), Some(vec!["/bin/app", "--port=80", "a"]));
        for line in
            ["", "  ", "a;b", "a 'b'", "a $B", "A=1 b", "a > b", "a\\ b", "a~", "a*", "a\nb"]
        {
            assert_eq!(plain_words(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(plain_words(&[0xff]), None);
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert!(find_program("no-such-program").is_none() && find_program("/etc").is_none());
    }

    /// A client that reaches the gateway through the agent speaks to it as the agent does.
    #[test]
    fn the_gateways_own_socket_is_not_dialled_under_any_name() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        let (own, other) = (at("gateway.sock"), at("other.sock"));
        let _own = std::os::unix::net::UnixListener::bind(&own).expect("binds");
        let _other = std::os::unix::net::UnixListener::bind(&other).expect("binds");
        std::os::unix::fs::symlink(&own, at("symbolic")).expect("links");
        std::fs::hard_link(&own, at("hard")).expect("links");
        let dial = |path: &Path| dial_unix(path.to_str().expect("text"), &own);
        for name in ["gateway.sock", "symbolic", "hard"] {
            let refusal = dial(&at(name)).expect_err(name).to_string();
            assert!(refusal.contains("ermission denied"), "{refusal}");
        }
        assert!(dial(&other).is_ok());
        assert!(dial(&at("none")).is_err());
    }

    /// Forwarding to names would need a resolver that a static program does not have; it must say so.
    #[test]
    fn only_addresses_are_dialled() {
        let refusal = dial("example.com", 80).expect_err("is refused");
        assert_eq!(
            refusal.to_string(),
            "cannot connect: \"example.com\" is neither an address nor localhost"
        );
    }
}
