//! A gateway, an agent as a plain child process, and OpenSSH's own clients to judge them.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nicompute_daemon::{SharedClock, SystemClock, Tasks};
use nicompute_host::gateway::{Gateway, GatewayConfig, GatewayError, HostKey, Limits, Route};
use nicompute_market::LeaseId;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// No step of any test takes longer on a machine that is merely busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything for one test.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) gateway: Gateway,
    pub(crate) route: Route,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) limits: Limits,
    agent: Option<Child>,
}

/// The agent to test, or the reason why the test cannot run.
pub(crate) fn agent_program() -> Option<PathBuf> {
    if let Some(path) = env("NICOMPUTE_TEST_AGENT") {
        return Some(PathBuf::from(path));
    }
    assert!(
        env("NICOMPUTE_TEST_STRICT").is_none_or(|value| value != "1"),
        "NICOMPUTE_TEST_AGENT is not set"
    );
    #[expect(clippy::print_stderr, reason = "a test that did not run must be heard")]
    {
        eprintln!("SKIPPED: NICOMPUTE_TEST_AGENT does not name a built nicompute-agent");
    }
    None
}

/// Whether this machine has a program that a test needs.
pub(crate) async fn has_program(name: &str) -> bool {
    let mut probe = Command::new(name);
    probe.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if probe.status().await.is_ok() {
        return true;
    }
    assert!(env("NICOMPUTE_TEST_STRICT").is_none_or(|value| value != "1"), "no {name}");
    #[expect(clippy::print_stderr, reason = "a test that did not run must be heard")]
    {
        eprintln!("SKIPPED: this machine has no {name}");
    }
    false
}

fn env(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the test runner says where the agent is")]
    std::env::var(name).ok()
}

/// A fresh key pair: the private key's text and the public key's.
pub(crate) fn key_pair() -> (String, String) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let seed = [NEXT.fetch_add(1, Ordering::Relaxed); 32];
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let private = key.to_openssh(LineEnding::LF).expect("encodes").to_string();
    (private, key.public_key().to_openssh().expect("encodes"))
}

/// Does something beside the test, which waits for it.
pub(crate) fn background<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    #[expect(clippy::disallowed_methods, reason = "its owner is the test that awaits it")]
    tokio::spawn(work)
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, poll).await.is_ok(), "never happened: {what}");
}

