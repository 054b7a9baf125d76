//! Leases that are brokered for renters.

use nicompute_market::LeaseId;
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::RentRequest;

use crate::door::{Conduct, ProverDoor};
use crate::provider::{HOST_KEY, Lie, Provider};
use crate::world::{self, World, wait_for};

fn request(provider: &Provider, id: u8) -> RentRequest {
    RentRequest {
        id: LeaseId::from_random_bytes([id; 16]),
        provider: provider.hotkey(),
        offer: "machine".parse().unwrap(),
        ssh_keys: vec![format!("{HOST_KEY} me@home")],
        image: None,
        duration_seconds: 60,
        price_micro_usd_per_hour_max: None,
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
