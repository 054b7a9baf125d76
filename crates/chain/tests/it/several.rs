//! Several nodes of one chain, of which some fail.

use std::pin::pin;
use std::time::Duration;

use futures_util::poll;
use nicompute_chain::{Chain, Condition, ConnectError, Limits, NodeUrl, ReadError};
use nicompute_daemon::{ManualClock, SystemClock, Tasks};
use nicompute_devnet::Profile;
use serde_json::json;
use tokio::net::TcpListener;

use crate::fakes::{Fault, Liar, Wire};
use crate::world::{LIMITS, Local, NETUID, PATIENCE};

fn urls(texts: &[String]) -> Vec<NodeUrl> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn connect(texts: &[String], tasks: &Tasks) -> Result<Chain, ConnectError> {
    Chain::connect_any(&urls(texts), LIMITS, SystemClock::shared(), tasks).await
}

async fn wait_for(chain: &Chain, at: usize) {
    let clock = SystemClock::shared();
    let waiting = async {
        while !chain.endpoints()[at].in_use {
            chain.head().await.unwrap();
            clock.sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = waiting => {}
        () = clock.sleep(PATIENCE) => panic!("{:?}", chain.endpoints()),
    }
}

/// A validator whose own node is restarted must go on with the public one, and come back.
#[tokio::test]
async fn the_next_node_takes_over_and_the_preferred_one_comes_back() {
    let mut local = Local::start(Profile::Flat).await;
    let wire = Wire::before(local.address).await;
    let tasks = Tasks::new();
    let chain = connect(&[wire.url(), local.url()], &tasks).await.unwrap();
    assert!(chain.endpoints()[0].in_use);
    for fault in [Fault::Cut, Fault::Silence] {
        wire.fails(fault);
        wait_for(&chain, 1).await;
        assert_eq!(chain.endpoint().as_str(), local.url());
        assert_eq!(chain.endpoints()[0].condition, Condition::Away);
        let mut heads = chain.subscribe_heads();
        let seen = *heads.borrow_and_update();
        let moved = heads.wait_for(|head| head.number > seen.number);
        assert!(tokio::time::timeout(PATIENCE, moved).await.is_ok(), "the head stands still");
        wire.fails(Fault::None);
        wait_for(&chain, 0).await;
        chain.metagraph(NETUID).await.unwrap();
    }
    assert!(tasks.shutdown(PATIENCE).await);
    local.stop().await;
}

/// A node of another chain must not be mixed with ours: nonces, uids and blocks mean something else there.
#[tokio::test]
async fn a_node_of_another_chain_is_left_out() {
    let (mut local, mut other) =
        (Local::start(Profile::Flat).await, Local::start(Profile::Flat).await);
    let wire = Wire::before(local.address).await;
    let tasks = Tasks::new();
    let chain = connect(&[wire.url(), other.url(), local.url()], &tasks).await.unwrap();
    let genesis = chain.genesis_hash();
    wire.fails(Fault::Cut);
    wait_for(&chain, 2).await;
    assert_eq!(chain.endpoints()[1].condition, Condition::OtherChain);
    assert_eq!(chain.block_hash(nicompute_market::BlockNumber(0)).await.unwrap(), Some(genesis));
    assert!(tasks.shutdown(PATIENCE).await);
    local.stop().await;
    other.stop().await;
}

/// A node that says it is the main network and is not must be refused, whatever else it says.
#[tokio::test]
async fn none_or_too_many_endpoints_are_refused() {
    let tasks = Tasks::new();
    for count in [0, 9] {
        let error = connect(&vec!["local".to_owned(); count], &tasks).await.unwrap_err();
        assert!(matches!(error, ConnectError::Count(found) if found == count), "{error:?}");
    }
}

/// A node that is catching up shows the world of yesterday; it is good enough only where there is no other.
#[tokio::test]
async fn a_node_that_is_catching_up_is_used_last() {
    let mut local = Local::start(Profile::Flat).await;
    let late = Liar::before(&local.url()).await;
    let health = json!({"peers": 3, "isSyncing": true, "shouldHavePeers": true});
    late.answers(move |method, _| (method == "system_health").then(|| Ok(health.clone())));
    let tasks = Tasks::new();
    let chain = connect(&[late.url(), local.url()], &tasks).await.unwrap();
    assert!(chain.endpoints()[1].in_use, "{:?}", chain.endpoints());
    let alone = connect(&[late.url(), "ws://127.0.0.1:1".to_owned()], &tasks).await.unwrap();
    assert!(alone.endpoints()[0].in_use);
    late.answers(|_, _| None);
    wait_for(&chain, 0).await;
    assert!(tasks.shutdown(PATIENCE).await);
    late.stop().await;
    local.stop().await;
}

/// Where every node is of another chain, waiting helps nobody.
#[tokio::test]
async fn a_chain_that_is_not_what_its_name_says() {
    let mut local = Local::start(Profile::Flat).await;
    let mut other = Local::start(Profile::Flat).await;
    let liar = Liar::before(&local.url()).await;
    let tasks = Tasks::new();
    let chain = Chain::connect_with(&liar.url(), LIMITS, SystemClock::shared(), &tasks).await;
    let chain = chain.unwrap();
    let address = liar.address;
    liar.stop().await;
    let liar = Liar::at(&other.url(), address).await;
    let error = chain.head().await.unwrap_err();
    assert!(matches!(error, ReadError::OtherChain { .. }), "{error:?}");
    assert!(tasks.shutdown(PATIENCE).await);
    liar.stop().await;
    local.stop().await;
    other.stop().await;
}

/// Many who wait for a silent node must give up that one alone, not the healthy ones that are used after it, one by one.
#[tokio::test]
async fn a_silent_node_takes_no_other_down() {
    let mut local = Local::start(Profile::Flat).await;
    let (wire, second) = (Wire::before(local.address).await, Liar::before(&local.url()).await);
    let (clock, tasks) = (ManualClock::at_unix_ms(0), Tasks::new());
    let limits =
        Limits { read: Duration::from_secs(30), come_home: Duration::from_secs(100_000), ..LIMITS };
    let texts = urls(&[wire.url(), second.url(), local.url()]);
    let chain = Chain::connect_any(&texts, limits, clock.clone(), &tasks).await.unwrap();
    assert!(chain.endpoints()[0].in_use);
    wire.fails(Fault::Silence);
    let (mut early, mut late) = (pin!(chain.head()), pin!(chain.head()));
    assert!(poll!(&mut early).is_pending());
    clock.advance(Duration::from_secs(3));
    assert!(poll!(&mut late).is_pending());
    // The share of the first is over, and it goes on with the second node.
    clock.advance(Duration::from_millis(7_100));
    assert!(poll!(&mut early).is_pending());
    clock.advance(Duration::from_millis(200));
    tokio::time::timeout(PATIENCE, early).await.unwrap().unwrap();
    assert!(chain.endpoints()[1].in_use, "{:?}", chain.endpoints());
    // Now that of the other is, who had waited for the silent one as well.
    clock.advance(Duration::from_millis(2_900));
    assert!(poll!(&mut late).is_pending());
    clock.advance(Duration::from_millis(200));
    tokio::time::timeout(PATIENCE, late).await.unwrap().unwrap();
    assert!(chain.endpoints()[1].in_use, "{:?}", chain.endpoints());
    assert_eq!(chain.endpoints()[1].condition, Condition::Ready);
    assert_eq!(chain.endpoints()[2].condition, Condition::Untried);
    assert!(tasks.shutdown(PATIENCE).await);
    second.stop().await;
    local.stop().await;
}

/// Seven nodes that take connections and never speak must not use up the time of the eighth, which is well.
#[tokio::test]
async fn the_last_of_eight_is_reached() {
    let mut local = Local::start(Profile::Flat).await;
    let mut holes = Vec::new();
    let mut texts = Vec::new();
    for _ in 0..7 {
        let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
        texts.push(format!("ws://{}", hole.local_addr().unwrap()));
        holes.push(hole);
    }
    texts.push(local.url());
    let (clock, tasks) = (ManualClock::at_unix_ms(0), Tasks::new());
    let texts = urls(&texts);
    let connecting = Chain::connect_any(&texts, LIMITS, clock.clone(), &tasks);
    let time_passes = async {
        let mut silent = Vec::new();
        for hole in &holes {
            silent.push(hole.accept().await.unwrap());
            clock.advance(LIMITS.connect / 16);
        }
        silent
    };
    let both = async { tokio::join!(connecting, time_passes) };
    let (chain, _silent) = tokio::time::timeout(PATIENCE, both).await.expect("it gets there");
    assert!(chain.unwrap().endpoints()[7].in_use);
    assert!(tasks.shutdown(PATIENCE).await);
    local.stop().await;
}
