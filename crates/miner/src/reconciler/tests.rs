//! The reconciler against a fake machine: its decisions, and that it converges whatever dies when.

use std::path::Path;
use std::sync::atomic::AtomicU32;

use faults::FlakyNetwork;
use nicompute_daemon::ManualClock;
use nicompute_host::inventory::Inventory;
use nicompute_host::runtime::{
    FakeMachine, FakeRuntime, ImagePolicy, Presence, RuntimeConfig, SandboxProgram,
};
use nicompute_market::{
    EndReason, FailReason, Hotkey, LeaseEvent, LeaseKeys, LeaseNetwork, LeaseOptions, MicroUsd,
    Purpose, Rao, Share, Terms, Wanted,
};
use proptest::prelude::*;

mod faults;
mod ports;
mod routes;

use super::drive::{RESTART_PAUSE, RESTARTS_MAX};
use super::*;
use crate::dir_lock::DirLock;
use crate::fuse::{Fuse, HaltAfter};
use crate::leases::Stakes;
use crate::offers::Facilities;
use crate::store::{Asked, Words};
use routes::FakeRoutes;

const START: u64 = 1_700_000_000_000;
const NODE: &str = "node";
fn facilities() -> Facilities {
    Facilities {
        network: LeaseNetwork::Egress,
        ports: Some("20000-20007".parse().unwrap()),
        fetches: Vec::new(),
        disk_bytes: 1 << 30,
    }
}

#[derive(Debug)]
struct NoStakes;

impl Stakes for NoStakes {
    fn stake_of(&self, _: &Hotkey) -> Rao {
        Rao(0)
    }
}

/// What outlives a process.
struct World {
    tasks: Tasks,
    dir: tempfile::TempDir,
    machine: FakeMachine,
    network: FlakyNetwork,
    clock: Arc<ManualClock>,
}

/// One process.
struct Process {
    reconciler: Reconciler,
    routes: Arc<FakeRoutes>,
    halted: CancellationToken,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at_unix_ms(START);
        let (dir, network, tasks) =
            (tempfile::tempdir().unwrap(), FlakyNetwork::default(), Tasks::new());
        Self { tasks, dir, machine: FakeMachine::new(), network, clock }
    }

    /// A process that dies after so many steps.
    async fn start(&self, steps: u32) -> Process {
        self.start_with(steps, FakeRoutes::default()).await
    }

    async fn start_with(&self, steps: u32, routes: FakeRoutes) -> Process {
        let state_dir = self.dir.path().join("state");
        let halted = CancellationToken::new();
        let fuse =
            Fuse::Halt(HaltAfter { steps_left: AtomicU32::new(steps), halted: halted.clone() });
        let hotkey = Hotkey::from_bytes([9; 32]);
        let lock = DirLock::take(&state_dir).unwrap();
        let store = Arc::new(Store::open(&state_dir, &hotkey, fuse, lock).await.unwrap());
        let config = RuntimeConfig {
            node_id: NODE.to_owned(),
            state_dir: state_dir.clone(),
            rootfs: None,
            sandbox_program: SandboxProgram { path: "/none".into(), args: Vec::new() },
            docker_socket: None,
            images: Vec::new(),
            image_policy: ImagePolicy::default(),
            trial_agent: None,
            classes: Vec::new(),
        };
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new(config, self.machine.clone()));
        let clock: SharedClock = self.clock.clone();
        let offers = Offers::new(
            &inventory(),
            MicroUsd(1),
            facilities(),
            Arc::clone(&runtime),
            Arc::clone(&clock),
        );
        let routes = Arc::new(routes);
        let offers = Arc::new(offers);
        let leases = Leases::new(
            Arc::clone(&store),
            Arc::clone(&offers),
            Arc::new(NoStakes),
            Arc::clone(&clock),
            10_000,
        );
        let places = Places { state_dir, agent: "/agent".into(), masked_host_paths: Vec::new() };
        let reconciler = Reconciler {
            store,
            runtime,
            network: Some(Arc::new(self.network.clone())),
            routes: routes.clone(),
            leases: Arc::new(leases),
            offers,
            pulls: Pulls::new(self.tasks.clone()),
            ports: Arc::default(),
            clock,
            places,
            memory: Memory::default(),
            sweeping: Arc::default(),
        };
        Process { reconciler, routes, halted }
    }

    fn presence(&self, id: LeaseId) -> Presence {
        let of = |(lease, presence)| (lease == id).then_some(presence);
        self.machine.containers().into_iter().find_map(of).unwrap_or(Presence::Absent)
    }
}

