//! The store against a real file: what survives, what is fenced, what is refused.

use nicompute_market::{
    EndReason, FailReason, Lease, LeaseEvent, LeaseId, LeaseKeys, LeaseOptions, LeaseState,
    LegacyAccess, MicroUsd, Purpose, Share, Terms,
};

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn hotkey() -> Hotkey {
    Hotkey::from_bytes([9; 32])
}

fn lease(byte: u8) -> Lease {
    let terms = Terms {
        id: LeaseId::from_random_bytes([byte; 16]),
        offer: "machine".parse().unwrap(),
        purpose: Purpose::Rental,
        holder: Hotkey::from_bytes([2; 32]),
        share: Share { cores_milli: 1000, memory_bytes: 1 << 30, ..Share::default() },
        price_per_hour: Some(MicroUsd(7)),
        keys: LeaseKeys::of_user(vec!["ssh-ed25519 AAAA".to_owned()]),
        image: "devnet".to_owned(),
        options: LeaseOptions::default(),
        legacy: None,
    };
    Lease::requested(terms, NOW, 60_000)
}

async fn store(dir: &Path) -> Store {
    open(dir, &hotkey()).await.unwrap()
}

async fn open(dir: &Path, hotkey: &Hotkey) -> Result<Store, StoreError> {
    Store::open(dir, hotkey, Fuse::None, DirLock::take(dir).unwrap()).await
}

/// A machine with room for four of these leases.
const ROOM: Capacity =
    Capacity { cores_milli: 4000, memory_bytes: 4 << 30, disk_bytes: 4 << 30, ports: None };

async fn apply(store: &Store, lease: &Lease, event: LeaseEvent) -> Applied {
    match event {
        LeaseEvent::Reserved => store.hold(lease, event, ROOM, NOW).await.unwrap(),
        event => store.apply(lease, event, NOW).await.unwrap(),
    }
}

async fn step(store: &Store, lease: &Lease, event: LeaseEvent) -> Lease {
    match apply(store, lease, event).await {
        Applied::Stored(after) => after,
        other => panic!("{event:?}: {other:?}"),
    }
}

async fn asked(store: &Store, byte: u8) -> Lease {
    match store.ask(&lease(byte), Words([byte; 32]), 16).await.unwrap() {
        Asked::New(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// What a restarted node reads must be what the killed one wrote, event by event.
#[tokio::test]
async fn a_lease_survives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path()).await;
    let mut lease = asked(&first, 1).await;
    for event in [LeaseEvent::Reserved, LeaseEvent::PrepareBegan, LeaseEvent::Prepared] {
        lease = step(&first, &lease, event).await;
    }
    first.close().await;
    drop(first);
    let second = store(dir.path()).await;
    assert_eq!(second.get(lease.terms.id).await.unwrap(), Some(lease.clone()));
    assert_eq!(second.open_leases().await.unwrap(), vec![lease.clone()]);
    let events = second.events_after(lease.terms.id, None).await.unwrap();
    let line: Vec<_> =
        events.iter().map(|e| (e.generation, e.event.as_str(), e.state.as_str())).collect();
    assert_eq!(
        line,
        [
            (0, "requested", "requested"),
            (1, "reserved", "reserved"),
            (2, "prepare-began", "preparing"),
            (3, "prepared", "running"),
        ]
    );
    assert_eq!(second.events_after(lease.terms.id, Some(2)).await.unwrap().len(), 1);
}

/// A machine that is held by two leases is sold twice: the file itself must refuse it.
#[tokio::test]
async fn an_offer_is_held_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let (first, second) = (asked(&store, 1).await, asked(&store, 2).await);
    let first = step(&store, &first, LeaseEvent::Reserved).await;
    assert_eq!(apply(&store, &second, LeaseEvent::Reserved).await, Applied::Occupied);
    assert_eq!(store.ask(&lease(3), Words([3; 32]), 0).await.unwrap(), Asked::Occupied);
    assert_eq!(store.get(lease(3).terms.id).await.unwrap(), None);
    let offer = first.terms.offer.clone();
    let holder = store.holder_of(&offer).await.unwrap().unwrap();
    assert_eq!((holder.lease, holder.is_ending), (first.terms.id, false));
    let first = step(&store, &first, LeaseEvent::EndAsked(EndReason::Released)).await;
    assert_eq!(apply(&store, &second, LeaseEvent::Reserved).await, Applied::Occupied);
    step(&store, &first, LeaseEvent::Swept).await;
    assert_eq!(store.holder_of(&offer).await.unwrap(), None);
    step(&store, &second, LeaseEvent::Reserved).await;
}

