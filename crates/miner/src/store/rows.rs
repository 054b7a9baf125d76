//! Rows and nouns: the one place where text and integers of the file become a lease and back.

use nicompute_market::{
    Hotkey, Lease, LeaseId, LeaseKeys, LeaseOptions, LeaseState, LegacyAccess, MicroUsd, OfferId,
    PublishedPort, Purpose, Share, Terms, UnixMillis,
};
use nicompute_wire::node::OptionsView;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::turns::Waiting;
use super::{StoreError, StoredEvent};

pub(super) const LEASE_COLUMNS: &str = "id, offer, purpose, holder, ssh_keys, image, state, reason, \
     generation, requested_at_ms, expires_at_ms, cores_milli, memory_bytes, disk_bytes, gpus, \
     price_micro_usd_per_hour, terminal_key, options, owner_key, password_hash, restart_asked, \
     warned_ms, detail, (SELECT json_group_array(json_array(container_port, port)) FROM lease_port \
     WHERE lease_port.lease = lease.id) AS ports";

/// SQLite's integers are signed.
pub(super) fn number(value: u64, field: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::TooLarge { field })
}

pub(super) fn keys_text(keys: &[String]) -> String {
    serde_json::Value::from(keys).to_string()
}

/// What a lease asked for, as the text that is stored.
pub(super) fn options_text(options: &LeaseOptions) -> String {
    serde_json::to_string(&OptionsView::from(options)).expect("views have text keys")
}

pub(super) fn lease_from_row(row: &SqliteRow) -> Result<Lease, StoreError> {
    let lease: String = row.try_get("id").unwrap_or_default();
    let column = Columns { row, lease: &lease };
    let state: String = column.get("state")?;
    let reason: Option<String> = column.get("reason")?;
    Ok(Lease {
        terms: terms_from_row(&column)?,
        state: LeaseState::from_names(&state, reason.as_deref())
            .ok_or_else(|| column.damaged("state"))?,
        generation: column.number("generation")?,
        requested_at: UnixMillis(column.number("requested_at_ms")?),
        expires_at: UnixMillis(column.number("expires_at_ms")?),
        restart_asked: column.get("restart_asked")?,
        warned_millis: column.optional("warned_ms")?,
        detail: column.get("detail")?,
        published: ports_from_row(&column)?,
    })
}

fn ports_from_row(column: &Columns<'_>) -> Result<Vec<PublishedPort>, StoreError> {
    let text: String = column.get("ports")?;
    let pairs: Vec<(u16, u16)> =
        serde_json::from_str(&text).map_err(|_| column.damaged("ports"))?;
    let port = |(container_port, port)| PublishedPort { container_port, port };
    let mut ports: Vec<_> = pairs.into_iter().map(port).collect();
    ports.sort_unstable();
    Ok(ports)
}

fn terms_from_row(column: &Columns<'_>) -> Result<Terms, StoreError> {
    let options: String = column.get("options")?;
    let options: OptionsView =
        serde_json::from_str(&options).map_err(|_| column.damaged("options"))?;
    let keys = LeaseKeys { user: column.list("ssh_keys")?, terminal: column.get("terminal_key")? };
    let owner_key: Option<Vec<u8>> = column.get("owner_key")?;
    let password_hash: Option<String> = column.get("password_hash")?;
    let legacy = owner_key.zip(password_hash).map(|(key, password_hash)| {
        let owner_key_sha256 = key.try_into().map_err(|_| column.damaged("owner_key"))?;
        Ok(LegacyAccess { owner_key_sha256, password_hash })
    });
    Ok(Terms {
        id: column.parse::<LeaseId>("id")?,
        offer: column.parse::<OfferId>("offer")?,
        purpose: column.parse::<Purpose>("purpose")?,
        holder: column.parse::<Hotkey>("holder")?,
        share: share_from_row(column)?,
        price_per_hour: column.optional("price_micro_usd_per_hour")?.map(MicroUsd),
        keys,
        image: column.get("image")?,
        options: LeaseOptions::try_from(options).map_err(|_| column.damaged("options"))?,
        legacy: legacy.transpose()?,
    })
}

/// Leases that ended before shares were stored had one that nobody knows any more.
fn share_from_row(column: &Columns<'_>) -> Result<Share, StoreError> {
    let Some(cores) = column.optional("cores_milli")? else { return Ok(Share::default()) };
    Ok(Share {
        cores_milli: u32::try_from(cores).map_err(|_| column.damaged("cores_milli"))?,
        memory_bytes: column.number("memory_bytes")?,
        disk_bytes: column.number("disk_bytes")?,
        gpus: column.list("gpus")?,
    })
}

pub(super) fn waiting_from_row(row: &SqliteRow) -> Result<Waiting, StoreError> {
    let lease: String = row.try_get("id").unwrap_or_default();
    let column = Columns { row, lease: &lease };
    Ok(Waiting {
        id: column.parse("id")?,
        holder: column.parse("holder")?,
        purpose: column.parse("purpose")?,
        requested_at: UnixMillis(column.number("requested_at_ms")?),
        served_at: column.optional("served_at_ms")?.map(UnixMillis),
        gives_way: column.get("gives_way")?,
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
        detail: column.get("detail")?,
    })
}

/// Reads columns of one lease's row.
pub(super) struct Columns<'a> {
    pub(super) row: &'a SqliteRow,
    pub(super) lease: &'a str,
}

impl Columns<'_> {
    fn damaged(&self, field: &'static str) -> StoreError {
        StoreError::Damaged { lease: self.lease.to_owned(), field }
    }

    pub(super) fn get<'r, T>(&'r self, field: &'static str) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.row.try_get(field).map_err(|_| self.damaged(field))
    }

    /// A JSON list of texts.
    fn list(&self, field: &'static str) -> Result<Vec<String>, StoreError> {
        let text: String = self.get(field)?;
        serde_json::from_str(&text).map_err(|_| self.damaged(field))
    }

    fn optional(&self, field: &'static str) -> Result<Option<u64>, StoreError> {
        let value: Option<i64> = self.get(field)?;
        value.map(|value| u64::try_from(value).map_err(|_| self.damaged(field))).transpose()
    }

    pub(super) fn parse<T: std::str::FromStr>(&self, field: &'static str) -> Result<T, StoreError> {
        let text: String = self.get(field)?;
        text.parse().map_err(|_| self.damaged(field))
    }

    pub(super) fn number(&self, field: &'static str) -> Result<u64, StoreError> {
        let value: i64 = self.get(field)?;
        u64::try_from(value).map_err(|_| self.damaged(field))
    }
}
