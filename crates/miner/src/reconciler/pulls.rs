//! Images on their way to this machine: each is fetched once, however many leases wait for it.
//!
//! A fetch is a task of its own, since it may take half an hour and there is room for few drives. The lease that waits looks
//! at it whenever it is driven; the loop is woken when a fetch moves on or ends. One that no lease waits for is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nicompute_daemon::{CancellationToken, OnError, Tasks};
use nicompute_host::runtime::{PullProgress, Runtime, RuntimeError};
use tokio::sync::{Notify, watch};

/// A fetch is told in so many parts.
const STEPS: u64 = 10;
/// Where the size is not known, whenever so many bytes have come.
const STEP_BYTES: u64 = 1 << 30;
const MEBIBYTE: u64 = 1 << 20;

/// The fetches under way, and those whose outcome nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Pulls {
    tasks: Tasks,
    under_way: Arc<Mutex<BTreeMap<String, Pull>>>,
    /// Wakes the loop.
    moved: Arc<Notify>,
}

#[derive(Debug)]
struct Pull {
    progress: watch::Receiver<PullProgress>,
    outcome: Option<Result<(), RuntimeError>>,
    stop: CancellationToken,
}

/// How far an image is.
#[derive(Debug)]
pub(crate) enum Fetch {
    /// Under way, in words for the lease's holder.
    UnderWay(String),
    /// Over; the next question starts anew.
    Over(Result<(), RuntimeError>),
}

impl Pulls {
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self { tasks, under_way: Arc::default(), moved: Arc::default() }
    }

    /// Until some fetch has moved on.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Looks at the fetch of an image, and starts it where there is none.
    pub(super) fn look(&self, runtime: &Arc<dyn Runtime>, image: &str) -> Fetch {
        let mut all = self.lock();
        if let Some(pull) = all.get_mut(image) {
            let Some(outcome) = pull.outcome.take() else {
                let progress = *pull.progress.borrow();
                return Fetch::UnderWay(told(progress));
            };
            all.remove(image);
            return Fetch::Over(outcome);
        }
        let (sender, progress) = watch::channel(PullProgress::default());
        let stop = CancellationToken::new();
        all.insert(image.to_owned(), Pull { progress, outcome: None, stop: stop.clone() });
        drop(all);
        tracing::info!(image, "fetching an image");
        self.start(Arc::clone(runtime), image.to_owned(), sender, stop);
        Fetch::UnderWay(told(PullProgress::default()))
    }

    /// Gives up what nobody waits for any more.
    pub(super) fn keep_only(&self, wanted: &BTreeSet<&str>) {
        self.lock().retain(|image, pull| {
            let is_wanted = wanted.contains(image.as_str());
            if !is_wanted {
                tracing::info!(image, "nobody waits for this image any more");
                pull.stop.cancel();
            }
            is_wanted
        });
    }

    fn start(
        &self,
        runtime: Arc<dyn Runtime>,
        image: String,
        sender: watch::Sender<PullProgress>,
        stop: CancellationToken,
    ) {
        let (under_way, moved) = (Arc::clone(&self.under_way), Arc::clone(&self.moved));
        self.tasks.spawn("image", OnError::Log, async move {
            let mut progress = sender.subscribe();
            let pull = runtime.pull(&image, &sender);
            tokio::pin!(pull);
            let mut last = String::new();
            let outcome = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    outcome = &mut pull => break outcome,
                    changed = progress.changed() => {
                        let now = told(*progress.borrow_and_update());
                        if changed.is_ok() && now != last {
                            last = now;
                            moved.notify_one();
                        }
                    }
                }
            };
            let mut all = under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(pull) = all.get_mut(&image) {
                pull.outcome = Some(outcome);
            }
            drop(all);
            moved.notify_one();
            Ok(())
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pull>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Few words, that change a few times only: each change is an event of the lease.
fn told(progress: PullProgress) -> String {
    let PullProgress { bytes_done: done, bytes_total: total } = progress;
    if total == 0 {
        let part = done / STEP_BYTES * STEP_BYTES / MEBIBYTE;
        return format!("fetching the image: {part} MiB so far");
    }
    let step = done.min(total).saturating_mul(STEPS) / total;
    let percent = step.saturating_mul(100) / STEPS;
    format!("fetching the image: {percent} % of {} MiB", total / MEBIBYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of a million layers must not write a million events.
    #[test]
    fn progress_is_told_in_few_steps() {
        let at = |bytes_done, bytes_total| told(PullProgress { bytes_done, bytes_total });
        let all: BTreeSet<_> = (0..=10_000).map(|done| at(done << 20, 10_000 << 20)).collect();
        assert_eq!(all.len(), 11);
        assert!(all.contains("fetching the image: 100 % of 10000 MiB"), "{all:?}");
        assert_eq!(at(3 << 30, 0), "fetching the image: 3072 MiB so far");
        assert_eq!(at(u64::MAX, 1), "fetching the image: 100 % of 0 MiB");
    }
}
