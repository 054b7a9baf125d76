//! The main network's own metadata, of spec 461, as the SDK's sources hold it: every call is encoded and every item read
//! under it, in both of its versions.

use jsonrpsee::types::ErrorObjectOwned;
use nicompute_chain::{Call, Chain, ConnectError, Metagraph, ReadError, View, WeightsWay};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::Profile;
use nicompute_market::{AccountId, Hotkey, Netuid, Rao, Uid};
use serde_json::{Value, json};

use crate::fakes::Liar;
use crate::world::{LIMITS, Local, NETUID, PATIENCE, SEALED_NETUID, alice, endpoint, fresh};

/// What a node says of a function that its runtime does not have.
const NO_EXPORT: &str = "Client error: Execution failed: Other: Exported method \
                         Metadata_metadata_versions is not found";

/// The recorded facts; none where the environment names none.
fn golden() -> Option<Value> {
    #[expect(clippy::disallowed_methods, reason = "a gate of the tests, read at run time")]
    let Ok(path) = std::env::var("NICOMPUTE_TEST_METADATA461") else {
        println!("SKIPPED: no real metadata, NICOMPUTE_TEST_METADATA461 names none");
        return None;
    };
    Some(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
}

/// Which metadata the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    Fourteen,
    Fifteen,
    /// Fifteen, of a runtime that has no metagraph in one call.
    FifteenWithoutGraph,
}

/// A node with our chain's state under the main network's metadata.
async fn node(local: &Local, golden: &Value, generation: Generation) -> Liar {
    let liar = Liar::before(&local.url()).await;
    let text = |name: &str| golden["metadata"][name].as_str().unwrap().to_owned();
    let (old, mut new) = (text("v14_hex"), text("v15_hex"));
    if generation == Generation::FifteenWithoutGraph {
        let name = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(new.contains(&name("get_metagraph")));
        new = new.replace(&name("get_metagraph"), &name("got_metagraph"));
    }
    liar.answers(move |method, params| {
        let asked = params.first().and_then(Value::as_str).unwrap_or_default();
        let refused = || Some(Err(ErrorObjectOwned::owned(4003, NO_EXPORT, None::<()>)));
        match (method, asked) {
            ("state_getRuntimeVersion", _) => {
                Some(Ok(json!({"specVersion": 461, "transactionVersion": 1})))
            }
            ("state_getMetadata", _) => Some(Ok(json!(old))),
            ("state_call", "Metadata_metadata_versions") if generation == Generation::Fourteen => {
                refused()
            }
            ("state_call", "Metadata_metadata_versions") => Some(Ok(json!("0x080e0000000f000000"))),
            ("state_call", "Metadata_metadata_at_version") => Some(Ok(json!(new))),
            _ => None,
        }
    });
    liar
}

fn account(text: &str) -> AccountId {
    text.parse().unwrap()
}

/// Our call for one of the recorded ones; none if we never make it.
fn ours(function: &str, params: &Value) -> Option<Call> {
    let netuid = || Netuid(u16::try_from(params["netuid"].as_u64().unwrap()).unwrap());
    let hotkey = || Hotkey(account(params["hotkey"].as_str().unwrap()));
    let rao = |name: &str| Rao(params[name].as_u64().unwrap());
    let numbers = |name: &str| -> Vec<u16> {
        let list = params[name].as_array().unwrap();
        list.iter().map(|number| u16::try_from(number.as_u64().unwrap()).unwrap()).collect()
    };
    let dest = || account(params["dest"].as_str().unwrap());
    Some(match function {
        "transfer_keep_alive" => Call::transfer_keep_alive(&dest(), rao("value")),
        "transfer_allow_death" => Call::transfer_allow_death(&dest(), rao("value")),
        "add_stake" => Call::add_stake(netuid(), &hotkey(), rao("amount_staked")),
        "remove_stake" => Call::remove_stake(netuid(), &hotkey(), rao("amount_unstaked")),
        "burned_register" => Call::burned_register(netuid(), &hotkey()),
        "set_weights" => {
            let uids = numbers("dests").into_iter().map(Uid);
            let weights: Vec<_> = uids.zip(numbers("weights")).collect();
            Call::set_weights(netuid(), &weights, params["version_key"].as_u64().unwrap())
        }
        _ => return None,
    })
}

