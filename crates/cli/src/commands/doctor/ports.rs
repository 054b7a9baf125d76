//! Whether others reach this machine's ports: another node tries them. Where no node of ours listens yet, the doctor itself
//! does while it is tried.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nicompute_client::{NodeDialer, NodeError};
use nicompute_daemon::{ErrorChain, SharedClock};
use nicompute_keys::Keypair;
use nicompute_market::Hotkey;
use nicompute_miner::PortRange;
use nicompute_wire::probe::{ProbeRequest, ProbeView};
use tokio::net::TcpListener;

use super::Patient;
use super::chain::Asked;
use super::finding::Finding;

const CHECK: &str = "ports";
/// How long one node may take: its own limits are half of it.
const BUDGET: Duration = Duration::from_secs(10);
/// Nodes that are asked in turn until one answers.
const NODES_MAX: usize = 5;
/// How far a node's clock may be off before somebody's is wrong.
const CLOCK_MS_MAX: u64 = 2_000;

pub(super) async fn findings(patient: &Patient<'_>, chain: Option<&Asked>) -> Vec<Finding> {
    let args = patient.args;
    let Ok(key) = args.keys.load_hotkey() else {
        return vec![Finding::skipped(CHECK, "without the hotkey no node can be asked")];
    };
    let nodes = match &args.from {
        Some(text) => match parse(text) {
            Some(node) => vec![node],
            None => {
                let what = "--from is not of the form HOTKEY@IP:PORT";
                return vec![
                    Finding::error(CHECK, what)
                        .remedy("nicompute subnet metagraph lists hotkeys and addresses"),
                ];
            }
        },
        None => chain.map(others).unwrap_or_default(),
    };
    if nodes.is_empty() {
        return vec![
            Finding::warning(CHECK, "no other node is known that could try this machine's ports")
                .remedy("name one: --from HOTKEY@IP:PORT"),
        ];
    }
    let ports = tried(args.axon_port, args.ssh_port, args.ports);
    let _held = hold(&ports).await;
    try_from_outside(patient, &key, &nodes, &ports).await
}

