//! The network's acts, one at a time.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nicompute_market::LeaseId;

use super::links::{self, Ends, Link, State};
use super::names::{Label, Node};
use super::namespace::Namespace;
use super::program::Program;
use super::rules::{self, Held, Policy, Wired};
use super::{
    BITS_PER_SECOND_MIN, Cidr, DENIED_MAX, Forwarding, NetConfig, NetError, RESOLVERS_MAX,
    SUBNET_PREFIXES, Wire, filter, gate, routes,
};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// The place of the address that tenants send everything to.
const GATEWAY_PLACE: u32 = 1;
/// The first place of a tenant.
const FIRST_PLACE: u32 = 2;
/// Private ranges; a subnet out of another one would hide public addresses from the machine.
const PRIVATE: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
];

/// The machine as the network sees it.
#[derive(Debug)]
pub(super) struct Machine {
    config: NetConfig,
    resolvers: Vec<Ipv4Addr>,
    node: Node,
    subnet: Cidr,
    ip: Program,
    nft: Program,
    iptables: Option<Program>,
    /// What is loaded, where that is known; held while anything is changed.
    loaded: Mutex<Option<Loaded>>,
}

/// The table that was loaded last.
#[derive(Debug, Clone)]
struct Loaded {
    denied: Vec<Cidr>,
    /// Where tenants' addresses are.
    ranges: Vec<Cidr>,
    rules: usize,
    /// The routing's own rules.
    gate: String,
    /// The largest packet of a wire.
    mtu: Option<u32>,
}

impl Machine {
    pub(super) fn open(config: NetConfig) -> Result<Self, NetError> {
        let resolvers = check(&config)?;
        if !rustix::process::geteuid().is_root() {
            return Err(NetError::NotRoot);
        }
        let (ip, nft) = (Program::find("ip")?, Program::find("nft")?);
        let iptables = Program::find("iptables").ok();
        forwarding(config.forwarding)?;
        let node = Node::new(&config.node_id);
        let used = routes::used(&ip, &node)?;
        let subnet = match config.subnet {
            Some(subnet) => match used.into_iter().find(|used| used.overlaps(subnet)) {
                Some(used) => return Err(NetError::SubnetTaken { subnet, used }),
                None => subnet,
            },
            None => routes::choose(&used, &node)?,
        };
        let loaded = Mutex::new(None);
        let machine = Self { config, resolvers, node, subnet, ip, nft, iptables, loaded };
        machine.take_over()?;
        Ok(machine)
    }

    pub(super) fn place(&self) -> Option<PathBuf> {
        self.config.machine.clone()
    }

    /// The packet filter's table of this node.
    pub(super) fn table(&self) -> String {
        self.node.table()
    }

    pub(super) const fn subnet(&self) -> Cidr {
        self.subnet
    }

    pub(super) fn resolvers(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.resolvers.iter().copied()
    }

    pub(super) fn attach(&self, lease: LeaseId, init_pid: u32) -> Result<Wire, NetError> {
        let mut loaded = self.lock();
        let namespace = Namespace::of_process(init_pid)?;
        if namespace.number() == Namespace::current()?.number() {
            return Err(NetError::NotIsolated { pid: init_pid });
        }
        let mut links = links::list(&self.ip, &self.node)?;
        let is_there = |link: &&Link| match &link.state {
            State::Whole(label) => label.lease == lease && label.namespace == namespace.number(),
            State::HalfMade | State::Foreign => false,
        };
        if let Some(wire) = links.iter().find(is_there).and_then(wire) {
            if loaded.is_none() {
                self.load(&mut loaded, &links)?;
            }
            if let Some(gateway) = self.subnet.at(GATEWAY_PLACE) {
                let ends = Ends { address: wire.address, gateway };
                links::know_gateway(&self.ip, &ends, &namespace)?;
            }
            return Ok(wire);
        }
        // Of an earlier start of this container, or of a node that was killed at this very work.
        let is_old = |link: &Link| match &link.state {
            State::Whole(label) => label.lease == lease || label.namespace == namespace.number(),
            State::HalfMade => true,
            State::Foreign => false,
        };
        for old in links.extract_if(.., |link| is_old(link)) {
            self.cut(&old)?;
        }
        if loaded.is_none() {
            self.load(&mut loaded, &links)?;
        }
        let (link, label) = self.plan(lease, &links, &namespace)?;
        let mtu = loaded.as_ref().and_then(|loaded| loaded.mtu).unwrap_or(routes::MTU_MAX);
        self.make(&link, &label, mtu, &namespace).inspect_err(|_| {
            // The cause is worth more than what the removal says; half made, it goes at the next call at the latest.
            drop(links::remove(&self.ip, &link));
        })?;
        Ok(Wire { lease, address: label.address, link, sent_bytes: 0, received_bytes: 0 })
    }

