//! Every limit of the node API, just below it and just above it.

use std::time::Duration;

use nicompute_miner::{ApiLimits, BODY_LIMIT, HEADER_BYTES_MAX};
use nicompute_wire::codes::Code;
use nicompute_wire::node::BODY_BYTES_MAX;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::http::{PATIENCE, exchange, request};
use crate::world::{ANNOUNCED_IP, KEY, Node, OTHER_KEY, World, ask, key, path, signed};

/// Opens a connection, sends the bytes and leaves it open.
async fn begin(node: &Node<'_>, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(node.at()).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

async fn read_until(socket: &mut TcpStream, word: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.contains(word) {
            let mut chunk = [0; 1024];
            let count = socket.read(&mut chunk).await.unwrap();
            assert!(count > 0, "no {word} in {text}");
            text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    text
}

/// A body without end must not fill the node's memory.
#[tokio::test]
async fn bodies_have_a_limit() {
    let world = World::new();
    let node = world.start().await;
    let fits = vec![b' '; BODY_BYTES_MAX];
    let answer = node.send("//Validator", "POST", "/v1/leases", &fits).await;
    assert_eq!(answer.code(), Some(Code::BadRequest), "read, and found to be no JSON");
    let too_large = vec![b' '; BODY_BYTES_MAX + 1];
    let answer = node.send("//Validator", "POST", "/v1/leases", &too_large).await;
    assert_eq!((answer.status, answer.code()), (413, Some(Code::BodyTooLarge)));
}

/// Headers without end must not either.
#[tokio::test]
async fn headers_have_a_limit() {
    let world = World::new();
    let node = world.start().await;
    let caller = key("//Validator");
    let send = async |filler: usize| {
        let mut headers = signed(&caller, "GET", "/v1/node", b"", world.nonce());
        headers.push(("x-filler".to_owned(), "f".repeat(filler)));
        exchange(node.at(), &request("GET", "/v1/node", &headers, b"")).await
    };
    let base: usize = signed(&caller, "GET", "/v1/node", b"", world.nonce())
        .iter()
        .chain(&[
            ("host".to_owned(), "node".to_owned()),
            ("connection".to_owned(), "close".to_owned()),
        ])
        .chain(&[
            ("content-length".to_owned(), "0".to_owned()),
            ("x-filler".to_owned(), String::new()),
        ])
        .map(|(name, value)| name.len() + value.len())
        .sum();
    assert_eq!(send(HEADER_BYTES_MAX - base).await.status, 200);
    let over = send(HEADER_BYTES_MAX - base + 1).await;
    assert_eq!((over.status, over.code()), (431, Some(Code::HeadersTooLarge)));
    // Far over it, the HTTP library refuses by itself.
    assert_eq!(send(4 * HEADER_BYTES_MAX).await.status, 431);
}

/// More work than the node takes must be refused at once, and taken again when there is room.
#[tokio::test]
async fn requests_at_once_have_a_limit() {
    let world = World::new();
    let limits = ApiLimits { requests: 2, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    node.running(1).await;
    let target = format!("{}?wait_ms=10000", path(1));
    // A request that meets one of the others' is refused too, and comes again.
    let waits = async || {
        loop {
            let answer = node.get("//Validator", &target).await;
            if answer.status != 503 {
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
                break;
            }
        }
    };
    let both_wait = async { tokio::join!(waits(), waits()) };
    let time_passes = async {
        refused_as_overloaded(&node).await;
        // In small steps, with an answer between any two: either may have begun to wait only after the first, and neither
        // may be carried past the time that a request has.
        loop {
            world.clock.advance(Duration::from_millis(100));
            node.get("//Validator", "/v1/node").await;
        }
    };
    let answered = async {
        tokio::select! {
            _ = both_wait => {}
            () = time_passes => {}
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
    assert_eq!(node.get("//Validator", "/v1/node").await.status, 200);
}

/// Asks until the node is too busy to answer.
async fn refused_as_overloaded(node: &Node<'_>) {
    let refused = async {
        loop {
            let answer = node.get("//Validator", "/v1/node").await;
            if answer.status != 200 {
                break answer;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!((refused.status, refused.code()), (503, Some(Code::Overloaded)));
}

/// A request that was begun by anybody, which lacks the last byte of its body.
async fn begin_body(node: &Node<'_>, by: &str) -> TcpStream {
    let headers = signed(&key(by), "POST", "/v1/leases", b"{}", node.world.nonce());
    let bytes = request("POST", "/v1/leases", &headers, b"{}");
    begin(node, &bytes[..bytes.len() - 1]).await
}

/// Peers without any key must not shut the node to those with one by sending bodies that never end.
#[tokio::test]
async fn requests_that_are_not_admitted_take_no_place_of_others() {
    let world = World::new();
    let limits = ApiLimits { requests: 1, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    let bytes = request("POST", "/v1/leases", &[], b"{}");
    let mut unsigned = begin(&node, &bytes[..bytes.len() - 1]).await;
    // It is refused by its head; nobody waits for the rest.
    read_until(&mut unsigned, "NIC-0001").await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(begin_body(&node, "//Stranger").await);
    }
    for _ in 0..32 {
        assert_eq!(node.get("//Validator", "/v1/node").await.status, 200);
    }
    node.running(1).await;
    world.clock.advance(BODY_LIMIT);
    for socket in &mut held {
        read_until(socket, "NIC-0036").await;
    }
}

/// Bodies that are waited for must have a limit too, and leave room again after a short while.
#[tokio::test]
async fn arriving_requests_have_a_limit() {
    let world = World::new();
    let limits = ApiLimits { arrivals: 2, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    let mut held = [begin_body(&node, "//Validator").await, begin_body(&node, "//Stranger").await];
    refused_as_overloaded(&node).await;
    world.clock.advance(BODY_LIMIT);
    for socket in &mut held {
        let text = read_until(socket, "NIC-0036").await;
        assert!(text.starts_with("HTTP/1.1 504"), "{text}");
    }
    assert_eq!(node.get("//Validator", "/v1/node").await.status, 200);
}

/// One address must not take every connection of the node.
#[tokio::test]
async fn connections_of_one_address_have_a_limit() {
    let world = World::new();
    let limits = ApiLimits { connections_per_address: 2, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    let idle = [begin(&node, b"GET").await, begin(&node, b"GET").await];
    let ask = || {
        let headers = signed(&key("//Validator"), "GET", "/v1/node", b"", world.nonce());
        request("GET", "/v1/node", &headers, b"")
    };
    let mut third = TcpStream::connect(node.at()).await.unwrap();
    // A closed connection may refuse the bytes.
    drop(third.write_all(&ask()).await);
    let mut first_byte = [0; 1];
    let closed = tokio::time::timeout(PATIENCE, third.read(&mut first_byte)).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "served beyond the limit");
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind((ANNOUNCED_IP, 0).into()).unwrap();
    let mut other = elsewhere.connect(node.at()).await.unwrap();
    other.write_all(&ask()).await.unwrap();
    read_until(&mut other, "200 OK").await;
    drop(idle);
    let room_again = async {
        loop {
            let mut next = TcpStream::connect(node.at()).await.unwrap();
            let mut status = [0; 12];
            drop(next.write_all(&ask()).await);
            if next.read_exact(&mut status).await.is_ok() && status == *b"HTTP/1.1 200" {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, room_again).await.unwrap();
}

/// A caller that sends its request for ever must not keep a place for ever.
#[tokio::test]
async fn requests_have_a_time_limit() {
    let world = World::new();
    let node = world.start().await;
    let body = ask(1).to_string();
    let headers = signed(&key("//Validator"), "POST", "/v1/leases", body.as_bytes(), world.nonce());
    let bytes = request("POST", "/v1/leases", &headers, body.as_bytes());
    let mut socket = begin(&node, &bytes[..bytes.len() - 1]).await;
    let (text, ()) = tokio::join!(read_until(&mut socket, "NIC-0036"), async {
        for _ in 0..4 {
            assert_eq!(node.get("//Validator", "/v1/node").await.status, 200);
            world.clock.advance(Duration::from_secs(1));
        }
    });
    assert!(text.starts_with("HTTP/1.1 504"), "{text}");
    assert!(node.is_available().await);
}

/// Streams that are never closed must leave room for others.
#[tokio::test]
async fn event_streams_have_a_limit() {
    let world = World::new();
    let limits = ApiLimits { event_streams: 1, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    node.running(1).await;
    let target = format!("{}/events", path(1));
    let headers = signed(&key("//Validator"), "GET", &target, b"", world.nonce());
    let mut first = begin(&node, &request("GET", &target, &headers, b"")).await;
    read_until(&mut first, "\"running\"").await;
    let second = node.get("//Validator", &target).await;
    assert_eq!((second.status, second.code()), (503, Some(Code::Overloaded)));
    drop(first);
    let room_again = async {
        loop {
            // The node notices a closed stream when it writes to it.
            world.clock.advance(Duration::from_secs(15));
            let headers = signed(&key("//Validator"), "GET", &target, b"", world.nonce());
            let mut third = begin(&node, &request("GET", &target, &headers, b"")).await;
            if read_until(&mut third, "\r\n\r\n").await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, room_again).await.unwrap();
}

/// Connections beyond the limit wait, and are served when there is room.
#[tokio::test]
async fn connections_have_a_limit() {
    let world = World::new();
    let limits = ApiLimits { connections: 2, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    let idle = [begin(&node, b"GET").await, begin(&node, b"GET").await];
    let headers = signed(&key("//Validator"), "GET", "/v1/node", b"", world.nonce());
    let mut third = begin(&node, &request("GET", "/v1/node", &headers, b"")).await;
    let mut first_byte = [0; 1];
    let soon = tokio::time::timeout(Duration::from_millis(200), third.read(&mut first_byte)).await;
    assert!(soon.is_err(), "served beyond the limit");
    drop(idle);
    read_until(&mut third, "200 OK").await;
}

/// A holder that changes its lease without end must not fill the provider's disk, and must still be able to give it back.
#[tokio::test]
async fn changes_of_a_lease_have_a_limit() {
    let world = World::new();
    let limits = ApiLimits { lease_changes: 5, ..ApiLimits::standard() };
    let node = world.start_with(world.config(), limits).await.unwrap();
    assert_eq!(node.running(1).await.generation, 3);
    let changes = [
        ("keys", json!({ "ssh_keys": [OTHER_KEY] })),
        ("pause", json!({})),
        ("keys", json!({ "ssh_keys": [KEY] })),
        ("resume", json!({})),
        ("extend", json!({ "duration_seconds": 7200 })),
    ];
    for (index, (act, body)) in changes.into_iter().enumerate() {
        let answer = node.post("//Validator", &format!("{}/{act}", path(1)), &body).await;
        let expected = if index < 2 { (200, None) } else { (409, Some(Code::WrongState)) };
        assert_eq!((answer.status, answer.code()), expected, "{act}");
    }
    assert_eq!(node.until(1, "paused").await.generation, 5);
    assert_eq!(node.send("//Validator", "DELETE", &path(1), b"").await.status, 200);
    assert_eq!(node.until(1, "ended").await.reason.as_deref(), Some("released"));
}
