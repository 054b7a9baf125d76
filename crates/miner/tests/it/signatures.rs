//! Requests that are not what they say: refused before anything is looked at, and nothing changed.

use std::time::Duration;

use nicompute_daemon::ManualClock;
use nicompute_miner::FLOOR_AHEAD_MAX;
use nicompute_wire::btauth::{self, sign_request};
use nicompute_wire::codes::Code;
use serde_json::Value;

use crate::http::{Answer, exchange, request};
use crate::refusals::every_path_of_a_lease;
use crate::world::{Node, START_MS, World, ask, believe, key, path, signed};

type Lines = Vec<(String, String)>;

fn ask_bytes(byte: u8) -> Vec<u8> {
    ask(byte).to_string().into_bytes()
}

async fn send(node: &Node<'_>, method: &str, target: &str, headers: &Lines, body: &[u8]) -> Answer {
    exchange(node.at(), &request(method, target, headers, body)).await
}

fn without(headers: &Lines, name: &str) -> Lines {
    headers.iter().filter(|(known, _)| known != name).cloned().collect()
}

fn with(headers: &Lines, name: &str, value: &str) -> Lines {
    let mut changed = without(headers, name);
    changed.push((name.to_owned(), value.to_owned()));
    changed
}

/// Whoever is between a validator and a node must be able to change, delay or repeat nothing.
#[tokio::test]
async fn a_request_that_is_not_authentic_is_refused() {
    let world = World::new();
    let node = world.start().await;
    let caller = key("//Validator");
    let body = ask_bytes(1);
    let now = world.nonce();
    let good = |nonce| signed(&caller, "POST", "/v1/leases", &body, nonce);
    let headers = good(now);
    let other_receiver: Lines = {
        let signed = btauth::Request { method: "POST", target: "/v1/leases", body: &body };
        let headers = sign_request(&caller, &signed, Some(&key("//Other").hotkey()), world.nonce());
        headers.0.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    let second = 1_000_000_000;
    let cases = [
        (Vec::new(), Code::NotSigned),
        (without(&headers, "X-Bittensor-Signature"), Code::NotSigned),
        (without(&headers, "X-Bittensor-Receiver"), Code::NotSigned),
        (with(&headers, "X-Bittensor-Hotkey", "5nonsense"), Code::NotSigned),
        (with(&headers, "X-Bittensor-Version", "2"), Code::NotSigned),
        (other_receiver, Code::WrongReceiver),
        (good(now - 11 * second), Code::NotFresh),
        (good(now + 3 * second), Code::NotFresh),
        (
            with(&headers, "X-Bittensor-Hotkey", &key("//Other").hotkey().to_string()),
            Code::BadSignature,
        ),
        (with(&headers, "X-Bittensor-Nonce", &(now + 1).to_string()), Code::BadSignature),
        (with(&headers, "X-Bittensor-Crypto", "ed25519"), Code::BadSignature),
    ];
    for (headers, code) in cases {
        let answer = send(&node, "POST", "/v1/leases", &headers, &body).await;
        assert_eq!((answer.status, answer.code()), (401, Some(code)), "{headers:?}");
    }
    // The same signature on another body, target or method.
    let mut changed = body.clone();
    *changed.last_mut().unwrap() = b' ';
    let moved = [
        ("POST", "/v1/leases", changed.as_slice()),
        ("POST", "/v1/leases?", &body),
        ("POST", "/v1/node", &body),
        ("PUT", "/v1/leases", &body),
    ];
    for (method, target, body) in moved {
        let answer = send(&node, method, target, &headers, body).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, Some(Code::BadSignature)),
            "{method} {target}"
        );
    }
    assert!(node.is_available().await);
    assert_eq!(node.get("//Validator", &path(1)).await.status, 404);
    // The signature that all this was tried with has not been used up.
    assert_eq!(send(&node, "POST", "/v1/leases", &headers, &body).await.status, 201);
    node.until(1, "running").await;
}

