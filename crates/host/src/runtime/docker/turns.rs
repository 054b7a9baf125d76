//! One hand at a time on each lease's container. The engine carries out what it is asked in any order, and a second start
//! that finds a container of the first one's files would take it for a wrong one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nicompute_market::LeaseId;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Who is at work on which lease.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<LeaseId, Weak<Turn<()>>>>);

impl Turns {
    /// Waits until nobody else of this process is at work on the lease's container. The turn ends when it is dropped.
    pub(super) async fn of(&self, lease: LeaseId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&lease).and_then(Weak::upgrade);
            let turn = known.unwrap_or_default();
            turns.insert(lease, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two starts at once of one container end in none; a lease that waits for another one's engine is a hung market.
    #[tokio::test]
    async fn each_lease_has_one_turn() {
        let turns = Turns::default();
        let [one, other] = [1, 2].map(|byte| LeaseId::from_random_bytes([byte; 16]));
        let first = turns.of(one).await;
        let _other = turns.of(other).await;
        let mut second = std::pin::pin!(turns.of(one));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert_eq!(turns.0.lock().unwrap().len(), 2);
        drop(turns.of(LeaseId::from_random_bytes([3; 16])).await);
        assert_eq!(turns.0.lock().unwrap().len(), 2, "who is done is forgotten");
    }
}
