//! What is sent.

use std::collections::BTreeSet;

use nicompute_chain::{Call, Depth, Endpoint};
use nicompute_market::{Rao, Uid};
use serde_json::{Value, json};

use super::judge::{Answer, Judge};
use super::rpc::{self, Extrinsic};
use super::scene::{COIN, COMMIT_NETUID, NETUID, Scene};
use super::{Client, Verdict};

/// Blocks after a client's answer within which something that it sent stands in one.
const INCLUSION_BLOCKS_MAX: u64 = 20;
/// What is given to two neurons, as shares and as the chain's numbers.
const SHARES: [f64; 2] = [0.25, 0.75];
const WEIGHTS: [(Uid, u16); 2] = [(Uid(0), 21_845), (Uid(1), 65_535)];
/// A version key that a client is told.
const VERSION_KEY: u64 = 7;
const SALT: [u16; 4] = [7, 0, 65_535, 12];
/// A commit of any content: its bytes are carried, not read.
const COMMIT: [u8; 70] = [0xab; 70];
const REVEAL_ROUND: u64 = 12_345_678;
const COMMIT_VERSION: u16 = 4;
const COMMITMENT: &str = "conformance: a commitment of text";
/// More than the price of any registration here.
const LIMIT: u64 = 3 * COIN;
// In halves: btcli 9 computes in floating point, and of 1.000000007 coins it unstakes 1.000000006.
const STAKED: u64 = 3 * COIN + COIN / 2;
const UNSTAKED: u64 = COIN + COIN / 2;
const SENT: u64 = COIN + COIN / 2;
const SERVED_IP: [u8; 4] = [127, 0, 0, 3];
const SERVED_PORT: u16 = 9_010;

/// One kind of call.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// What the client is told.
    with: fn(&Scene) -> Value,
    /// What we would send, given what the client chose by itself; several where it may choose among them.
    ours: fn(&Scene, &Sent) -> Vec<Call>,
}

/// What is known about something that a client sent.
#[derive(Debug)]
pub(super) struct Sent {
    client: Client,
    /// What it chose by itself.
    chosen: Value,
    /// The version key that it put on weights.
    version_key: u64,
    /// The prices of a registration while it was at it.
    prices: BTreeSet<u64>,
}

