//! What the machine's own network looks like: the networks that it is connected to, its way out, and a subnet that nobody uses.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::links;
use super::names::Node;
use super::program::Program;
use super::{Cidr, NetError};

/// Ranges out of which a subnet is chosen where none is named, in this order.
const POOLS: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
];
/// A chosen subnet's prefix: four thousand addresses.
const CHOSEN_PREFIX: u8 = 20;
/// A wider route leads to the internet, as halves of it do beside a tunnel; private ranges are closed anyway.
const OWN_PREFIX_MIN: u8 = 6;
/// The provider's own networks; more are a router's that knows the routes of the whole world.
const OWN_MAX: usize = 8_192;
/// Routes that are read; a machine with the routes of the whole world is no provider.
const ROUTES_MAX: usize = 65_536;

/// The largest packet of a wire, where the way out carries larger ones: the internet beyond it does not.
pub(super) const MTU_MAX: u32 = 1500;
/// The smallest: what every host of the internet takes.
const MTU_MIN: u32 = 576;
/// Links that are looked at for the way out; machines have one or two.
const WAYS_MAX: usize = 16;
/// Where no packet leads out: multicast, and what is for nobody.
const NOWHERE: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 3);

/// One route of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) link: String,
    pub(super) to: Cidr,
}

/// What `ip -j route show` says of one route.
#[derive(Debug, Deserialize)]
struct ShownRoute {
    #[serde(default)]
    dst: String,
    #[serde(default)]
    dev: Option<String>,
    /// Nothing for a route that leads somewhere.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    nexthops: Vec<Hop>,
    /// Versions differ in how they show them.
    #[serde(default)]
    metrics: Value,
}

/// One of several ways of a route.
#[derive(Debug, Deserialize)]
struct Hop {
    #[serde(default)]
    dev: Option<String>,
}

/// What `ip -j link show` says of one link.
#[derive(Debug, Deserialize)]
struct ShownLink {
    #[serde(default)]
    mtu: Option<u32>,
}

/// What every routing table says.
#[derive(Debug)]
pub(super) struct Routes {
    /// The provider's own networks.
    pub(super) own: Vec<Cidr>,
    /// The largest packet that every way out carries, within what wires may have; nothing where no way leads out.
    pub(super) mtu: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    local: Option<Ipv4Addr>,
    prefixlen: Option<u8>,
}

/// The routes of this thread's network namespace, but for those that lead to everywhere.
pub(super) fn all() -> Result<Vec<Route>, NetError> {
    let path = PathBuf::from("/proc/thread-self/net/route");
    let text =
        fs::read_to_string(&path).map_err(|source| NetError::Io { act: "read", path, source })?;
    Ok(text.lines().skip(1).take(ROUTES_MAX).filter_map(parse).collect())
}

