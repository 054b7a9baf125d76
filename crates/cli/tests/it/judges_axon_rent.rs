//! Renting through the v1.9.0 door as the original's own programs do it: Bittensor's SDK 9.0.0 orders and opens the answer,
//! paramiko enters with the password and does what the original's validator does, on the sandbox and on Docker.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use nicompute_keys::{Keypair, Scheme};
use serde_json::{Value, json};

use crate::judges::{PYTHON_9, ask, python};
use crate::world::{Daemon, World, is_root, program, skip, wait_for};

/// Python with paramiko.
const CLIENTS: &str = "NICOMPUTE_TEST_SSH_CLIENTS";
/// A root file system with `/opt/conda/bin/python`, and the image of it in the engine.
const ROOTFS: &str = "NICOMPUTE_TEST_ROOTFS";
const ROOTFS_IMAGE: &str = "nicompute-test-rootfs:1";
const DOCKER: &str = "NICOMPUTE_TEST_DOCKER";
const SIGKILL: i32 = 9;
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

/// A provider with an open door, and the Python that knocks.
struct Shop {
    world: World,
    options: Vec<String>,
    sdk: PathBuf,
    clients: PathBuf,
}

/// A running node of it.
struct Open<'s> {
    shop: &'s Shop,
    daemon: Daemon,
    at: SocketAddr,
}

fn account(uri: &str) -> String {
    Keypair::from_uri(uri, Scheme::Sr25519).unwrap().hotkey().to_string()
}

/// What a variable names; nothing, after saying so, where it names nothing.
fn named(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skip(&format!("{variable} names nothing that is there"));
    }
    found
}

impl Shop {
    /// Nothing, after saying so, where a judge is missing.
    fn new(runtime: &[&str]) -> Option<Self> {
        if !is_root() {
            skip("only root can hold tenants to their share");
            return None;
        }
        let (sdk, clients) = (python(PYTHON_9)?, python(CLIENTS)?);
        let world = World::new();
        let trusted = format!("{},{}", account("//Alice"), account("//Bob"));
        let door = ["--axon.v190", "--whitelist.hotkeys", &trusted];
        let options = door.iter().chain(runtime).map(|word| (*word).to_owned()).collect();
        Some(Self { world, options, sdk, clients })
    }

    fn in_the_sandbox() -> Option<Self> {
        let rootfs = named(ROOTFS)?.display().to_string();
        Self::new(&["--runtime", "sandbox", "--rootfs", &rootfs])
    }

    fn on_docker() -> Option<Self> {
        let socket = named(DOCKER)?;
        let host = format!("unix://{}", socket.display());
        let mut inspect = program("docker");
        inspect.args(["--host", &host, "image", "inspect", ROOTFS_IMAGE]);
        if !inspect.output().is_ok_and(|output| output.status.success()) {
            skip("the engine has no image of the root file system");
            return None;
        }
        Self::new(&["--runtime", "docker", "--image", ROOTFS_IMAGE])
    }

    fn open(&self, more: &[&str]) -> Open<'_> {
        let mut words: Vec<&str> = self.options.iter().map(String::as_str).collect();
        words.extend(more);
        let mut daemon = self.world.start_provider(&words);
        let at = daemon.ready()["axon"].as_str().unwrap().parse().unwrap();
        Open { shop: self, daemon, at }
    }
}

