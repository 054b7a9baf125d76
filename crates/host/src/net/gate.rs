//! What keeps wires shut while the packet filter's rules are not there: the machine's routing.
//!
//! The rules mark what they let through. The routing knows no way to a tenant but for marked packets, and the kernel takes no
//! packet from a wire whose sender it knows no way back to (`rp_filter`, with `src_valid_mark` it asks with the packet's
//! mark). So without the rules there is no mark, and without a mark nothing enters from a wire or leaves by one, neither to
//! this machine nor through it. Neither of the two is opened by whoever removes the other.

use std::net::Ipv4Addr;

use super::names::Node;
use super::program::Program;
use super::{Cidr, NetError};

/// The bit of a packet's mark that says that the rules have let it through. Engines, meshes and the kernel's own helpers use
/// others.
pub(super) const MARK: u32 = 0x0200_0000;
/// Places of routing rules, one for each node, behind the table of the machine's own addresses and before the main one.
const FIRST_PLACE: u32 = 20_000;
const PLACES: u32 = 10_000;
/// Rules of one node that are removed at once; there are eight.
const RULES_MAX: usize = 64;

/// Shuts the subnet to everything that is not marked, unless it is. Whatever stands in the node's place goes.
pub(super) fn shut(
    ip: &Program,
    node: &Node,
    subnet: Cidr,
    resolvers: &[Ipv4Addr],
) -> Result<(), NetError> {
    let (place, old) = (place(node).to_string(), count(ip, node)?);
    let mut rules = vec![format!("to {subnet} fwmark 0x{MARK:x}/0x{MARK:x} lookup main")];
    // A resolver on this machine answers on its own, and nobody marks that.
    for resolver in resolvers {
        rules.extend(["udp", "tcp"].map(|protocol| {
            format!("from {resolver} to {subnet} ipproto {protocol} sport 53 lookup main")
        }));
    }
    rules.push(format!("to {subnet} blackhole"));
    let added: String =
        rules.iter().flat_map(|rule| ["rule add pref ", &place, " ", rule, "\n"]).collect();
    let text = format!("rule del pref {place}\n").repeat(old) + &added;
    ip.must("shut the tenants' addresses", &["-4", "-batch", "-"], &text).map(drop)
}

/// Takes the node's rules away. Taking away what is not there succeeds.
pub(super) fn remove(ip: &Program, node: &Node) -> Result<(), NetError> {
    let old = count(ip, node)?;
    if old == 0 {
        return Ok(());
    }
    let text = format!("rule del pref {}\n", place(node)).repeat(old);
    ip.must("open the tenants' addresses", &["-4", "-batch", "-"], &text).map(drop)
}

/// The node's rules as the machine shows them, to see later whether somebody changed them.
pub(super) fn shown(ip: &Program, node: &Node) -> Result<String, NetError> {
    // The listing of one place needs a newer program than the listing of all.
    let all = ip.must("list routing rules", &["-4", "rule", "show"], "")?;
    let own = format!("{}:", place(node));
    let lines = all.lines().filter(|line| line.starts_with(&own));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn count(ip: &Program, node: &Node) -> Result<usize, NetError> {
    Ok(shown(ip, node)?.lines().count().min(RULES_MAX))
}

fn place(node: &Node) -> u32 {
    FIRST_PLACE.saturating_add(node.number() % PLACES)
}
