//! The tenants' network, from a tenant's side: what must be reachable is, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nicompute_host::net::{Fabric, NetConfig, Network as _, Wire};

use crate::net_world::{
    BRIDGE, DROPPED, FORBIDDEN, MACHINE, PUBLIC, Place, RESOLVER, World, lease,
};
use crate::support::{LIMIT, wait_for};

const PORT: u16 = 8080;
/// Ports of mail, which no tenant may speak.
const MAIL: [u16; 3] = [25, 465, 587];

pub(crate) async fn tenant(fabric: &Fabric) -> (Place, Wire) {
    let place = Place::new();
    let wire = fabric.attach(lease(), place.pid()).await.expect("attach");
    (place, wire)
}

/// A tenant would reach the provider's network, the machine, the cloud's metadata or what the operator closed, or would not
/// reach the internet from behind an engine's forward chain.
#[tokio::test]
async fn tenants_reach_the_public_internet_and_nothing_else() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    for port in [PORT, 53].iter().chain(&MAIL) {
        world.outside.serves_tcp(*port);
        world.machine.serves_tcp(*port);
    }
    for address in FORBIDDEN {
        assert!(world.machine.reaches(address, PORT).starts_with("192.168.50.2:"));
    }
    let (place, wire) = tenant(&fabric).await;
    let seen = place.reaches(PUBLIC, PORT);
    assert!(seen.starts_with("192.168.50.2:"), "translated: {seen}");
    place.reaches(RESOLVER, 53);
    let (_, other) = tenant(&fabric).await;
    let gateway = fabric.subnet().at(1).expect("gateway");
    let ours = [MACHINE, BRIDGE, gateway, other.address, Ipv4Addr::new(255, 255, 255, 255)];
    let mut targets: Vec<_> = FORBIDDEN.iter().chain(&ours).map(|to| (*to, PORT)).collect();
    targets.extend(MAIL.map(|port| (PUBLIC, port)));
    targets.extend([(RESOLVER, PORT), (MACHINE, 53), (BRIDGE, 53)]);
    assert_eq!(place.reachable(&targets), []);

    let resolver = world.outside.serves_udp(53);
    let open = world.outside.serves_udp(PORT);
    let machine = world.machine.serves_udp(PORT);
    let socket = place.udp(0);
    for address in FORBIDDEN.iter().chain(&ours) {
        // Some are refused at once, by the tenant's own system.
        drop(socket.send_to(b"forbidden", (*address, PORT)));
    }
    socket.send_to(b"question", (RESOLVER, 53)).expect("send");
    socket.send_to(b"allowed", (PUBLIC, PORT)).expect("send");
    assert_eq!(open.heard_until("allowed").await, ["allowed"]);
    assert_eq!(resolver.heard_until("question").await, ["question"]);
    assert_eq!(machine.count(), 0);
    let wires = fabric.list().await.expect("list");
    let counted = wires.iter().find(|found| found.lease == wire.lease).expect("wire");
    assert!(counted.sent_bytes > 0 && counted.received_bytes > 0, "{counted:?}");
    assert_eq!(fabric.resolv_conf(), format!("nameserver {RESOLVER}\n"));
}

/// Two tenants would see each other, or somebody outside would reach into a tenant.
#[tokio::test]
async fn nobody_reaches_into_a_tenant() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    let ((one, at), (two, other)) = (tenant(&fabric).await, tenant(&fabric).await);
    for place in [&one, &two, &world.outside] {
        place.serves_tcp(PORT);
    }
    for (place, target) in [(&one, other.address), (&two, at.address)] {
        place.reaches(PUBLIC, PORT);
        assert_eq!(place.asks(target, PORT), None, "from tenant to tenant");
    }
    // The router sends everything that it does not know to the machine.
    assert_eq!(world.outside.asks(at.address, PORT), None, "from outside");
    let heard = one.serves_udp(PORT);
    let socket = world.outside.udp(0);
    socket.send_to(b"intruder", (at.address, PORT)).expect("send");
    let neighbour = two.udp(0);
    neighbour.send_to(b"neighbour", (at.address, PORT)).expect("send");
    let itself = one.udp(0);
    itself.send_to(b"itself", (at.address, PORT)).expect("send");
    assert_eq!(heard.heard_until("itself").await, ["itself"]);
}

