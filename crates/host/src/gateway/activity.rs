//! When something last went through a connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nicompute_daemon::SharedClock;

/// The moment of the last byte in either direction.
#[derive(Debug)]
pub(super) struct Activity {
    clock: SharedClock,
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new(clock: SharedClock) -> Self {
        let activity = Self { clock, last_ms: AtomicU64::new(0) };
        activity.touch();
        activity
    }

    /// Something went through.
    pub(super) fn touch(&self) {
        self.last_ms.store(millis(self.clock.monotonic()), Ordering::Relaxed);
    }

    /// Returns when nothing has gone through for the span.
    pub(super) async fn idle_for(&self, span: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let rest = (last + span).saturating_sub(self.clock.monotonic());
            if rest.is_zero() {
                return;
            }
            self.clock.sleep(rest).await;
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nicompute_daemon::ManualClock;

    use super::*;

    /// A session in use that is ended as idle is lost work; one that is idle for ever keeps its place.
    #[tokio::test]
    async fn idle_is_counted_from_the_last_byte() {
        let manual = ManualClock::at_unix_ms(0);
        let activity = Activity::new(Arc::clone(&manual) as SharedClock);
        let minute = Duration::from_secs(60);
        let idle = activity.idle_for(10 * minute);
        tokio::pin!(idle);
        let mut ended = false;
        for minutes in 0..19 {
            tokio::select! { biased; () = &mut idle => ended = true, () = tokio::task::yield_now() => {} }
            assert!(!ended, "after {minutes} minutes");
            manual.advance(minute);
            if minutes == 8 {
                activity.touch();
            }
        }
        idle.await;
    }
}
