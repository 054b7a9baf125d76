//! A validator whose chain stalls, forks, restarts and upgrades: in the end its weights stand on the chain once an interval.
//!
//! The chain's clock is moved by the test, a block at a time, so that nothing here depends on how fast the machine is: while
//! weights are due, a block comes only when they wait in the pool or after a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::core::client::ClientT;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use nicompute_chain::Chain;
use nicompute_daemon::{Clock as _, ManualClock, SystemClock, Tasks};
use nicompute_devnet::{
    Answers, Change, Chaos, Control, Devnet, DevnetConfig, Dump, Genesis, SubnetGenesis,
};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Catalogue, Hotkey, Netuid, Rao, ScorePolicy};
use nicompute_validator::{
    Intervals, LegSet, Policies, ProofSize, Provers, Validator, ValidatorConfig,
};
use serde_json::Value;

use crate::world::binary;

const NETUID: Netuid = Netuid(27);
const COIN: u64 = 1_000_000_000;
const BLOCK_TIME: Duration = Duration::from_millis(250);
/// How many blocks may be undone.
const LAG: u32 = 3;
/// The interval: the same weights are set again after so many blocks.
const TEMPO: u64 = 30;
/// By how much an interval may be longer. Weights are decided on what is final, wait for a block, and are signed anew no
/// sooner than an era of 16 blocks has passed over the old ones for good; a branch of a fork is `LAG + 1` empty blocks.
const SLACK: u64 = 2 * 16 + 4 * 4;
/// How long a block is held back while weights are due and none wait.
const HELD: Duration = Duration::from_secs(1);
/// Blocks that do not come while the chain is stalled: a tenth of the stall.
const STALLED_STEPS: u32 = 12;
/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(10);
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);
/// `SubtensorModule.LastUpdate` of subnet 27.
const LAST_UPDATE: &str = "0x658faa385070e074c85bf6b568cf0555696e262a16e52255a69d8acd793541461b00";

fn key(name: &str) -> Keypair {
    Keypair::from_uri(name, Scheme::Sr25519).unwrap()
}

/// A chain whose blocks the test makes.
struct Paced {
    devnet: Devnet,
    clock: Arc<ManualClock>,
}

impl Paced {
    async fn start(dir: &Path, tasks: &Tasks) -> Self {
        let (alice, hot) = (key("//Alice"), key("//Alice//hot"));
        let mut subnet = SubnetGenesis::new(NETUID, alice.coldkey(), hot.hotkey());
        subnet.tempo = u16::try_from(TEMPO).unwrap();
        subnet.validators = vec![(hot.hotkey(), alice.coldkey(), Rao(100_000 * COIN))];
        let genesis = Genesis {
            endowed: vec![(alice.account(), Rao(1_000 * COIN))],
            subnets: vec![subnet],
            ..Genesis::default()
        };
        let config = DevnetConfig {
            block_time: BLOCK_TIME,
            finality_lag: LAG,
            ..DevnetConfig::new(dir.join("chain"), genesis)
        };
        let clock = ManualClock::at_unix_ms(SystemClock::new().unix_ms());
        let devnet = Devnet::start(config, clock.clone(), tasks).await.unwrap();
        let paced = Self { devnet, clock };
        for _ in 0..2 {
            paced.block().await;
        }
        paced
    }

