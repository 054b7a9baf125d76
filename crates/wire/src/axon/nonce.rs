//! When a request is good: a rule about its time, and a memory of the last nonce of every dendrite.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use nicompute_market::AccountId;

use crate::axon::error::NotVerified;
use crate::axon::head::Verified;

/// How old a request may be, beside the time that its caller waits for the answer.
pub const FRESH_NS: u64 = 4_000_000_000;
/// How far the caller's clock may be ahead of ours. The original has no limit, so that one request from far ahead shut its
/// own sender out.
pub const AHEAD_NS: u64 = 2_000_000_000;
/// The longest wait that counts. The original believes any, and it is not signed: whoever listened could make an old request
/// good again. NI Compute's callers wait 60 s at most.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long a dendrite's last nonce is remembered: as long as an earlier one could be fresh, and half a minute more for a
/// clock that steps back.
pub const RETENTION_NS: u64 = 94_000_000_000;
/// Most dendrites that are remembered at once, about 4 MB.
pub const NONCES_MAX: usize = 16_384;
/// Most dendrites of one hotkey that are remembered at once. A process has one, or one for each call.
pub const NONCES_PER_SENDER_MAX: usize = 2_048;
/// Dendrites of one hotkey for which there is room also where others have filled the memory, so that a few senders cannot
/// keep all others out.
pub const NONCES_RESERVED_PER_SENDER: usize = 16;
/// Most dendrites that are remembered at once by virtue of that, beyond [`NONCES_MAX`].
pub const NONCES_RESERVED_MAX: usize = 8_192;
/// Bytes of the name that a dendrite draws for itself; Python's have 36.
pub const UUID_BYTES_MAX: usize = 64;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const _: () = assert!(
    RETENTION_NS >= FRESH_NS + AHEAD_NS + TIMEOUT_MAX.as_secs() * NANOS_PER_SECOND,
    "a gap would allow replays"
);

/// Whether the time of a request is good.
///
/// # Errors
/// Too old for what its caller waits, or too far ahead.
pub fn fresh(nonce_ns: u64, timeout: Duration, now_ns: u64) -> Result<(), NotVerified> {
    let timeout_ns = u64::try_from(timeout.min(TIMEOUT_MAX).as_nanos()).unwrap_or(u64::MAX);
    let window_ns = FRESH_NS.saturating_add(timeout_ns);
    if nonce_ns <= now_ns.saturating_sub(window_ns) {
        let age_ns = now_ns.saturating_sub(nonce_ns);
        return Err(NotVerified::TooOld {
            window: Duration::from_nanos(window_ns),
            age: Duration::from_nanos(age_ns),
        });
    }
    if nonce_ns > now_ns.saturating_add(AHEAD_NS) {
        return Err(NotVerified::Ahead);
    }
    Ok(())
}

/// The last nonce of every dendrite of the last moments, bounded in number.
///
/// Where there is no room the request is refused: to forget another one would open the door to its replay. For the same
/// reason nonces from before the store's start are refused, so that a restart forgets nothing that matters.
#[derive(Debug)]
pub struct NonceStore {
    last: HashMap<Dendrite, u64>,
    by_age: BTreeSet<(u64, Dendrite)>,
    per_sender: HashMap<AccountId, usize>,
    floor_ns: u64,
    total: usize,
    of_one: usize,
    reserved: Reserved,
}

/// Room beyond the total for those who have little of it.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    total: usize,
    of_one: usize,
}

type Dendrite = (AccountId, String);

impl NonceStore {
    /// An empty store of a process that accepts nothing from before this moment.
    #[must_use]
    pub fn new(started_ns: u64) -> Self {
        Self::with_limits(started_ns, NONCES_MAX, NONCES_PER_SENDER_MAX)
            .with_reserve(NONCES_RESERVED_MAX, NONCES_RESERVED_PER_SENDER)
    }

    /// The same with room for so many more, of so many of each sender that has no more than that.
    #[must_use]
    pub fn with_reserve(self, total: usize, of_one: usize) -> Self {
        Self { reserved: Reserved { total, of_one }, ..self }
    }