/// Every call that this client can make, with its numbers on the main network.
fn every_call() -> Vec<(Call, [u8; 2])> {
    let (netuid, hotkey, weights) = (Netuid(27), fresh().hotkey(), [(Uid(0), 1), (Uid(7), 65_535)]);
    let at = endpoint("1.2.3.4", 8091);
    vec![
        (Call::set_weights(netuid, &weights, 190), [7, 0]),
        (Call::add_stake(netuid, &hotkey, Rao(5)), [7, 2]),
        (Call::remove_stake(netuid, &hotkey, Rao(5)), [7, 3]),
        (Call::serve_axon(netuid, at), [7, 4]),
        (Call::serve_prometheus(netuid, at), [7, 5]),
        (Call::burned_register(netuid, &hotkey), [7, 7]),
        (Call::commit_weights(netuid, [7; 32]), [7, 96]),
        (Call::reveal_weights(netuid, &weights, &[1, 2, 3], 190), [7, 97]),
        (Call::commit_timelocked_weights(netuid, &[9; 700], 17, 4), [7, 113]),
        (Call::commit_timelocked_mechanism_weights(netuid, 1, &[9; 700], 17, 4), [7, 118]),
        (Call::set_mechanism_weights(netuid, 1, &weights, 190), [7, 119]),
        (Call::register_limit(netuid, &hotkey, Rao(5)), [7, 134]),
        (Call::transfer_allow_death(&hotkey.0, Rao(5)), [5, 0]),
        (Call::transfer_keep_alive(&hotkey.0, Rao(5)), [5, 3]),
        (Call::set_commitment(netuid, b"").unwrap(), [18, 0]),
        (Call::set_commitment(netuid, b"hello").unwrap(), [18, 0]),
        (Call::set_commitment(netuid, &[7; 128]).unwrap(), [18, 0]),
        (Call::set_commitment(netuid, &[7; 500]).unwrap(), [18, 0]),
    ]
}

/// Everything that is read by storage alone.
async fn read_storage(view: &View) -> Metagraph {
    let hotkey = fresh().hotkey();
    let rules = view.hyperparameters(NETUID).await.unwrap();
    assert!(!rules.commit_reveal && rules.commit_reveal_version == 4, "{rules:?}");
    assert!(rules.activity_cutoff > 0 && rules.kappa > 0 && rules.mechanisms == 1, "{rules:?}");
    assert_eq!(view.weights_way(NETUID).await.unwrap(), WeightsWay::Plain);
    let sealed = view.weights_way(SEALED_NETUID).await.unwrap();
    assert!(matches!(sealed, WeightsWay::Timelocked { version: 4, .. }), "{sealed:?}");
    assert!(view.next_epoch_start(NETUID).await.unwrap() > view.head().number);
    view.epoch_index(NETUID).await.unwrap();
    assert!(view.beacon().await.unwrap().is_some());
    view.last_stored_round().await.unwrap();
    assert!(view.timestamp_ms().await.unwrap() > 0);
    // The chain that it was recorded on had fast blocks.
    assert_eq!(view.block_time().unwrap(), std::time::Duration::from_millis(250));
    assert!(view.burn(NETUID).await.unwrap() > Rao(0));
    assert!(view.owner_hotkey(NETUID).await.unwrap().is_some());
    assert!(view.balance(&alice().account()).await.unwrap() > Rao(0));
    assert_eq!(view.uid_of(NETUID, &hotkey).await.unwrap(), None);
    assert_eq!(view.axon_of(NETUID, &hotkey).await.unwrap(), None);
    assert_eq!(view.prometheus_of(NETUID, &hotkey).await.unwrap(), None);
    assert_eq!(view.owner_of(&hotkey).await.unwrap(), None);
    assert_eq!(view.commitment_of(NETUID, &hotkey).await.unwrap(), None);
    assert_eq!(view.identity_of(&hotkey.0).await.unwrap(), None);
    assert_eq!(view.timelocked_commits_of(SEALED_NETUID, &hotkey).await.unwrap(), []);
    assert_eq!(view.hash_commits_of(SEALED_NETUID, &hotkey).await.unwrap(), []);
    assert!(view.weights_of(NETUID, Uid(0)).await.unwrap().is_empty());
    view.metagraph(NETUID).await.unwrap()
}

