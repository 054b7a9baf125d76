//! API keys: only their hashes are kept.

use nicompute_market::UnixMillis;

use super::{Store, StoreError, number, query};

impl Store {
    /// Stores a key's hash.
    pub(crate) async fn add_api_key(
        &self,
        (id, name): (&str, &str),
        hash: &[u8; 32],
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO api_key (id, name, hash, created_ms) VALUES (?, ?, ?, ?)")
            .bind(id)
            .bind(name)
            .bind(hash.as_slice())
            .bind(number(now.get()))
            .execute(&self.pool)
            .await
            .map_err(query("store the API key"))?;
        Ok(())
    }

    /// Name and hash of a key.
    pub(crate) async fn api_key(&self, id: &str) -> Result<Option<(String, [u8; 32])>, StoreError> {
        let row: Option<(String, Vec<u8>)> =
            sqlx::query_as("SELECT name, hash FROM api_key WHERE id = ?")
                .bind(id)
                .fetch_optional(&self.pool)
                .await
                .map_err(query("read the API key"))?;
        let Some((name, hash)) = row else { return Ok(None) };
        let hash = hash.try_into().map_err(|_| StoreError::Damaged("API key"))?;
        Ok(Some((name, hash)))
    }
}
