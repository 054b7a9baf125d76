//! How much one caller, and all callers together, may ask for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Every limit of the edge.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; the next one waits in the kernel's queue.
    pub connections_max: usize,
    /// Bytes of one request's body. A rent request with 16 keys has under 16 KiB.
    pub body_bytes_max: usize,
    /// How long one answer may take. A lease may have to be prepared first.
    pub answer_max: Duration,
    /// Requests that a caller can save up.
    pub burst: u32,
    /// Requests a second that a caller gets back.
    pub per_second: u32,
    /// Callers that are remembered; with that many, the one that was silent longest is forgotten.
    pub callers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            body_bytes_max: 64 * 1024,
            answer_max: Duration::from_secs(25),
            burst: 200,
            per_second: 50,
            callers_max: 10_000,
        }
    }
}

/// Thousandths of a request, so that a bucket fills smoothly.
const MILLI: u64 = 1_000;

/// One bucket of requests for each caller.
#[derive(Debug)]
pub(crate) struct Buckets {
    limits: Limits,
    callers: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left_milli: u64,
    at: Duration,
}

impl Buckets {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, callers: Mutex::new(HashMap::new()) }
    }

    /// Takes one request out of the caller's bucket at this moment.
    ///
    /// # Errors
    /// How long until there is one again.
    pub(crate) fn take(&self, caller: &str, now: Duration) -> Result<(), Duration> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= self.limits.callers_max && !callers.contains_key(caller) {
            let silent = callers.iter().min_by_key(|(_, bucket)| bucket.at);
            let silent = silent.map(|(name, _)| name.clone());
            silent.and_then(|name| callers.remove(&name));
        }
        let full = u64::from(self.limits.burst).saturating_mul(MILLI);
        let bucket =
            callers.entry(caller.to_owned()).or_insert(Bucket { left_milli: full, at: now });
        let passed = now.saturating_sub(bucket.at);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let gained = passed_ms.saturating_mul(u64::from(self.limits.per_second));
        if gained > 0 {
            bucket.left_milli = bucket.left_milli.saturating_add(gained).min(full);
            bucket.at = now;
        }
        if let Some(left) = bucket.left_milli.checked_sub(MILLI) {
            bucket.left_milli = left;
            return Ok(());
        }
        let missing = MILLI.saturating_sub(bucket.left_milli);
        Err(Duration::from_millis(missing.div_ceil(u64::from(self.limits.per_second.max(1)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One caller in a loop must not use up what everybody else needs, and must be told when to come back.
    #[test]
    fn a_bucket_empties_and_fills() {
        let limits = Limits { burst: 2, per_second: 10, callers_max: 2, ..Limits::default() };
        let buckets = Buckets::new(limits);
        let at = Duration::from_millis;
        assert_eq!(buckets.take("a", at(0)), Ok(()));
        assert_eq!(buckets.take("a", at(0)), Ok(()));
        assert_eq!(buckets.take("a", at(0)), Err(at(100)));
        assert_eq!(buckets.take("b", at(0)), Ok(()));
        assert_eq!(buckets.take("a", at(100)), Ok(()));
        assert_eq!(buckets.take("a", at(100)), Err(at(100)));
    }

    /// Strangers with a new name for each request must not fill the memory.
    #[test]
    fn callers_are_forgotten_at_the_limit() {
        let limits = Limits { burst: 1, per_second: 1, callers_max: 2, ..Limits::default() };
        let buckets = Buckets::new(limits);
        for number in 0..100_u64 {
            assert_eq!(
                buckets.take(&format!("caller {number}"), Duration::from_secs(number)),
                Ok(())
            );
        }
        assert_eq!(buckets.callers.lock().unwrap().len(), 2);
    }
}
