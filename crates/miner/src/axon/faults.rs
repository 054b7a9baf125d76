//! The 500s of the door: each has an id that its caller is told, and by which the operator finds the cause in the log.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::{ErrorChain, SharedClock};
use nicompute_wire::axon::AxonError;
use uuid::Uuid;

/// Lines about faults of callers that are written within [`WINDOW`]; those beyond it are written for debugging only.
const LINES_MAX: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// How many lines callers have caused lately.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    since: Duration,
    written: u32,
}

/// A failure of the node itself.
pub(super) fn of_node(what: &str, error: &(dyn Error + 'static)) -> AxonError {
    let id = Uuid::new_v4().to_string();
    tracing::error!(%id, error = %ErrorChain(error), "{what}");
    AxonError::Internal { id }
}

// === impl Faults ===

impl Faults {
    /// A fault of the caller, which Python answers with a 500 too. No caller can fill the log with it.
    pub(super) fn of_caller(
        &self,
        clock: &SharedClock,
        error: &(dyn Error + 'static),
    ) -> AxonError {
        let id = Uuid::new_v4().to_string();
        if self.may_write(clock.monotonic()) {
            tracing::warn!(%id, error = %ErrorChain(error), "a request at the v1.9.0 door is no request");
        } else {
            tracing::debug!(%id, error = %ErrorChain(error), "one more of too many");
        }
        AxonError::Internal { id }
    }

    fn may_write(&self, now: Duration) -> bool {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(lines.since) >= WINDOW {
            *lines = Lines { since: now, written: 0 };
        }
        lines.written = lines.written.saturating_add(1);
        lines.written <= LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that anybody can fill hides what the operator looks for.
    #[test]
    fn callers_cause_so_many_lines_and_no_more() {
        let faults = Faults::default();
        let now = Duration::from_secs(1_000);
        for _ in 0..LINES_MAX {
            assert!(faults.may_write(now));
        }
        assert!(!faults.may_write(now + WINDOW - Duration::from_nanos(1)));
        assert!(faults.may_write(now + WINDOW));
    }
}
