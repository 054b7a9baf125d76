//! A client of eight connections that has signed what it sends before it begins to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use nicompute_daemon::SystemClock;
use nicompute_keys::Keypair;
use nicompute_market::Hotkey;
use nicompute_wire::axon::{Allocate, Body as _, Call, Synapse, sign_call};
use nicompute_wire::btauth::{Request, sign_request};
use serde_json::json;

use crate::key;

const CONNECTIONS: usize = 8;
/// Requests that are signed at once: all of them are sent before the first is too old.
const BATCH: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Who asks, and who is asked.
static ALICE: LazyLock<Keypair> = LazyLock::new(|| key("//Alice"));
static BOB: LazyLock<Hotkey> = LazyLock::new(|| key("//Bob").hotkey());

/// Makes the bytes of one request of a connection, with a nonce of its own.
pub(crate) type Make = fn(connection: usize, nonce_ns: u64) -> Vec<u8>;

/// Sends so many requests and gives how many are answered with 200 in a second.
pub(crate) fn run(address: SocketAddr, count: usize, make: Make) -> f64 {
    let clock = SystemClock::shared();
    let mut took = Duration::ZERO;
    let (mut left, mut sent) = (count, 0);
    while left > 0 {
        let each = left.min(BATCH) / CONNECTIONS;
        let requests = signed(clock.unix_ns(), each, make);
        let began = clock.monotonic();
        thread::scope(|scope| {
            for requests in &requests {
                scope.spawn(|| converse(address, requests));
            }
        });
        took += clock.monotonic().saturating_sub(began);
        sent += each * CONNECTIONS;
        left = left.saturating_sub(BATCH);
    }
    f64::from(u32::try_from(sent).unwrap()) / took.as_secs_f64()
}

fn signed(now: u64, each: usize, make: Make) -> Vec<Vec<Vec<u8>>> {
    // One connection's nonces rise; those of all are different.
    let of = |connection: usize| -> Vec<Vec<u8>> {
        (now..).skip(connection * each).take(each).map(|nonce| make(connection, nonce)).collect()
    };
    (0..CONNECTIONS).map(of).collect()
}

fn converse(address: SocketAddr, requests: &[Vec<u8>]) {
    let mut to = TcpStream::connect(address).unwrap();
    to.set_nodelay(true).unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut from = BufReader::new(to.try_clone().unwrap());
    let (mut line, mut body) = (String::new(), Vec::new());
    for request in requests {
        to.write_all(request).unwrap();
        let mut length = 0;
        let mut status = String::new();
        loop {
            line.clear();
            assert!(from.read_line(&mut line).unwrap() > 0, "the server hung up");
            let text = line.trim_end().to_ascii_lowercase();
            if status.is_empty() {
                status = text;
            } else if let Some(value) = text.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            } else if text.is_empty() {
                break;
            }
        }
        body.resize(length, 0);
        from.read_exact(&mut body).unwrap();
        assert!(status.contains(" 200"), "{status}: {}", String::from_utf8_lossy(&body));
    }
}

/// A check whether the machine could be had.
pub(crate) fn axon(connection: usize, nonce_ns: u64) -> Vec<u8> {
    let uuid = format!("bench-{connection}");
    let call = Call {
        name: Allocate::NAME,
        timeout: Duration::from_secs(60),
        axon: ([127, 0, 0, 1].into(), 8091),
        axon_hotkey: &BOB,
        dendrite_ip: [192, 0, 2, 77].into(),
        nonce_ns,
        uuid: &uuid,
    };
    let head = sign_call(&ALICE, &call);
    let device_requirement = json!({"cpu": {"count": 1}, "gpu": {}});
    let body = Allocate {
        timeline: 30,
        device_requirement: device_requirement.as_object().cloned().unwrap(),
        ..Allocate::default()
    };
    let synapse = Synapse {
        name: Some(Allocate::NAME.to_owned()),
        dendrite: Some(head.dendrite.clone()),
        axon: Some(head.axon.clone()),
        body,
        ..Synapse::default()
    };
    let headers = head.to_headers();
    let lines = headers.iter().map(|(name, value)| (*name, value.as_str()));
    http("POST", "/Allocate", lines, &synapse.to_bytes())
}

/// A look at what is offered.
pub(crate) fn btauth(_connection: usize, nonce_ns: u64) -> Vec<u8> {
    let request = Request { method: "GET", target: "/v1/offers", body: b"" };
    let headers = sign_request(&ALICE, &request, Some(&BOB), nonce_ns);
    let lines = headers.0.iter().map(|(name, value)| (*name, value.as_str()));
    http(request.method, request.target, lines, request.body)
}

fn http<'a>(
    method: &str,
    target: &str,
    lines: impl Iterator<Item = (&'a str, &'a str)>,
    body: &[u8],
) -> Vec<u8> {
    let lines: String = lines.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\n{lines}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
