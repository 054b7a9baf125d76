//! Whose turn it is: who holds an offer, who waits for it, and who came in vain.
//!
//! Waiting is short and a proof is long, so that a line alone is not fair: whoever comes at the wrong moment would find the
//! offer taken each time. So it is remembered who was turned away, and since when. Whoever was served in the meantime gives
//! way to them until they were served too, or did not come again for [`TURNED_AWAY_MILLIS`]. Since being served ends what is
//! remembered, two never give way to each other, and nobody is served twice while somebody else keeps coming in vain.

use nicompute_market::{Hotkey, Lease, LeaseId, OfferId, Purpose, UnixMillis};
use sqlx::{Row as _, SqliteConnection};

use super::leases::HELD;
use super::rows::{self, Columns, number};
use super::{Store, StoreError, Tx, query};

/// How long somebody who was turned away is remembered. Validators come again after ten minutes.
pub(crate) const TURNED_AWAY_MILLIS: u64 = 30 * 60 * 1000;
/// Whoever comes again and again is written down once in so long.
const NOTED_EVERY_MILLIS: u64 = 10_000;

/// The lease that holds an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) lease: LeaseId,
    pub(crate) holder: Hotkey,
    pub(crate) purpose: Purpose,
    pub(crate) is_ending: bool,
    /// When it was given the offer.
    pub(crate) granted_at: UnixMillis,
}

/// A lease that waits for its offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: LeaseId,
    pub(crate) holder: Hotkey,
    pub(crate) purpose: Purpose,
    pub(crate) requested_at: UnixMillis,
    /// When this holder was last given a proof lease here, whatever became of it.
    pub(crate) served_at: Option<UnixMillis>,
    /// Whether somebody else was turned away before this holder was last served, and comes again.
    pub(crate) gives_way: bool,
}

// === impl Holding ===

impl Holding {
    /// Whether it is over soon, so that others may wait for it: a proof, or a lease that is being cleared away.
    pub(crate) fn is_short(&self) -> bool {
        self.is_ending || self.purpose == Purpose::Proof
    }
}

// === impl Store ===

impl Store {
    /// Which lease holds the offer, and what for.
    pub(crate) async fn holder_of(&self, offer: &OfferId) -> Result<Option<Holding>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(query("reach the store"))?;
        holder(&mut connection, offer).await
    }

    /// Who waits for an offer.
    pub(crate) async fn waiting(
        &self,
        offer: &OfferId,
        now: UnixMillis,
    ) -> Result<Vec<Waiting>, StoreError> {
        let sql = format!(
            "SELECT id, holder, purpose, requested_at_ms,
                    (SELECT max(before.granted_at_ms) FROM lease before
                     WHERE before.holder = lease.holder AND before.purpose = 'proof'
                       AND before.granted_at_ms IS NOT NULL) AS served_at_ms,
                    {} AS gives_way
             FROM lease WHERE offer = ?1 AND state = 'requested' ORDER BY requested_at_ms, id",
            gives_way("lease.holder")
        );
        let rows = sqlx::query(&sql)
            .bind(offer.as_str())
            .bind(number(now.get(), "time")?)
            .bind(number(remembered_since(now), "time")?)
            .fetch_all(&self.pool)
            .await
            .map_err(query("list who waits for the offer"))?;
        rows.iter().map(rows::waiting_from_row).collect()
    }

    /// Remembers that a proof found its offer taken, since it was asked for.
    pub(crate) async fn turn_away(&self, lease: &Lease, now: UnixMillis) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        if note_turned_away(&mut tx, lease, now).await? {
            self.commit(tx).await?;
        }
        Ok(())
    }
}

/// Whether a request may be stored: its offer is free and it is its turn, or it may wait for it. As many rentals may wait
/// beside as many proofs; no holder has two proofs in line, nor one while another of its own runs.
pub(super) async fn may_ask(
    tx: &mut Tx,
    lease: &Lease,
    waiting_max: u32,
) -> Result<bool, StoreError> {
    let terms = &lease.terms;
    let act = "count who waits for the offer";
    let row = sqlx::query(
        "SELECT count(*) AS waiting, coalesce(sum(purpose = ?2), 0) AS alike,
                coalesce(sum(holder = ?3 AND purpose = 'proof'), 0) AS own
         FROM lease WHERE offer = ?1 AND state = 'requested'",
    )
    .bind(terms.offer.as_str())
    .bind(terms.purpose.as_str())
    .bind(terms.holder.to_string())
    .fetch_one(&mut **tx)
    .await
    .map_err(query(act))?;
    let count = |field| row.try_get::<i64, _>(field).map_err(query(act));
    let (waiting, alike, own) = (count("waiting")?, count("alike")?, count("own")?);
    let held = holder(&mut *tx, &terms.offer).await?;
    if terms.purpose == Purpose::Proof {
        let is_own =
            held.is_some_and(|held| held.holder == terms.holder && !held.is_ending) || own > 0;
        if is_own || must_give_way(tx, lease).await? {
            return Ok(false);
        }
    }
    let may_wait = alike < i64::from(waiting_max);
    Ok(match held {
        None => waiting == 0 || may_wait,
        Some(held) => held.is_short() && may_wait,
    })
}

