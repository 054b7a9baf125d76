//! No fraud that we know may earn anything, whatever company it keeps.

use nicompute_market::{Catalogue, ScorePolicy, ScoreReason};
use nicompute_proof::{ParamsRecord, ProofParams};
use nicompute_simnet::World;

const SEEDS: u64 = 24;
const POLICY: ScorePolicy = ScorePolicy { age_millis_max: 1_000, rented_multiplier_milli: 1_000 };

/// A profile that takes milliseconds.
fn tiny() -> ProofParams {
    let record = ParamsRecord {
        n: 128,
        rows: 4096,
        panel_rows: 1024,
        walks: 256,
        reads: 8,
        ..ProofParams::small().record()
    };
    ProofParams::try_from(record).unwrap()
}

fn catalogue() -> Catalogue {
    let class = "[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 10000\n";
    Catalogue::parse(&format!("version = 1\ndevices_max = 8\n{class}")).unwrap()
}

/// A cheater that earns takes the pay of everybody who works.
#[test]
fn only_honest_providers_earn() {
    for seed in 0..SEEDS {
        let world = World::from_seed(seed, tiny());
        let round = world.round(&catalogue(), POLICY);
        let paid = round.weights.unwrap_or_default();
        for (uid, conduct) in world.providers() {
            let is_honest = conduct.is_honest();
            let reason = round.scores[uid].reason;
            let fits = match reason {
                ScoreReason::Proven => is_honest,
                // A proof of less than the machine that was claimed is no fraud by itself: it earns nothing.
                ScoreReason::Refused | ScoreReason::NoClass => !is_honest,
                ScoreReason::Unreachable | ScoreReason::Stale | ScoreReason::NoEvidence => false,
            };
            assert!(fits, "{reason:?}, seed {seed}, {uid:?}, {conduct:?}: {:?}", round.refusals);
            assert_eq!(paid.iter().any(|(paid, _)| paid == uid), is_honest, "seed {seed}, {uid:?}");
        }
    }
}
