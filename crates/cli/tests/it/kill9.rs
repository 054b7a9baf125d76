//! SIGKILL at every stored step. After a restart a lease is alive or gone, never half, and nothing is left on the machine.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use nicompute_client::{
    ApiBase, HeldLease, LeaseKey, LeaseSession, MarketClient, NodeClient, NodeDialer, OfferQuery,
};
use nicompute_daemon::SystemClock;
use nicompute_market::{LeaseId, LeaseState};
use nicompute_wire::market_api::{MarketStatusView, ProviderView};
use nicompute_wire::node::{LeaseRequest, OptionsView};
use serde_json::Value;

use crate::world::{Daemon, World, wait_for};

/// The longest single question.
const BUDGET: Duration = Duration::from_secs(20);
const SIGKILL: i32 = 9;
/// Resident memory of a daemon that has nothing to do, in KiB.
const IDLE_KIB_MAX: u64 = 100 * 1024;

/// A validator's view of the provider, for tests that hold leases themselves.
#[derive(Debug)]
struct Holder {
    runtime: tokio::runtime::Runtime,
    dialer: NodeDialer,
    world: World,
}

impl Holder {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let world = World::new();
        let dialer = NodeDialer::new(world.validator.clone(), SystemClock::shared()).unwrap();
        Self { runtime, dialer, world }
    }

    fn node(&self, ready: &Value) -> NodeClient {
        let address: SocketAddr = ready["axon"].as_str().unwrap().parse().unwrap();
        self.dialer.node(address, self.world.miner.hotkey())
    }

    /// Asks for a lease; the node may die on the way, so that there may be no answer.
    fn ask(&self, node: &NodeClient, id: LeaseId, key: &LeaseKey) -> Option<HeldLease> {
        let request = LeaseRequest {
            id,
            offer: "machine".parse().unwrap(),
            purpose: "rental".to_owned(),
            ssh_keys: vec![key.public_openssh().unwrap()],
            image: None,
            duration_seconds: 3600,
            terminal_key: None,
            options: OptionsView::default(),
        };
        self.runtime.block_on(node.create_lease(&request, BUDGET)).ok()
    }

    fn lease(&self, node: &NodeClient, id: LeaseId) -> Option<HeldLease> {
        self.runtime.block_on(node.lease(id, BUDGET)).ok()
    }

    fn release(&self, node: &NodeClient, id: LeaseId) -> Option<HeldLease> {
        self.runtime.block_on(node.release(id, BUDGET)).ok()
    }

    /// The lease can be entered and answers.
    fn enter(&self, node: &NodeClient, held: &HeldLease, key: &LeaseKey) {
        let said = wait_for("an answer from the lease", || {
            self.runtime.block_on(async {
                let access = node.node(BUDGET).await.ok()?.access(held).ok()??;
                let session = LeaseSession::connect(&access, key, BUDGET).await.ok()?;
                session.run("echo $((6*7))", BUDGET).await.ok()
            })
        });
        assert_eq!((said.status, &*said.stdout), (Some(0), &b"42\n"[..]));
    }
}

fn lease_id(number: u8) -> LeaseId {
    LeaseId::from_random_bytes([number; 16])
}

/// Folders, mounts and processes that still name the lease.
fn remains(dir: &Path, lease: LeaseId) -> Vec<String> {
    let name = lease.to_string();
    let mut left = Vec::new();
    if dir.join("m/leases").join(&name).exists() {
        left.push("folder".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let names = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&name)
        };
        let is_process = entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        if is_process && (names("mountinfo") || names("cgroup") || names("environ")) {
            left.push(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    left
}

fn wait_until_gone(dir: &Path, lease: LeaseId) {
    let mut last = Vec::new();
    let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("a clean machine", || {
            last = remains(dir, lease);
            last.is_empty().then_some(())
        });
    }));
    assert!(gone.is_ok(), "left: {last:#?}");
}

/// A provider that loses power must come back with every lease alive or gone.
#[test]
fn the_provider_at_each_step_of_a_lease() {
    let holder = Holder::new();
    let on_the_way_up = ["requested", "reserved", "preparing", "container-up", "running"];
    let on_the_way_down = ["ending", "removed", "ended"];
    for (step, number) in on_the_way_up.iter().chain(&on_the_way_down).zip(1_u8..) {
        let id = lease_id(number);
        let key = LeaseKey::generate().unwrap();
        let mut doomed = holder.world.start_miner(&["--kill-after", step]);
        let node = holder.node(&doomed.ready());
        let before = holder.ask(&node, id, &key);
        if on_the_way_down.contains(step) {
            assert!(before.is_some(), "{step}: {}", doomed.log());
            wait_for("a running lease", || {
                holder.lease(&node, id).filter(|held| held.state == LeaseState::Running)
            });
            drop(holder.release(&node, id));
        }
        let status = doomed.wait_for_end();
        assert_eq!(status.signal(), Some(SIGKILL), "{step}: {}", doomed.log());

        let mut miner = holder.world.start_miner(&[]);
        let node = holder.node(&miner.ready());
        let held = wait_for("a lease that stands still", || {
            let held = holder.lease(&node, id);
            let settled =
                held.filter(|held| held.state == LeaseState::Running || held.state.is_final());
            // A request whose answer was lost before it was stored is asked again, with the same id.
            settled.or_else(|| holder.ask(&node, id, &key).and(None))
        });
        if held.state == LeaseState::Running {
            assert!(!on_the_way_down.contains(step), "{step}: a released lease came back");
            holder.enter(&node, &held, &key);
            assert!(holder.release(&node, id).is_some());
            wait_for("the end of the lease", || {
                holder.lease(&node, id).filter(|held| held.state.is_final())
            });
        }
        wait_until_gone(holder.world.dir.path(), id);
        miner.stop();
    }
}

