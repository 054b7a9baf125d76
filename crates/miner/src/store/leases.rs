//! Leases and their events: asked for, held, changed, read.

use nicompute_market::{
    Hotkey, Lease, LeaseEvent, LeaseId, LeaseKeys, LeaseRefusal, LeaseState, Share, UnixMillis,
};
use sqlx::{Row as _, SqliteConnection};

use super::ports::take_ports;
use super::rows::{self, Columns, LEASE_COLUMNS, keys_text, lease_from_row, number, options_text};
use super::{EVENTS_SHOWN_MAX, Store, StoreError, StoredEvent, Tx, Words, query, turns};
use crate::fuse::KillPoint;
use crate::ports::PortRange;

/// The states in which a lease holds its offer and its GPUs.
pub(super) const HELD: &str = "('reserved', 'preparing', 'running', 'paused', 'ending')";
/// Bytes of a detail that are kept.
const DETAIL_BYTES_MAX: usize = 1_000;

/// What became of a request for a lease.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Stored as requested.
    New(Lease),
    /// It was asked for before, in the same words.
    Same(Lease),
    /// The id is taken by a lease that was asked for in other words.
    OtherWords,
    /// Another lease holds the offer, and waiting for it is not possible. Nothing was stored.
    Occupied,
}

/// What became of an event.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is returned")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The lease as it is stored now.
    Stored(Lease),
    /// The event does not fit where the lease stands. Nothing was stored.
    Refused(LeaseRefusal),
    /// Somebody else changed the lease since it was read. Nothing was stored.
    Superseded,
    /// Other leases hold the offer, one of its GPUs, or what is left of the machine. Nothing was stored.
    Occupied,
    /// Other leases have the ports that it would need. Nothing was stored.
    NoPorts,
}

/// An event, and what is known about it besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    event: LeaseEvent,
    detail: Option<String>,
    keys: Option<LeaseKeys>,
}

/// What the machine has for all leases together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cores_milli: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    /// Ports of the machine that lead into leases.
    pub(crate) ports: Option<PortRange>,
}

// === impl Change ===

impl From<LeaseEvent> for Change {
    fn from(event: LeaseEvent) -> Self {
        Self { event, detail: None, keys: None }
    }
}

impl Change {
    /// Other keys.
    pub(crate) const fn keys(keys: LeaseKeys) -> Self {
        Self { event: LeaseEvent::KeysChanged, detail: None, keys: Some(keys) }
    }

    /// With what is known about it.
    pub(crate) fn because(self, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        detail.retain(|c| !c.is_control());
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        Self { detail: Some(detail), ..self }
    }

    /// Whether it is the lease's end, which is always taken.
    pub(crate) const fn ends(&self) -> bool {
        matches!(self.event, LeaseEvent::EndAsked(_))
    }

    /// The lease after it.
    fn apply(&self, lease: &Lease) -> Result<Lease, LeaseRefusal> {
        let mut after = match &self.keys {
            Some(keys) => lease.clone().with_keys(keys.clone())?,
            None => lease.clone().apply(self.event)?,
        };
        // What ended it stays known when it is swept.
        let says_nothing = after.state == lease.state || self.event == LeaseEvent::Swept;
        if self.detail.is_some() || !says_nothing {
            after.detail.clone_from(&self.detail);
        }
        Ok(after)
    }
}

// === impl Store ===