    /// An empty store with other limits and nothing reserved.
    #[must_use]
    pub fn with_limits(started_ns: u64, total: usize, of_one: usize) -> Self {
        Self {
            last: HashMap::new(),
            by_age: BTreeSet::new(),
            per_sender: HashMap::new(),
            floor_ns: started_ns,
            total,
            of_one,
            reserved: Reserved { total: 0, of_one: 0 },
        }
    }

    /// How many dendrites are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// Whether no dendrite is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Whether this store has accepted neither this request nor a later one of its dendrite. Remembers nothing.
    ///
    /// # Errors
    /// Where it is a replay, or may be one for all that is remembered.
    pub fn is_new(&mut self, call: &Verified, now_ns: u64) -> Result<(), NotVerified> {
        self.forget_before(now_ns.saturating_sub(RETENTION_NS));
        if call.nonce_ns < self.floor_ns {
            return Err(NotVerified::Forgotten);
        }
        match self.last.get(&(call.account, call.uuid.clone())) {
            Some(last) if call.nonce_ns <= *last => Err(NotVerified::Replayed),
            Some(_) | None => Ok(()),
        }
    }

    /// Accepts a request, unless it or a later one of its dendrite was accepted before.
    ///
    /// # Errors
    /// Where it is a replay, or may be one for all that is remembered, or where there is no room.
    pub fn admit(&mut self, call: &Verified, now_ns: u64) -> Result<(), NotVerified> {
        self.is_new(call, now_ns)?;
        let dendrite = (call.account, call.uuid.clone());
        if let Some(last) = self.last.get(&dendrite).copied() {
            self.by_age.remove(&(last, dendrite.clone()));
        } else {
            let of_sender = self.per_sender.get(&call.account).copied().unwrap_or_default();
            let total = if of_sender < self.reserved.of_one {
                self.total.saturating_add(self.reserved.total)
            } else {
                self.total
            };
            if self.last.len() >= total || of_sender >= self.of_one {
                return Err(NotVerified::Full);
            }
            self.per_sender.insert(call.account, of_sender.saturating_add(1));
        }
        self.by_age.insert((call.nonce_ns, dendrite.clone()));
        self.last.insert(dendrite, call.nonce_ns);
        Ok(())
    }

    /// The floor never falls, so that a clock that is set back makes nothing good again.
    fn forget_before(&mut self, horizon_ns: u64) {
        self.floor_ns = self.floor_ns.max(horizon_ns);
        while let Some((nonce_ns, _)) = self.by_age.first() {
            if *nonce_ns >= horizon_ns {
                break;
            }
            let Some((_, dendrite)) = self.by_age.pop_first() else { break };
            if let Some(count) = self.per_sender.get_mut(&dendrite.0) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.per_sender.remove(&dendrite.0);
                }
            }
            self.last.remove(&dendrite);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000_000;
    const SECOND: u64 = NANOS_PER_SECOND;

    fn call(sender: u8, uuid: &str, nonce_ns: u64) -> Verified {
        let account = AccountId::from_bytes([sender; 32]);
        Verified { account, nonce_ns, uuid: uuid.to_owned(), timeout: TIMEOUT_MAX }
    }

    /// The window is the original's where real dendrites are, and ends where theirs go on for ever.
    #[test]
    fn the_window_is_four_seconds_and_the_timeout() {
        let at = |nonce_ns, timeout| fresh(nonce_ns, Duration::from_secs(timeout), NOW);
        assert_eq!(at(NOW - 16 * SECOND + 1, 12), Ok(()));
        let old =
            NotVerified::TooOld { window: Duration::from_secs(16), age: Duration::from_secs(16) };
        assert_eq!(at(NOW - 16 * SECOND, 12), Err(old));
        assert_eq!(at(NOW - 4 * SECOND + 1, 0), Ok(()));
        assert!(at(NOW - 4 * SECOND, 0).is_err());
        // A caller that says that it waits for hours makes nothing good.
        assert!(at(NOW - 64 * SECOND, 9999).is_err());
        assert_eq!(at(NOW - 64 * SECOND + 1, 9999), Ok(()));
        assert_eq!(at(NOW + AHEAD_NS, 12), Ok(()));
        assert_eq!(at(NOW + AHEAD_NS + 1, 12), Err(NotVerified::Ahead));
        assert!(at(0, 12).is_err() && at(u64::MAX, 12).is_err());
    }

