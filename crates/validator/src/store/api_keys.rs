//! API keys: the hash of each secret, never the secret.

use nicompute_market::UnixMillis;
use sqlx::Row as _;

use super::{Store, StoreError, bytes_of, damaged, failed, number_of, stored, text_of};

/// API keys that are not revoked, at most.
const API_KEYS_MAX: i64 = 10_000;

/// What is known of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyInfo {
    /// Its public half.
    pub id: String,
    /// What its owner called it.
    pub name: String,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was taken back, if it was.
    pub revoked_at: Option<UnixMillis>,
}

/// A key to be stored.
#[derive(Debug, Clone)]
pub(crate) struct StoredKey {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) hash: [u8; 32],
    pub(crate) created_at: UnixMillis,
}

impl Store {
    /// Stores a key. Gives false, and stores nothing, where there are as many as there may be.
    pub(crate) async fn add_api_key(&self, key: &StoredKey) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO api_keys (id, name, hash, created_at_unix_ms) SELECT ?, ?, ?, ? \
             WHERE (SELECT count(*) FROM api_keys WHERE revoked_at_unix_ms IS NULL) < ?",
        )
        .bind(&key.id)
        .bind(&key.name)
        .bind(key.hash.as_slice())
        .bind(stored(key.created_at.get()))
        .bind(API_KEYS_MAX)
        .execute(&self.pool)
        .await
        .map_err(failed("store an API key"))?;
        Ok(done.rows_affected() == 1)
    }

    /// The hash of a key that is not revoked.
    pub(crate) async fn api_key_hash(&self, id: &str) -> Result<Option<[u8; 32]>, StoreError> {
        let row =
            sqlx::query("SELECT hash FROM api_keys WHERE id = ? AND revoked_at_unix_ms IS NULL")
                .bind(id)
                .fetch_optional(&self.pool)
                .await
                .map_err(failed("read an API key"))?;
        row.map(|row| bytes_of(&row, "hash")).transpose()
    }

    /// Takes a key back for good. Gives whether there was one to take back.
    pub(crate) async fn revoke_api_key(
        &self,
        id: &str,
        at: UnixMillis,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE api_keys SET revoked_at_unix_ms = ? WHERE id = ? AND revoked_at_unix_ms IS NULL",
        )
        .bind(stored(at.get()))
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(failed("revoke an API key"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Every key, newest first.
    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKeyInfo>, StoreError> {
        let rows = sqlx::query("SELECT * FROM api_keys ORDER BY created_at_unix_ms DESC, id")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read the API keys"))?;
        let one = |row| {
            let revoked: Option<i64> = sqlx::sqlite::SqliteRow::try_get(row, "revoked_at_unix_ms")
                .map_err(|_| damaged("API key"))?;
            Ok(ApiKeyInfo {
                id: text_of(row, "id")?,
                name: text_of(row, "name")?,
                created_at: UnixMillis(number_of(row, "created_at_unix_ms")?),
                revoked_at: revoked.map(|at| UnixMillis(u64::try_from(at).unwrap_or(0))),
            })
        };
        rows.iter().map(one).collect()
    }
}