/// A writer that saw an older generation must not undo what happened since.
#[tokio::test]
async fn late_writers_are_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let seen = step(&store, &asked(&store, 1).await, LeaseEvent::Reserved).await;
    let current = step(&store, &seen, LeaseEvent::PrepareBegan).await;
    assert_eq!(apply(&store, &seen, LeaseEvent::PrepareBegan).await, Applied::Superseded);
    let keys = LeaseKeys::of_user(vec!["ssh-ed25519 BBBB".to_owned()]);
    assert_eq!(
        store.apply(&seen, Change::keys(keys.clone()), NOW).await.unwrap(),
        Applied::Superseded
    );
    let refused = store.apply(&current, LeaseEvent::Swept, NOW).await.unwrap();
    assert!(matches!(refused, Applied::Refused(_)));
    assert_eq!(store.events_after(seen.terms.id, None).await.unwrap().len(), 3);
    let Applied::Stored(after) =
        store.apply(&current, Change::keys(keys.clone()), NOW).await.unwrap()
    else {
        panic!("the keys of the current generation are replaced");
    };
    assert_eq!((after.generation, &after.terms.keys), (3, &keys));
    // The same again changes nothing, not even the generation.
    assert_eq!(
        store.apply(&after, Change::keys(keys), NOW).await.unwrap(),
        Applied::Stored(after.clone())
    );
    assert_eq!(store.get(seen.terms.id).await.unwrap(), Some(after));
}

/// A caller that repeats its request after a lost answer must get its lease and not a second one.
#[tokio::test]
async fn asking_twice_is_asking_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let first = asked(&store, 1).await;
    let reserved = step(&store, &first, LeaseEvent::Reserved).await;
    assert_eq!(store.ask(&first, Words([1; 32]), 0).await.unwrap(), Asked::Same(reserved));
    assert_eq!(store.ask(&first, Words([7; 32]), 0).await.unwrap(), Asked::OtherWords);
}

/// A release that is repeated must not add events for ever.
#[tokio::test]
async fn what_changes_nothing_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let lease = asked(&store, 1).await;
    let failed = step(&store, &lease, LeaseEvent::EndAsked(EndReason::Released)).await;
    assert_eq!(failed.state, LeaseState::Failed(FailReason::Cancelled));
    let again = step(&store, &failed, LeaseEvent::EndAsked(EndReason::Provider)).await;
    assert_eq!(again, failed);
    assert_eq!(store.events_after(lease.terms.id, None).await.unwrap().len(), 2);
}

/// The past must be neither rewritten nor kept without end.
#[tokio::test]
async fn events_are_append_only_and_leases_are_forgotten_at_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let rewrite = sqlx::query("UPDATE lease_event SET event = 'x'");
    let open = asked(&store, 16).await;
    assert!(rewrite.execute(&store.pool).await.is_err());
    for byte in 1..=4 {
        let mut lease = lease(byte);
        lease.requested_at = NOW.saturating_add_millis(u64::from(byte));
        assert!(matches!(store.ask(&lease, Words([byte; 32]), 16).await.unwrap(), Asked::New(_)));
        step(&store, &lease, LeaseEvent::PrepareFailed(FailReason::Image)).await;
    }
    assert_eq!(store.forget_finished(4).await.unwrap(), 0);
    assert_eq!(store.forget_finished(3).await.unwrap(), 1);
    assert_eq!(store.get(lease(1).terms.id).await.unwrap(), None);
    assert!(store.get(lease(2).terms.id).await.unwrap().is_some());
    assert!(store.events_after(lease(1).terms.id, None).await.unwrap().is_empty());
    assert!(store.get(open.terms.id).await.unwrap().is_some());
}

