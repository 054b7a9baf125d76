//! Leases that are brokered for renters.

use nicompute_market::LeaseId;
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::RentRequest;
use nicompute_wire::node::OptionsView;

use crate::door::{Conduct, ProverDoor};
use crate::provider::{HOST_KEY, Lie, Provider};
use crate::world::{self, World, wait_for};

pub(crate) fn request(provider: &Provider, id: u8) -> RentRequest {
    RentRequest {
        id: LeaseId::from_random_bytes([id; 16]),
        provider: provider.hotkey(),
        offer: "machine".parse().unwrap(),
        ssh_keys: vec![format!("{HOST_KEY} me@home")],
        image: None,
        duration_seconds: 60,
        price_micro_usd_per_hour_max: None,
        terminal_key: None,
        options: OptionsView::default(),
    }
}

/// A world whose provider was proven, so that no session is in a renter's way.
async fn proven(dir: &std::path::Path, provider: &Provider) -> World {
    let world = world::start(dir, &[provider], ProverDoor::new(Conduct::Honest)).await;
    world.verdict(provider).await;
    wait_for("the release", async || provider.held().is_empty().then_some(())).await;
    world
}

/// The whole of a rental as its renter sees it, asked for twice and given back twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rent_twice_is_one_lease_and_release_twice_is_one_end() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    let request = request(&provider, 1);
    let rented = world.handle.rent(&me, request.clone()).await.unwrap();
    assert_eq!((rented.state.as_str(), rented.price_micro_usd_per_hour), ("running", 1_000));
    let ssh = rented.ssh.clone().unwrap();
    assert_eq!((ssh.host.as_str(), ssh.port, ssh.host_key.as_str()), ("127.0.0.1", 4444, HOST_KEY));
    assert_eq!(world.handle.rent(&me, request.clone()).await.unwrap().id, rented.id);
    assert_eq!(provider.held(), [rented.id]);
    assert_eq!(world.handle.leases(&me).await.unwrap().leases.len(), 1);

    let other_words = RentRequest { duration_seconds: 61, ..request };
    let denied = world.handle.rent(&me, other_words).await.unwrap_err();
    assert_eq!(denied.code, Code::LeaseConflict);

    for _ in 0..2 {
        let over = world.handle.release(&me, rented.id).await.unwrap();
        assert_eq!((over.state.as_str(), over.reason.as_deref()), ("ended", Some("released")));
        assert_eq!(over.ssh, None);
    }
    assert!(provider.held().is_empty());
    world.stop().await;
}

/// A lease of somebody else must look like one that does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_lease_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let ((me, _), (other, _)) = (world.principal("me").await, world.principal("other").await);
    let rented = world.handle.rent(&me, request(&provider, 1)).await.unwrap();
    let none = world.handle.lease(&other, rented.id).await.unwrap_err();
    let unknown = world.handle.lease(&other, LeaseId::from_random_bytes([9; 16])).await;
    assert_eq!(none, unknown.unwrap_err());
    assert_eq!(world.handle.release(&other, rented.id).await.unwrap_err().code, Code::NoSuchLease);
    assert!(world.handle.leases(&other).await.unwrap().leases.is_empty());
    let stolen = world.handle.rent(&other, request(&provider, 1)).await.unwrap_err();
    assert_eq!(stolen.code, Code::LeaseConflict);
    assert_eq!(provider.held(), [rented.id]);
    world.stop().await;
}

/// What is wrong with a request must be said, and nothing may be taken for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    let asked = provider.count("POST");
    let good = request(&provider, 1);
    let stranger = Provider::start("//Dave", Lie::None).await;
    let cases = [
        (RentRequest { duration_seconds: 9, ..good.clone() }, Code::BadRequest),
        (RentRequest { duration_seconds: u64::MAX, ..good.clone() }, Code::BadRequest),
        (RentRequest { ssh_keys: Vec::new(), ..good.clone() }, Code::BadSshKey),
        (RentRequest { ssh_keys: vec![HOST_KEY.to_owned(); 17], ..good.clone() }, Code::BadSshKey),
        (
            RentRequest { ssh_keys: vec![format!("{HOST_KEY}\n{HOST_KEY}")], ..good.clone() },
            Code::BadSshKey,
        ),
        (RentRequest { provider: stranger.hotkey(), ..good.clone() }, Code::NoSuchOffer),
        (RentRequest { offer: "other".parse().unwrap(), ..good.clone() }, Code::NoSuchOffer),
        (
            RentRequest { price_micro_usd_per_hour_max: Some(999), ..good.clone() },
            Code::OverTheOffer,
        ),
    ];
    for (request, code) in cases {
        assert_eq!(world.handle.rent(&me, request).await.unwrap_err().code, code);
    }
    assert_eq!(provider.count("POST"), asked, "no provider was asked");
    assert!(world.handle.leases(&me).await.unwrap().leases.is_empty());
    provider.set_lie(Lie::OtherSigner);
    let denied = world.handle.rent(&me, good).await.unwrap_err();
    assert_eq!(denied.code, Code::ProviderNotBelieved);
    world.stop().await;
}

