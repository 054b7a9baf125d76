//! The tenants' network and what is around it: ways out that carry less than a wire, other nodes, marks of others.

use std::net::Ipv4Addr;

use nicompute_host::net::{Fabric, Network as _};
use sha2::{Digest as _, Sha256};

use crate::net::tenant;
use crate::net_world::{DROPPED, FORBIDDEN, PUBLIC, Place, World, lease};
use crate::support::wait_for;

const PORT: u16 = 8080;
/// Far more than what is on its way before the first answer.
const UPLOAD_BYTES: usize = 1 << 20;

/// Every upload of every tenant would stall behind a cloud's network, a tunnel or a telephone line: its packets are too large.
#[tokio::test]
async fn wires_carry_what_the_way_out_carries() {
    let Some(world) = World::new() else { return };
    world.outside.counts_tcp(PORT);
    // The other end offers more, so that nothing but this machine says what is too large.
    world.machine.ok("ip link set dev up0 mtu 1400");
    let fabric = world.fabric().await;
    let (place, wire) = tenant(&fabric).await;
    let sizes = |place: &Place| [world.machine.mtu(&wire.link), place.mtu("eth0")];
    assert_eq!(sizes(&place), [1400; 2]);
    assert!(place.uploads(PUBLIC, PORT, UPLOAD_BYTES), "with wires of the same size");
    for (change, size) in [
        ("ip link set dev up0 mtu 1450", 1450),
        ("ip route change default via 192.168.50.1 mtu 1300", 1300),
        ("ip route add default via 192.168.50.1 table 77 mtu 1280", 1280),
        ("ip route del default table 77", 1300),
        ("ip route change default via 192.168.50.1", 1450),
        ("ip link set dev up0 mtu 400", 576),
        ("ip link set dev up0 mtu 9000", 1500),
    ] {
        world.machine.ok(change);
        fabric.mend().await.expect("mend");
        assert_eq!(sizes(&place), [size; 2], "after {change}");
    }
    world.machine.ok("ip route del default");
    fabric.mend().await.expect("mend");
    assert_eq!(sizes(&place), [1500; 2], "without a way out");
    let (late, _) = tenant(&fabric).await;
    assert_eq!(late.mtu("eth0"), 1500);
}

/// A way out that became narrower a moment ago, or a narrow one further out, would stall tenants' uploads: they would not hear
/// that their packets are too large.
#[tokio::test]
async fn tenants_hear_that_packets_are_too_large() {
    let Some(world) = World::new() else { return };
    world.outside.counts_tcp(PORT);
    let fabric = world.fabric().await;
    let (place, wire) = tenant(&fabric).await;
    world.machine.ok("ip link set dev up0 mtu 1400");
    assert_eq!([world.machine.mtu(&wire.link), place.mtu("eth0")], [1500; 2]);
    assert!(place.uploads(PUBLIC, PORT, UPLOAD_BYTES), "the machine says so");
    world.machine.ok("ip link set dev up0 mtu 1500");

    let far = Place::new();
    let at = Ipv4Addr::new(203, 0, 113, 99);
    let peer = far.path();
    world.outside.ok(&format!("ip link add far0 mtu 1300 type veth peer name up0 netns {peer}"));
    world.outside.ok("ip link set far0 up");
    world.outside.ok(&format!("ip route add {at}/32 dev far0"));
    world.outside.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward");
    });
    far.ok(&format!("ip addr add {at}/32 dev up0"));
    far.ok("ip link set up0 up");
    far.ok("ip route add 192.168.50.1/32 dev up0");
    far.ok("ip route add default via 192.168.50.1");
    far.counts_tcp(PORT);
    let (other, _) = tenant(&fabric).await;
    assert!(other.uploads(at, PORT, UPLOAD_BYTES), "a router further out says so");
}

/// The way by which tenants hear what became of their packets would be one by which they reach others while the rules are gone.
#[tokio::test]
async fn messages_are_no_way_out_of_a_shut_wire() {
    let Some(world) = World::new() else { return };
    let fabric = world.fabric().await;
    let (place, _) = tenant(&fabric).await;
    world.outside.ok("iptables -A INPUT -p icmp -j ACCEPT");
    let seen = || {
        let counted = world.outside.ok("iptables -nvxL INPUT");
        let line = counted.lines().find(|line| line.contains("ACCEPT  ")).expect("counter");
        line.split_ascii_whitespace().next().expect("count").parse::<u32>().expect("number")
    };
    let targets: Vec<Ipv4Addr> = FORBIDDEN.into_iter().chain([PUBLIC]).collect();
    world.machine.ok("nft flush ruleset");
    for (kind, code) in [(8, 0), (3, 4), (3, 0), (11, 0), (0, 0)] {
        place.sends_icmp(kind, code, &targets);
    }
    tokio::time::sleep(DROPPED).await;
    assert_eq!(seen(), 0, "without rules");
    fabric.mend().await.expect("mend");
    place.sends_icmp(8, 0, &targets);
    wait_for("the one that is let through", || seen() > 0).await;
    assert_eq!(seen(), 1);
}