impl Process {
    fn store(&self) -> &Store {
        &self.reconciler.store
    }

    /// Does some work, or dies doing it. Gives whether it lived.
    async fn lives_through(&self, work: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = self.halted.cancelled() => false,
            () = work => true,
        }
    }

    async fn ask(&self, byte: u8, duration_ms: u64) {
        let lease = Lease::requested(terms(byte), self.reconciler.unix_now(), duration_ms);
        let asked = self.store().ask(&lease, Words([byte; 32]), 0).await.unwrap();
        if let Asked::New(lease) = asked {
            drop(self.reconciler.leases.grant(&lease).await.unwrap());
        }
    }

    async fn apply(&self, byte: u8, event: LeaseEvent) {
        if let Some(lease) = self.store().get(terms(byte).id).await.unwrap() {
            drop(self.store().apply(&lease, event, self.reconciler.unix_now()).await.unwrap());
        }
    }

    /// One look of the loop: failures are for the next one.
    async fn look(&self) {
        drop(self.reconciler.sweep().await);
        for lease in self.store().open_leases().await.unwrap() {
            drop(self.reconciler.drive(lease.terms.id, &mut None).await);
        }
    }

    async fn state(&self, byte: u8) -> LeaseState {
        self.store().get(terms(byte).id).await.unwrap().unwrap().state
    }
}

fn inventory() -> Inventory {
    Inventory {
        cpu_model: "test".to_owned(),
        cores: 2,
        memory_bytes: 1 << 30,
        memory_free_bytes: 1 << 30,
        disk_free_bytes: 1 << 30,
        gpus: Vec::new(),
        gpu_driver: None,
        notes: Vec::new(),
    }
}

/// Leases from this number on are of slices that overlap their neighbours' by a GPU.
const SLICES: u8 = 10;

fn terms(byte: u8) -> Terms {
    let gpu = |n: u8| format!("GPU-{}", n % 5);
    let (offer, gpus) = match byte {
        SLICES.. => (format!("slice-{byte}"), vec![gpu(byte), gpu(byte + 1)]),
        _ => ("machine".to_owned(), Vec::new()),
    };
    let cores_milli = if gpus.is_empty() { 1000 } else { 500 };
    Terms {
        id: LeaseId::from_random_bytes([byte; 16]),
        offer: offer.parse().unwrap(),
        purpose: Purpose::Rental,
        holder: Hotkey::from_bytes([2; 32]),
        share: Share { cores_milli, memory_bytes: 1 << 27, disk_bytes: 1 << 29, gpus },
        price_per_hour: None,
        keys: LeaseKeys::of_user(vec!["ssh-ed25519 AAAA".to_owned()]),
        image: "fake".to_owned(),
        options: LeaseOptions {
            network: network_of(byte),
            ports: if byte.is_multiple_of(2) { vec![80, 8080] } else { Vec::new() },
            ..LeaseOptions::default()
        },
        legacy: None,
    }
}

/// Every other lease has a way out.
const fn network_of(byte: u8) -> LeaseNetwork {
    if byte % 2 == 1 { LeaseNetwork::Egress } else { LeaseNetwork::None }
}

const FOR_EVER: u32 = u32::MAX;

