//! Weights by commit and reveal, exchanged both ways with Bittensor's own libraries.

use std::time::Duration;

use nicompute_chain::timelock::{self, BeaconClock, EpochSchedule, RevealClock, Sealed};
use nicompute_chain::{Call, Chain, Depth};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::{Beacon, Devnet, DevnetConfig, Genesis, SubnetGenesis};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{BlockNumber, Hotkey, Netuid, Rao, Uid};
use serde_json::{Value, json};

use crate::judges::{PYTHON_9, PYTHON_10, PYTHON_11, ask, python};

const NETUID: Netuid = Netuid(27);
const COIN: u64 = 1_000_000_000;
const SCRIPT: &str = "reveal.py";
/// How long a test waits for anything.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Drand's quicknet, whose key Bittensor's libraries have built in, and its round 1000, which is public.
const QUICKNET: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d\
                        1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8\
                        991ef5ece45a";
const QUICKNET_GENESIS_S: u32 = 1_692_803_367;
const QUICKNET_PERIOD_S: u32 = 3;
const ROUND: u64 = 1_000;
const SIGNATURE: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";

fn quicknet() -> [u8; 96] {
    hex::decode(QUICKNET).unwrap().try_into().unwrap()
}

fn key(uri: &str) -> Keypair {
    Keypair::from_uri(uri, Scheme::Sr25519).unwrap()
}

fn all_weights() -> Vec<Vec<(Uid, u16)>> {
    let many = (0..256).map(|uid| (Uid(uid), 65_535 - uid)).collect();
    vec![vec![(Uid(0), 65_535)], vec![(Uid(0), 21_845), (Uid(1), 65_535)], Vec::new(), many]
}

fn as_json(hotkey: &Hotkey, weights: &[(Uid, u16)], version_key: u64) -> Value {
    let uids: Vec<u16> = weights.iter().map(|(uid, _)| uid.0).collect();
    let values: Vec<u16> = weights.iter().map(|(_, value)| *value).collect();
    let hotkey = hex::encode(hotkey.as_bytes());
    json!({ "hotkey": hotkey, "uids": uids, "values": values, "version_key": version_key })
}

/// What we seal must be opened by the libraries that the real chain's clients are made of.
#[test]
fn sealed_weights_of_ours_are_opened_by_the_official_libraries() {
    let hotkey = key("//Alice").hotkey();
    for judge in [PYTHON_10, PYTHON_11] {
        let Some(judge) = python(judge) else { continue };
        let all = all_weights();
        let asked: Vec<Value> = all
            .iter()
            .map(|weights| {
                let said = Sealed { hotkey: &hotkey, weights, version_key: 190 };
                let commit = hex::encode(timelock::seal(&quicknet(), ROUND, said).unwrap());
                json!({ "commit": commit, "round": ROUND, "signature": SIGNATURE })
            })
            .collect();
        let opened = ask(&judge, SCRIPT, &["open"], &json!(asked));
        let expected: Vec<Value> =
            all.iter().map(|weights| as_json(&hotkey, weights, 190)).collect();
        assert_eq!(opened, json!(expected));
        println!("JUDGE {}: opened {} commits of ours", judge.display(), all.len());
    }
}

/// A commit whose hash or round differs from theirs is never revealed, or is readable before its time.
#[test]
fn hashes_and_rounds_are_those_of_the_official_libraries() {
    let alice = key("//Alice").hotkey();
    let salt = [1, 2, 3, 65_535, 0, 6, 7, 8];
    for judge in [PYTHON_9, PYTHON_10] {
        let Some(judge) = python(judge) else { continue };
        let all = all_weights();
        let asked = |weights: &Vec<(Uid, u16)>| {
            let mut asked = as_json(&alice, weights, 7);
            asked["address"] = json!(alice.to_string());
            asked["netuid"] = json!(NETUID.0);
            asked["salt"] = json!(salt);
            asked
        };
        let asked: Vec<Value> = all.iter().map(asked).collect();
        let hashes = ask(&judge, SCRIPT, &["hash"], &json!(asked));
        for (weights, hash) in all.iter().zip(hashes.as_array().unwrap()) {
            let said = Sealed { hotkey: &alice, weights, version_key: 7 };
            let ours = format!("0x{}", hex::encode(timelock::commit_hash(NETUID, said, &salt)));
            assert_eq!(json!(ours), *hash);
        }
    }
    // SDK 9's library knows only the epochs of older runtimes, and aimed 35 rounds before what the later ones aim at.
    for judge in [PYTHON_10, PYTHON_11] {
        let Some(judge) = python(judge) else { continue };
        let schedules: Vec<Value> =
            [(1_000, 360, 1, 12_000), (1_259, 360, 1, 12_000), (905, 10, 3, 1_000)]
                .into_iter()
                .map(|(block, tempo, period, block_ms)| {
                    json!({ "last_epoch": 900, "index": 3,
                        "block": block, "tempo": tempo, "period": period, "block_ms": block_ms })
                })
                .collect();
        let chosen = ask(&judge, SCRIPT, &["round"], &json!(schedules));
        for (schedule, chosen) in schedules.iter().zip(chosen.as_array().unwrap()) {
            let at = |name: &str| round_at(schedule, chosen[name].as_f64().unwrap());
            let (earliest, latest) = (at("before_s"), at("after_s"));
            let theirs = chosen["round"].as_u64().unwrap();
            assert!((earliest..=latest).contains(&theirs), "{schedule}: {chosen}: {earliest}");
        }
    }
}

