//! Bytes from outside that nobody would send in good faith: no answer of them is a defect of ours, and nothing changes.

use nicompute_wire::codes::Code;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};

use crate::http::{exchange, request};
use crate::world::{KEY, World, ask, key, path, signed};

/// Changes that keep most of the request, so that decoders are reached and not only their first check.
#[derive(Debug, Clone)]
enum Change {
    Set { place: usize, byte: u8 },
    Insert { place: usize, bytes: Vec<u8> },
    Cut { place: usize, len: usize },
    Repeat { place: usize, len: usize, times: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let place = 0_usize..4096;
    prop_oneof![
        (place.clone(), any::<u8>()).prop_map(|(place, byte)| Change::Set { place, byte }),
        (place.clone(), prop::sample::select(SPLINTERS))
            .prop_map(|(place, bytes)| Change::Insert { place, bytes: bytes.to_vec() }),
        (place.clone(), 1_usize..40).prop_map(|(place, len)| Change::Cut { place, len }),
        (place, 1_usize..20, 1_usize..200).prop_map(|(place, len, times)| Change::Repeat {
            place,
            len,
            times
        }),
    ]
}

const SPLINTERS: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\0",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"0.5",
    b"%",
    b"../",
    b"'; --",
    b"{\"a\":[[[[[[[[",
    b"\r\n\r\n",
    b"\n",
    b"\xe2\x80\xae",
    b"\"id\":\"x\",",
];

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let len = bytes.len().max(1);
        match change {
            Change::Set { place, byte } => {
                if let Some(found) = bytes.get_mut(place % len) {
                    *found = *byte;
                }
            }
            Change::Insert { place, bytes: new } => {
                let at = (place % len).min(bytes.len());
                drop(bytes.splice(at..at, new.iter().copied()));
            }
            Change::Cut { place, len: cut } => {
                let at = (place % len).min(bytes.len());
                let end = at.saturating_add(*cut).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            Change::Repeat { place, len: part, times } => {
                let at = (place % len).min(bytes.len());
                let end = at.saturating_add(*part).min(bytes.len());
                let part = bytes[at..end].repeat(*times);
                drop(bytes.splice(at..at, part));
            }
        }
    }
    bytes
}

/// Many requests against one node: each has an answer below 500, and whatever was not accepted changed nothing.
async fn bombard(cases: Vec<Vec<Change>>) {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    let bodies = [
        ("/v1/leases".to_owned(), ask(2)),
        (format!("{}/extend", path(9)), json!({ "duration_seconds": 600 })),
        (format!("{}/keys", path(9)), json!({ "ssh_keys": [KEY] })),
    ];
    for (index, changes) in cases.iter().enumerate() {
        let (target, body) = &bodies[index % bodies.len()];
        let body = changed(body.to_string().into_bytes(), changes);
        let answer = node.send("//Validator", "POST", target, &body).await;
        // The machine is held, so even a request that is still well-formed is refused.
        assert!((400..500).contains(&answer.status), "{} for {body:?}", answer.status);
        assert!(answer.code().is_some_and(|code| code != Code::Internal), "{body:?}");
    }
    assert_eq!(node.until(1, "running").await, before);
    assert_eq!(world.machine.containers().len(), 1);
}

/// A body from a stranger's validator must not take the node down or leave anything behind.
#[test]
fn any_body_is_survived() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(prop::collection::vec(change(), 1..6), 300);
    let cases = strategy.new_tree(&mut runner).unwrap().current();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bombard(cases));
}

/// Damaged heads and targets must end in a refusal or a closed connection, never in a node that is gone.
#[tokio::test]
async fn any_request_line_and_header_is_survived() {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    let target = format!("{}/pause", path(1));
    let mut seed = 0x9e37_79b9_u32;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        usize::try_from(seed).unwrap() % below
    };
    for _ in 0..300 {
        let headers = signed(&key("//Validator"), "POST", &target, b"{}", world.nonce());
        let mut bytes = request("POST", &target, &headers, b"{}");
        // Within the signed part, so that what is still well-formed is not authentic.
        let signed_part =
            bytes.windows(13).position(|w| w == b"X-Bittensor-V").unwrap()..bytes.len() - 40;
        let spots = [4 + random(target.len()), signed_part.start + random(signed_part.len())];
        for at in spots {
            bytes[at] = SPLINTERS[random(SPLINTERS.len())][0];
        }
        let socket = tokio::net::TcpStream::connect(node.at()).await.unwrap();
        drop(socket);
        let answer = exchange(node.at(), &bytes).await;
        assert!((400..500).contains(&answer.status), "{}", String::from_utf8_lossy(&bytes));
    }
    assert_eq!(node.until(1, "running").await, before);
}

/// Nested and huge JSON must not exhaust the stack or the memory.
#[tokio::test]
async fn deep_and_wide_json_is_refused() {
    let world = World::new();
    let node = world.start().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let wide = Value::from(vec![KEY; 2_000]).to_string();
    let keys = format!("{{\"ssh_keys\":{wide}}}");
    for body in [deep.as_str(), &wide, &keys] {
        let answer = node.send("//Validator", "POST", "/v1/leases", body.as_bytes()).await;
        assert_eq!(answer.code(), Some(Code::BadRequest));
    }
}
