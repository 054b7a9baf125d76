//! A subnet's neurons as the chain lists them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nicompute_market::{BlockNumber, Coldkey, Hotkey, Rao, Uid};

use crate::error::ShapeError;
use crate::plain::Plain;
use crate::reads::Identity;

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
    /// Its stake weight: what is staked on it here, and its part of what is staked on the root, moved between parents and
    /// children as the chain moves it.
    pub stake: Rao,
    /// What is staked on it here, in the subnet's alpha.
    pub alpha_stake: Rao,
    /// What is staked on it on the root.
    pub tao_stake: Rao,
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
    /// The block at which it took its slot.
    pub registered_at: BlockNumber,
    /// What it says about itself.
    pub identity: Option<Identity>,
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
    pub(crate) fn read(info: &Plain) -> Result<Option<Self>, ShapeError> {
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
    /// A neuron that has done nothing yet.
    #[must_use]
    pub const fn new(uid: Uid, hotkey: Hotkey, coldkey: Coldkey) -> Self {
        Self {
            uid,
            hotkey,
            coldkey,
            axon: None,
            stake: Rao(0),
            alpha_stake: Rao(0),
            tao_stake: Rao(0),
            validator_permit: false,
            active: false,
            last_update: BlockNumber(0),
            incentive: 0,
            dividends: 0,
            consensus: 0,
            validator_trust: 0,
            emission: Rao(0),
            registered_at: BlockNumber(0),
            identity: None,
        }
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
