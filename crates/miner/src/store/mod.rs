//! The node's memory: one SQLite file with every lease and everything that ever happened to it.
//!
//! A lease and its event are written in one transaction, fenced by the lease's generation: a writer that saw an older one
//! changes nothing. That an offer is held at most once is a unique index, not a belief of the program. Nothing outside of
//! this folder knows SQL.

mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use nicompute_market::{Hotkey, Lease, LeaseEvent, LeaseId, LeaseRefusal, OfferId, UnixMillis};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::watch;

use crate::dir_lock::DirLock;
use crate::fuse::{Fuse, KillPoint};
use rows::{LEASE_COLUMNS, event_name, keys_text, lease_from_row, number};

/// The file in the state directory.
const FILE: &str = "miner.sqlite3";
/// One connection: writes queue in the process instead of failing as busy, and an idle node stays small.
const CONNECTIONS: u32 = 1;
/// Finished leases that are kept for questions about the past; older ones are forgotten.
pub const LEASES_KEPT_MAX: u32 = 10_000;
/// Events of one lease that are shown at once; a lease has about eight in its life.
pub(crate) const EVENTS_SHOWN_MAX: u32 = 1_000;

/// The words in which a lease was asked for, as SHA-256 of their canonical text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) [u8; 32]);

/// The open store. Cheap to share by reference; one per process.
#[derive(Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
    fuse: Fuse,
    /// Counts the writes, so that waiters know when to look again.
    changed: watch::Sender<u64>,
    _lock: DirLock,
}

/// What became of a request for a lease.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Stored as requested.
    New(Lease),
    /// It was asked for before, in the same words.
    Same(Lease),
    /// The id is taken by a lease that was asked for in other words.
    OtherWords,
    /// Another lease holds the offer. Nothing was stored.
    Occupied,
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The lease as it is stored now.
    Stored(Lease),
    /// The event does not fit where the lease stands. Nothing was stored.
    Refused(LeaseRefusal),
    /// Somebody else changed the lease since it was read. Nothing was stored.
    Superseded,
    /// Another lease holds the offer. Nothing was stored.
    Occupied,
}

