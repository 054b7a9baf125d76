//! The limits of the v1.9.0 door, each at its edge, and what one caller can do to the others.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nicompute_daemon::ManualClock;
use nicompute_miner::{AccessList, ApiLimits, MIN_STAKE, MinerConfig};
use nicompute_wire::axon::{Allocate, Ping};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::axon::{Asking, check, open, refused, served, with};
use crate::http::{PATIENCE, exchange, request};
use crate::world::{Node, START_MS, World, key};

const REPLAYED: &str = "Not Verified with error: Nonce is too old, a newer one was last processed";

async fn limited(world: &World, limits: ApiLimits) -> Node<'_> {
    let config = MinerConfig { axon: Some(AccessList::new(MIN_STAKE)), ..world.config() };
    world.start_with(config, limits).await.unwrap()
}

/// Sends everything but the body, and keeps the connection.
async fn without_body(node: &Node<'_>, asking: &Asking<'_>) -> TcpStream {
    let whole = request("POST", &format!("/{}", asking.path), &asking.lines(), &asking.body);
    let mut socket = TcpStream::connect(node.at()).await.unwrap();
    socket.write_all(&whole[..whole.len() - asking.body.len()]).await.unwrap();
    socket
}

/// Asks until the answer has this status, which it has as soon as what was sent before has arrived.
async fn until_status<'a>(node: &Node<'_>, status: u16, ask: impl Fn() -> Asking<'a>) -> String {
    let waited = async {
        loop {
            let answer = ask().send(node).await;
            if answer.status == status {
                return nicompute_wire::axon::message_of(&answer.body).unwrap_or_default();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("the status comes in time")
}

/// A signature covers no path: whoever saw a ping could send its headers again with an order of his own.
#[tokio::test]
async fn a_ping_cannot_be_replayed_as_an_order() {
    let world = World::new();
    let mut list = AccessList::new(MIN_STAKE);
    list.trust(key("//Friend").account());
    let node = with(&world, list).await;
    let as_order = |ping: &Asking<'_>| request("POST", "/Allocate", &ping.lines(), b"{}");
    let as_ping = |order: &Asking<'_>| request("POST", "/Synapse", &order.lines(), b"{}");
    for by in ["//Friend", "//Validator"] {
        let ping = Asking::new(&world, by, Ping {});
        served::<Ping>(&ping.send(&node).await);
        let again = exchange(node.at(), &as_order(&ping)).await;
        assert_eq!(refused(&again), (401, REPLAYED.to_owned()), "{by}");
        let order = Asking::new(&world, by, check(&json!({})));
        served::<Allocate>(&order.send(&node).await);
        let again = exchange(node.at(), &as_ping(&order)).await;
        assert_eq!(refused(&again), (401, REPLAYED.to_owned()), "{by}");
    }
}

/// Who is a stranger while the chain is gone is a validator when it is back; what was seen of it stays seen.
#[tokio::test]
async fn a_ping_of_before_the_chain_came_back_is_remembered() {
    let world = World::new();
    world.subnet.goes();
    let node = open(&world).await;
    let ping = Asking::new(&world, "//Validator", Ping {});
    served::<Ping>(&ping.send(&node).await);
    world.subnet.comes_back();
    world.clock.advance(Duration::from_secs(3));
    let again = request("POST", "/Allocate", &ping.lines(), b"{}");
    assert_eq!(refused(&exchange(node.at(), &again).await), (401, REPLAYED.to_owned()));
    served::<Allocate>(&Asking::new(&world, "//Validator", check(&json!({}))).send(&node).await);
}

/// Keys are free: strangers who let us wait for their bodies must not keep a validator out.
#[tokio::test]
async fn strangers_bodies_keep_no_validator_out() {
    let world = World::new();
    let limits =
        ApiLimits { axon_arrivals: 1, axon_strangers_arrivals: 2, ..ApiLimits::standard() };
    let node = limited(&world, limits).await;
    // Registered, and yet nobody whom the door lets in.
    let first = without_body(&node, &Asking::new(&world, "//Plain", Ping {})).await;
    let second = without_body(&node, &Asking::new(&world, "//Nobody", Ping {})).await;
    let words = until_status(&node, 503, || Asking {
        uuid: "late",
        ..Asking::new(&world, "//Late", Ping {})
    })
    .await;
    assert_eq!(words, "Service unavailable: as many requests arrive as are taken.");
    served::<Allocate>(&Asking::new(&world, "//Validator", check(&json!({}))).send(&node).await);
    served::<Ping>(&Asking::new(&world, "//Validator", Ping {}).send(&node).await);
    drop((first, second));
}

/// Names are free too: a stranger that draws many must not fill the memory, nor be refused one too early.
#[tokio::test]
async fn a_stranger_has_sixteen_names() {
    let world = World::new();
    let node = open(&world).await;
    let names: Vec<String> = (0..17).map(|index| format!("name-{index}")).collect();
    let ask = |by: &'static str, uuid| Asking { uuid, ..Asking::new(&world, by, Ping {}) };
    for uuid in &names[..16] {
        served::<Ping>(&ask("//Nobody", uuid).send(&node).await);
        served::<Ping>(&ask("//Plain", uuid).send(&node).await);
        served::<Ping>(&ask("//Validator", uuid).send(&node).await);
    }
    let full =
        (503, "Not Verified with error: Too many dendrites within the last seconds".to_owned());
    assert_eq!(refused(&ask("//Nobody", &names[16]).send(&node).await), full);
    assert_eq!(refused(&ask("//Plain", &names[16]).send(&node).await), full, "without stake");
    served::<Ping>(&ask("//Validator", &names[16]).send(&node).await);
    served::<Ping>(&ask("//Nobody", &names[3]).send(&node).await);
}

/// Headers are read before anybody is known, so they are bounded; and a caller is answered while it still waits.
#[tokio::test]
async fn headers_and_waiting_have_limits() {
    let world = World::new();
    let node = open(&world).await;
    let large = |bytes: usize| {
        let mut lines = Asking::new(&world, "//Validator", Ping {}).lines();
        lines.push(("x-filler".to_owned(), "f".repeat(bytes)));
        request("POST", "/Synapse", &lines, b"{}")
    };
    assert_eq!(exchange(node.at(), &large(8 * 1024)).await.status, 200);
    assert_eq!(refused(&exchange(node.at(), &large(16 * 1024)).await).0, 413);
    node.kill().await;
    world.clock.advance(Duration::from_secs(3));
    let limits = ApiLimits { axon_strangers_arrivals: 1, ..ApiLimits::standard() };
    let node = limited(&world, limits).await;
    // Says that it waits for a second, and its body never comes.
    let waits = Duration::from_secs(1);
    let slow = Asking { timeout: waits, ..Asking::new(&world, "//Nobody", Ping {}) };
    let mut socket = without_body(&node, &slow).await;
    until_status(&node, 503, || Asking::new(&world, "//Late", Ping {})).await;
    world.clock.advance(waits);
    let mut told = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut told)).await;
    read.expect("an answer while the caller waits").unwrap();
    let told = String::from_utf8(told).unwrap();
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert!(told.contains("Response timeout after: 1.0s"), "{told}");
}