/// A tenant would speak as another one, or as somebody in the provider's network.
#[tokio::test]
async fn foreign_sources_go_nowhere() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    let ((one, at), (_two, other)) = (tenant(&fabric).await, tenant(&fabric).await);
    let heard = world.outside.serves_udp(PORT);
    for foreign in [other.address, Ipv4Addr::new(192, 168, 50, 77), Ipv4Addr::new(8, 8, 8, 8)] {
        one.ok(&format!("ip addr add {foreign}/32 dev eth0"));
        let socket = one.inside(|| UdpSocket::bind((foreign, 0)).expect("bind"));
        socket.send_to(b"foreign", (PUBLIC, PORT)).expect("send");
    }
    let socket = one.inside(|| UdpSocket::bind((at.address, 0)).expect("bind"));
    socket.send_to(b"own", (PUBLIC, PORT)).expect("send");
    assert_eq!(heard.heard_until("own").await, ["own"]);
    // A foreign hardware address is no way around it either.
    one.ok("ip link set dev eth0 down");
    one.ok("ip link set dev eth0 address 02:aa:aa:aa:aa:aa up");
    let gateway = fabric.subnet().at(1).expect("gateway");
    drop(one.run(&format!("ip route add {gateway}/32 dev eth0 scope link")));
    drop(one.run(&format!("ip route add default via {gateway} dev eth0")));
    world.outside.serves_tcp(PORT);
    assert_eq!(one.asks(PUBLIC, PORT), None, "with a foreign hardware address");
}

/// Version 6 would be a way around every rule of version 4.
#[tokio::test]
async fn there_is_no_version_6() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    let (place, wire) = tenant(&fabric).await;
    assert_eq!(world.machine.ok(&format!("ip -6 addr show dev {}", wire.link)), "");
    assert_eq!(place.ok("ip -6 addr show dev eth0"), "");
    // A tenant that turns it on finds nobody.
    place.inside(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").expect("write");
    });
    place.ok("ip addr add fd00::2/64 dev eth0 nodad");
    world.machine.ok("ip -6 addr add fd00::1/64 dev bridge0 nodad");
    place.ok("ip -6 route add default dev eth0");
    let listener = world.machine.inside(|| TcpListener::bind("[::]:9090").expect("bind"));
    let target = "[fd00::1]:9090".parse().expect("address");
    assert!(place.inside(|| TcpStream::connect_timeout(&target, DROPPED)).is_err());
    drop(listener);
}

/// The next start, or a container that was started again, would leave a tenant without a network, or wire it twice.
#[tokio::test]
async fn wires_are_found_again() {
    let Some(world) = World::new() else { return };
    let before = world.traces();
    let fabric = world.fabric().await;
    assert_eq!(world.traces(), before, "no rules without a wire");
    let (place, wire) = tenant(&fabric).await;
    let again = fabric.attach(wire.lease, place.pid()).await.expect("again");
    assert_eq!((again.address, &again.link), (wire.address, &wire.link));
    let listener = world.outside.inside(|| TcpListener::bind((PUBLIC, PORT)).expect("bind"));
    let mut here = place.inside(|| TcpStream::connect((PUBLIC, PORT)).expect("connect"));
    let (mut there, _) = listener.accept().expect("accept");

    let next = world.fabric().await;
    let found = next.attach(wire.lease, place.pid()).await.expect("after a restart");
    assert_eq!((found.address, &found.link), (wire.address, &wire.link));
    next.sweep(&[wire.lease]).await.expect("sweep");
    let mut said = [0; 5];
    there.set_read_timeout(Some(LIMIT)).expect("timeout");
    here.write_all(b"still").expect("write");
    there.read_exact(&mut said).expect("read");
    assert_eq!(&said, b"still", "what was open stays open");
    assert_eq!(next.list().await.expect("list").len(), 1);

    // The container ends and starts again: its network is another one.
    drop(place);
    let place = Place::new();
    let anew = next.attach(wire.lease, place.pid()).await.expect("anew");
    world.outside.serves_tcp(PORT + 1);
    place.reaches(PUBLIC, PORT + 1);
    assert_eq!(next.list().await.expect("list").len(), 1, "{anew:?}");
    for _ in 0..2 {
        next.detach(wire.lease).await.expect("detach");
        assert_eq!(world.traces(), before, "something is left");
    }
    assert_eq!(place.asks(PUBLIC, PORT + 1), None);
}

