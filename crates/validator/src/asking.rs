//! Requests for leases that are on their way to a provider. While one is, "no such lease" proves nothing: the request may
//! arrive after that answer. A request that was never answered counts until its signature is too old to be taken.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_market::LeaseId;
use nicompute_wire::btauth::{MAX_AGE_NS, MAX_SKEW_NS};

/// How long after it was sent a request that was not answered may still be taken.
pub(crate) const REQUEST_LIFE: Duration = Duration::from_nanos(MAX_AGE_NS + MAX_SKEW_NS);

/// The leases that are being asked for, one asker each, behind a lock that is never held across a wait.
#[derive(Debug, Default)]
pub(crate) struct Asking(Mutex<BTreeMap<LeaseId, Ask>>);

#[derive(Debug, Clone, Copy, Default)]
struct Ask {
    has_asker: bool,
    /// Until when the last request may be taken, if it was not answered; on the monotonic clock.
    open_until: Option<Duration>,
}

/// The right to ask for one lease. Once it is dropped, another may ask.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    asking: &'a Asking,
    lease: LeaseId,
}

impl Asking {
    /// Makes the caller the only one that asks for a lease; nothing while somebody else does.
    pub(crate) fn begin(&self, lease: LeaseId, now: Duration) -> Option<Asker<'_>> {
        let mut asks = self.lock();
        asks.retain(|_, ask| ask.has_asker || ask.open_until.is_some_and(|until| until > now));
        let ask = asks.entry(lease).or_default();
        if ask.has_asker {
            return None;
        }
        ask.has_asker = true;
        drop(asks);
        Some(Asker { asking: self, lease })
    }

    /// Whether a request for the lease may still be on its way.
    pub(crate) fn may_arrive(&self, lease: LeaseId, now: Duration) -> bool {
        let is_open = |ask: &Ask| ask.has_asker || ask.open_until.is_some_and(|until| until > now);
        self.lock().get(&lease).is_some_and(is_open)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Ask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asker<'_> {
    /// A request is about to be sent, now.
    pub(crate) fn sends(&self, now: Duration) {
        self.set(Some(now.saturating_add(REQUEST_LIFE)));
    }

    /// The request was answered by the provider.
    pub(crate) fn is_answered(&self) {
        self.set(None);
    }

    fn set(&self, open_until: Option<Duration>) {
        if let Some(ask) = self.asking.lock().get_mut(&self.lease) {
            ask.open_until = open_until;
        }
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        let mut asks = self.asking.lock();
        if let Some(ask) = asks.get_mut(&self.lease) {
            ask.has_asker = false;
            if ask.open_until.is_none() {
                asks.remove(&self.lease);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    /// Two askers would contradict each other in the books; a request that got lost must not be forgotten too early.
    #[test]
    fn a_lease_has_one_asker_and_a_lost_request_counts_for_a_while() {
        let (asking, lease) = (Asking::default(), LeaseId::from_random_bytes([1; 16]));
        assert!(!asking.may_arrive(lease, NOW));
        let asker = asking.begin(lease, NOW).unwrap();
        assert!(asking.begin(lease, NOW).is_none());
        assert!(asking.may_arrive(lease, NOW));
        asker.sends(NOW);
        asker.is_answered();
        drop(asker);
        assert!(!asking.may_arrive(lease, NOW), "answered");

        let asker = asking.begin(lease, NOW).unwrap();
        asker.sends(NOW);
        drop(asker);
        let end = NOW.saturating_add(REQUEST_LIFE);
        assert!(asking.may_arrive(lease, end.saturating_sub(Duration::from_nanos(1))));
        assert!(!asking.may_arrive(lease, end));
        drop(asking.begin(LeaseId::from_random_bytes([2; 16]), end));
        assert!(asking.lock().is_empty(), "what is over is forgotten");
    }
}
