//! What is said to the chain is carried out once: many at a time, through forks, restarts and upgrades.

use futures_util::future::join_all;
use nicompute_chain::{Call, Chain, Depth, Fate, Head, Prepared, SubmitError};
use nicompute_devnet::{Change, Chaos, Profile};
use nicompute_market::{AccountId, Rao};

use crate::world::{COIN, LIMITS, Local, NETUID, PATIENCE, World, alice, fresh};

const LAG: u32 = 4;

async fn balance(chain: &Chain, account: &AccountId) -> Rao {
    chain.balance(account).await.unwrap()
}

async fn wait_until_final(world: &World, block: Head) {
    let mut heads = world.chain.subscribe_heads();
    let reached = async {
        while world.chain.finalized().await.unwrap().number < block.number {
            heads.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = reached => {}
        () = world.clock.sleep(PATIENCE) => panic!("{block:?} does not become final"),
    }
}

/// A lost race for a nonce must lose nothing: a payment that is not made, or made twice, is somebody's money.
#[tokio::test]
async fn many_at_once_get_in_once_each() {
    let world = World::local(Profile::Flat).await;
    let receivers: Vec<_> = (0..12).map(|_| fresh().account()).collect();
    // One is signed and never sent: its nonce must not be waited for.
    let call = Call::transfer_keep_alive(&fresh().account(), Rao(COIN));
    drop(world.chain.prepare(&call, &world.rich).await.unwrap());
    let sends = receivers.iter().map(|receiver| {
        let (chain, rich) = (world.chain.clone(), &world.rich);
        async move { chain.transfer(receiver, Rao(COIN), rich).await }
    });
    for outcome in join_all(sends).await {
        outcome.unwrap();
    }
    for receiver in &receivers {
        assert_eq!(balance(&world.chain, receiver).await, Rao(COIN));
    }
    world.end().await;
}

/// Two that are prepared side by side must both get in, in whichever order their owners send them.
#[tokio::test]
async fn prepared_ones_have_nonces_of_their_own() {
    let world = World::local(Profile::Flat).await;
    let (first, second) = (fresh().account(), fresh().account());
    let (chain, rich) = (&world.chain, &world.rich);
    let prepare = |to: AccountId| {
        let call = Call::transfer_keep_alive(&to, Rao(COIN));
        async move { chain.prepare(&call, rich).await.unwrap() }
    };
    let (one, two) = (prepare(first).await, prepare(second).await);
    assert_eq!(two.nonce(), one.nonce() + 1);
    let (two, one) = tokio::join!(
        world.chain.carry_out(&two, Depth::Included),
        world.chain.carry_out(&one, Depth::Included)
    );
    assert!(one.unwrap().block.number <= two.unwrap().block.number);
    assert_eq!(balance(&world.chain, &first).await, Rao(COIN));
    assert_eq!(balance(&world.chain, &second).await, Rao(COIN));
    world.end().await;
}

/// Weights that a fork took away and nobody sent again would be missing for an epoch; sent anew, they would be twice there.
#[tokio::test]
async fn a_fork_takes_nothing_away() {
    let world = World::around(Local::lagging(Profile::Flat, LAG).await).await;
    let chain = &world.chain;
    let local = world.local.as_ref().unwrap();
    let mut heads = chain.subscribe_heads();
    // A fork needs blocks to undo.
    drop(heads.wait_for(|head| head.number.0 > 3).await.unwrap());
    for drop in [true, false] {
        let receiver = fresh().account();
        let call = Call::transfer_keep_alive(&receiver, Rao(COIN));
        let prepared = chain.prepare(&call, &world.rich).await.unwrap();
        let fork = async {
            let mut heads = chain.subscribe_heads();
            // As soon as it is in a block, that block and the one before it are undone.
            while !matches!(chain.fate(&prepared).await.unwrap(), Fate::Included(_)) {
                heads.changed().await.unwrap();
            }
            local.chaos(Chaos::Fork { depth: 2, drop }).await;
        };
        let (included, ()) = tokio::join!(chain.carry_out(&prepared, Depth::Finalized), fork);
        let included = included.unwrap();
        assert!(included.block.number <= chain.finalized().await.unwrap().number);
        assert_eq!(
            chain.block_hash(included.block.number).await.unwrap(),
            Some(included.block.hash)
        );
        assert_eq!(chain.fate(&prepared).await.unwrap(), Fate::Finalized(included));
        assert_eq!(balance(chain, &receiver).await, Rao(COIN));
    }
    world.end().await;
}

/// A daemon that was killed between sending and hearing must find out, not do it again.
#[tokio::test]
async fn a_stored_extrinsic_is_found_by_the_next_process() {
    let world = World::around(Local::lagging(Profile::Flat, LAG).await).await;
    let url = world.local.as_ref().unwrap().url();
    let receiver = fresh().account();
    let call = Call::transfer_keep_alive(&receiver, Rao(COIN));
    let prepared = world.chain.prepare(&call, &world.rich).await.unwrap();
    assert_eq!(world.chain.fate(&prepared).await.unwrap(), Fate::Pending);
    let stored = prepared.encode();
    drop(prepared);
    let connect = || Chain::connect_with(&url, LIMITS, world.clock.clone(), &world.tasks);

    // It was stored and never sent.
    let second = connect().await.unwrap();
    let read = Prepared::decode(&stored).unwrap();
    assert_eq!(second.fate(&read).await.unwrap(), Fate::Pending);
    let included = second.carry_out(&read, Depth::Finalized).await.unwrap();
    // It was sent, and nobody heard of it.
    let third = connect().await.unwrap();
    assert_eq!(third.fate(&read).await.unwrap(), Fate::Finalized(included));
    assert_eq!(third.carry_out(&read, Depth::Finalized).await.unwrap(), included);
    assert_eq!(balance(&third, &receiver).await, Rao(COIN));

    // Undone by the chain, which stays true after a restart.
    let poor = world.coldkey(1).await;
    let call = Call::burned_register(NETUID, &world.local.as_ref().unwrap().validator.hotkey());
    let undone = third.prepare(&call, &poor).await.unwrap();
    let error = third.carry_out(&undone, Depth::Finalized).await.unwrap_err();
    let SubmitError::Dispatch(expected) = error else { panic!("{error:?}") };
    let read = Prepared::decode(&undone.encode()).unwrap();
    let Fate::Undone { error, .. } = third.fate(&read).await.unwrap() else { panic!("not undone") };
    assert_eq!(error, expected);
    world.end().await;
}

/// Only an extrinsic that can never be carried out may be replaced; one whose nonce was used is such a one.
#[tokio::test]
async fn what_lost_its_nonce_has_expired_when_that_is_final() {
    let world = World::around(Local::lagging(Profile::Flat, LAG).await).await;
    let chain = &world.chain;
    let (first, second) = (fresh().account(), fresh().account());
    let call = Call::transfer_keep_alive(&first, Rao(COIN));
    let stored = chain.prepare(&call, &world.rich).await.unwrap().encode();
    let loser = Prepared::decode(&stored).unwrap();
    let included = chain.transfer(&second, Rao(COIN), &world.rich).await.unwrap();
    let error = chain.carry_out(&loser, Depth::Included).await.unwrap_err();
    assert!(matches!(error, SubmitError::Expired { .. }), "{error:?}");
    wait_until_final(&world, included.block).await;
    assert_eq!(chain.fate(&loser).await.unwrap(), Fate::Expired);
    assert_eq!(balance(chain, &first).await, Rao(0));
    world.end().await;
}

/// A daemon that needs a restart for every upgrade of the chain misses an epoch with each.
#[tokio::test]
async fn the_runtime_changes_in_mid_run() {
    let world = World::local(Profile::Flat).await;
    let chain = &world.chain;
    let before = chain.now().await.unwrap();
    let call = Call::transfer_keep_alive(&fresh().account(), Rao(COIN));
    let old = chain.prepare(&call, &world.rich).await.unwrap().encode();
    let old = Prepared::decode(&old).unwrap();
    let bytes = chain.call_bytes(&call).await.unwrap();
    for change in [Change::Version, Change::Calls, Change::Profile, Change::All] {
        world.local.as_ref().unwrap().chaos(Chaos::Upgrade { change }).await;
        let receiver = fresh();
        chain.transfer(&receiver.account(), Rao(10 * COIN), &world.rich).await.unwrap();
        let hotkey = fresh().hotkey();
        chain.burned_register(NETUID, &hotkey, &receiver).await.unwrap();
        let graph = chain.metagraph(NETUID).await.unwrap();
        assert!(graph.neuron(&hotkey).is_some());
        chain.hyperparameters(NETUID).await.unwrap();
    }
    let after = chain.now().await.unwrap();
    assert!(after.spec_version() > before.spec_version());
    assert_eq!(chain.call_bytes(&call).await.unwrap(), bytes, "the balances' calls did not move");
    // What was signed for the old runtime can never be carried out, which is for sure at once.
    assert_eq!(chain.fate(&old).await.unwrap(), Fate::Expired);
    let error = chain.carry_out(&old, Depth::Included).await.unwrap_err();
    assert!(matches!(error, SubmitError::Expired { .. }), "{error:?}");
    world.end().await;
}

/// A state that the node has forgotten must be told from one that never was; a fee must be known before it is paid.
#[tokio::test]
async fn old_blocks_and_fees() {
    let world = World::local(Profile::Flat).await;
    let chain = &world.chain;
    let receiver = fresh().account();
    let before = chain.head().await.unwrap();
    let call = Call::transfer_keep_alive(&receiver, Rao(COIN)).within_blocks(16);
    let fee = chain.estimate_fee(&call, &world.rich).await.unwrap();
    let rich = balance(chain, &world.rich.account()).await;
    let included = chain.submit(&call, &alice(), Depth::Finalized).await.unwrap();
    let paid = rich.0 - balance(chain, &world.rich.account()).await.0;
    assert_eq!(paid, COIN + fee.0);
    let then = chain.at_block(before.number).await.unwrap();
    assert_eq!(then.balance(&receiver).await.unwrap(), Rao(0));
    let now = chain.at_block(included.block.number).await.unwrap();
    assert_eq!(now.balance(&receiver).await.unwrap(), Rao(COIN));
    assert_eq!(now.head(), included.block);
    let far = nicompute_market::BlockNumber(u64::from(u32::MAX));
    assert!(chain.at_block(far).await.is_err());
    world.end().await;
}