/// A lease whose container cannot be made must fail, leave nothing, and free the machine.
#[tokio::test]
async fn what_cannot_be_made_fails_and_leaves_nothing() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 60_000).await;
    world.machine.set_images(&["another"]);
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Failed(FailReason::Image));
    assert!(process.routes.open_now().is_empty());
    assert!(!process.reconciler.places.lease_dir(terms(1).id).exists());
    world.machine.set_images(&["fake"]);
    process.ask(2, 60_000).await;
    process.look().await;
    assert_eq!(process.state(2).await, LeaseState::Running);
}

/// A key that the gateway does not take must not hold the machine until the lease's end.
#[tokio::test]
async fn a_key_that_the_gateway_refuses_fails_the_lease() {
    let world = World::new();
    let routes = FakeRoutes { refuses_keys: true, ..FakeRoutes::default() };
    let process = world.start_with(FOR_EVER, routes).await;
    process.ask(1, 60_000).await;
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Failed(FailReason::Runtime));
    assert!(world.machine.containers().is_empty());
}

/// An engine that is restarting must not cost a lease, and one that never comes back must not hold it for ever.
#[tokio::test]
async fn trouble_elsewhere_is_tried_again_for_a_while() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 600_000).await;
    world.machine.fail_next(3);
    assert!(process.reconciler.drive(terms(1).id, &mut None).await.is_err());
    assert_eq!(process.state(1).await, LeaseState::Preparing);
    world.machine.fail_next(0);
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Running);
    process.apply(1, LeaseEvent::EndAsked(EndReason::Released)).await;
    process.look().await;
    process.ask(2, 600_000).await;
    // It waited, so its time begins with the first try.
    world.clock.advance(Duration::from_millis(drive::PREPARE_MILLIS_MAX));
    // Once for the list of images, once for the container.
    world.machine.fail_next(2);
    drop(process.reconciler.drive(terms(2).id, &mut None).await);
    assert_eq!(process.state(2).await, LeaseState::Preparing);
    world.clock.advance(Duration::from_millis(drive::PREPARE_MILLIS_MAX));
    world.machine.fail_next(2);
    drop(process.reconciler.drive(terms(2).id, &mut None).await);
    assert_eq!(process.state(2).await, LeaseState::Failed(FailReason::Runtime));
}

/// A renter whose container crashes keeps it, also when an engine that fails made it end again and again; but a container
/// that always crashes must not be started without a pause.
#[tokio::test]
async fn a_container_that_ends_is_started_again_and_then_with_pauses() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 3_600_000).await;
    process.look().await;
    for round in 0..2 {
        for _ in 0..RESTARTS_MAX {
            world.machine.crash(terms(1).id);
            process.look().await;
            assert_eq!(process.state(1).await, LeaseState::Running, "round {round}");
            assert!(matches!(world.presence(terms(1).id), Presence::Running { .. }));
        }
        world.clock.advance(Duration::from_secs(600));
    }
    for _ in 0..RESTARTS_MAX {
        world.machine.crash(terms(1).id);
        process.look().await;
    }
    world.machine.crash(terms(1).id);
    process.look().await;
    assert_eq!(world.presence(terms(1).id), Presence::Exited, "not at once");
    assert_eq!(process.state(1).await, LeaseState::Running, "nobody's fault ends a rental");
    world.clock.advance(RESTART_PAUSE);
    process.look().await;
    assert!(matches!(world.presence(terms(1).id), Presence::Running { .. }));
    world.machine.forget(terms(1).id);
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Ended(EndReason::Lost), "its disk is gone");
}