impl Store {
    /// Stores a lease as requested, unless its id is taken. Where its offer is held for a short time, or others wait for
    /// it already, so many of each purpose may wait. An offer that a renter holds is waited for by nobody. A proof that is
    /// turned away is remembered.
    pub(crate) async fn ask(
        &self,
        lease: &Lease,
        words: Words,
        waiting_max: u32,
    ) -> Result<Asked, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(asked) = known(&mut tx, lease.terms.id, words).await? {
            return Ok(asked);
        }
        if !turns::may_ask(&mut tx, lease, waiting_max).await? {
            if turns::note_turned_away(&mut tx, lease, lease.requested_at).await? {
                self.commit(tx).await?;
            }
            return Ok(Asked::Occupied);
        }
        insert(&mut tx, lease, words).await?;
        record(&mut tx, lease, "requested", lease.requested_at).await?;
        self.commit(tx).await?;
        self.reached(lease).await;
        Ok(Asked::New(lease.clone()))
    }

    /// What became of an order that was stored before: the same, or one in other words.
    pub(crate) async fn known(
        &self,
        id: LeaseId,
        words: Words,
    ) -> Result<Option<Asked>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(query("reach the store"))?;
        known(&mut connection, id, words).await
    }

    /// Applies an event to the lease as the caller read it, and stores the result.
    ///
    /// An event that leaves everything as it is (giving back what was given back) stores nothing.
    pub(crate) async fn apply(
        &self,
        lease: &Lease,
        change: impl Into<Change>,
        now: UnixMillis,
    ) -> Result<Applied, StoreError> {
        let change = change.into();
        match change.apply(lease) {
            Err(refusal) => Ok(Applied::Refused(refusal)),
            Ok(after) if says_nothing_new(lease, &after) => Ok(Applied::Stored(lease.clone())),
            Ok(after) => self.store_after((lease, after), change.event, None, now).await,
        }
    }

    /// Holds the offer, its GPUs, its share and its ports for a lease that was asked for.
    pub(crate) async fn hold(
        &self,
        lease: &Lease,
        event: LeaseEvent,
        capacity: Capacity,
        now: UnixMillis,
    ) -> Result<Applied, StoreError> {
        match Change::from(event).apply(lease) {
            Err(refusal) => Ok(Applied::Refused(refusal)),
            Ok(after) => self.store_after((lease, after), event, Some(capacity), now).await,
        }
    }

    /// One lease.
    pub(crate) async fn get(&self, id: LeaseId) -> Result<Option<Lease>, StoreError> {
        let sql = format!("SELECT {LEASE_COLUMNS} FROM lease WHERE id = ?");
        let row = sqlx::query(&sql)
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(query("read the lease"))?;
        row.as_ref().map(lease_from_row).transpose()
    }

    /// The newest lease that this hotkey made through the v1.9.0 door with this key, open ones first.
    pub(crate) async fn of_caller(
        &self,
        holder: &Hotkey,
        key: &[u8; 32],
    ) -> Result<Option<Lease>, StoreError> {
        let sql = format!(
            "SELECT {LEASE_COLUMNS} FROM lease WHERE owner_key = ? AND holder = ?
             ORDER BY state IN ('ended', 'failed'), requested_at_ms DESC LIMIT 1"
        );
        let row = sqlx::query(&sql)
            .bind(key.as_slice())
            .bind(holder.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(query("look for the key's lease"))?;
        row.as_ref().map(lease_from_row).transpose()
    }

    /// Every lease that is not final, oldest first.
    pub(crate) async fn open_leases(&self) -> Result<Vec<Lease>, StoreError> {
        let sql = format!(
            "SELECT {LEASE_COLUMNS} FROM lease WHERE state NOT IN ('ended', 'failed')
             ORDER BY requested_at_ms, id"
        );
        let rows =
            sqlx::query(&sql).fetch_all(&self.pool).await.map_err(query("list the open leases"))?;
        rows.iter().map(lease_from_row).collect()
    }

    /// Whether this caller holds a lease that is not final.
    pub(crate) async fn holds_any(&self, holder: &Hotkey) -> Result<bool, StoreError> {
        sqlx::query("SELECT 1 FROM lease WHERE holder = ? AND state NOT IN ('ended', 'failed')")
            .bind(holder.to_string())
            .fetch_optional(&self.pool)
            .await
            .map(|row| row.is_some())
            .map_err(query("look for the caller's leases"))
    }

    /// Which lease holds a GPU.
    pub(crate) async fn holder_of_gpu(&self, uuid: &str) -> Result<Option<LeaseId>, StoreError> {
        let row = sqlx::query("SELECT lease FROM held_gpu WHERE gpu = ?")
            .bind(uuid)
            .fetch_optional(&self.pool)
            .await
            .map_err(query("look for the GPU's lease"))?;
        row.map(|row| Columns { row: &row, lease: uuid }.parse("lease")).transpose()
    }

    /// Gives leases of before shares were stored what they had: all of the machine. Gives how many there were.
    pub(crate) async fn share_with_old(&self, whole: &Share) -> Result<u64, StoreError> {
        sqlx::query(
            "UPDATE lease SET cores_milli = ?, memory_bytes = ?, disk_bytes = ?, gpus = ?
             WHERE cores_milli IS NULL AND state NOT IN ('ended', 'failed')",
        )
        .bind(whole.cores_milli)
        .bind(number(whole.memory_bytes, "memory")?)
        .bind(number(whole.disk_bytes, "disk")?)
        .bind(keys_text(&whole.gpus))
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(query("give old leases their share"))
    }

    /// What happened to a lease after a generation, in order.
    pub(crate) async fn events_after(
        &self,
        id: LeaseId,
        generation: Option<u64>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let after = generation.map_or(Ok(-1), |known| number(known, "generation"))?;
        let rows = sqlx::query(
            "SELECT generation, event, state, reason, expires_at_ms, at_ms, detail FROM lease_event
             WHERE lease = ? AND generation > ? ORDER BY seq LIMIT ?",
        )
        .bind(id.to_string())
        .bind(after)
        .bind(EVENTS_SHOWN_MAX)
        .fetch_all(&self.pool)
        .await
        .map_err(query("read the lease's events"))?;
        rows.iter().map(|row| rows::event_from_row(id, row)).collect()
    }

    /// Forgets the oldest finished leases beyond a number.
    pub(crate) async fn forget_finished(&self, keep: u32) -> Result<u64, StoreError> {
        sqlx::query(
            "DELETE FROM lease WHERE id IN (
                 SELECT id FROM lease WHERE state IN ('ended', 'failed')
                 ORDER BY requested_at_ms DESC, id LIMIT -1 OFFSET ?)",
        )
        .bind(keep)
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected())
        .map_err(query("forget old leases"))
    }

    async fn store_after(
        &self,
        (before, mut after): (&Lease, Lease),
        event: LeaseEvent,
        capacity: Option<Capacity>,
        now: UnixMillis,
    ) -> Result<Applied, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(capacity) = capacity
            && !has_room(&mut tx, &after.terms.share, capacity).await?
        {
            return Ok(Applied::Occupied);
        }
        match update(&mut tx, before, &after, now).await {
            Ok(0) => return Ok(Applied::Superseded),
            Ok(_) => {}
            Err(StoreError::Query { source, .. }) if is_unique_violation(&source) => {
                return Ok(Applied::Occupied);
            }
            Err(error) => return Err(error),
        }
        if let Some(capacity) = capacity {
            match take_ports(&mut tx, &after, capacity.ports).await? {
                Some(ports) => after.published = ports,
                None => return Ok(Applied::NoPorts),
            }
        }
        if after.state.is_final() {
            // The file frees them by itself.
            after.published.clear();
        }
        if is_grant(before, &after) {
            turns::forget_turned_away(&mut tx, &after).await?;
        }
        record(&mut tx, &after, event.name(), now).await?;
        self.commit(tx).await?;
        self.reached(&after).await;
        Ok(Applied::Stored(after))
    }

    async fn reached(&self, lease: &Lease) {
        if let Some(point) = KillPoint::stored(lease.state) {
            self.fuse.reached(point).await;
        }
    }
}