/// One thing that happened to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) generation: u64,
    pub(crate) event: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) expires_at: UnixMillis,
    pub(crate) at: UnixMillis,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is no database of ours, or of a newer version.
    #[error("cannot open the store {}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The file's tables could not be brought to this version.
    #[error("cannot bring the store {} to this version", file.display())]
    Migrate {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The state directory belongs to another hotkey.
    #[error("the store belongs to the hotkey {owner}")]
    OtherHotkey {
        /// Whose it is.
        owner: String,
    },
    /// A read or write failed.
    #[error("cannot {act}")]
    Query {
        /// What was tried.
        act: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A row that no version of this program writes.
    #[error("the stored lease {lease} has a damaged {field}")]
    Damaged {
        /// The lease.
        lease: String,
        /// The field.
        field: &'static str,
    },
    /// A number that the store cannot hold.
    #[error("{field} is too large to be stored")]
    TooLarge {
        /// Which number.
        field: &'static str,
    },
}

type Tx = Transaction<'static, Sqlite>;

impl Store {
    /// Opens the store in a state directory and brings it to this version. The directory stays locked as long as anybody
    /// can write.
    pub(crate) async fn open(
        dir: &Path,
        hotkey: &Hotkey,
        fuse: Fuse,
        lock: DirLock,
    ) -> Result<Self, StoreError> {
        let file = dir.join(FILE);
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { file: file.clone(), source })?;
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|source| StoreError::Migrate { file, source })?;
        let store = Self { pool, fuse, changed: watch::Sender::new(0), _lock: lock };
        store.belong_to(hotkey).await?;
        Ok(store)
    }

    /// Counts the writes. A waiter subscribes, then reads, then waits.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The steps after which a test wants the process dead.
    pub(crate) const fn fuse(&self) -> &Fuse {
        &self.fuse
    }

    /// Stores a lease as requested, unless its id is taken or its offer is held.
    pub(crate) async fn ask(&self, lease: &Lease, words: Words) -> Result<Asked, StoreError> {
        let mut tx = self.begin().await?;
        let sql = format!("SELECT {LEASE_COLUMNS}, words FROM lease WHERE id = ?");
        let known = sqlx::query(&sql).bind(lease.terms.id.to_string()).fetch_optional(&mut *tx);
        if let Some(row) = known.await.map_err(query("look for the lease"))? {
            let stored: Vec<u8> = row.try_get("words").map_err(query("read the lease's words"))?;
            if stored != words.0 {
                return Ok(Asked::OtherWords);
            }
            return Ok(Asked::Same(lease_from_row(&row)?));
        }
        if holder(&mut tx, &lease.terms.offer).await?.is_some() {
            return Ok(Asked::Occupied);
        }
        insert(&mut tx, lease, words).await?;
        record(&mut tx, lease, "requested", lease.requested_at).await?;
        self.commit(tx).await?;
        self.reached(lease).await;
        Ok(Asked::New(lease.clone()))
    }

    /// Applies an event to the lease as the caller read it, and stores the result.
    ///
    /// An event that leaves everything as it is (giving back what was given back) stores nothing.
    pub(crate) async fn apply(
        &self,
        lease: &Lease,
        event: LeaseEvent,
        now: UnixMillis,
    ) -> Result<Applied, StoreError> {
        let after = match lease.clone().apply(event) {
            Ok(after) => after,
            Err(refusal) => return Ok(Applied::Refused(refusal)),
        };
        if after.state == lease.state && after.expires_at == lease.expires_at {
            return Ok(Applied::Stored(lease.clone()));
        }
        self.store_after(lease, after, event_name(event), now).await
    }

    /// Replaces the keys that may enter.
    pub(crate) async fn replace_keys(
        &self,
        lease: &Lease,
        keys: Vec<String>,
        now: UnixMillis,
    ) -> Result<Applied, StoreError> {
        if lease.terms.ssh_keys == keys {
            return Ok(Applied::Stored(lease.clone()));
        }
        let mut after = lease.clone();
        after.terms.ssh_keys = keys;
        after.generation = after.generation.saturating_add(1);
        self.store_after(lease, after, "keys-replaced", now).await
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

    /// Which lease holds the offer.
    pub(crate) async fn holder_of(&self, offer: &OfferId) -> Result<Option<String>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(query("reach the store"))?;
        holder(&mut connection, offer).await
    }

    /// How many writes there were: what was read stays true as long as this stays the same.
    pub(crate) fn version(&self) -> u64 {
        *self.changed.borrow()
    }

    /// What happened to a lease after a generation, in order.
    pub(crate) async fn events_after(
        &self,
        id: LeaseId,
        generation: Option<u64>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let after = generation.map_or(Ok(-1), |known| number(known, "generation"))?;
        let rows = sqlx::query(
            "SELECT generation, event, state, reason, expires_at_ms, at_ms FROM lease_event
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

    /// No nonce up to this may be accepted: it is the latest of those that were accepted before.
    pub(crate) async fn nonce_floor_ns(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT nonce_floor_ns FROM node WHERE id = 1")
            .fetch_one(&self.pool)
            .await
            .map_err(query("read the nonce floor"))?;
        let floor: i64 = row.try_get(0).map_err(query("read the nonce floor"))?;
        Ok(u64::try_from(floor).unwrap_or_default())
    }

    /// Remembers an accepted nonce for the process after this one, whose clock may show an earlier time.
    pub(crate) async fn raise_nonce_floor(&self, nonce_ns: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE node SET nonce_floor_ns = ?1 WHERE id = 1 AND nonce_floor_ns < ?1")
            .bind(number(nonce_ns, "nonce")?)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(query("store the nonce floor"))
    }

    /// No nonce up to this may be accepted at the v1.9.0 door.
    pub(crate) async fn axon_nonce_floor_ns(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT axon_nonce_floor_ns FROM node WHERE id = 1")
            .fetch_one(&self.pool)
            .await
            .map_err(query("read the nonce floor of the v1.9.0 door"))?;
        let floor: i64 = row.try_get(0).map_err(query("read the nonce floor"))?;
        Ok(u64::try_from(floor).unwrap_or_default())
    }

    /// Remembers for the process after this one that nonces up to this may have been accepted at the v1.9.0 door.
    pub(crate) async fn raise_axon_nonce_floor(&self, nonce_ns: u64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE node SET axon_nonce_floor_ns = ?1 WHERE id = 1 AND axon_nonce_floor_ns < ?1",
        )
        .bind(number(nonce_ns, "nonce")?)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(query("store the nonce floor of the v1.9.0 door"))
    }

    /// Lowers that number, which a clock that was far ahead has left.
    pub(crate) async fn lower_axon_nonce_floor(&self, nonce_ns: u64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE node SET axon_nonce_floor_ns = ?1 WHERE id = 1 AND axon_nonce_floor_ns > ?1",
        )
        .bind(number(nonce_ns, "nonce")?)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(query("store the nonce floor of the v1.9.0 door"))
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

    /// Ends the connection; what is written after this is lost.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    async fn belong_to(&self, hotkey: &Hotkey) -> Result<(), StoreError> {
        let hotkey = hotkey.to_string();
        sqlx::query("INSERT OR IGNORE INTO node (id, hotkey) VALUES (1, ?)")
            .bind(&hotkey)
            .execute(&self.pool)
            .await
            .map_err(query("write the store's owner"))?;
        let owner: String = sqlx::query("SELECT hotkey FROM node WHERE id = 1")
            .fetch_one(&self.pool)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(query("read the store's owner"))?;
        if owner == hotkey { Ok(()) } else { Err(StoreError::OtherHotkey { owner }) }
    }

    async fn store_after(
        &self,
        before: &Lease,
        after: Lease,
        event: &'static str,
        now: UnixMillis,
    ) -> Result<Applied, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE lease SET state = ?, reason = ?, generation = ?, expires_at_ms = ?, ssh_keys = ?
             WHERE id = ? AND generation = ?",
        )
        .bind(after.state.name())
        .bind(after.state.reason())
        .bind(number(after.generation, "generation")?)
        .bind(number(after.expires_at.get(), "expiry")?)
        .bind(keys_text(&after.terms.ssh_keys))
        .bind(after.terms.id.to_string())
        .bind(number(before.generation, "generation")?)
        .execute(&mut *tx)
        .await;
        match done {
            Ok(done) if done.rows_affected() == 0 => return Ok(Applied::Superseded),
            Ok(_) => {}
            Err(error) if is_unique_violation(&error) => return Ok(Applied::Occupied),
            Err(source) => return Err(StoreError::Query { act: "write the lease", source }),
        }
        record(&mut tx, &after, event, now).await?;
        self.commit(tx).await?;
        self.reached(&after).await;
        Ok(Applied::Stored(after))
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(query("begin a transaction"))
    }

    async fn commit(&self, tx: Tx) -> Result<(), StoreError> {
        tx.commit().await.map_err(query("commit"))?;
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    async fn reached(&self, lease: &Lease) {
        if let Some(point) = KillPoint::stored(lease.state) {
            self.fuse.reached(point).await;
        }
    }
}

