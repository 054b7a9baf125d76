//! Verdicts and the transcripts that show them.

use nicompute_market::{
    BlockNumber, Capability, DeviceKind, Evidence, Hotkey, LeaseId, UnixMillis, Verdict,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{
    Store, StoreError, bytes_of, damaged, failed, flag_of, hotkey_of, legs, number_of, stored,
    text_of,
};
use crate::legs::LegFigure;

/// Sessions of one provider that are kept; older ones go, with their transcripts.
pub(super) const EVIDENCE_PER_PROVIDER_MAX: u32 = 200;

/// A verdict as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvidence {
    /// Whose machine.
    pub provider: Hotkey,
    /// The lease that the session ran on, when one was given.
    pub lease: Option<LeaseId>,
    /// The block that was newest then.
    pub block: BlockNumber,
    /// When, and what it came to.
    pub evidence: Evidence,
    /// Whether it was refused for a wrong answer, which no honest machine gives, or for what is as good as one.
    pub is_wrong: bool,
    /// Why, for people.
    pub detail: String,
    /// BLAKE3 of the signed transcript, when there is one.
    pub transcript: Option<[u8; 32]>,
}

/// A verdict to be stored.
#[derive(Debug, Clone)]
pub(crate) struct NewEvidence {
    pub(crate) stored: StoredEvidence,
    pub(crate) transcript: Option<TranscriptBlob>,
    /// What was shown besides, and the transcripts of sessions of their own.
    pub(crate) legs: Vec<LegFigure>,
    pub(crate) leg_transcripts: Vec<TranscriptBlob>,
}

/// A signed transcript under its name.
#[derive(Debug, Clone)]
pub(crate) struct TranscriptBlob {
    pub(crate) hash: [u8; 32],
    pub(crate) bytes: Vec<u8>,
}

impl Store {
    /// Remembers a verdict and forgets the oldest ones of the same provider beyond the limit. Gives the names of the
    /// transcripts that were forgotten with them.
    pub(crate) async fn add_evidence(&self, new: NewEvidence) -> Result<Vec<[u8; 32]>, StoreError> {
        let act = "remember the evidence";
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        for blob in new.transcript.iter().chain(&new.leg_transcripts) {
            sqlx::query(
                "INSERT INTO transcripts (hash, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(blob.hash.as_slice())
            .bind(blob.bytes.as_slice())
            .execute(&mut *tx)
            .await
            .map_err(failed(act))?;
        }
        let id = insert(&mut tx, &new.stored).await.map_err(failed(act))?;
        for leg in &new.legs {
            legs::insert(&mut tx, id, leg).await.map_err(failed(act))?;
        }
        let provider = new.stored.provider.as_bytes().as_slice();
        sqlx::query(
            "DELETE FROM evidence WHERE provider = ?1 AND id NOT IN \
             (SELECT id FROM evidence WHERE provider = ?1 ORDER BY id DESC LIMIT ?2)",
        )
        .bind(provider)
        .bind(i64::from(EVIDENCE_PER_PROVIDER_MAX))
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        let gone = sqlx::query(
            "DELETE FROM transcripts WHERE NOT EXISTS \
             (SELECT 1 FROM evidence WHERE transcript = transcripts.hash) AND NOT EXISTS \
             (SELECT 1 FROM legs WHERE transcript = transcripts.hash) RETURNING hash",
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(act))?;
        tx.commit().await.map_err(failed(act))?;
        gone.iter().map(|row| bytes_of(row, "hash")).collect()
    }

    /// The newest verdict of every provider.
    pub(crate) async fn latest_evidence(&self) -> Result<Vec<StoredEvidence>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM evidence WHERE id IN (SELECT max(id) FROM evidence GROUP BY provider)",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the newest evidence"))?;
        rows.iter().map(evidence_of).collect()
    }

    /// The verdicts of one provider, newest first.
    pub(crate) async fn evidence_of(
        &self,
        provider: &Hotkey,
    ) -> Result<Vec<StoredEvidence>, StoreError> {
        let rows = sqlx::query("SELECT * FROM evidence WHERE provider = ? ORDER BY id DESC")
            .bind(provider.as_bytes().as_slice())
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read the evidence of a provider"))?;
        rows.iter().map(evidence_of).collect()
    }

    /// A signed transcript by its name.
    pub(crate) async fn transcript(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT bytes FROM transcripts WHERE hash = ?")
            .bind(hash.as_slice())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("read a transcript"))?;
        row.map(|row| row.try_get("bytes").map_err(|_| damaged("transcript"))).transpose()
    }
}

