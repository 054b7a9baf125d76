//! Transcripts as files beside the store, for whoever wants to check one with nothing but `nicompute verify`.
//!
//! The store is the truth; a file that cannot be written is logged and lost.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::store::TranscriptBlob;

/// The ending of a transcript's file.
const EXTENSION: &str = "pog";

/// Writes the file of a transcript.
pub(crate) async fn keep(dir: PathBuf, blob: TranscriptBlob) {
    in_background(move || write(&dir, &blob)).await;
}

/// Removes the files of the transcripts that the store has forgotten.
pub(crate) async fn remove(dir: PathBuf, forgotten: Vec<[u8; 32]>) {
    if forgotten.is_empty() {
        return;
    }
    let remove_all = move || {
        for hash in forgotten {
            match fs::remove_file(path(&dir, &hash)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    };
    in_background(remove_all).await;
}

async fn in_background(work: impl FnOnce() -> io::Result<()> + Send + 'static) {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a transcript's file could not be kept"),
        Err(error) => tracing::warn!(%error, "a transcript's file could not be kept"),
    }
}

/// The file of a transcript.
fn path(dir: &Path, hash: &[u8; 32]) -> PathBuf {
    dir.join(format!("{}.{EXTENSION}", hex::encode(hash)))
}

/// Whole or not at all.
fn write(dir: &Path, blob: &TranscriptBlob) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = path(dir, &blob.hash);
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(&blob.bytes)?;
    file.sync_all()?;
    fs::rename(next, path)
}