/// A node that starts with another wallet on this directory would sweep containers under the wrong name.
#[tokio::test]
async fn a_store_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path()).await.close().await;
    let other = Hotkey::from_bytes([8; 32]);
    let refused = open(dir.path(), &other).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::OtherHotkey { owner } if *owner == hotkey().to_string())
    );
    assert!(refused.remedy().is_some());
}

/// A file that is no store must stay as it is.
#[tokio::test]
async fn a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = "this is not a database, and longer than a header of one would be, by far".repeat(4);
    std::fs::write(dir.path().join(FILE), &text).unwrap();
    let refused = open(dir.path(), &hotkey()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Open { .. } | StoreError::Migrate { .. }), "{refused}");
    assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
}

/// A nonce ahead of our clock that was accepted before a restart must stay refused after it.
#[tokio::test]
async fn the_nonce_floor_only_rises() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    assert_eq!(store.nonce_floor_ns().await.unwrap(), 0);
    store.raise_nonce_floor(50).await.unwrap();
    store.raise_nonce_floor(40).await.unwrap();
    assert_eq!(store.nonce_floor_ns().await.unwrap(), 50);
    assert!(matches!(store.raise_nonce_floor(u64::MAX).await, Err(StoreError::TooLarge { .. })));
}

/// Every state must be storable, or a lease would be stuck one step before it.
#[tokio::test]
async fn the_file_takes_every_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    for (byte, state) in (1_u8..).zip(LeaseState::ALL) {
        let mut lease = lease(byte);
        lease.state = state;
        lease.terms.offer = format!("offer-{byte}").parse().unwrap();
        assert_eq!(store.ask(&lease, Words([0; 32]), 0).await.unwrap(), Asked::New(lease.clone()));
        assert_eq!(store.get(lease.terms.id).await.unwrap(), Some(lease));
    }
}

/// What a tenant was sold must be what it still has after an update, a restart and a change of the offers.
#[tokio::test]
async fn what_was_agreed_is_stored_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let mut full = lease(1);
    full.terms.share.gpus = vec!["GPU-1".to_owned(), "GPU-2".to_owned()];
    full.terms.keys.terminal = Some("ssh-ed25519 CCCC".to_owned());
    full.terms.options = LeaseOptions {
        environment: vec![("A".to_owned(), "b\n".to_owned())],
        ports: vec![80],
        ..LeaseOptions::default()
    };
    let hash = "$argon2id$".to_owned();
    full.terms.legacy = Some(LegacyAccess { owner_key_sha256: [5; 32], password_hash: hash });
    assert_eq!(store.ask(&full, Words([0; 32]), 0).await.unwrap(), Asked::New(full.clone()));
    assert_eq!(store.get(full.terms.id).await.unwrap().as_ref(), Some(&full));
    let (holder, other) = (full.terms.holder, Hotkey::from_bytes([99; 32]));
    assert_eq!(store.of_caller(&holder, &[5; 32]).await.unwrap(), Some(full));
    assert_eq!(store.of_caller(&holder, &[6; 32]).await.unwrap(), None);
    assert_eq!(store.of_caller(&other, &[5; 32]).await.unwrap(), None);
}

/// A GPU that is in two leases is one tenant's memory in the other one's hands: the file itself must refuse it, whichever
/// offers the leases are of.
#[tokio::test]
async fn a_gpu_is_held_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let with = |byte: u8, gpus: &[&str]| {
        let mut lease = lease(byte);
        lease.terms.offer = format!("slice-{byte}").parse().unwrap();
        lease.terms.share.gpus = gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
        lease
    };
    for (byte, gpus) in [(1, ["A", "B"]), (2, ["B", "C"]), (3, ["C", "D"])] {
        let lease = with(byte, &gpus);
        assert!(matches!(store.ask(&lease, Words([0; 32]), 0).await.unwrap(), Asked::New(_)));
    }
    let first = step(&store, &with(1, &["A", "B"]), LeaseEvent::Reserved).await;
    let second = with(2, &["B", "C"]);
    assert_eq!(apply(&store, &second, LeaseEvent::Reserved).await, Applied::Occupied);
    assert_eq!(store.holder_of_gpu("B").await.unwrap(), Some(first.terms.id));
    assert_eq!(store.holder_of_gpu("C").await.unwrap(), None, "nothing of the refused is held");
    step(&store, &with(3, &["C", "D"]), LeaseEvent::Reserved).await;
    let first = step(&store, &first, LeaseEvent::EndAsked(EndReason::Released)).await;
    assert_eq!(apply(&store, &second, LeaseEvent::Reserved).await, Applied::Occupied);
    step(&store, &first, LeaseEvent::Swept).await;
    assert_eq!(apply(&store, &second, LeaseEvent::Reserved).await, Applied::Occupied, "C");
}