/// A container that shares the machine's network would have the machine's own links changed.
#[tokio::test]
async fn what_is_no_container_is_refused() {
    let Some(world) = World::new() else { return };
    let before = world.traces();
    let fabric = world.fabric().await;
    let refused = fabric.attach(lease(), world.machine.pid()).await.expect_err("refused");
    assert!(refused.to_string().contains("no network namespace of its own"), "{refused}");
    let gone = Place::new();
    let pid = gone.pid();
    drop(gone);
    let refused = fabric.attach(lease(), pid).await.expect_err("refused");
    assert!(refused.to_string().ends_with("is gone"), "{refused}");
    // Somebody's own link stands where the wire would end.
    let place = Place::new();
    place.ok("ip link add eth0 type bridge");
    let refused = fabric.attach(lease(), place.pid()).await.expect_err("refused");
    assert!(refused.to_string().contains("exists"), "{refused}");
    fabric.sweep(&[]).await.expect("sweep");
    assert_eq!(world.traces(), before);
}

/// Rules that an operator's firewall removed would leave every tenant open to the provider's network.
#[tokio::test]
async fn rules_that_somebody_removed_come_back() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    let (place, wire) = tenant(&fabric).await;
    let (neighbour, other) = tenant(&fabric).await;
    world.outside.serves_tcp(PORT);
    world.machine.serves_tcp(PORT);
    neighbour.serves_tcp(PORT);
    let table = world.machine.ok("nft list tables");
    let table = table.lines().find(|line| line.contains("nicompute_")).expect("table").to_owned();
    for harm in [
        "nft flush ruleset".to_owned(),
        format!("nft delete {table}"),
        format!("nft flush chain {} from_tenant", table.trim_start_matches("table ")),
        format!("nft flush set {} wires", table.trim_start_matches("table ")),
    ] {
        world.machine.ok(&harm);
        world.machine.ok("iptables -P FORWARD DROP");
        if !harm.ends_with("from_tenant") {
            let shut = [FORBIDDEN[2], MACHINE, other.address, PUBLIC].map(|to| (to, PORT));
            assert_eq!(place.reachable(&shut), [], "a wire without rules is shut, after {harm}");
        }
        fabric.mend().await.expect("mend");
        place.reaches(PUBLIC, PORT);
        assert_eq!(place.asks(FORBIDDEN[2], PORT), None, "after {harm}");
    }
    // A network that the machine is connected to only now.
    world.machine.ok("ip link add late0 type bridge");
    world.machine.ok("ip addr add 203.0.113.1/24 dev late0");
    world.machine.ok(&format!("ip route add {PUBLIC}/32 via 192.168.50.1"));
    place.reaches(PUBLIC, PORT);
    world.machine.ok("ip link set late0 up");
    fabric.sweep(&[wire.lease]).await.expect("sweep");
    assert_eq!(place.asks(PUBLIC, PORT), None, "the provider's new network");
}

