//! The life of a lease: one enum and one function.
//!
//! `requested → reserved → preparing → running ⇄ paused → ending → ended`, and `preparing → failed`. A provider stores the
//! new state first and then makes the machine equal to [`Lease::wanted`], as often as needed: effects are never events.
//! The whole table stands in `docs/lease-states.md`, and a test compares it.

mod state;
mod terms;

use crate::UnixMillis;
pub use state::{EndReason, FailReason, LeaseState, Wanted};
pub use terms::{
    KeySlot, LeaseKeys, LeaseNetwork, LeaseOptions, LeaseVolume, LegacyAccess, Purpose, Share,
    Terms, UnknownPurpose, UnknownTerm,
};

/// The longest a proof may hold a machine.
pub const PROOF_LEASE_MILLIS_MAX: u64 = 10 * 60 * 1000;
/// What a proof is sure of from the moment that it is given the machine. After it a renter who waits may have the rest.
pub const PROOF_SURE_MILLIS: u64 = 4 * 60 * 1000;
/// How long a rental waits for its machine: longer than any proof is sure of it, and a minute to clear it. Its time begins
/// when it is given the machine.
pub const RENTAL_WAIT_MILLIS_MAX: u64 = PROOF_SURE_MILLIS + 60_000;
/// The longest single lease: 31 days. It can be extended while it runs.
pub const LEASE_MILLIS_MAX: u64 = 31 * 24 * 60 * 60 * 1000;
/// The shortest lease that is worth preparing.
pub const LEASE_MILLIS_MIN: u64 = 10 * 1000;
/// SSH keys on one lease.
pub const SSH_KEYS_MAX: usize = 16;
/// How long before its end a rental's holder is warned. A lease that is not twice as long is not warned.
pub const EXPIRY_WARNINGS_MILLIS: [u64; 3] = [60 * 60 * 1000, 10 * 60 * 1000, 60 * 1000];

/// Something that happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The offer was free and is held now.
    Reserved,
    /// The offer became free after a wait and is held now; the lease's time begins here and ends then.
    Granted(UnixMillis),
    /// Preparation began.
    PrepareBegan,
    /// Preparation goes on, such as the fetch of an image.
    Progressed,
    /// Container and route are up.
    Prepared,
    /// Preparation failed for good.
    PrepareFailed(FailReason),
    /// Its holder asked for a freeze.
    PauseAsked,
    /// Its holder asked to go on.
    ResumeAsked,
    /// Its holder asked for its processes to be ended and started anew.
    RestartAsked,
    /// They were.
    Restarted,
    /// They cannot be; they run on as they were.
    RestartRefused,
    /// Something of it is not as it was sold, and it goes on. What that is, is told apart from the event.
    Degraded,
    /// Its holder changed the keys that may enter. What they are is told apart from the event.
    KeysChanged,
    /// Its holder was told that so many milliseconds are left.
    ExpiryWarned(u64),
    /// Its holder, its provider or the clock ended it.
    EndAsked(EndReason),
    /// Nothing of it is left on the machine.
    Swept,
    /// Its holder moved its end.
    Extended(UnixMillis),
}

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What was agreed.
    pub terms: Terms,
    /// Where it stands.
    pub state: LeaseState,
    /// Counts the changes; a writer that saw an older one must not write.
    pub generation: u64,
    /// When it was asked for.
    pub requested_at: UnixMillis,
    /// When it ends by itself.
    pub expires_at: UnixMillis,
    /// Whether a restart was asked for and is not done yet.
    pub restart_asked: bool,
    /// The last warning about its end: so many milliseconds before it.
    pub warned_millis: Option<u64>,
    /// What is known about how it came to stand where it stands: how far a fetch is, why it failed, the evidence of a GPU
    /// that is gone.
    pub detail: Option<String>,
    /// Where the ports that it asked for are reached, from the moment at which its offer is held.
    pub published: Vec<PublishedPort>,
}

/// A port of a lease and the provider's port that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// The port inside.
    pub container_port: u16,
    /// The port of the provider's machine.
    pub port: u16,
}

