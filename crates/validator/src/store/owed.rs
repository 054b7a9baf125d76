//! Orders that were given up and may have been taken all the same: to be given back.

use std::net::SocketAddr;

use nicompute_market::{Hotkey, LeaseId, UnixMillis};
use sqlx::SqliteConnection;

use super::{Store, StoreError, damaged, failed, hotkey_of, lease_of, number_of, stored, text_of};

/// Releases that are owed at once; of more, the oldest are left to the ends of their leases.
const OWED_MAX: u32 = 10_000;

/// A lease that nobody wants any more, and that its provider may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwedRelease {
    pub(crate) lease: LeaseId,
    pub(crate) provider: Hotkey,
    /// Where the provider was when it was asked.
    pub(crate) address: SocketAddr,
    /// When the order was given up.
    pub(crate) since: UnixMillis,
    /// When it is over by itself, if it was taken.
    pub(crate) until: UnixMillis,
    /// How often its provider was told so far.
    pub(crate) tries: u32,
}

impl Store {
    /// What is to be given back now, the longest due first.
    pub(crate) async fn owed_releases(
        &self,
        now: UnixMillis,
        most: u32,
    ) -> Result<Vec<OwedRelease>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM owed_releases WHERE next_at_unix_ms <= ? ORDER BY next_at_unix_ms LIMIT ?",
        )
        .bind(stored(now.get()))
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the owed releases"))?;
        let one = |row| {
            Ok(OwedRelease {
                lease: lease_of(row, "lease")?,
                provider: hotkey_of(row, "provider")?,
                address: text_of(row, "address")?.parse().map_err(|_| damaged("address"))?,
                since: UnixMillis(number_of(row, "since_unix_ms")?),
                until: UnixMillis(number_of(row, "until_unix_ms")?),
                tries: u32::try_from(number_of(row, "tries")?).unwrap_or(u32::MAX),
            })
        };
        rows.iter().map(one).collect()
    }

    /// It is tried again then.
    pub(crate) async fn put_off_release(
        &self,
        lease: LeaseId,
        next_at: UnixMillis,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE owed_releases SET tries = tries + 1, next_at_unix_ms = ? WHERE lease = ?",
        )
        .bind(stored(next_at.get()))
        .bind(lease.to_string())
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(failed("put off a release"))
    }

    /// Nothing of it is left.
    pub(crate) async fn forget_owed_release(&self, lease: LeaseId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM owed_releases WHERE lease = ?")
            .bind(lease.to_string())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed("forget a release"))
    }
}

/// Writes down that a lease is to be given back from now on.
pub(super) async fn owe(
    connection: &mut SqliteConnection,
    owed: &OwedRelease,
) -> Result<(), StoreError> {
    let act = "owe a release";
    sqlx::query(
        "INSERT OR IGNORE INTO owed_releases (lease, provider, address, since_unix_ms, \
         until_unix_ms, next_at_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?4)",
    )
    .bind(owed.lease.to_string())
    .bind(owed.provider.as_bytes().as_slice())
    .bind(owed.address.to_string())
    .bind(stored(owed.since.get()))
    .bind(stored(owed.until.get()))
    .execute(&mut *connection)
    .await
    .map_err(failed(act))?;
    sqlx::query(
        "DELETE FROM owed_releases WHERE lease IN (SELECT lease FROM owed_releases \
         ORDER BY since_unix_ms DESC, lease LIMIT -1 OFFSET ?)",
    )
    .bind(i64::from(OWED_MAX))
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed(act))
}
