//! From an announced address to a score: who earns, who does not, and what is kept of it.

use std::sync::atomic::Ordering;

use nicompute_market::Verdict;
use nicompute_proof::verify_transcript;

use crate::door::{Conduct, ProverDoor};
use crate::provider::{Lie, Provider};
use crate::rentals;
use crate::world::{self, validator_key, wait_for};

/// An honest provider must be paid, and anybody must be able to check why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_provider_earns_and_leaves_a_transcript() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Honest)).await;
    let proof = world.verdict(&provider).await;
    assert_eq!((proof.verdict.as_str(), proof.reason.as_str()), ("passed", "proven"));
    assert_eq!((proof.class.as_deref(), proof.score_micro), (Some("CPU"), 10_000));
    assert_eq!((proof.devices, proof.bytes_per_device), (1, 1_024 * 128));
    assert!(proof.ops_per_second > 0 && proof.walk_bytes_per_second > 0);

    let file = dir.path().join(format!("transcripts/{}.pog", proof.transcript));
    let bytes = wait_for("the file", async || std::fs::read(&file).ok()).await;
    let report = verify_transcript(&bytes).unwrap();
    assert_eq!(report.signer, validator_key().hotkey());
    assert_eq!(report.provider, provider.hotkey());
    assert_eq!((report.block_number, report.block_hash), (7, [7; 32]));
    let digest: [u8; 32] = hex::decode(&proof.transcript).unwrap().try_into().unwrap();
    assert_eq!(world.handle.transcript(digest).await.unwrap(), Some(bytes));
    assert_eq!(world.handle.transcript([0; 32]).await.unwrap(), None);

    wait_for("the release", async || provider.held().is_empty().then_some(())).await;
    let evidence = world.handle.evidence(&provider.hotkey()).await.unwrap();
    assert!(
        matches!(evidence.as_slice(), [one] if matches!(one.evidence.verdict, Verdict::Passed(_)))
    );
    let offers = world.handle.offers().await.unwrap().offers;
    assert_eq!(offers[0].proof.as_ref().map(|proof| proof.score_micro), Some(10_000));
    world.stop().await;
}

/// The original's proof was forged in two seconds: whoever does not do the work must earn nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cheaters_are_refused_and_earn_nothing() {
    for conduct in [Conduct::Hankel, Conduct::HalfOfTheRows, Conduct::OneStepShort] {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start("//Bob", Lie::None).await;
        let world = world::start(dir.path(), &[&provider], ProverDoor::new(conduct)).await;
        let proof = world.verdict(&provider).await;
        assert_eq!((proof.verdict.as_str(), proof.score_micro), ("refused", 0), "{conduct:?}");
        let digest: [u8; 32] = hex::decode(&proof.transcript).unwrap().try_into().unwrap();
        let evidence = world.handle.transcript(digest).await.unwrap().unwrap();
        let report = verify_transcript(&evidence).unwrap();
        assert_eq!(report.provider, provider.hotkey(), "the evidence can be checked by anybody");
        world.stop().await;
    }
}

/// A cheater who sees that the sample is against it must not get away by hanging up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_up_after_the_start_is_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    // PREPARE, eight PINGs, START, WALK, OPEN.
    let door = ProverDoor::new(Conduct::HangsUpAfter(12));
    let world = world::start(dir.path(), &[&provider], door.clone()).await;
    let proof = world.verdict(&provider).await;
    assert_eq!((proof.verdict.as_str(), proof.score_micro), ("refused", 0));
    // Once is an accident; the second time is held against it as a wrong answer is.
    let held = async || {
        let evidence = world.handle.evidence(&provider.hotkey()).await.unwrap();
        evidence.first().is_some_and(|newest| newest.is_wrong).then_some(evidence.len())
    };
    assert_eq!(wait_for("the second refusal", held).await, 2);
    assert_eq!(door.opened.load(Ordering::SeqCst), 2);
    world.stop().await;
}

/// A provider that had to make room for a renter must not lose its pay for one proof; a cheater that says so whenever the
/// sample is against it must gain no more than one try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_made_room_is_excused_once() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::Preempts).await;
    let door = ProverDoor::new(Conduct::HangsUpAfter(12));
    let world = world::start(dir.path(), &[&provider], door.clone()).await;
    let held = async || {
        let evidence = world.handle.evidence(&provider.hotkey()).await.unwrap();
        evidence.first().is_some_and(|newest| newest.is_wrong).then_some(evidence)
    };
    let evidence = wait_for("the second refusal", held).await;
    assert!(evidence.iter().all(|stored| stored.evidence.verdict == Verdict::Refused));
    assert_eq!(evidence.len(), 2);
    assert_eq!(door.opened.load(Ordering::SeqCst), 3, "one was excused");
    world.stop().await;
}