/// More processors or memory than there are cannot be held, whatever the offers once said.
#[tokio::test]
async fn no_more_is_held_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let mut held = Vec::new();
    for byte in 1..=5 {
        let mut lease = lease(byte);
        lease.terms.offer = format!("slice-{byte}").parse().unwrap();
        store.ask(&lease, Words([0; 32]), 0).await.unwrap();
        held.push(apply(&store, &lease, LeaseEvent::Reserved).await);
    }
    assert!(held[..4].iter().all(|applied| matches!(applied, Applied::Stored(_))));
    assert_eq!(held[4], Applied::Occupied);
}

/// Whoever waits in two places, or with a thousand others, keeps the rest from ever being served.
#[tokio::test]
async fn a_few_wait_for_a_proof_and_nobody_for_a_renter() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let by = |byte: u8| {
        let mut lease = lease(byte);
        lease.terms.holder = Hotkey::from_bytes([byte; 32]);
        lease.terms.purpose = Purpose::Proof;
        lease
    };
    store.ask(&by(1), Words([0; 32]), 2).await.unwrap();
    let proof = step(&store, &by(1), LeaseEvent::Reserved).await;
    assert!(matches!(store.ask(&by(2), Words([0; 32]), 2).await.unwrap(), Asked::New(_)));
    let mut twice = by(2);
    twice.terms.id = LeaseId::from_random_bytes([99; 16]);
    assert_eq!(store.ask(&twice, Words([0; 32]), 2).await.unwrap(), Asked::Occupied);
    assert!(matches!(store.ask(&by(3), Words([0; 32]), 2).await.unwrap(), Asked::New(_)));
    assert_eq!(store.ask(&by(4), Words([0; 32]), 2).await.unwrap(), Asked::Occupied);
    let waiting = store.waiting(&proof.terms.offer, NOW).await.unwrap();
    let shown: Vec<_> = waiting.iter().map(|waits| (waits.holder, waits.served_at)).collect();
    assert_eq!(shown, [(by(2).terms.holder, None), (by(3).terms.holder, None)]);
    step(&store, &proof, LeaseEvent::EndAsked(EndReason::Released)).await;
    let mut rental = by(5);
    rental.terms.offer = "rented".parse().unwrap();
    rental.terms.purpose = Purpose::Rental;
    store.ask(&rental, Words([0; 32]), 2).await.unwrap();
    step(&store, &rental, LeaseEvent::Reserved).await;
    let mut second = by(6);
    second.terms.offer = rental.terms.offer;
    assert_eq!(store.ask(&second, Words([0; 32]), 2).await.unwrap(), Asked::Occupied);
}

/// A tenant of before an update must keep its machine through it: rows of the first version are read, and what they had
/// is written down.
#[tokio::test]
async fn leases_of_the_first_version_keep_the_whole_machine() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let running = asked(&store, 1).await;
    let running = step(&store, &running, LeaseEvent::Reserved).await;
    let over = lease(2);
    let mut over = Lease { terms: Terms { offer: "gone".parse().unwrap(), ..over.terms }, ..over };
    over.state = LeaseState::Failed(FailReason::Image);
    store.ask(&over, Words([0; 32]), 0).await.unwrap();
    let before = "UPDATE lease SET cores_milli = NULL, memory_bytes = NULL, disk_bytes = NULL, gpus = NULL, \
                  price_micro_usd_per_hour = NULL";
    sqlx::query(before).execute(&store.pool).await.unwrap();
    let whole =
        Share { cores_milli: 8000, memory_bytes: 9, disk_bytes: 8, gpus: vec!["GPU-1".to_owned()] };
    assert_eq!(store.share_with_old(&whole).await.unwrap(), 1);
    assert_eq!(store.share_with_old(&Share::default()).await.unwrap(), 0, "once");
    let read = store.get(running.terms.id).await.unwrap().unwrap();
    assert_eq!((&read.terms.share, read.terms.price_per_hour), (&whole, None));
    assert_eq!(store.holder_of_gpu("GPU-1").await.unwrap(), Some(running.terms.id));
    let read = store.get(over.terms.id).await.unwrap().unwrap();
    assert_eq!(read.terms.share, Share::default());
}