    pub(super) fn detach(&self, lease: LeaseId) -> Result<(), NetError> {
        let mut loaded = self.lock();
        let mut links = links::list(&self.ip, &self.node)?;
        let is_its =
            |link: &mut Link| matches!(&link.state, State::Whole(label) if label.lease == lease);
        let cut: Vec<Link> = links.extract_if(.., is_its).collect();
        for link in &cut {
            self.cut(link)?;
        }
        if cut.is_empty() {
            return Ok(());
        }
        self.tidy(&mut loaded, &links)
    }

    pub(super) fn list(&self) -> Result<Vec<Wire>, NetError> {
        let links = links::list(&self.ip, &self.node)?;
        Ok(links.iter().filter_map(wire).collect())
    }

    pub(super) fn sweep(&self, keep: &[LeaseId]) -> Result<usize, NetError> {
        self.cut_all(|label| !keep.contains(&label.lease))
    }

    pub(super) fn mend(&self) -> Result<(), NetError> {
        self.cut_all(|_| false).map(drop)
    }

    /// Removes what is half made and those whole wires, and makes the rules fit the rest.
    fn cut_all(&self, is_over: impl Fn(&Label) -> bool) -> Result<usize, NetError> {
        let mut loaded = self.lock();
        let mut links = links::list(&self.ip, &self.node)?;
        let is_left = |link: &mut Link| match &link.state {
            State::Whole(label) => is_over(label),
            State::HalfMade => true,
            State::Foreign => false,
        };
        let left: Vec<Link> = links.extract_if(.., is_left).collect();
        for link in &left {
            self.cut(link)?;
        }
        self.tidy(&mut loaded, &links)?;
        Ok(left.len())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads the rules once, so that a kernel that lacks something is known now; without a wire they go again.
    fn take_over(&self) -> Result<(), NetError> {
        let mut loaded = self.lock();
        let mut links = links::list(&self.ip, &self.node)?;
        for half in links.extract_if(.., |link| link.state == State::HalfMade) {
            self.cut(&half)?;
        }
        self.load(&mut loaded, &links)?;
        self.tidy(&mut loaded, &links)
    }

    /// What no tenant may reach.
    fn denied(&self, own: &[Cidr]) -> Vec<Cidr> {
        rules::never().chain(self.config.deny.iter().copied()).chain(own.iter().copied()).collect()
    }

    /// The subnet, and the address of each wire that was made while there was another subnet.
    fn ranges(&self, wired: &[Wired<'_>]) -> Vec<Cidr> {
        let addresses = wired.iter().map(|wire| wire.label.address);
        let strays = addresses.filter(|address| !self.subnet.contains(*address));
        let mut ranges: Vec<Cidr> = strays.map(|address| Cidr::around(address, 32)).collect();
        ranges.push(self.subnet);
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }

    /// Puts rules for exactly these links in place of what is there.
    fn load(&self, loaded: &mut Option<Loaded>, links: &[Link]) -> Result<(), NetError> {
        *loaded = None;
        let wired: Vec<Wired<'_>> = links.iter().filter_map(wired).collect();
        let routes = routes::look(&self.ip, &self.node)?;
        let policy = Policy {
            ranges: self.ranges(&wired),
            denied: self.denied(&routes.own),
            resolvers: self.resolvers.clone(),
            bits_per_second: self.config.egress_bits_per_second,
            connections_max: self.config.connections_max,
        };
        // Before the gate: a wire of an earlier version has no eye for marks yet, and nobody has marked its packets.
        for wire in &wired {
            links::heed_marks(wire.link)?;
        }
        rules::load(&self.nft, &self.node, &policy, &wired)?;
        gate::shut(&self.ip, &self.node, &policy.ranges, &self.resolvers)?;
        filter::admit(self.iptables.as_ref(), &self.nft, &self.node)?;
        let rules = rules::held(&self.nft, &self.node)?.map_or(0, |held| held.rules);
        let gate = gate::shown(&self.ip, &self.node)?;
        let Policy { denied, ranges, .. } = policy;
        *loaded = Some(Loaded { denied, ranges, rules, gate, mtu: routes.mtu });
        self.resize(links, routes.mtu);
        Ok(())
    }

    /// Makes the rules fit these links: none without a link, and whole again where somebody changed them.
    fn tidy(&self, loaded: &mut Option<Loaded>, links: &[Link]) -> Result<(), NetError> {
        let wired: Vec<Wired<'_>> = links.iter().filter_map(wired).collect();
        if wired.is_empty() {
            *loaded = None;
            filter::withdraw(self.iptables.as_ref(), &self.node)?;
            gate::remove(&self.ip, &self.node)?;
            return rules::unload(&self.nft, &self.node);
        }
        let mut wires: Vec<(String, String)> = wired
            .iter()
            .map(|wire| (wire.link.to_owned(), wire.label.address.to_string()))
            .collect();
        wires.sort();
        let held = rules::held(&self.nft, &self.node)?;
        let wanted = loaded.as_ref().map(|loaded| Held { rules: loaded.rules, wires });
        let (gate, ranges) = (gate::shown(&self.ip, &self.node)?, self.ranges(&wired));
        let is_whole = |loaded: &&mut Loaded| {
            held.is_some() && held == wanted && loaded.gate == gate && loaded.ranges == ranges
        };
        let Some(before) = loaded.as_mut().filter(is_whole) else {
            return self.load(loaded, links);
        };
        let routes = routes::look(&self.ip, &self.node)?;
        before.mtu = routes.mtu;
        self.resize(links, routes.mtu);
        let denied = self.denied(&routes.own);
        if before.denied != denied {
            rules::deny(&self.nft, &self.node, &denied)?;
            before.denied = denied;
        }
        filter::admit(self.iptables.as_ref(), &self.nft, &self.node)
    }

    /// Makes wires carry what the way out carries, and no more. A wire whose far end is not found or does as it likes stays as
    /// it is: its tenant is told by messages what is too large.
    fn resize(&self, links: &[Link], mtu: Option<u32>) {
        let Some(mtu) = mtu else { return };
        for link in links.iter().filter(|link| link.mtu != mtu) {
            let namespace = wired(link).and_then(|wire| Namespace::find(wire.label.namespace));
            if let Some(namespace) = namespace {
                drop(links::resize(&self.ip, &link.name, mtu, &namespace));
            }
        }
    }

    /// A free address with everything that follows from it.
    fn plan(
        &self,
        lease: LeaseId,
        links: &[Link],
        namespace: &Namespace,
    ) -> Result<(String, Label), NetError> {
        let random = random()?;
        // Also another node's on the same machine.
        let routed = routes::all()?;
        let is_free = |place: &u32| {
            let name = self.node.link(*place);
            let address = self.subnet.at(*place);
            !links.iter().any(|link| link.name == name)
                && address.is_some_and(|address| {
                    let single = Cidr::around(address, 32);
                    !routed.iter().any(|route| route.to == single)
                        && !links.iter().filter_map(wired).any(|w| w.label.address == address)
                })
        };
        // The last address of a subnet is everybody's.
        let count = self.subnet.last_place().saturating_sub(FIRST_PLACE).max(1);
        let start = random.place % count;
        let places = (0..count).map(|step| FIRST_PLACE + (start + step) % count);
        let place = places.into_iter().find(is_free);
        let address = place.and_then(|place| self.subnet.at(place));
        let (Some(place), Some(address)) = (place, address) else {
            return Err(NetError::Full { subnet: self.subnet });
        };
        let label = Label { lease, address, mark: random.mark, namespace: namespace.number() };
        Ok((self.node.link(place), label))
    }

    /// Rules first: a wire that is up before its rules would carry nothing, one after them carries what they allow.
    fn make(
        &self,
        link: &str,
        label: &Label,
        mtu: u32,
        namespace: &Namespace,
    ) -> Result<(), NetError> {
        rules::add(&self.nft, &self.node, Wired { link, label })?;
        let gateway = self.subnet.at(GATEWAY_PLACE);
        let gateway = gateway.ok_or(NetError::Full { subnet: self.subnet })?;
        let ends = Ends { address: label.address, gateway };
        links::make(&self.ip, link, &ends, mtu, namespace)?;
        links::finish(&self.ip, link, &self.node.label(label))
    }

    /// Removes a link and what the rules know of it.
    fn cut(&self, link: &Link) -> Result<(), NetError> {
        links::remove(&self.ip, &link.name)?;
        if let Some(wired) = wired(link) {
            // What the rules do not know any more, or know otherwise, is found by `tidy`.
            drop(rules::remove(&self.nft, &self.node, wired));
        }
        Ok(())
    }
}

struct Random {
    place: u32,
    mark: u32,
}

/// Addresses are drawn, so that the last tenant's is rarely the next one's.
fn random() -> Result<Random, NetError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| NetError::Io {
        act: "read",
        path: "the system's random numbers".into(),
        source: error.into(),
    })?;
    let [a, b, c, d, e, f, g, h] = bytes;
    // Zero is what connections of others carry; and whoever copies marks of connections to packets must not let them in.
    let mark = (u32::from_ne_bytes([e, f, g, h]) & !gate::MARK).max(1);
    Ok(Random { place: u32::from_ne_bytes([a, b, c, d]), mark })
}

