//! Leases that were brokered for renters.

use std::net::SocketAddr;

use nicompute_market::{Hotkey, LeaseId, LeaseState, MicroUsd, OfferId, UnixMillis};
use nicompute_wire::node::{LeaseRequest, PublishedPortView, SshAccessView};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::owed::{OwedRelease, owe};
use super::{
    Store, StoreError, bytes_of, damaged, failed, flag_of, hotkey_of, lease_of, number_of, stored,
    text_of,
};

/// Rentals of one owner that are kept; the oldest of those that are over go first.
const RENTALS_KEPT_PER_OWNER_MAX: u32 = 1_000;

/// A rental as it is stored.
#[expect(
    clippy::struct_excessive_bools,
    reason = "three facts of a row that hold or not independently"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rental {
    pub(crate) lease: LeaseId,
    /// The API key that rented it.
    pub(crate) owner: String,
    pub(crate) provider: Hotkey,
    /// Where the provider was when it was rented.
    pub(crate) address: SocketAddr,
    pub(crate) offer: OfferId,
    /// Hash of the words in which it was asked for.
    pub(crate) words: [u8; 32],
    /// What the provider is asked, word for word, until it has accepted.
    pub(crate) request: LeaseRequest,
    pub(crate) price_per_hour: MicroUsd,
    pub(crate) requested_at: UnixMillis,
    pub(crate) expires_at: UnixMillis,
    pub(crate) state: LeaseState,
    /// Whether the provider has taken the request.
    pub(crate) is_accepted: bool,
    /// Whether its owner gave it back.
    pub(crate) is_release_asked: bool,
    /// Whether the provider could be asked the last time.
    pub(crate) is_known: bool,
    pub(crate) ssh: Option<SshAccessView>,
    /// Where its ports are reached.
    pub(crate) ports: Vec<PublishedPortView>,
    /// What the provider last said about how it came to stand where it stands.
    pub(crate) detail: Option<String>,
}

/// What became of a request for a rental.
#[derive(Debug)]
pub(crate) enum Inserted {
    /// Stored now.
    New,
    /// The id was there already.
    Known(Box<Rental>),
    /// The id is that of a lease of this validator's own.
    Taken,
    /// Its owner has as many open rentals as one may have.
    TooMany,
}

/// What the provider last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RentalUpdate {
    pub(crate) state: LeaseState,
    /// On this validator's clock; an end is only ever moved on, so that what was read before an extension undoes nothing.
    pub(crate) expires_at: UnixMillis,
    pub(crate) is_accepted: bool,
    pub(crate) ssh: Option<SshAccessView>,
    pub(crate) ports: Vec<PublishedPortView>,
    pub(crate) detail: Option<String>,
}

impl Rental {
    /// Whether its provider last said that the renter has the machine, and can still be asked.
    pub(crate) const fn holds_machine(&self) -> bool {
        self.is_known && matches!(self.state, LeaseState::Running | LeaseState::Paused)
    }

    /// Whether its provider has taken it, and it is not over.
    pub(crate) const fn is_taken(&self) -> bool {
        self.is_accepted && !self.state.is_final()
    }

    /// Whether its provider is still to be asked for it.
    pub(crate) const fn is_wanted(&self) -> bool {
        !self.is_accepted && !self.is_release_asked && !self.state.is_final()
    }
}

impl Store {
    /// Stores a rental before its provider is asked.
    pub(crate) async fn add_rental(
        &self,
        rental: &Rental,
        open_max: u32,
    ) -> Result<Inserted, StoreError> {
        if let Some(known) = self.rental(rental.lease).await? {
            return Ok(Inserted::Known(Box::new(known)));
        }
        let act = "store a rental";
        let request = serde_json::to_string(&rental.request).map_err(|_| damaged("request"))?;
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        let taken = sqlx::query("SELECT 1 FROM proof_leases WHERE lease = ?")
            .bind(rental.lease.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(act))?;
        if taken.is_some() {
            return Ok(Inserted::Taken);
        }
        let done = sqlx::query(
            "INSERT INTO rentals (lease, owner, provider, address, offer, words, request, \
             price_micro_usd_per_hour, requested_at_unix_ms, expires_at_unix_ms, state) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE (SELECT count(*) FROM rentals \
             WHERE owner = ?2 AND state NOT IN ('ended', 'failed')) < ?12",
        )
        .bind(rental.lease.to_string())
        .bind(&rental.owner)
        .bind(rental.provider.as_bytes().as_slice())
        .bind(rental.address.to_string())
        .bind(rental.offer.as_str())
        .bind(rental.words.as_slice())
        .bind(request)
        .bind(stored(rental.price_per_hour.get()))
        .bind(stored(rental.requested_at.get()))
        .bind(stored(rental.expires_at.get()))
        .bind(rental.state.name())
        .bind(i64::from(open_max))
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        sqlx::query(
            "DELETE FROM rentals WHERE owner = ?1 AND state IN ('ended', 'failed') AND lease NOT IN \
             (SELECT lease FROM rentals WHERE owner = ?1 ORDER BY requested_at_unix_ms DESC LIMIT ?2)",
        )
        .bind(&rental.owner)
        .bind(i64::from(RENTALS_KEPT_PER_OWNER_MAX))
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        tx.commit().await.map_err(failed(act))?;
        Ok(if done.rows_affected() == 1 { Inserted::New } else { Inserted::TooMany })
    }

