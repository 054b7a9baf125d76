//! What keeps wires shut while the packet filter's rules are not there: the machine's routing.
//!
//! The rules mark what they let through. The routing knows no way to a tenant but for marked packets, and the kernel takes no
//! packet from a wire whose sender it knows no way back to (`rp_filter`, with `src_valid_mark` it asks with the packet's
//! mark). So without the rules there is no mark, and without a mark nothing enters from a wire or leaves by one, neither to
//! this machine nor through it. Neither of the two is opened by whoever removes the other.
//!
//! One thing the machine says to a tenant by itself, and nobody can mark it: what became of the tenant's packet, above all that
//! it is too large for the way out. The kernel looks the way for that up before any rule of the packet filter sees it; then the
//! rules mark it, for the second look where addresses were translated.

use std::fmt;
use std::net::Ipv4Addr;

use super::names::Node;
use super::program::Program;
use super::{Cidr, NetError};

/// The bit of a packet's mark that says that the rules have let it through. Engines, meshes and the kernel's own helpers use
/// others.
pub(super) const MARK: u32 = 0x0200_0000;
/// Places of routing rules, behind the table of the machine's own addresses and before the main one.
const FIRST_PLACE: u32 = 20_000;
const PLACES: u32 = 10_000;
/// Numbers that say who made a rule; routing daemons use lower ones. Two nodes in one place differ in it.
const FIRST_MAKER: u32 = 200;
const MAKERS: u32 = 50;
/// Messages about a packet that could not go on (3) or was on its way too long (11), each with all its codes: where routing
/// rules have a port the kernel has a message's type and code. What a tenant sends has no such number there, so that this does
/// not let its sender pass.
const NEWS: [&str; 2] = ["768-783", "2816-2817"];
/// Rules of one node that are removed at once: those of every wire that can be.
const RULES_MAX: usize = 65_536;

/// Shuts the ranges to everything that is not marked, unless they are. Whatever of the node stands in its place goes.
pub(super) fn shut(
    ip: &Program,
    node: &Node,
    ranges: &[Cidr],
    resolvers: &[Ipv4Addr],
) -> Result<(), NetError> {
    let (place, old) = (Place::of(node), count(ip, node)?);
    let mut rules = Vec::new();
    for range in ranges {
        rules.push(format!("to {range} fwmark 0x{MARK:x}/0x{MARK:x} lookup main"));
        // A resolver on this machine answers on its own, and nobody marks that.
        for resolver in resolvers {
            rules.extend(["udp", "tcp"].map(|protocol| {
                format!("from {resolver} to {range} ipproto {protocol} sport 53 lookup main")
            }));
        }
        rules.extend(
            NEWS.map(|news| format!("iif lo to {range} ipproto icmp dport {news} lookup main")),
        );
        rules.push(format!("to {range} blackhole"));
    }
    let added: String = rules.iter().map(|rule| format!("rule add {place} {rule}\n")).collect();
    let text = format!("rule del {place}\n").repeat(old) + &added;
    ip.must("shut the tenants' addresses", &["-4", "-batch", "-"], &text).map(drop)
}

/// Takes the node's rules away. Taking away what is not there succeeds.
pub(super) fn remove(ip: &Program, node: &Node) -> Result<(), NetError> {
    let old = count(ip, node)?;
    if old == 0 {
        return Ok(());
    }
    let text = format!("rule del {}\n", Place::of(node)).repeat(old);
    ip.must("open the tenants' addresses", &["-4", "-batch", "-"], &text).map(drop)
}

/// The node's rules as the machine shows them, to see later whether somebody changed them.
pub(super) fn shown(ip: &Program, node: &Node) -> Result<String, NetError> {
    // The listing of one place needs a newer program than the listing of all.
    let all = ip.must("list routing rules", &["-N", "-4", "rule", "show"], "")?;
    let Place { place, maker } = Place::of(node);
    let (first, last) = (format!("{place}:"), format!(" proto {maker}"));
    let lines = all.lines().map(str::trim_end);
    let own = lines.filter(|line| line.starts_with(&first) && line.ends_with(&last));
    Ok(own.collect::<Vec<_>>().join("\n"))
}

fn count(ip: &Program, node: &Node) -> Result<usize, NetError> {
    Ok(shown(ip, node)?.lines().count().min(RULES_MAX))
}

/// Where a node's rules stand and whose they are. Other nodes of the machine may stand in the same place.
#[derive(Debug, Clone, Copy)]
struct Place {
    place: u32,
    maker: u32,
}

impl Place {
    fn of(node: &Node) -> Self {
        let number = node.number();
        let place = FIRST_PLACE.saturating_add(number % PLACES);
        Self { place, maker: FIRST_MAKER.saturating_add((number / PLACES) % MAKERS) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pref {} protocol {}", self.place, self.maker)
    }
}
