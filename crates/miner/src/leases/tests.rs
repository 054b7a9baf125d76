//! Who gets an offer when: renters and validators that come at any time, on a clock that the test moves.

use std::collections::BTreeMap;
use std::time::Duration;

use nicompute_daemon::ManualClock;
use nicompute_host::inventory::Inventory;
use nicompute_host::runtime::{
    FakeMachine, FakeRuntime, ImagePolicy, RuntimeConfig, SandboxProgram,
};
use nicompute_market::{
    LeaseNetwork, LeaseOptions, MicroUsd, PROOF_LEASE_MILLIS_MAX, PROOF_SURE_MILLIS, Purpose,
    RENTAL_WAIT_MILLIS_MAX, Rao, Share, Terms,
};
use proptest::prelude::*;

use super::queue::PROOF_WAIT_MILLIS_MAX;
use super::*;
use crate::dir_lock::DirLock;
use crate::fuse::Fuse;
use crate::offers::Facilities;
use crate::store::{TURNED_AWAY_MILLIS, Words};

const START: u64 = 1_700_000_000_000;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// Between two looks of the reconciler.
const TICK: u64 = 10 * SECOND;
const RENTER: u8 = 200;

#[derive(Debug)]
struct NoStakes;

impl Stakes for NoStakes {
    fn stake_of(&self, _: &Hotkey) -> Rao {
        Rao(0)
    }
}

/// A node without a machine: what is stored and decided, and nothing else.
struct Node {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    leases: Leases,
    drawn: std::cell::Cell<u32>,
}

impl Node {
    async fn new() -> Self {
        Self::with_file(None).await
    }

    async fn with_file(file: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at_unix_ms(START);
        let (hotkey, lock) = (Hotkey::from_bytes([9; 32]), DirLock::take(dir.path()).unwrap());
        let store = Arc::new(Store::open(dir.path(), &hotkey, Fuse::None, lock).await.unwrap());
        let config = RuntimeConfig {
            node_id: "node".to_owned(),
            state_dir: dir.path().to_owned(),
            rootfs: None,
            sandbox_program: SandboxProgram { path: "/none".into(), args: Vec::new() },
            docker_socket: None,
            images: Vec::new(),
            image_policy: ImagePolicy::default(),
            trial_agent: None,
            classes: Vec::new(),
        };
        let runtime = Arc::new(FakeRuntime::new(config, FakeMachine::new()));
        let inventory = Inventory {
            cpu_model: "test".to_owned(),
            cores: 2,
            memory_bytes: 1 << 30,
            memory_free_bytes: 1 << 30,
            disk_free_bytes: 1 << 30,
            gpus: Vec::new(),
            gpu_driver: None,
            notes: Vec::new(),
        };
        let facilities = Facilities {
            network: LeaseNetwork::None,
            ports: None,
            fetches: Vec::new(),
            disk_bytes: 1 << 30,
        };
        let shared: SharedClock = clock.clone();
        let offers = Offers::new(&inventory, MicroUsd(1), facilities, runtime, Arc::clone(&shared));
        if let Some(text) = file {
            let path = dir.path().join("offers.toml");
            std::fs::write(&path, text).unwrap();
            offers.load(&path).unwrap();
        }
        let leases = Leases::new(store, Arc::new(offers), Arc::new(NoStakes), shared, 10_000);
        Self { dir, clock, leases, drawn: std::cell::Cell::new(0) }
    }

    fn lease(&self, holder: u8, purpose: Purpose, duration_ms: u64) -> Lease {
        let drawn = self.drawn.get() + 1;
        self.drawn.set(drawn);
        let mut id = [holder; 16];
        id[..4].copy_from_slice(&drawn.to_be_bytes());
        let terms = Terms {
            id: LeaseId::from_random_bytes(id),
            offer: "machine".parse().unwrap(),
            purpose,
            holder: Hotkey::from_bytes([holder; 32]),
            share: Share { cores_milli: 1000, ..Share::default() },
            price_per_hour: None,
            keys: LeaseKeys::default(),
            image: "fake".to_owned(),
            options: LeaseOptions::default(),
            legacy: None,
        };
        Lease::requested(terms, self.leases.now(), duration_ms)
    }