/// The round that we would choose at a time.
fn round_at(schedule: &Value, now_s: f64) -> u64 {
    let number = |name: &str| schedule[name].as_u64().unwrap();
    let tempo = number("tempo");
    let clock = RevealClock {
        block: BlockNumber(number("block")),
        now_ms: format!("{:.0}", now_s * 1_000.0).parse().unwrap(),
        block_ms: number("block_ms"),
        schedule: EpochSchedule::Counted { last_epoch: BlockNumber(number("last_epoch")), tempo },
        reveal_period_epochs: number("period"),
        beacon: BeaconClock {
            genesis_s: u64::from(QUICKNET_GENESIS_S),
            period_s: u64::from(QUICKNET_PERIOD_S),
            last_stored: 0,
        },
    };
    clock.reveal_round().unwrap()
}

/// What the official libraries seal must be accepted by the local chain and opened when the round has come, not before.
#[tokio::test(flavor = "multi_thread")]
async fn sealed_weights_of_the_official_libraries_are_revealed_on_the_devnet() {
    for judge in [PYTHON_10, PYTHON_11] {
        let Some(judge) = python(judge) else { continue };
        let world = World::start().await;
        let weights = [(Uid(0), 65_535), (Uid(1), 13_107)];
        let mut asked = as_json(&world.validator.hotkey(), &weights, 0);
        asked["round"] = json!(ROUND);
        let told = ask(&judge, SCRIPT, &["seal"], &json!([asked]));
        let commit = hex::decode(told[0].as_str().unwrap()).unwrap();
        let call = Call::commit_timelocked_mechanism_weights(NETUID, 0, &commit, ROUND, 4);
        let included = world.chain.submit(&call, &world.validator, Depth::Finalized).await.unwrap();
        let hotkey = world.validator.hotkey();
        let held = world.chain.timelocked_commits_of(NETUID, &hotkey).await.unwrap();
        assert_eq!((held.len(), held[0].reveal_round), (1, ROUND));
        assert_eq!(held[0].commit, commit);
        let epoch = held[0].epoch;
        world
            .until("the epoch of the reveal", async |world| {
                let now = world.chain.now().await.unwrap();
                now.epoch_index(NETUID).await.unwrap() > epoch
            })
            .await;
        let early = world.chain.weights_of(NETUID, Uid(0)).await.unwrap();
        assert!(early.is_empty(), "opened before its round: {early:?}");
        world.devnet.offer_pulse(ROUND, &hex::decode(SIGNATURE).unwrap()).await.unwrap();
        world
            .until("the weights", async |world| {
                world.chain.weights_of(NETUID, Uid(0)).await.unwrap() == weights
            })
            .await;
        let block = included.block.number;
        println!("JUDGE {}: a commit of block {block} was revealed", judge.display());
        assert!(world.tasks.shutdown(LIMIT).await);
    }
}

/// A chain with quicknet's key, on which round 1000 is still to come.
struct World {
    chain: Chain,
    devnet: Devnet,
    tasks: Tasks,
    validator: Keypair,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (owner, validator, second) = (key("//Alice"), key("//Alice//hot"), key("//Bob//hot"));
        let mut subnet = SubnetGenesis::new(NETUID, owner.coldkey(), validator.hotkey());
        // An epoch long enough for a busy machine to look at it before its end.
        subnet.tempo = 60;
        subnet.parameters.switches.commit_reveal = true;
        subnet.validators = vec![
            (validator.hotkey(), owner.coldkey(), Rao(100_000 * COIN)),
            (second.hotkey(), owner.coldkey(), Rao(100_000 * COIN)),
        ];
        let beacon = Beacon::Recorded {
            public_key: quicknet(),
            genesis_s: QUICKNET_GENESIS_S,
            period_s: QUICKNET_PERIOD_S,
        };
        let genesis = Genesis { subnets: vec![subnet], beacon: Some(beacon), ..Genesis::default() };
        let config = DevnetConfig {
            block_time: Duration::from_millis(100),
            ..DevnetConfig::new(folder.path().join("chain"), genesis)
        };
        let (clock, tasks) = (SystemClock::shared(), Tasks::new());
        let devnet = Devnet::start(config, clock.clone(), &tasks).await.unwrap();
        let chain = Chain::connect(&devnet.ws_url(), clock, &tasks).await.unwrap();
        Self { chain, devnet, tasks, validator, _folder: folder }
    }

    /// Asks again and again until something is so.
    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let waited = tokio::time::timeout(LIMIT, async {
            while !holds(self).await {
                tokio::time::sleep(PAUSE).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what} did not come within {LIMIT:?}"));
    }
}