/// A client that encodes one call wrongly under the main network's metadata loses its fee there, or its weights.
#[tokio::test]
async fn every_call_and_every_item_fits_the_main_network() {
    let Some(golden) = golden() else { return };
    let mut local = Local::start(Profile::Modern).await;
    let tasks = Tasks::new();
    for generation in [Generation::Fifteen, Generation::FifteenWithoutGraph, Generation::Fourteen] {
        let liar = node(&local, &golden, generation).await;
        let chain = Chain::connect_with(&liar.url(), LIMITS, SystemClock::shared(), &tasks).await;
        let chain = chain.unwrap();
        let mut compared = 0;
        for recorded in golden["calls"].as_array().unwrap() {
            let function = recorded["function"].as_str().unwrap();
            let Some(call) = ours(function, &recorded["params"]) else { continue };
            let bytes = chain.call_bytes(&call).await.unwrap();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(format!("0x{hex}"), recorded["data_hex"].as_str().unwrap(), "{function}");
            compared += 1;
        }
        assert_eq!(compared, 6, "the recorded calls that we make");
        for (call, numbers) in every_call() {
            let bytes = chain.call_bytes(&call).await.unwrap();
            assert_eq!(&bytes[..2], numbers, "{}", call.name());
        }
        // The chain's clock begins with its first block.
        drop(chain.subscribe_heads().wait_for(|head| head.number.0 > 0).await.unwrap());
        let view = chain.now().await.unwrap();
        assert_eq!(view.spec_version(), 461);
        let graph = read_storage(&view).await;
        let (coldkey, subnets) = (view.stakes_of(&alice().coldkey()).await, view.subnets().await);
        if generation == Generation::Fourteen {
            // The old metadata describes no runtime API; what only those tell has a typed refusal.
            assert!(matches!(coldkey, Err(ReadError::Missing(_))), "{coldkey:?}");
            assert!(matches!(subnets, Err(ReadError::Missing(_))), "{subnets:?}");
        } else {
            assert!(!coldkey.unwrap().is_empty());
            assert_eq!(subnets.unwrap().len(), 3);
        }
        let neuron = graph.neuron(&local.validator.hotkey()).expect("the validator");
        assert!(neuron.validator_permit && neuron.alpha_stake > Rao(0), "{neuron:?}");
        assert!(neuron.stake >= neuron.alpha_stake, "{generation:?} {neuron:?}");
        liar.stop().await;
    }
    assert!(tasks.shutdown(PATIENCE).await);
    local.stop().await;
}

/// What the three ways of reading a subnet tell must be the same, or a validator scores by the age of its node.
#[tokio::test]
async fn the_three_ways_to_a_metagraph_agree() {
    let Some(golden) = golden() else { return };
    let mut local = Local::start(Profile::Modern).await;
    let tasks = Tasks::new();
    let real =
        Chain::connect_with(&local.url(), LIMITS, SystemClock::shared(), &tasks).await.unwrap();
    let (hotkey, coldkey) = (fresh(), alice());
    real.burned_register(NETUID, &hotkey.hotkey(), &coldkey).await.unwrap();
    real.serve_axon(NETUID, endpoint("127.0.0.2", 8091), &hotkey).await.unwrap();
    real.add_stake(NETUID, &hotkey.hotkey(), Rao(1_000_000_000), &coldkey).await.unwrap();
    // All of one block, since what neurons earn differs from block to block.
    let at = real.head().await.unwrap().number;
    let expected = real.at_block(at).await.unwrap().metagraph(NETUID).await.unwrap();
    assert!(expected.neuron(&hotkey.hotkey()).is_some_and(|neuron| neuron.axon.is_some()));
    for generation in [Generation::Fifteen, Generation::FifteenWithoutGraph, Generation::Fourteen] {
        let liar = node(&local, &golden, generation).await;
        let chain = Chain::connect_with(&liar.url(), LIMITS, SystemClock::shared(), &tasks).await;
        let view = chain.unwrap().at_block(at).await.unwrap();
        assert_eq!(view.metagraph(NETUID).await.unwrap(), expected, "{generation:?}");
        liar.stop().await;
    }
    assert!(tasks.shutdown(PATIENCE).await);
    local.stop().await;
}

/// A proxy that is busy for a moment must not make a validator blind to stake and epochs for as long as it runs.
#[tokio::test]
async fn a_passing_refusal_does_not_make_the_runtime_old() {
    let mut local = Local::start(Profile::Modern).await;
    let liar = Liar::before(&local.url()).await;
    let refuses = |code, words: &'static str| {
        move |method: &str, params: &[Value]| {
            let asked = params.first().and_then(Value::as_str).unwrap_or_default();
            let is_it = method == "state_call" && asked == "Metadata_metadata_versions";
            is_it.then(|| Err(ErrorObjectOwned::owned(code, words, None::<()>)))
        }
    };
    let tasks = Tasks::new();
    let url = liar.url();
    let connect = || Chain::connect_with(&url, LIMITS, SystemClock::shared(), &tasks);
    liar.answers(refuses(-32005, "rate limited"));
    let error = connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Unusable { source: ReadError::Refused { .. }, .. }),
        "{error:?}"
    );
    // Where the runtime really has no newer one, that is true of this connection only.
    liar.answers(refuses(4003, NO_EXPORT));
    let chain = connect().await.unwrap();
    assert!(matches!(chain.subnets().await, Err(ReadError::Missing(_))));
    let address = liar.address;
    liar.stop().await;
    let liar = Liar::at(&local.url(), address).await;
    assert!(!chain.subnets().await.unwrap().is_empty());
    assert!(tasks.shutdown(PATIENCE).await);
    liar.stop().await;
    local.stop().await;
}
