//! How often a password may be tried: little for one address, more for one lease, and not so that a few strangers lock
//! out somebody who has not failed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Attempts of one address in a row.
const ADDRESS_BURST: u32 = 10;
/// After them, one in this time.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(30);
/// Attempts at one lease in a row, whoever makes them.
const LEASE_BURST: u32 = 60;
/// After them, one in this time.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);
/// Attempts at one lease in a row by addresses that have not failed. So many are a crowd, and each costs a hash.
const CROWD_BURST: u32 = 600;
/// After them, one in this time.
const CROWD_INTERVAL: Duration = Duration::from_millis(20);
/// Addresses that are remembered. The one that has been quiet for longest makes room.
const ADDRESSES_MAX: usize = 4096;

/// Lets a burst through and then one in each interval.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// When it will all be forgotten.
    due: Duration,
}

impl Pace {
    fn take(&mut self, now: Duration, interval: Duration, burst: u32) -> bool {
        let due = self.due.max(now) + interval;
        let fits = due.saturating_sub(now) <= interval * burst;
        if fits {
            self.due = due;
        }
        fits
    }

    /// For attempts at one lease.
    pub(super) fn take_for_lease(&mut self, now: Duration) -> bool {
        self.take(now, LEASE_INTERVAL, LEASE_BURST)
    }

    /// For attempts at one lease by addresses that have not failed.
    pub(super) fn take_for_crowd(&mut self, now: Duration) -> bool {
        self.take(now, CROWD_INTERVAL, CROWD_BURST)
    }
}

/// What one address may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    /// It has tried too often.
    None,
    /// Whatever others did, unless they are a crowd.
    First,
    /// As long as the lease has attempts left.
    Shared,
}

/// The addresses that have tried.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    addresses: Mutex<BTreeMap<IpAddr, Pace>>,
}

impl Attempts {
    /// Counts an attempt.
    pub(super) fn take(&self, address: IpAddr, now: Duration) -> Allowance {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin(address);
        if !addresses.contains_key(&origin) && addresses.len() >= ADDRESSES_MAX {
            let quiet = addresses.iter().min_by_key(|(_, pace)| pace.due);
            if let Some(quiet) = quiet.map(|(address, _)| *address) {
                addresses.remove(&quiet);
            }
        }
        let pace = addresses.entry(origin).or_default();
        let first = pace.due <= now;
        match pace.take(now, ADDRESS_INTERVAL, ADDRESS_BURST) {
            true if first => Allowance::First,
            true => Allowance::Shared,
            false => Allowance::None,
        }
    }

    /// The address knew a password: what it tried before is forgiven.
    pub(super) fn forgive(&self, address: IpAddr) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.remove(&origin(address));
    }
}

/// Whom an address stands for: whoever has one of version 6 has 2^64 of them.
pub(super) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Without a limit a password of ten characters is a matter of patience; with one on all together, strangers lock
    /// the validator out.
    #[test]
    fn an_address_has_a_burst_and_then_a_pace() {
        let attempts = Attempts::default();
        let now = Duration::from_secs(1000);
        assert_eq!(attempts.take(ip("192.0.2.1"), now), Allowance::First);
        for _ in 1..ADDRESS_BURST {
            assert_eq!(attempts.take(ip("::ffff:192.0.2.1"), now), Allowance::Shared);
        }
        assert_eq!(attempts.take(ip("192.0.2.1"), now), Allowance::None);
        assert_eq!(attempts.take(ip("192.0.2.2"), now), Allowance::First, "others go on");
        assert_eq!(attempts.take(ip("192.0.2.1"), now + ADDRESS_INTERVAL), Allowance::Shared);
        assert_eq!(attempts.take(ip("192.0.2.1"), now + ADDRESS_INTERVAL), Allowance::None);
        attempts.forgive(ip("192.0.2.1"));
        assert_eq!(attempts.take(ip("192.0.2.1"), now), Allowance::First);
        assert_eq!(attempts.take(ip("2001:db8::1"), now), Allowance::First);
        assert_eq!(attempts.take(ip("2001:db8::2:1"), now), Allowance::Shared, "one network");
    }

    /// The table is a stranger's to fill; it must not grow with him.
    #[test]
    fn the_memory_of_addresses_is_bounded() {
        let attempts = Attempts::default();
        for number in 0..u32::try_from(ADDRESSES_MAX).expect("fits") + 100 {
            let address = IpAddr::from(number.to_be_bytes());
            attempts.take(address, Duration::from_millis(number.into()));
        }
        assert_eq!(attempts.addresses.lock().expect("sound").len(), ADDRESSES_MAX);
    }

    /// A lease's own pace holds back a crowd of addresses.
    #[test]
    fn a_lease_has_a_pace() {
        let mut pace = Pace::default();
        let now = Duration::from_secs(5);
        assert!((0..LEASE_BURST).all(|_| pace.take_for_lease(now)));
        assert!(!pace.take_for_lease(now));
        assert!(pace.take_for_lease(now + LEASE_INTERVAL));
        assert!(!pace.take_for_lease(now + LEASE_INTERVAL));
    }

    /// Whoever has a network of version 6 has as many addresses that have not failed as he likes.
    #[test]
    fn a_crowd_has_a_pace() {
        let mut pace = Pace::default();
        let now = Duration::from_secs(5);
        assert!((0..CROWD_BURST).all(|_| pace.take_for_crowd(now)));
        assert!(!pace.take_for_crowd(now));
        assert!(pace.take_for_crowd(now + CROWD_INTERVAL));
        assert!(!pace.take_for_crowd(now + CROWD_INTERVAL));
    }
}
