//! Retry for faults that lie elsewhere: exponential, jittered, with an end.

use std::time::Duration;

use crate::Clock;

/// Who can do something about an error. Status codes, exit codes, retries and log levels follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller asked for something wrong; asking again changes nothing.
    Caller,
    /// Something outside failed; asking again may help.
    Elsewhere,
    /// A broken promise of our own.
    Bug,
}

/// How long to wait between tries, and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// Tries in all, at least one.
    pub tries_max: u32,
}

impl Backoff {
    /// The wait before try number `attempt` (1 is the first repetition): doubled each time, capped, and shortened by up
    /// to a quarter at random so that many callers do not return at once.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
        let capped = doubled.min(self.cap);
        let jitter = getrandom::u32().unwrap_or(0) % 256;
        capped.saturating_sub(capped / 1024 * jitter)
    }
}

/// Calls `act` until it succeeds, fails for a reason that repetition does not cure, or the tries are used up.
///
/// # Errors
/// The last error of `act`.
pub async fn retry<T, E, F, Fut>(
    clock: &dyn Clock,
    backoff: Backoff,
    kind: impl Fn(&E) -> Kind,
    mut act: F,
) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut attempt = 1;
    loop {
        match act().await {
            Ok(value) => return Ok(value),
            Err(error) if attempt >= backoff.tries_max || kind(&error) != Kind::Elsewhere => {
                return Err(error);
            }
            Err(_) => clock.sleep(backoff.delay(attempt)).await,
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    /// A retry without an end would hide an outage for ever; one that repeats refusals would hammer the other side.
    #[tokio::test(start_paused = true)]
    async fn ends_and_respects_the_kind() {
        let backoff =
            Backoff { first: Duration::from_millis(10), cap: Duration::from_secs(1), tries_max: 3 };
        for (kind, expected) in [(Kind::Elsewhere, 3), (Kind::Caller, 1), (Kind::Bug, 1)] {
            let mut calls = 0;
            let result: Result<(), ()> = retry(
                &SystemClock::new(),
                backoff,
                |()| kind,
                || {
                    calls += 1;
                    std::future::ready(Err(()))
                },
            )
            .await;
            assert_eq!((result, calls), (Err(()), expected));
        }
        assert!(backoff.delay(40) <= backoff.cap);
    }
}
