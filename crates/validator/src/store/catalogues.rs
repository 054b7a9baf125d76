//! Which signed catalogue was used last.

use super::{Store, StoreError, bytes_of, failed, number_of, stored};
use crate::catalogue::CatalogueOrigin;

/// How a signed catalogue relates to the one that was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatalogueStanding {
    /// It is the same or a later one, and is remembered now.
    Accepted,
    /// A later one was used before.
    Older {
        /// The version that was used.
        used: u64,
    },
    /// Another file with the same version was used before.
    Changed,
}

impl Store {
    /// Remembers a signed catalogue, unless an older one or another one of its version is being put back.
    pub(crate) async fn accept_catalogue(
        &self,
        origin: &CatalogueOrigin,
        version: u64,
    ) -> Result<CatalogueStanding, StoreError> {
        let act = "remember the catalogue";
        let signer = origin.signer.as_bytes().as_slice();
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        let used = sqlx::query("SELECT version, digest FROM catalogues WHERE signer = ?")
            .bind(signer)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(act))?;
        if let Some(row) = used {
            let used = number_of(&row, "version")?;
            let digest: [u8; 32] = bytes_of(&row, "digest")?;
            if used > version {
                return Ok(CatalogueStanding::Older { used });
            }
            if used == version && digest != origin.digest {
                return Ok(CatalogueStanding::Changed);
            }
        }
        sqlx::query(
            "INSERT INTO catalogues (signer, version, digest) VALUES (?, ?, ?) \
             ON CONFLICT (signer) DO UPDATE SET version = excluded.version, digest = excluded.digest",
        )
        .bind(signer)
        .bind(stored(version))
        .bind(origin.digest.as_slice())
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        tx.commit().await.map_err(failed(act))?;
        Ok(CatalogueStanding::Accepted)
    }
}
