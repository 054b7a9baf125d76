//! The offers file again, when it has changed or the operator says so.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nicompute_daemon::{CancellationToken, ErrorChain, SharedClock};
use tokio::signal::unix::{SignalKind, signal};

use super::{Offers, OffersError};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What tells one version of a file from the next.
type Stamp = Option<(u64, u64, i64, i64)>;

/// Loads the file again whenever it changes, and at SIGHUP. A wrong file changes nothing and is said in the log.
pub(crate) async fn watch(
    offers: &Offers,
    clock: &SharedClock,
    path: &Path,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut seen = stamp(path);
    loop {
        let is_asked = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            asked = hangup.recv() => asked.is_some(),
            () = clock.sleep(LOOK_EVERY) => false,
        };
        let now = stamp(path);
        if now == seen && !is_asked {
            continue;
        }
        let loaded = offers.load(path);
        // What could not be read may be readable at the next look; what is wrong stays wrong until it is changed.
        if now.is_none() || !matches!(loaded, Err(OffersError::Read { .. })) {
            seen = now;
        }
        match loaded {
            Ok(count) => tracing::info!(count, "the offers file is used from now on"),
            Err(error) => tracing::error!(
                error = %ErrorChain(&error), "the offers stay as they are: the new file is not used"
            ),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}