impl Open<'_> {
    /// Does these steps one after the other, as one caller of 1.9.0 would.
    fn steps(&self, steps: &Value) -> Vec<Value> {
        let order = json!({
            "ip": self.at.ip(),
            "port": self.at.port(),
            "hotkey": self.shop.world.miner.hotkey(),
            "keys": self.shop.world.dir.path().join("rsa.json"),
            "steps": steps,
        });
        let told = ask(&self.shop.sdk, "axon9_rent.py", &[], &order);
        told.as_array().unwrap().clone()
    }

    fn step(&self, step: &Value) -> Value {
        self.steps(&json!([step])).remove(0)
    }

    /// Whether one step is answered with yes.
    fn is_so(&self, step: &Value) -> bool {
        is_so(&self.step(step))
    }

    fn session(&self, info: &Value) -> Value {
        let order = json!({
            "host": self.at.ip(),
            "port": info["port"],
            "username": info["username"],
            "password": info["password"],
        });
        ask(&self.shop.clients, "paramiko_session.py", &[], &order)
    }

    /// Waits until the machine is free again and no lease has left anything.
    fn until_clear(&self) {
        wait_for("a free machine", || {
            let told = self.step(&json!({"act": "check"}));
            // A node that was killed takes no nonce of its last seconds again.
            let is_early = told["status"] == 401 && told["message"].to_string().contains("restart");
            (!is_early && is_so(&told)).then_some(())
        });
        let leases = self.shop.world.dir.path().join("m/leases");
        wait_for("empty folders", || {
            let left = std::fs::read_dir(&leases).map_or(0, Iterator::count);
            (left == 0).then_some(())
        });
    }
}

fn is_so(told: &Value) -> bool {
    assert_eq!(told["status"], 200, "{told}");
    assert_eq!(told["output"]["port"], told["ssh_port"], "{told}");
    told["output"]["status"].as_bool().unwrap_or_else(|| panic!("{told}"))
}

fn steps_are(told: &[Value], expected: &[bool]) {
    let got: Vec<bool> = told.iter().map(is_so).collect();
    assert_eq!(got, expected, "{told:#?}");
}

/// The whole of the original's test of a machine, up to the point where it needs a GPU.
fn the_validators_test(shop: &Shop) {
    let mut node = shop.open(&[]);
    let told = node.steps(&json!([
        {"act": "check"}, {"act": "create", "key": "test"}, {"act": "mine", "key": "test"},
        {"act": "check"}, {"act": "create", "key": "another"},
    ]));
    steps_are(&told, &[true, true, true, false, false]);
    let info = &told[1]["info"];
    assert_eq!((&info["username"], &info["version"]), (&json!("root"), &json!(190)), "{told:?}");
    assert_eq!(info["port"], told[1]["output"]["port"]);
    // No second try, no wait: the door is there when the answer is.
    let session = node.session(info);
    for right in ["hash_is_right", "file_is_right"] {
        assert_eq!(session[right], true, "{session}\n{}", node.daemon.log());
    }
    assert_eq!((&session["user"], &session["code"]), (&json!("root"), &json!(7)), "{session}");
    let mut wrong = info.clone();
    wrong["password"] = json!("0123456789");
    assert!(node.session(&wrong)["refused"].is_string());
    let told = node.steps(&json!([
        {"act": "destroy", "key": "test", "timeout": 15.0}, {"act": "mine", "key": "test"},
    ]));
    steps_are(&told, &[true, false]);
    node.until_clear();
    assert!(node.session(info).get("hash_is_right").is_none(), "the password opens nothing now");
    node.daemon.stop();
}

/// A validator of 1.9.0 whose test fails on our node gives it no score.
#[test]
fn the_originals_test_passes_in_the_sandbox() {
    let Some(shop) = Shop::in_the_sandbox() else { return };
    the_validators_test(&shop);
}

/// The same on an engine.
#[test]
fn the_originals_test_passes_on_docker() {
    let Some(shop) = Shop::on_docker() else { return };
    the_validators_test(&shop);
}