/// A restart that leaves the tenant's processes as they were, or loses its disk, is none; one that the runtime cannot do
/// must be said and end nothing.
#[tokio::test]
async fn a_restart_ends_the_processes_and_keeps_the_lease() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 3_600_000).await;
    process.look().await;
    let pid = |presence: Presence| presence.init_pid().unwrap();
    let before = pid(world.presence(terms(1).id));
    process.apply(1, LeaseEvent::PauseAsked).await;
    process.look().await;
    process.apply(1, LeaseEvent::RestartAsked).await;
    process.look().await;
    let after = world.presence(terms(1).id);
    assert!(matches!(after, Presence::Running { init_pid } if init_pid != before));
    assert_eq!(process.routes.open_now()[&terms(1).id].init_pid, Some(pid(after)));
    let lease = process.store().get(terms(1).id).await.unwrap().unwrap();
    assert_eq!((lease.state, lease.restart_asked), (LeaseState::Running, false));
    let names: Vec<_> = process.store().events_after(terms(1).id, Some(4)).await.unwrap();
    let names: Vec<_> = names.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["restart-asked", "restarted"]);
}

/// Work that is lost at the end of a lease because nobody said that the end is near is the provider's fault.
#[tokio::test]
async fn the_end_is_announced() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 30 * 60_000).await;
    process.look().await;
    world.clock.advance(Duration::from_secs(20 * 60));
    process.look().await;
    process.look().await;
    world.clock.advance(Duration::from_secs(9 * 60 + 59));
    process.look().await;
    let said = process.routes.notices.lock().unwrap().clone();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("10 minutes") && said[1].contains("1 minute;"), "{said:?}");
    let lease = process.store().get(terms(1).id).await.unwrap().unwrap();
    assert_eq!(lease.warned_millis, Some(60_000));
    assert_eq!(lease.state, LeaseState::Running);
}

/// A host that was booted anew has no processes left, and a container engine that is away answers nothing: neither ends
/// a rental, whatever else the node believes about it.
#[tokio::test]
async fn no_news_ends_no_rental() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 3_600_000).await;
    process.look().await;
    world.machine.fail_next(1_000);
    for _ in 0..20 {
        process.look().await;
        world.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(process.state(1).await, LeaseState::Running);
    world.machine.fail_next(0);
    world.machine.crash(terms(1).id);
    drop(process);
    let process = world.start(FOR_EVER).await;
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Running);
    assert!(matches!(world.presence(terms(1).id), Presence::Running { .. }));
}

