//! The validator's background work: one file for each loop.

mod discover;
mod prove;
mod rentals;
mod weights;

use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::Tasks;

use crate::start::spawn;
use crate::state::Shared;

pub(crate) use rentals::refresh;

/// Starts every loop.
pub(crate) fn start(shared: &Arc<Shared>, tasks: &Tasks) {
    let state = Arc::clone(shared);
    spawn(tasks, "discover", move || {
        let state = Arc::clone(&state);
        async move {
            discover::round(&state).await;
            state.nudge.notify_waiters();
            state.clock.sleep(state.pace.discover).await;
        }
    });
    let state = Arc::clone(shared);
    let owner = tasks.clone();
    spawn(tasks, "prove", move || {
        let (state, owner) = (Arc::clone(&state), owner.clone());
        async move {
            prove::round(&state, &owner).await;
            wait(&state, state.pace.discover).await;
        }
    });
    let state = Arc::clone(shared);
    spawn(tasks, "weights", move || {
        let state = Arc::clone(&state);
        async move {
            weights::round(&state).await;
            wait(&state, state.pace.tick).await;
        }
    });
    let state = Arc::clone(shared);
    spawn(tasks, "rentals", move || {
        let state = Arc::clone(&state);
        async move {
            rentals::round(&state).await;
            prove::give_back(&state).await;
            state.clock.sleep(state.pace.tick).await;
        }
    });
}

/// Until somebody has news, or the time is over.
async fn wait(shared: &Shared, span: Duration) {
    tokio::select! {
        () = shared.nudge.notified() => {}
        () = shared.clock.sleep(span) => {}
    }
}