impl World {
    /// A gateway with one route and its agent; `None` where there is no agent to test.
    pub(crate) async fn new() -> Option<Self> {
        Self::with_limits(Limits::standard()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Option<Self> {
        agent_program()?;
        let mut world = Self::without_agent(limits).await;
        world.start_agent().await;
        Some(world)
    }

    /// The same with nobody on the agent's socket.
    pub(crate) async fn without_agent(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let (clock, tasks) = (SystemClock::shared(), Tasks::new());
        let gateway =
            try_bind(dir.path(), "127.0.0.1:0", limits, &clock, &tasks).await.expect("binds");
        let (private, public) = key_pair();
        write_private(&dir.path().join("id"), &private);
        let lease = LeaseId::from_random_bytes([7; 16]);
        let socket_dir = dir.path().join("run");
        let route = Route::new(lease, vec![public], socket_dir);
        gateway.open(&route).expect("opens");
        let world = Self { dir, gateway, route, clock, tasks, limits, agent: None };
        world.write_known_hosts();
        world
    }

    pub(crate) async fn start_agent(&mut self) {
        let agent = Command::new(agent_program().expect("checked before"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--no-seccomp")
            .kill_on_drop(true)
            .spawn()
            .expect("the agent starts");
        self.agent = Some(agent);
        self.connected().await;
    }

    pub(crate) async fn connected(&self) {
        eventually("the agent connects", || self.gateway.connected(self.route.lease)).await;
    }

    /// The agent's process.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().and_then(Child::id).expect("it runs")
    }

    /// Kills the agent as nothing inside a container could.
    pub(crate) async fn kill_agent(&mut self) {
        self.agent.take().expect("it runs").kill().await.expect("it dies");
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.route.socket_dir.join("gateway.sock")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn user(&self) -> String {
        self.route.lease.short()
    }

    /// Stops the gateway as a restart of the node does, and starts another on the same port.
    ///
    /// Another test's program that is just being started holds copies of this process's sockets until it is executed,
    /// so the port may be taken for another moment; a node that restarts is a new process and has no such copies.
    pub(crate) async fn restart_gateway(&mut self) {
        let listen = self.gateway.local_addr().to_string();
        assert!(self.tasks.shutdown(PATIENCE).await, "the gateway's tasks end");
        self.tasks = Tasks::new();
        let (dir, limits) = (self.dir.path(), self.limits);
        let bound = async {
            loop {
                match try_bind(dir, &listen, limits, &self.clock, &self.tasks).await {
                    Err(GatewayError::Listen { source, .. })
                        if source.kind() == ErrorKind::AddrInUse =>
                    {
                        tokio::task::yield_now().await;
                    }
                    other => break other.expect("binds"),
                }
            }
        };
        self.gateway = tokio::time::timeout(PATIENCE, bound).await.expect("the port is free again");
        self.gateway.open(&self.route).expect("opens");
    }

    /// `ssh` with this world's files; arguments follow.
    pub(crate) fn ssh(&self) -> Command {
        let mut ssh = self.client("ssh");
        ssh.arg("-p").arg(self.gateway.local_addr().port().to_string());
        ssh
    }

    /// `ssh` to the lease by way of something else that listens on a port of this machine.
    pub(crate) fn ssh_through(&self, port: u16) -> Command {
        let mut ssh = self.client("ssh");
        let own = self.gateway.local_addr().port();
        ssh.arg("-o").arg(format!("HostKeyAlias=[127.0.0.1]:{own}"));
        ssh.arg("-p").arg(port.to_string()).arg(self.target()).arg("true");
        ssh
    }

    /// `scp` or `sftp`, which spell the port differently.
    pub(crate) fn copier(&self, program: &str) -> Command {
        let mut copier = self.client(program);
        copier.arg("-P").arg(self.gateway.local_addr().port().to_string());
        copier
    }

    /// Another user, or another key.
    pub(crate) fn ssh_as(&self, user: &str, key: &str) -> Command {
        let mut ssh = self.client_with("ssh", key);
        ssh.arg("-p").arg(self.gateway.local_addr().port().to_string());
        ssh.arg(format!("{user}@127.0.0.1")).arg("true");
        ssh
    }

    fn client(&self, program: &str) -> Command {
        self.client_with(program, "id")
    }

    fn client_with(&self, program: &str, key: &str) -> Command {
        let mut client = Command::new(program);
        client.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        client.args(["-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none"]);
        client.arg("-o").arg(format!("UserKnownHostsFile={}", self.path("known_hosts")));
        client.arg("-o").arg(format!("IdentityFile={}", self.path(key)));
        client.kill_on_drop(true);
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client
    }

    /// The command as the lease's user sees it.
    pub(crate) fn ssh_to(&self, command: impl AsRef<OsStr>) -> Command {
        let mut ssh = self.ssh();
        ssh.arg(self.target()).arg(command);
        ssh
    }

    pub(crate) fn target(&self) -> String {
        format!("{}@127.0.0.1", self.user())
    }

    fn write_known_hosts(&self) {
        let port = self.gateway.local_addr().port();
        let line = format!("[127.0.0.1]:{port} {}\n", self.gateway.host_public_key());
        fs::write(self.path("known_hosts"), line).expect("writes");
    }
}

async fn try_bind(
    dir: &Path,
    listen: &str,
    limits: Limits,
    clock: &SharedClock,
    tasks: &Tasks,
) -> Result<Gateway, GatewayError> {
    let host_key = HostKey::load_or_create(&dir.join("host_key")).expect("a host key");
    let config = GatewayConfig { listen: listen.parse().expect("an address"), host_key, limits };
    Gateway::bind(config, clock.clone(), tasks.clone()).await
}

pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

/// Runs a client to its end.
pub(crate) async fn run(mut command: Command) -> Output {
    let run = command.output();
    tokio::time::timeout(PATIENCE, run).await.expect("ends in time").expect("runs")
}

/// Runs a client with something on its standard input.
pub(crate) async fn run_with_input(mut command: Command, input: Vec<u8>) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let feed = async move {
        // A client that ends early closes the pipe; its exit code tells what that means.
        drop(stdin.write_all(&input).await);
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    tokio::time::timeout(PATIENCE, both).await.expect("ends in time").expect("runs")
}

/// Runs a client and types something once its output shows the word.
pub(crate) async fn answer_when(mut command: Command, word: &str, answer: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let talk = async {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(word) {
            assert!(stdout.read_buf(&mut seen).await.expect("reads") > 0, "ended before {word}");
        }
        stdin.write_all(answer).await.expect("types");
        stdout.read_to_end(&mut seen).await.expect("reads");
        drop(stdin);
        let mut output = child.wait_with_output().await.expect("ends");
        output.stdout = seen;
        output
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("ends in time")
}

/// Standard output of a run that succeeded.
pub(crate) fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Bytes without a pattern, the same every time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