/// The doors, and both ends of what tenants get: a firewall that lets those through lets all of it.
fn tried(axon: u16, ssh: u16, range: Option<PortRange>) -> Vec<u16> {
    let mut ports = vec![axon, ssh];
    for port in range.into_iter().flat_map(|range| [range.first(), range.last()]) {
        // A node refuses to try a port twice.
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

async fn try_from_outside(
    patient: &Patient<'_>,
    key: &Keypair,
    nodes: &[(Hotkey, SocketAddr)],
    ports: &[u16],
) -> Vec<Finding> {
    let clock = SharedClock::clone(&patient.clock);
    let dialer = match NodeDialer::new(key.clone(), clock) {
        Ok(dialer) => dialer,
        Err(error) => return vec![Finding::error(CHECK, ErrorChain(&error).to_string())],
    };
    let request = ProbeRequest { ports: ports.to_vec() };
    let mut refusals = Vec::new();
    for (hotkey, address) in nodes.iter().take(NODES_MAX) {
        match dialer.node(*address, *hotkey).probe(&request, BUDGET).await {
            Ok(view) => return judge(&view, patient.args.external_ip, patient.clock.unix_ms()),
            Err(error) => refusals.push(format!("{address}: {}", told(&error))),
        }
    }
    vec![
        Finding::warning(CHECK, format!("no node tried the ports; {}", refusals.join("; ")))
            .remedy("name another one with --from HOTKEY@IP:PORT, or ask somebody outside: nc -vz IP PORT"),
    ]
}

fn told(error: &NodeError) -> String {
    ErrorChain(error).to_string()
}

fn judge(view: &ProbeView, external: Option<IpAddr>, now_ms: u64) -> Vec<Finding> {
    let mut findings: Vec<Finding> = view
        .ports
        .iter()
        .map(|port| {
            let what =
                format!("port {} of {} is {} from outside", port.port, view.address, port.state);
            match &*port.state {
                "open" => Finding::ok(CHECK, what),
                "closed" => Finding::error(CHECK, what)
                    .remedy("forward it to this machine, and let it through the firewall here"),
                _ => Finding::error(CHECK, what)
                    .remedy("open it in the firewall of this machine and of its network"),
            }
        })
        .collect();
    let seen = view.address.parse::<IpAddr>().ok();
    if let (Some(seen), Some(external)) = (seen, external)
        && seen != external
    {
        let what = format!("others see {seen}, and {external} would be announced");
        findings.push(Finding::error(CHECK, what).remedy(format!("--axon.external_ip {seen}")));
    }
    let skew = now_ms.abs_diff(view.now_unix_ms);
    if skew > CLOCK_MS_MAX.saturating_add(u64::try_from(BUDGET.as_millis()).unwrap_or(0)) {
        let what = format!("this clock and the node's are {skew} ms apart");
        findings.push(Finding::warning("clock", what).remedy("timedatectl set-ntp true"));
    }
    findings
}

/// Listens where nobody does yet, so that there is something to reach. What is taken is listened on already.
async fn hold(ports: &[u16]) -> Vec<TcpListener> {
    let mut held = Vec::new();
    for port in ports {
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
        match TcpListener::bind(at).await {
            Ok(listener) => held.push(listener),
            Err(error) => tracing::debug!(port, %error, "somebody listens already"),
        }
    }
    held
}

/// Other nodes of the subnet with an address, validators first.
fn others(asked: &Asked) -> Vec<(Hotkey, SocketAddr)> {
    let mut neurons: Vec<_> = asked
        .metagraph
        .neurons
        .iter()
        .filter(|neuron| Some(&neuron.hotkey) != asked.me.as_ref())
        .filter_map(|neuron| {
            let axon = neuron.axon.as_ref()?;
            let is_possible = axon.port != 0 && !axon.ip.is_unspecified();
            let at = SocketAddr::new(axon.ip, axon.port);
            is_possible.then_some((!neuron.validator_permit, neuron.hotkey, at))
        })
        .collect();
    neurons.sort_by_key(|(is_last, ..)| *is_last);
    neurons.into_iter().map(|(_, hotkey, at)| (hotkey, at)).collect()
}

fn parse(text: &str) -> Option<(Hotkey, SocketAddr)> {
    let (hotkey, at) = text.split_once('@')?;
    Some((hotkey.parse().ok()?, at.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use nicompute_wire::probe::PortView;

    use super::*;
    use crate::commands::doctor::finding::Level;

    /// Tenants' ports behind a shut firewall are reached by nobody; a port that is named twice would be tried by no node.
    #[test]
    fn both_ends_of_the_tenants_ports_are_tried() {
        let range = |text: &str| Some(text.parse().unwrap());
        assert_eq!(tried(1, 2, None), [1, 2]);
        assert_eq!(tried(1, 2, range("20000-20099")), [1, 2, 20000, 20099]);
        assert_eq!(tried(1, 2, range("2-2")), [1, 2]);
        assert_eq!(tried(1, 2, range("7-7")), [1, 2, 7]);
    }

    /// A provider behind a shut firewall would wait for tenants that cannot come.
    #[test]
    fn what_others_see_is_judged() {
        let port = |port, state: &str| PortView { port, state: state.to_owned() };
        let view = ProbeView {
            address: "203.0.113.7".to_owned(),
            now_unix_ms: 50_000,
            ports: vec![
                port(8091, "open"),
                port(4444, "closed"),
                port(1, "silent"),
                port(2, "new word"),
            ],
        };
        let levels: Vec<_> =
            judge(&view, None, 50_000).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Error, Level::Error, Level::Error]);
        let other = Some("198.51.100.1".parse().unwrap());
        assert_eq!(judge(&view, other, 50_000).len(), 5);
        assert_eq!(
            judge(&view, Some("203.0.113.7".parse().unwrap()), 90_000).len(),
            5,
            "the clock"
        );
        assert!(parse("no node").is_none());
        let hotkey = Hotkey::from_bytes([3; 32]);
        assert_eq!(
            parse(&format!("{hotkey}@127.0.0.1:8091")).map(|(known, _)| known),
            Some(hotkey)
        );
    }
}
