//! The subnet as the chain shows it.

use std::net::SocketAddr;

use async_trait::async_trait;
use nicompute_chain::{Chain, Endpoint, Neuron, ReadError, Served, SubmitError};
use nicompute_keys::Keypair;
use nicompute_market::Netuid;

use crate::subnet::{Member, Subnet, SubnetError};

/// Announced with the address of a node without the v1.9.0 door: this program's version as one number, 100 × major +
/// 10 × minor + patch.
pub(crate) const AXON_VERSION: u32 = 10;

/// One subnet of a chain, seen by one hotkey.
#[derive(Debug)]
pub(crate) struct ChainSubnet {
    pub(crate) chain: Chain,
    pub(crate) netuid: Netuid,
    pub(crate) hotkey: Keypair,
    /// Announced with the address: peers of 1.9.0 pass over nodes that announce less than theirs.
    pub(crate) version: u32,
}

#[async_trait]
impl Subnet for ChainSubnet {
    async fn members(&self) -> Result<Vec<Member>, SubnetError> {
        let metagraph = self.chain.metagraph(self.netuid).await?;
        let me = self.hotkey.hotkey();
        // Our own entry with another version is not the one that we want there.
        let shown = |neuron: &Neuron| {
            let axon =
                neuron.axon.filter(|axon| neuron.hotkey != me || axon.version == self.version);
            axon.map(|axon| SocketAddr::new(axon.ip, axon.port))
        };
        let members = metagraph.neurons.iter().map(|neuron| Member {
            hotkey: neuron.hotkey,
            coldkey: neuron.coldkey,
            stake: neuron.stake,
            endpoint: shown(neuron),
            validator_permit: neuron.validator_permit,
        });
        Ok(members.collect())
    }

    async fn announce(&self, at: SocketAddr) -> Result<(), SubnetError> {
        let endpoint = Endpoint { ip: at.ip(), port: at.port(), version: self.version };
        match self.chain.serve_axon_if_changed(self.netuid, endpoint, &self.hotkey).await? {
            Served::Changed(included) => tracing::debug!(?included, "the address is in a block"),
            Served::Unchanged => tracing::debug!("the chain knows the address already"),
        }
        Ok(())
    }
}

impl From<ReadError> for SubnetError {
    fn from(error: ReadError) -> Self {
        Self { kind: error.kind(), remedy: error.remedy(), source: error.into() }
    }
}

impl From<SubmitError> for SubnetError {
    fn from(error: SubmitError) -> Self {
        Self { kind: error.kind(), remedy: error.remedy(), source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version that is forgotten at a release would be announced wrong for ever.
    #[test]
    fn the_announced_version_is_ours() {
        let digits: Vec<u32> =
            env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap()).collect();
        assert_eq!(AXON_VERSION, 100 * digits[0] + 10 * digits[1] + digits[2]);
    }
}