/// A machine that is taken stays its renter's, and the next one is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_machine_is_refused_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let ((me, _), (other, _)) = (world.principal("me").await, world.principal("other").await);
    let mine = world.handle.rent(&me, request(&provider, 1)).await.unwrap();
    let denied = world.handle.rent(&other, request(&provider, 2)).await.unwrap_err();
    assert_eq!(denied.code, Code::Occupied);
    assert_eq!(provider.held(), [mine.id]);
    let theirs = world.handle.leases(&other).await.unwrap().leases;
    assert_eq!(
        (theirs[0].state.as_str(), theirs[0].reason.as_deref()),
        ("failed", Some("occupied"))
    );
    world.stop().await;
}

/// A renter must not be led to a gateway that the provider's hotkey does not vouch for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unvouched_gateway_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    provider.set_lie(Lie::OtherHostKey);
    let rented = world.handle.rent(&me, request(&provider, 1)).await.unwrap();
    assert_eq!((rented.state.as_str(), rented.ssh), ("running", None));
    world.stop().await;
}

/// While a provider cannot be asked its leases are neither alive nor gone, and a release is not forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_outlives_an_outage() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    let rented = world.handle.rent(&me, request(&provider, 1)).await.unwrap();
    provider.set_lie(Lie::Unsigned);
    assert_eq!(world.handle.lease(&me, rented.id).await.unwrap().state, "unknown");
    assert_eq!(world.handle.release(&me, rented.id).await.unwrap().state, "unknown");
    provider.set_lie(Lie::None);
    let over = async || {
        let lease = world.handle.leases(&me).await.unwrap().leases.remove(0);
        (lease.state == "ended").then_some(())
    };
    wait_for("the end", over).await;
    world.stop().await;
}

/// What was given back while the provider was still being asked must not run unseen for a month once it says yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_during_the_ask_ends_the_ask() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    provider.set_lie(Lie::Occupied);
    let wanted = request(&provider, 1);
    let id = wanted.id;
    let before = provider.count("POST");
    let release = async {
        wait_for("a request", async || (provider.count("POST") > before).then_some(())).await;
        world.handle.release(&me, id).await.unwrap();
        provider.set_lie(Lie::None);
    };
    let (told, ()) = tokio::join!(world.handle.rent(&me, wanted), release);
    let told = told.unwrap();
    assert_eq!((told.state.as_str(), told.reason.as_deref()), ("failed", Some("cancelled")));
    assert!(provider.held().is_empty());
    world.stop().await;
}

/// The same with the request on its way: the provider does not know the lease yet when it is told to let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_overtakes_its_request_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    let closed = provider.gate.clone().acquire_owned().await.unwrap();
    let wanted = request(&provider, 1);
    let id = wanted.id;
    let before = provider.count("waits");
    let release = async {
        wait_for("a request", async || (provider.count("waits") > before).then_some(())).await;
        let told = world.handle.release(&me, id).await.unwrap();
        assert_eq!(told.state, "requested", "nobody knows yet");
        drop(closed);
    };
    let (rented, ()) = tokio::join!(world.handle.rent(&me, wanted), release);
    rented.unwrap();
    let over = async || {
        let lease = world.handle.leases(&me).await.unwrap().leases.remove(0);
        (lease.state == "ended").then_some(())
    };
    wait_for("the end", over).await;
    assert!(provider.held().is_empty());
    world.stop().await;
}

