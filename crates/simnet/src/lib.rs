//! A whole market in one process, for tests: providers of every kind of honesty, a validator that proves them, scores, weights.
//!
//! Everything follows from a seed: the order of the providers, what each of them does, and the nonces of every session. The
//! proof, the score and the weights are the product's own code; only the wire between the parties is memory. It begins
//! small: chain, leases and faults of the network join as they are needed.

use std::collections::BTreeMap;

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{
    Capability, Catalogue, DeviceKind, Evidence, LeaseId, Score, ScorePolicy, Track, Uid,
    UnixMillis, Verdict, WeightLimits, WeightPolicy, WeightsError, score, weights,
};
use nicompute_proof::{
    Binding, EntropyError, Limits, ProofParams, Refusal, SessionConfig, Transcript, VerifierSession,
};
use nicompute_prover::cheats::{Bout, Cheat, Ring, Seed, table};
use nicompute_prover::{CpuDevice, Prover, prove_in_process};

/// Memory that an honest provider claims; the plot of the tests is far smaller.
const CLAIMED_MEMORY_BYTES: u64 = 1 << 30;
/// When every session of a world takes place.
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// A tick of the verifier's clock: it advances by this whenever it is read.
const TICK_NS: u64 = 1_000_000;

/// What a provider does when it is asked for a proof.
#[derive(Debug, Clone, Copy)]
pub enum Conduct {
    /// The work.
    Honest,
    /// A fraud.
    Cheat(&'static Cheat),
}

impl Conduct {
    /// Whether it does the work.
    #[must_use]
    pub const fn is_honest(self) -> bool {
        matches!(self, Self::Honest)
    }
}

/// Every fraud that one session finds out but for one time in a hundred thousand; the others take several sessions.
fn frauds() -> Vec<&'static Cheat> {
    let params = *Ring::standard().params();
    table().iter().filter(|cheat| cheat.predicted(&params) > 0.999_99).collect()
}

/// A market that follows from its seed.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    params: ProofParams,
    providers: BTreeMap<Uid, Conduct>,
}

/// What a round of proofs came to.
#[derive(Debug)]
pub struct Round {
    /// Why each provider was refused, where it was.
    pub refusals: BTreeMap<Uid, Refusal>,
    /// The score of each provider.
    pub scores: BTreeMap<Uid, Score>,
    /// The weights that follow.
    pub weights: Result<Vec<(Uid, u16)>, WeightsError>,
}

impl World {
    /// One to eight providers, each of them honest one time in four; each fraud is as likely as any other.
    #[must_use]
    pub fn from_seed(seed: u64, params: ProofParams) -> Self {
        let mut random = Random(seed);
        let count = random.below(8) + 1;
        let frauds = frauds();
        let providers = (1..=count).map(|uid| {
            let is_honest = random.below(4) == 0;
            let at = usize::try_from(random.below(frauds.len() as u64)).unwrap_or(0);
            let fraud = frauds.get(at).filter(|_| !is_honest);
            let conduct = fraud.map_or(Conduct::Honest, |cheat| Conduct::Cheat(cheat));
            (Uid(u16::try_from(uid).unwrap_or(u16::MAX)), conduct)
        });
        Self { seed, params, providers: providers.collect() }
    }

    /// What each provider does.
    #[must_use]
    pub const fn providers(&self) -> &BTreeMap<Uid, Conduct> {
        &self.providers
    }

    /// Proves every provider once and scores the evidence.
    #[must_use]
    pub fn round(&self, catalogue: &Catalogue, policy: ScorePolicy) -> Round {
        let mut refusals = BTreeMap::new();
        let mut scores = BTreeMap::new();
        // A cheater poses as the machine that its bout models, and would be paid as one.
        let ring = Ring::standard();
        let posed = ring.catalogue();
        for (uid, conduct) in &self.providers {
            let (outcome, catalogue) = match conduct {
                Conduct::Honest => {
                    (self.prove(*uid).map(|transcript| capability(&transcript)), catalogue)
                }
                Conduct::Cheat(cheat) => {
                    let bout = cheat.bout(&ring, Seed::new(self.random(*uid).next()));
                    (shown(bout), &posed)
                }
            };
            let verdict = outcome.map_or_else(
                |refusal| {
                    refusals.insert(*uid, refusal);
                    Verdict::Refused
                },
                Verdict::Passed,
            );
            let evidence = [Evidence { at: NOW, verdict }];
            let track = Track { evidence: &evidence, is_rented: false };
            scores.insert(*uid, score(track, catalogue, policy, NOW));
        }
        let pairs: Vec<(Uid, u64)> =
            scores.iter().map(|(uid, score)| (*uid, score.micro)).collect();
        let weights =
            weights(&pairs, WeightPolicy { burn_share_ppm: 0, burn_uid: None }, WeightLimits::NONE);
        Round { refusals, scores, weights }
    }

    fn random(&self, uid: Uid) -> Random {
        Random(self.seed ^ (u64::from(uid.get()) << 32))
    }

    fn prove(&self, uid: Uid) -> Result<Box<Transcript>, Refusal> {
        let mut random = self.random(uid);
        let validator = Keypair::from_seed([1; 32], Scheme::Sr25519).hotkey();
        let provider = Keypair::from_seed(random.bytes(), Scheme::Sr25519).hotkey();
        let lease = LeaseId::from_random_bytes([7; 16]);
        let config = SessionConfig {
            params: self.params,
            kind: nicompute_proof::DeviceKind::Cpu,
            binding: Binding::new(&validator, &provider, &lease, (1, random.bytes())),
            limits: Limits::small(),
            set_up_at: NOW,
        };
        let entropy = move || Ok::<_, EntropyError>(random.bytes());
        let mut session = VerifierSession::new(config, Box::new(entropy), 0);
        let honest = CpuDevice::new("cpu", "honest", CLAIMED_MEMORY_BYTES, 1);
        let mut prover = Prover::new(vec![Box::new(honest)]);
        let mut now_ns = 0_u64;
        let mut clock = || {
            now_ns = now_ns.saturating_add(TICK_NS);
            now_ns
        };
        prove_in_process(&mut session, &mut prover, &mut clock)
    }
}

/// What a bout has shown, or why it was refused.
fn shown(bout: Bout) -> Result<Capability, Refusal> {
    let shown = bout.shown();
    bout.outcome.and_then(|_| shown.ok_or(Refusal::Clock))
}

fn capability(transcript: &Transcript) -> Capability {
    let measured = transcript.measured;
    Capability {
        kind: DeviceKind::Cpu,
        devices: 1,
        bytes_per_device: measured.plot_bytes,
        ops_per_second: measured.operations_per_second,
        walk_bytes_per_second: measured.walk_bytes_per_second,
    }
}

/// SplitMix64: small, repeatable, and good enough to choose test cases.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        bytes
    }
}