    /// Makes a block, and now and then two: whether the chain slept already when the clock moved is its own affair.
    async fn block(&self) {
        let before = self.devnet.head();
        let made = async {
            while self.devnet.head() <= before {
                self.clock.advance(BLOCK_TIME);
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, made).await.expect("a block");
    }

    /// The block in which the validator last set weights.
    fn last_set(&self) -> u64 {
        self.devnet.dump().subnets[0].neurons[0].last_update
    }

    fn is_due(&self) -> bool {
        self.devnet.head() >= self.last_set() + TEMPO
    }

    /// Waits a while for weights in the pool.
    async fn weights_wait(&self) -> bool {
        let waiting = async {
            while self.devnet.dump().pool.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(HELD, waiting).await.is_ok()
    }

    /// Makes blocks until weights are due and wait in the pool.
    async fn until_weights_wait(&self) {
        let waiting = async {
            while !(self.is_due() && self.weights_wait().await) {
                self.block().await;
            }
        };
        tokio::time::timeout(2 * LIMIT, waiting).await.expect("weights in the pool");
    }

    /// Makes blocks until the validator's weights stand in a block after this one.
    async fn until_set_after(&self, block: u64) {
        let set = async {
            while self.last_set() <= block {
                if self.is_due() {
                    self.weights_wait().await;
                }
                self.block().await;
            }
        };
        tokio::time::timeout(2 * LIMIT, set).await.expect("weights on the chain");
    }

    async fn make(&self, chaos: Chaos) {
        // A restart ends the old connections, so every fault goes over one of its own.
        let control = Control::connect(self.devnet.address()).await.unwrap();
        control.chaos(chaos).await.unwrap();
    }
}

/// Everything is burned, so that there are weights to set without any provider.
fn config(dir: &Path) -> ValidatorConfig {
    let class = "[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 10000\n";
    let none: Arc<[u8]> = Arc::from(b"no prover is needed".as_slice());
    ValidatorConfig {
        state_dir: dir.join("validator"),
        netuid: NETUID,
        hotkey: key("//Alice//hot"),
        catalogue: Catalogue::parse(&format!("version = 1\ndevices_max = 8\n{class}")).unwrap(),
        catalogue_origin: None,
        proof: ProofSize::Small,
        legs: LegSet::NONE,
        provers: Provers { cpu: none.clone(), cuda: none },
        intervals: Intervals {
            chain: Duration::from_millis(100),
            tick: Duration::from_millis(50),
            ..Intervals::DEVNET
        },
        policies: Policies {
            score: ScorePolicy { age_millis_max: 3_600_000, rented_multiplier_milli: 1_000 },
            burn_share_ppm: 1_000_000,
            sessions_max: 1,
        },
        devnet: true,
    }
}

/// A validator that loses an interval falls behind, and one that sends twice is refused or overwrites itself: after each
/// fault its weights must come again, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_set_once_an_interval_through_every_fault() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let paced = Paced::start(dir.path(), &tasks).await;
    let clock = SystemClock::shared();
    let chain = Chain::connect(&paced.devnet.ws_url(), clock.clone(), &tasks).await.unwrap();
    let started = Validator::start(config(dir.path()), chain, clock, tasks.clone());
    let (validator, handle) = started.await.unwrap();
    paced.until_set_after(0).await;

    // Nothing is answered, and no block comes, just when weights are due.
    paced.until_weights_wait().await;
    let before = paced.last_set();
    paced.make(Chaos::Stall { ms: 30_000, answers: Answers::Withheld }).await;
    let head = paced.devnet.head();
    // Without the stall these would be many blocks.
    for _ in 0..STALLED_STEPS {
        paced.clock.advance(BLOCK_TIME);
        tokio::time::sleep(POLL).await;
        assert_eq!(paced.devnet.head(), head, "a stall makes no block");
    }
    paced.clock.advance(Duration::from_secs(30));
    paced.until_set_after(before).await;

    // The block with the weights is undone; they wait in the pool again, and the next time they are lost.
    for drop in [false, true] {
        let before = paced.last_set();
        paced.until_set_after(before).await;
        let undone = paced.last_set();
        // The weights may be a block or two below the head.
        let depth = u32::try_from(paced.devnet.head() + 1 - undone).unwrap();
        assert!(depth <= LAG, "block {undone} is final already");
        paced.make(Chaos::Fork { depth, drop }).await;
        assert_eq!(paced.last_set(), before, "block {undone} is undone");
        paced.until_set_after(before).await;
    }

    // The connection is closed and the pool is lost while the weights wait in it.
    paced.until_weights_wait().await;
    let before = paced.last_set();
    paced.make(Chaos::Restart).await;
    paced.until_set_after(before).await;

    // Another runtime between two intervals, and another one while weights wait that are signed for the old one.
    for change in [Change::All, Change::Calls] {
        let before = paced.last_set();
        if change == Change::Calls {
            paced.until_weights_wait().await;
        }
        paced.make(Chaos::Upgrade { change }).await;
        paced.until_set_after(before).await;
    }
    paced.until_set_after(paced.last_set()).await;
    for _ in 0..=LAG {
        paced.block().await;
    }
    check_history(&paced).await;
    drop(handle);
    assert!(tasks.shutdown(LIMIT).await);
    validator.close().await;
}

/// Reads every block of the chain and holds the validator's extrinsics against what they did.
async fn check_history(paced: &Paced) {
    let client = WsClientBuilder::default().build(paced.devnet.ws_url()).await.unwrap();
    let hotkey = key("//Alice//hot").hotkey();
    let last = last_final(&client).await;
    let mut sets: BTreeMap<u64, usize> = BTreeMap::new();
    for number in 1..=last {
        let hash: Value = client.request("chain_getBlockHash", rpc_params![number]).await.unwrap();
        let block: Value = client.request("chain_getBlock", rpc_params![&hash]).await.unwrap();
        let all = block["block"]["extrinsics"].as_array().unwrap();
        let count = all.iter().filter(|bytes| is_signed_by(bytes, &hotkey)).count();
        let updated: String =
            client.request("state_getStorage", rpc_params![LAST_UPDATE, &hash]).await.unwrap();
        let did = last_update(&updated) == number;
        assert_eq!(count, usize::from(did), "block {number}: an extrinsic failed or was doubled");
        if did {
            sets.insert(number, count);
        }
    }
    let blocks: Vec<u64> = sets.into_keys().collect();
    // One each: at the start, after the stall, before and after each fork, after the restart, two upgrades, at the end.
    assert!(blocks.len() >= 7, "{blocks:?}");
    for pair in blocks.windows(2) {
        let gap = pair[1] - pair[0];
        assert!((TEMPO..=TEMPO + SLACK).contains(&gap), "a gap of {gap} blocks in {blocks:?}");
    }
    assert!(last - blocks.last().unwrap() <= TEMPO + SLACK, "{blocks:?}");
    let weights = &paced.devnet.dump().subnets[0].neurons[0].weights;
    assert_eq!(weights[&0], [(0, u16::MAX)]);
}

async fn last_final(client: &WsClient) -> u64 {
    let hash: Value = client.request("chain_getFinalizedHead", rpc_params![]).await.unwrap();
    let header: Value = client.request("chain_getHeader", rpc_params![hash]).await.unwrap();
    let number = header["number"].as_str().unwrap().strip_prefix("0x").unwrap();
    u64::from_str_radix(number, 16).unwrap()
}

/// Whether an extrinsic of format 4 has this signer: behind its length come the version, the kind of address, the key.
fn is_signed_by(extrinsic: &Value, hotkey: &Hotkey) -> bool {
    let bytes = hex::decode(extrinsic.as_str().unwrap().trim_start_matches("0x")).unwrap();
    let signed = [&[0x84, 0][..], hotkey.as_bytes()].concat();
    (1..=4).any(|prefix| bytes.get(prefix..).is_some_and(|rest| rest.starts_with(&signed)))
}

/// The entry of uid 0 in a list of numbers of eight bytes each.
fn last_update(stored: &str) -> u64 {
    let bytes = hex::decode(stored.trim_start_matches("0x")).unwrap();
    u64::from_le_bytes(bytes[1..9].try_into().unwrap())
}

fn control(address: SocketAddr, arguments: &[&str]) -> std::process::Output {
    let mut command = binary();
    command.arg("devnet").args(arguments).args(["--chain", &address.to_string()]);
    command.output().unwrap()
}

/// A person breaks a chain by hand, looks at it, and is told why where it cannot be done; a chain of others is never touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_and_dumps_by_hand() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let paced = Paced::start(dir.path(), &tasks).await;
    for _ in 0..4 {
        paced.block().await;
    }
    let at = paced.devnet.address();
    let run = async |arguments: &'static [&'static str]| {
        tokio::task::spawn_blocking(move || control(at, arguments)).await.unwrap()
    };
    let dumped = run(&["dump", "--json"]).await;
    let dump: Dump = serde_json::from_slice(&dumped.stdout).unwrap();
    assert_eq!((dump.finality_lag, dump.subnets.len()), (LAG, 1));
    assert!(dump.best >= 6 && dump.finalized == dump.best - u64::from(LAG));
    let text = String::from_utf8(run(&["dump"]).await.stdout).unwrap();
    assert!(text.contains("SUBNET 27") && text.contains("100000.000000000"), "{text}");

    let forked = run(&["chaos", "fork", "--depth", "2", "--json"]).await;
    let done: Value = serde_json::from_slice(&forked.stdout).unwrap();
    assert!(done["block"].as_u64().unwrap() > dump.best, "{done}");
    let upgraded = run(&["chaos", "upgrade", "--change", "version"]).await;
    assert!(String::from_utf8(upgraded.stdout).unwrap().contains("the runtime is 462"));
    assert!(run(&["chaos", "restart"]).await.status.success());
    assert!(run(&["chaos", "stall", "--for", "1s"]).await.status.success());

    for (arguments, code, said) in [
        (&["chaos", "fork", "--depth", "9"][..], 3, "finality lag"),
        (&["chaos", "stall", "--for", "11m"], 2, "too long"),
        (&["dump", "--chain", "10.0.0.1:9944"], 2, "cannot be used multiple times"),
    ] {
        let refused = tokio::task::spawn_blocking(move || control(at, arguments)).await.unwrap();
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{error}");
        assert!(error.contains(said), "{error}");
    }
    let strangers = async |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let refused = tokio::task::spawn_blocking(move || control(address, &["chaos", "restart"]));
        let refused = refused.await.unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("hint: "));
        refused.status.code()
    };
    assert_eq!(strangers("10.0.0.1:9944").await, Some(6));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(strangers(&nobody.to_string()).await, Some(4));
    assert!(tasks.shutdown(LIMIT).await);
}