/// The same when the renter hangs up, so that nobody waits for the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_after_hanging_up_reaches_the_provider() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    let closed = provider.gate.clone().acquire_owned().await.unwrap();
    let wanted = request(&provider, 1);
    let id = wanted.id;
    let before = provider.count("waits");
    let waits = async || (provider.count("waits") > before).then_some(());
    tokio::select! {
        early = world.handle.rent(&me, wanted) => panic!("{early:?}"),
        () = wait_for("a request", waits) => {}
    }
    let told = world.handle.release(&me, id).await.unwrap();
    assert_eq!(told.state, "requested", "the request may still arrive");
    drop(closed);
    world.stop().await;
}

/// The rentals loop must not end what a request still waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_being_cleared_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    provider.set_lie(Lie::Occupied);
    let wanted = request(&provider, 1);
    let id = wanted.id;
    let before = provider.count("POST");
    let clear = async {
        let twice = async || (provider.count("POST") > before + 1).then_some(());
        wait_for("two requests", twice).await;
        provider.set_lie(Lie::None);
    };
    let (rented, ()) = tokio::join!(world.handle.rent(&me, wanted), clear);
    assert_eq!(rented.unwrap().state, "running");
    assert_eq!(provider.held(), [id]);
    assert_eq!(world.handle.leases(&me).await.unwrap().leases[0].state, "running");
    world.stop().await;
}

/// A provider that took an order whose answer was lost, and refuses the repetition, would run a lease that nobody owns for up
/// to a month: what is given up is given back, also by the process after this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    provider.set_lie(Lie::TakesAndForgets);
    let told = world.handle.rent(&me, request(&provider, 1)).await;
    assert!(told.is_ok_and(|view| view.state != "failed"), "nobody knows yet");
    let given_up = async || {
        let lease = world.handle.leases(&me).await.unwrap().leases.remove(0);
        (lease.reason.as_deref() == Some("occupied")).then_some(())
    };
    wait_for("the end of it", given_up).await;
    let asked = async || (provider.count("DELETE") > 1).then_some(());
    wait_for("two releases", asked).await;
    assert_eq!(provider.held(), [request(&provider, 1).id], "they do not get through");
    world.stop().await;
    provider.set_lie(Lie::None);
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Honest)).await;
    wait_for("the release", async || provider.held().is_empty().then_some(())).await;
    world.stop().await;
}

/// Whoever could rent the lease of a proof could give it back, and so end the proofs of its rivals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_of_a_proof_is_no_rental() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let closed = provider.gate.clone().acquire_owned().await.unwrap();
    let door = ProverDoor::new(Conduct::Silent);
    let world = world::start(dir.path(), &[&provider], door).await;
    let (me, _) = world.principal("me").await;
    let session = async || world.handle.status().await.unwrap().providers[0].session.clone();
    wait_for("the request", async || (provider.count("waits") > 0).then_some(())).await;
    assert_eq!(session().await, None, "not before the provider has taken it");
    drop(closed);
    let lease = wait_for("the session", session).await.lease;
    let asked = provider.count("POST");
    let request = RentRequest { id: lease, ..request(&provider, 1) };
    let denied = world.handle.rent(&me, request).await.unwrap_err();
    assert_eq!(denied.code, Code::LeaseConflict);
    assert_eq!(provider.count("POST"), asked, "no provider was asked");
    assert!(world.handle.leases(&me).await.unwrap().leases.is_empty());
    assert_eq!(provider.held(), [lease]);
    world.stop().await;
}

/// A renter's visitors find his port at the machine that the market speaks to, whatever address its provider writes, and
/// nowhere once the lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_shown_to_their_renter() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = proven(dir.path(), &provider).await;
    let (me, _) = world.principal("me").await;
    let options = OptionsView { ports: vec![80, 8080], ..OptionsView::default() };
    let request = RentRequest { options, ..request(&provider, 1) };
    let rented = world.handle.rent(&me, request).await.unwrap();
    let seen = rented.ports.iter().map(|port| (port.container_port, &*port.host, port.port));
    let seen: Vec<_> = seen.collect();
    assert_eq!(seen, [(80, "127.0.0.1", 20_000), (8080, "127.0.0.1", 20_001)]);
    assert_eq!(world.handle.lease(&me, rented.id).await.unwrap().ports, rented.ports);
    assert_eq!(world.handle.leases(&me).await.unwrap().leases[0].ports, rented.ports);
    let over = world.handle.release(&me, rented.id).await.unwrap();
    assert_eq!(over.ports, []);
    world.stop().await;
}