/// An image that takes longer than a container may take to start must not fail its lease, and one that nobody may fetch
/// must fail it at once, with a reason.
#[tokio::test]
async fn images_are_fetched_while_the_lease_is_prepared() {
    let world = World::new();
    world.machine.set_registry(&["big"]);
    let process = world.start(FOR_EVER).await;
    let ask = async |byte: u8, image: &str| {
        let terms = Terms { image: image.to_owned(), ..terms(byte) };
        let lease = Lease::requested(terms, process.reconciler.unix_now(), 3_600_000);
        process.store().ask(&lease, Words([byte; 32]), 0).await.unwrap();
    };
    ask(1, "big").await;
    world.clock.advance(Duration::from_millis(drive::PREPARE_MILLIS_MAX * 2));
    process.look().await;
    let events = process.store().events_after(terms(1).id, Some(2)).await.unwrap();
    assert_eq!(events[0].event, "progressed");
    assert!(events[0].detail.as_ref().unwrap().starts_with("fetching the image"));
    let there = async {
        while process.state(1).await != LeaseState::Running {
            tokio::task::yield_now().await;
            process.look().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.unwrap();
    process.apply(1, LeaseEvent::EndAsked(EndReason::Released)).await;
    process.look().await;
    ask(2, "none").await;
    let failed = async {
        while process.state(2).await != LeaseState::Failed(FailReason::Image) {
            tokio::task::yield_now().await;
            process.look().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
    let lease = process.store().get(terms(2).id).await.unwrap().unwrap();
    assert!(lease.detail.unwrap().contains("none"));
}

/// Validators that want the same machine at once must each get their turn, and their whole time; one that gave up must not
/// keep the others waiting.
#[tokio::test]
async fn proofs_take_turns() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    let proof = |byte: u8| {
        let terms = Terms {
            purpose: Purpose::Proof,
            holder: Hotkey::from_bytes([byte; 32]),
            ..terms(byte)
        };
        Lease::requested(terms, process.reconciler.unix_now(), 60_000)
    };
    for byte in 1..=4 {
        let asked = process.store().ask(&proof(byte), Words([byte; 32]), 16).await.unwrap();
        assert!(matches!(asked, Asked::New(_)));
        process.look().await;
        world.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(process.state(1).await, LeaseState::Running);
    assert_eq!(process.state(2).await, LeaseState::Requested);
    process.apply(3, LeaseEvent::EndAsked(EndReason::Released)).await;
    world.clock.advance(Duration::from_secs(30));
    process.apply(1, LeaseEvent::EndAsked(EndReason::Released)).await;
    process.look().await;
    process.look().await;
    assert_eq!(process.state(2).await, LeaseState::Running);
    let second = process.store().get(terms(2).id).await.unwrap().unwrap();
    assert_eq!(second.expires_at, process.reconciler.unix_now().saturating_add_millis(60_000));
    world.clock.advance(Duration::from_secs(15));
    process.look().await;
    assert_eq!(
        process.state(4).await,
        LeaseState::Failed(FailReason::Occupied),
        "it waited long enough"
    );
}

/// Something on the machine that no open lease wants is somebody's data, or a renter who does not pay.
#[tokio::test]
async fn what_no_lease_wants_is_swept() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 60_000).await;
    process.look().await;
    let stray = LeaseId::from_random_bytes([77; 16]);
    let places = &process.reconciler.places;
    std::fs::create_dir_all(places.lease_dir(stray).join("run")).unwrap();
    std::fs::create_dir_all(places.state_dir.join("leases/not-a-lease")).unwrap();
    assert_eq!(process.reconciler.sweep().await.unwrap(), 1);
    assert!(!places.lease_dir(stray).exists());
    assert!(places.state_dir.join("leases/not-a-lease").exists(), "not ours to remove");
    assert!(places.lease_dir(terms(1).id).exists());
    assert!(matches!(world.presence(terms(1).id), Presence::Running { .. }));
}

/// Tenants would reach the provider's own network for as long as the engine is down after somebody removed the rules.
#[tokio::test]
async fn rules_come_back_while_the_engine_is_down() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    let before = world.network.mended();
    world.machine.fail_next(1);
    process.reconciler.sweep().await.expect_err("the engine is down");
    assert_eq!(world.network.mended(), before + 1);
}

/// The loop itself: work begins at once, ends at the lease's end, and a stop does not wait for anything.
#[tokio::test]
async fn the_loop_wakes_for_changes_and_for_ends() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    let store = Arc::clone(&process.reconciler.store);
    let (stop, tasks) = (CancellationToken::new(), nicompute_daemon::Tasks::new());
    let (this, drives, stopped) = (Arc::new(process.reconciler), tasks.clone(), stop.clone());
    tasks.spawn("reconciler", nicompute_daemon::OnError::Log, async move {
        this.run(drives, stopped).await;
        Ok(())
    });
    let lease = Lease::requested(terms(1), UnixMillis(START), 30_000);
    let mut changes = store.changes();
    assert!(matches!(store.ask(&lease, Words([1; 32]), 0).await.unwrap(), Asked::New(_)));
    let mut reach = async |wanted: LeaseState| {
        let reached = async {
            while store.get(lease.terms.id).await.unwrap().unwrap().state != wanted {
                changes.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), reached).await;
        assert!(waited.is_ok(), "not {wanted} in time");
    };
    reach(LeaseState::Running).await;
    // The loop sleeps until the end, wherever it was when the clock moved.
    world.clock.advance(Duration::from_secs(30));
    reach(LeaseState::Ended(EndReason::Expired)).await;
    assert!(world.machine.containers().is_empty());
    stop.cancel();
    assert!(tasks.shutdown(Duration::from_secs(20)).await);
}