fn wired(link: &Link) -> Option<Wired<'_>> {
    match &link.state {
        State::Whole(label) => Some(Wired { link: &link.name, label }),
        State::HalfMade | State::Foreign => None,
    }
}

fn wire(link: &Link) -> Option<Wire> {
    let label = wired(link)?.label;
    Some(Wire {
        lease: label.lease,
        address: label.address,
        link: link.name.clone(),
        sent_bytes: link.sent_bytes,
        received_bytes: link.received_bytes,
    })
}

fn check(config: &NetConfig) -> Result<Vec<Ipv4Addr>, NetError> {
    let bad = |field, rule| Err(NetError::BadSetting { field, rule });
    if config.deny.len() > DENIED_MAX {
        return bad("the list of closed networks", "may have 1024 ranges");
    }
    if let Some(subnet) = config.subnet {
        let is_private = PRIVATE.iter().any(|(first, prefix)| {
            let private = Cidr::around(*first, *prefix);
            private.overlaps(subnet) && private.prefix() <= subnet.prefix()
        });
        if !is_private || !SUBNET_PREFIXES.contains(&subnet.prefix()) {
            return bad(
                "the subnet",
                "must be of private addresses, with a prefix of 8 to 29 bits",
            );
        }
    }
    if config.egress_bits_per_second.is_some_and(|bits| bits < BITS_PER_SECOND_MIN) {
        return bad("the limit of what a lease sends", "must be at least 64000 bits per second");
    }
    if config.connections_max == 0 {
        return bad("the number of a lease's connections", "must be at least 1");
    }
    if config.dns.is_empty() || config.dns.len() > RESOLVERS_MAX {
        return bad("the list of resolvers", "must have 1 to 3 addresses");
    }
    let mut resolvers = Vec::new();
    for resolver in &config.dns {
        let IpAddr::V4(address) = *resolver else {
            return bad("the list of resolvers", "must be of IPv4 addresses: tenants have no IPv6");
        };
        let is_host = !address.is_unspecified() && !address.is_loopback();
        if !is_host || address.is_multicast() || address.is_broadcast() {
            return bad("the list of resolvers", "must be of addresses that tenants can reach");
        }
        resolvers.push(address);
    }
    resolvers.sort_unstable();
    resolvers.dedup();
    Ok(resolvers)
}

fn forwarding(forwarding: Forwarding) -> Result<(), NetError> {
    let failed = |act| move |source| NetError::Io { act, path: IP_FORWARD.into(), source };
    let is_on = fs::read_to_string(IP_FORWARD).map_err(failed("read"))?.trim() == "1";
    match forwarding {
        _ if is_on => Ok(()),
        Forwarding::MustBeOn => Err(NetError::ForwardingOff),
        Forwarding::TurnOn => fs::write(IP_FORWARD, "1").map_err(failed("write")),
    }
}
