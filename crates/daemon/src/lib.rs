//! What every long-running process needs: a clock, supervised tasks, retry, shutdown, logs and metrics.
//!
//! No word of the trade appears here. Everything that runs in the background is started through [`Tasks`], so that it
//! has a name, a policy for its failure and an end; everything that asks for the time asks a [`Clock`].

mod clock;
mod error_chain;
mod logs;
mod retry;
mod secret;
mod tasks;

pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use error_chain::ErrorChain;
pub use logs::{LogFormat, init_logs};
pub use retry::{Backoff, Kind, retry};
pub use secret::Secret;
pub use tasks::{BoxError, OnError, TaskStatus, Tasks};
pub use tokio_util::sync::CancellationToken;
