//! A validator over a subnet that stands still, with providers on loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nicompute_chain::{Endpoint, Head, Hyperparameters, Metagraph, Neuron};
use nicompute_daemon::{Clock as _, ManualClock, Secret, SharedClock, SystemClock, Tasks};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{BlockNumber, Catalogue, Coldkey, Hotkey, Netuid, Rao, ScorePolicy, Uid};
use nicompute_proof::{DeviceKind, Limits, ParamsRecord, ProofParams};
use nicompute_validator::{
    Handle, Intervals, LegSet, Policies, Principal, ProofProfile, ProofSize, Provers, StartError,
    StillSubnet, Validator, ValidatorConfig,
};
use nicompute_wire::market_api::ProofView;

use crate::door::ProverDoor;
use crate::provider::Provider;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const SECOND_NS: u64 = 1_000_000_000;

pub(crate) struct World {
    pub(crate) handle: Handle,
    pub(crate) validator: Validator,
    pub(crate) tasks: Tasks,
}

pub(crate) fn validator_key() -> Keypair {
    Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap()
}

/// A proof that takes a blink: 128 KiB of plot, and still 64 rows of sample.
pub(crate) fn profile() -> ProofProfile {
    let record = ParamsRecord {
        n: 128,
        rows: 1_024,
        panel_rows: 256,
        walks: 256,
        reads: 8,
        sampled_walks: 4,
        ..ProofParams::small().record()
    };
    let limits = Limits { hello_ns: SECOND_NS, ready_ns: 20 * SECOND_NS, ..Limits::small() };
    ProofProfile { params: ProofParams::try_from(record).unwrap(), limits, kind: DeviceKind::Cpu }
}

/// Stages that may all take longer than a lease lasts.
pub(crate) fn endless() -> Limits {
    let long = 3_600 * SECOND_NS;
    Limits {
        hello_ns: long,
        ready_ns: long,
        pong_ns: long,
        fill_ns: long,
        walk_ns: long,
        link_ns: long,
        copy_ns: long,
        net_ns: long,
        openings_ns: long,
    }
}

/// A clock that a test moves, for the validator and for the test. It begins now, so that providers believe its nonces.
pub(crate) fn manual_clock() -> (SharedClock, Arc<ManualClock>) {
    let manual = ManualClock::at_unix_ms(SystemClock::new().unix_ms());
    (manual.clone(), manual)
}

pub(crate) fn config(dir: &Path) -> ValidatorConfig {
    let class = "[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 10000\n";
    ValidatorConfig {
        state_dir: dir.to_owned(),
        netuid: Netuid(27),
        hotkey: validator_key(),
        catalogue: Catalogue::parse(&format!("version = 1\ndevices_max = 8\n{class}")).unwrap(),
        catalogue_origin: None,
        proof: ProofSize::Fixed(profile()),
        legs: LegSet::NONE,
        provers: Provers {
            cpu: Arc::from(b"the prover".as_slice()),
            cuda: Arc::from(b"the prover of GPUs".as_slice()),
        },
        intervals: Intervals {
            chain: Duration::from_millis(100),
            discover: Duration::from_millis(100),
            tick: Duration::from_millis(50),
            proof_blocks: 1_000_000,
            retry_blocks: 0,
        },
        policies: Policies {
            score: ScorePolicy { age_millis_max: 3_600_000, rented_multiplier_milli: 1_000 },
            burn_share_ppm: 0,
            sessions_max: 4,
        },
        devnet: false,
    }
}

fn neuron(uid: u16, hotkey: Hotkey, provider: Option<&Provider>) -> Neuron {
    let endpoint = |provider: &Provider| Endpoint {
        ip: provider.address.ip(),
        port: provider.address.port(),
        version: 1,
    };
    Neuron {
        axon: provider.map(endpoint),
        stake: Rao(1),
        validator_permit: provider.is_none(),
        active: true,
        ..Neuron::new(Uid(uid), hotkey, Coldkey::from_bytes([9; 32]))
    }
}

pub(crate) fn subnet(providers: &[&Provider], door: Arc<ProverDoor>) -> StillSubnet {
    let mut neurons = vec![neuron(0, validator_key().hotkey(), None)];
    for (uid, provider) in (1..).zip(providers) {
        neurons.push(neuron(uid, provider.hotkey(), Some(provider)));
    }
    let rules = Hyperparameters {
        tempo: 10,
        weights_rate_limit: 1,
        commit_reveal: false,
        immunity_period: 100,
        serving_rate_limit: 0,
        ..Hyperparameters::NEW_SUBNET
    };
    StillSubnet {
        metagraph: Metagraph { block: BlockNumber(7), neurons },
        rules,
        finalized: Head { number: BlockNumber(7), hash: [7; 32] },
        owner: None,
        door,
    }
}

pub(crate) async fn try_start(
    config: ValidatorConfig,
    providers: &[&Provider],
    door: Arc<ProverDoor>,
) -> Result<World, StartError> {
    try_start_at(config, providers, door, SystemClock::shared()).await
}

pub(crate) async fn try_start_at(
    config: ValidatorConfig,
    providers: &[&Provider],
    door: Arc<ProverDoor>,
    clock: SharedClock,
) -> Result<World, StartError> {
    let tasks = Tasks::new();
    let subnet = subnet(providers, door);
    let (validator, handle) = Validator::start_still(config, subnet, clock, tasks.clone()).await?;
    Ok(World { handle, validator, tasks })
}

pub(crate) async fn start(dir: &Path, providers: &[&Provider], door: Arc<ProverDoor>) -> World {
    try_start(config(dir), providers, door).await.unwrap()
}

impl World {
    /// The market's view of a provider's proof.
    pub(crate) async fn proof(&self, provider: &Provider) -> Option<ProofView> {
        let status = self.handle.status().await.unwrap();
        status.providers.into_iter().find(|one| one.hotkey == provider.hotkey())?.proof
    }

    /// Waits for a verdict about a provider.
    pub(crate) async fn verdict(&self, provider: &Provider) -> ProofView {
        wait_for("a verdict", async || self.proof(provider).await).await
    }

    pub(crate) async fn principal(&self, name: &str) -> (Principal, Secret<String>) {
        let key = self.handle.create_api_key(name).await.unwrap();
        let principal = self.handle.principal_of(key.expose()).await.unwrap().unwrap();
        (principal, key)
    }

    pub(crate) async fn stop(self) {
        assert!(self.tasks.shutdown(PATIENCE).await, "every task ends");
        self.validator.close().await;
    }
}

/// Asks until there is an answer.
pub(crate) async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("waited for {what}"))
}
