//! The life of a lease: one enum and one function.
//!
//! `requested → reserved → preparing → running ⇄ paused → ending → ended`, and `preparing → failed`. A provider stores the
//! new state first and then makes the machine equal to [`Lease::wanted`], as often as needed: effects are never events.

use std::fmt;
use std::str::FromStr;

use crate::{Hotkey, LeaseId, OfferId, UnixMillis};

/// The longest a proof may hold a machine.
pub const PROOF_LEASE_MILLIS_MAX: u64 = 10 * 60 * 1000;
/// The longest single lease: 31 days. It can be extended while it runs.
pub const LEASE_MILLIS_MAX: u64 = 31 * 24 * 60 * 60 * 1000;
/// The shortest lease that is worth preparing.
pub const LEASE_MILLIS_MIN: u64 = 10 * 1000;
/// SSH keys on one lease.
pub const SSH_KEYS_MAX: usize = 16;

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A validator proves the machine.
    Proof,
    /// A renter works on it.
    Rental,
}

/// What was agreed when the lease was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The lease's name, drawn by the caller.
    pub id: LeaseId,
    /// What is leased.
    pub offer: OfferId,
    /// What for.
    pub purpose: Purpose,
    /// The validator that asked and that alone may change it.
    pub holder: Hotkey,
    /// OpenSSH public keys that may enter.
    pub ssh_keys: Vec<String>,
    /// The image to start.
    pub image: String,
}

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

/// Something that happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The offer was free and is held now.
    Reserved,
    /// Preparation began.
    PrepareBegan,
    /// Container and route are up.
    Prepared,
    /// Preparation failed for good.
    PrepareFailed(FailReason),
    /// Its holder asked for a freeze.
    PauseAsked,
    /// Its holder asked to go on.
    ResumeAsked,
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
        Self { terms, state: LeaseState::Requested, generation: 0, requested_at: now, expires_at }
    }

    /// The lease after an event.
    ///
    /// # Errors
    /// When the event does not fit the state; the lease is unchanged then.
    pub fn apply(mut self, event: LeaseEvent) -> Result<Self, LeaseRefusal> {
        self.state = next(self.state, event)?;
        if let LeaseEvent::Extended(until) = event {
            self.expires_at = self.expires_at.max(until);
        }
        self.generation = self.generation.saturating_add(1);
        Ok(self)
    }

    /// What should exist on the machine for this lease.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        self.state.wanted()
    }

    /// Whether its time is over and it still holds something.
    #[must_use]
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        now >= self.expires_at && !self.state.is_final()
    }
}

/// The whole table: for each event, the states that it fits and the state after it.
fn next(state: LeaseState, event: LeaseEvent) -> Result<LeaseState, LeaseRefusal> {
    use LeaseState as S;
    let (fits, after, asked) = match event {
        LeaseEvent::Reserved => (matches!(state, S::Requested), S::Reserved, "reserved"),
        LeaseEvent::PrepareBegan => (matches!(state, S::Reserved), S::Preparing, "prepared"),
        LeaseEvent::Prepared => (matches!(state, S::Preparing), S::Running, "started"),
        LeaseEvent::PrepareFailed(reason) => {
            let fits = matches!(state, S::Requested | S::Reserved | S::Preparing);
            (fits, S::Failed(reason), "failed")
        }
        LeaseEvent::PauseAsked => (matches!(state, S::Running | S::Paused), S::Paused, "paused"),
        LeaseEvent::ResumeAsked => (matches!(state, S::Running | S::Paused), S::Running, "resumed"),
        LeaseEvent::EndAsked(reason) => (true, after_end_asked(state, reason), "ended"),
        LeaseEvent::Swept => match state {
            S::Ending(reason) => (true, S::Ended(reason), "swept"),
            S::Requested
            | S::Reserved
            | S::Preparing
            | S::Running
            | S::Paused
            | S::Ended(_)
            | S::Failed(_) => (false, state, "swept"),
        },
        LeaseEvent::Extended(_) => (matches!(state, S::Running | S::Paused), state, "extended"),
    };
    if fits { Ok(after) } else { Err(LeaseRefusal { state, asked }) }
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

// === impl LeaseState ===

impl LeaseState {
    /// One value of every state with every reason, for tests and round trips.
    pub const ALL: [Self; 14] = [
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
    const ALL: [Self; 4] = [Self::Released, Self::Expired, Self::Lost, Self::Provider];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Provider => "provider",
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

impl Purpose {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Rental => "rental",
        }
    }
}

impl FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "proof" => Ok(Self::Proof),
            "rental" => Ok(Self::Rental),
            _ => Err(UnknownPurpose),
        }
    }
}

