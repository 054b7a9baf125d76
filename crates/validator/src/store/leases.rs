//! Leases that this validator holds with providers: for its own proofs, and for renters.

use std::net::SocketAddr;

use nicompute_market::{Hotkey, LeaseId, UnixMillis};
use nicompute_wire::market_api::RentRequest;
use nicompute_wire::node::SshAccessView;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, number, query, unsigned};

/// Rentals of one key that are shown at once, newest first.
const SHOWN_MAX: u32 = 1_000;

/// A lease for a proof that is not given back yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProofLease {
    pub(crate) lease: LeaseId,
    pub(crate) provider: Hotkey,
    pub(crate) address: SocketAddr,
    pub(crate) asked: UnixMillis,
}

/// A lease that was brokered for a renter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rental {
    pub(crate) principal: String,
    pub(crate) address: SocketAddr,
    pub(crate) request: RentRequest,
    pub(crate) price: u64,
    /// The provider's state of it, by name.
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) requested: UnixMillis,
    pub(crate) expires: UnixMillis,
    pub(crate) ssh: Option<SshAccessView>,
    /// The renter gave it back; the provider may not know yet.
    pub(crate) release_asked: bool,
}

impl Rental {
    /// Ended and failed are final.
    pub(crate) fn is_final(&self) -> bool {
        matches!(&*self.state, "ended" | "failed")
    }
}

const RENTAL: &str = "principal, address, request, price, state, reason, requested_ms, expires_ms, ssh, release_asked";

impl Store {
    /// Notes a lease before its provider is asked.
    pub(crate) async fn add_proof_lease(&self, lease: &ProofLease) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO proof_lease (lease, provider, address, asked_ms) VALUES (?, ?, ?, ?)",
        )
        .bind(lease.lease.to_string())
        .bind(lease.provider.to_string())
        .bind(lease.address.to_string())
        .bind(number(lease.asked.get()))
        .execute(&self.pool)
        .await
        .map_err(query("note the lease for a proof"))?;
        Ok(())
    }

    /// The lease is given back.
    pub(crate) async fn remove_proof_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM proof_lease WHERE lease = ?")
            .bind(lease.to_string())
            .execute(&self.pool)
            .await
            .map_err(query("forget the lease for a proof"))?;
        Ok(())
    }

    /// Every lease that is not given back yet.
    pub(crate) async fn proof_leases(&self) -> Result<Vec<ProofLease>, StoreError> {
        let rows = sqlx::query("SELECT lease, provider, address, asked_ms FROM proof_lease")
            .fetch_all(&self.pool)
            .await
            .map_err(query("list the leases for proofs"))?;
        rows.iter().map(proof_lease).collect()
    }

    /// Notes a rental before its provider is asked. Returns whether the id was free.
    pub(crate) async fn add_rental(&self, rental: &Rental) -> Result<bool, StoreError> {
        let request = serde_json::to_string(&rental.request).map_err(|_| DAMAGED)?;
        let insert =
            "INSERT OR IGNORE INTO rental (lease, principal, provider, address, request, price,
             state, requested_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let done = sqlx::query(insert)
            .bind(rental.request.id.to_string())
            .bind(&rental.principal)
            .bind(rental.request.provider.to_string())
            .bind(rental.address.to_string())
            .bind(request)
            .bind(number(rental.price))
            .bind(&rental.state)
            .bind(number(rental.requested.get()))
            .bind(number(rental.expires.get()))
            .execute(&self.pool)
            .await
            .map_err(query("note the rental"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes what the provider says of a rental. A final state stays.
    pub(crate) async fn update_rental(&self, rental: &Rental) -> Result<(), StoreError> {
        let ssh =
            rental.ssh.as_ref().map(serde_json::to_string).transpose().map_err(|_| DAMAGED)?;
        let update =
            "UPDATE rental SET state = ?, reason = ?, expires_ms = max(?, requested_ms), ssh = ?,
             release_asked = max(release_asked, ?)
             WHERE lease = ? AND state NOT IN ('ended', 'failed')";
        sqlx::query(update)
            .bind(&rental.state)
            .bind(&rental.reason)
            .bind(number(rental.expires.get()))
            .bind(ssh)
            .bind(rental.release_asked)
            .bind(rental.request.id.to_string())
            .execute(&self.pool)
            .await
            .map_err(query("note the state of the rental"))?;
        Ok(())
    }

    /// One rental.
    pub(crate) async fn rental(&self, lease: LeaseId) -> Result<Option<Rental>, StoreError> {
        let sql = format!("SELECT {RENTAL} FROM rental WHERE lease = ?");
        let row = sqlx::query(&sql).bind(lease.to_string()).fetch_optional(&self.pool).await;
        row.map_err(query("read the rental"))?.as_ref().map(rental).transpose()
    }

    /// The rentals of one key, newest first.
    pub(crate) async fn rentals_of(&self, principal: &str) -> Result<Vec<Rental>, StoreError> {
        let sql = format!(
            "SELECT {RENTAL} FROM rental WHERE principal = ? ORDER BY requested_ms DESC LIMIT {SHOWN_MAX}"
        );
        let rows = sqlx::query(&sql).bind(principal).fetch_all(&self.pool).await;
        rows.map_err(query("list the rentals"))?.iter().map(rental).collect()
    }

    /// Every rental that is not over.
    pub(crate) async fn open_rentals(&self) -> Result<Vec<Rental>, StoreError> {
        let sql = format!("SELECT {RENTAL} FROM rental WHERE state NOT IN ('ended', 'failed')");
        let rows = sqlx::query(&sql).fetch_all(&self.pool).await;
        rows.map_err(query("list the open rentals"))?.iter().map(rental).collect()
    }
}

const DAMAGED: StoreError = StoreError::Damaged("lease");

fn parsed<T: std::str::FromStr>(row: &SqliteRow, column: &str) -> Result<T, StoreError> {
    let text: String = row.try_get(column).map_err(|_| DAMAGED)?;
    text.parse().map_err(|_| DAMAGED)
}

fn count(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    unsigned(row.try_get(column).map_err(|_| DAMAGED)?)
}

fn proof_lease(row: &SqliteRow) -> Result<ProofLease, StoreError> {
    Ok(ProofLease {
        lease: parsed(row, "lease")?,
        provider: parsed(row, "provider")?,
        address: parsed(row, "address")?,
        asked: UnixMillis(count(row, "asked_ms")?),
    })
}

fn rental(row: &SqliteRow) -> Result<Rental, StoreError> {
    let request: String = row.try_get("request").map_err(|_| DAMAGED)?;
    let ssh: Option<String> = row.try_get("ssh").map_err(|_| DAMAGED)?;
    let ssh = ssh.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| DAMAGED)?;
    Ok(Rental {
        principal: row.try_get("principal").map_err(|_| DAMAGED)?,
        address: parsed(row, "address")?,
        request: serde_json::from_str(&request).map_err(|_| DAMAGED)?,
        price: count(row, "price")?,
        state: row.try_get("state").map_err(|_| DAMAGED)?,
        reason: row.try_get("reason").map_err(|_| DAMAGED)?,
        requested: UnixMillis(count(row, "requested_ms")?),
        expires: UnixMillis(count(row, "expires_ms")?),
        ssh,
        release_asked: row.try_get("release_asked").map_err(|_| DAMAGED)?,
    })
}
