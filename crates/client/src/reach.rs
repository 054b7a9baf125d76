//! Which addresses are called. Those on chain are written by strangers: without this check a node's entry could make a
//! caller ask its own machine or its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which addresses a dialer calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Those of the internet.
    #[default]
    Internet,
    /// Also those of this machine and of private networks, as a local chain has them.
    Anywhere,
}

/// Why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotCalled {
    /// Port 0, the unspecified address, multicast or broadcast.
    #[error("{0} is no address of a machine")]
    Nowhere(SocketAddr),
    /// Of this machine, of a private network, or reserved.
    #[error("{0} is not of the internet")]
    NotOfTheInternet(SocketAddr),
}

// === impl Reach ===

impl Reach {
    /// Whether an address may be called.
    ///
    /// # Errors
    /// Where it is nobody's, or not within reach.
    pub fn check(self, address: SocketAddr) -> Result<(), NotCalled> {
        // An IPv4 address in the clothes of the other kind is reached as what it is.
        let ip = address.ip().to_canonical();
        let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(NotCalled::Nowhere(address));
        }
        let public = match ip {
            IpAddr::V4(ip) => is_public_v4(ip),
            IpAddr::V6(ip) => is_public_v6(ip),
        };
        if self == Self::Internet && !public {
            return Err(NotCalled::NotOfTheInternet(address));
        }
        Ok(())
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [first, second, third, _] = ip.octets();
    let carrier_grade = first == 100 && second & 0b1100_0000 == 64;
    let benchmark = first == 198 && second & 0b1111_1110 == 18;
    let protocols = (first, second, third) == (192, 0, 0);
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || carrier_grade
        || benchmark
        || protocols
        || first == 0
        || first >= 240)
}

/// What is given out for the internet is 2000::/3; in it are some blocks for other ends, one of which carries IPv4 addresses.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    let global = first & 0xe000 == 0x2000;
    let protocols = first == 0x2001 && second < 0x200;
    let documentation =
        (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
    let carries_v4 = first == 0x2002;
    global && !protocols && !documentation && !carries_v4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reach: Reach, text: &str) -> Result<(), NotCalled> {
        reach.check(text.parse().unwrap())
    }

    /// An entry on chain that names a machine of the caller's own network must not be called.
    #[test]
    fn addresses_of_this_side_are_called_only_where_that_is_allowed() {
        for public in ["1.1.1.1:8091", "100.63.0.1:1", "198.20.0.1:1", "[2606:4700::1]:8091"] {
            assert_eq!(check(Reach::Internet, public), Ok(()), "{public}");
        }
        for inside in [
            "127.0.0.1:8091",
            "10.0.0.1:1",
            "172.16.0.1:1",
            "192.168.0.1:1",
            "169.254.169.254:80",
            "100.64.0.1:1",
            "198.18.0.1:1",
            "192.0.2.1:1",
            "192.0.0.8:1",
            "0.1.2.3:1",
            "240.0.0.1:1",
            "[::1]:1",
            "[fc00::1]:1",
            "[fe80::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[2002:7f00:1::]:1",
            "[2001:db8::1]:1",
            "[2001::1]:1",
            "[64:ff9b::7f00:1]:1",
        ] {
            let refused = Err(NotCalled::NotOfTheInternet(inside.parse().unwrap()));
            assert_eq!(check(Reach::Internet, inside), refused, "{inside}");
            assert_eq!(check(Reach::Anywhere, inside), Ok(()), "{inside}");
        }
        for nowhere in [
            "0.0.0.0:8091",
            "[::]:8091",
            "[::ffff:0.0.0.0]:1",
            "1.1.1.1:0",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[ff02::1]:1",
        ] {
            let refused = Err(NotCalled::Nowhere(nowhere.parse().unwrap()));
            assert_eq!(check(Reach::Anywhere, nowhere), refused, "{nowhere}");
            assert_eq!(check(Reach::Internet, nowhere), refused, "{nowhere}");
        }
    }
}