/// A recorded request must be worth nothing, now and after the node was started again.
#[tokio::test]
async fn a_replayed_request_is_refused_also_after_a_restart() {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    let caller = key("//Validator");
    let target = format!("{}/pause", path(1));
    // A clock that is ahead of the node's, within what is allowed.
    let nonce = world.nonce() + 1_900_000_000;
    let pause = signed(&caller, "POST", &target, b"", nonce);
    let first = send(&node, "POST", &target, &pause, b"").await;
    assert_eq!(first.status, 200);
    believe(&first, nonce, &caller);
    let resume = format!("{}/resume", path(1));
    assert_eq!(node.post("//Validator", &resume, &Value::Null).await.status, 200);
    let again = send(&node, "POST", &target, &pause, b"").await;
    assert_eq!((again.status, again.code()), (401, Some(Code::Replayed)));
    node.kill().await;
    world.clock.advance(Duration::from_millis(100));
    let node = world.start().await;
    let again = send(&node, "POST", &target, &pause, b"").await;
    assert_eq!((again.status, again.code()), (401, Some(Code::NotFresh)));
    // The floor is in the future of our own clock; it passes.
    world.clock.advance(Duration::from_secs(2));
    let again = send(&node, "POST", &target, &pause, b"").await;
    assert_eq!(again.status, 401);
    let after = node.until(1, "running").await;
    assert_eq!(after.generation, before.generation + 2, "one pause and one resume");
}

/// A node whose clock comes back earlier must not do again what it did before, nor stay shut once the clock has caught up.
#[tokio::test]
async fn a_clock_set_back_over_a_restart_opens_no_replay() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    world.clock.advance(Duration::from_secs(5));
    let (caller, target) = (key("//Validator"), format!("{}/pause", path(1)));
    // Behind the node's clock, as most requests are.
    let pause = signed(&caller, "POST", &target, b"", world.nonce() - 1_000_000);
    assert_eq!(send(&node, "POST", &target, &pause, b"").await.status, 200);
    node.kill().await;
    let world = World { clock: ManualClock::at_unix_ms(START_MS), ..world };
    let node = world.start().await;
    world.clock.advance(Duration::from_secs(4));
    // The recorded request is one second ahead now, which is within what is allowed.
    let again = send(&node, "POST", &target, &pause, b"").await;
    assert_eq!((again.status, again.code()), (401, Some(Code::NotFresh)));
    let too_early = node.get("//Validator", &path(1)).await;
    assert_eq!((too_early.status, too_early.code()), (401, Some(Code::NotFresh)));
    world.clock.advance(Duration::from_secs(1));
    let resume = format!("{}/resume", path(1));
    assert_eq!(node.post("//Validator", &resume, &Value::Null).await.status, 200);
    let again = send(&node, "POST", &target, &pause, b"").await;
    assert_eq!((again.status, again.code()), (401, Some(Code::NotFresh)));
    node.until(1, "running").await;
    node.kill().await;
    // A clock that was a day ahead must not shut the node for a day.
    let clock = ManualClock::at_unix_ms(START_MS - 86_400_000);
    let world = World { clock, ..world };
    let node = world.start().await;
    world.clock.advance(FLOOR_AHEAD_MAX - Duration::from_secs(1));
    assert_eq!(node.get("//Validator", &path(1)).await.code(), Some(Code::NotFresh));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(node.get("//Validator", &path(1)).await.status, 200);
}

/// A path that forgot the guard would be open to everybody.
#[tokio::test]
async fn no_path_is_open_without_a_signature() {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    let mut paths = vec![
        ("GET", "/v1/node".to_owned(), Value::Null),
        ("GET", "/v1/offers".to_owned(), Value::Null),
        ("POST", "/v1/leases".to_owned(), ask(2)),
        ("GET", "/anything".to_owned(), Value::Null),
    ];
    let below = every_path_of_a_lease();
    paths.extend(
        below.into_iter().map(|(m, suffix, body)| (m, format!("{}{suffix}", path(1)), body)),
    );
    for (method, target, body) in paths {
        let answer = send(&node, method, &target, &Vec::new(), body.to_string().as_bytes()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, Some(Code::NotSigned)),
            "{method} {target}"
        );
    }
    assert_eq!(node.until(1, "running").await, before);
}

/// A refusal must be believable as well: otherwise whoever is in between can keep a validator from its lease.
#[tokio::test]
async fn refusals_are_signed_too() {
    let world = World::new();
    let node = world.start().await;
    let caller = key("//Validator");
    let nonce = world.nonce();
    let headers = signed(&caller, "GET", "/v1/offers", b"", nonce);
    let moved = send(&node, "GET", "/v1/node", &headers, b"").await;
    assert_eq!(moved.code(), Some(Code::BadSignature));
    believe(&moved, nonce, &caller);
    assert_eq!(moved.header("content-type"), Some("application/problem+json"));
}