/// Whether an event changed nothing but the number of changes.
fn says_nothing_new(before: &Lease, after: &Lease) -> bool {
    let same = Lease { generation: before.generation, ..after.clone() };
    same == *before
}

/// Whether it was given its offer.
fn is_grant(before: &Lease, after: &Lease) -> bool {
    (before.state, after.state) == (LeaseState::Requested, LeaseState::Reserved)
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

async fn known(
    connection: &mut SqliteConnection,
    id: LeaseId,
    words: Words,
) -> Result<Option<Asked>, StoreError> {
    let sql = format!("SELECT {LEASE_COLUMNS}, words FROM lease WHERE id = ?");
    let known = sqlx::query(&sql).bind(id.to_string()).fetch_optional(connection);
    let Some(row) = known.await.map_err(query("look for the lease"))? else { return Ok(None) };
    let stored: Vec<u8> = row.try_get("words").map_err(query("read the lease's words"))?;
    Ok(Some(if stored == words.0 { Asked::Same(lease_from_row(&row)?) } else { Asked::OtherWords }))
}

/// Whether so much of the machine is held by nobody.
async fn has_room(tx: &mut Tx, share: &Share, capacity: Capacity) -> Result<bool, StoreError> {
    let act = "add up what is held";
    let sql = format!(
        "SELECT coalesce(sum(cores_milli), 0) AS cores, coalesce(sum(memory_bytes), 0) AS memory,
                coalesce(sum(disk_bytes), 0) AS disk
         FROM lease WHERE state IN {HELD}"
    );
    let row = sqlx::query(&sql).fetch_one(&mut **tx).await.map_err(query(act))?;
    let held = |field| -> Result<u64, StoreError> {
        let sum: i64 = row.try_get(field).map_err(query(act))?;
        Ok(u64::try_from(sum).unwrap_or_default())
    };
    let cores = held("cores")?.saturating_add(u64::from(share.cores_milli));
    let memory = held("memory")?.saturating_add(share.memory_bytes);
    let disk = held("disk")?.saturating_add(share.disk_bytes);
    Ok(cores <= capacity.cores_milli
        && memory <= capacity.memory_bytes
        && disk <= capacity.disk_bytes)
}

async fn insert(tx: &mut Tx, lease: &Lease, words: Words) -> Result<(), StoreError> {
    let terms = &lease.terms;
    sqlx::query(
        "INSERT INTO lease (id, offer, purpose, holder, ssh_keys, image, words, state, reason, generation,
                            requested_at_ms, expires_at_ms, cores_milli, memory_bytes, disk_bytes, gpus,
                            price_micro_usd_per_hour, terminal_key, options, owner_key, password_hash, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(terms.id.to_string())
    .bind(terms.offer.as_str())
    .bind(terms.purpose.as_str())
    .bind(terms.holder.to_string())
    .bind(keys_text(&terms.keys.user))
    .bind(&terms.image)
    .bind(words.0.as_slice())
    .bind(lease.state.name())
    .bind(lease.state.reason())
    .bind(number(lease.generation, "generation")?)
    .bind(number(lease.requested_at.get(), "time")?)
    .bind(number(lease.expires_at.get(), "expiry")?)
    .bind(terms.share.cores_milli)
    .bind(number(terms.share.memory_bytes, "memory")?)
    .bind(number(terms.share.disk_bytes, "disk")?)
    .bind(keys_text(&terms.share.gpus))
    .bind(terms.price_per_hour.map(|price| number(price.get(), "price")).transpose()?)
    .bind(&terms.keys.terminal)
    .bind(options_text(&terms.options))
    .bind(terms.legacy.as_ref().map(|legacy| legacy.owner_key_sha256.to_vec()))
    .bind(terms.legacy.as_ref().map(|legacy| legacy.password_hash.clone()))
    .bind(&lease.detail)
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(query("write the lease"))
}

/// Writes what can change of a lease, unless somebody else changed it since. Gives the number of rows.
async fn update(
    tx: &mut Tx,
    before: &Lease,
    after: &Lease,
    now: UnixMillis,
) -> Result<u64, StoreError> {
    let granted_at = is_grant(before, after).then(|| number(now.get(), "time")).transpose()?;
    sqlx::query(
        "UPDATE lease SET state = ?, reason = ?, generation = ?, expires_at_ms = ?, ssh_keys = ?,
                          terminal_key = ?, restart_asked = ?, warned_ms = ?, detail = ?,
                          granted_at_ms = coalesce(?, granted_at_ms)
         WHERE id = ? AND generation = ?",
    )
    .bind(after.state.name())
    .bind(after.state.reason())
    .bind(number(after.generation, "generation")?)
    .bind(number(after.expires_at.get(), "expiry")?)
    .bind(keys_text(&after.terms.keys.user))
    .bind(&after.terms.keys.terminal)
    .bind(after.restart_asked)
    .bind(after.warned_millis.map(|left| number(left, "warning")).transpose()?)
    .bind(&after.detail)
    .bind(granted_at)
    .bind(after.terms.id.to_string())
    .bind(number(before.generation, "generation")?)
    .execute(&mut **tx)
    .await
    .map(|done| done.rows_affected())
    .map_err(query("write the lease"))
}

async fn record(tx: &mut Tx, lease: &Lease, event: &str, at: UnixMillis) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO lease_event (lease, generation, event, state, reason, expires_at_ms, at_ms, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(lease.terms.id.to_string())
    .bind(number(lease.generation, "generation")?)
    .bind(event)
    .bind(lease.state.name())
    .bind(lease.state.reason())
    .bind(number(lease.expires_at.get(), "expiry")?)
    .bind(number(at.get(), "time")?)
    .bind(&lease.detail)
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(query("write the lease's event"))
}
