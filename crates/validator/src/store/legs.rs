//! What rounds showed besides the plot and its walks.

use std::collections::BTreeMap;

use nicompute_market::Hotkey;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, damaged, failed, hotkey_of, number_of, stored, text_of};
use crate::legs::LegFigure;

/// The names that are stored.
const NAMES: [&str; 7] = ["link", "copy", "net-down", "net-up", "ram", "disk", "disk-random"];

impl Store {
    /// The legs of the newest verdict of every provider.
    pub(crate) async fn latest_legs(&self) -> Result<BTreeMap<Hotkey, Vec<LegFigure>>, StoreError> {
        let rows = sqlx::query(
            "SELECT legs.*, evidence.provider FROM legs JOIN evidence ON evidence.id = legs.evidence \
             WHERE evidence.id IN (SELECT max(id) FROM evidence GROUP BY provider) \
             ORDER BY legs.rowid",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the newest legs"))?;
        let mut legs: BTreeMap<Hotkey, Vec<LegFigure>> = BTreeMap::new();
        for row in &rows {
            legs.entry(hotkey_of(row, "provider")?).or_default().push(leg_of(row)?);
        }
        Ok(legs)
    }
}

pub(super) async fn insert(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    evidence: i64,
    leg: &LegFigure,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO legs (evidence, leg, bytes, bytes_per_second, reason, transcript) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(evidence)
    .bind(leg.leg)
    .bind(stored(leg.bytes))
    .bind(stored(leg.bytes_per_second))
    .bind(leg.reason.as_deref())
    .bind(leg.transcript.map(|hash| hash.to_vec()))
    .execute(&mut **tx)
    .await
    .map(drop)
}

fn leg_of(row: &SqliteRow) -> Result<LegFigure, StoreError> {
    let name = text_of(row, "leg")?;
    let leg = NAMES.into_iter().find(|known| *known == name).ok_or_else(|| damaged("leg"))?;
    let hash: Option<Vec<u8>> = row.try_get("transcript").map_err(|_| damaged("transcript"))?;
    let transcript =
        hash.map(|hash| hash.try_into().map_err(|_| damaged("transcript"))).transpose()?;
    Ok(LegFigure {
        leg,
        bytes: number_of(row, "bytes")?,
        bytes_per_second: number_of(row, "bytes_per_second")?,
        reason: row.try_get("reason").map_err(|_| damaged("reason"))?,
        transcript,
    })
}
