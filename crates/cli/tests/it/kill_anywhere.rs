//! SIGKILL anywhere, on both runtimes, with a network and a volume: of the node at every step, of everything at once as a
//! machine that loses power, of the engine. Leases come back with their disk or are gone, and nothing is left.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nicompute_client::NodeClient;
use nicompute_market::LeaseState;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ports::{open, range};
use crate::renting::{On, Provider, Rental, lease_id, new_key};
use crate::traces;
use crate::world::{Daemon, is_root, program, skip, wait_for};

const SIGKILL: i32 = 9;
const WAY_UP: [&str; 6] =
    ["requested", "reserved", "preparing", "container-up", "wired", "running"];
const WAY_DOWN: [&str; 4] = ["ending", "unwired", "removed", "ended"];

/// What every lease of this suite asks for: whatever can be left behind.
fn wishes() -> Value {
    let volume = json!({ "name": "data", "target": "/data", "bytes": 64 << 20 });
    json!({ "options": { "network": "egress", "volumes": [volume], "ports": [8000] } })
}

/// A provider with an engine that loses power must come back with every lease alive or gone.
#[test]
fn the_node_at_each_step_in_docker() {
    each_step(On::Docker);
}

/// The same without an engine.
#[test]
fn the_node_at_each_step_in_the_sandbox() {
    each_step(On::Sandbox);
}

/// A machine that loses power takes every container with it: renters must find their disk when it is back.
#[test]
fn the_whole_machine_with_docker() {
    reboot(On::Docker);
}

/// The same without an engine.
#[test]
fn the_whole_machine_with_the_sandbox() {
    reboot(On::Sandbox);
}

fn each_step(on: On) {
    let Some(provider) = Provider::new(on) else { return };
    let hotkey = provider.world.miner.hotkey();
    let state_dir = provider.world.dir.path().join("m");
    let dir = provider.world.dir.path().join("renter");
    let (key, ports) = (new_key(&dir), range());
    for step in WAY_UP.iter().chain(&WAY_DOWN) {
        let id = lease_id();
        let (mut doomed, node) =
            provider.start(&["--net", "--ports.range", &ports, "--kill-after", step]);
        let before = provider.ask_with(&node, id, &key, &wishes());
        if WAY_DOWN.contains(step) {
            assert!(before.is_some(), "{step}: {}", doomed.log());
            provider.running(&node, id, &doomed);
            drop(provider.release(&node, id));
        }
        let status = doomed.wait_for_end();
        assert_eq!(status.signal(), Some(SIGKILL), "{step}: {}", doomed.log());

        let (mut miner, node) = provider.start(&["--net", "--ports.range", &ports]);
        let held = wait_for("a lease that stands still", || {
            let held = provider.lease(&node, id);
            let settled =
                held.filter(|held| held.state == LeaseState::Running || held.state.is_final());
            // A request whose answer was lost before it was stored is asked again, with the same id.
            settled.or_else(|| provider.ask_with(&node, id, &key, &wishes()).and(None))
        });
        if held.state == LeaseState::Running {
            assert!(!WAY_DOWN.contains(step), "{step}: a released lease came back");
            works(&provider.rental(&node, &held, &dir));
            open(&provider, &node, id);
            assert!(provider.release(&node, id).is_some());
            provider.ended(&node, id);
        } else {
            assert!(WAY_DOWN.contains(step), "{step}: {:?}\n{}", held.state, miner.log());
        }
        traces::wait_until_gone(&state_dir, id, hotkey, None);
        miner.stop();
    }
}

/// The lease has its network, its resolvers and its volume.
fn works(rental: &Rental) {
    let said = rental.says(
        "cat /etc/resolv.conf; cat /proc/net/route | grep -c ^eth0; echo kept > /data/file; cat /data/file",
    );
    assert_eq!(said, "nameserver 1.1.1.1\nnameserver 9.9.9.9\n2\nkept\n");
}

fn reboot(on: On) {
    let Some(provider) = Provider::new(on) else { return };
    let hotkey = provider.world.miner.hotkey();
    let state_dir = provider.world.dir.path().join("m");
    let dir = provider.world.dir.path().join("renter");
    let (key, id, ports) = (new_key(&dir), lease_id(), range());
    let (mut miner, node) = provider.start(&["--net", "--ports.range", &ports]);
    assert!(provider.ask_with(&node, id, &key, &wishes()).is_some(), "{}", miner.log());
    let held = provider.running(&node, id, &miner);
    let rental = provider.rental(&node, &held, &dir);
    works(&rental);
    let port = open(&provider, &node, id);
    rental.says("echo 'on the disk' > /root/file; sync");
    miner.kill_9();
    power_off(id);

    let (mut miner, node) = provider.start(&["--net", "--ports.range", &ports]);
    let held = provider.running(&node, id, &miner);
    let rental = provider.rental(&node, &held, &dir);
    let again = wait_for("the lease's shell", || {
        let said = crate::renting::run(rental.ssh("cat /root/file /data/file"), b"");
        said.status.success().then_some(said.stdout)
    });
    assert_eq!(String::from_utf8_lossy(&again), "on the disk\nkept\n", "{}", miner.log());
    works(&rental);
    assert_eq!(open(&provider, &node, id), port);
    assert!(provider.release(&node, id).is_some());
    provider.ended(&node, id);
    traces::wait_until_gone(&state_dir, id, hotkey, None);
    miner.stop();
}