/// A firewall that is loaded anew would leave tenants without a network until the next look, or open where nobody hears.
#[tokio::test]
async fn removed_rules_are_heard_of_at_once() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    let (place, _) = tenant(&fabric).await;
    world.outside.serves_tcp(PORT);
    place.reaches(PUBLIC, PORT);
    let hears = async {
        fabric.disturbed().await.expect("heard");
        fabric.mend().await.expect("mend");
    };
    let harms = async {
        // Until it was heard: the listener may begin after the first one, and hears of nothing but this node's rules.
        loop {
            fabric.mend().await.expect("mend");
            world.machine.ok("nft flush ruleset");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let both = async {
        tokio::select! { () = hears => {}, () = harms => {} }
    };
    tokio::time::timeout(LIMIT, both).await.expect("heard in time");
    fabric.mend().await.expect("mend");
    place.reaches(PUBLIC, PORT);
}

/// The provider's networks behind a router, or those that only another table of routes knows, would be open to every tenant.
#[tokio::test]
async fn networks_of_every_routing_table_are_shut() {
    let Some(world) = World::new() else { return };
    world.outside.serves_tcp(PORT);
    for route in ["203.0.113.0/25 via 192.168.50.1 table 77", "203.0.113.10/32 via 192.168.50.1"] {
        let fabric = world.fabric().await;
        let (place, wire) = tenant(&fabric).await;
        place.reaches(PUBLIC, PORT);
        world.machine.ok(&format!("ip route add {route}"));
        fabric.mend().await.expect("mend");
        assert_eq!(place.asks(PUBLIC, PORT), None, "{route}");
        world.machine.ok(&format!("ip route del {route}"));
        fabric.mend().await.expect("mend");
        place.reaches(PUBLIC, PORT);
        fabric.detach(wire.lease).await.expect("detach");
    }
}

/// A resolver on the machine itself would hear tenants and could not answer them.
#[tokio::test]
async fn the_machine_may_be_the_resolver() {
    let Some(mut world) = World::new() else { return };
    world.config.dns = vec![IpAddr::V4(BRIDGE)];
    world.machine.serves_tcp(53);
    world.machine.serves_tcp(PORT);
    let resolver = world.machine.serves_udp_at(BRIDGE, 53);
    let fabric = world.fabric().await;
    let (place, _) = tenant(&fabric).await;
    place.reaches(BRIDGE, 53);
    assert_eq!(place.asks(BRIDGE, PORT), None);
    let socket = place.udp(0);
    socket.set_read_timeout(Some(LIMIT)).expect("timeout");
    socket.send_to(b"question", (BRIDGE, 53)).expect("send");
    resolver.heard_until("question").await;
    resolver.answer(resolver.who_said("question"), "answer");
    let mut heard = [0; 16];
    let (length, _) = socket.recv_from(&mut heard).expect("an answer");
    assert_eq!(&heard[..length], b"answer");
}

/// One tenant would use up the machine's connections, or its line.
#[tokio::test]
async fn connections_and_bandwidth_are_limited() {
    let Some(mut world) = World::new() else { return };
    (world.config.connections_max, world.config.egress_bits_per_second) = (5, Some(64_000));
    let fabric = world.fabric().await;
    let ((one, _), (two, _)) = (tenant(&fabric).await, tenant(&fabric).await);
    let listener = world.outside.inside(|| TcpListener::bind((PUBLIC, PORT)).expect("bind"));
    let connect = |place: &Place, limit| {
        place.inside(|| TcpStream::connect_timeout(&(PUBLIC, PORT).into(), limit))
    };
    let open: Vec<_> = (0..5).map(|_| connect(&one, LIMIT).expect("connect")).collect();
    assert!(connect(&one, DROPPED).is_err(), "one connection too many");
    let others = connect(&two, LIMIT).expect("another tenant has its own");
    drop((open, others, listener));

    let heard = world.outside.serves_udp(PORT);
    let socket = two.udp(0);
    let kilobyte = [b'x'; 1024];
    for _ in 0..2048 {
        // A full queue is no failure here.
        drop(socket.send_to(&kilobyte, (PUBLIC, PORT)));
    }
    wait_for("some of it", || heard.count() > 0).await;
    let own = one.udp(0);
    own.send_to(b"end", (PUBLIC, PORT)).expect("send");
    heard.heard_until("end").await;
    // A quarter of a megabyte at once, and 8 kB a second afterwards.
    assert!(heard.count() < 1024, "{} kB of 2048 went out", heard.count());
}

/// Answers to the last tenant of an address would reach the next one.
#[tokio::test]
async fn an_address_changes_hands_without_its_connections() {
    let Some(mut world) = World::new() else { return };
    world.config.subnet = Some("10.77.0.0/29".parse().expect("subnet"));
    let fabric = world.fabric().await;
    let server = world.outside.serves_udp_at(PUBLIC, PORT);
    let (first, wire) = tenant(&fabric).await;
    first.udp(4000).send_to(b"first", (PUBLIC, PORT)).expect("send");
    server.heard_until("first").await;
    let peer = server.who_said("first");
    fabric.detach(wire.lease).await.expect("detach");
    drop(first);

    let mut places = Vec::new();
    let full = loop {
        assert!(places.len() < 8, "a subnet of eight addresses holds no more");
        let place = Place::new();
        match fabric.attach(lease(), place.pid()).await {
            Ok(next) => places.push((place, next)),
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("10.77.0.0/29 has no free address"), "{full}");
    let next = places.iter().find(|(_, next)| next.address == wire.address);
    let (place, _) = next.expect("every address is given away");
    let heard = place.serves_udp(4000);
    server.answer(peer, "late answer");
    let socket = place.udp(0);
    socket.send_to(b"second", (PUBLIC, PORT)).expect("send");
    server.heard_until("second").await;
    let from = server.who_said("second");
    server.answer(from, "answer");
    socket.set_read_timeout(Some(LIMIT)).expect("timeout");
    let mut bytes = [0; 16];
    let length = socket.recv(&mut bytes).expect("an answer");
    assert_eq!((&bytes[..length], heard.count()), (&b"answer"[..], 0));
}

/// A setting that cannot work would be found by the first tenant.
#[tokio::test]
async fn bad_settings_are_refused_with_a_remedy() {
    let Some(world) = World::new() else { return };
    let opened = |change: fn(&mut NetConfig)| {
        let mut config = world.config.clone();
        change(&mut config);
        async { Fabric::open(config).await.expect_err("refused") }
    };
    let subnet = |text: &str| Some(text.parse().expect("subnet"));
    let taken = NetConfig { subnet: subnet("192.168.50.0/24"), ..world.config.clone() };
    let taken = Fabric::open(taken).await.expect_err("taken");
    assert!(taken.to_string().contains("192.168.50.0/24"), "{taken}");
    assert!(taken.remedy().is_some());
    for text in ["8.8.8.0/24", "10.0.0.0/30", "0.0.0.0/8", "172.0.0.0/8"] {
        let config = NetConfig { subnet: subnet(text), ..world.config.clone() };
        assert!(Fabric::open(config).await.is_err(), "{text}");
    }
    opened(|config| config.dns.clear()).await;
    opened(|config| config.dns = vec![IpAddr::from([127, 0, 0, 53])]).await;
    opened(|config| config.dns = vec!["::1".parse().expect("address")]).await;
    opened(|config| config.connections_max = 0).await;
    opened(|config| config.egress_bits_per_second = Some(1)).await;
    world.machine.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("write");
    });
    let off = opened(|_| ()).await;
    assert!(off.remedy().is_some_and(|remedy| remedy.contains("ip_forward")), "{off}");
    let mut config = world.config.clone();
    config.forwarding = nicompute_host::net::Forwarding::TurnOn;
    Fabric::open(config).await.expect("the operator allowed it");
}

