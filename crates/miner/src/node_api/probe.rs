//! `POST /v1/probe`: dials ports of whoever asks, so that a provider learns whether others reach them.
//!
//! A node that dials at a stranger's word is a tool for others' ends, so: only registered hotkeys ask, each seldom; only
//! the address that the request came from is dialled, which its sender holds, for it has read our side of the handshake;
//! never an address of this machine or of the provider's own network; few ports, a few at once in all, nothing is sent
//! over a connection, and only whether it came about is told.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::Response;
use nicompute_market::Hotkey;
use nicompute_wire::codes::Code;
use nicompute_wire::probe::{PortState, PortView, ProbeRequest, ProbeView};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::refusal::{Refusal, json};
use super::{Api, Caller, ask};
use crate::axon::Peer;
use crate::subnet::Known;

/// Between two probes of one hotkey, and of one address.
pub const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Probes at once. Each has up to four connections under way.
const PROBES_MAX: usize = 4;
/// How long a port may take to answer.
const DIAL_LIMIT: Duration = Duration::from_secs(3);
/// Askers that are remembered. Beyond it nobody is probed until the oldest has waited long enough.
const ASKERS_MAX: usize = 1_024;

/// Who was probed when.
#[derive(Debug)]
pub(super) struct Probes {
    running: Semaphore,
    asked: Mutex<BTreeMap<Asker, Duration>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    Hotkey(Hotkey),
    Address(IpAddr),
}

impl Default for Probes {
    fn default() -> Self {
        Self { running: Semaphore::new(PROBES_MAX), asked: Mutex::default() }
    }
}

pub(super) async fn probe(
    State(api): State<Arc<Api>>,
    Extension(probes): Extension<Arc<Probes>>,
    Extension(caller): Caller,
    Extension(Peer(peer)): Extension<Peer>,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let request: ProbeRequest = ask::body(&bytes)?;
    request.check().map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
    let hotkey = Hotkey(caller.account);
    match api.permits.member(&hotkey).await {
        Known::Member(_) => {}
        Known::Stranger => {
            let what = "ports are tried for hotkeys that are registered on this subnet";
            return Err(Refusal::new(Code::NotPermitted, what).hint("nicompute register"));
        }
        Known::Unknown => {
            let what = "the node cannot reach the chain and does not know who is registered";
            return Err(Refusal::new(Code::ChainUnavailable, what));
        }
    }
    let address = peer.ip().to_canonical();
    if !may_be_dialled(address, api.announce_ip) {
        let what = format!("the request came from {address}, which is not a public address");
        return Err(Refusal::new(Code::NotPermitted, what)
            .hint("ask a node outside of your own network, by its public address"));
    }
    let Ok(_place) = probes.running.try_acquire() else {
        return Err(Refusal::new(Code::Overloaded, "as many ports are tried as may be at once")
            .hint("ask again in some seconds"));
    };
    probes.take_turn(hotkey, address, api.clock.monotonic())?;
    let dials = request.ports.iter().map(|port| dial(&api, SocketAddr::new(address, *port)));
    let ports = futures_util::future::join_all(dials).await;
    let view = ProbeView { address: address.to_string(), now_unix_ms: api.clock.unix_ms(), ports };
    Ok(json(200, &view))
}

async fn dial(api: &Api, at: SocketAddr) -> PortView {
    let state = tokio::select! {
        biased;
        dialled = TcpStream::connect(at) => match dialled {
            Ok(_) => PortState::Open,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => PortState::Closed,
            Err(_) => PortState::Silent,
        },
        () = api.clock.sleep(DIAL_LIMIT) => PortState::Silent,
        () = api.stop.cancelled() => PortState::Silent,
    };
    PortView { port: at.port(), state: state.as_str().to_owned() }
}

/// Public addresses, and any where the node itself is on a private network or on this machine alone, as a local market is.
/// Behind a proxy every request seems to come from the proxy: it must not be dialled.
fn may_be_dialled(address: IpAddr, announced: IpAddr) -> bool {
    is_public(address) || !is_public(announced)
}

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            let reserved = first == 0 || first >= 240;
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || shared
                || reserved)
        }
        IpAddr::V6(ip) => {
            let global = ip.segments()[0] & 0xe000 == 0x2000;
            let documentation = ip.segments()[0] == 0x2001 && ip.segments()[1] == 0x0db8;
            global && !documentation
        }
    }
}

impl Probes {
    fn take_turn(&self, hotkey: Hotkey, address: IpAddr, now: Duration) -> Result<(), Refusal> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| now.saturating_sub(*at) < PROBE_EVERY);
        let askers = [Asker::Hotkey(hotkey), Asker::Address(address)];
        if askers.iter().any(|asker| asked.contains_key(asker)) || asked.len() >= ASKERS_MAX {
            let what = "ports are tried once in 10 s for one hotkey and one address";
            return Err(Refusal::new(Code::TooManyRequests, what).hint("ask again in 10 s"));
        }
        asked.extend(askers.map(|asker| (asker, now)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that dials into its own network would show it to whoever asks through a proxy.
    #[test]
    fn only_public_addresses_are_dialled() {
        let announced: IpAddr = "198.18.0.1".parse().unwrap();
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.17.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
        ] {
            let inside = inside.parse().unwrap();
            assert!(!may_be_dialled(inside, announced), "{inside}");
            assert!(may_be_dialled(inside, IpAddr::from([127, 0, 0, 1])), "a local market's node");
        }
        for outside in ["1.1.1.1", "2606:4700::1111"] {
            assert!(may_be_dialled(outside.parse().unwrap(), announced), "{outside}");
        }
    }

    /// One who asks as often as he likes, under one name or from one place, scans ports with our connections.
    #[test]
    fn turns_are_seldom_and_bounded() {
        let probes = Probes::default();
        let hotkey = |byte: u8| Hotkey::from_bytes([byte; 32]);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let now = Duration::from_secs(100);
        assert!(probes.take_turn(hotkey(1), address(1), now).is_ok());
        assert!(probes.take_turn(hotkey(1), address(2), now).is_err());
        assert!(probes.take_turn(hotkey(2), address(1), now).is_err());
        assert!(probes.take_turn(hotkey(2), address(2), now).is_ok());
        let later = now + PROBE_EVERY;
        assert!(probes.take_turn(hotkey(1), address(1), later).is_ok());
        for at in 0..ASKERS_MAX {
            let name = u32::try_from(at).unwrap().to_be_bytes();
            let mut bytes = [9; 32];
            bytes[..4].copy_from_slice(&name);
            let from = IpAddr::from([10, name[1], name[2], name[3]]);
            drop(probes.take_turn(Hotkey::from_bytes(bytes), from, later));
        }
        assert!(probes.asked.lock().unwrap().len() <= ASKERS_MAX + 1);
    }
}
