//! What the loops know of the providers right now. None of it must survive a restart.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nicompute_market::{BlockNumber, Hotkey, LeaseId, Offer, UnixMillis};

/// Sessions in a row that did not come about before that is held against the provider: one lost packet costs nothing.
pub(crate) const UNREACHABLE_AFTER: u32 = 3;

/// Providers and sessions, behind one lock that is never held across a wait.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Inner>);

/// See [`Board`].
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// What each provider showed the last time it was asked.
    pub(crate) shown: BTreeMap<Hotkey, Shown>,
    /// The sessions that run.
    pub(crate) sessions: BTreeMap<Hotkey, Running>,
    /// What became of the last tries to prove a provider.
    pub(crate) tries: BTreeMap<Hotkey, Tries>,
}

/// What a provider showed the last time it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    /// Whether it answered.
    pub(crate) is_reachable: bool,
    /// The last offers that it answered with.
    pub(crate) offers: Vec<Offer>,
}

/// A session that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) lease: LeaseId,
    /// Whether the provider has taken the request. Before that the lease is nobody else's to know.
    pub(crate) is_accepted: bool,
    pub(crate) phase: Phase,
    pub(crate) started_at: UnixMillis,
}

/// What a session does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Leasing,
    Connecting,
    Proving,
    Releasing,
}

/// Tries to prove a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tries {
    /// The block of the last one.
    pub(crate) last: BlockNumber,
    /// How many in a row did not come about.
    pub(crate) missed: u32,
    /// Whether one since the last proof that passed made room for a renter.
    pub(crate) was_preempted: bool,
}

impl Board {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_accepted(&self, provider: &Hotkey) {
        if let Some(running) = self.lock().sessions.get_mut(provider) {
            running.is_accepted = true;
        }
    }

    pub(crate) fn is_accepted(&self, provider: &Hotkey) -> bool {
        self.lock().sessions.get(provider).is_some_and(|running| running.is_accepted)
    }

    pub(crate) fn set_phase(&self, provider: &Hotkey, phase: Phase) {
        if let Some(running) = self.lock().sessions.get_mut(provider) {
            running.phase = phase;
        }
    }
}

impl Phase {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Leasing => "leasing",
            Self::Connecting => "connecting",
            Self::Proving => "proving",
            Self::Releasing => "releasing",
        }
    }
}
