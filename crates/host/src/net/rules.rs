//! The packet filter's rules for tenants: one table of our own, named by the node, loaded in one step.
//!
//! A tenant reaches public addresses and the named resolvers, and nothing else: not the machine, not its networks, not other
//! tenants, not the addresses that clouds answer on. Its packets carry its own address or go nowhere. Only answers come back.
//! What is let in is marked, and without the mark the machine's routing knows no way to or from a tenant. It is marked last,
//! behind whatever else on the machine sets marks.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::gate::MARK;
use super::names::{End, Label, Node, hardware};
use super::program::Program;
use super::{Cidr, NetError};

/// What no tenant may reach: private and shared addresses, this machine, links, cloud metadata, multicast, nowhere. The last is
/// a public address that one cloud answers its machines on.
const NEVER: [(Ipv4Addr, u8); 13] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];
/// Ports of mail: what spam needs and rented machines do not.
const MAIL_PORTS: &str = "{ 25, 465, 587 }";
/// A limited tenant may send an eighth of a second's worth at once, and at least this.
const BURST_KIB_MIN: u64 = 256;
const BITS_PER_KIB: u64 = 8 * 1024;
const BURSTS_PER_SECOND: u64 = 8;
/// Places in the sets that grow by themselves; one for each address that a subnet can have.
const DYNAMIC_MAX: u32 = 1 << 20;

/// What the rules depend on beside the wires.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    /// Where tenants' addresses come from, and addresses of wires that came from elsewhere.
    pub(super) ranges: Vec<Cidr>,
    pub(super) denied: Vec<Cidr>,
    pub(super) resolvers: Vec<Ipv4Addr>,
    pub(super) bits_per_second: Option<u64>,
    pub(super) connections_max: u32,
}

/// A wire, as the rules know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wired<'a> {
    pub(super) link: &'a str,
    pub(super) label: &'a Label,
}

/// What the packet filter holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) rules: usize,
    /// Links with the address that may be used on each, sorted.
    pub(super) wires: Vec<(String, String)>,
}

/// The addresses that no tenant may reach, whatever the machine's networks are.
pub(super) fn never() -> impl Iterator<Item = Cidr> {
    NEVER.into_iter().map(|(first, prefix)| Cidr::around(first, prefix))
}

