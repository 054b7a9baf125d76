//! What must hold on every Subtensor: the local chain in both profiles, and a real node.

use nicompute_chain::{PoolRejection, ReadError, Refusal, SubmitError};
use nicompute_daemon::Kind;
use nicompute_devnet::Profile;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{BlockNumber, Netuid, Rao, Uid};

use crate::world::{COIN, PATIENCE, World, endpoint, fresh};

const NO_SUBNET: Netuid = Netuid(4_000);

/// The local chain writes single-field types as what they hold; a client that needs that would fail on the main network.
#[tokio::test]
async fn local_chain_in_the_flat_profile() {
    let world = World::local(Profile::Flat).await;
    everything(&world).await;
    world.end().await;
}

/// A client that trips over `NetUid(u16)` reads no block of the main network.
#[tokio::test]
async fn local_chain_in_the_modern_profile() {
    let world = World::local(Profile::Modern).await;
    everything(&world).await;
    world.end().await;
}

/// A client that is right about our own chain only is of no use.
#[tokio::test]
async fn real_node() {
    let Some(world) = World::named().await else { return };
    everything(&world).await;
    world.end().await;
}

async fn everything(world: &World) {
    blocks(world).await;
    money(world).await;
    subnets(world).await;
    neurons(world).await;
    weights(world).await;
    race(world).await;
}

async fn blocks(world: &World) {
    let chain = &world.chain;
    let mut heads = chain.subscribe_heads();
    let seen = *heads.borrow_and_update();
    let limit = world.clock.sleep(PATIENCE);
    tokio::select! {
        moved = heads.wait_for(|head| head.number.0 > seen.number.0 + 1) => drop(moved.unwrap()),
        () = limit => panic!("the head does not move"),
    }
    let head = chain.head().await.unwrap();
    assert!(head.number >= seen.number);
    assert_eq!(chain.block_hash(head.number).await.unwrap(), Some(head.hash));
    assert_eq!(chain.block_hash(seen.number).await.unwrap(), Some(seen.hash));
    assert_eq!(chain.block_hash(BlockNumber(0)).await.unwrap(), Some(chain.genesis_hash()));
    assert_eq!(chain.block_hash(BlockNumber(u64::from(u32::MAX))).await.unwrap(), None);
    let finalized = chain.finalized().await.unwrap();
    assert!(finalized.number <= chain.head().await.unwrap().number);
}

async fn money(world: &World) {
    let chain = &world.chain;
    let receiver = fresh();
    assert_eq!(chain.balance(&receiver.account()).await.unwrap(), Rao(0));
    let before = chain.balance(&world.rich.account()).await.unwrap();
    let included = chain.transfer(&receiver.account(), Rao(5 * COIN), &world.rich).await.unwrap();
    assert_eq!(chain.block_hash(included.block.number).await.unwrap(), Some(included.block.hash));
    assert_eq!(chain.balance(&receiver.account()).await.unwrap(), Rao(5 * COIN));
    let after = chain.balance(&world.rich.account()).await.unwrap();
    assert!(after.0 <= before.0 - 5 * COIN, "{before} {after}");
    // More than there is: refused by the pool or undone in the block, and never partly done.
    let error = chain.transfer(&world.rich.account(), Rao(6 * COIN), &receiver).await.unwrap_err();
    assert!(matches!(error, SubmitError::Dispatch(_) | SubmitError::Pool(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::Caller);
    let error = chain.transfer(&receiver.account(), Rao(1), &fresh()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Pool(PoolRejection::Payment)), "{error:?}");
    assert!(error.remedy().is_some());
    // A coldkey may be ed25519.
    let edwards = Keypair::generate(Scheme::Ed25519);
    chain.transfer(&edwards.account(), Rao(COIN), &world.rich).await.unwrap();
    chain.transfer(&receiver.account(), Rao(COIN / 2), &edwards).await.unwrap();
}

async fn subnets(world: &World) {
    let chain = &world.chain;
    let rules = chain.hyperparameters(world.netuid).await.unwrap();
    assert!(rules.tempo > 0 && rules.max_neurons > 0 && rules.max_weight_limit > 0, "{rules:?}");
    for error in [
        chain.hyperparameters(NO_SUBNET).await.map(|_| ()).unwrap_err(),
        chain.metagraph(NO_SUBNET).await.map(|_| ()).unwrap_err(),
        chain.burn(NO_SUBNET).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, ReadError::NoSubnet(NO_SUBNET)), "{error:?}");
        assert_eq!(error.kind(), Kind::Caller);
    }
}

