//! Proof sessions and their transcripts.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use nicompute_market::{Capability, DeviceKind, Evidence, Hotkey, LeaseId, UnixMillis, Verdict};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError, number, query, unsigned};

/// Sessions of one provider that are kept; only the latest counts, the others are history.
const KEPT_MAX: u32 = 64;

/// A session that has just ended.
#[derive(Debug, Clone)]
pub(crate) struct NewEvidence {
    pub(crate) provider: Hotkey,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) evidence: Evidence,
    /// Why, in words for the operator.
    pub(crate) detail: String,
    /// The signed transcript, where there is one.
    pub(crate) transcript: Option<Vec<u8>>,
}

/// The latest session of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredEvidence {
    pub(crate) evidence: Evidence,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) digest: Option<[u8; 32]>,
}

const COLUMNS: &str = "provider, lease, at_ms, verdict, device, devices, bytes_per_device, ops_per_second, \
     walk_bytes_per_second, digest";

impl Store {
    /// Stores a session: the transcript's file first, then the row that names it.
    pub(crate) async fn add_evidence(
        &self,
        new: &NewEvidence,
    ) -> Result<StoredEvidence, StoreError> {
        let digest = match &new.transcript {
            Some(bytes) => Some(self.write_transcript(bytes)?),
            None => None,
        };
        let shown = match &new.evidence.verdict {
            Verdict::Passed(shown) => Some(shown),
            Verdict::Refused | Verdict::Unreachable => None,
        };
        let insert =
            "INSERT INTO evidence (provider, lease, at_ms, verdict, detail, device, devices,
             bytes_per_device, ops_per_second, walk_bytes_per_second, digest)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let provider = new.provider.to_string();
        sqlx::query(insert)
            .bind(&provider)
            .bind(new.lease.map(|lease| lease.to_string()))
            .bind(number(new.evidence.at.get()))
            .bind(verdict_name(&new.evidence.verdict))
            .bind(&new.detail)
            .bind(shown.map(|shown| device_name(shown.kind)))
            .bind(shown.map(|shown| i64::from(shown.devices)))
            .bind(shown.map(|shown| number(shown.bytes_per_device)))
            .bind(shown.map(|shown| number(shown.ops_per_second)))
            .bind(shown.map(|shown| number(shown.walk_bytes_per_second)))
            .bind(digest.map(Vec::from))
            .execute(&self.pool)
            .await
            .map_err(query("store the evidence"))?;
        self.forget_old(&provider).await?;
        Ok(StoredEvidence { evidence: new.evidence.clone(), lease: new.lease, digest })
    }

    /// Old sessions go, with transcripts that nothing names any more.
    async fn forget_old(&self, provider: &str) -> Result<(), StoreError> {
        let old = "DELETE FROM evidence WHERE provider = ?1 AND id NOT IN
             (SELECT id FROM evidence WHERE provider = ?1 ORDER BY at_ms DESC, id DESC LIMIT ?2)
             RETURNING digest";
        let gone: Vec<Option<Vec<u8>>> = sqlx::query_scalar(old)
            .bind(provider)
            .bind(KEPT_MAX)
            .fetch_all(&self.pool)
            .await
            .map_err(query("forget old evidence"))?;
        for digest in gone.into_iter().flatten() {
            let file = self.transcripts.join(format!("{}.pog", hex::encode(digest)));
            if let Err(error) = std::fs::remove_file(&file) {
                tracing::warn!(file = %file.display(), %error, "an old transcript was not removed");
            }
        }
        Ok(())
    }

    /// The latest session of every provider.
    pub(crate) async fn latest_evidence(
        &self,
    ) -> Result<BTreeMap<Hotkey, StoredEvidence>, StoreError> {
        let latest = format!(
            "SELECT {COLUMNS} FROM evidence AS e WHERE id = (SELECT id FROM evidence
             WHERE provider = e.provider ORDER BY at_ms DESC, id DESC LIMIT 1)"
        );
        let rows = sqlx::query(&latest).fetch_all(&self.pool).await;
        rows.map_err(query("read the evidence"))?.iter().map(from_row).collect()
    }

    /// A signed transcript by its BLAKE3.
    pub(crate) fn transcript(&self, digest: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let file = self.transcript_file(digest);
        match std::fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Transcript { file, source }),
        }
    }

    fn transcript_file(&self, digest: &[u8; 32]) -> PathBuf {
        self.transcripts.join(format!("{}.pog", hex::encode(digest)))
    }

    fn write_transcript(&self, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
        let digest = *blake3::hash(bytes).as_bytes();
        let file = self.transcript_file(&digest);
        let next = file.with_extension("next");
        let written = std::fs::File::create(&next)
            .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
            .and_then(|()| std::fs::rename(&next, &file))
            .and_then(|()| std::fs::File::open(&self.transcripts)?.sync_all());
        written.map_err(|source| StoreError::Transcript { file, source })?;
        Ok(digest)
    }
}

fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed(_) => "passed",
        Verdict::Refused => "refused",
        Verdict::Unreachable => "unreachable",
    }
}

const fn device_name(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Gpu => "gpu",
    }
}

fn from_row(row: &SqliteRow) -> Result<(Hotkey, StoredEvidence), StoreError> {
    const DAMAGED: StoreError = StoreError::Damaged("proof session");
    let text = |column: &str| row.try_get::<Option<String>, _>(column).map_err(|_| DAMAGED);
    let count = |column: &str| {
        let value = row.try_get::<Option<i64>, _>(column).map_err(|_| DAMAGED)?;
        unsigned(value.ok_or(DAMAGED)?)
    };
    let provider: Hotkey = text("provider")?.ok_or(DAMAGED)?.parse().map_err(|_| DAMAGED)?;
    let lease = text("lease")?.map(|lease| lease.parse()).transpose().map_err(|_| DAMAGED)?;
    let verdict = match text("verdict")?.as_deref() {
        Some("passed") => Verdict::Passed(Capability {
            kind: match text("device")?.as_deref() {
                Some("cpu") => DeviceKind::Cpu,
                Some("gpu") => DeviceKind::Gpu,
                _ => return Err(DAMAGED),
            },
            devices: u32::try_from(count("devices")?).map_err(|_| DAMAGED)?,
            bytes_per_device: count("bytes_per_device")?,
            ops_per_second: count("ops_per_second")?,
            walk_bytes_per_second: count("walk_bytes_per_second")?,
        }),
        Some("refused") => Verdict::Refused,
        Some("unreachable") => Verdict::Unreachable,
        _ => return Err(DAMAGED),
    };
    let digest: Option<Vec<u8>> = row.try_get("digest").map_err(|_| DAMAGED)?;
    let digest = digest.map(<[u8; 32]>::try_from).transpose().map_err(|_| DAMAGED)?;
    let evidence = Evidence { at: UnixMillis(count("at_ms")?), verdict };
    Ok((provider, StoredEvidence { evidence, lease, digest }))
}
