//! The test door through which the node dies at a chosen step of a lease.
//!
//! The suite that kills nodes cannot hit a step that lasts a millisecond from outside, so the node kills itself there:
//! with SIGKILL, as power loss or the kernel would. Without a kill point this does nothing.

use std::fmt;
use std::str::FromStr;

use nicompute_market::LeaseState;

/// A step of a lease, right after which a process can be made to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KillPoint {
    /// `requested` is stored.
    Requested,
    /// `reserved` is stored.
    Reserved,
    /// `preparing` is stored.
    Preparing,
    /// The container runs; nothing says so yet.
    ContainerUp,
    /// The container is wired; nothing says so yet.
    Wired,
    /// `running` is stored.
    Running,
    /// `ending` is stored.
    Ending,
    /// The wire is gone and the container still runs.
    Unwired,
    /// Container and route are gone; nothing says so yet.
    Removed,
    /// `ended` or `failed` is stored.
    Ended,
}

/// A text that names no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown step of a lease, expected requested, reserved, preparing, container-up, wired, running, ending, unwired, removed or ended"
)]
pub struct UnknownKillPoint;

/// Where this process is to die, if anywhere.
#[derive(Debug, Default)]
pub(crate) enum Fuse {
    /// Nowhere.
    #[default]
    None,
    /// By SIGKILL after this step.
    Kill(KillPoint),
    /// Tests: after so many steps nothing goes on, as if the process had died.
    #[cfg(test)]
    Halt(HaltAfter),
}

/// Counts steps down and then stops whoever passes.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct HaltAfter {
    pub(crate) steps_left: std::sync::atomic::AtomicU32,
    pub(crate) halted: nicompute_daemon::CancellationToken,
}

// === impl KillPoint ===

impl KillPoint {
    /// Every step, in the order of a lease's life.
    pub const ALL: [Self; 10] = [
        Self::Requested,
        Self::Reserved,
        Self::Preparing,
        Self::ContainerUp,
        Self::Wired,
        Self::Running,
        Self::Ending,
        Self::Unwired,
        Self::Removed,
        Self::Ended,
    ];

    /// The stable name of the step.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Reserved => "reserved",
            Self::Preparing => "preparing",
            Self::ContainerUp => "container-up",
            Self::Wired => "wired",
            Self::Running => "running",
            Self::Ending => "ending",
            Self::Unwired => "unwired",
            Self::Removed => "removed",
            Self::Ended => "ended",
        }
    }

    /// The step at which a state has just been stored. Pausing is no step of its own: it leaves nothing half done.
    pub(crate) const fn stored(state: LeaseState) -> Option<Self> {
        match state {
            LeaseState::Requested => Some(Self::Requested),
            LeaseState::Reserved => Some(Self::Reserved),
            LeaseState::Preparing => Some(Self::Preparing),
            LeaseState::Running => Some(Self::Running),
            LeaseState::Paused => None,
            LeaseState::Ending(_) => Some(Self::Ending),
            LeaseState::Ended(_) | LeaseState::Failed(_) => Some(Self::Ended),
        }
    }
}

impl fmt::Display for KillPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KillPoint {
    type Err = UnknownKillPoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|point| point.as_str() == text).ok_or(UnknownKillPoint)
    }
}

// === impl Fuse ===

impl Fuse {
    pub(crate) fn new(kill_after: Option<KillPoint>) -> Self {
        kill_after.map_or(Self::None, Self::Kill)
    }

    /// A step is done. Does not return where the process is to die here.
    pub(crate) async fn reached(&self, point: KillPoint) {
        match self {
            Self::Kill(wanted) if *wanted == point => {
                tracing::warn!(%point, "dying here, as the test asked for");
                let me = rustix::process::getpid();
                // SIGKILL of oneself cannot fail; if it did, going on would make the test lie.
                let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
                std::future::pending::<()>().await;
            }
            Self::None | Self::Kill(_) => {}
            #[cfg(test)]
            Self::Halt(halt) => {
                use std::sync::atomic::Ordering;
                let left = halt
                    .steps_left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                if left.is_err() {
                    halt.halted.cancel();
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kill point whose name does not parse would let the suite believe that it killed something.
    #[test]
    fn names_round_trip() {
        for point in KillPoint::ALL {
            assert_eq!(point.as_str().parse(), Ok(point));
        }
        assert_eq!("paused".parse::<KillPoint>(), Err(UnknownKillPoint));
    }

    /// A stored step without its kill point would never be tested by a kill.
    #[test]
    fn every_stored_state_but_paused_is_a_step() {
        for state in LeaseState::ALL {
            assert_eq!(KillPoint::stored(state).is_none(), state == LeaseState::Paused);
        }
    }
}
