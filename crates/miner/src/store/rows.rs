//! Rows and nouns: the one place where text and integers of the file become a lease and back.

use nicompute_market::{
    Hotkey, Lease, LeaseEvent, LeaseId, LeaseState, OfferId, Purpose, Terms, UnixMillis,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{StoreError, StoredEvent};

pub(super) const LEASE_COLUMNS: &str = "id, offer, purpose, holder, ssh_keys, image, state, reason, \
     generation, requested_at_ms, expires_at_ms";

/// SQLite's integers are signed.
pub(super) fn number(value: u64, field: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::TooLarge { field })
}

pub(super) fn keys_text(keys: &[String]) -> String {
    serde_json::Value::from(keys).to_string()
}

pub(super) const fn event_name(event: LeaseEvent) -> &'static str {
    match event {
        LeaseEvent::Reserved => "reserved",
        LeaseEvent::PrepareBegan => "prepare-began",
        LeaseEvent::Prepared => "prepared",
        LeaseEvent::PrepareFailed(_) => "prepare-failed",
        LeaseEvent::PauseAsked => "pause-asked",
        LeaseEvent::ResumeAsked => "resume-asked",
        LeaseEvent::EndAsked(_) => "end-asked",
        LeaseEvent::Swept => "swept",
        LeaseEvent::Extended(_) => "extended",
    }
}

pub(super) fn lease_from_row(row: &SqliteRow) -> Result<Lease, StoreError> {
    let lease: String = row.try_get("id").unwrap_or_default();
    let column = Columns { row, lease: &lease };
    let id = column.parse::<LeaseId>("id")?;
    let state: String = column.get("state")?;
    let reason: Option<String> = column.get("reason")?;
    let ssh_keys: String = column.get("ssh_keys")?;
    Ok(Lease {
        terms: Terms {
            id,
            offer: column.parse::<OfferId>("offer")?,
            purpose: column.parse::<Purpose>("purpose")?,
            holder: column.parse::<Hotkey>("holder")?,
            ssh_keys: serde_json::from_str(&ssh_keys).map_err(|_| column.damaged("ssh_keys"))?,
            image: column.get("image")?,
        },
        state: LeaseState::from_names(&state, reason.as_deref())
            .ok_or_else(|| column.damaged("state"))?,
        generation: column.number("generation")?,
        requested_at: UnixMillis(column.number("requested_at_ms")?),
        expires_at: UnixMillis(column.number("expires_at_ms")?),
    })
}

pub(super) fn event_from_row(id: LeaseId, row: &SqliteRow) -> Result<StoredEvent, StoreError> {
    let lease = id.to_string();
    let column = Columns { row, lease: &lease };
    Ok(StoredEvent {
        generation: column.number("generation")?,
        event: column.get("event")?,
        state: column.get("state")?,
        reason: column.get("reason")?,
        expires_at: UnixMillis(column.number("expires_at_ms")?),
        at: UnixMillis(column.number("at_ms")?),
    })
}

/// Reads columns of one lease's row.
struct Columns<'a> {
    row: &'a SqliteRow,
    lease: &'a str,
}

impl Columns<'_> {
    fn damaged(&self, field: &'static str) -> StoreError {
        StoreError::Damaged { lease: self.lease.to_owned(), field }
    }

    fn get<'r, T>(&'r self, field: &'static str) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.row.try_get(field).map_err(|_| self.damaged(field))
    }

    fn parse<T: std::str::FromStr>(&self, field: &'static str) -> Result<T, StoreError> {
        let text: String = self.get(field)?;
        text.parse().map_err(|_| self.damaged(field))
    }

    fn number(&self, field: &'static str) -> Result<u64, StoreError> {
        let value: i64 = self.get(field)?;
        u64::try_from(value).map_err(|_| self.damaged(field))
    }
}
