//! What is read.

use nicompute_chain::{Endpoint, ReadError, View};
use nicompute_market::{BlockNumber, Hotkey, Uid, WeightLimits, WeightPolicy, weights};
use serde_json::{Value, json};

use super::Verdict;
use super::judge::{Answer, Judge};
use super::rpc;
use super::scene::{NETUID, Scene};

/// How many weight vectors are normalised by both.
const VECTORS: u64 = 40;
/// The longest of them.
const VECTOR_LEN: u16 = 25;

/// One kind of read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) name: &'static str,
    /// What the client is asked for besides the block.
    with: fn(&Scene) -> Value,
}

pub(super) const READS: [Read; 19] = [
    Read { name: "normalised", with: |_| Value::Null },
    of_subnet("burn"),
    of_subnet("tempo"),
    of_subnet("commit_reveal"),
    of_subnet("reveal_period"),
    of_subnet("owner_hotkey"),
    of_subnet("next_epoch"),
    of_subnet("mechanism_count"),
    of_subnet("hyperparameters"),
    of_subnet("neurons"),
    of_subnet("metagraph"),
    Read { name: "subnets", with: |_| json!({}) },
    Read { name: "block_hash", with: |_| json!({}) },
    Read { name: "last_stored_round", with: |_| json!({}) },
    Read { name: "balance", with: |scene| json!({ "address": scene.coldkey.account() }) },
    Read { name: "stake", with: |scene| json!({ "address": scene.coldkey.account() }) },
    Read {
        name: "uid",
        with: |scene| json!({ "netuid": NETUID, "hotkey_address": scene.first.hotkey() }),
    },
    Read { name: "weights", with: |_| json!({ "netuid": NETUID, "uid": 0 }) },
    Read {
        name: "commitment",
        with: |scene| json!({ "netuid": NETUID, "uid": 0, "hotkey_address": scene.first.hotkey() }),
    },
];

const fn of_subnet(name: &'static str) -> Read {
    Read { name, with: |_| json!({ "netuid": NETUID }) }
}

/// Lets the client read it and compares with what we read at the same block; clients that know no blocks are compared with
/// each block of the time that they took.
pub(super) async fn compare(read: &Read, judge: &mut Judge, scene: &Scene) -> Verdict {
    if read.name == "normalised" {
        return normalised(judge).await;
    }
    let pinned = rpc::height(scene.node);
    let mut with = (read.with)(scene);
    with["block"] = json!(pinned);
    let theirs = match judge.ask("read", read.name, &with).await {
        Answer::Did(answer) => answer["value"].clone(),
        Answer::NotOffered(why) => return Verdict::NotOffered(why),
        Answer::Failed(why) => return Verdict::Wrong(why),
    };
    let now = rpc::height(scene.node);
    if is_empty(&theirs) {
        return Verdict::Wrong(format!("nothing was read: {theirs}"));
    }
    let mut difference = String::new();
    for block in pinned..=now {
        let view = scene.chain.at_block(BlockNumber(block)).await.unwrap();
        let ours = ours(read.name, scene, &view).await.unwrap();
        match differs(read.name, &theirs, &ours) {
            None => return Verdict::Equal(remark(&theirs)),
            Some(what) if difference.is_empty() => difference = what,
            Some(_) => {}
        }
    }
    Verdict::Wrong(difference)
}

