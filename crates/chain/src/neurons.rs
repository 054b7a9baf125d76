//! A subnet's neurons as the chain lists them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nicompute_market::{BlockNumber, Coldkey, Hotkey, Rao, Uid};

use crate::error::ShapeError;
use crate::plain::Plain;

/// All neurons of a subnet at one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metagraph {
    /// The block.
    pub block: BlockNumber,
    /// The neurons, by uid.
    pub neurons: Vec<Neuron>,
}

/// One neuron: a hotkey in a slot of a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neuron {
    /// Its slot.
    pub uid: Uid,
    /// Its key.
    pub hotkey: Hotkey,
    /// Its owner.
    pub coldkey: Coldkey,
    /// Where it says it can be reached.
    pub axon: Option<Endpoint>,
    /// Where it says its metrics are.
    pub prometheus: Option<Endpoint>,
    /// Its stake weight: what is staked on it here, and its part of what is staked on the root.
    pub stake: Rao,
    /// Whether it may set weights on others.
    pub validator_permit: bool,
    /// Whether it set weights recently enough.
    pub active: bool,
    /// The block at which it last set weights, or registered.
    pub last_update: BlockNumber,
    /// Its share of what servers earn, of 65535.
    pub incentive: u16,
    /// Its share of what validators earn, of 65535.
    pub dividends: u16,
    /// The weight that the majority of stake gives it, of 65535.
    pub consensus: u16,
    /// How much of its weights lies within the consensus, of 65535.
    pub validator_trust: u16,
    /// What it earned in the last epoch.
    pub emission: Rao,
}

/// An announced address. Anybody may announce anything: it is a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The version of the software behind it, as it says itself.
    pub version: u32,
}

impl Endpoint {
    /// The address as the chain writes it: the number and the kind, 4 or 6.
    pub(crate) fn ip_number(&self) -> (u128, u8) {
        match self.ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 4),
            IpAddr::V6(ip) => (u128::from(ip), 6),
        }
    }

    /// An announced address; none if nothing usable was announced.
    fn read(info: &Plain) -> Result<Option<Self>, ShapeError> {
        let number = info.field("ip")?.number()?;
        let port = info.field("port")?.u16()?;
        let version = info.field("version")?.u32()?;
        let ip = match info.field("ip_type")?.u8()? {
            4 => u32::try_from(number).ok().map(|number| IpAddr::V4(Ipv4Addr::from(number))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(number))),
            _ => None,
        };
        let usable = ip.filter(|ip| port != 0 && !ip.is_unspecified());
        Ok(usable.map(|ip| Self { ip, port, version }))
    }
}

impl Neuron {
    pub(crate) fn read(info: &Plain) -> Result<Self, ShapeError> {
        let mut stake = 0_u64;
        for entry in info.field("stake")?.list()? {
            stake = stake.saturating_add(entry.pair()?.1.u64()?);
        }
        Ok(Self {
            uid: Uid(info.field("uid")?.u16()?),
            hotkey: Hotkey(info.field("hotkey")?.account()?),
            coldkey: Coldkey(info.field("coldkey")?.account()?),
            axon: Endpoint::read(info.field("axon_info")?)?,
            prometheus: Endpoint::read(info.field("prometheus_info")?)?,
            stake: Rao(stake),
            validator_permit: info.field("validator_permit")?.bool()?,
            active: info.field("active")?.bool()?,
            last_update: BlockNumber(info.field("last_update")?.u64()?),
            incentive: info.field("incentive")?.u16()?,
            dividends: info.field("dividends")?.u16()?,
            consensus: info.field("consensus")?.u16()?,
            validator_trust: info.field("validator_trust")?.u16()?,
            emission: Rao(info.field("emission")?.u64()?),
        })
    }
}

impl Metagraph {
    /// Reads the list of neurons, and the stake weights where the runtime tells them.
    pub(crate) fn read(
        block: BlockNumber,
        list: &Plain,
        stake: Option<&Plain>,
    ) -> Result<Self, ShapeError> {
        let neurons: Result<Vec<Neuron>, ShapeError> =
            list.list()?.iter().map(Neuron::read).collect();
        let mut neurons = neurons?;
        if let Some(weights) = stake {
            let weights = weights.field("total_stake")?.list()?;
            for neuron in &mut neurons {
                if let Some(weight) = weights.get(usize::from(neuron.uid.0)) {
                    neuron.stake = Rao(weight.u64()?);
                }
            }
        }
        neurons.sort_by_key(|neuron| neuron.uid);
        Ok(Self { block, neurons })
    }

    /// The neuron of a hotkey.
    #[must_use]
    pub fn neuron(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.hotkey == *hotkey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axon(ip: u128, ip_type: u8, port: u16) -> Plain {
        let fields = [
            ("ip", Plain::Number(ip)),
            ("ip_type", Plain::Number(u128::from(ip_type))),
            ("port", Plain::Number(u128::from(port))),
            ("version", Plain::Number(190)),
        ];
        Plain::Fields(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// A neuron that announced nonsense must look like one that announced nothing, not stop the metagraph.
    #[test]
    fn nonsense_addresses_are_none() {
        let read = |ip, ip_type, port| Endpoint::read(&axon(ip, ip_type, port)).unwrap();
        let served = read(0x7f00_0002, 4, 8091).unwrap();
        assert_eq!(served.ip, "127.0.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(served.ip_number(), (0x7f00_0002, 4));
        assert_eq!(read(1, 6, 1).unwrap().ip, "::1".parse::<IpAddr>().unwrap());
        for (ip, ip_type, port) in [(0, 4, 1), (1, 4, 0), (1 << 40, 4, 1), (1, 0, 1), (0, 6, 1)] {
            assert_eq!(read(ip, ip_type, port), None);
        }
    }
}