pub(super) const OPERATIONS: [Operation; 15] = [
    Operation {
        name: "register_limit",
        with: |_| json!({ "netuid": NETUID, "hotkey": "latecomer", "limit": LIMIT }),
        ours: |scene, sent| {
            // btcli takes a tolerance, here of one half, in place of a limit.
            let limits: Vec<u64> = match sent.client.name {
                "btcli9" => sent.prices.iter().map(|price| price + price / 2).collect(),
                _ => vec![LIMIT],
            };
            let call = |limit| Call::register_limit(NETUID, &scene.latecomer.hotkey(), Rao(limit));
            limits.into_iter().map(call).collect()
        },
    },
    Operation {
        name: "burned_register",
        with: |_| json!({ "netuid": NETUID, "hotkey": "newcomer" }),
        ours: |scene, _| vec![Call::burned_register(NETUID, &scene.newcomer.hotkey())],
    },
    Operation {
        name: "serve_axon",
        with: |_| served(0),
        ours: |_, sent| vec![Call::serve_axon(NETUID, endpoint(sent, 0))],
    },
    Operation {
        name: "serve_prometheus",
        with: |_| served(1),
        ours: |_, sent| vec![Call::serve_prometheus(NETUID, endpoint(sent, 1))],
    },
    Operation {
        name: "set_weights",
        with: |_| json!({ "netuid": NETUID, "uids": [0, 1], "weights": SHARES, "version_key": VERSION_KEY }),
        ours: |_, sent| vec![Call::set_weights(NETUID, &WEIGHTS, sent.version_key)],
    },
    Operation {
        name: "set_mechanism_weights",
        with: |_| {
            let values = WEIGHTS.map(|(_, value)| value);
            json!({ "netuid": NETUID, "mecid": 0, "uids": [0, 1], "values": values, "version_key": VERSION_KEY })
        },
        ours: |_, sent| vec![Call::set_mechanism_weights(NETUID, 0, &WEIGHTS, sent.version_key)],
    },
    Operation {
        name: "commit_weights",
        with: |_| revealed(),
        ours: |scene, _| {
            let hash = scene.commit_hash(&WEIGHTS, &SALT, VERSION_KEY);
            vec![Call::commit_weights(COMMIT_NETUID, hash)]
        },
    },
    Operation {
        name: "reveal_weights",
        with: |_| revealed(),
        ours: |_, sent| {
            vec![Call::reveal_weights(COMMIT_NETUID, &WEIGHTS, &SALT, sent.version_key)]
        },
    },
    Operation {
        name: "commit_timelocked_weights",
        with: |_| timelocked(),
        ours: |_, _| {
            vec![Call::commit_timelocked_weights(NETUID, &COMMIT, REVEAL_ROUND, COMMIT_VERSION)]
        },
    },
    Operation {
        name: "commit_timelocked_mechanism_weights",
        with: |_| {
            let mut with = timelocked();
            with["mecid"] = json!(0);
            with
        },
        ours: |_, _| {
            let round = REVEAL_ROUND;
            let version = COMMIT_VERSION;
            vec![Call::commit_timelocked_mechanism_weights(NETUID, 0, &COMMIT, round, version)]
        },
    },
    Operation {
        name: "add_stake",
        with: |scene| staked(scene, STAKED),
        ours: |scene, _| vec![Call::add_stake(NETUID, &scene.first.hotkey(), Rao(STAKED))],
    },
    Operation {
        name: "remove_stake",
        with: |scene| staked(scene, UNSTAKED),
        ours: |scene, _| vec![Call::remove_stake(NETUID, &scene.first.hotkey(), Rao(UNSTAKED))],
    },
    Operation {
        name: "transfer_keep_alive",
        with: |scene| json!({ "to": scene.friend.account(), "amount": SENT }),
        ours: |scene, _| vec![Call::transfer_keep_alive(&scene.friend.account(), Rao(SENT))],
    },
    Operation {
        name: "transfer_allow_death",
        with: |scene| json!({ "to": scene.friend.account(), "amount": SENT }),
        ours: |scene, _| vec![Call::transfer_allow_death(&scene.friend.account(), Rao(SENT))],
    },
    Operation {
        name: "set_commitment",
        with: |_| json!({ "netuid": NETUID, "text": COMMITMENT }),
        ours: |_, _| vec![Call::set_commitment(NETUID, COMMITMENT.as_bytes()).unwrap()],
    },
];

/// Sets the commitment of the first hotkey where nobody has.
pub(super) async fn commit_to_text(scene: &Scene) {
    let found = scene.chain.commitment_of(NETUID, &scene.first.hotkey()).await.unwrap();
    if found.is_none() {
        let call = Call::set_commitment(NETUID, COMMITMENT.as_bytes()).unwrap();
        scene.chain.submit(&call, &scene.first, Depth::Included).await.unwrap();
    }
}

/// Lets the client send it, finds it in a block and compares.
pub(super) async fn compare(
    operation: &Operation,
    client: Client,
    judge: &mut Judge,
    scene: &Scene,
) -> Verdict {
    let version_key = judge.version_key.unwrap_or(VERSION_KEY);
    if operation.name == "reveal_weights" {
        scene.commit(&WEIGHTS, &SALT, version_key).await;
    }
    let before = rpc::height(scene.node);
    let answer = match judge.ask("send", operation.name, &(operation.with)(scene)).await {
        Answer::Did(answer) => answer,
        Answer::NotOffered(why) => return Verdict::NotOffered(why),
        Answer::Failed(why) => return Verdict::Wrong(why),
    };
    let found = find(scene, before).await;
    let after = rpc::height(scene.node);
    // Weights may be set once in a block.
    scene.reach(after + 2).await;
    let prices = prices(scene, before, after).await;
    let sent = Sent { client, chosen: answer["chosen"].clone(), version_key, prices };
    let mut ours = Vec::new();
    for call in (operation.ours)(scene, &sent) {
        ours.push(scene.chain.call_bytes(&call).await.unwrap());
    }
    let by = answer["by"].as_str().unwrap_or("?");
    verdict(&found, &ours, client, by)
}

