//! The store against a real file: what survives, what is fenced, what is refused.

use nicompute_market::{EndReason, FailReason, LeaseState, Purpose, Terms};

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
        ssh_keys: vec!["ssh-ed25519 AAAA".to_owned()],
        image: "devnet".to_owned(),
    };
    Lease::requested(terms, NOW, 60_000)
}

async fn store(dir: &Path) -> Store {
    open(dir, &hotkey()).await.unwrap()
}

async fn open(dir: &Path, hotkey: &Hotkey) -> Result<Store, StoreError> {
    Store::open(dir, hotkey, Fuse::None, DirLock::take(dir).unwrap()).await
}

async fn step(store: &Store, lease: &Lease, event: LeaseEvent) -> Lease {
    match store.apply(lease, event, NOW).await.unwrap() {
        Applied::Stored(after) => after,
        other => panic!("{event:?}: {other:?}"),
    }
}

async fn asked(store: &Store, byte: u8) -> Lease {
    match store.ask(&lease(byte), Words([byte; 32])).await.unwrap() {
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
    assert_eq!(store.apply(&second, LeaseEvent::Reserved, NOW).await.unwrap(), Applied::Occupied);
    assert_eq!(store.ask(&lease(3), Words([3; 32])).await.unwrap(), Asked::Occupied);
    assert_eq!(store.get(lease(3).terms.id).await.unwrap(), None);
    let offer = first.terms.offer.clone();
    assert_eq!(store.holder_of(&offer).await.unwrap(), Some(first.terms.id.to_string()));
    let first = step(&store, &first, LeaseEvent::EndAsked(EndReason::Released)).await;
    assert_eq!(store.apply(&second, LeaseEvent::Reserved, NOW).await.unwrap(), Applied::Occupied);
    step(&store, &first, LeaseEvent::Swept).await;
    assert_eq!(store.holder_of(&offer).await.unwrap(), None);
    step(&store, &second, LeaseEvent::Reserved).await;
}

/// A writer that saw an older generation must not undo what happened since.
#[tokio::test]
async fn late_writers_are_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let seen = asked(&store, 1).await;
    let current = step(&store, &seen, LeaseEvent::Reserved).await;
    assert_eq!(store.apply(&seen, LeaseEvent::Reserved, NOW).await.unwrap(), Applied::Superseded);
    let keys = vec!["ssh-ed25519 BBBB".to_owned()];
    assert_eq!(store.replace_keys(&seen, keys.clone(), NOW).await.unwrap(), Applied::Superseded);
    let refused = store.apply(&current, LeaseEvent::Swept, NOW).await.unwrap();
    assert!(matches!(refused, Applied::Refused(_)));
    assert_eq!(store.events_after(seen.terms.id, None).await.unwrap().len(), 2);
    let Applied::Stored(after) = store.replace_keys(&current, keys.clone(), NOW).await.unwrap()
    else {
        panic!("the keys of the current generation are replaced");
    };
    assert_eq!((after.generation, &after.terms.ssh_keys), (2, &keys));
    // The same again changes nothing, not even the generation.
    assert_eq!(
        store.replace_keys(&after, keys, NOW).await.unwrap(),
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
    assert_eq!(store.ask(&first, Words([1; 32])).await.unwrap(), Asked::Same(reserved));
    assert_eq!(store.ask(&first, Words([7; 32])).await.unwrap(), Asked::OtherWords);
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
    let open = asked(&store, 0).await;
    assert!(rewrite.execute(&store.pool).await.is_err());
    for byte in 1..=4 {
        let mut lease = lease(byte);
        lease.requested_at = NOW.saturating_add_millis(u64::from(byte));
        assert!(matches!(store.ask(&lease, Words([byte; 32])).await.unwrap(), Asked::New(_)));
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
        assert_eq!(store.ask(&lease, Words([0; 32])).await.unwrap(), Asked::New(lease.clone()));
        assert_eq!(store.get(lease.terms.id).await.unwrap(), Some(lease));
    }
}
