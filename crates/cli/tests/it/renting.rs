//! A rental of a whole Debian system, held by a test: a real node on each runtime, with what a renter's own clients need.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nicompute_client::{HeldLease, NodeClient, NodeDialer, SshAccess};
use nicompute_daemon::SystemClock;
use nicompute_market::{LeaseId, LeaseState};
use nicompute_wire::node::LeaseRequest;
use serde_json::{Value, json};

use crate::world::{Daemon, LIMIT, World, is_root, program, skip, wait_for};

/// The longest single question.
pub(crate) const BUDGET: Duration = Duration::from_secs(20);
/// The engine's name of the Debian system.
const IMAGE: &str = "nicompute-test-rootfs:1";

/// What runs the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Docker,
    Sandbox,
}

/// A market with one provider whose tenants get a Debian system.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) world: World,
    pub(crate) on: On,
    runtime: tokio::runtime::Runtime,
    dialer: NodeDialer,
    rootfs: String,
    /// How the node was started last.
    words: Mutex<Vec<String>>,
}

/// A lease that runs, with the files of its renter.
#[derive(Debug)]
pub(crate) struct Rental {
    pub(crate) dir: PathBuf,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
}

/// A lease's id. Those of tests that run at the same time must differ, as those of real leases do.
pub(crate) fn lease_id() -> LeaseId {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    LeaseId::from_random_bytes(bytes)
}

/// What the test runner says of a judge.
pub(crate) fn judge(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

impl Provider {
    /// The provider, or a line that says what is missing.
    pub(crate) fn new(on: On) -> Option<Self> {
        let Some(rootfs) = judge("NICOMPUTE_TEST_ROOTFS") else {
            skip("renting: no Debian system (NICOMPUTE_TEST_ROOTFS is not set)");
            return None;
        };
        if on == On::Docker && judge("NICOMPUTE_TEST_DOCKER").is_none() {
            skip("renting in Docker: no engine (NICOMPUTE_TEST_DOCKER is not set)");
            return None;
        }
        if !is_root() {
            skip("renting: only root can give tenants a system of their own");
            return None;
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let world = World::new();
        let dialer = NodeDialer::new(world.validator.clone(), SystemClock::shared()).unwrap();
        Some(Self {
            world,
            on,
            runtime,
            dialer,
            rootfs: rootfs.display().to_string(),
            words: Mutex::default(),
        })
    }

    /// Starts the node, with more options.
    pub(crate) fn start(&self, more: &[&str]) -> (Daemon, NodeClient) {
        let mut words = match self.on {
            On::Docker => vec!["--runtime", "docker", "--image", IMAGE],
            On::Sandbox => vec!["--runtime", "sandbox", "--rootfs", &self.rootfs],
        };
        words.extend(more);
        self.start_with(&words, &[])
    }

    /// Starts the node with options for its runtime too.
    pub(crate) fn start_with(&self, runtime: &[&str], more: &[&str]) -> (Daemon, NodeClient) {
        let words: Vec<&str> = runtime.iter().chain(more).copied().collect();
        *self.words.lock().unwrap() = words.iter().map(|word| (*word).to_owned()).collect();
        let mut miner = self.world.start_miner(&words);
        let address: SocketAddr = miner.ready()["axon"].as_str().unwrap().parse().unwrap();
        let node = self.dialer.node(address, self.world.miner.hotkey());
        (miner, node)
    }

    /// Asks for a lease; the node may die on the way, so that there may be no answer.
    pub(crate) fn ask(&self, node: &NodeClient, id: LeaseId, key: &str) -> Option<HeldLease> {
        self.ask_with(node, id, key, &json!({}))
    }

    /// The same with more wishes.
    pub(crate) fn ask_with(
        &self,
        node: &NodeClient,
        id: LeaseId,
        key: &str,
        more: &Value,
    ) -> Option<HeldLease> {
        let mut request = json!({
            "id": id,
            "offer": "machine",
            "purpose": "rental",
            "ssh_keys": [key],
            "duration_seconds": 3600,
        });
        if self.on == On::Docker {
            request["image"] = json!(IMAGE);
        }
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        let request: LeaseRequest = serde_json::from_value(request).unwrap();
        self.runtime.block_on(node.create_lease(&request, BUDGET)).ok()
    }

    pub(crate) fn lease(&self, node: &NodeClient, id: LeaseId) -> Option<HeldLease> {
        self.runtime.block_on(node.lease(id, BUDGET)).ok()
    }

    pub(crate) fn release(&self, node: &NodeClient, id: LeaseId) -> Option<HeldLease> {
        self.runtime.block_on(node.release(id, BUDGET)).ok()
    }

    /// Waits until the lease runs. One that failed says why.
    pub(crate) fn running(&self, node: &NodeClient, id: LeaseId, miner: &Daemon) -> HeldLease {
        wait_for("a running lease", || {
            let held = self.lease(node, id)?;
            assert!(!held.state.is_final(), "{:?}:\n{}", held.state, miner.log());
            (held.state == LeaseState::Running).then_some(held)
        })
    }

    pub(crate) fn ended(&self, node: &NodeClient, id: LeaseId) {
        wait_for("the end of the lease", || {
            self.lease(node, id).filter(|held| held.state.is_final())
        });
    }

    /// Writes what a renter's clients need to enter a lease that runs.
    pub(crate) fn rental(&self, node: &NodeClient, held: &HeldLease, dir: &Path) -> Rental {
        let access = self.runtime.block_on(async {
            let described = node.node(BUDGET).await.unwrap();
            described.access(held).unwrap().unwrap()
        });
        Rental::new(dir, &access)
    }
}

/// A test that failed half-way must not leave its leases to the machine: the product sweeps them.
impl Drop for Provider {
    fn drop(&mut self) {
        let words = std::mem::take(&mut *self.words.lock().unwrap_or_else(PoisonError::into_inner));
        if !std::thread::panicking() || words.is_empty() {
            return;
        }
        let doomed = words.iter().position(|word| word == "--kill-after");
        let kept = words
            .iter()
            .enumerate()
            .filter(|(at, _)| doomed.is_none_or(|doomed| *at != doomed && *at != doomed + 1));
        let mut words: Vec<&str> = kept.map(|(_, word)| word.as_str()).collect();
        words.extend(["--on-shutdown", "end-leases"]);
        let world = &self.world;
        let swept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut miner = world.start_miner(&words);
            miner.ready();
            miner.stop();
        }));
        if swept.is_err() {
            eprintln!("what a failed test left could not be swept");
        }
    }
}

