//! Leases for proofs that were asked for and not yet seen to be over.

use std::net::SocketAddr;

use nicompute_market::{Hotkey, LeaseId, UnixMillis};

use super::{Store, StoreError, damaged, failed, hotkey_of, lease_of, number_of, stored, text_of};

/// A lease that must be given back, whatever happens to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProofLease {
    pub(crate) lease: LeaseId,
    pub(crate) provider: Hotkey,
    pub(crate) address: SocketAddr,
    pub(crate) begun_at: UnixMillis,
    /// When it ends by itself at the latest.
    pub(crate) expires_at: UnixMillis,
}

impl Store {
    /// Remembers a lease before it is asked for.
    pub(crate) async fn add_proof_lease(&self, lease: &ProofLease) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO proof_leases (lease, provider, address, begun_at_unix_ms, \
             expires_at_unix_ms) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(lease.lease.to_string())
        .bind(lease.provider.as_bytes().as_slice())
        .bind(lease.address.to_string())
        .bind(stored(lease.begun_at.get()))
        .bind(stored(lease.expires_at.get()))
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(failed("remember a proof lease"))
    }

    /// Forgets a lease that is over.
    pub(crate) async fn forget_proof_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM proof_leases WHERE lease = ?")
            .bind(lease.to_string())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed("forget a proof lease"))
    }

    /// Every lease that is not known to be over, oldest first.
    pub(crate) async fn proof_leases(&self) -> Result<Vec<ProofLease>, StoreError> {
        let rows = sqlx::query("SELECT * FROM proof_leases ORDER BY begun_at_unix_ms")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read the proof leases"))?;
        let one = |row| {
            Ok(ProofLease {
                lease: lease_of(row, "lease")?,
                provider: hotkey_of(row, "provider")?,
                address: text_of(row, "address")?.parse().map_err(|_| damaged("address"))?,
                begun_at: UnixMillis(number_of(row, "begun_at_unix_ms")?),
                expires_at: UnixMillis(number_of(row, "expires_at_unix_ms")?),
            })
        };
        rows.iter().map(one).collect()
    }
}
