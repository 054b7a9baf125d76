//! Time as a dependency: one trait, the machine's clock and one that a test moves by hand.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// A clock that is shared by the parts of one process.
pub type SharedClock = Arc<dyn Clock>;

type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Tells the time and waits for it.
///
/// Wall-clock time (`unix_ms`) is for records that others read; spans are measured with `monotonic` alone.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC.
    fn unix_ms(&self) -> u64;
    /// Nanoseconds since 1970-01-01 UTC, for nonces.
    fn unix_ns(&self) -> u64;
    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
    /// Waits for a span. Cancel-safe.
    fn sleep(&self, span: Duration) -> Sleep<'_>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    pub fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that reads the machine's clock"
        )]
        let start = Instant::now();
        Self { start }
    }

    /// The same, ready to be shared.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

fn since_epoch() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
    }

    fn unix_ns(&self) -> u64 {
        u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, span: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock {
    unix_start: Duration,
    elapsed: Mutex<Duration>,
    moved: watch::Sender<Duration>,
}

impl ManualClock {
    /// A clock that shows the given Unix time.
    #[must_use]
    pub fn at_unix_ms(unix_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            unix_start: Duration::from_millis(unix_ms),
            elapsed: Mutex::new(Duration::ZERO),
            moved: watch::Sender::new(Duration::ZERO),
        })
    }

    /// Moves time forward and wakes every sleeper whose moment has come.
    pub fn advance(&self, span: Duration) {
        let mut elapsed = self.elapsed.lock().unwrap_or_else(PoisonError::into_inner);
        *elapsed = elapsed.saturating_add(span);
        self.moved.send_replace(*elapsed);
    }

    fn unix(&self) -> Duration {
        self.unix_start.saturating_add(self.monotonic())
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        u64::try_from(self.unix().as_millis()).unwrap_or(u64::MAX)
    }

    fn unix_ns(&self) -> u64 {
        u64::try_from(self.unix().as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, span: Duration) -> Sleep<'_> {
        let until = self.monotonic().saturating_add(span);
        let mut moved = self.moved.subscribe();
        Box::pin(async move {
            // The sender lives as long as `self`, which this future borrows: the wait cannot fail.
            let reached = moved.wait_for(|now| *now >= until).await.is_ok();
            debug_assert!(reached, "the clock outlives its sleepers");
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sleeper that never wakes under the manual clock would hang every deadline test.
    #[tokio::test]
    async fn manual_clock_wakes_sleepers() {
        let clock = ManualClock::at_unix_ms(1_000);
        let sleeper = clock.sleep(Duration::from_secs(2));
        tokio::pin!(sleeper);
        tokio::select! { biased; () = &mut sleeper => panic!("woke early"), () = tokio::task::yield_now() => {} }
        clock.advance(Duration::from_secs(2));
        sleeper.await;
        assert_eq!(clock.unix_ms(), 3_000);
    }
}