/// What we read, in the words of the adapters.
async fn ours(name: &str, scene: &Scene, view: &View) -> Result<Value, ReadError> {
    Ok(match name {
        "burn" => json!(view.burn(NETUID).await?.0),
        "tempo" => json!(view.hyperparameters(NETUID).await?.tempo),
        "commit_reveal" => json!(view.hyperparameters(NETUID).await?.commit_reveal),
        "reveal_period" => json!(view.hyperparameters(NETUID).await?.reveal_period_epochs),
        "owner_hotkey" => json!(view.owner_hotkey(NETUID).await?),
        "next_epoch" => json!(view.next_epoch_start(NETUID).await?.0),
        "mechanism_count" => json!(view.hyperparameters(NETUID).await?.mechanisms),
        "hyperparameters" => hyperparameters(view).await?,
        "neurons" => neurons(view).await?,
        "metagraph" => metagraph(view).await?,
        "subnets" => subnets(view).await?,
        "block_hash" => json!(format!("0x{}", hex::encode(view.head().hash))),
        "last_stored_round" => json!(view.last_stored_round().await?),
        "balance" => json!(view.balance(&scene.coldkey.account()).await?.0),
        "stake" => stake(scene, view).await?,
        "uid" => json!(view.uid_of(NETUID, &scene.first.hotkey()).await?.map(|uid| uid.0)),
        "weights" => {
            let row = view.weights_of(NETUID, Uid(0)).await?;
            json!(row.iter().map(|(uid, weight)| json!([uid.0, weight])).collect::<Vec<_>>())
        }
        "commitment" => {
            let bytes = view.commitment_of(NETUID, &scene.first.hotkey()).await?;
            json!(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        }
        other => panic!("{other} is not read here"),
    })
}

/// Where theirs is not ours. A client may show less of a record, but nothing else.
fn differs(path: &str, theirs: &Value, ours: &Value) -> Option<String> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => theirs.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match ours.get(name) {
                Some(own) => differs(&path, value, own),
                None => Some(format!("{path}: we do not read it")),
            }
        }),
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            let mut pairs = theirs.iter().zip(ours).enumerate();
            pairs.find_map(|(index, (value, own))| differs(&format!("{path}[{index}]"), value, own))
        }
        _ if theirs == ours => None,
        _ => Some(format!("{path}: theirs {theirs}, ours {ours}")),
    }
}

/// Whether there is nothing that could differ. Everything that is read here exists, at least for those who can make it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// How much was equal.
fn remark(value: &Value) -> String {
    fn leaves(value: &Value) -> usize {
        match value {
            Value::Object(fields) => fields.values().map(leaves).sum(),
            Value::Array(items) => items.iter().map(leaves).sum(),
            _ => 1,
        }
    }
    match value {
        Value::Object(_) | Value::Array(_) => format!("{} values", leaves(value)),
        single => single.to_string(),
    }
}

/// Scores that become weights in both.
async fn normalised(judge: &mut Judge) -> Verdict {
    let mut state = 27_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let policy = WeightPolicy { burn_share_ppm: 0, burn_uid: None };
    let mut compared = 0;
    for vector in 0..VECTORS {
        let len = u16::try_from(1 + vector % u64::from(VECTOR_LEN)).unwrap();
        let scores: Vec<(Uid, u64)> =
            (0..len).map(|uid| (Uid(uid), next() >> (vector % 20))).collect();
        let Ok(own) = weights(&scores, policy, WeightLimits::NONE) else { continue };
        let uids: Vec<u16> = scores.iter().map(|(uid, _)| uid.0).collect();
        let values: Vec<u64> = scores.iter().map(|(_, score)| *score).collect();
        let with = json!({ "uids": uids, "weights": values });
        let theirs = match judge.ask("read", "normalised", &with).await {
            Answer::Did(answer) => answer["value"].clone(),
            Answer::NotOffered(why) => return Verdict::NotOffered(why),
            Answer::Failed(why) => return Verdict::Wrong(why),
        };
        let (uids, values): (Vec<u16>, Vec<u16>) =
            own.iter().map(|(uid, value)| (uid.0, *value)).unzip();
        let own = json!([uids, values]);
        if theirs != own {
            return Verdict::Wrong(format!("{with}: theirs {theirs}, ours {own}"));
        }
        compared += 1;
    }
    if compared != VECTORS {
        return Verdict::Wrong(format!("only {compared} of {VECTORS} vectors have weights"));
    }
    Verdict::Equal(format!("{compared} vectors"))
}