/// An event that does not fit where the lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a lease that is {state} cannot be {asked}")]
pub struct LeaseRefusal {
    /// Where it stands.
    pub state: LeaseState,
    /// What was asked of it.
    pub asked: &'static str,
}

// === impl Lease ===

impl Lease {
    /// A lease that was asked for and holds nothing yet.
    #[must_use]
    pub const fn requested(terms: Terms, now: UnixMillis, duration_ms: u64) -> Self {
        let expires_at = now.saturating_add_millis(duration_ms);
        Self {
            terms,
            state: LeaseState::Requested,
            generation: 0,
            requested_at: now,
            expires_at,
            restart_asked: false,
            warned_millis: None,
            detail: None,
            published: Vec::new(),
        }
    }

    /// The lease after an event.
    ///
    /// # Errors
    /// When the event does not fit the state; the lease is unchanged then.
    pub fn apply(mut self, event: LeaseEvent) -> Result<Self, LeaseRefusal> {
        self.state = next(self.state, event)?;
        match event {
            LeaseEvent::Extended(until) if until > self.expires_at => {
                self.expires_at = until;
                self.warned_millis = None;
            }
            LeaseEvent::Granted(until) => self.expires_at = self.expires_at.max(until),
            LeaseEvent::RestartAsked => self.restart_asked = true,
            LeaseEvent::Restarted | LeaseEvent::RestartRefused | LeaseEvent::EndAsked(_) => {
                self.restart_asked = false;
            }
            LeaseEvent::ExpiryWarned(left) => self.warned_millis = Some(left),
            LeaseEvent::Reserved
            | LeaseEvent::PrepareBegan
            | LeaseEvent::Progressed
            | LeaseEvent::Prepared
            | LeaseEvent::PrepareFailed(_)
            | LeaseEvent::PauseAsked
            | LeaseEvent::ResumeAsked
            | LeaseEvent::KeysChanged
            | LeaseEvent::Degraded
            | LeaseEvent::Swept
            | LeaseEvent::Extended(_) => {}
        }
        self.generation = self.generation.saturating_add(1);
        Ok(self)
    }

    /// What should exist on the machine for this lease.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        self.state.wanted()
    }

    /// The lease with other keys in one slot.
    ///
    /// # Errors
    /// When it is not held any more, or not yet; the lease is unchanged then.
    pub fn with_keys(self, keys: LeaseKeys) -> Result<Self, LeaseRefusal> {
        let mut changed = self.apply(LeaseEvent::KeysChanged)?;
        changed.terms.keys = keys;
        Ok(changed)
    }

    /// How long it was asked for, or is by now.
    #[must_use]
    pub const fn duration_millis(&self) -> u64 {
        self.expires_at.millis_since(self.requested_at)
    }

    /// The warning about its end that is due: so many milliseconds before it. Of several that were missed, the last.
    #[must_use]
    pub fn warning_due(&self, now: UnixMillis) -> Option<u64> {
        let left = self.expires_at.millis_since(now);
        self.warnings().filter(|before| left <= *before).min()
    }

    /// When the next warning is due.
    #[must_use]
    pub fn next_warning_at(&self) -> Option<UnixMillis> {
        let before = self.warnings().max()?;
        Some(UnixMillis(self.expires_at.get().saturating_sub(before)))
    }

    /// The warnings that this lease may still be given.
    fn warnings(&self) -> impl Iterator<Item = u64> {
        let runs = matches!(self.state, LeaseState::Running | LeaseState::Paused);
        let is_warned = runs && self.terms.purpose == Purpose::Rental;
        let duration = self.duration_millis();
        let warned = self.warned_millis.unwrap_or(u64::MAX);
        EXPIRY_WARNINGS_MILLIS
            .into_iter()
            .filter(move |before| is_warned && *before < warned && *before <= duration / 2)
    }

    /// Whether its time is over and it still holds something. The time of one that waits has not begun.
    #[must_use]
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        let has_begun = !self.state.is_final() && self.state != LeaseState::Requested;
        has_begun && now >= self.expires_at
    }
}

