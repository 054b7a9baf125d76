//! What the machine's own network looks like: the networks that it is connected to, and a subnet that nobody uses.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

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
/// Routes that are read; a machine with the routes of the whole world is no provider.
const ROUTES_MAX: usize = 65_536;

/// One route of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) link: String,
    pub(super) to: Cidr,
    /// Whether the destination is on the link itself.
    pub(super) is_direct: bool,
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
    let (to, gateway) = (address()?, address()?);
    let mask = u32::from_str_radix(words.nth(4)?, 16).ok()?;
    let prefix = u8::try_from(mask.count_ones()).ok()?;
    let to = Cidr::new(to, prefix).ok()?;
    (prefix > 0).then(|| Route { link, to, is_direct: gateway.is_unspecified() })
}

/// The networks that the machine is connected to, tenants' wires aside.
pub(super) fn neighbours(routes: &[Route], node: &Node) -> Vec<Cidr> {
    let others = routes.iter().filter(|route| route.is_direct && !node.is_link(&route.link));
    let mut networks: Vec<Cidr> = others.map(|route| route.to).collect();
    networks.sort_unstable();
    networks.dedup();
    networks
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

    /// A connected network that is not seen stays open to every tenant.
    #[test]
    fn connected_networks_are_read() {
        let lines = [
            "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0",
            "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
            "eth0\t0000A8C0\t010200C0\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0",
            "nonsense",
            "eth0 zz zz",
        ];
        let routes: Vec<Route> = lines.iter().filter_map(|line| parse(line)).collect();
        let node = Node::new("n");
        assert_eq!(neighbours(&routes, &node), [cidr("172.17.0.0/16"), cidr("192.0.2.0/24")]);
        let to: Vec<Cidr> = routes.iter().map(|route| route.to).collect();
        assert!(to.contains(&cidr("192.168.0.0/16")), "routed networks count as used: {to:?}");
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