    /// Asks as `create` does; nothing where the answer is no.
    async fn ask(&self, holder: u8, purpose: Purpose, duration_ms: u64) -> Option<LeaseId> {
        let lease = self.lease(holder, purpose, duration_ms);
        let mut words = [holder; 32];
        words[..16].copy_from_slice(&lease.terms.id.as_bytes()[..16]);
        match self.leases.store.ask(&lease, Words(words), WAITING_MAX).await.unwrap() {
            Asked::New(lease) => {
                let id = lease.terms.id;
                self.leases.first_grant(lease).await.ok().map(|_| id)
            }
            Asked::Occupied => None,
            other => panic!("{other:?}"),
        }
    }

    async fn prove(&self, holder: u8) -> Option<LeaseId> {
        self.ask(holder, Purpose::Proof, PROOF_LEASE_MILLIS_MAX).await
    }

    async fn state(&self, id: LeaseId) -> LeaseState {
        self.leases.store.get(id).await.unwrap().unwrap().state
    }

    async fn apply(&self, lease: &Lease, event: LeaseEvent) {
        drop(self.leases.store.apply(lease, event, self.leases.now()).await.unwrap());
    }

    async fn release(&self, id: LeaseId) {
        let lease = self.leases.store.get(id).await.unwrap().unwrap();
        self.apply(&lease, LeaseEvent::EndAsked(EndReason::Released)).await;
    }

    /// What the reconciler does of it: ends what is over, clears what has ended, grants what waits.
    async fn look(&self) {
        let now = self.leases.now();
        for lease in self.leases.store.open_leases().await.unwrap() {
            match lease.state {
                LeaseState::Ending(_) => self.apply(&lease, LeaseEvent::Swept).await,
                _ if lease.is_expired(now) => {
                    self.apply(&lease, LeaseEvent::EndAsked(EndReason::Expired)).await;
                }
                _ => {}
            }
        }
        for lease in self.leases.store.open_leases().await.unwrap() {
            if lease.state == LeaseState::Requested {
                drop(self.leases.grant(&lease).await.unwrap());
            }
        }
    }

    async fn pass(&self, millis: u64) {
        let mut left = millis;
        while left > 0 {
            let step = left.min(TICK);
            self.clock.advance(Duration::from_millis(step));
            self.look().await;
            left -= step;
        }
    }
}

/// A renter who finds a machine in a long proof must have it after the time that a proof is sure of, and the proof must
/// have had that time: else validators keep renters out, or renters keep providers unproven.
#[tokio::test]
async fn a_renter_waits_for_no_more_than_a_proofs_sure_time() {
    let node = Node::new().await;
    let proof = node.prove(1).await.unwrap();
    node.pass(MINUTE).await;
    // As short as they come: its own time begins when it is granted.
    let rental = node.ask(RENTER, Purpose::Rental, 10 * SECOND).await.unwrap();
    assert_eq!(node.state(rental).await, LeaseState::Requested);
    node.pass(PROOF_SURE_MILLIS - 2 * MINUTE).await;
    assert_eq!(node.state(proof).await, LeaseState::Reserved, "it is sure of its time");
    node.pass(MINUTE).await;
    assert_eq!(node.state(proof).await, LeaseState::Ending(EndReason::Preempted));
    node.look().await;
    assert_eq!(node.state(proof).await, LeaseState::Ended(EndReason::Preempted));
    assert_eq!(node.state(rental).await, LeaseState::Reserved);
    let proof = node.leases.store.get(proof).await.unwrap().unwrap();
    assert!(proof.detail.unwrap().contains("renter"), "its holder is told why");
}