/// Puts the table in place of the one that is there, in one step.
pub(super) fn load(
    nft: &Program,
    node: &Node,
    policy: &Policy,
    wires: &[Wired<'_>],
) -> Result<(), NetError> {
    nft.must("load the tenants' rules", &["-f", "-"], &whole(node, policy, wires)).map(drop)
}

/// Removes the table. Removing what is not there succeeds, and tells nobody: whoever hears of removals would look what it was.
pub(super) fn unload(nft: &Program, node: &Node) -> Result<(), NetError> {
    let table = node.table();
    let shown = nft.must("list tables", &["list", "tables", "inet"], "")?;
    if !shown.split_ascii_whitespace().any(|word| word == table) {
        return Ok(());
    }
    let text = format!("add table inet {table}\ndelete table inet {table}\n");
    nft.must("remove the tenants' rules", &["-f", "-"], &text).map(drop)
}

/// Lets a wire through.
pub(super) fn add(nft: &Program, node: &Node, wire: Wired<'_>) -> Result<(), NetError> {
    let text = elements(node, "add", wire);
    nft.must("let a wire through", &["-f", "-"], &text)?;
    forget(nft, node, wire.label.address)
}

/// Stops letting a wire through. Fails where it was not let through.
pub(super) fn remove(nft: &Program, node: &Node, wire: Wired<'_>) -> Result<(), NetError> {
    nft.must("shut a wire", &["-f", "-"], &elements(node, "delete", wire))?;
    forget(nft, node, wire.label.address)
}

/// Replaces what no tenant may reach, and nothing else.
pub(super) fn deny(nft: &Program, node: &Node, denied: &[Cidr]) -> Result<(), NetError> {
    let table = node.table();
    let text = format!(
        "flush set inet {table} denied\nadd element inet {table} denied {{ {} }}\n",
        joined(denied)
    );
    nft.must("renew the closed networks", &["-f", "-"], &text).map(drop)
}

/// What the packet filter holds of the node; nothing where there is no table.
pub(super) fn held(nft: &Program, node: &Node) -> Result<Option<Held>, NetError> {
    let table = node.table();
    let ran = nft.run("list the tenants' rules", &["-j", "list", "table", "inet", &table], "")?;
    Ok(if ran.is_ok { parse(&ran.output) } else { None })
}

/// What an address was counted for belongs to its last tenant.
fn forget(nft: &Program, node: &Node, address: Ipv4Addr) -> Result<(), NetError> {
    for set in ["flows", "rates"] {
        let text = format!("delete element inet {} {set} {{ {address} }}\n", node.table());
        // Mostly there is nothing to forget, which the program calls a failure.
        nft.run("forget counts", &["-f", "-"], &text)?;
    }
    Ok(())
}

fn elements(node: &Node, verb: &str, wire: Wired<'_>) -> String {
    let (table, Wired { link, label }) = (node.table(), wire);
    let Label { address, mark, .. } = label;
    let hardware = hardware(*address, End::Tenant);
    format!(
        "{verb} element inet {table} wires {{ \"{link}\" . {hardware} . {address} }}\n\
         {verb} element inet {table} marks {{ \"{link}\" : 0x{mark:08x} }}\n\
         {verb} element inet {table} owners {{ \"{link}\" . 0x{mark:08x} }}\n"
    )
}

fn whole(node: &Node, policy: &Policy, wires: &[Wired<'_>]) -> String {
    let (table, links) = (node.table(), format!("\"{}*\"", node.prefix()));
    let (denied, resolvers) = (joined(&policy.denied), joined(&policy.resolvers));
    let rate = policy.bits_per_second.map_or_else(String::new, rate);
    let (connections_max, ranges) = (policy.connections_max, joined(&policy.ranges));
    let mut text = format!(
        r#"add table inet {table}
delete table inet {table}
table inet {table} {{
  set wires {{ type ifname . ether_addr . ipv4_addr; }}
  map marks {{ type ifname : mark; }}
  set owners {{ type ifname . mark; }}
  set denied {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {denied} }}; }}
  set resolvers {{ type ipv4_addr; elements = {{ {resolvers} }}; }}
  set flows {{ type ipv4_addr; size {DYNAMIC_MAX}; flags dynamic; }}
  set rates {{ type ipv4_addr; size {DYNAMIC_MAX}; flags dynamic; }}
  chain enter {{
    type filter hook prerouting priority -310; policy accept;
    iifname != {links} accept
    meta nfproto != ipv4 counter drop
    iifname . ether saddr . ip saddr != @wires counter drop
{rate}  }}
  chain marked {{
    type filter hook prerouting priority -90; policy accept;
    iifname . ether saddr . ip saddr @wires meta mark set meta mark or 0x{MARK:08x} accept
    iifname {links} accept
    ip daddr {{ {ranges} }} ct state established,related meta mark set meta mark or 0x{MARK:08x}
  }}
  chain machine {{
    type filter hook input priority -10; policy accept;
    iifname != {links} accept
    ip daddr @resolvers udp dport 53 accept
    ip daddr @resolvers tcp dport 53 accept
    counter drop
  }}
  chain pass {{
    type filter hook forward priority -10; policy accept;
    iifname {links} goto from_tenant
    oifname {links} goto to_tenant
  }}
  chain from_tenant {{
    oifname {links} counter drop
    ct state established,related iifname . ct mark @owners accept
    ct state != new counter drop
    ip daddr @resolvers udp dport 53 goto open
    ip daddr @resolvers tcp dport 53 goto open
    ip daddr @denied counter drop
    tcp dport {MAIL_PORTS} counter drop
    goto open
  }}
  chain open {{
    add @flows {{ ip saddr ct count over {connections_max} }} counter drop
    ct mark set iifname map @marks
    tcp flags syn tcp option maxseg size set rt mtu
    accept
  }}
  chain to_tenant {{
    ct state established,related oifname . ct mark @owners accept
    counter drop
  }}
  chain leave {{
    type nat hook postrouting priority 100; policy accept;
    iifname {links} masquerade
  }}
}}
"#
    );
    text.push_str(&news(&table, &ranges));
    text.extend(wires.iter().map(|wire| elements(node, "add", *wire)));
    text
}

/// Marks what the machine says to a tenant about its packets, where their sender was translated: then the way is looked for
/// once more, behind this, and no more by what the message is.
fn news(table: &str, ranges: &str) -> String {
    format!(
        "table inet {table} {{\n\
         chain news {{\n\
         type filter hook output priority -150; policy accept;\n\
         ip daddr {{ {ranges} }} icmp type {{ destination-unreachable, time-exceeded }} \
         meta mark set meta mark or 0x{MARK:08x}\n\
         }}\n\
         }}\n"
    )
}

fn rate(bits_per_second: u64) -> String {
    let kib = (bits_per_second / BITS_PER_KIB).max(1);
    let burst = (kib / BURSTS_PER_SECOND).max(BURST_KIB_MIN);
    format!(
        "    update @rates {{ ip saddr limit rate over {kib} kbytes/second burst {burst} kbytes }} \
         counter drop\n"
    )
}

fn joined<T: std::fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a text cannot fail.
        let _ = write!(text, "{comma}{item}");
    }
    text
}

fn parse(text: &str) -> Option<Held> {
    let listed: Value = serde_json::from_str(text).ok()?;
    let objects = listed.get("nftables")?.as_array()?;
    let rules = objects.iter().filter(|object| object.get("rule").is_some()).count();
    let sets = objects.iter().filter_map(|object| object.get("set"));
    let mut wires = Vec::new();
    for set in sets.filter(|set| set.get("name").is_some_and(|name| name == "wires")) {
        for element in set.get("elem").and_then(Value::as_array).into_iter().flatten() {
            let parts = element.get("concat")?;
            let part = |at: usize| parts.get(at).and_then(Value::as_str).map(str::to_owned);
            wires.push((part(0)?, part(2)?));
        }
    }
    wires.sort();
    Some(Held { rules, wires })
}
