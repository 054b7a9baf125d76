//! Places for work, given to those of most priority first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// So many work at once; so many more wait, ordered by priority and then by arrival.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<Waiting>,
    waiting_max: usize,
}

#[derive(Debug)]
struct Waiting {
    free: usize,
    arrived: u64,
    queue: BTreeMap<Turn, oneshot::Sender<Place>>,
}

/// Most priority first, then who came first.
type Turn = (Reverse<u64>, u64);

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Gate>);

/// A waiter that leaves the queue when its request ends.
struct Waiter {
    gate: Arc<Gate>,
    turn: Turn,
}

/// As many wait as may wait, with no less priority.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Gate {
    pub(super) fn new(places: usize, waiting_max: usize) -> Arc<Self> {
        let state = Waiting { free: places, arrived: 0, queue: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state), waiting_max })
    }

    /// Waits for a place. Where the queue is full, the last in it makes room for one of more priority.
    pub(super) async fn enter(self: &Arc<Self>, priority: u64) -> Result<Place, Full> {
        let Some((waiter, place)) = self.stand(priority)? else {
            return Ok(Place(Arc::clone(self)));
        };
        let entered = place.await.map_err(|_| Full);
        drop(waiter);
        entered
    }

    /// Takes a free place, or a turn in the queue.
    fn stand(
        self: &Arc<Self>,
        priority: u64,
    ) -> Result<Option<(Waiter, oneshot::Receiver<Place>)>, Full> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free = state.free.saturating_sub(1);
            return Ok(None);
        }
        state.arrived = state.arrived.saturating_add(1);
        let turn = (Reverse(priority), state.arrived);
        if state.queue.len() >= self.waiting_max {
            match state.queue.last_key_value() {
                // Its sender is dropped, so it is told.
                Some((last, _)) if turn < *last => drop(state.queue.pop_last()),
                Some(_) | None => return Err(Full),
            }
        }
        let (give, place) = oneshot::channel();
        state.queue.insert(turn, give);
        drop(state);
        Ok(Some((Waiter { gate: Arc::clone(self), turn }, place)))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let Some((_, next)) = state.queue.pop_first() else {
            state.free = state.free.saturating_add(1);
            return;
        };
        drop(state);
        // One that has just gone away drops the place again, which gives it to the one behind.
        drop(next.send(Self(Arc::clone(&self.0))));
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.gate.lock().queue.remove(&self.turn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waits(gate: &Arc<Gate>, priority: u64) -> tokio::task::JoinHandle<Result<u64, Full>> {
        let before = gate.lock().arrived;
        let own = Arc::clone(gate);
        #[expect(clippy::disallowed_methods, reason = "a test's own waiter")]
        let task = tokio::spawn(async move {
            own.enter(priority).await.map(|place| {
                drop(place);
                priority
            })
        });
        while gate.lock().arrived == before {
            tokio::task::yield_now().await;
        }
        task
    }

    /// A validator with much stake must not wait behind a crowd with none.
    #[tokio::test]
    async fn more_stake_goes_first() {
        let gate = Gate::new(1, 2);
        let held = gate.enter(0).await.unwrap();
        let (low, high) = (waits(&gate, 1).await, waits(&gate, 9).await);
        assert_eq!(gate.enter(1).await.map(drop), Err(Full), "no more than those who wait");
        let middle = waits(&gate, 5).await;
        assert_eq!(low.await.unwrap(), Err(Full), "the last makes room");
        let order: Vec<_> =
            gate.lock().queue.keys().map(|(Reverse(priority), _)| *priority).collect();
        assert_eq!(order, [9, 5]);
        drop(held);
        assert_eq!((high.await.unwrap(), middle.await.unwrap()), (Ok(9), Ok(5)));
        assert_eq!(gate.lock().free, 1);
    }

    /// A caller that goes away while it waits must not take its place with it.
    #[tokio::test]
    async fn who_goes_away_gives_its_place_on() {
        let gate = Gate::new(1, 4);
        let held = gate.enter(0).await.unwrap();
        let (gone, stays) = (waits(&gate, 9).await, waits(&gate, 5).await);
        gone.abort();
        assert!(gone.await.is_err());
        assert_eq!(gate.lock().queue.len(), 1);
        drop(held);
        assert_eq!(stays.await.unwrap(), Ok(5));
        assert_eq!(gate.lock().free, 1);
    }
}