/// The whole table: for each event, the states that it fits and the state after it.
fn next(state: LeaseState, event: LeaseEvent) -> Result<LeaseState, LeaseRefusal> {
    use LeaseState as S;
    let is_up = matches!(state, S::Running | S::Paused);
    let (fits, after) = match event {
        LeaseEvent::Reserved | LeaseEvent::Granted(_) => {
            (matches!(state, S::Requested), S::Reserved)
        }
        LeaseEvent::PrepareBegan => (matches!(state, S::Reserved), S::Preparing),
        LeaseEvent::Progressed => (matches!(state, S::Preparing), state),
        LeaseEvent::Prepared => (matches!(state, S::Preparing), S::Running),
        LeaseEvent::PrepareFailed(reason) => {
            (matches!(state, S::Requested | S::Reserved | S::Preparing), S::Failed(reason))
        }
        LeaseEvent::PauseAsked => (is_up, S::Paused),
        LeaseEvent::ResumeAsked | LeaseEvent::RestartAsked => (is_up, S::Running),
        LeaseEvent::Restarted
        | LeaseEvent::RestartRefused
        | LeaseEvent::Degraded
        | LeaseEvent::ExpiryWarned(_)
        | LeaseEvent::Extended(_) => (is_up, state),
        LeaseEvent::KeysChanged => (is_up || matches!(state, S::Reserved | S::Preparing), state),
        LeaseEvent::EndAsked(reason) => (true, after_end_asked(state, reason)),
        LeaseEvent::Swept => match state {
            S::Ending(reason) => (true, S::Ended(reason)),
            S::Requested
            | S::Reserved
            | S::Preparing
            | S::Running
            | S::Paused
            | S::Ended(_)
            | S::Failed(_) => (false, state),
        },
    };
    if fits { Ok(after) } else { Err(LeaseRefusal { state, asked: event.asked() }) }
}

/// Giving back what is given back already is no error: the first reason stands.
const fn after_end_asked(state: LeaseState, reason: EndReason) -> LeaseState {
    match state {
        LeaseState::Requested => LeaseState::Failed(FailReason::Cancelled),
        LeaseState::Reserved | LeaseState::Preparing | LeaseState::Running | LeaseState::Paused => {
            LeaseState::Ending(reason)
        }
        LeaseState::Ending(_) | LeaseState::Ended(_) | LeaseState::Failed(_) => state,
    }
}

// === impl LeaseEvent ===

impl LeaseEvent {
    /// The stable name, without what it carries.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Granted(_) => "granted",
            Self::PrepareBegan => "prepare-began",
            Self::Progressed => "progressed",
            Self::Prepared => "prepared",
            Self::PrepareFailed(_) => "prepare-failed",
            Self::PauseAsked => "pause-asked",
            Self::ResumeAsked => "resume-asked",
            Self::RestartAsked => "restart-asked",
            Self::Restarted => "restarted",
            Self::RestartRefused => "restart-refused",
            Self::Degraded => "degraded",
            Self::KeysChanged => "keys-replaced",
            Self::ExpiryWarned(_) => "expiry-warned",
            Self::EndAsked(_) => "end-asked",
            Self::Swept => "swept",
            Self::Extended(_) => "extended",
        }
    }

    /// What was to be done to the lease, as a participle.
    const fn asked(self) -> &'static str {
        match self {
            Self::Reserved | Self::Granted(_) => "reserved",
            Self::PrepareBegan | Self::Progressed => "prepared",
            Self::Prepared => "started",
            Self::PrepareFailed(_) => "failed",
            Self::PauseAsked => "paused",
            Self::ResumeAsked => "resumed",
            Self::RestartAsked | Self::Restarted | Self::RestartRefused => "restarted",
            Self::Degraded => "degraded",
            Self::KeysChanged => "given other keys",
            Self::ExpiryWarned(_) => "warned about",
            Self::EndAsked(_) => "ended",
            Self::Swept => "swept",
            Self::Extended(_) => "extended",
        }
    }
}

#[cfg(test)]
mod tests;