async fn insert(
    tx: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    new: &StoredEvidence,
) -> Result<i64, sqlx::Error> {
    let shown = match &new.evidence.verdict {
        Verdict::Passed(shown) => Some(shown),
        Verdict::Refused | Verdict::Unreachable => None,
    };
    sqlx::query(
        "INSERT INTO evidence (provider, lease, at_unix_ms, block, verdict, detail, device_kind, \
         devices, bytes_per_device, ops_per_second, walk_bytes_per_second, transcript, wrong) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.provider.as_bytes().as_slice())
    .bind(new.lease.map(|lease| lease.to_string()))
    .bind(stored(new.evidence.at.get()))
    .bind(stored(new.block.get()))
    .bind(verdict_name(&new.evidence.verdict))
    .bind(&new.detail)
    .bind(shown.map(|shown| kind_name(shown.kind)))
    .bind(shown.map(|shown| i64::from(shown.devices)))
    .bind(shown.map(|shown| stored(shown.bytes_per_device)))
    .bind(shown.map(|shown| stored(shown.ops_per_second)))
    .bind(shown.map(|shown| stored(shown.walk_bytes_per_second)))
    .bind(new.transcript.map(|hash| hash.to_vec()))
    .bind(new.is_wrong)
    .execute(&mut **tx)
    .await
    .map(|done| done.last_insert_rowid())
}

/// The stable name of a verdict.
pub(crate) const fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed(_) => "passed",
        Verdict::Refused => "refused",
        Verdict::Unreachable => "unreachable",
    }
}

const fn kind_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Gpu => "gpu",
    }
}

fn evidence_of(row: &SqliteRow) -> Result<StoredEvidence, StoreError> {
    let verdict = match text_of(row, "verdict")?.as_str() {
        "passed" => Verdict::Passed(capability_of(row)?),
        "refused" => Verdict::Refused,
        "unreachable" => Verdict::Unreachable,
        _ => return Err(damaged("verdict")),
    };
    let lease: Option<String> = row.try_get("lease").map_err(|_| damaged("lease"))?;
    let lease = lease.map(|text| text.parse().map_err(|_| damaged("lease"))).transpose()?;
    let hash: Option<Vec<u8>> = row.try_get("transcript").map_err(|_| damaged("transcript"))?;
    let transcript =
        hash.map(|hash| hash.try_into().map_err(|_| damaged("transcript"))).transpose()?;
    Ok(StoredEvidence {
        provider: hotkey_of(row, "provider")?,
        lease,
        block: BlockNumber(number_of(row, "block")?),
        evidence: Evidence { at: UnixMillis(number_of(row, "at_unix_ms")?), verdict },
        is_wrong: flag_of(row, "wrong")?,
        detail: text_of(row, "detail")?,
        transcript,
    })
}

fn capability_of(row: &SqliteRow) -> Result<Capability, StoreError> {
    let kind = match text_of(row, "device_kind")?.as_str() {
        "cpu" => DeviceKind::Cpu,
        "gpu" => DeviceKind::Gpu,
        _ => return Err(damaged("device kind")),
    };
    Ok(Capability {
        kind,
        devices: u32::try_from(number_of(row, "devices")?).map_err(|_| damaged("devices"))?,
        bytes_per_device: number_of(row, "bytes_per_device")?,
        ops_per_second: number_of(row, "ops_per_second")?,
        walk_bytes_per_second: number_of(row, "walk_bytes_per_second")?,
    })
}
