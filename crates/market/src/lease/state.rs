//! Where a lease stands and why, with the names that are stored and sent.

use std::fmt;

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseState {
    /// Asked for; nothing is held yet.
    Requested,
    /// The offer is held for it.
    Reserved,
    /// The container and the route are being made.
    Preparing,
    /// The holder can enter.
    Running,
    /// Frozen; the holder's data is kept.
    Paused,
    /// Being taken down.
    Ending(EndReason),
    /// Gone, with everything that belonged to it.
    Ended(EndReason),
    /// Never came up; nothing is left of it.
    Failed(FailReason),
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    /// Its holder gave it back.
    Released,
    /// Its time was over.
    Expired,
    /// The container went away by itself.
    Lost,
    /// The provider took it down.
    Provider,
    /// A GPU of it is gone or is another one; the lease's detail is the evidence.
    Gpu,
    /// A proof had the time that it is sure of, and a renter was waiting.
    Preempted,
}

/// Why a lease never came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailReason {
    /// The offer was taken.
    Occupied,
    /// The image is not on this machine.
    Image,
    /// The runtime could not start it.
    Runtime,
    /// It was taken back before it was up.
    Cancelled,
}

/// What should exist on the machine for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    /// Nothing yet, nothing any more.
    Nothing,
    /// A running container with an open route.
    Running,
    /// A frozen container with its route kept.
    Paused,
}

// === impl LeaseState ===

impl LeaseState {
    /// One value of every state with every reason, for tests and round trips.
    pub const ALL: [Self; 17] = [
        Self::Requested,
        Self::Reserved,
        Self::Preparing,
        Self::Running,
        Self::Paused,
        Self::Ending(EndReason::Released),
        Self::Ending(EndReason::Expired),
        Self::Ending(EndReason::Lost),
        Self::Ended(EndReason::Released),
        Self::Ended(EndReason::Expired),
        Self::Ended(EndReason::Provider),
        Self::Ended(EndReason::Gpu),
        Self::Ended(EndReason::Preempted),
        Self::Failed(FailReason::Occupied),
        Self::Failed(FailReason::Image),
        Self::Failed(FailReason::Runtime),
        Self::Failed(FailReason::Cancelled),
    ];

    /// Ended and failed are final.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Ended(_) | Self::Failed(_) => true,
            Self::Requested
            | Self::Reserved
            | Self::Preparing
            | Self::Running
            | Self::Paused
            | Self::Ending(_) => false,
        }
    }

    /// Whether the offer is held in this state, so that nobody else can have it.
    #[must_use]
    pub const fn holds_offer(self) -> bool {
        match self {
            Self::Reserved | Self::Preparing | Self::Running | Self::Paused | Self::Ending(_) => {
                true
            }
            Self::Requested | Self::Ended(_) | Self::Failed(_) => false,
        }
    }

    /// What should exist on the machine in this state.
    #[must_use]
    pub const fn wanted(self) -> Wanted {
        match self {
            Self::Preparing | Self::Running => Wanted::Running,
            Self::Paused => Wanted::Paused,
            Self::Requested
            | Self::Reserved
            | Self::Ending(_)
            | Self::Ended(_)
            | Self::Failed(_) => Wanted::Nothing,
        }
    }

    /// The stable name of the state, without its reason.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Reserved => "reserved",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ending(_) => "ending",
            Self::Ended(_) => "ended",
            Self::Failed(_) => "failed",
        }
    }

    /// The stable name of the reason, where the state has one.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ending(reason) | Self::Ended(reason) => Some(reason.as_str()),
            Self::Failed(reason) => Some(reason.as_str()),
            Self::Requested | Self::Reserved | Self::Preparing | Self::Running | Self::Paused => {
                None
            }
        }
    }

    /// The state of a stored or received pair of names; nothing for a pair that no version writes.
    #[must_use]
    pub fn from_names(name: &str, reason: Option<&str>) -> Option<Self> {
        match (name, reason) {
            ("requested", None) => Some(Self::Requested),
            ("reserved", None) => Some(Self::Reserved),
            ("preparing", None) => Some(Self::Preparing),
            ("running", None) => Some(Self::Running),
            ("paused", None) => Some(Self::Paused),
            ("ending", Some(reason)) => EndReason::parse(reason).map(Self::Ending),
            ("ended", Some(reason)) => EndReason::parse(reason).map(Self::Ended),
            ("failed", Some(reason)) => FailReason::parse(reason).map(Self::Failed),
            _ => None,
        }
    }
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{} ({reason})", self.name()),
            None => f.pad(self.name()),
        }
    }
}

impl EndReason {
    /// Every reason, for tests and round trips.
    pub const ALL: [Self; 6] =
        [Self::Released, Self::Expired, Self::Lost, Self::Provider, Self::Gpu, Self::Preempted];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Provider => "provider",
            Self::Gpu => "gpu",
            Self::Preempted => "preempted",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl FailReason {
    const ALL: [Self; 4] = [Self::Occupied, Self::Image, Self::Runtime, Self::Cancelled];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Occupied => "occupied",
            Self::Image => "image",
            Self::Runtime => "runtime",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}