/// A renter's work must go on while the provider's node is away, and be there when it is back.
#[test]
fn a_lease_outlives_its_node() {
    let holder = Holder::new();
    let mut miner = holder.world.start_miner(&[]);
    let node = holder.node(&miner.ready());
    let (id, key) = (lease_id(1), LeaseKey::generate().unwrap());
    holder.ask(&node, id, &key);
    let held = wait_for("a running lease", || {
        holder.lease(&node, id).filter(|held| held.state == LeaseState::Running)
    });
    holder.enter(&node, &held, &key);
    let idle = miner.resident_kib();
    assert!(idle < IDLE_KIB_MAX, "the node holds {idle} KiB");
    assert!(holder.world.chain.resident_kib() < IDLE_KIB_MAX);

    miner.kill_9();
    assert!(
        !remains(holder.world.dir.path(), id).is_empty(),
        "the container must outlive the node"
    );
    let mut miner = holder.world.start_miner(&["--on-shutdown", "end-leases"]);
    let node = holder.node(&miner.ready());
    let held = wait_for("the lease again", || {
        holder.lease(&node, id).filter(|held| held.state == LeaseState::Running)
    });
    holder.enter(&node, &held, &key);
    miner.stop();
    wait_until_gone(holder.world.dir.path(), id);
}

fn status(holder: &Holder, ready: &Value) -> Option<MarketStatusView> {
    let base: ApiBase = format!("http://{}", ready["api"].as_str().unwrap()).parse().unwrap();
    let api = MarketClient::new(base, None, BUDGET).unwrap();
    holder.runtime.block_on(api.status()).ok()
}

fn provider(holder: &Holder, ready: &Value) -> Option<ProviderView> {
    let hotkey = holder.world.miner.hotkey();
    status(holder, ready)?.providers.into_iter().find(|provider| provider.hotkey == hotkey)
}

fn start_both(holder: &Holder) -> (Daemon, Daemon, Value) {
    let mut miner = holder.world.start_miner(&[]);
    miner.ready();
    let mut validator = holder.world.start_validator();
    let ready = validator.ready();
    (miner, validator, ready)
}

/// A validator that dies in the middle of a proof must not keep the machine, and must prove it after all.
#[test]
fn the_validator_during_a_proof() {
    let holder = Holder::new();
    let (mut miner, mut validator, ready) = start_both(&holder);
    let session = wait_for("a session", || provider(&holder, &ready)?.session);
    validator.kill_9();
    drop(session);

    let mut validator = holder.world.start_validator();
    let ready = validator.ready();
    let proof = wait_for("a proof after all", || provider(&holder, &ready)?.proof);
    assert_eq!(proof.verdict, "passed", "{}", validator.log());
    let idle = validator.resident_kib();
    assert!(idle < IDLE_KIB_MAX, "the validator holds {idle} KiB");
    let base: ApiBase = format!("http://{}", ready["api"].as_str().unwrap()).parse().unwrap();
    let api = MarketClient::new(base, None, BUDGET).unwrap();
    wait_for("a free offer", || {
        let offers = holder.runtime.block_on(api.offers(&OfferQuery::default())).ok()?.offers;
        offers.into_iter().find(|offer| offer.available)
    });
    let leases = fs::read_dir(holder.world.dir.path().join("m/leases"));
    assert_eq!(leases.map_or(0, Iterator::count), 0, "a proof's lease is left");
    validator.stop();
    miner.stop();
}

/// A chain that dies must come back with its history, and everybody must find it again.
#[test]
fn the_chain_under_a_running_market() {
    let mut holder = Holder::new();
    let (mut miner, mut validator, ready) = start_both(&holder);
    wait_for("weights on chain", || status(&holder, &ready)?.weights_block);
    let before = wait_for("a block", || status(&holder, &ready).map(|status| status.block));
    holder.world.chain.kill_9();
    holder.world.restart_chain();
    let after = wait_for("the market's next block", || {
        status(&holder, &ready).map(|status| status.block).filter(|block| *block > before + 2)
    });
    assert!(after > before);
    let seen = provider(&holder, &ready).unwrap();
    assert_eq!(seen.hotkey, holder.world.miner.hotkey());
    validator.stop();
    miner.stop();
    holder.world.chain.stop();
}
