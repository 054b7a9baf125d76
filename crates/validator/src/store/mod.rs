//! The validator's memory: one SQLite file, and the transcripts beside it under their own names.
//!
//! Nothing outside of this folder knows SQL. Every write is durable before it returns.

mod evidence;
mod keys;
mod leases;
mod weights;

use std::path::{Path, PathBuf};

use nicompute_market::Hotkey;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::dir_lock::{DirLock, LockError};

pub(crate) use evidence::{NewEvidence, StoredEvidence};
pub(crate) use leases::{ProofLease, Rental};
pub(crate) use weights::WeightsSet;

/// The file in the state folder.
const FILE: &str = "validator.sqlite3";
/// The folder with signed transcripts.
const TRANSCRIPTS: &str = "transcripts";
/// One connection: writes queue in the process instead of failing as busy, and an idle validator stays small.
const CONNECTIONS: u32 = 1;

/// The open store; one for each process.
#[derive(Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
    transcripts: PathBuf,
    _lock: DirLock,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state folder cannot be used.
    #[error("the state directory cannot be used")]
    Lock(#[from] LockError),
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
    /// The state folder belongs to another hotkey.
    #[error("the store belongs to the hotkey {0}")]
    OtherHotkey(String),
    /// A read or write failed.
    #[error("cannot {act}")]
    Query {
        /// What was tried.
        act: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A transcript could not be written or read.
    #[error("cannot use the transcript {}", file.display())]
    Transcript {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A row that no version of this program writes.
    #[error("a stored {0} is damaged")]
    Damaged(&'static str),
}

impl StoreError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Lock(LockError::InUse { .. }) => {
                "stop the other validator, or give this one another --state-dir"
            }
            Self::OtherHotkey(_) => "give each hotkey a --state-dir of its own",
            Self::Lock(LockError::Unusable { .. })
            | Self::Open { .. }
            | Self::Migrate { .. }
            | Self::Query { .. }
            | Self::Transcript { .. }
            | Self::Damaged(_) => "check the disk and who may write in --state-dir",
        }
    }
}

/// Names what was tried.
fn query(act: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { act, source }
}

/// A count or time as SQLite keeps it.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count or time as SQLite gave it; the schema has no negative ones.
fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Damaged("number"))
}

impl Store {
    /// Opens the store of a state folder, which then belongs to this process and this hotkey.
    pub(crate) async fn open(dir: &Path, hotkey: &Hotkey) -> Result<Self, StoreError> {
        let lock = DirLock::take(dir)?;
        let file = dir.join(FILE);
        let transcripts = dir.join(TRANSCRIPTS);
        std::fs::create_dir_all(&transcripts)
            .map_err(|source| StoreError::Transcript { file: transcripts.clone(), source })?;
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
        let migrated = sqlx::migrate!("./migrations").run(&pool).await;
        migrated.map_err(|source| StoreError::Migrate { file, source })?;
        let store = Self { pool, transcripts, _lock: lock };
        store.belong_to(hotkey).await?;
        Ok(store)
    }

    async fn belong_to(&self, hotkey: &Hotkey) -> Result<(), StoreError> {
        let text = hotkey.to_string();
        sqlx::query("INSERT OR IGNORE INTO validator (id, hotkey) VALUES (1, ?)")
            .bind(&text)
            .execute(&self.pool)
            .await
            .map_err(query("note the store's owner"))?;
        let owner: String = sqlx::query_scalar("SELECT hotkey FROM validator WHERE id = 1")
            .fetch_one(&self.pool)
            .await
            .map_err(query("read the store's owner"))?;
        if owner == text { Ok(()) } else { Err(StoreError::OtherHotkey(owner)) }
    }
}