/// Sixteen validators in line must not fill the room of renters, who come before them.
#[tokio::test]
async fn a_line_of_proofs_leaves_room_for_renters() {
    let node = Node::new().await;
    let running = node.prove(100).await.unwrap();
    for holder in 1..=16 {
        assert!(node.prove(holder).await.is_some());
    }
    assert!(node.prove(17).await.is_none(), "a line has an end");
    let rental = node.ask(RENTER, Purpose::Rental, MINUTE).await.unwrap();
    node.release(running).await;
    node.look().await;
    assert_eq!(node.state(rental).await, LeaseState::Reserved);
    node.look().await;
    for lease in node.leases.store.open_leases().await.unwrap() {
        assert_eq!(lease.terms.purpose, Purpose::Rental, "nobody waits for a renter's end");
    }
}

/// A validator that takes one proof after the other must not keep another one out that always comes at the wrong moment;
/// one that never comes again must not keep the machine idle.
#[tokio::test]
async fn who_was_served_gives_way_to_whom_was_turned_away() {
    let node = Node::new().await;
    let first = node.prove(1).await.unwrap();
    assert!(node.prove(1).await.is_none(), "not two of one holder");
    let second = node.prove(2).await.unwrap();
    node.pass(PROOF_WAIT_MILLIS_MAX + TICK).await;
    assert_eq!(node.state(second).await, LeaseState::Failed(FailReason::Occupied));
    node.release(first).await;
    node.look().await;
    node.pass(5 * MINUTE).await;
    assert!(node.prove(1).await.is_none(), "the second one comes again soon");
    assert!(node.prove(3).await.is_some(), "a third one was not served before it");
    node.pass(PROOF_LEASE_MILLIS_MAX + TICK).await;
    assert!(node.prove(3).await.is_none(), "and gives way now");
    let second = node.prove(2).await.unwrap();
    assert_eq!(node.state(second).await, LeaseState::Reserved);
    node.release(second).await;
    node.look().await;
    // Both came in vain after they were served; the one that was served last gives way.
    assert!(node.prove(2).await.is_none());
    assert!(node.prove(1).await.is_some());
    node.pass(PROOF_LEASE_MILLIS_MAX + TICK).await;
    assert!(node.prove(1).await.is_none());
    node.pass(TURNED_AWAY_MILLIS + TICK).await;
    assert!(node.prove(1).await.is_some(), "nobody came again");
}

/// A validator that proved here and now brings a renter must not be told that the free machine is taken.
#[tokio::test]
async fn a_renter_gives_way_to_no_proof_whoever_brings_him() {
    let node = Node::new().await;
    let first = node.prove(1).await.unwrap();
    let vain = node.prove(2).await.unwrap();
    node.pass(PROOF_WAIT_MILLIS_MAX + TICK).await;
    assert_eq!(node.state(vain).await, LeaseState::Failed(FailReason::Occupied));
    node.release(first).await;
    node.look().await;
    assert!(node.prove(1).await.is_none(), "as a prover it gives way");
    let rental = node.ask(1, Purpose::Rental, MINUTE).await.unwrap();
    node.look().await;
    assert_eq!(node.state(rental).await, LeaseState::Reserved);
    node.release(rental).await;
    node.look().await;
    // Nor to a proof that runs, once that had its time.
    let proof = node.prove(3).await.unwrap();
    let rental = node.ask(1, Purpose::Rental, MINUTE).await.unwrap();
    node.pass(PROOF_SURE_MILLIS + TICK).await;
    node.look().await;
    assert_eq!(node.state(proof).await, LeaseState::Ended(EndReason::Preempted));
    assert_eq!(node.state(rental).await, LeaseState::Reserved);
}

/// Whoever was turned away must not be forgotten by a node that dies.
#[tokio::test]
async fn who_was_turned_away_is_remembered_over_a_restart() {
    let Node { dir, leases, .. } = {
        let node = Node::new().await;
        let first = node.prove(1).await.unwrap();
        assert!(node.prove(2).await.is_some());
        node.pass(MINUTE).await;
        node.release(first).await;
        node.look().await;
        node
    };
    drop(leases);
    let hotkey = Hotkey::from_bytes([9; 32]);
    let lock = DirLock::take(dir.path()).unwrap();
    let store = Store::open(dir.path(), &hotkey, Fuse::None, lock).await.unwrap();
    let node = Node::new().await;
    node.drawn.set(100);
    node.clock.advance(Duration::from_secs(61));
    for (holder, is_taken) in [(1, false), (2, true)] {
        let lease = node.lease(holder, Purpose::Proof, MINUTE);
        let asked = store.ask(&lease, Words([holder; 32]), 1).await.unwrap();
        assert_eq!(matches!(asked, Asked::New(_)), is_taken, "{holder}");
    }
}

