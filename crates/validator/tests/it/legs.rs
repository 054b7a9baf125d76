//! What a round measures besides the plot and its walks.

use std::sync::atomic::Ordering;

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

/// A prover that is stuck on a leg must lose the leg and keep its proof.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_that_fails_leaves_the_proof() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Provider::start("//Bob", Lie::None).await;
    // PREPARE, eight PINGs, START, WALK, COPY, the first of NET.
    let door = ProverDoor::new(Conduct::HangsUpOnceAfter(13));
    let config = ValidatorConfig { legs: LegSet::NONE, ..with_legs(dir.path()) };
    let world = world::try_start(config, &[&provider], door.clone()).await.unwrap();
    let proof = world.verdict(&provider).await;
    assert_eq!((proof.verdict.as_str(), door.opened.load(Ordering::SeqCst)), ("passed", 2));
    let [missing] = proof.legs.as_slice() else { panic!("{:?}", proof.legs) };
    assert_eq!((missing.leg.as_str(), missing.bytes), ("net-down", 0));
    assert!(missing.reason.as_ref().unwrap().contains("net down"), "{missing:?}");
    world.stop().await;
}