/// Writes down that a proof's holder came in vain. Gives whether there was something to write: not where a proof of its own
/// is there, and not at every try.
pub(super) async fn note_turned_away(
    tx: &mut Tx,
    lease: &Lease,
    now: UnixMillis,
) -> Result<bool, StoreError> {
    let terms = &lease.terms;
    if terms.purpose != Purpose::Proof || has_proof(tx, lease).await? {
        return Ok(false);
    }
    let act = "remember who was turned away";
    let (at, since) = (number(now.get(), "time")?, number(remembered_since(now), "time")?);
    sqlx::query("DELETE FROM turned_away WHERE last_at_ms NOT BETWEEN ? AND ?")
        .bind(since)
        .bind(at)
        .execute(&mut **tx)
        .await
        .map_err(query(act))?;
    sqlx::query(
        "INSERT INTO turned_away (offer, holder, first_at_ms, last_at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (offer, holder) DO UPDATE
         SET first_at_ms = min(first_at_ms, excluded.first_at_ms), last_at_ms = excluded.last_at_ms
         WHERE last_at_ms <= ?5",
    )
    .bind(terms.offer.as_str())
    .bind(terms.holder.to_string())
    .bind(number(lease.requested_at.get().min(now.get()), "time")?)
    .bind(at)
    .bind(number(now.get().saturating_sub(NOTED_EVERY_MILLIS), "time")?)
    .execute(&mut **tx)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(query(act))
}

/// Whoever is served was not turned away.
pub(super) async fn forget_turned_away(tx: &mut Tx, lease: &Lease) -> Result<(), StoreError> {
    if lease.terms.purpose != Purpose::Proof {
        return Ok(());
    }
    sqlx::query("DELETE FROM turned_away WHERE offer = ? AND holder = ?")
        .bind(lease.terms.offer.as_str())
        .bind(lease.terms.holder.to_string())
        .execute(&mut **tx)
        .await
        .map(drop)
        .map_err(query("forget who was turned away"))
}

/// Whether this holder has another proof of the offer, in line or at work.
async fn has_proof(tx: &mut Tx, lease: &Lease) -> Result<bool, StoreError> {
    sqlx::query(
        "SELECT 1 FROM lease WHERE offer = ? AND holder = ? AND id <> ? AND purpose = 'proof'
           AND state IN ('requested', 'reserved', 'preparing', 'running', 'paused') LIMIT 1",
    )
    .bind(lease.terms.offer.as_str())
    .bind(lease.terms.holder.to_string())
    .bind(lease.terms.id.to_string())
    .fetch_optional(&mut **tx)
    .await
    .map(|row| row.is_some())
    .map_err(query("look for the holder's proofs"))
}

async fn must_give_way(tx: &mut Tx, lease: &Lease) -> Result<bool, StoreError> {
    let now = lease.requested_at;
    let act = "look who was turned away";
    let row = sqlx::query(&format!("SELECT {} AS gives_way", gives_way("?4")))
        .bind(lease.terms.offer.as_str())
        .bind(number(now.get(), "time")?)
        .bind(number(remembered_since(now), "time")?)
        .bind(lease.terms.holder.to_string())
        .fetch_one(&mut **tx)
        .await
        .map_err(query(act))?;
    row.try_get("gives_way").map_err(query(act))
}

/// Of `?1` (the offer), `?2` (now), `?3` (since when it is remembered) and a holder.
fn gives_way(holder: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM turned_away away
                 WHERE away.offer = ?1 AND away.holder <> {holder}
                   AND away.last_at_ms BETWEEN ?3 AND ?2
                   AND away.first_at_ms <= (SELECT max(mine.granted_at_ms) FROM lease mine
                       WHERE mine.offer = ?1 AND mine.holder = {holder} AND mine.purpose = 'proof'
                         AND mine.granted_at_ms IS NOT NULL))"
    )
}

fn remembered_since(now: UnixMillis) -> u64 {
    now.get().saturating_sub(TURNED_AWAY_MILLIS)
}

async fn holder(
    connection: &mut SqliteConnection,
    offer: &OfferId,
) -> Result<Option<Holding>, StoreError> {
    let sql = format!(
        "SELECT id, holder, purpose, state, coalesce(granted_at_ms, requested_at_ms) AS granted_at_ms
         FROM lease WHERE offer = ? AND state IN {HELD}"
    );
    let row = sqlx::query(&sql)
        .bind(offer.as_str())
        .fetch_optional(connection)
        .await
        .map_err(query("look for the offer's holder"))?;
    row.map(|row| {
        let columns = Columns { row: &row, lease: offer.as_str() };
        let state: String = columns.get("state")?;
        Ok(Holding {
            lease: columns.parse("id")?,
            holder: columns.parse("holder")?,
            purpose: columns.parse("purpose")?,
            is_ending: state == "ending",
            granted_at: UnixMillis(columns.number("granted_at_ms")?),
        })
    })
    .transpose()
}