#[derive(Debug, Clone)]
enum Op {
    Ask {
        byte: u8,
        duration_ms: u64,
    },
    Release {
        byte: u8,
    },
    Pause {
        byte: u8,
    },
    Resume {
        byte: u8,
    },
    Restart {
        byte: u8,
    },
    Extend {
        byte: u8,
    },
    Crash {
        byte: u8,
    },
    Fail {
        count: u32,
    },
    Advance {
        ms: u64,
    },
    Look,
    /// The process is killed between two steps and another one starts, which lives for so many steps.
    Kill {
        steps: u32,
    },
}

fn op(byte: std::ops::Range<u8>) -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (byte.clone(), 10_000_u64..60_000)
            .prop_map(|(byte, duration_ms)| Op::Ask { byte, duration_ms }),
        2 => byte.clone().prop_map(|byte| Op::Release { byte }),
        1 => byte.clone().prop_map(|byte| Op::Pause { byte }),
        1 => byte.clone().prop_map(|byte| Op::Resume { byte }),
        1 => byte.clone().prop_map(|byte| Op::Restart { byte }),
        1 => byte.clone().prop_map(|byte| Op::Extend { byte }),
        1 => byte.prop_map(|byte| Op::Crash { byte }),
        1 => (1_u32..4).prop_map(|count| Op::Fail { count }),
        1 => (1_u64..40_000).prop_map(|ms| Op::Advance { ms }),
        5 => Just(Op::Look),
        2 => (0_u32..8).prop_map(|steps| Op::Kill { steps }),
    ]
}

async fn carry_out(world: &World, process: &Process, op: &Op) {
    let later = UnixMillis(world.clock_ms().saturating_add(30_000));
    match *op {
        Op::Ask { byte, duration_ms } => process.ask(byte, duration_ms).await,
        Op::Release { byte } => {
            process.apply(byte, LeaseEvent::EndAsked(EndReason::Released)).await;
        }
        Op::Pause { byte } => process.apply(byte, LeaseEvent::PauseAsked).await,
        Op::Resume { byte } => process.apply(byte, LeaseEvent::ResumeAsked).await,
        Op::Restart { byte } => process.apply(byte, LeaseEvent::RestartAsked).await,
        Op::Extend { byte } => process.apply(byte, LeaseEvent::Extended(later)).await,
        Op::Crash { byte } => world.machine.crash(terms(byte).id),
        Op::Fail { count } => world.machine.fail_next(count),
        Op::Advance { ms } => world.clock.advance(Duration::from_millis(ms)),
        Op::Look => process.look().await,
        Op::Kill { .. } => process.halted.cancel(),
    }
}

impl World {
    fn clock_ms(&self) -> u64 {
        nicompute_daemon::Clock::unix_ms(&*self.clock)
    }
}

/// Runs the operations, with deaths in between; a process that has died is followed by the next one.
async fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let world = World::new();
    let mut process = world.start(FOR_EVER).await;
    for op in ops {
        let lived = process.lives_through(carry_out(&world, &process, op)).await;
        if !lived || process.halted.is_cancelled() {
            drop(process);
            let steps = if let Op::Kill { steps } = op { *steps } else { FOR_EVER };
            process = world.start(steps).await;
        }
        let open = process.store().open_leases().await.unwrap();
        let holding = open.iter().filter(|lease| lease.state.holds_offer());
        let holding: Vec<_> = holding.map(|lease| lease.terms.clone()).collect();
        prop_assert!(are_apart(&holding), "something is held twice after {op:?}: {holding:?}");
        let containers = world.machine.containers();
        let running: Vec<_> = containers.iter().map(|(id, _)| of_id(*id)).collect();
        prop_assert!(are_apart(&running), "something runs twice after {op:?}: {running:?}");
    }
    drop(process);
    world.machine.fail_next(0);
    let process = world.start(FOR_EVER).await;
    process.look().await;
    process.look().await;
    settled(&world, &process).await
}

