//! What a round measures besides the plot and its walks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nicompute_daemon::Clock as _;
use nicompute_proof::{ParamsRecord, ProofParams, Verdict, verify_transcript};
use nicompute_validator::{LegSet, ProofProfile, ProofSize, ValidatorConfig};
use nicompute_wire::market_api::{LegView, ProofView};

use crate::door::{Conduct, ProverDoor};
use crate::provider::{Lie, Provider};
use crate::world;

const NET_BYTES: u64 = 1 << 18;

fn with_legs(dir: &std::path::Path) -> ValidatorConfig {
    let profile = world::profile();
    let record = ParamsRecord {
        copy_rows: 512,
        net_down_bytes: NET_BYTES,
        net_up_bytes: NET_BYTES,
        ..profile.params.record()
    };
    let params = ProofParams::try_from(record).unwrap();
    let proof = ProofSize::Fixed(ProofProfile { params, ..profile });
    ValidatorConfig { proof, legs: "disk".parse::<LegSet>().unwrap(), ..world::config(dir) }
}

fn leg<'a>(proof: &'a ProofView, name: &str) -> Option<&'a LegView> {
    proof.legs.iter().find(|leg| leg.leg == name)
}

/// Whoever rents must see what the line and the disk do, with evidence that anybody can check.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_leg_is_stored_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let door = ProverDoor::new(Conduct::Honest);
    let world = world::try_start(with_legs(dir.path()), &[&provider], door).await.unwrap();
    let proof = world.verdict(&provider).await;
    assert_eq!(proof.verdict, "passed");
    assert_eq!(leg(&proof, "copy").unwrap().bytes, 512 * 128);
    for name in ["net-down", "net-up"] {
        let net = leg(&proof, name).unwrap();
        assert_eq!((net.bytes, net.reason.as_deref()), (NET_BYTES, None), "{name}");
        assert!(net.bytes_per_second > 0 && net.transcript.is_empty(), "{name}");
    }
    // A file system that cannot be read past its cache gives a reason instead.
    match (leg(&proof, "disk"), leg(&proof, "disk-random")) {
        (Some(run), Some(random)) => {
            assert_eq!((run.bytes, random.bytes), (8192 * 128, 8192 * 128));
            let hash: [u8; 32] = hex::decode(&run.transcript).unwrap().try_into().unwrap();
            let bytes = world.handle.transcript(hash).await.unwrap().unwrap();
            assert_eq!(verify_transcript(&bytes).unwrap().verdict, Verdict::Proven);
        }
        (Some(missing), None) => {
            assert!(missing.reason.as_ref().unwrap().contains("disk"), "{missing:?}");
        }
        other => panic!("{other:?}"),
    }
    world.stop().await;
}

/// A second session after a stuck leg would be a second try at the rates, and twice the time of the first. The reason must
/// be there once the misses count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_that_sticks_ends_the_round() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    // PREPARE, eight PINGs, START, WALK, COPY, the first of NET.
    let door = ProverDoor::new(Conduct::HangsUpAfter(13));
    let config = ValidatorConfig { legs: LegSet::NONE, ..with_legs(dir.path()) };
    let world = world::try_start(config, &[&provider], door.clone()).await.unwrap();
    let proof = world.verdict(&provider).await;
    assert_eq!((proof.verdict.as_str(), proof.score_micro), ("unreachable", 0));
    assert!(proof.detail.contains("net down"), "{}", proof.detail);
    // One session for each lease.
    let opened = usize::try_from(door.opened.load(Ordering::SeqCst)).unwrap();
    assert!((3..=provider.count("POST /v1/leases")).contains(&opened), "{opened}");
    world.stop().await;
}

/// Four hostile hotkeys would hold every session's place for as long as their provers can stick: the round ends when its
/// lease does, even where every stage could take longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_ends_with_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    let door = ProverDoor::new(Conduct::SticksAfter(14));
    let mut config = ValidatorConfig { legs: LegSet::NONE, ..with_legs(dir.path()) };
    let ProofSize::Fixed(profile) = &mut config.proof else { panic!("{:?}", config.proof) };
    profile.limits = world::endless();
    config.intervals.retry_blocks = 1_000;
    let (clock, manual) = world::manual_clock();
    provider.inner.lock().unwrap().clock = clock.clone();
    let world =
        world::try_start_at(config, &[&provider], door.clone(), clock.clone()).await.unwrap();
    let tick = Duration::from_millis(100);
    let stuck = async || {
        manual.advance(tick);
        door.stuck.load(Ordering::SeqCst).then_some(())
    };
    world::wait_for("the prover to stick", stuck).await;
    let before = manual.monotonic();
    let over = async || {
        manual.advance(10 * tick);
        provider.held().is_empty().then_some(())
    };
    world::wait_for("the lease to be given back", over).await;
    let took = manual.monotonic().saturating_sub(before);
    assert!(took < Duration::from_secs(600), "{took:?}");
    assert_eq!(door.opened.load(Ordering::SeqCst), 1);
    world.stop().await;
}