/// Makes a renter's key pair and gives the public half.
pub(crate) fn new_key(dir: &Path) -> String {
    fs::create_dir_all(dir).unwrap();
    let file = dir.join("id");
    let mut keygen = program("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "renter", "-f"]).arg(&file);
    assert!(keygen.status().unwrap().success());
    fs::read_to_string(dir.join("id.pub")).unwrap().trim().to_owned()
}

impl Rental {
    fn new(dir: &Path, access: &SshAccess) -> Self {
        let rental = Self {
            dir: dir.to_owned(),
            host: access.host().to_string(),
            port: access.port(),
            user: access.user().to_owned(),
        };
        fs::write(dir.join("known_hosts"), access.known_hosts_line()).unwrap();
        let Self { host, port, user, .. } = &rental;
        let (key, hosts) = (rental.path("id"), rental.path("known_hosts"));
        let config = format!(
            "Host lease\n HostName {host}\n Port {port}\n User {user}\n IdentityFile {key}\n \
             IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile {hosts}\n \
             GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n BatchMode yes\n"
        );
        fs::write(dir.join("config"), config).unwrap();
        fs::set_permissions(dir.join("config"), fs::Permissions::from_mode(0o600)).unwrap();
        rental
    }

    /// A file of the renter's.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// One of OpenSSH's programs, with the renter's settings.
    pub(crate) fn client(&self, name: &str) -> Command {
        let mut client = program(name);
        client.arg("-F").arg(self.path("config"));
        client
    }

    /// A command in the lease.
    pub(crate) fn ssh(&self, command: &str) -> Command {
        let mut ssh = self.client("ssh");
        ssh.arg("lease").arg(command);
        ssh
    }

    /// What a command in the lease prints; it must succeed.
    pub(crate) fn says(&self, command: &str) -> String {
        text(run(self.ssh(command), b""))
    }
}

/// Standard output of a run that must have succeeded.
pub(crate) fn text(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {said}\n{error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a client to its end, with something on its standard input. One that hangs is killed.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Output {
    let shown = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A client that ends early closes the pipe; its exit code tells what that means.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let status = Child::wait_within(&mut child, &shown);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn reader<R: std::io::Read + Send + 'static>(
    source: Option<R>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(source.unwrap().read_to_end(&mut bytes));
        bytes
    })
}

/// Waits with the tests' limit.
pub(crate) trait WaitWithin {
    fn wait_within(&mut self, what: &str) -> std::process::ExitStatus;
}

impl WaitWithin for Child {
    fn wait_within(&mut self, what: &str) -> std::process::ExitStatus {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("a client's end", || self.try_wait().unwrap())
        }));
        if ended.is_err() {
            drop(self.kill());
        }
        ended.unwrap_or_else(|_| panic!("{what} did not end within {LIMIT:?}"))
    }
}
