//! The node's memory: one SQLite file with every lease and everything that ever happened to it.
//!
//! A lease and its event are written in one transaction, fenced by the lease's generation: a writer that saw an older one
//! changes nothing. That an offer and a GPU are held at most once is a unique index each, not a belief of the program.
//! Nothing outside of this folder knows SQL.

mod leases;
mod ports;
mod rows;
#[cfg(test)]
mod tests;
mod turns;

use std::path::{Path, PathBuf};

use nicompute_market::{Hotkey, UnixMillis};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, Sqlite, SqlitePool, Transaction};
use tokio::sync::watch;

use crate::dir_lock::DirLock;
use crate::fuse::Fuse;
pub(crate) use leases::{Applied, Asked, Capacity, Change};
use rows::number;
#[cfg(test)]
pub(crate) use turns::TURNED_AWAY_MILLIS;
pub(crate) use turns::{Holding, Waiting};

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

/// One thing that happened to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) generation: u64,
    pub(crate) event: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) expires_at: UnixMillis,
    pub(crate) at: UnixMillis,
    pub(crate) detail: Option<String>,
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

    /// How many writes there were: what was read stays true as long as this stays the same.
    pub(crate) fn version(&self) -> u64 {
        *self.changed.borrow()
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

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(query("begin a transaction"))
    }

    async fn commit(&self, tx: Tx) -> Result<(), StoreError> {
        tx.commit().await.map_err(query("commit"))?;
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
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
