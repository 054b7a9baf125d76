//! Supervised background work: every task has a name, a policy for failure, and ends at shutdown.
//!
//! Owns a tracker of what runs and the token that asks it to stop. Starts nothing by itself.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ErrorChain;

/// An error of any task.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// What a task's failure means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// One of many, such as a connection: log it and go on.
    Log,
    /// The process is useless without it: ask everything to stop.
    Stop,
}

/// How a named task last ended, or that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// Still at work.
    Running,
    /// Came to its end.
    Done,
    /// Failed, with the chain of causes.
    Failed(String),
}

/// The owner of a process's background tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    status: Arc<Mutex<BTreeMap<&'static str, TaskStatus>>>,
}

impl Tasks {
    /// An owner with no tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that is cancelled when the process is asked to stop.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task. It runs until it ends, and is expected to end soon after the token is cancelled. A panic is caught
    /// and treated as its error.
    pub fn spawn<F>(&self, name: &'static str, on_error: OnError, work: F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let this = self.clone();
        this.set(name, TaskStatus::Running);
        let supervised = async move {
            let outcome = catch_panic(work).await;
            this.ended(name, on_error, outcome);
        };
        // The tracker waits for it in `shutdown`; nobody needs the handle.
        drop(self.tracker.spawn(supervised));
    }

    fn ended(&self, name: &'static str, on_error: OnError, outcome: Result<(), BoxError>) {
        let Err(error) = outcome else {
            self.set(name, TaskStatus::Done);
            return;
        };
        let chain = ErrorChain(&*error).to_string();
        tracing::error!(task = name, error = %chain, "task failed");
        self.set(name, TaskStatus::Failed(chain));
        if on_error == OnError::Stop {
            self.token.cancel();
        }
    }

    fn set(&self, name: &'static str, status: TaskStatus) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).insert(name, status);
    }

    /// How each named task stands, for health pages.
    #[must_use]
    pub fn status(&self) -> BTreeMap<&'static str, TaskStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks every task to stop and waits for them. Returns whether all ended within the limit.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

async fn catch_panic<F>(work: F) -> Result<(), BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let mut work = Box::pin(work);
    std::future::poll_fn(move |ctx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(ctx))) {
            Ok(poll) => poll,
            Err(payload) => Poll::Ready(Err(panic_text(&*payload).into())),
        }
    })
    .await
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dead essential task must take the process down instead of leaving a shell that looks healthy.
    #[tokio::test]
    async fn a_panic_stops_the_process_when_it_must() {
        let tasks = Tasks::new();
        tasks.spawn("connection", OnError::Log, async { Err("gone".into()) });
        tasks.spawn("chain", OnError::Stop, async { panic!("boom") });
        tasks.token().cancelled().await;
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
        let status = tasks.status();
        assert_eq!(status["chain"], TaskStatus::Failed("panicked: boom".to_owned()));
        assert_eq!(status["connection"], TaskStatus::Failed("gone".to_owned()));
    }
}