/// A rental through the original's API: keys, pauses and restarts of its owner alone, and nothing of a hostile order.
#[test]
fn a_rental_and_those_who_want_it() {
    let Some(shop) = Shop::in_the_sandbox() else { return };
    let mut node = shop.open(&[]);
    let rental = json!({
        "act": "create", "key": "mine", "timeline": 30,
        "device_requirement": {
            "cpu": {"count": 1}, "gpu": {}, "hard_disk": {"capacity": 1_073_741_824.0},
            "ram": {"capacity": 1_073_741_824.0},
        },
        "docker_requirement": {
            "base_image": "ubuntu", "ssh_key": KEY, "volume_path": "/tmp", "dockerfile": "",
        },
    });
    let mut hostile = rental.clone();
    hostile["docker_requirement"]["dockerfile"] = json!("touch /nicompute-was-here");
    let mut shell = rental.clone();
    shell["docker_requirement"]["ssh_key"] = json!("'; touch /nicompute-was-here; '");
    let mut huge = rental.clone();
    huge["device_requirement"]["ram"]["capacity"] = json!(1e300);
    let mut keyless = rental.clone();
    keyless["public_key"] = json!("x".repeat(16 * 1024));
    let told = node.steps(&json!([hostile, shell, huge, keyless]));
    steps_are(&told, &[false; 4]);

    let told = node.step(&rental);
    assert!(is_so(&told), "{told}");
    let (info, exchange) = (&told["info"], "exchange_key");
    let other = "//Bob";
    let told = node.steps(&json!([
        {"act": "destroy", "key": "mine", "uri": other},
        {"act": "pause", "key": "mine", "uri": other},
        {"act": "destroy", "key": "wrong"},
        {"act": exchange, "key": "wrong", "docker_action": {"ssh_key": KEY, "key_type": "user"}},
        {"act": exchange, "key": "mine", "docker_action": {"ssh_key": "x", "key_type": "user"}},
        {"act": exchange, "key": "mine", "docker_action": {"ssh_key": KEY, "key_type": "root"}},
        {"act": "stop", "key": "mine"},
    ]));
    steps_are(&told, &[false; 7]);
    let told = node.steps(&json!([
        {"act": exchange, "key": "mine", "docker_action": {"ssh_key": KEY, "key_type": "terminal"}},
        {"act": "pause", "key": "mine"}, {"act": "mine", "key": "mine"},
        {"act": "unpause", "key": "mine"}, {"act": "restart", "key": "mine"},
        {"act": "mine", "key": "mine"},
    ]));
    steps_are(&told, &[true, true, false, true, true, true]);
    let session = wait_for("the lease after its restart", || {
        let session = node.session(info);
        session["file_is_right"].as_bool().map(|_| session)
    });
    assert_eq!(session["hash_is_right"], true, "{session}");
    assert!(!Path::new("/nicompute-was-here").exists());

    node.daemon.kill_9();
    let node = shop.open(&[]);
    assert!(node.is_so(&json!({"act": "mine", "key": "mine"})), "a rental outlives its node");
    assert!(node.is_so(&json!({"act": "destroy", "key": "mine"})));
    node.until_clear();
    let told = node.step(&json!({"act": "create", "key": "race", "together": 2}));
    let given = told.as_array().unwrap().iter().filter(|told| is_so(told)).count();
    assert_eq!(given, 1, "{told}");
    assert!(node.is_so(&json!({"act": "destroy", "key": "race"})));
    node.until_clear();
}

/// A node that dies before it has answered must not hold the machine for somebody who never heard of it.
#[test]
fn a_kill_around_an_order_leaves_nothing() {
    let Some(shop) = Shop::in_the_sandbox() else { return };
    for step in ["requested", "reserved", "preparing", "container-up", "running"] {
        let mut doomed = shop.open(&["--kill-after", step]);
        let told = doomed.step(&json!({"act": "create", "key": step}));
        assert_ne!(told["output"]["status"], true, "{step}: {told}");
        let status = doomed.daemon.wait_for_end();
        assert_eq!(status.signal(), Some(SIGKILL), "{step}: {}", doomed.daemon.log());

        let mut node = shop.open(&[]);
        node.until_clear();
        let told = node.step(&json!({"act": "create", "key": step}));
        assert!(is_so(&told), "{step}: {told}\n{}", node.daemon.log());
        assert_eq!(node.session(&told["info"])["hash_is_right"], true, "{step}");
        assert!(node.is_so(&json!({"act": "destroy", "key": step})));
        node.until_clear();
        node.daemon.stop();
    }
}
