//! What the local chain alone can show: validators, epochs, sealed weights, restarts.

use nicompute_chain::{Call, Chain, Depth, ReadError, Served, SubmitError};
use nicompute_daemon::Kind;
use nicompute_devnet::Profile;
use nicompute_market::{Rao, Uid};

use crate::world::{COIN, LIMITS, NETUID, PATIENCE, SEALED_NETUID, World, alice, endpoint, fresh};

/// Weights that reach no incentive would pay no miner.
#[tokio::test]
async fn weights_become_incentive() {
    let mut world = World::local(Profile::Flat).await;
    let validator = world.local_mut().validator.clone();
    let chain = &world.chain;
    let (coldkey, miner) = (world.coldkey(10).await, fresh());
    chain.burned_register(NETUID, &miner.hotkey(), &coldkey).await.unwrap();
    let uid = chain.uid_of(NETUID, &miner.hotkey()).await.unwrap().expect("a uid");
    let own = chain.uid_of(NETUID, &validator.hotkey()).await.unwrap().expect("a uid");
    let graph = chain.metagraph(NETUID).await.unwrap();
    let neuron = graph.neuron(&validator.hotkey()).unwrap();
    assert!(neuron.validator_permit && neuron.stake.0 >= 100_000 * COIN, "{neuron:?}");
    let weights = [(own, 65_535), (uid, 65_535)];
    // Its registration counts as an update: the rate limit of one block may not have passed.
    let mut set = chain.set_weights(NETUID, &weights, 0, &validator).await;
    if let Err(SubmitError::Dispatch(error)) = &set {
        assert_eq!((error.name.as_str(), error.kind()), ("SettingWeightsTooFast", Kind::Elsewhere));
        set = chain.set_weights(NETUID, &weights, 0, &validator).await;
    }
    let included = set.unwrap();
    assert_eq!(chain.weights_of(NETUID, own).await.unwrap(), weights);
    let mut heads = chain.subscribe_heads();
    let earned = async {
        loop {
            let graph = chain.metagraph(NETUID).await.unwrap();
            let neuron = graph.neuron(&miner.hotkey()).unwrap();
            if neuron.incentive > 0 {
                assert!(neuron.emission > Rao(0), "{neuron:?}");
                assert!(graph.block > included.block.number);
                return;
            }
            heads.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = earned => {}
        () = world.clock.sleep(PATIENCE) => panic!("no incentive"),
    }
    world.end().await;
}

/// Plain weights on a sealed subnet must be refused before anything is sent, by a name that says what is missing.
#[tokio::test]
async fn sealed_subnets_are_named() {
    let world = World::local(Profile::Flat).await;
    let error =
        world.chain.set_weights(SEALED_NETUID, &[(Uid(0), 1)], 0, &fresh()).await.unwrap_err();
    assert!(matches!(error, SubmitError::CommitRevealRequired(SEALED_NETUID)), "{error:?}");
    assert_eq!(error.kind(), Kind::Caller);
    world.end().await;
}

/// A daemon must not need a restart because its node had one, and an extrinsic on its way must not be lost.
#[tokio::test]
async fn a_restarted_node_is_found_again() {
    let mut world = World::local(Profile::Flat).await;
    let chain = world.chain.clone();
    let receiver = fresh();
    let mut heads = chain.subscribe_heads();
    world.local_mut().stop().await;
    let before = *heads.borrow_and_update();
    let (account, from) = (receiver.account(), alice());
    let reader = chain.clone();
    // One asks and one sends while nobody answers.
    let (read, sent, ()) = tokio::join!(
        async move { reader.hyperparameters(NETUID).await },
        async move { chain.transfer(&account, Rao(COIN), &from).await },
        world.local_mut().go_on(),
    );
    read.unwrap();
    sent.unwrap();
    assert_eq!(world.chain.balance(&receiver.account()).await.unwrap(), Rao(COIN));
    tokio::select! {
        moved = heads.wait_for(|head| head.number > before.number) => drop(moved.unwrap()),
        () = world.clock.sleep(PATIENCE) => panic!("the head stands still after a restart"),
    }
    world.end().await;
}

/// A chain that began anew must not be taken for the old one: its uids and nonces mean something else.
#[tokio::test]
async fn another_chain_is_noticed() {
    let mut world = World::local(Profile::Flat).await;
    let address = world.local_mut().address;
    world.local_mut().stop().await;
    let mut other = crate::world::Local::start_at(Profile::Flat, address).await;
    let error = world.chain.head().await.unwrap_err();
    assert!(error.to_string().contains("another one than expected"), "{error:?}");
    assert!(error.remedy().is_some());
    other.stop().await;
    world.end().await;
}

/// What costs money or helps nobody must be refused before it is sent, and what the chain knows is not said again.
#[tokio::test]
async fn registering_and_serving_send_nothing_in_vain() {
    let world = World::local(Profile::Flat).await;
    let chain = &world.chain;
    let (coldkey, hotkey) = (world.coldkey(100).await, fresh());
    let price = chain.burn(NETUID).await.unwrap();
    let low = Rao(price.0 - 1);
    let register = |limit| {
        let (coldkey, hotkey) = (&coldkey, hotkey.hotkey());
        async move { chain.burned_register_within(NETUID, &hotkey, limit, coldkey).await }
    };
    let before = chain.balance(&coldkey.account()).await.unwrap();
    let error = register(low).await.unwrap_err();
    assert!(matches!(error, SubmitError::TooExpensive { limit, .. } if limit == low), "{error:?}");
    assert_eq!(chain.balance(&coldkey.account()).await.unwrap(), before);
    register(Rao(price.0 * 2)).await.unwrap();
    let error = chain.pow_register(NETUID).await.unwrap_err();
    let refused =
        matches!(error, SubmitError::NoProofOfWork(_) | SubmitError::ProofOfWorkNotOffered);
    assert!(refused && error.remedy().is_some(), "{error:?}");

    let serve = |at| chain.serve_axon_if_changed(NETUID, at, &hotkey);
    let error = serve(endpoint("127.0.0.1", 8091)).await.unwrap_err();
    assert!(matches!(error, SubmitError::Unreachable { .. }), "{error:?}");
    let at = endpoint("127.0.0.2", 8091);
    let served = serve(at).await.unwrap();
    assert!(matches!(served, Served::Changed(_)), "{served:?}");
    let head = chain.head().await.unwrap();
    assert_eq!(serve(at).await.unwrap(), Served::Unchanged);
    let announced = chain.axon_of(NETUID, &hotkey.hotkey()).await.unwrap().expect("an axon");
    assert!(announced.block <= head.number, "it was announced again");
    let metrics = chain.serve_prometheus_if_changed(NETUID, at, &hotkey).await.unwrap();
    assert!(matches!(metrics, Served::Changed(_)), "{metrics:?}");
    world.end().await;
}

/// A daemon that signs for the wrong chain after a change of its endpoint must be stopped, not believed.
#[tokio::test]
async fn an_extrinsic_of_another_chain_is_refused() {
    let (first, second) = (World::local(Profile::Flat).await, World::local(Profile::Flat).await);
    let call = Call::transfer_keep_alive(&fresh().account(), Rao(COIN));
    let prepared = first.chain.prepare(&call, &first.rich).await.unwrap();
    let error = second.chain.fate(&prepared).await.unwrap_err();
    assert!(matches!(error, ReadError::OtherChain { .. }), "{error:?}");
    let error = second.chain.carry_out(&prepared, Depth::Included).await.unwrap_err();
    assert!(matches!(error, SubmitError::Read(ReadError::OtherChain { .. })), "{error:?}");
    first.end().await;
    second.end().await;
}

/// Clones share one connection; a second client is another one, and both see the same chain.
#[tokio::test]
async fn two_clients_see_one_chain() {
    let mut world = World::local(Profile::Modern).await;
    let url = world.local_mut().url();
    let second =
        Chain::connect_with(&url, LIMITS, world.clock.clone(), &world.tasks).await.unwrap();
    assert_eq!(second.genesis_hash(), world.chain.clone().genesis_hash());
    let (coldkey, hotkey) = (world.coldkey(10).await, fresh());
    world.chain.burned_register(NETUID, &hotkey.hotkey(), &coldkey).await.unwrap();
    second.serve_axon(NETUID, endpoint("::2", 1), &hotkey).await.unwrap();
    let graph = world.chain.metagraph(NETUID).await.unwrap();
    assert_eq!(graph.neuron(&hotkey.hotkey()).unwrap().axon, Some(endpoint("::2", 1)));
    world.end().await;
}