async fn neurons(world: &World) {
    let (chain, netuid) = (&world.chain, world.netuid);
    let (coldkey, hotkey) = (world.coldkey(100).await, fresh());
    assert_eq!(chain.uid_of(netuid, &hotkey.hotkey()).await.unwrap(), None);
    let error = chain.serve_axon(netuid, endpoint("127.0.0.2", 8091), &hotkey).await.unwrap_err();
    let name = "HotKeyNotRegisteredInNetwork";
    let unregistered = match &error {
        SubmitError::Pool(PoolRejection::Refused(refusal)) => {
            *refusal == Refusal::HotkeyNotRegistered
        }
        SubmitError::Pool(PoolRejection::Payment) => true,
        SubmitError::Dispatch(error) => error.name == name,
        _ => false,
    };
    assert!(unregistered, "{error:?}");

    let price = chain.burn(netuid).await.unwrap();
    assert!(price.0 > 0);
    let before = chain.balance(&coldkey.account()).await.unwrap();
    chain.burned_register(netuid, &hotkey.hotkey(), &coldkey).await.unwrap();
    let paid = before.0 - chain.balance(&coldkey.account()).await.unwrap().0;
    assert!(paid >= price.0, "paid {paid} of {price}");
    let uid = chain.uid_of(netuid, &hotkey.hotkey()).await.unwrap().expect("a uid");
    let error = chain.burned_register(netuid, &hotkey.hotkey(), &coldkey).await.unwrap_err();
    let SubmitError::Dispatch(error) = error else { panic!("{error:?}") };
    assert_eq!(error.name, "HotKeyAlreadyRegisteredInSubNet");
    assert!(error.remedy().is_some());

    let error = chain.serve_axon(netuid, endpoint("127.0.0.1", 8091), &hotkey).await.unwrap_err();
    let SubmitError::Pool(PoolRejection::Refused(refusal)) = error else { panic!("{error:?}") };
    assert_eq!(refusal, Refusal::InvalidIpAddress);
    let axon = endpoint("127.0.0.2", 8091);
    chain.serve_axon(netuid, axon, &hotkey).await.unwrap();
    chain.serve_prometheus(netuid, endpoint("127.0.0.2", 7091), &hotkey).await.unwrap();
    chain.add_stake(netuid, &hotkey.hotkey(), Rao(COIN), &coldkey).await.unwrap();

    let graph = chain.metagraph(netuid).await.unwrap();
    for (at, neuron) in graph.neurons.iter().enumerate() {
        assert_eq!(usize::from(neuron.uid.0), at);
    }
    let neuron = graph.neuron(&hotkey.hotkey()).expect("the new neuron");
    assert_eq!((neuron.uid, neuron.coldkey), (uid, coldkey.coldkey()));
    assert_eq!(neuron.axon, Some(axon));
    assert!(neuron.last_update <= graph.block && neuron.registered_at <= graph.block);
    assert!(neuron.alpha_stake > Rao(0), "{neuron:?}");
    let view = chain.now().await.unwrap();
    let metrics = view.prometheus_of(netuid, &hotkey.hotkey()).await.unwrap().expect("metrics");
    assert_eq!(metrics.endpoint.port, 7091);
    let announced = view.axon_of(netuid, &hotkey.hotkey()).await.unwrap().expect("an axon");
    assert_eq!(announced.endpoint, axon);
    assert_eq!(view.owner_of(&hotkey.hotkey()).await.unwrap(), Some(coldkey.coldkey()));
    let stakes = view.stakes_of(&coldkey.coldkey()).await.unwrap();
    assert_eq!(stakes.iter().map(|stake| stake.netuid).collect::<Vec<_>>(), [netuid]);
}

async fn weights(world: &World) {
    let (chain, netuid) = (&world.chain, world.netuid);
    let rules = chain.hyperparameters(netuid).await.unwrap();
    let (coldkey, hotkey) = (world.coldkey(100).await, fresh());
    chain.burned_register(netuid, &hotkey.hotkey(), &coldkey).await.unwrap();
    let uid = chain.uid_of(netuid, &hotkey.hotkey()).await.unwrap().expect("a uid");
    if rules.commit_reveal {
        let error = chain.set_weights(netuid, &[(uid, 1)], 0, &hotkey).await.unwrap_err();
        assert!(matches!(error, SubmitError::CommitRevealRequired(_)), "{error:?}");
        return;
    }
    let permitted = |weights: Vec<(Uid, u16)>| {
        let hotkey = &hotkey;
        async move { chain.set_weights(netuid, &weights, rules.weights_version_key, hotkey).await }
    };
    // Exactly one weight on itself needs no permit, but the rate limit counts from the registration.
    wait_blocks(world, rules.weights_rate_limit + 1).await;
    permitted(vec![(uid, 7)]).await.unwrap();
    assert_eq!(chain.weights_of(netuid, uid).await.unwrap(), [(uid, u16::MAX)]);
    wait_blocks(world, rules.weights_rate_limit + 1).await;
    let other = Uid(if uid.0 == 0 { 1 } else { 0 });
    let error = permitted(vec![(other, 7)]).await.unwrap_err();
    let SubmitError::Dispatch(error) = error else { panic!("{error:?}") };
    assert_eq!(error.name, "NeuronNoValidatorPermit");
    assert_eq!(chain.weights_of(netuid, uid).await.unwrap(), [(uid, u16::MAX)]);
}

/// Several extrinsics of one key at once: a lost race for a nonce must not lose one of them.
async fn race(world: &World) {
    let chain = &world.chain;
    let receivers: Vec<Keypair> = (0..4).map(|_| fresh()).collect();
    let sends = receivers.iter().map(|receiver| {
        let account = receiver.account();
        async move { chain.transfer(&account, Rao(COIN), &world.rich).await }
    });
    for outcome in futures_util::future::join_all(sends).await {
        outcome.unwrap();
    }
    for receiver in &receivers {
        assert_eq!(chain.balance(&receiver.account()).await.unwrap(), Rao(COIN));
    }
}

async fn wait_blocks(world: &World, blocks: u64) {
    let mut heads = world.chain.subscribe_heads();
    let target = heads.borrow_and_update().number.0 + blocks;
    tokio::select! {
        moved = heads.wait_for(|head| head.number.0 >= target) => drop(moved.unwrap()),
        () = world.clock.sleep(PATIENCE) => panic!("block {target} did not come"),
    }
}
