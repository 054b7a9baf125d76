//! The subnet as one reading of the chain showed it: what every loop decides on.

use std::net::{IpAddr, SocketAddr};

use nicompute_chain::{Head, Hyperparameters, Metagraph, Neuron};
use nicompute_market::{BlockNumber, Hotkey, Uid};

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainView {
    /// The block that was read.
    pub(crate) block: BlockNumber,
    /// A recent finalised block, which every session is bound to.
    pub(crate) finalized: Head,
    /// Everybody on the subnet but this validator.
    pub(crate) peers: Vec<Peer>,
    /// This validator, while it is registered.
    pub(crate) own: Option<Own>,
    /// The slot of the subnet's owner, which burns what it earns.
    pub(crate) burn_uid: Option<Uid>,
    /// The subnet's rules.
    pub(crate) rules: Hyperparameters,
    /// The subnet's epoch in the next block, where weights are committed once an epoch.
    pub(crate) epoch: Option<u64>,
}

/// Somebody else on the subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: Uid,
    pub(crate) hotkey: Hotkey,
    /// Where its node is, when it announced an address that can be one.
    pub(crate) address: Option<SocketAddr>,
}

/// This validator's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) uid: Uid,
    pub(crate) has_permit: bool,
    /// When it last set weights, or was registered.
    pub(crate) last_update: BlockNumber,
    /// When it took its slot.
    pub(crate) registered_at: BlockNumber,
}

impl ChainView {
    pub(crate) fn new(
        metagraph: &Metagraph,
        finalized: Head,
        rules: Hyperparameters,
        owner: Option<Hotkey>,
        me: &Hotkey,
    ) -> Self {
        let own = metagraph.neuron(me).map(|neuron| Own {
            uid: neuron.uid,
            has_permit: neuron.validator_permit,
            last_update: neuron.last_update,
            registered_at: neuron.registered_at,
        });
        let others = metagraph.neurons.iter().filter(|neuron| neuron.hotkey != *me);
        Self {
            block: metagraph.block,
            finalized,
            peers: others.map(peer).collect(),
            own,
            burn_uid: owner.and_then(|owner| metagraph.neuron(&owner)).map(|neuron| neuron.uid),
            rules,
            epoch: None,
        }
    }

    pub(crate) fn peer(&self, hotkey: &Hotkey) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.hotkey == *hotkey)
    }
}

fn peer(neuron: &Neuron) -> Peer {
    let address = neuron.axon.as_ref().and_then(|axon| address(axon.ip, axon.port));
    Peer { uid: neuron.uid, hotkey: neuron.hotkey, address }
}

/// The address of a node; nothing for the ones that stand for "nowhere" or "everywhere".
fn address(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let is_somewhere = !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast;
    (is_somewhere && port != 0).then_some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A validator that dials 0.0.0.0 talks to itself, and one that dials a broadcast address to everybody.
    #[test]
    fn only_addresses_of_one_machine_are_dialled() {
        for (ip, port, good) in [
            ("0.0.0.0", 8091, false),
            ("::", 8091, false),
            ("255.255.255.255", 8091, false),
            ("224.0.0.1", 8091, false),
            ("127.0.0.2", 0, false),
            ("127.0.0.2", 8091, true),
            ("2001:db8::1", 8091, true),
        ] {
            assert_eq!(address(ip.parse().unwrap(), port).is_some(), good, "{ip}:{port}");
        }
    }
}
