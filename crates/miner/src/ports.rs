//! Ports of leases that others reach at this machine: which ones the provider gives, and which are reached now.
//!
//! Which outside port is whose stands in the store; the gateway listens. Here is only what this process has found out,
//! so that a holder can be told why nobody gets through.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nicompute_market::LeaseId;

/// What is said of a port that this process has not tried yet.
const NOT_YET: &str = "the provider's node does not listen yet";

/// Ports of this machine that leases are given, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// What is not a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected two ports such as 20000-20099, the lower one first")]
pub struct BadPortRange;

/// Why ports of leases are not reached, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct PortBoard(Mutex<BTreeMap<LeaseId, BTreeMap<u16, Option<&'static str>>>>);

// === impl PortRange ===

impl PortRange {
    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last.saturating_sub(self.first)).saturating_add(1)
    }

    /// Whether a port is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for PortRange {
    type Err = BadPortRange;

    fn from_str(text: &str) -> Result<Self, BadPortRange> {
        let (first, last) = text.split_once('-').ok_or(BadPortRange)?;
        let port = |text: &str| {
            // A sign is none of a port's characters, though it reads as a number.
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|port: &u16| is_plain && *port != 0).ok_or(BadPortRange)
        };
        let (first, last) = (port(first)?, port(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(BadPortRange) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

// === impl PortBoard ===

impl PortBoard {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, BTreeMap<u16, Option<&'static str>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down how a port of a lease stands, and gives whether that is news.
    pub(crate) fn set(
        &self,
        lease: LeaseId,
        container_port: u16,
        problem: Option<&'static str>,
    ) -> bool {
        self.lock().entry(lease).or_default().insert(container_port, problem) != Some(problem)
    }

    /// Why nobody gets through to a port of a lease.
    pub(crate) fn problem(&self, lease: LeaseId, container_port: u16) -> Option<&'static str> {
        let all = self.lock();
        all.get(&lease).and_then(|ports| ports.get(&container_port)).map_or(Some(NOT_YET), |p| *p)
    }

    pub(crate) fn forget(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range that is misread opens ports that the provider's firewall was never told about.
    #[test]
    fn ranges_are_read_or_refused() {
        let range: PortRange = "20000-20099".parse().unwrap();
        assert_eq!((range.first(), range.last(), range.count()), (20000, 20099, 100));
        assert!(range.contains(20000) && range.contains(20099) && !range.contains(20100));
        assert_eq!(range.to_string(), "20000-20099");
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65535);
        assert_eq!("7-7".parse::<PortRange>().unwrap().count(), 1);
        for text in ["", "-", "7", "0-7", "9-7", "7-65536", "+7-9", " 7-9", "7-9-11", "a-b", "7-"] {
            assert_eq!(text.parse::<PortRange>(), Err(BadPortRange), "{text:?}");
        }
    }

    /// A port that nobody has tried must not be called open, and news must be told once.
    #[test]
    fn what_is_known_of_ports() {
        let (board, lease) = (PortBoard::default(), LeaseId::from_random_bytes([1; 16]));
        assert_eq!(board.problem(lease, 80), Some(NOT_YET));
        assert!(board.set(lease, 80, Some("taken")) && !board.set(lease, 80, Some("taken")));
        assert_eq!(board.problem(lease, 80), Some("taken"));
        assert!(board.set(lease, 80, None));
        assert_eq!((board.problem(lease, 80), board.problem(lease, 81)), (None, Some(NOT_YET)));
        board.forget(lease);
        assert_eq!(board.problem(lease, 80), Some(NOT_YET));
    }
}
