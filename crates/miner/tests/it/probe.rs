//! Ports of the asker, tried by the node.

use std::time::Duration;

use nicompute_miner::PROBE_EVERY;
use nicompute_wire::codes::Code;
use nicompute_wire::probe::ProbeView;
use serde_json::json;
use tokio::net::TcpListener;

use crate::world::World;

/// A provider with a shut firewall must learn it from the node, and an open port must be called open.
#[tokio::test(flavor = "multi_thread")]
async fn open_and_closed_ports_are_told_apart() {
    let world = World::new();
    let node = world.start().await;
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = (open.local_addr().unwrap().port(), open);
    // Nobody listens on a port that was bound and never listened on.
    let shut = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let answer = node.post("//Plain", "/v1/probe", &json!({ "ports": [open.0, 1] })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let view: ProbeView = answer.json();
    assert_eq!(view.address, "127.0.0.1");
    let states: Vec<_> = view.ports.iter().map(|port| &*port.state).collect();
    assert_eq!(states, ["open", "closed"], "port {shut}");
    drop(open);
    node.kill().await;
}

/// Anybody could make the node knock at doors, as often as he likes and as many as he likes.
#[tokio::test(flavor = "multi_thread")]
async fn probes_are_for_members_and_seldom() {
    let world = World::new();
    let node = world.start().await;
    let one = json!({ "ports": [1] });
    assert_eq!(node.post("//Stranger", "/v1/probe", &one).await.code(), Some(Code::NotPermitted));
    for bad in [
        json!({ "ports": [] }),
        json!({ "ports": [1, 2, 3, 4, 5] }),
        json!({ "ports": [0] }),
        json!({ "ports": [70_000] }),
        json!({ "ports": [7, 7] }),
        json!({ "ports": [7], "address": "10.0.0.1" }),
    ] {
        let answer = node.post("//Plain", "/v1/probe", &bad).await;
        assert_eq!(answer.code(), Some(Code::BadRequest), "{bad}");
    }
    assert_eq!(node.post("//Plain", "/v1/probe", &one).await.status, 200);
    for by in ["//Plain", "//Validator"] {
        let again = node.post(by, "/v1/probe", &one).await;
        assert_eq!(again.code(), Some(Code::TooManyRequests), "one address, whoever signs");
    }
    world.clock.advance(PROBE_EVERY + Duration::from_millis(1));
    assert_eq!(node.post("//Validator", "/v1/probe", &one).await.status, 200);
    node.kill().await;
}

/// A node that has not seen the chain for hours does not know who is registered, and must not knock for strangers.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_chain_nothing_is_probed() {
    let world = World::new();
    world.subnet.goes();
    let node = world.start().await;
    let answer = node.post("//Plain", "/v1/probe", &json!({ "ports": [1] })).await;
    assert_eq!(answer.code(), Some(Code::ChainUnavailable));
    node.kill().await;
}