impl StoreError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::OtherHotkey { .. } => Some(
                "give this hotkey a --state-dir of its own, or use the hotkey that owns this one",
            ),
            Self::Open { .. } | Self::Migrate { .. } => {
                Some("use the version that wrote the file, or another --state-dir")
            }
            Self::Query { .. } => {
                Some("check that the disk of --state-dir is neither full nor read-only")
            }
            Self::Damaged { .. } | Self::TooLarge { .. } => None,
        }
    }
}

fn query(act: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { act, source }
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

async fn holder(
    connection: &mut SqliteConnection,
    offer: &OfferId,
) -> Result<Option<String>, StoreError> {
    let row = sqlx::query(
        "SELECT id FROM lease WHERE offer = ?
         AND state IN ('reserved', 'preparing', 'running', 'paused', 'ending')",
    )
    .bind(offer.as_str())
    .fetch_optional(connection)
    .await
    .map_err(query("look for the offer's holder"))?;
    row.map(|row| row.try_get(0)).transpose().map_err(query("read the offer's holder"))
}

async fn insert(tx: &mut Tx, lease: &Lease, words: Words) -> Result<(), StoreError> {
    let terms = &lease.terms;
    sqlx::query(
        "INSERT INTO lease (id, offer, purpose, holder, ssh_keys, image, words, state, reason, generation,
                            requested_at_ms, expires_at_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(terms.id.to_string())
    .bind(terms.offer.as_str())
    .bind(terms.purpose.as_str())
    .bind(terms.holder.to_string())
    .bind(keys_text(&terms.ssh_keys))
    .bind(&terms.image)
    .bind(words.0.as_slice())
    .bind(lease.state.name())
    .bind(lease.state.reason())
    .bind(number(lease.generation, "generation")?)
    .bind(number(lease.requested_at.get(), "time")?)
    .bind(number(lease.expires_at.get(), "expiry")?)
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(query("write the lease"))
}

async fn record(tx: &mut Tx, lease: &Lease, event: &str, at: UnixMillis) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO lease_event (lease, generation, event, state, reason, expires_at_ms, at_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(lease.terms.id.to_string())
    .bind(number(lease.generation, "generation")?)
    .bind(event)
    .bind(lease.state.name())
    .bind(lease.state.reason())
    .bind(number(lease.expires_at.get(), "expiry")?)
    .bind(number(at.get(), "time")?)
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(query("write the lease's event"))
}
