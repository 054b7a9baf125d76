//! One node of several, and how it stands.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::Backoff;

use crate::url::NodeUrl;

/// How long a node that failed is left alone.
const REST: Backoff =
    Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(60), tries_max: u32::MAX };

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has tried it yet.
    Untried,
    /// It was of this chain and up to date when it was last tried.
    Ready,
    /// It does not answer, or is still catching up. It is tried again later.
    Away,
    /// It is of another chain. It is left out for good.
    OtherChain,
}

/// A node and how it stands, for health pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// Where.
    pub url: NodeUrl,
    /// How it stands.
    pub condition: Condition,
    /// Whether it is the one in use.
    pub in_use: bool,
}

/// A node of the list.
#[derive(Debug)]
pub(crate) struct Place {
    url: NodeUrl,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    condition: Condition,
    failures: u32,
    rests_until: Duration,
}

impl Place {
    pub(crate) const fn new(url: NodeUrl) -> Self {
        let standing =
            Standing { condition: Condition::Untried, failures: 0, rests_until: Duration::ZERO };
        Self { url, standing: Mutex::new(standing) }
    }

    pub(crate) const fn url(&self) -> &NodeUrl {
        &self.url
    }

    pub(crate) fn condition(&self) -> Condition {
        self.lock().condition
    }

    pub(crate) fn may_be_tried(&self, now: Duration) -> bool {
        let standing = self.lock();
        standing.condition != Condition::OtherChain && standing.rests_until <= now
    }

    pub(crate) fn reached(&self) {
        let mut standing = self.lock();
        standing.condition = Condition::Ready;
        standing.failures = 0;
        standing.rests_until = Duration::ZERO;
    }

    pub(crate) fn failed(&self, now: Duration) {
        let mut standing = self.lock();
        if standing.condition != Condition::OtherChain {
            standing.condition = Condition::Away;
        }
        standing.failures = standing.failures.saturating_add(1);
        standing.rests_until = now.saturating_add(REST.delay(standing.failures));
    }

    pub(crate) fn is_of_another_chain(&self) {
        self.lock().condition = Condition::OtherChain;
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that is down for a day must not be asked many times a second, and one that is back must be used again.
    #[test]
    fn rests_grow_and_end() {
        let place = Place::new(NodeUrl::LOCAL);
        let mut now = Duration::from_secs(1);
        assert!(place.may_be_tried(now));
        for _ in 0..40 {
            place.failed(now);
            assert!(!place.may_be_tried(now));
            now += REST.cap;
            assert!(place.may_be_tried(now));
        }
        place.failed(now);
        place.reached();
        assert!(place.may_be_tried(now));
        assert_eq!(place.condition(), Condition::Ready);
        place.is_of_another_chain();
        place.failed(now);
        assert!(!place.may_be_tried(now + REST.cap));
        assert_eq!(place.condition(), Condition::OtherChain);
    }
}