/// A proof that was given the machine and failed has had its turn: else one that always fails is always first.
#[tokio::test]
async fn a_proof_that_failed_was_served() {
    let node = Node::new().await;
    let first = node.prove(1).await.unwrap();
    let lease = node.leases.store.get(first).await.unwrap().unwrap();
    node.pass(SECOND).await;
    let (again, other) = (node.prove(2).await.unwrap(), node.prove(3).await.unwrap());
    node.apply(&lease, LeaseEvent::PrepareFailed(FailReason::Runtime)).await;
    node.pass(SECOND).await;
    assert_eq!(node.state(again).await, LeaseState::Reserved);
    assert!(node.prove(1).await.is_some(), "it may stand in line again");
    node.release(again).await;
    node.pass(SECOND).await;
    assert_eq!(node.state(other).await, LeaseState::Reserved, "and is behind who was not served");
}

/// A lease that waited must not be granted into a maintenance that began, or would begin before its end.
#[tokio::test]
async fn what_waited_is_checked_again() {
    let file = "[[offer]]\nid = \"machine\"\nprice_micro_usd_per_hour = 1\n\
                maintenance = [{ from = 2023-11-14T23:00:00Z, until = 2023-11-15T00:00:00Z }]\n";
    let node = Node::with_file(Some(file)).await;
    let first = node.prove(1).await.unwrap();
    // It is 22:13:20. What is asked for ends ten seconds before the window, and waits for half a minute.
    let until_window = 46 * MINUTE + 40 * SECOND;
    let rental = node.ask(RENTER, Purpose::Rental, until_window - 10 * SECOND).await.unwrap();
    node.pass(20 * SECOND).await;
    node.release(first).await;
    node.pass(TICK).await;
    assert_eq!(node.state(rental).await, LeaseState::Failed(FailReason::Occupied));
    let rental = node.leases.store.get(rental).await.unwrap().unwrap();
    assert!(rental.detail.unwrap().contains("maintenance"));
}

/// What a validator does: when it comes first, how long its proofs are, and after how long it comes again.
#[derive(Debug, Clone)]
struct Habit {
    first_ms: u64,
    proof_ms: u64,
    again_ms: u64,
}

fn habit() -> impl Strategy<Value = Habit> {
    let again = prop_oneof![Just(TICK), TICK..10 * MINUTE];
    (0..20 * MINUTE, TICK..PROOF_LEASE_MILLIS_MAX, again).prop_map(|(first, proof, again)| Habit {
        first_ms: first,
        proof_ms: proof,
        again_ms: again,
    })
}

/// A validator as it goes.
#[derive(Debug, Default)]
struct Going {
    lease: Option<LeaseId>,
    next_ms: u64,
    turned_away_ms: Option<u64>,
    served: u32,
}