/// Whether no offer and no GPU is in two of them.
fn are_apart(all: &[Terms]) -> bool {
    let mut seen = BTreeSet::new();
    let names = |terms: &Terms| {
        let mut names = terms.share.gpus.clone();
        names.push(terms.offer.to_string());
        names
    };
    all.iter().flat_map(names).all(|name| seen.insert(name))
}

fn of_id(id: LeaseId) -> Terms {
    (1..SLICES + 6).map(terms).find(|terms| terms.id == id).unwrap()
}

/// Machine, gateway and disk are exactly what the stored leases want.
async fn settled(world: &World, process: &Process) -> Result<(), TestCaseError> {
    let open = process.store().open_leases().await.unwrap();
    let mut wanted = BTreeSet::new();
    for lease in &open {
        let as_wanted = match (lease.wanted(), world.presence(lease.terms.id)) {
            (Wanted::Running, Presence::Running { .. })
            | (Wanted::Paused, Presence::Paused { .. }) => true,
            (Wanted::Running | Wanted::Paused | Wanted::Nothing, _) => false,
        };
        prop_assert!(as_wanted, "{} is neither alive nor gone", lease.state);
        prop_assert!(!lease.restart_asked, "a restart was forgotten");
        wanted.insert(lease.terms.id);
    }
    let containers: BTreeSet<_> = world.machine.containers().iter().map(|(id, _)| *id).collect();
    prop_assert_eq!(&containers, &wanted);
    let mut wires = BTreeMap::new();
    for lease in &open {
        let pid = world.presence(lease.terms.id).init_pid();
        let pid = pid.filter(|_| lease.terms.options.network == LeaseNetwork::Egress);
        wires.extend(pid.map(|pid| (lease.terms.id, pid)));
    }
    prop_assert_eq!(world.network.wires(), wires);
    let routes: BTreeSet<_> = process.routes.open_now().into_keys().collect();
    prop_assert_eq!(&routes, &wanted);
    for lease in &open {
        prop_assert_eq!(lease.published.len(), lease.terms.options.ports.len());
        prop_assert_eq!(process.routes.published(lease.terms.id), lease.published.clone());
    }
    let dirs: BTreeSet<_> = dirs(&process.reconciler.places.state_dir.join("leases"));
    prop_assert_eq!(dirs, wanted);
    Ok(())
}

fn dirs(path: &Path) -> BTreeSet<LeaseId> {
    let Ok(entries) = std::fs::read_dir(path) else { return BTreeSet::new() };
    entries.map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is asked and whenever the node dies, a machine is never given to two, and what is left is what is wanted.
    #[test]
    fn any_order_and_any_death_converge(ops in prop::collection::vec(op(1..5), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A GPU that two leases see, if only between two steps of a node that dies, is one tenant's memory in the other one's
    /// hands.
    #[test]
    fn no_gpu_is_in_two_leases(ops in prop::collection::vec(op(SLICES..SLICES + 6), 1..32)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops))?;
    }
}

/// Death after every single step of a life, one by one: the next process finds the lease alive or makes it gone.
#[tokio::test]
async fn death_at_every_step_leaves_nothing_half() {
    let life = [
        Op::Ask { byte: 1, duration_ms: 50_000 },
        Op::Look,
        Op::Pause { byte: 1 },
        Op::Look,
        Op::Restart { byte: 1 },
        Op::Look,
        Op::Release { byte: 1 },
        Op::Look,
    ];
    for steps in 0..16 {
        for start in 0..life.len() {
            let mut ops = life.to_vec();
            ops.insert(start, Op::Kill { steps });
            run(&ops).await.unwrap();
        }
    }
}