/// One line: link, destination, gateway, flags, three numbers, mask; addresses as the processor stores them.
fn parse(line: &str) -> Option<Route> {
    let mut words = line.split_ascii_whitespace();
    let link = words.next()?.to_owned();
    let mut address = || {
        let number = u32::from_str_radix(words.next()?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let (to, _gateway) = (address()?, address()?);
    let mask = u32::from_str_radix(words.nth(4)?, 16).ok()?;
    let prefix = u8::try_from(mask.count_ones()).ok()?;
    let to = Cidr::new(to, prefix).ok()?;
    (prefix > 0).then_some(Route { link, to })
}

/// Reads every routing table.
pub(super) fn look(ip: &Program, node: &Node) -> Result<Routes, NetError> {
    let text = ip.must("list routes", &["-j", "-4", "route", "show", "table", "all"], "")?;
    let shown: Vec<ShownRoute> = links::parse(&text, "list routes")?;
    Ok(Routes { own: own(&shown, node)?, mtu: mtu(ip, &ways_out(&shown))? })
}

/// Each link that leads out of the machine, with the largest packet that its route says, if it says one.
fn ways_out(shown: &[ShownRoute]) -> BTreeMap<&str, Option<u32>> {
    let nowhere = Cidr::around(NOWHERE.0, NOWHERE.1);
    let is_way_out = |route: &&ShownRoute| {
        let is_nowhere = |to: Cidr| to.prefix() >= nowhere.prefix() && to.overlaps(nowhere);
        let is_wide = |to: Cidr| to.prefix() < OWN_PREFIX_MIN && !is_nowhere(to);
        route.kind.as_deref().is_none_or(|kind| kind == "unicast")
            && (matches!(&*route.dst, "default" | "0.0.0.0/0")
                || parse_destination(&route.dst).is_some_and(is_wide))
    };
    let mut ways = BTreeMap::new();
    for route in shown.iter().take(ROUTES_MAX).filter(is_way_out) {
        let metrics = route.metrics.as_array().into_iter().flatten();
        let said = metrics.filter_map(|metric| metric.get("mtu")?.as_u64());
        let said = said.filter_map(|mtu| u32::try_from(mtu).ok()).min();
        let hops = route.nexthops.iter().map(|hop| &hop.dev);
        for link in hops.chain([&route.dev]).filter_map(Option::as_deref) {
            let way = ways.entry(link).or_insert(said);
            *way = (*way).into_iter().chain(said).min();
        }
    }
    ways
}

fn mtu(ip: &Program, ways: &BTreeMap<&str, Option<u32>>) -> Result<Option<u32>, NetError> {
    let mut smallest: Option<u32> = None;
    for (link, said) in ways.iter().take(WAYS_MAX) {
        // A link may go while it is looked at.
        let ran = ip.run("show a link", &["-j", "link", "show", "dev", link], "")?;
        let shown: Vec<ShownLink> =
            if ran.is_ok { links::parse(&ran.output, "show a link")? } else { Vec::new() };
        let its = shown.first().and_then(|link| link.mtu);
        smallest = [smallest, *said, its].into_iter().flatten().min();
    }
    Ok(smallest.map(|mtu| mtu.clamp(MTU_MIN, MTU_MAX)))
}

/// The provider's own networks, tenants' wires aside: what the machine is connected to, its addresses, and whatever else one
/// of its routing tables names, such as networks behind a router, a tunnel or a VRF. What is wider than any network of one
/// owner stands for the whole world.
fn own(shown: &[ShownRoute], node: &Node) -> Result<Vec<Cidr>, NetError> {
    let mut networks: Vec<Cidr> = shown
        .iter()
        .take(ROUTES_MAX)
        .filter(|route| route.dev.as_deref().is_none_or(|dev| !node.is_link(dev)))
        .filter_map(|route| parse_destination(&route.dst))
        .filter(|to| to.prefix() >= OWN_PREFIX_MIN)
        .collect();
    networks.sort_unstable();
    networks.dedup();
    if networks.len() > OWN_MAX {
        return Err(NetError::ManyRoutes { count: networks.len(), max: OWN_MAX });
    }
    Ok(networks)
}

/// One address, or a range; nothing for the default route.
fn parse_destination(text: &str) -> Option<Cidr> {
    match text.parse::<Ipv4Addr>() {
        Ok(single) => Some(Cidr::around(single, 32)),
        Err(_) => text.parse().ok(),
    }
}

/// Everything that the machine's routes and addresses use, tenants' wires aside.
pub(super) fn used(ip: &Program, node: &Node) -> Result<Vec<Cidr>, NetError> {
    let text = ip.must("list addresses", &["-j", "-4", "addr", "show"], "")?;
    let shown: Vec<Shown> = links::parse(&text, "list addresses")?;
    let mut used = Vec::new();
    for link in shown.iter().filter(|link| !node.is_link(&link.ifname)) {
        let addresses = link.addr_info.iter();
        used.extend(addresses.filter_map(|a| Some(Cidr::around(a.local?, a.prefixlen?))));
    }
    let routes = all()?;
    used.extend(routes.iter().filter(|r| !node.is_link(&r.link)).map(|route| route.to));
    Ok(used)
}

/// A subnet that overlaps nothing; the same node begins its search at the same place.
pub(super) fn choose(used: &[Cidr], node: &Node) -> Result<Cidr, NetError> {
    for (first, prefix) in POOLS {
        let pool = Cidr::around(first, prefix);
        let size = 1_u32 << (32 - CHOSEN_PREFIX);
        let count = 1_u32 << CHOSEN_PREFIX.saturating_sub(prefix);
        let start = node.number() % count;
        for step in 0..count {
            let place = (start.wrapping_add(step) % count).saturating_mul(size);
            let Some(first) = pool.at(place) else { continue };
            let subnet = Cidr::around(first, CHOSEN_PREFIX);
            if !used.iter().any(|used| used.overlaps(subnet)) {
                return Ok(subnet);
            }
        }
    }
    Err(NetError::NoSubnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    /// A subnet out of a routed network would cut that one off.
    #[test]
    fn routed_networks_are_used() {
        let lines = [
            "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0",
            "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
            "eth0\t0000A8C0\t010200C0\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0",
            "nonsense",
            "eth0 zz zz",
        ];
        let routes: Vec<Route> = lines.iter().filter_map(|line| parse(line)).collect();
        let to: Vec<Cidr> = routes.iter().map(|route| route.to).collect();
        assert!(to.contains(&cidr("192.168.0.0/16")), "routed networks count as used: {to:?}");
    }

    /// What is not understood must not close everything, nor leave a single address open.
    #[test]
    fn destinations_are_read() {
        for (text, range) in [("198.51.100.9", "198.51.100.9/32"), ("10.0.0.0/8", "10.0.0.0/8")] {
            assert_eq!(parse_destination(text), Some(cidr(range)), "{text}");
        }
        for text in ["default", "", "10.0.0.0/33", "nonsense"] {
            assert_eq!(parse_destination(text), None, "{text}");
        }
    }

    /// A way out that is overlooked stalls every upload through it; one that is none makes every packet small.
    #[test]
    fn ways_out_are_found_with_their_size() {
        let text = r#"[{"dst":"default","dev":"a","flags":[],"metrics":[{"mtu":1300}]},
            {"dst":"default","dev":"a","metric":7},
            {"dst":"default","table":"9","nexthops":[{"dev":"b","weight":1},{"dev":"c"}]},
            {"dst":"128.0.0.0/1","dev":"tunnel","metrics":[{"mtu":"lock 1280"}]},
            {"type":"blackhole","dst":"default"},
            {"type":"local","dst":"0.0.0.0/0","dev":"lo"},
            {"dst":"224.0.0.0/4","dev":"multicast"},
            {"dst":"10.0.0.0/8","dev":"lan"}]"#;
        let shown: Vec<ShownRoute> = links::parse(text, "list").unwrap();
        let ways: Vec<_> = ways_out(&shown).into_iter().collect();
        assert_eq!(ways, [("a", Some(1300)), ("b", None), ("c", None), ("tunnel", None)]);
    }

    /// A chosen subnet that hides the provider's own network cuts it off; a node that finds none must say so.
    #[test]
    fn subnets_are_chosen_beside_what_is_used() {
        let node = Node::new("n");
        let free = choose(&[], &node).unwrap();
        assert!(cidr("10.0.0.0/8").overlaps(free) && free.prefix() == CHOSEN_PREFIX);
        assert_eq!(choose(&[], &node).unwrap(), free, "the same again");
        let next = choose(&[free], &node).unwrap();
        assert!(!next.overlaps(free));
        let ten = cidr("10.0.0.0/8");
        assert!(cidr("100.64.0.0/10").overlaps(choose(&[ten], &node).unwrap()));
        assert!(matches!(choose(&[cidr("0.0.0.0/0")], &node), Err(NetError::NoSubnet)));
    }
}
