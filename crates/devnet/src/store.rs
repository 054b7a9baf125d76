//! The chain on disk: a snapshot, and a log of the blocks since then.
//!
//! A block is on disk before anybody hears of it. Each log record and each snapshot carries its length and checksum; an
//! unfinished record at the end of the log is what a crash leaves, and is cut off. Every [`LOG_RECORDS_MAX`] blocks a
//! new snapshot is written beside the old one and renamed into place, then a new log begins. One process at a time holds
//! the folder, by a lock that dies with the process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use parity_scale_codec::{Decode, Encode};

use crate::hash::blake2_128;
use crate::ledger::{Block, Ledger, Snapshot};
use crate::state::Changes;

/// A log of this many blocks is replaced by a snapshot.
const LOG_RECORDS_MAX: u32 = 512;
/// The largest record or snapshot that is read back.
const RECORD_BYTES_MAX: u64 = 1 << 30;
/// Length and checksum before each record.
const FRAME_BYTES: usize = 8 + 16;
/// The layout of what is written; another number is refused.
const FORMAT: u32 = 2;

const LOCK_FILE: &str = "lock";
const SNAPSHOT_SUFFIX: &str = ".snapshot";
const LOG_SUFFIX: &str = ".log";

/// Why the chain's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("could not {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another devnet runs in this folder.
    #[error("{0} is in use by another devnet: stop that one or choose another folder")]
    InUse(PathBuf),
    /// A record in the middle of the log, or a snapshot, has other bytes than were written.
    #[error("{0} is damaged: remove its folder to begin a new chain")]
    Damaged(PathBuf),
    /// Written by another version of this program.
    #[error("{0} has another format: remove its folder to begin a new chain")]
    Format(PathBuf),
}

/// The open folder of a chain.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Held for the lock alone.
    _lock: File,
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    records: u32,
}

/// What is written at once, so that it is there whole or not at all: the next block with what it changed, or the branch
/// of a fork, which begins at an older block and is longer than what it replaces.
type Record = Vec<(Block, Changes)>;

impl Store {
    /// Takes the folder and reads what it holds: nothing in a fresh one.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Option<Ledger>), StoreError> {
        fs::create_dir_all(dir).map_err(|source| failed("create", dir, source))?;
        let lock = lock(dir)?;
        let mut store = Self { dir: dir.to_owned(), _lock: lock, log: None };
        let Some(base) = newest_snapshot(dir)? else { return Ok((store, None)) };
        let path = store.path(base, SNAPSHOT_SUFFIX);
        let mut ledger = read_snapshot(&path)?;
        store.log = Some(replay(&store.path(base, LOG_SUFFIX), &mut ledger)?);
        Ok((store, Some(ledger)))
    }

    /// Reads the chain again, as another process would after this one.
    pub(crate) fn reload(&mut self) -> Result<Ledger, StoreError> {
        self.log = None;
        let base = newest_snapshot(&self.dir)?;
        let base = base.ok_or_else(|| StoreError::Damaged(self.dir.clone()))?;
        let mut ledger = read_snapshot(&self.path(base, SNAPSHOT_SUFFIX))?;
        self.log = Some(replay(&self.path(base, LOG_SUFFIX), &mut ledger)?);
        Ok(ledger)
    }

    /// Writes a snapshot and begins a new log.
    pub(crate) fn checkpoint(&mut self, ledger: &Ledger) -> Result<(), StoreError> {
        let number = ledger.head().block.header.number;
        let path = self.path(number, SNAPSHOT_SUFFIX);
        let temporary = path.with_extension("new");
        let bytes = frame(&(FORMAT, Snapshot::of(ledger)).encode());
        write_synced(&temporary, &bytes)?;
        fs::rename(&temporary, &path).map_err(|source| failed("rename", &temporary, source))?;
        sync_dir(&self.dir)?;
        let log = self.path(number, LOG_SUFFIX);
        let file = write_synced(&log, &[])?;
        sync_dir(&self.dir)?;
        self.log = Some(Log { path: log, file, records: 0 });
        self.remove_older(number)
    }

    /// Writes blocks behind the ones before them. When this returns they survive a crash; until then none of them does.
    pub(crate) fn append(&mut self, blocks: &[(Block, Changes)]) -> Result<(), StoreError> {
        let Some(log) = self.log.as_mut() else {
            return Err(StoreError::Damaged(self.dir.clone()));
        };
        let bytes = frame(&blocks.encode());
        let written = log.file.write_all(&bytes).and_then(|()| log.file.sync_data());
        written.map_err(|source| failed("write", &log.path, source))?;
        log.records = log.records.saturating_add(1);
        Ok(())
    }

    /// Whether the log is long enough for a new snapshot.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.log.as_ref().is_none_or(|log| log.records >= LOG_RECORDS_MAX)
    }

    fn path(&self, number: u32, suffix: &str) -> PathBuf {
        self.dir.join(format!("{number:010}{suffix}"))
    }

    fn remove_older(&self, newest: u32) -> Result<(), StoreError> {
        for (number, path) in numbered_files(&self.dir)? {
            if number < newest {
                fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
            }
        }
        Ok(())
    }
}

