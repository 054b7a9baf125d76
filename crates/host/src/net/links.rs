//! The wires: one pair of virtual links for each lease, its far end in the container's network namespace.
//!
//! There is no bridge: every wire ends in the machine's own routing, with one address at its far end and a route to it. Tenants
//! share no Ethernet, so that they cannot take each other's place in it. A wire's label is written last and is the sign that it
//! is whole; a link of ours without one is half made and goes.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

use super::NetError;
use super::names::{End, Label, Node, hardware};
use super::namespace::Namespace;
use super::program::Program;

/// The tenant's end of a wire.
const INSIDE: &str = "eth0";
/// How the machine treats what comes from a wire: it forwards, answers for this wire's address alone, and believes neither
/// foreign sources nor redirections.
const MACHINE_SETTINGS: [(&str, &str); 8] = [
    ("ipv4/conf/{link}/forwarding", "1"),
    ("ipv4/conf/{link}/rp_filter", "1"),
    HEEDS_MARKS,
    ("ipv4/conf/{link}/arp_ignore", "1"),
    ("ipv4/conf/{link}/accept_redirects", "0"),
    ("ipv4/conf/{link}/send_redirects", "0"),
    ("ipv4/conf/{link}/proxy_arp", "0"),
    ("ipv6/conf/{link}/disable_ipv6", "1"),
];
/// The way back to a packet's sender is looked for with the packet's mark.
const HEEDS_MARKS: (&str, &str) = ("ipv4/conf/{link}/src_valid_mark", "1");
const TENANT_SETTINGS: [(&str, &str); 1] = [("ipv6/conf/{link}/disable_ipv6", "1")];

/// A link of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) state: State,
    /// The largest packet that the machine's end carries.
    pub(super) mtu: u32,
    /// Bytes that the tenant sent.
    pub(super) sent_bytes: u64,
    /// Bytes that the tenant received.
    pub(super) received_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Whole(Label),
    HalfMade,
    /// Its name is like ours and its label is not.
    Foreign,
}

/// What `ip -j -s link show` says of one link.
#[derive(Debug, Deserialize)]
struct Shown {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    ifalias: Option<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    stats64: Option<Stats>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    rx: Bytes,
    tx: Bytes,
}

#[derive(Debug, Deserialize)]
struct Bytes {
    bytes: u64,
}

/// Every link of the node.
pub(super) fn list(ip: &Program, node: &Node) -> Result<Vec<Link>, NetError> {
    let text = ip.must("list links", &["-j", "-s", "link", "show", "type", "veth"], "")?;
    let shown: Vec<Shown> = parse(&text, "list links")?;
    let ours = shown.into_iter().filter(|link| node.is_link(&link.ifname));
    Ok(ours
        .map(|link| {
            let state = match &link.ifalias {
                None => State::HalfMade,
                Some(text) => node.parse_label(text).map_or(State::Foreign, State::Whole),
            };
            let (sent_bytes, received_bytes) =
                link.stats64.map_or((0, 0), |stats| (stats.rx.bytes, stats.tx.bytes));
            Link { name: link.ifname, state, mtu: link.mtu, sent_bytes, received_bytes }
        })
        .collect())
}

/// Reads what `ip -j` printed; without any object it prints nothing.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    text: &str,
    act: &'static str,
) -> Result<Vec<T>, NetError> {
    // Links that are not of the asked type are printed as empty objects by some versions.
    let text = if text.trim().is_empty() { "[]" } else { text };
    serde_json::from_str(text).map_err(|error| NetError::Program {
        program: "ip",
        act,
        detail: format!("its answer makes no sense: {error}"),
    })
}

