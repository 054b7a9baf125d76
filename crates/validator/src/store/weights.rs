//! The weights that were set.

use nicompute_market::{BlockNumber, Uid, UnixMillis};

use super::{Store, StoreError, number, query, unsigned};

/// Settings that are kept.
const KEPT_MAX: u32 = 1_000;

/// Weights as they were set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WeightsSet {
    pub(crate) block: BlockNumber,
    pub(crate) weights: Vec<(Uid, u16)>,
}

impl Store {
    /// Notes that these weights are on chain.
    pub(crate) async fn add_weights(
        &self,
        set: &WeightsSet,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let pairs: Vec<(u16, u16)> = set.weights.iter().map(|(uid, w)| (uid.get(), *w)).collect();
        let text = serde_json::to_string(&pairs).map_err(|_| StoreError::Damaged("weight"))?;
        sqlx::query("INSERT INTO weights_set (block, at_ms, weights) VALUES (?, ?, ?)")
            .bind(number(set.block.get()))
            .bind(number(now.get()))
            .bind(text)
            .execute(&self.pool)
            .await
            .map_err(query("note the weights"))?;
        sqlx::query("DELETE FROM weights_set WHERE id <= (SELECT max(id) FROM weights_set) - ?")
            .bind(KEPT_MAX)
            .execute(&self.pool)
            .await
            .map_err(query("forget old weights"))?;
        Ok(())
    }

    /// The weights that were set last.
    pub(crate) async fn last_weights(&self) -> Result<Option<WeightsSet>, StoreError> {
        let row: Option<(i64, String)> =
            sqlx::query_as("SELECT block, weights FROM weights_set ORDER BY id DESC LIMIT 1")
                .fetch_optional(&self.pool)
                .await
                .map_err(query("read the weights"))?;
        let Some((block, text)) = row else { return Ok(None) };
        let pairs: Vec<(u16, u16)> =
            serde_json::from_str(&text).map_err(|_| StoreError::Damaged("weight"))?;
        let weights = pairs.into_iter().map(|(uid, weight)| (Uid(uid), weight)).collect();
        Ok(Some(WeightsSet { block: BlockNumber(unsigned(block)?), weights }))
    }
}
