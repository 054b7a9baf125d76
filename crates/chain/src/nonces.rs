//! Which numbers of an account are taken by extrinsics of this process that are on their way.
//!
//! The node counts what waits in its pool, but not what is signed and not sent yet. Without this book two extrinsics that
//! are signed at the same moment would get one number, and the pool would take one of them. A number that was never sent
//! is free again when its holder is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::Clock;
use nicompute_market::AccountId;
use tokio::sync::watch;

/// The numbers in use, by account. Shared by all clones of a client.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    book: Mutex<HashMap<AccountId, BTreeMap<u64, State>>>,
    moved: watch::Sender<u64>,
}

/// A number of an account, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    nonces: Arc<Nonces>,
    account: AccountId,
    nonce: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Signed, and not sent yet.
    Held,
    /// A number below it was given back: sent now, it would wait for one that never comes.
    Gapped,
    /// In the pool, or perhaps in the pool.
    Sent,
}

/// A number below this one was given back without being sent, so that this one leaves a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap;

// === impl Nonces ===

impl Nonces {
    /// Takes the lowest free number from `next` on, which is the one that the node names.
    pub(crate) fn take(self: &Arc<Self>, account: AccountId, next: u64) -> Slot {
        let mut book = self.lock();
        let taken = book.entry(account).or_default();
        let mut nonce = next;
        while taken.contains_key(&nonce) {
            nonce = nonce.saturating_add(1);
        }
        taken.insert(nonce, State::Held);
        drop(book);
        Slot { nonces: Arc::clone(self), account, nonce }
    }

    /// Takes this very number for an extrinsic that may have been sent by an earlier process; none if it is taken.
    pub(crate) fn take_sent(self: &Arc<Self>, account: AccountId, nonce: u64) -> Option<Slot> {
        let mut book = self.lock();
        let taken = book.entry(account).or_default();
        if taken.contains_key(&nonce) {
            return None;
        }
        taken.insert(nonce, State::Sent);
        drop(book);
        Some(Slot { nonces: Arc::clone(self), account, nonce })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, BTreeMap<u64, State>>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
    }
}

// === impl Slot ===

impl Slot {
    pub(crate) const fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Whether it was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.state() == Some(State::Sent)
    }

    /// Says that the pool has it, or may have it.
    pub(crate) fn sent(&self) {
        if let Some(taken) = self.nonces.lock().get_mut(&self.account) {
            taken.insert(self.nonce, State::Sent);
        }
        self.nonces.tell();
    }

    /// Waits until every lower number of this process is sent, for as long as `limit`.
    pub(crate) async fn turn(&self, clock: &dyn Clock, limit: Duration) -> Result<(), Gap> {
        let until = clock.monotonic().saturating_add(limit);
        let mut moved = self.nonces.moved.subscribe();
        loop {
            moved.mark_unchanged();
            match self.state() {
                Some(State::Gapped) => return Err(Gap),
                Some(State::Sent) | None => return Ok(()),
                Some(State::Held) if !self.waits() => return Ok(()),
                Some(State::Held) => {}
            }
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                // Somebody holds a lower number and does not send it; the pool will say what that means.
                return Ok(());
            }
            tokio::select! {
                biased;
                changed = moved.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = clock.sleep(left) => {}
            }
        }
    }

    fn waits(&self) -> bool {
        let book = self.nonces.lock();
        let Some(taken) = book.get(&self.account) else { return false };
        taken.range(..self.nonce).any(|(_, state)| *state != State::Sent)
    }

    fn state(&self) -> Option<State> {
        self.nonces.lock().get(&self.account)?.get(&self.nonce).copied()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut book = self.nonces.lock();
        if let Some(taken) = book.get_mut(&self.account) {
            let was = taken.remove(&self.nonce);
            if was != Some(State::Sent) {
                for (_, state) in taken.range_mut(self.nonce..) {
                    if *state == State::Held {
                        *state = State::Gapped;
                    }
                }
            }
            if taken.is_empty() {
                book.remove(&self.account);
            }
        }
        drop(book);
        self.nonces.tell();
    }
}

#[cfg(test)]
mod tests {
    use nicompute_daemon::SystemClock;

    use super::*;

    fn account() -> AccountId {
        AccountId::from_bytes([7; 32])
    }

    /// Two extrinsics with one number are one extrinsic: the other would be lost.
    #[tokio::test]
    async fn numbers_are_given_once_and_come_back_when_unused() {
        let nonces = Arc::new(Nonces::default());
        let first = nonces.take(account(), 5);
        let second = nonces.take(account(), 5);
        assert_eq!((first.nonce(), second.nonce()), (5, 6));
        assert_eq!(nonces.take(AccountId::from_bytes([8; 32]), 5).nonce(), 5);
        first.sent();
        drop(first);
        assert!(second.turn(&SystemClock::new(), Duration::from_secs(5)).await.is_ok());
        drop(second);
        assert_eq!(nonces.take(account(), 6).nonce(), 6);
        assert!(nonces.lock().is_empty(), "the book of an idle account is not kept");
    }

    /// An extrinsic whose number waits for one that was given back would lie in the pool for ever.
    #[tokio::test]
    async fn a_number_given_back_is_a_gap_for_those_above() {
        let nonces = Arc::new(Nonces::default());
        let (first, second, third) =
            (nonces.take(account(), 5), nonces.take(account(), 5), nonces.take(account(), 5));
        let clock = SystemClock::new();
        let given_back = async {
            drop(first);
        };
        let (waited, ()) = tokio::join!(second.turn(&clock, Duration::from_secs(60)), given_back);
        assert_eq!(waited, Err(Gap));
        third.sent();
        assert_eq!(third.turn(&clock, Duration::ZERO).await, Ok(()));
        // The gap is filled first.
        assert_eq!(nonces.take(account(), 5).nonce(), 5);
    }

    /// A holder that never sends must not stop everybody else of its account for ever.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let nonces = Arc::new(Nonces::default());
        let first = nonces.take(account(), 5);
        let second = nonces.take(account(), 5);
        assert_eq!(second.turn(&SystemClock::new(), Duration::from_millis(50)).await, Ok(()));
        assert!(!first.is_sent());
        assert!(nonces.take_sent(account(), 6).is_none());
        assert!(nonces.take_sent(account(), 7).is_some_and(|slot| slot.is_sent()));
    }
}