/// Makes a wire that is whole but for its label.
pub(super) fn make(
    ip: &Program,
    name: &str,
    wire: &Ends,
    mtu: u32,
    to: &Namespace,
) -> Result<(), NetError> {
    let Ends { address, gateway } = *wire;
    let (ours, theirs) = (hardware(address, End::Machine), hardware(address, End::Tenant));
    let namespace = to.path();
    let create = format!(
        "link add name {name} address {ours} mtu {mtu} type veth peer name {INSIDE} \
         address {theirs} mtu {mtu} netns {namespace}\n"
    );
    ip.must("make a wire", &["-batch", "-"], &create)?;
    set(&MACHINE_SETTINGS, name)?;
    let machine = format!(
        "addr add {gateway}/32 dev {name}\n\
         link set dev {name} up\n\
         route add {address}/32 dev {name}\n\
         neigh replace {address} lladdr {theirs} dev {name} nud permanent\n"
    );
    ip.must("set up a wire", &["-batch", "-"], &machine)?;
    to.inside(|| {
        set(&TENANT_SETTINGS, INSIDE)?;
        let tenant = format!(
            "link set dev lo up\n\
             addr add {address}/32 dev {INSIDE}\n\
             link set dev {INSIDE} up\n\
             neigh replace {gateway} lladdr {ours} dev {INSIDE} nud permanent\n\
             route add {gateway}/32 dev {INSIDE} scope link\n\
             route add default via {gateway} dev {INSIDE}\n"
        );
        ip.must("set up a wire's far end", &["-batch", "-"], &tenant).map(drop)
    })
}

/// Tells a tenant where its gateway is, which a wire of an earlier version asks for: nobody marks such questions, so that they
/// are not answered.
pub(super) fn know_gateway(ip: &Program, wire: &Ends, at: &Namespace) -> Result<(), NetError> {
    let Ends { address, gateway } = *wire;
    let ours = hardware(address, End::Machine);
    let text = format!("neigh replace {gateway} lladdr {ours} dev {INSIDE} nud permanent\n");
    at.inside(|| ip.must("name a tenant's gateway", &["-batch", "-"], &text).map(drop))
}

/// Makes both ends of a wire carry packets of that size. The machine's end comes last: it says that both do.
pub(super) fn resize(ip: &Program, name: &str, mtu: u32, to: &Namespace) -> Result<(), NetError> {
    let resize = |link| {
        let args = ["link", "set", "dev", link, "mtu", &mtu.to_string()];
        ip.must("resize a wire", &args, "").map(drop)
    };
    to.inside(|| resize(INSIDE))?;
    resize(name)
}

/// The addresses at a wire's two ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) address: Ipv4Addr,
    pub(super) gateway: Ipv4Addr,
}

/// Writes a wire's label: from now on it counts.
pub(super) fn finish(ip: &Program, name: &str, label: &str) -> Result<(), NetError> {
    ip.must("label a wire", &["link", "set", "dev", name, "alias", label], "").map(drop)
}

/// Makes a wire that an earlier version made heed marks, too.
pub(super) fn heed_marks(name: &str) -> Result<(), NetError> {
    set(&[HEEDS_MARKS], name)
}

/// Removes a link with its addresses and routes. Removing what is not there succeeds.
pub(super) fn remove(ip: &Program, name: &str) -> Result<(), NetError> {
    let ran = ip.run("remove a wire", &["link", "del", "dev", name], "")?;
    let is_gone = || {
        let shown = ip.run("look for a wire", &["link", "show", "dev", name], "");
        shown.is_ok_and(|shown| !shown.is_ok)
    };
    if ran.is_ok || is_gone() {
        return Ok(());
    }
    Err(NetError::Program { program: "ip", act: "remove a wire", detail: ran.complaint })
}

/// Writes settings of a link in the network namespace of this thread.
fn set(settings: &[(&str, &str)], link: &str) -> Result<(), NetError> {
    for (name, value) in settings {
        let path = PathBuf::from("/proc/sys/net").join(name.replace("{link}", link));
        match fs::write(&path, value) {
            // A kernel without IPv6 has nothing to shut.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("ipv6") => {}
            written => {
                written.map_err(|source| NetError::Io { act: "write", path, source })?;
            }
        }
    }
    Ok(())
}