fn verdict(found: &[Extrinsic], ours: &[Vec<u8>], client: Client, by: &str) -> Verdict {
    if found.is_empty() {
        return Verdict::Wrong("nothing stands in a block".to_owned());
    }
    for extrinsic in found {
        if !ours.contains(&extrinsic.call) {
            let ours: Vec<String> = ours.iter().map(hex::encode).collect();
            let theirs = hex::encode(&extrinsic.call);
            return Verdict::Wrong(format!("theirs {theirs}, ours {}", ours.join(" or ")));
        }
        if extrinsic.tip != 0 || extrinsic.mode != 0 {
            return Verdict::Wrong(format!("a tip or a metadata hash: {extrinsic:?}"));
        }
        if !client.eras.contains(&extrinsic.era_blocks) {
            return Verdict::Wrong(format!("an era of {} blocks", extrinsic.era_blocks));
        }
    }
    let era = found.first().map_or(0, |extrinsic| extrinsic.era_blocks);
    let lives = if era == 0 { "for ever".to_owned() } else { format!("{era} blocks") };
    let how = if by == "codec" { "composed by name, " } else { "" };
    let bytes = found.first().map_or(0, |extrinsic| extrinsic.call.len());
    Verdict::Equal(format!("{how}{bytes} bytes, lives {lives}"))
}

/// What the wallet's keys have in the blocks since one.
async fn find(scene: &Scene, before: u64) -> Vec<Extrinsic> {
    let keys = [&scene.coldkey, &scene.first, &scene.newcomer, &scene.latecomer];
    let keys = keys.map(|key| key.account());
    let mut next = before + 1;
    let mut found = Vec::new();
    // Some clients answer as soon as it is sent.
    let last = rpc::height(scene.node) + INCLUSION_BLOCKS_MAX;
    while next <= last {
        scene.reach(next).await;
        let block = rpc::extrinsics(scene.node, next);
        found.extend(block.into_iter().filter(|extrinsic| keys.contains(&extrinsic.signer)));
        next += 1;
        if !found.is_empty() && next > rpc::height(scene.node) {
            break;
        }
    }
    found
}

async fn prices(scene: &Scene, before: u64, after: u64) -> BTreeSet<u64> {
    let mut prices = BTreeSet::new();
    for block in before..=after {
        let view = scene.chain.at_block(nicompute_market::BlockNumber(block)).await.unwrap();
        prices.insert(view.burn(NETUID).await.unwrap().0);
    }
    prices
}

fn served(more: u16) -> Value {
    let ip = SERVED_IP.map(|part| part.to_string()).join(".");
    json!({ "netuid": NETUID, "ip": ip, "port": SERVED_PORT + more })
}

fn endpoint(sent: &Sent, more: u16) -> Endpoint {
    let version = sent.chosen["version"].as_u64().unwrap();
    let version = u32::try_from(version).unwrap();
    Endpoint { ip: SERVED_IP.into(), port: SERVED_PORT + more, version }
}

fn revealed() -> Value {
    let values = WEIGHTS.map(|(_, value)| value);
    json!({
        "netuid": COMMIT_NETUID,
        "uids": [0, 1],
        "values": values,
        "salt": SALT,
        "version_key": VERSION_KEY,
    })
}

fn timelocked() -> Value {
    json!({
        "netuid": NETUID,
        "commit": hex::encode(COMMIT),
        "reveal_round": REVEAL_ROUND,
        "version": COMMIT_VERSION,
    })
}

fn staked(scene: &Scene, amount: u64) -> Value {
    json!({ "netuid": NETUID, "hotkey_address": scene.first.hotkey(), "amount": amount })
}