    /// One rental, whoever owns it.
    pub(crate) async fn rental(&self, lease: LeaseId) -> Result<Option<Rental>, StoreError> {
        let row = sqlx::query("SELECT * FROM rentals WHERE lease = ?")
            .bind(lease.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("read a rental"))?;
        row.as_ref().map(rental_of).transpose()
    }

    /// The rentals of one owner, newest first.
    pub(crate) async fn rentals_of(&self, owner: &str) -> Result<Vec<Rental>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM rentals WHERE owner = ? ORDER BY requested_at_unix_ms DESC")
                .bind(owner)
                .fetch_all(&self.pool)
                .await
                .map_err(failed("read the rentals of an owner"))?;
        rows.iter().map(rental_of).collect()
    }

    /// Every rental that is not over.
    pub(crate) async fn open_rentals(&self) -> Result<Vec<Rental>, StoreError> {
        let rows = sqlx::query("SELECT * FROM rentals WHERE state NOT IN ('ended', 'failed')")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read the open rentals"))?;
        rows.iter().map(rental_of).collect()
    }

    /// Writes down what the provider said, unless the rental is over already. Gives whether it was not.
    pub(crate) async fn update_rental(
        &self,
        lease: LeaseId,
        update: &RentalUpdate,
    ) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(failed("reach the store"))?;
        write_update(&mut connection, lease, update).await
    }

    /// The same for one that its provider refused and may have taken before: it is owed to be given back from then on.
    pub(crate) async fn give_up_rental(
        &self,
        update: &RentalUpdate,
        owed: &OwedRelease,
    ) -> Result<bool, StoreError> {
        let act = "give up a rental";
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        let is_written = write_update(&mut tx, owed.lease, update).await?;
        owe(&mut tx, owed).await?;
        tx.commit().await.map_err(failed(act))?;
        Ok(is_written)
    }

    /// Opens a rental again that was believed to be over and that its provider has after all: to be given back.
    pub(crate) async fn reopen_rental(
        &self,
        lease: LeaseId,
        state: LeaseState,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rentals SET state = ?, reason = ?, is_known = 1, is_accepted = 1, \
             is_release_asked = 1 WHERE lease = ?",
        )
        .bind(state.name())
        .bind(state.reason())
        .bind(lease.to_string())
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(failed("open a rental again"))
    }

    /// Writes down that the provider could not be asked.
    pub(crate) async fn lose_sight_of_rental(&self, lease: LeaseId) -> Result<(), StoreError> {
        sqlx::query("UPDATE rentals SET is_known = 0 WHERE lease = ?")
            .bind(lease.to_string())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed("update a rental"))
    }

    /// Writes down that its owner gave it back.
    pub(crate) async fn ask_release(&self, lease: LeaseId) -> Result<(), StoreError> {
        sqlx::query("UPDATE rentals SET is_release_asked = 1 WHERE lease = ?")
            .bind(lease.to_string())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed("release a rental"))
    }
}

async fn write_update(
    connection: &mut SqliteConnection,
    lease: LeaseId,
    update: &RentalUpdate,
) -> Result<bool, StoreError> {
    let ssh = update.ssh.as_ref().map(serde_json::to_string).transpose();
    let ports = serde_json::to_string(&update.ports).map_err(|_| damaged("ports"))?;
    sqlx::query(
        "UPDATE rentals SET state = ?, reason = ?, expires_at_unix_ms = max(expires_at_unix_ms, ?), \
         ssh = ?, ports = ?, detail = ?, is_known = 1, is_accepted = max(is_accepted, ?) \
         WHERE lease = ? AND state NOT IN ('ended', 'failed')",
    )
    .bind(update.state.name())
    .bind(update.state.reason())
    .bind(stored(update.expires_at.get()))
    .bind(ssh.map_err(|_| damaged("SSH access"))?)
    .bind(ports)
    .bind(&update.detail)
    .bind(i64::from(update.is_accepted))
    .bind(lease.to_string())
    .execute(connection)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(failed("update a rental"))
}

fn rental_of(row: &SqliteRow) -> Result<Rental, StoreError> {
    let reason: Option<String> = row.try_get("reason").map_err(|_| damaged("reason"))?;
    let state = LeaseState::from_names(&text_of(row, "state")?, reason.as_deref());
    let ssh: Option<String> = row.try_get("ssh").map_err(|_| damaged("SSH access"))?;
    let ssh = ssh.map(|text| serde_json::from_str(&text)).transpose();
    let request = text_of(row, "request")?;
    Ok(Rental {
        lease: lease_of(row, "lease")?,
        owner: text_of(row, "owner")?,
        provider: hotkey_of(row, "provider")?,
        address: text_of(row, "address")?.parse().map_err(|_| damaged("address"))?,
        offer: text_of(row, "offer")?.parse().map_err(|_| damaged("offer"))?,
        words: bytes_of(row, "words")?,
        request: serde_json::from_str(&request).map_err(|_| damaged("request"))?,
        price_per_hour: MicroUsd(number_of(row, "price_micro_usd_per_hour")?),
        requested_at: UnixMillis(number_of(row, "requested_at_unix_ms")?),
        expires_at: UnixMillis(number_of(row, "expires_at_unix_ms")?),
        state: state.ok_or_else(|| damaged("state"))?,
        is_accepted: flag_of(row, "is_accepted")?,
        is_release_asked: flag_of(row, "is_release_asked")?,
        is_known: flag_of(row, "is_known")?,
        ssh: ssh.map_err(|_| damaged("SSH access"))?,
        ports: serde_json::from_str(&text_of(row, "ports")?).map_err(|_| damaged("ports"))?,
        detail: row.try_get("detail").map_err(|_| damaged("detail"))?,
    })
}