/// Plays all validators for a while; nobody may come in vain for longer than everybody else's one turn takes.
async fn play_proofs(habits: &[Habit]) -> Result<(), TestCaseError> {
    let node = Node::new().await;
    let turn = PROOF_LEASE_MILLIS_MAX + 2 * TICK;
    let others = u64::try_from(habits.len()).unwrap() - 1;
    let bound = others * turn + 10 * MINUTE + PROOF_WAIT_MILLIS_MAX + turn;
    let mut going: Vec<Going> =
        habits.iter().map(|habit| Going { next_ms: habit.first_ms, ..Going::default() }).collect();
    for now_ms in (0..3 * 60 * MINUTE).step_by(usize::try_from(TICK).unwrap()) {
        node.pass(TICK).await;
        for (holder, (habit, going)) in (1_u8..).zip(habits.iter().zip(&mut going)) {
            if let Some(id) = going.lease {
                let lease = node.leases.store.get(id).await.unwrap().unwrap();
                match lease.state {
                    LeaseState::Requested => {}
                    LeaseState::Reserved => {
                        if going.turned_away_ms.take().is_some() || going.served == 0 {
                            going.served += 1;
                        }
                        if lease.expires_at.millis_since(node.leases.now())
                            <= PROOF_LEASE_MILLIS_MAX - habit.proof_ms
                        {
                            node.release(id).await;
                        }
                    }
                    LeaseState::Failed(_) => {
                        going.turned_away_ms.get_or_insert(now_ms);
                        (going.lease, going.next_ms) = (None, now_ms + habit.again_ms);
                    }
                    _ => (going.lease, going.next_ms) = (None, now_ms + habit.again_ms),
                }
            } else if now_ms >= going.next_ms {
                going.lease = node.prove(holder).await;
                if going.lease.is_none() {
                    going.turned_away_ms.get_or_insert(now_ms);
                    going.next_ms = now_ms + habit.again_ms;
                }
            }
            let vain = going.turned_away_ms.map_or(0, |since| now_ms - since);
            prop_assert!(
                vain <= bound,
                "{holder} came in vain for {} s: {habits:?}",
                vain / SECOND
            );
        }
    }
    prop_assert!(going.iter().all(|going| going.served > 0), "{going:?}");
    Ok(())
}

/// Plays validators that take proof after proof, and renters who come at these times and stay for a moment.
async fn play_renters(habits: &[Habit], renters_ms: &[u64]) -> Result<(), TestCaseError> {
    let node = Node::new().await;
    let mut rentals: BTreeMap<LeaseId, u64> = BTreeMap::new();
    let mut sure: BTreeMap<LeaseId, u64> = BTreeMap::new();
    for now_ms in (0..90 * MINUTE).step_by(usize::try_from(TICK).unwrap()) {
        node.pass(TICK).await;
        for holder in (1_u8..).take(habits.len()) {
            let _lease = node.prove(holder).await;
        }
        for _ in renters_ms.iter().filter(|at| (now_ms..now_ms + TICK).contains(at)) {
            let held = node.leases.store.holder_of(&"machine".parse().unwrap()).await.unwrap();
            let id = node.ask(RENTER, Purpose::Rental, 2 * TICK).await;
            let is_rented = held.is_some_and(|held| !held.is_short());
            prop_assert!(id.is_some() || is_rented, "a renter was sent away");
            rentals.extend(id.map(|id| (id, now_ms)));
        }
        for lease in node.leases.store.open_leases().await.unwrap() {
            if lease.terms.purpose == Purpose::Proof && lease.state == LeaseState::Reserved {
                sure.entry(lease.terms.id).or_insert(now_ms);
            }
            if lease.state == LeaseState::Ending(EndReason::Preempted) {
                let had = now_ms - sure[&lease.terms.id];
                prop_assert!(had + TICK >= PROOF_SURE_MILLIS, "{} s", had / SECOND);
            }
        }
        for (id, since) in &rentals {
            if node.state(*id).await == LeaseState::Requested {
                prop_assert!(now_ms - since <= RENTAL_WAIT_MILLIS_MAX, "a renter waits too long");
            }
        }
    }
    for id in rentals.keys() {
        let ended = node.state(*id).await;
        let failed = LeaseState::Failed(FailReason::Occupied);
        // Behind another renter the answer is no, at once or when that one is in.
        let among_renters = renters_ms.len() > 1 && ended == failed;
        prop_assert!(among_renters || ended != failed, "a renter came in vain");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Whatever the others do, a validator that comes again every ten minutes must be served before anybody is served twice:
    /// else the machines of its choice stay unproven, and their providers unpaid.
    #[test]
    fn every_validator_is_served_in_time(habits in prop::collection::vec(habit(), 2..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play_proofs(&habits))?;
    }

    /// However many validators stand in line, a renter must have the machine within the time of its wait.
    #[test]
    fn every_renter_is_served_in_time(
        habits in prop::collection::vec(habit(), 1..4),
        renters in prop::collection::vec(0..80 * MINUTE, 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play_renters(&habits, &renters))?;
    }
}
