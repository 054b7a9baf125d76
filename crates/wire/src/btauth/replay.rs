//! What a receiver remembers so that no request is accepted twice, and what a sender remembers so that none looks alike.

use std::collections::{BTreeSet, HashMap};

use nicompute_market::AccountId;

use crate::btauth::request::{MAX_AGE_NS, MAX_SKEW_NS};

/// How long after its nonce a request is remembered. A request can be accepted from 2 s before to 10 s after its nonce;
/// the rest lets the receiver's clock step back without a request being accepted again.
pub const RETENTION_NS: u64 = 30_000_000_000;
/// Most requests that are remembered at once, about 5 MB.
pub const REPLAYS_MAX: usize = 65_536;
/// Most requests of one sender that are remembered at once, so that one validator cannot shut out the others:
/// about 270 a second.
pub const REPLAYS_PER_SENDER_MAX: usize = 8_192;

const _: () = assert!(RETENTION_NS >= MAX_AGE_NS + MAX_SKEW_NS, "a gap would allow replays");

/// The accepted requests of the last seconds, bounded in number.
///
/// Where there is no room the request is refused: to forget another one would open the door to its replay. For the same
/// reason nonces from before the store's start are refused, so that a restart forgets nothing that matters.
#[derive(Debug)]
pub struct ReplayStore {
    seen: BTreeSet<(u64, AccountId)>,
    per_sender: HashMap<AccountId, usize>,
    /// No nonce below this is accepted: what lies below was forgotten, or never known.
    floor_ns: u64,
    limits: Limits,
}

#[derive(Debug)]
struct Limits {
    total: usize,
    per_sender: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplayRefusal {
    Seen,
    Forgotten,
    Full,
}

impl ReplayStore {
    /// An empty store of a process that starts to listen now. Requests that were signed earlier are refused, since the
    /// process before this one may have accepted them.
    #[must_use]
    pub fn new(started_ns: u64) -> Self {
        Self::with_limits(started_ns, REPLAYS_MAX, REPLAYS_PER_SENDER_MAX)
    }

    /// An empty store with other limits.
    #[must_use]
    pub fn with_limits(started_ns: u64, total: usize, per_sender: usize) -> Self {
        Self {
            seen: BTreeSet::new(),
            per_sender: HashMap::new(),
            floor_ns: started_ns,
            limits: Limits { total, per_sender },
        }
    }

    /// How many requests are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no request is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub(super) fn remember(
        &mut self,
        sender: AccountId,
        nonce_ns: u64,
        now_ns: u64,
    ) -> Result<(), ReplayRefusal> {
        self.forget_before(now_ns.saturating_sub(RETENTION_NS));
        if nonce_ns < self.floor_ns {
            return Err(ReplayRefusal::Forgotten);
        }
        if self.seen.contains(&(nonce_ns, sender)) {
            return Err(ReplayRefusal::Seen);
        }
        let of_sender = self.per_sender.get(&sender).copied().unwrap_or_default();
        if self.seen.len() >= self.limits.total || of_sender >= self.limits.per_sender {
            return Err(ReplayRefusal::Full);
        }
        self.seen.insert((nonce_ns, sender));
        self.per_sender.insert(sender, of_sender.saturating_add(1));
        Ok(())
    }

    /// The floor never falls: after a clock that ran ahead was set back, requests are refused until it has caught up,
    /// rather than accepted a second time.
    fn forget_before(&mut self, horizon_ns: u64) {
        self.floor_ns = self.floor_ns.max(horizon_ns);
        while let Some(&(nonce_ns, sender)) = self.seen.first() {
            if nonce_ns >= horizon_ns {
                break;
            }
            self.seen.pop_first();
            if let Some(count) = self.per_sender.get_mut(&sender) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.per_sender.remove(&sender);
                }
            }
        }
    }
}

/// Nonces of one sender: the clock's nanoseconds, moved forward where the clock gave the same instant twice.
#[derive(Debug, Default)]
pub struct NonceSource {
    last_ns: u64,
}

impl NonceSource {
    /// A nonce that this source has not given before.
    pub fn next(&mut self, now_ns: u64) -> u64 {
        self.last_ns = now_ns.max(self.last_ns.saturating_add(1));
        self.last_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn sender(byte: u8) -> AccountId {
        AccountId::from_bytes([byte; 32])
    }

    /// A full memory must refuse newcomers and never forget a request that can still be replayed.
    #[test]
    fn at_the_limit_new_requests_are_refused_and_old_ones_stay_known() {
        let mut store = ReplayStore::with_limits(NOW, 3, 2);
        assert_eq!(store.remember(sender(1), NOW, NOW), Ok(()));
        assert_eq!(store.remember(sender(1), NOW + 1, NOW), Ok(()));
        assert_eq!(store.remember(sender(1), NOW + 2, NOW), Err(ReplayRefusal::Full));
        assert_eq!(store.remember(sender(2), NOW, NOW), Ok(()));
        assert_eq!(store.remember(sender(3), NOW, NOW), Err(ReplayRefusal::Full));
        assert_eq!(store.remember(sender(1), NOW, NOW), Err(ReplayRefusal::Seen));
        assert_eq!(store.len(), 3);
        // When the first ones are out of date there is room again, and they are refused as such.
        let later = NOW + RETENTION_NS + 1;
        assert_eq!(store.remember(sender(3), later, later), Ok(()));
        assert_eq!(store.len(), 2, "only what is still within the retention");
        assert_eq!(store.remember(sender(1), NOW, later), Err(ReplayRefusal::Forgotten));
        assert_eq!(store.per_sender.len(), 2);
    }

    /// A restart must not open the door to requests that the process before it accepted.
    #[test]
    fn requests_from_before_the_start_are_refused() {
        let mut store = ReplayStore::new(NOW);
        assert_eq!(store.remember(sender(1), NOW - 1, NOW), Err(ReplayRefusal::Forgotten));
        assert_eq!(store.remember(sender(1), NOW, NOW), Ok(()));
    }

    /// A clock that is set back must not make old requests acceptable again.
    #[test]
    fn a_clock_set_back_opens_nothing() {
        let mut store = ReplayStore::new(NOW);
        assert_eq!(store.remember(sender(1), NOW, NOW), Ok(()));
        let ahead = NOW + 3_600_000_000_000;
        assert_eq!(store.remember(sender(1), ahead, ahead), Ok(()));
        assert_eq!(store.remember(sender(1), NOW, NOW), Err(ReplayRefusal::Forgotten));
    }

    /// Two requests in one nanosecond, or a clock set back, must not make a sender replay itself.
    #[test]
    fn nonces_never_repeat() {
        let mut source = NonceSource::default();
        let drawn = [source.next(5), source.next(5), source.next(3), source.next(100)];
        assert_eq!(drawn, [5, 6, 7, 100]);
    }
}