/// With no place to work and none to wait, a caller is told so and not kept.
#[tokio::test]
async fn a_full_gate_says_so() {
    let world = World::new();
    let limits = ApiLimits { axon_running: 0, axon_waiting: 0, ..ApiLimits::standard() };
    let node = limited(&world, limits).await;
    let ask = Asking::new(&world, "//Validator", check(&json!({})));
    let words = "Service unavailable: as many requests wait as may wait.".to_owned();
    assert_eq!(refused(&ask.send(&node).await), (503, words));
    served::<Ping>(&Asking::new(&world, "//Validator", Ping {}).send(&node).await);
}

/// Of two who wait, the last place is the one's with more stake and the more important question.
#[tokio::test]
async fn the_one_of_more_priority_waits() {
    let world = World::new();
    let limits = ApiLimits { axon_running: 0, axon_waiting: 1, ..ApiLimits::standard() };
    let node = limited(&world, limits).await;
    let specs = nicompute_wire::axon::Specs::default();
    let low = Asking { uuid: "low", ..Asking::new(&world, "//Validator", specs) };
    let high = || Asking { uuid: "high", ..Asking::new(&world, "//Validator", check(&json!({}))) };
    let told = async {
        // Whichever of the two comes first, the question of less priority is the one that is refused.
        tokio::select! {
            told = low.send(&node) => told,
            never = async { high().send(&node).await } => panic!("{never:?}"),
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("one is refused");
    assert_eq!(refused(&told).0, 503);
}

/// A clock that was far ahead must not shut the door at every start, nor for longer than is said.
#[tokio::test]
async fn a_clock_that_was_far_ahead_costs_ten_minutes_once() {
    let ahead = World { clock: ManualClock::at_unix_ms(START_MS + 7_200_000), ..World::new() };
    let node = open(&ahead).await;
    served::<Ping>(&Asking::new(&ahead, "//Nobody", Ping {}).send(&node).await);
    node.kill().await;
    let world = World { clock: ManualClock::at_unix_ms(START_MS), ..ahead };
    for _ in 0..2 {
        let node = open(&world).await;
        let (status, words) = refused(&Asking::new(&world, "//Nobody", Ping {}).send(&node).await);
        assert!(status == 401 && words.contains("restart"), "{words}");
        node.kill().await;
        world.clock.advance(Duration::from_secs(300));
    }
    world.clock.advance(Duration::from_secs(1));
    let node = open(&world).await;
    served::<Ping>(&Asking::new(&world, "//Nobody", Ping {}).send(&node).await);
}

/// What is logged where the operator changes nothing.
struct Log(Arc<Mutex<Vec<String>>>);

/// The fields of one line.
struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A caller that is told an id, and an operator who cannot find it, are both left alone.
#[tokio::test]
async fn the_id_of_a_500_is_in_the_log_with_its_cause() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let _logged_here = tracing::subscriber::set_default(Log(Arc::clone(&lines)));
    let world = World::new();
    let node = open(&world).await;
    let body = br#"{"timeline": []}"#.to_vec();
    let ask = Asking { body, ..Asking::new(&world, "//Validator", Allocate::default()) };
    let (status, words) = refused(&ask.send(&node).await);
    let id = words.strip_prefix("Internal Server Error #").unwrap();
    assert_eq!(status, 500);
    let lines = lines.lock().unwrap().clone();
    let line = lines.iter().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{lines:?}"));
    assert!(line.contains("invalid type: sequence, expected i64"), "{line}");
}