    /// A recorded request must be worth nothing, from the same dendrite and after the clock was set back.
    #[test]
    fn nonces_of_a_dendrite_only_rise() {
        let mut store = NonceStore::new(NOW - SECOND);
        assert_eq!(store.admit(&call(1, "a", NOW), NOW), Ok(()));
        assert_eq!(store.admit(&call(1, "a", NOW), NOW), Err(NotVerified::Replayed));
        assert_eq!(store.admit(&call(1, "a", NOW - 1), NOW), Err(NotVerified::Replayed));
        assert_eq!(store.admit(&call(1, "b", NOW - 1), NOW), Ok(()), "another dendrite");
        assert_eq!(store.admit(&call(2, "a", NOW - 1), NOW), Ok(()), "another sender");
        assert_eq!(store.admit(&call(1, "a", NOW + 1), NOW), Ok(()));
        assert_eq!(store.admit(&call(3, "a", NOW - SECOND - 1), NOW), Err(NotVerified::Forgotten));
        let later = NOW + RETENTION_NS + SECOND;
        assert_eq!(store.admit(&call(4, "a", later), later), Ok(()));
        assert_eq!(store.len(), 1, "what could not be fresh any more is forgotten");
        assert_eq!(store.admit(&call(1, "a", NOW + 1), NOW), Err(NotVerified::Forgotten));
        assert_eq!((store.by_age.len(), store.per_sender.len()), (1, 1));
    }

    /// A full memory refuses newcomers; it never forgets what can still be sent again.
    #[test]
    fn at_the_limit_newcomers_are_refused_and_the_known_go_on() {
        let mut store = NonceStore::with_limits(0, 3, 2);
        assert_eq!(store.admit(&call(1, "a", NOW), NOW), Ok(()));
        assert_eq!(store.admit(&call(1, "b", NOW), NOW), Ok(()));
        assert_eq!(store.admit(&call(1, "c", NOW), NOW), Err(NotVerified::Full));
        assert_eq!(store.admit(&call(2, "a", NOW), NOW), Ok(()));
        assert_eq!(store.admit(&call(3, "a", NOW), NOW), Err(NotVerified::Full));
        assert_eq!(store.admit(&call(1, "a", NOW + 1), NOW), Ok(()), "known");
        assert_eq!(store.admit(&call(1, "a", NOW), NOW), Err(NotVerified::Replayed));
        let later = NOW + RETENTION_NS + 1;
        assert_eq!(store.admit(&call(3, "a", later), later), Ok(()));
    }
    /// A few senders with many names each must not shut out everybody who comes after them.
    #[test]
    fn a_full_memory_has_room_for_the_first_of_another_sender() {
        let mut store = NonceStore::with_limits(0, 3, 3).with_reserve(2, 1);
        for uuid in ["a", "b", "c"] {
            assert_eq!(store.admit(&call(1, uuid, NOW), NOW), Ok(()));
        }
        assert_eq!(store.admit(&call(2, "a", NOW), NOW), Ok(()), "its first");
        assert_eq!(store.admit(&call(2, "b", NOW), NOW), Err(NotVerified::Full), "its second");
        assert_eq!(store.admit(&call(3, "a", NOW), NOW), Ok(()));
        assert_eq!(store.admit(&call(4, "a", NOW), NOW), Err(NotVerified::Full), "bounded too");
        assert_eq!(store.len(), 5);
        assert_eq!(store.is_new(&call(3, "a", NOW), NOW), Err(NotVerified::Replayed));
        assert_eq!(store.is_new(&call(4, "a", NOW), NOW), Ok(()), "asked, not remembered");
        assert_eq!(store.len(), 5);
    }
}
