//! Announcing an address: only when it changed, never sooner than the subnet allows, and never one that nobody reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nicompute_keys::Keypair;
use nicompute_market::Netuid;

use crate::call::Call;
use crate::chain::Chain;
use crate::error::{ReadError, SubmitError};
use crate::link::Rpc;
use crate::neurons::Endpoint;
use crate::reads::Announced;
use crate::submit::{Depth, Included};
use crate::url::is_public_genesis;
use crate::view::View;

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The chain knows it already; nothing was sent.
    Unchanged,
    /// It is on the chain now.
    Changed(Included),
}

impl Chain {
    /// Announces where the neuron's API is, unless the chain knows it already.
    ///
    /// # Errors
    /// [`SubmitError::Unreachable`] and [`SubmitError::TooSoon`] before anything is sent, and otherwise when the chain
    /// cannot be reached, does not take it or undoes it.
    pub async fn serve_axon_if_changed(
        &self,
        netuid: Netuid,
        endpoint: Endpoint,
        hotkey: &Keypair,
    ) -> Result<Served, SubmitError> {
        let view = self.now().await?;
        let before = view.axon_of(netuid, &hotkey.hotkey()).await?;
        let call = Call::serve_axon(netuid, endpoint);
        self.serve_if_changed(&view, (netuid, endpoint, before), &call, hotkey).await
    }

    /// Announces where the neuron's metrics are, unless the chain knows it already.
    ///
    /// # Errors
    /// As [`Chain::serve_axon_if_changed`].
    pub async fn serve_prometheus_if_changed(
        &self,
        netuid: Netuid,
        endpoint: Endpoint,
        hotkey: &Keypair,
    ) -> Result<Served, SubmitError> {
        let view = self.now().await?;
        let before = view.prometheus_of(netuid, &hotkey.hotkey()).await?;
        let call = Call::serve_prometheus(netuid, endpoint);
        self.serve_if_changed(&view, (netuid, endpoint, before), &call, hotkey).await
    }

    /// Whether this is a network on which strangers meet: the main network, the test network, or one that says so.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn is_public(&self) -> Result<bool, ReadError> {
        if is_public_genesis(&self.genesis_hash()) {
            return Ok(true);
        }
        let ask = |rpc: Rpc| async move { rpc.system_chain_type().await };
        let limit = self.shared.limits.read;
        match self.shared.link.ask(limit, "system_chainType", ask).await {
            Ok(kind) => Ok(kind == "Live"),
            // A node that does not tell is somebody's own.
            Err(ReadError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn serve_if_changed(
        &self,
        view: &View,
        (netuid, endpoint, before): (Netuid, Endpoint, Option<Announced>),
        call: &Call,
        hotkey: &Keypair,
    ) -> Result<Served, SubmitError> {
        if before.is_some_and(|before| before.endpoint == endpoint) {
            return Ok(Served::Unchanged);
        }
        if endpoint.port == 0
            || is_nowhere(endpoint.ip)
            || !is_routable(endpoint.ip) && self.is_public().await?
        {
            return Err(SubmitError::Unreachable { ip: endpoint.ip });
        }
        if let Some(before) = before {
            let limit = view.hyperparameters(netuid).await?.serving_rate_limit;
            let passed = view.head().number.0.saturating_sub(before.block.0);
            let blocks = limit.saturating_sub(passed);
            if blocks > 0 {
                return Err(SubmitError::TooSoon { blocks });
            }
        }
        self.submit(call, hotkey, Depth::Included).await.map(Served::Changed)
    }
}

/// Addresses that the chain itself refuses.
fn is_nowhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip == Ipv6Addr::LOCALHOST,
    }
}

/// Whether strangers on the internet may reach an address.
fn is_routable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let carrier_grade = first == 100 && second & 0b1100_0000 == 64;
            let benchmark = first == 198 && second & 0b1111_1110 == 18;
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || carrier_grade
                || benchmark
                || first == 0
                || first >= 240)
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            let mapped = ip.to_ipv4_mapped().is_none_or(|ip| is_routable(IpAddr::V4(ip)));
            let documentation = first == 0x2001 && second == 0xdb8;
            mapped
                && !(ip.is_loopback()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local()
                    || ip.is_multicast()
                    || documentation)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider that announces its home network's address is registered, pays, and is never found.
    #[test]
    fn addresses_of_nobody_are_told_from_those_of_the_internet() {
        let routable = |text: &str| is_routable(text.parse().unwrap());
        for yes in ["1.1.1.1", "100.63.0.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111"] {
            assert!(routable(yes), "{yes}");
        }
        for no in [
            "127.0.0.2",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "0.1.2.3",
            "::1",
            "fe80::1",
            "fc00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!routable(no), "{no}");
        }
        for no in ["0.0.0.0", "127.0.0.1", "::", "255.255.255.255"] {
            assert!(is_nowhere(no.parse().unwrap()), "{no}");
        }
        assert!(!is_nowhere("127.0.0.2".parse().unwrap()));
    }
}