/// A prover that says nothing must cost its deadline and no more; a machine that starts slowly must not be treated worse
/// than one that hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_before_the_start_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let door = ProverDoor::new(Conduct::Silent);
    let world = world::start(dir.path(), &[&provider], door.clone()).await;
    let proof = world.verdict(&provider).await;
    assert_eq!((proof.verdict.as_str(), proof.score_micro), ("unreachable", 0));
    assert!(door.opened.load(Ordering::SeqCst) >= 3);
    world.stop().await;
}

/// Nobody is paid who cannot be reached, and one bad moment is not yet held against a provider.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_provider_is_tried_again_before_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let door = ProverDoor::new(Conduct::Locked);
    let world = world::start(dir.path(), &[&provider], door.clone()).await;
    let proof = world.verdict(&provider).await;
    assert_eq!((proof.verdict.as_str(), proof.score_micro), ("unreachable", 0));
    assert!(door.opened.load(Ordering::SeqCst) >= 3);
    assert_eq!(proof.transcript, "");
    world.stop().await;
}

/// What the provider's hotkey did not sign, or what is no answer, must never lead to a score.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_not_believed_earns_nothing() {
    for lie in [Lie::Unsigned, Lie::OtherSigner, Lie::OtherHostKey, Lie::Nonsense] {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start("//Bob", lie).await;
        let door = ProverDoor::new(Conduct::Honest);
        let world = world::start(dir.path(), &[&provider], door.clone()).await;
        let proof = world.verdict(&provider).await;
        assert_eq!((proof.verdict.as_str(), proof.score_micro), ("unreachable", 0), "{lie:?}");
        assert_eq!(door.opened.load(Ordering::SeqCst), 0, "{lie:?}: no prover leaves the house");
        world.stop().await;
    }
}

/// A machine that was rented here cannot be proven and must keep what it has shown; else renting out would cost the provider
/// its pay. Nobody else's word is enough for that: "occupied" for ever would be pay for hardware that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_machine_rented_here_keeps_its_evidence() {
    for lie in [Lie::Occupied, Lie::Unavailable] {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start("//Bob", Lie::None).await;
        let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Honest)).await;
        world.verdict(&provider).await;
        wait_for("the release", async || provider.held().is_empty().then_some(())).await;
        let (me, key) = world.principal("me").await;
        let rented = world.handle.rent(&me, rentals::request(&provider, 1)).await.unwrap();
        assert_eq!(rented.state, "running");
        world.stop().await;

        provider.set_lie(lie);
        let mut config = world::config(dir.path());
        config.intervals.proof_blocks = 0;
        let door = ProverDoor::new(Conduct::Honest);
        let world = world::try_start(config, &[&provider], door).await.unwrap();
        let asked = provider.count("GET /v1/node");
        let again = async || (provider.count("GET /v1/node") > asked + 5).then_some(());
        wait_for("more tries", again).await;
        assert_eq!(world.proof(&provider).await.unwrap().verdict, "passed", "{lie:?}");

        let me = world.handle.principal_of(key.expose()).await.unwrap().unwrap();
        world.handle.release(&me, rented.id).await.unwrap();
        let lost = async || {
            let proof = world.proof(&provider).await.unwrap();
            (proof.verdict == "unreachable" && proof.score_micro == 0).then_some(())
        };
        wait_for("the pay to end", lost).await;
        world.stop().await;
    }
}

/// Offers without limits are for the local market only: elsewhere they are neither proven nor shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_without_limits_are_for_the_devnet() {
    for is_devnet in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start("//Bob", Lie::NoLimits).await;
        let mut config = world::config(dir.path());
        config.devnet = is_devnet;
        let door = ProverDoor::new(Conduct::Honest);
        let world = world::try_start(config, &[&provider], door).await.unwrap();
        let proof = world.verdict(&provider).await;
        assert_eq!(proof.verdict, if is_devnet { "passed" } else { "unreachable" });
        let listed = async || {
            let count = world.handle.offers().await.unwrap().offers.len();
            (count == usize::from(is_devnet)).then_some(())
        };
        wait_for("the offers", listed).await;
        world.stop().await;
    }
}

/// One liar must not keep the others from being proven.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let liar = Provider::start("//Bob", Lie::Nonsense).await;
    let honest = Provider::start("//Charlie", Lie::None).await;
    let door = ProverDoor::new(Conduct::Honest);
    let world = world::start(dir.path(), &[&liar, &honest], door).await;
    assert_eq!(world.verdict(&honest).await.verdict, "passed");
    assert_eq!(world.verdict(&liar).await.verdict, "unreachable");
    assert!(world.handle.health().is_good());
    world.stop().await;
}

/// Validators that start together occupy a new provider for each other: that must not become evidence against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_provider_that_is_occupied_is_not_blamed() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::Occupied).await;
    let world = world::start(dir.path(), &[&provider], ProverDoor::new(Conduct::Honest)).await;
    wait_for("more tries", async || (provider.count("POST") > 5).then_some(())).await;
    assert_eq!(world.proof(&provider).await, None);
    provider.set_lie(Lie::None);
    assert_eq!(world.verdict(&provider).await.verdict, "passed");
    world.stop().await;
}