/// Evidence that is lost when the machine is swept, or that writes control characters into a log, is no evidence.
#[tokio::test]
async fn why_a_lease_ended_stays_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let lease = asked(&store, 1).await;
    let lease = step(&store, &lease, LeaseEvent::Reserved).await;
    let ended =
        Change::from(LeaseEvent::EndAsked(EndReason::Gpu)).because("Xid 79\u{1b}[2J".repeat(200));
    let Applied::Stored(lease) = store.apply(&lease, ended, NOW).await.unwrap() else {
        panic!("a lease can always be ended");
    };
    let swept = step(&store, &lease, LeaseEvent::Swept).await;
    let detail = swept.detail.unwrap();
    assert!(detail.starts_with("Xid 79[2J") && detail.len() <= 1000);
    let events = store.events_after(swept.terms.id, None).await.unwrap();
    assert_eq!(events.last().unwrap().detail.as_ref(), Some(&detail));
    assert_eq!(events[1].detail, None);
}

/// A port that leads into two leases shows one tenant's page to the other one's visitors; one that is lost with its lease is
/// never sold again.
#[tokio::test]
async fn a_port_leads_into_one_lease() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let range = Some("20000-20002".parse().unwrap());
    let room = Capacity { ports: range, ..ROOM };
    let mut leases = Vec::new();
    for byte in 1..=3 {
        let mut lease = lease(byte);
        lease.terms.offer = format!("slice-{byte}").parse().unwrap();
        lease.terms.options.ports = if byte == 3 { vec![80] } else { vec![80, 81] };
        assert!(matches!(store.ask(&lease, Words([0; 32]), 0).await.unwrap(), Asked::New(_)));
        leases.push(lease);
    }
    let hold = async |lease: &Lease, room| {
        store.hold(lease, LeaseEvent::Reserved, room, NOW).await.unwrap()
    };
    assert_eq!(hold(&leases[0], ROOM).await, Applied::NoPorts, "no range");
    let Applied::Stored(first) = hold(&leases[0], room).await else { panic!("two are free") };
    assert_eq!(hold(&leases[1], room).await, Applied::NoPorts, "one is left");
    assert_eq!(store.get(leases[1].terms.id).await.unwrap(), Some(leases[1].clone()));
    let Applied::Stored(third) = hold(&leases[2], room).await else { panic!("one is free") };
    assert_eq!(store.get(first.terms.id).await.unwrap(), Some(first.clone()));
    let all = first.published.iter().chain(&third.published).map(|port| port.port);
    assert_eq!(all.collect::<std::collections::BTreeSet<_>>(), (20000..=20002).collect());
    let (id, port) = (first.terms.id, first.published[0]);
    assert_eq!(store.move_port(id, port, range).await.unwrap(), None, "none is free");
    let third = step(&store, &third, LeaseEvent::EndAsked(EndReason::Released)).await;
    assert_eq!(store.move_port(id, port, range).await.unwrap(), None, "not yet");
    let over = step(&store, &third, LeaseEvent::Swept).await;
    assert_eq!((over.published, over.state.is_final()), (Vec::new(), true));
    let moved = store.move_port(id, port, range).await.unwrap().unwrap();
    assert_eq!((moved.container_port, moved.port), (80, third.published[0].port));
    assert_eq!(store.move_port(id, port, range).await.unwrap(), None, "it is not there any more");
    let now = store.get(id).await.unwrap().unwrap();
    assert_eq!(now.published, [moved, first.published[1]]);
    // Forgotten with its lease, also where a process died in between.
    step(&store, &first, LeaseEvent::PrepareBegan).await;
    let failed = store.get(id).await.unwrap().unwrap();
    step(&store, &failed, LeaseEvent::PrepareFailed(FailReason::Runtime)).await;
    assert!(matches!(hold(&leases[1], room).await, Applied::Stored(_)));
}
