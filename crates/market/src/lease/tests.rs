//! The table of a lease's life, and what its events carry.

use std::fmt::Write as _;

use super::*;
use crate::{Hotkey, LeaseId};

const MINUTE: u64 = 60_000;

fn lease(state: LeaseState) -> Lease {
    let terms = Terms {
        id: LeaseId::from_random_bytes([1; 16]),
        offer: "machine".parse().unwrap(),
        purpose: Purpose::Rental,
        holder: Hotkey::from_bytes([2; 32]),
        share: Share::default(),
        price_per_hour: None,
        keys: LeaseKeys::default(),
        image: "devnet".to_owned(),
        options: LeaseOptions::default(),
        legacy: None,
    };
    Lease { state, ..Lease::requested(terms, UnixMillis(1_000), MINUTE) }
}

const EVENTS: [LeaseEvent; 17] = [
    LeaseEvent::Reserved,
    LeaseEvent::Granted(UnixMillis(90_000)),
    LeaseEvent::PrepareBegan,
    LeaseEvent::Progressed,
    LeaseEvent::Prepared,
    LeaseEvent::PrepareFailed(FailReason::Runtime),
    LeaseEvent::PauseAsked,
    LeaseEvent::ResumeAsked,
    LeaseEvent::RestartAsked,
    LeaseEvent::Restarted,
    LeaseEvent::RestartRefused,
    LeaseEvent::Degraded,
    LeaseEvent::KeysChanged,
    LeaseEvent::Extended(UnixMillis(90_000)),
    LeaseEvent::ExpiryWarned(1),
    LeaseEvent::EndAsked(EndReason::Released),
    LeaseEvent::Swept,
];

const STATES: [LeaseState; 8] = [
    LeaseState::Requested,
    LeaseState::Reserved,
    LeaseState::Preparing,
    LeaseState::Running,
    LeaseState::Paused,
    LeaseState::Ending(EndReason::Expired),
    LeaseState::Ended(EndReason::Expired),
    LeaseState::Failed(FailReason::Image),
];

/// One row an event, one column a state, as Markdown.
fn table() -> String {
    let mut table = String::from("| event |");
    for state in STATES {
        write!(table, " {} |", state.name()).unwrap();
    }
    table.push_str("\n|---|---|---|---|---|---|---|---|---|\n");
    for event in EVENTS {
        write!(table, "| {} |", event.name()).unwrap();
        for state in STATES {
            let cell = match lease(state).apply(event) {
                Ok(after) if after.state == state => "=",
                Ok(after) => after.state.name(),
                Err(_) => "",
            };
            let gap = if cell.is_empty() { "" } else { " " };
            write!(table, "{gap}{cell} |").unwrap();
        }
        table.push('\n');
    }
    table
}

/// A hole in this table is a machine that is held for nobody or given to two; a page that tells another table misleads
/// whoever writes a client.
#[test]
fn the_whole_table_is_the_one_that_is_documented() {
    let page = include_str!("../../../../docs/lease-states.md");
    let table = table();
    assert!(page.contains(&table), "docs/lease-states.md must contain\n{table}");
}

/// An event without its name here would be left out of the table above.
#[test]
fn every_event_stands_in_the_table() {
    let mut names: Vec<_> = EVENTS.iter().map(|event| event.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), EVENTS.len());
}

/// A stored state that cannot be read back would strand its machine after a restart.
#[test]
fn states_survive_their_names() {
    for state in LeaseState::ALL {
        assert_eq!(LeaseState::from_names(state.name(), state.reason()), Some(state));
    }
    for reason in EndReason::ALL {
        let state = LeaseState::Ending(reason);
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
    assert!(!lease(LeaseState::Requested).is_expired(UnixMillis(61_000)), "a short one may wait");
}

/// A restart that is forgotten when the node dies was promised and never done; one that is done twice kills work.
#[test]
fn a_restart_is_remembered_until_it_is_done() {
    let asked = lease(LeaseState::Paused).apply(LeaseEvent::RestartAsked).unwrap();
    assert_eq!((asked.state, asked.restart_asked), (LeaseState::Running, true));
    let paused = asked.clone().apply(LeaseEvent::PauseAsked).unwrap();
    assert!(paused.restart_asked, "a freeze does not take the wish back");
    let done = paused.apply(LeaseEvent::Restarted).unwrap();
    assert_eq!((done.state, done.restart_asked), (LeaseState::Paused, false));
    assert!(!asked.apply(LeaseEvent::EndAsked(EndReason::Released)).unwrap().restart_asked);
}

/// A holder that rotates one slot must not lock the other one out.
#[test]
fn keys_change_while_the_lease_is_held() {
    let keys = LeaseKeys { user: vec!["k".to_owned()], terminal: Some("t".to_owned()) };
    let changed = lease(LeaseState::Running).with_keys(keys.clone()).unwrap();
    assert_eq!((changed.generation, changed.terms.keys), (1, keys.clone()));
    for state in [LeaseState::Requested, LeaseState::Ending(EndReason::Lost)] {
        assert!(lease(state).with_keys(keys.clone()).is_err());
    }
}

/// A renter that is not told loses its work at the end; one that is told again and again stops reading.
#[test]
fn warnings_come_once_each_and_again_after_an_extension() {
    let mut lease = lease(LeaseState::Running);
    lease.expires_at = UnixMillis(1_000 + 4 * 60 * MINUTE);
    let before_end = |minutes: u64| UnixMillis(1_000 + (4 * 60 - minutes) * MINUTE);
    assert_eq!(lease.next_warning_at(), Some(before_end(60)));
    assert_eq!(lease.warning_due(before_end(61)), None);
    assert_eq!(lease.warning_due(before_end(60)), Some(60 * MINUTE));
    let warned = lease.clone().apply(LeaseEvent::ExpiryWarned(60 * MINUTE)).unwrap();
    assert_eq!(warned.warning_due(before_end(59)), None);
    assert_eq!(warned.next_warning_at(), Some(before_end(10)));
    // After a long silence only the last of those that were missed.
    assert_eq!(warned.warning_due(before_end(1)), Some(MINUTE));
    let until = UnixMillis(1_000 + 9 * 60 * MINUTE);
    assert_eq!(warned.apply(LeaseEvent::Extended(until)).unwrap().warned_millis, None);
    // A lease of a minute has nothing to be warned of, nor has a proof.
    let short = self::lease(LeaseState::Running);
    assert_eq!((short.warning_due(UnixMillis(60_999)), short.next_warning_at()), (None, None));
    lease.terms.purpose = Purpose::Proof;
    assert_eq!(lease.next_warning_at(), None);
}

/// A lease that waited for its turn must have the time that it asked for, not what the wait has left.
#[test]
fn time_begins_when_a_lease_that_waited_is_granted() {
    let granted = lease(LeaseState::Requested).apply(LeaseEvent::Granted(UnixMillis(90_000)));
    let granted = granted.unwrap();
    assert_eq!((granted.state, granted.expires_at), (LeaseState::Reserved, UnixMillis(90_000)));
}
