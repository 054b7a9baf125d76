//! Holds back every answer while the chain plays dead. What controls the chain itself is never held back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonrpsee::core::middleware::{Batch, Notification, RpcServiceT};
use jsonrpsee::types::Request;
use nicompute_daemon::SharedClock;

use super::control::PREFIX;

/// Until when nothing is answered.
#[derive(Debug)]
pub(crate) struct Gate {
    clock: SharedClock,
    until: Mutex<Duration>,
}

impl Gate {
    /// Open.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    /// Closes it until a moment of the monotonic clock.
    pub(crate) fn close_until(&self, until: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Opens it for what comes from now on.
    pub(crate) fn open(&self) {
        self.close_until(Duration::ZERO);
    }

    async fn pass(&self) {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = until.saturating_sub(self.clock.monotonic());
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
    }
}

/// The methods behind the gate.
#[derive(Debug, Clone)]
pub(super) struct Held<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> Held<S> {
    pub(super) const fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self { inner, gate }
    }
}

impl<S> RpcServiceT for Held<S>
where
    S: RpcServiceT + Clone + Send + Sync + 'static,
{
    type MethodResponse = S::MethodResponse;
    type NotificationResponse = S::NotificationResponse;
    type BatchResponse = S::BatchResponse;

    fn call<'a>(
        &self,
        request: Request<'a>,
    ) -> impl Future<Output = Self::MethodResponse> + Send + 'a {
        let held = self.clone();
        async move {
            if !request.method_name().starts_with(PREFIX) {
                held.gate.pass().await;
            }
            held.inner.call(request).await
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        let held = self.clone();
        async move {
            held.gate.pass().await;
            held.inner.batch(batch).await
        }
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        self.inner.notification(notification)
    }
}
