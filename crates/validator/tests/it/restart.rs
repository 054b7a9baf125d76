//! A validator that was killed, or that must not start.

use std::sync::atomic::Ordering;

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Netuid;
use nicompute_validator::{DirLockError, StartError, StoreError, open_catalogue, sign_catalogue};

use crate::door::{Conduct, ProverDoor};
use crate::provider::{Lie, Provider};
use crate::world::{self, wait_for};

/// A lease that nobody gives back keeps a machine from its renters for ten minutes, each time a validator is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_a_killed_validator_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::NeverReleases).await;
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Silent)).await;
    wait_for("a lease", async || (!provider.held().is_empty()).then_some(())).await;
    // The provider takes no release, so the end of this process leaves the lease behind as a kill would.
    world.stop().await;
    let left = provider.held();
    assert_eq!(left.len(), 1);

    provider.set_lie(Lie::Unavailable);
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Honest)).await;
    wait_for("the release", async || provider.held().is_empty().then_some(())).await;
    let asked = format!("DELETE /v1/leases/{}", left[0]);
    let forgotten = async || {
        let count = provider.count(&asked);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        (provider.count(&asked) == count).then_some(())
    };
    wait_for("the lease to be forgotten", forgotten).await;
    world.stop().await;
}

/// Evidence, keys and rentals must be there after a restart, and the machine must not be proven again for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_and_keys_survive() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Honest)).await;
    let before = world.verdict(&provider).await;
    let (me, key) = world.principal("me").await;
    world.stop().await;
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Hankel)).await;
    assert_eq!(world.proof(&provider).await, Some(before));
    assert_eq!(world.handle.principal_of(key.expose()).await.unwrap(), Some(me));
    world.stop().await;
}

/// A cheater would only have to wait for the validator's next start to try another sample, also where a start proves anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_proof_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Hankel)).await;
    let before = world.verdict(&provider).await;
    assert_eq!((before.verdict.as_str(), before.score_micro), ("refused", 0));
    world.stop().await;
    let mut config = world::config(dir.path());
    config.devnet = true;
    let door = ProverDoor::new(Conduct::Honest);
    let world = world::try_start(config, &[&provider], door.clone()).await.unwrap();
    let asked = provider.count("GET /v1/offers");
    let more = async || (provider.count("GET /v1/offers") > asked + 5).then_some(());
    wait_for("more rounds", more).await;
    assert_eq!(world.proof(&provider).await, Some(before));
    assert_eq!(door.opened.load(Ordering::SeqCst), 0, "no other try");
    let evidence = world.handle.evidence(&provider.hotkey()).await.unwrap();
    assert!(matches!(evidence.as_slice(), [one] if one.is_wrong), "{evidence:?}");
    world.stop().await;
}

/// Two processes on one store would lose each other's leases; a foreign store would sign with the wrong key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_process_hotkey_and_subnet() {
    let dir = tempfile::tempdir().unwrap();
    let door = || ProverDoor::new(Conduct::Honest);
    let world = world::start(dir.path(), &[], door()).await;
    let refused = world::try_start(world::config(dir.path()), &[], door()).await.err().unwrap();
    assert!(matches!(refused, StartError::Dir(DirLockError::InUse(_))), "{refused:?}");
    assert!(refused.remedy().is_some());
    world.stop().await;
    let mut config = world::config(dir.path());
    config.netuid = Netuid(28);
    let again = async |config| {
        // The lock goes with the last owner of the store, a moment after its tasks.
        wait_for("the lock", async || {
            match world::try_start(Clone::clone(&config), &[], door()).await {
                Err(StartError::Dir(DirLockError::InUse(_))) => None,
                other => Some(other),
            }
        })
        .await
    };
    let refused = again(config).await.err().unwrap();
    assert!(matches!(refused, StartError::Store(StoreError::OtherOwner { .. })), "{refused:?}");
    let mut config = world::config(dir.path());
    config.hotkey = Keypair::from_uri("//Eve", Scheme::Sr25519).unwrap();
    let refused = again(config).await.err().unwrap();
    assert!(matches!(refused, StartError::Store(StoreError::OtherOwner { .. })), "{refused:?}");
}

/// A share above the whole must be refused at the start, not at every round of the weights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_everything_cannot_be_burned() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = world::config(dir.path());
    config.policies.burn_share_ppm = 1_000_001;
    let refused = world::try_start(config, &[], ProverDoor::new(Conduct::Honest)).await;
    let refused = refused.err().unwrap();
    assert!(matches!(refused, StartError::BurnShare(1_000_001)), "{refused:?}");
}

/// Whoever can put back an old catalogue file decides who is paid; two files of one version could be swapped at will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_catalogue_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Keypair::from_uri("//Catalogue", Scheme::Sr25519).unwrap();
    let start = async |text: &str| {
        let signature = sign_catalogue(text, &signer).unwrap();
        let (catalogue, origin) = open_catalogue(text, &signature, &signer.account()).unwrap();
        let mut config = world::config(dir.path());
        (config.catalogue, config.catalogue_origin) = (catalogue, Some(origin));
        match world::try_start(config, &[], ProverDoor::new(Conduct::Honest)).await {
            Ok(world) => {
                world.stop().await;
                None
            }
            Err(error) => Some(error),
        }
    };
    let class = "[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 10000\n";
    let edition = |version: u64| format!("version = {version}\ndevices_max = 8\n{class}");
    assert!(start(&edition(4)).await.is_none());
    assert!(start(&edition(4)).await.is_none(), "the same file again");
    assert!(start(&edition(6)).await.is_none());
    let older = start(&edition(5)).await.unwrap();
    assert!(matches!(older, StartError::CatalogueOlder { used: 6, given: 5 }), "{older:?}");
    let changed = start(&edition(6).replace("10000", "10001")).await.unwrap();
    assert!(matches!(changed, StartError::CatalogueChanged(6)), "{changed:?}");
    assert!(older.remedy().is_some() && changed.remedy().is_some());
}
