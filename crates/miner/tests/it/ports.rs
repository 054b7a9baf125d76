//! Ports of leases that others reach, as their holder sees them.

use nicompute_miner::{ApiLimits, MinerConfig, StartError};
use nicompute_wire::node::{LeaseView, OffersView, PublishedPortView};
use serde_json::{Value, json};

use crate::http::PATIENCE;
use crate::offers;
use crate::world::{ANNOUNCED_IP, Node, World, ask, path};

fn config(world: &World, range: &str) -> MinerConfig {
    MinerConfig { ports: Some(range.parse().unwrap()), ..world.config() }
}

async fn start(world: &World) -> Node<'_> {
    world.start_with(config(world, "20000-20001"), ApiLimits::standard()).await.unwrap()
}

fn with_ports(byte: u8, ports: &[u16]) -> Value {
    let mut asked = ask(byte);
    asked["options"] = json!({ "ports": ports });
    asked
}

/// Waits for the lease's ports to stand so; the node looks by its own clock.
async fn until(node: &Node<'_>, stand: impl Fn(&[PublishedPortView]) -> bool) -> LeaseView {
    let reached = async {
        loop {
            let view = node.lease(1).await;
            if stand(&view.ports) {
                return view;
            }
            node.world.clock.advance(std::time::Duration::from_secs(10));
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap()
}

/// A holder who is not told where his ports are reached has none; one who is told another number after a restart has lost
/// his visitors; and what nobody can reach must be said.
#[tokio::test]
async fn a_holder_sees_his_ports() {
    let world = World::new();
    let node = start(&world).await;
    let offers: OffersView = node.get("//Validator", "/v1/offers").await.json();
    assert_eq!(offers.offers[0].conditions.ports_max, 2);
    let asked = node.post("//Validator", "/v1/leases", &with_ports(1, &[8080, 80, 80])).await;
    assert_eq!(asked.status, 201);
    assert_eq!(asked.json::<LeaseView>().ports, [], "nobody could enter yet");
    node.until(1, "running").await;
    let first = until(&node, |ports| ports.iter().all(|port| port.problem.is_none())).await.ports;
    let seen: Vec<_> = first.iter().map(|port| (port.container_port, &*port.host)).collect();
    let host = ANNOUNCED_IP.to_string();
    assert_eq!(seen, [(80, &*host), (8080, &*host)]);
    let mut outside: Vec<_> = first.iter().map(|port| port.port).collect();
    outside.sort_unstable();
    assert_eq!(outside, [20000, 20001]);
    node.kill().await;

    let node = start(&world).await;
    node.routes.take_port(Some(80));
    let shut = until(&node, |ports| ports[1].problem.is_none() && ports[0].problem.is_some()).await;
    assert_eq!(shut.ports[0].port, first[0].port);
    assert_eq!(shut.state, "running");
    node.routes.take_port(None);
    until(&node, |ports| ports == first).await;
    node.send("//Validator", "DELETE", &path(1), b"").await;
    assert_eq!(node.until(1, "ended").await.ports, []);
}

/// More ports than there are must be refused with a reason, not sold; and a door of the node itself must not be sold at all.
#[tokio::test]
async fn ports_that_are_not_there() {
    let world = World::new();
    let node = world.start().await;
    let refused = async |node: &Node<'_>, ports: &[u16]| {
        let answer = node.post("//Validator", "/v1/leases", &with_ports(1, ports)).await;
        assert_eq!(answer.status, 400);
        answer.json::<Value>()["detail"].as_str().unwrap().to_owned()
    };
    assert!(refused(&node, &[80]).await.contains("options.ports"), "no range");
    node.kill().await;
    let node = start(&world).await;
    assert!(refused(&node, &[80, 81, 82]).await.contains("options.ports"), "two are given");
    node.kill().await;
    let slices = offers::slice("s", "copies = 2");
    let two = MinerConfig {
        ports: Some("20000-20001".parse().unwrap()),
        ..offers::config(&world, &slices)
    };
    let node = world.start_with(two, ApiLimits::standard()).await.unwrap();
    for (byte, status) in [(2, 201), (3, 507)] {
        let mut asked = offers::ask_for(byte, &format!("s-{}", byte - 1));
        asked["options"] = json!({ "ports": [80, 81] });
        let answer = node.post("//Validator", "/v1/leases", &asked).await;
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
    }
    let failed = node.until(3, "failed").await;
    assert_eq!(failed.reason.as_deref(), Some("occupied"));
    assert!(failed.detail.unwrap().contains("options.ports"));
    node.kill().await;
    let mut own = config(&world, "20000-20001");
    own.ssh_listen.set_port(20001);
    let error = world.start_with(own, ApiLimits::standard()).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::PortRange { port: 20001, flag: "--ssh.port", .. }));
    assert!(error.remedy().unwrap().contains("--ports.range"));
}