/// The part of the test below that is killed: it wires and unwires for ever.
#[tokio::test]
#[ignore = "the test below runs it, to kill it"]
async fn killed_at_work() {
    #[expect(clippy::disallowed_methods, reason = "the test that kills it says where")]
    let Ok(work) = std::env::var("NICOMPUTE_TEST_NET_WORK") else { return };
    let mut words = work.split(' ');
    let mut word = || words.next().expect("word");
    let mut config = NetConfig::new(word());
    config.machine = Some(word().into());
    let pid = word().parse().expect("pid");
    let fabric = Fabric::open(config).await.expect("open");
    loop {
        let lease = lease();
        fabric.attach(lease, pid).await.expect("attach");
        fabric.detach(lease).await.expect("detach");
    }
}

/// A node that is killed would leave links, routes or rules that nobody finds again.
#[tokio::test]
async fn a_killed_node_leaves_nothing_after_the_next_start() {
    let Some(world) = World::new() else { return };
    let before = world.traces();
    let place = Place::new();
    let work = format!("{} {} {}", world.config.node_id, world.machine.path(), place.pid());
    let mut halves = 0;
    for delay_ms in 0..24_u64 {
        #[expect(clippy::disallowed_methods, reason = "the test kills itself")]
        let mut command = std::process::Command::new(std::env::current_exe().expect("own path"));
        command.args(["--exact", "net::killed_at_work", "--ignored"]);
        command.env("NICOMPUTE_TEST_NET_WORK", &work).stdout(std::process::Stdio::null());
        let mut child = command.spawn().expect("start");
        wait_for("the first wire", || world.traces() != before).await;
        tokio::time::sleep(Duration::from_millis(delay_ms * 5)).await;
        child.kill().expect("kill");
        child.wait().expect("wait");
        halves += usize::from(world.traces() != before);
        // A program that it had started may still be at work.
        let fabric = world.fabric().await;
        wait_until_clean(&world, &fabric, &before).await;
    }
    assert!(halves > 0, "the node was never killed at its work");
    let fabric = world.fabric().await;
    let wire = fabric.attach(lease(), place.pid()).await.expect("attach");
    world.outside.serves_tcp(PORT);
    place.reaches(PUBLIC, PORT);
    fabric.detach(wire.lease).await.expect("detach");
}

async fn wait_until_clean(world: &World, fabric: &Fabric, before: &str) {
    let mut traces = String::new();
    for _ in 0..50 {
        fabric.sweep(&[]).await.expect("sweep");
        traces = world.traces();
        if traces == before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(traces, before);
}