/// Two idle nodes on one machine would mend their rules for ever, because each of them hears what the other one does.
#[tokio::test]
async fn two_nodes_do_not_wake_each_other() {
    let Some(world) = World::new() else { return };
    let (one, other) = (world.fabric().await, neighbour(&world, |_| true).await);
    let keeps = async |fabric: &Fabric| {
        let mut woken = 0;
        let keep = async {
            loop {
                fabric.disturbed().await.expect("heard");
                woken += 1;
                for _ in 0..2 {
                    fabric.mend().await.expect("mend");
                }
            }
        };
        // Long enough for a dozen of rounds of two nodes that wake each other.
        drop(tokio::time::timeout(DROPPED * 4, keep).await);
        woken
    };
    let works = async {
        let place = Place::new();
        let lease = lease();
        for _ in 0..2 {
            one.attach(lease, place.pid()).await.expect("attach");
            one.detach(lease).await.expect("detach");
        }
        one.mend().await.expect("mend");
    };
    let (woken, others, ()) = tokio::join!(keeps(&one), keeps(&other), works);
    // The rules in the machine's own chain went twice.
    assert!(woken <= 5 && others <= 5, "woken {woken} and {others} times");
    let hears = async {
        tokio::select! {
            heard = other.disturbed() => heard.expect("heard"),
            () = async { loop { tenant(&other).await; other.sweep(&[]).await.expect("sweep"); } } => {}
        }
    };
    tokio::time::timeout(crate::support::LIMIT, hears).await.expect("its own are heard of");
}

/// A node would take another one's routing rules for its own, and each would remove what the other one put back.
#[tokio::test]
async fn two_nodes_in_one_place_keep_their_rules() {
    let Some(world) = World::new() else { return };
    world.outside.serves_tcp(PORT);
    let place = |id: &str| number(id) % 10_000;
    let own = place(&world.config.node_id);
    let one = world.fabric().await;
    let other = neighbour(&world, |id| place(id) == own).await;
    let before = world.traces();
    let (first, wire) = tenant(&one).await;
    let (second, others) = tenant(&other).await;
    let rules = world.machine.ok("ip -4 rule show");
    assert!(rules.matches(" blackhole").count() == 2, "{rules}");
    for fabric in [&one, &other, &one] {
        fabric.mend().await.expect("mend");
        assert_eq!(world.machine.ok("ip -4 rule show"), rules);
    }
    one.detach(wire.lease).await.expect("detach");
    second.reaches(PUBLIC, PORT);
    world.machine.ok("nft flush ruleset");
    assert_eq!(second.asks(PUBLIC, PORT), None, "still shut without its rules");
    other.detach(others.lease).await.expect("detach");
    drop(first);
    let without_filter =
        |traces: String| traces.lines().take_while(|l| !l.starts_with("table")).count();
    assert_eq!(without_filter(world.traces()), without_filter(before), "something is left");
}

/// A wire whose address is out of the subnet of an earlier start would stay open when somebody removes the rules, or be shut.
#[tokio::test]
async fn wires_of_an_earlier_subnet_are_kept() {
    let Some(mut world) = World::new() else { return };
    world.outside.serves_tcp(PORT);
    world.config.subnet = Some("10.77.0.0/24".parse().expect("subnet"));
    let before = world.traces();
    let (place, wire) = tenant(&world.fabric().await).await;
    world.config.subnet = Some("10.78.0.0/24".parse().expect("subnet"));
    let fabric = world.fabric().await;
    let (other, others) = tenant(&fabric).await;
    for place in [&place, &other] {
        place.reaches(PUBLIC, PORT);
    }
    world.machine.ok("nft flush ruleset");
    world.machine.ok("iptables -P FORWARD DROP");
    for place in [&place, &other] {
        assert_eq!(place.reachable(&[(PUBLIC, PORT), (FORBIDDEN[2], PORT)]), []);
    }
    fabric.mend().await.expect("mend");
    fabric.detach(others.lease).await.expect("detach");
    place.reaches(PUBLIC, PORT);
    fabric.detach(wire.lease).await.expect("detach");
    assert_eq!(world.traces(), before, "something is left");
}

/// A machine with several ways out copies marks of connections to packets, and its tenants would have no network.
#[tokio::test]
async fn marks_of_others_do_not_shut_wires() {
    let Some(world) = World::new() else { return };
    world.outside.serves_tcp(PORT);
    world.machine.ok("nft add table ip ways");
    world.machine.ok("nft add chain ip ways pre { type filter hook prerouting priority -150 ; }");
    world.machine.ok("nft add rule ip ways pre meta mark set ct mark");
    let fabric = world.fabric().await;
    let (place, _) = tenant(&fabric).await;
    place.reaches(PUBLIC, PORT);
}

fn number(id: &str) -> u32 {
    let digest = Sha256::digest(id.as_bytes());
    let [a, b, c, d, ..] = *digest else { unreachable!("a digest has 32 bytes") };
    u32::from_be_bytes([a, b, c, d])
}

/// Another node on the same machine.
async fn neighbour(world: &World, is_wanted: impl Fn(&str) -> bool) -> Fabric {
    let ids = (0_u32..).map(|count| format!("neighbour-{count}"));
    let mut config = world.config.clone();
    config.node_id = ids.into_iter().find(|id| is_wanted(id)).expect("endless");
    Fabric::open(config).await.expect("open")
}
