//! The validator's memory: one SQLite file with evidence, transcripts, leases under way, rentals, API keys and weights.
//!
//! What an effect needs to be undone after a kill is written before the effect. Nothing outside of this folder knows SQL,
//! and no transaction here waits for the network.

mod api_keys;
mod catalogues;
mod dir_lock;
mod evidence;
mod leases;
mod legs;
mod owed;
mod rentals;
mod submissions;

use std::path::{Path, PathBuf};

use nicompute_market::{BlockNumber, Hotkey, LeaseId, Netuid, Uid, UnixMillis};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row as _, SqlitePool};

pub use api_keys::ApiKeyInfo;
pub(crate) use api_keys::StoredKey;
pub(crate) use catalogues::CatalogueStanding;
pub(crate) use dir_lock::DirLock;
pub use dir_lock::DirLockError;
pub use evidence::StoredEvidence;
pub(crate) use evidence::{NewEvidence, TranscriptBlob, verdict_name};
pub(crate) use leases::ProofLease;
pub(crate) use owed::OwedRelease;
pub(crate) use rentals::{Inserted, Rental, RentalUpdate};
pub(crate) use submissions::{NewSubmission, Opening, Signed, Step, Submission, Way};

/// The file in the state directory.
const FILE: &str = "validator.sqlite3";
/// One connection: writes queue in the process instead of failing as busy.
const CONNECTIONS: u32 = 1;
/// Weight settings that are kept for questions about the past.
const WEIGHT_SETS_KEPT_MAX: i64 = 10_000;

/// The open store; one per process.
#[derive(Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
    _lock: DirLock,
}

/// Weights that the chain took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSet {
    /// When, on this validator's clock.
    pub at: UnixMillis,
    /// The block with them.
    pub block: BlockNumber,
    /// The weights, by slot.
    pub weights: Vec<(Uid, u16)>,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is no database of ours, or of a newer version.
    #[error("the store {} cannot be opened", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The file's tables could not be brought to this version.
    #[error("the store {} cannot be brought to this version", file.display())]
    Migrate {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The state directory belongs to another validator or subnet.
    #[error("the store belongs to hotkey {hotkey} on subnet {netuid}")]
    OtherOwner {
        /// Whose it is.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// A read or write failed.
    #[error("the store could not {act}")]
    Query {
        /// What was tried.
        act: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// A row that no version of this program writes.
    #[error("a stored {what} is damaged")]
    Damaged {
        /// What the row is.
        what: &'static str,
    },
}

// === impl Store ===

impl Store {
    /// Opens the store in a state directory and brings it to this version. The directory stays locked while it is open.
    pub(crate) async fn open(
        dir: &Path,
        lock: DirLock,
        hotkey: &Hotkey,
        netuid: Netuid,
    ) -> Result<Self, StoreError> {
        let file = dir.join(FILE);
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let opened = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options);
        let opened = opened.await;
        let pool = opened.map_err(|source| StoreError::Open { file: file.clone(), source })?;
        let migrated = sqlx::migrate!("./migrations").run(&pool).await;
        migrated.map_err(|source| StoreError::Migrate { file, source })?;
        let store = Self { pool, _lock: lock };
        store.claim(hotkey, netuid).await?;
        Ok(store)
    }

    /// The file belongs to whoever used it first.
    async fn claim(&self, hotkey: &Hotkey, netuid: Netuid) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO owner (one, hotkey, netuid) VALUES (1, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(hotkey.as_bytes().as_slice())
        .bind(i64::from(netuid.0))
        .execute(&self.pool)
        .await
        .map_err(failed("claim its directory"))?;
        let row = sqlx::query("SELECT hotkey, netuid FROM owner")
            .fetch_one(&self.pool)
            .await
            .map_err(failed("read its owner"))?;
        let owner = hotkey_of(&row, "hotkey")?;
        let owned =
            Netuid(u16::try_from(number_of(&row, "netuid")?).map_err(|_| damaged("owner"))?);
        if owner == *hotkey && owned == netuid {
            Ok(())
        } else {
            Err(StoreError::OtherOwner { hotkey: owner, netuid: owned })
        }
    }

    /// Remembers weights that stand on the chain for everybody to read; never a commit to them.
    async fn insert_weight_set(
        tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
        set: &WeightSet,
    ) -> Result<(), StoreError> {
        let act = "remember the weights";
        let pairs: Vec<(u16, u16)> = set.weights.iter().map(|(uid, w)| (uid.0, *w)).collect();
        let text = serde_json::to_string(&pairs).map_err(|_| damaged("weight set"))?;
        sqlx::query("INSERT INTO weight_sets (at_unix_ms, block, weights) VALUES (?, ?, ?)")
            .bind(stored(set.at.get()))
            .bind(stored(set.block.get()))
            .bind(text)
            .execute(&mut **tx)
            .await
            .map_err(failed(act))?;
        sqlx::query("DELETE FROM weight_sets WHERE id <= (SELECT max(id) FROM weight_sets) - ?")
            .bind(WEIGHT_SETS_KEPT_MAX)
            .execute(&mut **tx)
            .await
            .map(drop)
            .map_err(failed(act))
    }

    /// The weights that the chain took last.
    pub(crate) async fn last_weight_set(&self) -> Result<Option<WeightSet>, StoreError> {
        let row = sqlx::query("SELECT * FROM weight_sets ORDER BY id DESC LIMIT 1")
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("read the last weights"))?;
        let Some(row) = row else { return Ok(None) };
        let text = text_of(&row, "weights")?;
        let pairs: Vec<(u16, u16)> =
            serde_json::from_str(&text).map_err(|_| damaged("weight set"))?;
        Ok(Some(WeightSet {
            at: UnixMillis(number_of(&row, "at_unix_ms")?),
            block: BlockNumber(number_of(&row, "block")?),
            weights: pairs.into_iter().map(|(uid, weight)| (Uid(uid), weight)).collect(),
        }))
    }

    /// Closes the file, so that nothing is left to be recovered.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

// === rows ===

fn failed(act: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { act, source }
}

const fn damaged(what: &'static str) -> StoreError {
    StoreError::Damaged { what }
}

/// SQLite's integers have 63 bits and a sign.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number_of(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column).map_err(|_| damaged(column))?;
    u64::try_from(number).map_err(|_| damaged(column))
}

fn flag_of(row: &SqliteRow, column: &'static str) -> Result<bool, StoreError> {
    Ok(number_of(row, column)? == 1)
}

fn text_of(row: &SqliteRow, column: &'static str) -> Result<String, StoreError> {
    row.try_get(column).map_err(|_| damaged(column))
}

fn bytes_of<const N: usize>(row: &SqliteRow, column: &'static str) -> Result<[u8; N], StoreError> {
    let bytes: Vec<u8> = row.try_get(column).map_err(|_| damaged(column))?;
    bytes.try_into().map_err(|_| damaged(column))
}

fn hotkey_of(row: &SqliteRow, column: &'static str) -> Result<Hotkey, StoreError> {
    Ok(Hotkey::from_bytes(bytes_of(row, column)?))
}

fn lease_of(row: &SqliteRow, column: &'static str) -> Result<LeaseId, StoreError> {
    text_of(row, column)?.parse().map_err(|_| damaged(column))
}