/// A purpose that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown purpose, expected proof or rental")]
pub struct UnknownPurpose;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;

    use super::*;

    fn lease(state: LeaseState) -> Lease {
        let terms = Terms {
            id: LeaseId::from_random_bytes([1; 16]),
            offer: "machine".parse().unwrap(),
            purpose: Purpose::Rental,
            holder: Hotkey::from_bytes([2; 32]),
            ssh_keys: Vec::new(),
            image: "devnet".to_owned(),
        };
        Lease { state, ..Lease::requested(terms, UnixMillis(1_000), 60_000) }
    }

    /// A hole in this table is a machine that is held for nobody or given to two.
    #[test]
    fn the_whole_table() {
        let events = [
            LeaseEvent::Reserved,
            LeaseEvent::PrepareBegan,
            LeaseEvent::Prepared,
            LeaseEvent::PrepareFailed(FailReason::Runtime),
            LeaseEvent::PauseAsked,
            LeaseEvent::ResumeAsked,
            LeaseEvent::EndAsked(EndReason::Released),
            LeaseEvent::Swept,
            LeaseEvent::Extended(UnixMillis(90_000)),
        ];
        let states = [
            LeaseState::Requested,
            LeaseState::Reserved,
            LeaseState::Preparing,
            LeaseState::Running,
            LeaseState::Paused,
            LeaseState::Ending(EndReason::Expired),
            LeaseState::Ended(EndReason::Expired),
            LeaseState::Failed(FailReason::Image),
        ];
        let mut table = String::new();
        for state in states {
            write!(table, "{:<16}", state.to_string()).unwrap();
            for event in events {
                let cell = match lease(state).apply(event) {
                    Ok(after) => after.state.name(),
                    Err(_) => "-",
                };
                write!(table, " {cell:<9}").unwrap();
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        expect![[r#"
            requested        reserved  -         -         failed    -         -         failed    -         -
            reserved         -         preparing -         failed    -         -         ending    -         -
            preparing        -         -         running   failed    -         -         ending    -         -
            running          -         -         -         -         paused    running   ending    -         running
            paused           -         -         -         -         paused    running   ending    -         paused
            ending (expired) -         -         -         -         -         -         ending    ended     -
            ended (expired)  -         -         -         -         -         -         ended     -         -
            failed (image)   -         -         -         -         -         -         failed    -         -
        "#]].assert_eq(&table);
    }

    /// A stored state that cannot be read back would strand its machine after a restart.
    #[test]
    fn states_survive_their_names() {
        for state in LeaseState::ALL {
            assert_eq!(LeaseState::from_names(state.name(), state.reason()), Some(state));
        }
        assert_eq!(LeaseState::from_names("ended", None), None);
        assert_eq!(LeaseState::from_names("running", Some("released")), None);
    }

    /// An extension must never shorten what a renter has, and must count as a change.
    #[test]
    fn extension_only_adds() {
        let before = lease(LeaseState::Running);
        let after = before.clone().apply(LeaseEvent::Extended(UnixMillis(5))).unwrap();
        assert_eq!(after.expires_at, before.expires_at);
        assert_eq!(after.generation, before.generation + 1);
        assert!(before.is_expired(UnixMillis(61_000)) && !before.is_expired(UnixMillis(60_999)));
    }
}