fn failed(verb: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { verb, path: path.to_owned(), source }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| failed("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed("lock", &path, source)),
    }
}

fn numbered_files(dir: &Path) -> Result<Vec<(u32, PathBuf)>, StoreError> {
    let entries = fs::read_dir(dir).map_err(|source| failed("list", dir, source))?;
    let mut out = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| failed("list", dir, source))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number {
            out.push((number, path));
        }
    }
    Ok(out)
}

fn newest_snapshot(dir: &Path) -> Result<Option<u32>, StoreError> {
    let files = numbered_files(dir)?;
    let snapshots =
        files.iter().filter(|(_, path)| path.extension().is_some_and(|end| end == "snapshot"));
    Ok(snapshots.map(|(number, _)| *number).max())
}

fn read_snapshot(path: &Path) -> Result<Ledger, StoreError> {
    let damaged = || StoreError::Damaged(path.to_owned());
    let bytes = fs::read(path).map_err(|source| failed("read", path, source))?;
    let Some((payload, [])) = unframe(&bytes) else { return Err(damaged()) };
    let mut payload = payload;
    let format = u32::decode(&mut payload).map_err(|_| damaged())?;
    if format != FORMAT {
        return Err(StoreError::Format(path.to_owned()));
    }
    let snapshot = Snapshot::decode(&mut payload).map_err(|_| damaged())?;
    snapshot.into_ledger().ok_or_else(damaged)
}

/// Applies the log's blocks and cuts off an unfinished one at the end.
fn replay(path: &Path, ledger: &mut Ledger) -> Result<Log, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = file.map_err(|source| failed("open", path, source))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| failed("read", path, source))?;
    let mut rest = bytes.as_slice();
    let mut records: u32 = 0;
    while !rest.is_empty() {
        match unframe(rest) {
            Some((payload, after)) => {
                let record = Record::decode(&mut &*payload)
                    .map_err(|_| StoreError::Damaged(path.to_owned()))?;
                let damaged = || StoreError::Damaged(path.to_owned());
                let parent = record.first().ok_or_else(damaged)?.0.header.parent;
                ledger.rewind_to(&parent).ok_or_else(damaged)?;
                for (block, changes) in record {
                    if block.header.parent != ledger.head().hash {
                        return Err(damaged());
                    }
                    ledger.push(block, changes);
                }
                records = records.saturating_add(1);
                rest = after;
            }
            None if is_torn(rest) => break,
            None => return Err(StoreError::Damaged(path.to_owned())),
        }
    }
    let good = u64::try_from(bytes.len().saturating_sub(rest.len())).unwrap_or(u64::MAX);
    let cut = file.set_len(good).and_then(|()| file.seek(SeekFrom::Start(good)));
    cut.map_err(|source| failed("truncate", path, source))?;
    Ok(Log { path: path.to_owned(), file, records })
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    let mut out = Vec::with_capacity(payload.len().saturating_add(FRAME_BYTES));
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&blake2_128(payload));
    out.extend_from_slice(payload);
    out
}

/// The first whole record and what follows it.
fn unframe(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, checksum, rest) = split_frame(bytes)?;
    let (payload, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    (blake2_128(payload) == checksum).then_some((payload, after))
}

fn split_frame(bytes: &[u8]) -> Option<(u64, [u8; 16], &[u8])> {
    let (frame, rest) = bytes.split_at_checked(FRAME_BYTES)?;
    let (len, checksum) = frame.split_at(8);
    let len = u64::from_le_bytes(len.try_into().ok()?);
    (len <= RECORD_BYTES_MAX).then_some((len, checksum.try_into().ok()?, rest))
}

/// Whether bytes that are no whole record are the last ones that were being written: nothing follows them.
fn is_torn(bytes: &[u8]) -> bool {
    match split_frame(bytes) {
        None => bytes.len() < FRAME_BYTES || bytes.iter().all(|byte| *byte == 0),
        Some((len, _, rest)) => usize::try_from(len).is_ok_and(|len| rest.len() <= len),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
    let mut file = file.map_err(|source| failed("create", path, source))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|source| failed("write", path, source))?;
    Ok(file)
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| failed("sync", dir, source))
}
