//! Which outside port leads into which lease: given in the transaction that holds the offer, freed when the lease is over.

use nicompute_market::{Lease, LeaseId, PublishedPort};
use sqlx::Row as _;

use super::{Store, StoreError, Tx, query};
use crate::ports::PortRange;

impl Store {
    /// Gives a lease another outside port for one of its ports, such as when another program has the first. Nothing when
    /// none is left, or the lease has it no more.
    pub(crate) async fn move_port(
        &self,
        lease: LeaseId,
        from: PublishedPort,
        range: Option<PortRange>,
    ) -> Result<Option<PublishedPort>, StoreError> {
        let mut tx = self.begin().await?;
        let Some(port) = free_ports(&mut tx, range, 1).await?.first().copied() else {
            return Ok(None);
        };
        let moved = sqlx::query(
            "UPDATE lease_port SET port = ? WHERE lease = ? AND container_port = ? AND port = ?",
        )
        .bind(port)
        .bind(lease.to_string())
        .bind(from.container_port)
        .bind(from.port)
        .execute(&mut *tx)
        .await
        .map_err(query("move a port of a lease"))?;
        if moved.rows_affected() == 0 {
            return Ok(None);
        }
        self.commit(tx).await?;
        Ok(Some(PublishedPort { port, ..from }))
    }
}

/// Gives a lease its outside ports; nothing where there are not enough.
pub(super) async fn take_ports(
    tx: &mut Tx,
    lease: &Lease,
    range: Option<PortRange>,
) -> Result<Option<Vec<PublishedPort>>, StoreError> {
    let inside = &lease.terms.options.ports;
    if inside.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let free = free_ports(tx, range, inside.len()).await?;
    if free.len() < inside.len() {
        return Ok(None);
    }
    let taken = inside.iter().zip(free);
    let taken =
        taken.map(|(container_port, port)| PublishedPort { container_port: *container_port, port });
    let taken: Vec<_> = taken.collect();
    for port in &taken {
        sqlx::query("INSERT INTO lease_port (port, lease, container_port) VALUES (?, ?, ?)")
            .bind(port.port)
            .bind(lease.terms.id.to_string())
            .bind(port.container_port)
            .execute(&mut **tx)
            .await
            .map_err(query("give a lease a port"))?;
    }
    Ok(Some(taken))
}

/// So many ports of the range that are nobody's, drawn at random: one that was given back is not soon somebody else's,
/// whose server would be asked by the clients of the one before.
async fn free_ports(
    tx: &mut Tx,
    range: Option<PortRange>,
    count: usize,
) -> Result<Vec<u16>, StoreError> {
    let Some(range) = range else { return Ok(Vec::new()) };
    let act = "look for free ports";
    let rows = sqlx::query(
        "WITH RECURSIVE given (port) AS (SELECT ?1 UNION ALL SELECT port + 1 FROM given WHERE port < ?2)
         SELECT port FROM given WHERE port NOT IN (SELECT port FROM lease_port)
         ORDER BY random() LIMIT ?3",
    )
    .bind(range.first())
    .bind(range.last())
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_all(&mut **tx)
    .await
    .map_err(query(act))?;
    rows.iter().map(|row| row.try_get::<u16, _>(0).map_err(query(act))).collect()
}
