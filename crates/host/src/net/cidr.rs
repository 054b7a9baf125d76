//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Bits of an address.
const BITS: u8 = 32;

/// A range of IPv4 addresses, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: u32,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a range of addresses is the first address and the length of the prefix, such as 10.20.0.0/20"
)]
pub struct ParseCidrError;

impl Cidr {
    /// The range of `prefix` bits that begins at this address.
    ///
    /// # Errors
    /// When it is no first address of such a range.
    pub fn new(first: Ipv4Addr, prefix: u8) -> Result<Self, ParseCidrError> {
        let cidr = Self { first: first.to_bits(), prefix };
        let fits = prefix <= BITS && cidr.first & !cidr.mask() == 0;
        if fits { Ok(cidr) } else { Err(ParseCidrError) }
    }

    /// The range of `prefix` bits that an address lies in.
    pub(super) fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(BITS);
        let cidr = Self { first: address.to_bits(), prefix };
        Self { first: cidr.first & cidr.mask(), prefix }
    }

    /// The length of the prefix.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address at a place in the range.
    #[must_use]
    pub fn at(self, place: u32) -> Option<Ipv4Addr> {
        let address = self.first.checked_add(place)?;
        (address & self.mask() == self.first).then(|| Ipv4Addr::from_bits(address))
    }

    /// The place of an address in the range.
    #[must_use]
    pub fn place(self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| address.to_bits() & !self.mask())
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.first
    }

    /// Whether any address lies in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.first & mask == other.first & mask
    }

    /// The place of the last address.
    pub(super) fn last_place(self) -> u32 {
        !self.mask()
    }

    fn mask(self) -> u32 {
        let free = u32::from(BITS.saturating_sub(self.prefix));
        u32::MAX.checked_shl(free).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let first = first.parse().map_err(|_| ParseCidrError)?;
        // `+8` and `08` are numbers to the parser and typing errors to everybody else.
        let is_plain = !prefix.starts_with(['+', '0']) || prefix == "0";
        let prefix = prefix.parse().map_err(|_| ParseCidrError)?;
        if is_plain { Self::new(first, prefix) } else { Err(ParseCidrError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    /// A range that is misread would open what an operator closed.
    #[test]
    fn texts_are_ranges_or_refused() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "203.0.113.7/32", "192.168.4.0/22"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        assert_eq!(cidr("203.0.113.7").to_string(), "203.0.113.7/32");
        for text in
            ["", "/", "10.0.0.0/", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08"]
        {
            assert_eq!(text.parse::<Cidr>(), Err(ParseCidrError), "{text}");
        }
        for text in ["10.0.0.0/8 ", "10.0.0/8", "::/0", "10.0.0.0/+8", "10.0.0.0/8/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(ParseCidrError), "{text}");
        }
    }

    /// Two tenants with one address, or an address outside of the range, would reach each other's traffic.
    #[test]
    fn places_are_addresses_of_the_range() {
        let net = cidr("10.1.16.0/20");
        assert_eq!(net.at(0), Some(Ipv4Addr::new(10, 1, 16, 0)));
        assert_eq!(net.at(net.last_place()), Some(Ipv4Addr::new(10, 1, 31, 255)));
        assert_eq!(net.at(net.last_place() + 1), None);
        assert_eq!(net.place(Ipv4Addr::new(10, 1, 17, 2)), Some(258));
        assert_eq!(net.place(Ipv4Addr::new(10, 1, 32, 0)), None);
        assert_eq!(cidr("255.255.255.255/32").at(1), None);
        assert!(cidr("0.0.0.0/0").contains(Ipv4Addr::new(8, 8, 8, 8)));
    }

    /// A subnet laid over the provider's own would cut the provider off.
    #[test]
    fn overlaps_are_seen_both_ways() {
        let pairs = [("10.0.0.0/8", "10.1.16.0/20"), ("0.0.0.0/0", "1.2.3.4/32")];
        for (wide, narrow) in pairs {
            assert!(cidr(wide).overlaps(cidr(narrow)) && cidr(narrow).overlaps(cidr(wide)));
        }
        assert!(!cidr("10.1.16.0/20").overlaps(cidr("10.1.32.0/20")));
        assert_eq!(Cidr::around(Ipv4Addr::new(192, 168, 7, 9), 24), cidr("192.168.7.0/24"));
    }
}