/// What a loss of power does to a lease: its processes and mounts are gone, its files are not.
fn power_off(id: nicompute_market::LeaseId) {
    wait_for("the end of every process", || {
        let left = traces::processes(id);
        for pid in &left {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).unwrap();
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        left.is_empty().then_some(())
    });
    let name = id.to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounts.lines().rev().filter(|line| line.contains(&name)) {
        let at = line.split(' ').nth(4).unwrap();
        drop(program("umount").args(["-l", at]).output());
    }
}

/// An engine of the test's own, apart from the machine's in everything.
struct Engine {
    dir: tempfile::TempDir,
    bridge: String,
    daemon: Option<Child>,
}

impl Engine {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("nce").tempdir_in("/tmp").unwrap();
        let bridge = format!("nck{:x}", std::process::id());
        let mut engine = Self { dir, bridge, daemon: None };
        let bridge = &*engine.bridge;
        drop(program("ip").args(["link", "add", "name", bridge, "type", "bridge"]).output());
        let address = ["addr", "add", "198.19.77.1/30", "dev", bridge];
        drop(program("ip").args(address).output());
        engine.spawn();
        engine
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("e.sock")
    }

    fn spawn(&mut self) {
        // The old one is dead and, where nobody has buried it, still has its number.
        for left in ["pid", "x/containerd/containerd.pid"] {
            drop(fs::remove_file(self.dir.path().join(left)));
        }
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut daemon = program("dockerd");
        daemon.args(["--data-root", &self.path("store"), "--exec-root", &self.path("x")]);
        daemon.args(["-p", &self.path("pid"), "--bridge", &self.bridge]);
        daemon.args(["-H", &format!("unix://{}", self.path("e.sock")), "--iptables=false"]);
        daemon.args(["--ip6tables=false", "--ip-masq=false", "--ip-forward=false"]);
        daemon.stdout(Stdio::null()).stderr(log);
        self.daemon = Some(daemon.spawn().unwrap());
        wait_for("the engine to answer", || {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            log.contains("API listen on").then_some(())
        });
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// The engine's own programs beside it.
    fn helpers(&self) -> Vec<i32> {
        let own = self.dir.path().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("containerd") && line.contains(&own)
        })
        .collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        for pid in self.helpers() {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
        let own = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for mount in below.filter(|at| at.starts_with(&own)) {
            drop(program("umount").args(["-l", mount]).output());
        }
        drop(program("ip").args(["link", "delete", &self.bridge]).output());
    }
}

/// An engine that is killed and started again under its leases must cost nobody a lease, and a renter no file.
#[test]
fn the_engine_under_a_lease() {
    if !is_root() || !Path::new("/usr/sbin/dockerd").exists() {
        return skip("an engine that is killed: it needs root and dockerd");
    }
    let Some(provider) = Provider::new(On::Docker) else { return };
    let hotkey = provider.world.miner.hotkey();
    let state_dir = provider.world.dir.path().join("m");
    let dir = provider.world.dir.path().join("renter");
    let mut engine = Engine::start();
    let socket = engine.path("e.sock");
    let own = ["--net", "--docker.socket", &socket];
    let (mut miner, node) = provider.start_with(&["--runtime", "docker"], &own);
    let (key, id) = (new_key(&dir), lease_id());
    let wishes = json!({ "image": null, "options": { "network": "egress" } });
    assert!(provider.ask_with(&node, id, &key, &wishes).is_some(), "{}", miner.log());
    let held = provider.running(&node, id, &miner);
    let rental = provider.rental(&node, &held, &dir);
    rental.says("echo kept > /root/file");
    engine.kill();
    // Without its engine the lease goes on, and the node holds on to it.
    comes_back(&provider, &node, id, &rental, &miner);
    engine.spawn();
    comes_back(&provider, &node, id, &rental, &miner);
    // Now with the node, and while both are away everything dies.
    miner.kill_9();
    engine.kill();
    power_off(id);
    engine.spawn();
    let (mut miner, node) = provider.start_with(&["--runtime", "docker"], &own);
    let held = provider.running(&node, id, &miner);
    let rental = provider.rental(&node, &held, &dir);
    comes_back(&provider, &node, id, &rental, &miner);
    assert!(provider.release(&node, id).is_some());
    provider.ended(&node, id);
    traces::wait_until_gone(&state_dir, id, hotkey, Some(&engine.socket()));
    miner.stop();
}

fn comes_back(
    provider: &Provider,
    node: &NodeClient,
    id: nicompute_market::LeaseId,
    rental: &Rental,
    miner: &Daemon,
) {
    wait_for("the renter's file", || {
        let held = provider.lease(node, id)?;
        assert!(!held.state.is_final(), "{:?}\n{}", held.state, miner.log());
        let said = crate::renting::run(rental.ssh("cat /root/file"), b"");
        (said.stdout == b"kept\n").then_some(())
    });
}