async fn hyperparameters(view: &View) -> Result<Value, ReadError> {
    let found = view.hyperparameters(NETUID).await?;
    Ok(json!({
        "tempo": found.tempo,
        "weights_rate_limit": found.weights_rate_limit,
        "weights_version_key": found.weights_version_key,
        "min_allowed_weights": found.min_allowed_weights,
        "max_weight_limit": found.max_weight_limit,
        "immunity_period": found.immunity_period,
        "serving_rate_limit": found.serving_rate_limit,
        "max_validators": found.max_validators,
        "commit_reveal": found.commit_reveal,
        "reveal_period_epochs": found.reveal_period_epochs,
        "activity_cutoff": found.activity_cutoff,
        "registration_allowed": found.registration_allowed,
        "kappa": found.kappa,
        "bonds_moving_average": found.bonds_moving_average,
        "burn_min": found.min_burn.0,
        "burn_max": found.max_burn.0,
    }))
}

async fn neurons(view: &View) -> Result<Value, ReadError> {
    let mut rows = Vec::new();
    for neuron in view.metagraph(NETUID).await?.neurons {
        let prometheus = view.prometheus_of(NETUID, &neuron.hotkey).await?;
        rows.push(json!({
            "uid": neuron.uid.0,
            "hotkey": neuron.hotkey,
            "coldkey": neuron.coldkey,
            "axon": neuron.axon.map(endpoint),
            "prometheus": prometheus.map(|announced| endpoint(announced.endpoint)),
            "staked": neuron.alpha_stake.0,
            "validator_permit": neuron.validator_permit,
            "active": neuron.active,
            "last_update": neuron.last_update.0,
            "incentive": neuron.incentive,
            "dividends": neuron.dividends,
            "consensus": neuron.consensus,
            "validator_trust": neuron.validator_trust,
            "emission": neuron.emission.0,
        }));
    }
    Ok(json!(rows))
}

async fn metagraph(view: &View) -> Result<Value, ReadError> {
    let graph = view.metagraph(NETUID).await?;
    let rules = view.hyperparameters(NETUID).await?;
    let subnets = view.subnets().await?;
    let subnet = subnets.iter().find(|subnet| subnet.netuid == NETUID).unwrap();
    let neurons = graph.neurons.iter().map(|neuron| {
        json!({
            "uid": neuron.uid.0,
            "hotkey": neuron.hotkey,
            "coldkey": neuron.coldkey,
            "axon": neuron.axon.map(endpoint),
            "stake": neuron.stake.0,
            "alpha_stake": neuron.alpha_stake.0,
            "tao_stake": neuron.tao_stake.0,
            "validator_permit": neuron.validator_permit,
            "active": neuron.active,
            "last_update": neuron.last_update.0,
            "registered_at": neuron.registered_at.0,
            "incentive": neuron.incentive,
            "dividends": neuron.dividends,
            "consensus": neuron.consensus,
            "emission": neuron.emission.0,
        })
    });
    Ok(json!({
        "block": graph.block.0,
        "tempo": rules.tempo,
        "owner_hotkey": subnet.owner_hotkey,
        "owner_coldkey": subnet.owner_coldkey,
        "burn": view.burn(NETUID).await?.0,
        "max_neurons": rules.max_neurons,
        "neurons": neurons.collect::<Vec<_>>(),
    }))
}

async fn subnets(view: &View) -> Result<Value, ReadError> {
    let mut netuids: Vec<u16> =
        view.subnets().await?.iter().map(|subnet| subnet.netuid.0).collect();
    netuids.sort_unstable();
    Ok(json!(netuids))
}

async fn stake(scene: &Scene, view: &View) -> Result<Value, ReadError> {
    let mut rows: Vec<(String, u16, u64)> = view
        .stakes_of(&scene.coldkey.coldkey())
        .await?
        .iter()
        .map(|position| (address(position.hotkey), position.netuid.0, position.alpha.0))
        .collect();
    rows.sort();
    Ok(json!(rows))
}

fn address(hotkey: Hotkey) -> String {
    hotkey.to_string()
}

fn endpoint(endpoint: Endpoint) -> Value {
    json!({ "ip": endpoint.ip, "port": endpoint.port, "version": endpoint.version })
}
