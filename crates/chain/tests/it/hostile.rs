//! Nodes that mean harm: every answer is bounded, every lie has a name, and nothing runs out of memory.

use std::pin::Pin;
use std::time::Duration;

use jsonrpsee::types::ErrorObjectOwned;
use nicompute_chain::{Chain, Limits, PoolRejection, ReadError, SubmitError};
use nicompute_daemon::{Clock, ErrorChain, SharedClock, SystemClock, Tasks};
use nicompute_devnet::Profile;
use nicompute_market::Rao;
use serde_json::{Value, json};

use crate::fakes::{Fault, Liar, Wire};
use crate::world::{COIN, LIMITS, Local, NETUID, PATIENCE, alice, fresh};

const SHORT: Limits = Limits {
    connect: Duration::from_secs(20),
    read: Duration::from_secs(2),
    submit: Duration::from_secs(3),
    come_home: Duration::from_millis(200),
};

/// The frames of a server: text, with a length of eight bytes that says what it likes.
fn frame(opcode: u8, claimed: u64) -> Vec<u8> {
    [&[0x80 | opcode, 127][..], &claimed.to_be_bytes(), &[b'x'; 1_000]].concat()
}

/// A message in one honest frame.
fn message(text: &str) -> Vec<u8> {
    let length = u64::try_from(text.len()).unwrap();
    [&[0x81, 127][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

/// How much memory this process ever held, in kibibytes.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A frame that claims a gigabyte must neither be waited for nor be given room.
#[tokio::test]
async fn frames_are_bounded() {
    let mut local = Local::start(Profile::Flat).await;
    let wire = Wire::before(local.address).await;
    let tasks = Tasks::new();
    let chain =
        Chain::connect_with(&wire.url(), SHORT, SystemClock::shared(), &tasks).await.unwrap();
    let before = peak_kib();
    for bytes in [
        frame(1, 1 << 30),
        frame(2, u64::MAX),
        // Half a message, and garbage where a frame should be.
        frame(1, 100_000),
        vec![0xff; 4_096],
        // A ping of a kilobyte is none.
        frame(9, 1_000),
        // A million levels of nothing, with and without the look of an answer.
        message(&"[".repeat(1_000_000)),
        message(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}"#, "[".repeat(1_000_000))),
    ] {
        chain.head().await.unwrap();
        wire.fails(Fault::Bytes(bytes));
        let error = chain.metagraph(NETUID).await.unwrap_err();
        println!("{}", ErrorChain(&error));
        assert!(matches!(error, ReadError::Gone { .. }), "{error:?}");
        wire.fails(Fault::None);
    }
    chain.head().await.unwrap();
    assert!(peak_kib() - before < 256 * 1024, "{} KiB more", peak_kib() - before);
    assert!(tasks.shutdown(PATIENCE).await);
    local.stop().await;
}

/// Every answer that is not one must be an error with a name; none may panic, hang or fill the memory.
#[tokio::test]
async fn answers_that_are_none() {
    let mut local = Local::start(Profile::Flat).await;
    let liar = Liar::before(&local.url()).await;
    let tasks = Tasks::new();
    let chain =
        Chain::connect_with(&liar.url(), SHORT, SystemClock::shared(), &tasks).await.unwrap();
    let deep = (0..200).fold(json!("0x"), |inner, _| json!([inner]));
    let before = peak_kib();
    let answers: Vec<Value> = vec![
        json!(null),
        json!(""),
        json!("0x"),
        json!("0x01"),
        json!("no hex"),
        json!(7),
        json!([]),
        json!({"block": 1}),
        // A list of 2^30 elements, and one of a number that takes four gigabytes to write.
        json!("0x01a10f02000001"),
        json!("0x0102000040"),
        json!(format!("0x{}", "ff".repeat(100_000))),
        deep,
    ];
    for answer in answers {
        for lied_about in
            ["state_call", "state_getStorage", "state_queryStorageAt", "chain_getHeader"]
        {
            let answer = answer.clone();
            liar.answers(move |method, _| (method == lied_about).then(|| Ok(answer.clone())));
            // What is read may be right by chance, as an empty list is; it may not panic or hang.
            let read = async {
                drop(chain.metagraph(NETUID).await);
                drop(chain.hyperparameters(NETUID).await);
                drop(chain.subnets().await);
                drop(chain.uid_of(NETUID, &fresh().hotkey()).await);
            };
            assert!(tokio::time::timeout(PATIENCE, read).await.is_ok(), "it hangs");
        }
    }
    let truncated = |method: &str, params: &[Value]| {
        let asked = params.first().and_then(Value::as_str).unwrap_or_default();
        (method == "state_call" && asked.ends_with("get_metagraph")).then(|| Ok(json!("0x016c")))
    };
    liar.answers(truncated);
    let error = chain.metagraph(NETUID).await.unwrap_err();
    assert!(matches!(error, ReadError::Shape { .. }), "{error:?}");
    liar.answers(|_, _| None);
    chain.metagraph(NETUID).await.unwrap();
    assert!(peak_kib() - before < 256 * 1024, "{} KiB more", peak_kib() - before);
    assert!(tasks.shutdown(PATIENCE).await);
    liar.stop().await;
    local.stop().await;
}

/// A node that takes an extrinsic and never shows it must end as not known, in time, and a refusal by its name.
#[tokio::test]
async fn a_pool_that_lies() {
    let mut local = Local::start(Profile::Flat).await;
    let liar = Liar::before(&local.url()).await;
    let tasks = Tasks::new();
    let chain =
        Chain::connect_with(&liar.url(), SHORT, SystemClock::shared(), &tasks).await.unwrap();
    let taken = json!(format!("0x{}", "11".repeat(32)));
    liar.answers(move |method, _| (method == "author_submitExtrinsic").then(|| Ok(taken.clone())));
    let error = chain.transfer(&fresh().account(), Rao(COIN), &alice()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Unknown { .. }), "{error:?}");
    for (code, data, expected) in [
        (1010, json!("Custom error: 12"), "the address was announced a moment ago"),
        (1010, json!({"invalid": {"custom": 6}}), "too soon after the last time"),
        (1016, json!(null), "the pool is full"),
        (1010, json!("Inability to pay some fees"), "the signer cannot pay the fee"),
    ] {
        liar.answers(move |method, _| {
            let refusal = ErrorObjectOwned::owned(code, "Invalid Transaction", Some(data.clone()));
            (method == "author_submitExtrinsic").then_some(Err(refusal))
        });
        let error = chain.transfer(&fresh().account(), Rao(COIN), &alice()).await.unwrap_err();
        let SubmitError::Pool(rejection) = &error else { panic!("{error:?}") };
        assert!(rejection.to_string().contains(expected), "{rejection}");
        assert!(error.remedy().is_some(), "{rejection}");
        assert_ne!(*rejection, PoolRejection::AlreadyImported);
    }
    assert!(tasks.shutdown(PATIENCE).await);
    liar.stop().await;
    local.stop().await;
}

/// An error of a proxy after it has passed the extrinsic on is no verdict: taken for one, the payment would be made twice.
#[tokio::test]
async fn something_in_between_that_lies_about_the_pool() {
    let mut local = Local::start(Profile::Flat).await;
    let liar = Liar::before(&local.url()).await;
    let tasks = Tasks::new();
    let chain =
        Chain::connect_with(&liar.url(), LIMITS, SystemClock::shared(), &tasks).await.unwrap();
    let error = |code| Err(ErrorObjectOwned::owned(code, "upstream timed out", None::<()>));
    for answer in [error(-32603), error(-32005), Ok(json!({"hash": "in another form"}))] {
        liar.twists("author_submitExtrinsic", answer);
        let receiver = fresh().account();
        chain.transfer(&receiver, Rao(COIN), &alice()).await.unwrap();
        assert_eq!(chain.balance(&receiver).await.unwrap(), Rao(COIN));
    }
    // What the node does not offer, it has not done.
    liar.twists("author_submitExtrinsic", error(-32601));
    let error = chain.transfer(&fresh().account(), Rao(COIN), &alice()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Pool(PoolRejection::Other { .. })), "{error:?}");
    assert!(tasks.shutdown(PATIENCE).await);
    liar.stop().await;
    local.stop().await;
}

/// A subscription that never speaks must not stop what was sent from being seen.
#[tokio::test]
async fn a_subscription_that_never_speaks() {
    let mut local = Local::start(Profile::Flat).await;
    let liar = Liar::before(&local.url()).await;
    liar.answers(|method, _| (method == "chain_subscribeNewHeads").then_some(Ok(json!(1))));
    let tasks = Tasks::new();
    let limits = Limits { submit: Duration::from_secs(45), ..LIMITS };
    let chain =
        Chain::connect_with(&liar.url(), limits, SystemClock::shared(), &tasks).await.unwrap();
    let receiver = fresh().account();
    chain.transfer(&receiver, Rao(COIN), &alice()).await.unwrap();
    assert_eq!(chain.balance(&receiver).await.unwrap(), Rao(COIN));
    assert!(tasks.shutdown(PATIENCE).await);
    liar.stop().await;
    local.stop().await;
}

/// A clock that is an hour wrong.
#[derive(Debug)]
struct Wrong(SharedClock, i64);

impl Clock for Wrong {
    fn unix_ms(&self) -> u64 {
        self.0.unix_ms().saturating_add_signed(self.1 * 1_000)
    }

    fn unix_ns(&self) -> u64 {
        self.0.unix_ns().saturating_add_signed(self.1 * 1_000_000_000)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, span: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.sleep(span)
    }
}

/// A machine whose clock is wrong must still read, sign and be believed: the chain's time is its blocks.
#[tokio::test]
async fn a_clock_that_is_an_hour_wrong() {
    let mut local = Local::start(Profile::Flat).await;
    for seconds in [-3_600, 3_600] {
        let tasks = Tasks::new();
        let clock: SharedClock = std::sync::Arc::new(Wrong(SystemClock::shared(), seconds));
        let chain = Chain::connect_with(&local.url(), LIMITS, clock, &tasks).await.unwrap();
        chain.metagraph(NETUID).await.unwrap();
        chain.transfer(&fresh().account(), Rao(COIN), &alice()).await.unwrap();
        assert!(tasks.shutdown(PATIENCE).await);
    }
    local.stop().await;
}
