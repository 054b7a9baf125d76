//! What the sandbox remembers of a container in the lease's directory, and the lock under which it changes.
//!
//! The helper writes the record before it lets the agent start, and the agent's process ends by itself if that word never
//! comes. So there is no moment at which a container runs and no record names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use nicompute_market::LeaseId;

use super::process::{ProcessId, boot_id};

const RECORD: &str = "sandbox.json";
const RECORD_NEW: &str = "sandbox.json.new";
const IMAGE: &str = "sandbox.image";
const IMAGE_NEW: &str = "sandbox.image.new";
const LOCK: &str = "sandbox.lock";
/// A record is a few hundred bytes.
const RECORD_BYTES_MAX: u64 = 16 << 10;

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) node_id: String,
    pub(super) lease: LeaseId,
    pub(super) generation: u64,
    pub(super) boot_id: String,
    pub(super) init: ProcessId,
}

/// Held while a container is made or removed. Whoever dies holding it lets go of it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Record {
    /// The record in a lease's directory, if there is one.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(dir.join(RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = String::new();
        file.take(RECORD_BYTES_MAX).read_to_string(&mut text)?;
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Writes the next record beside the one that counts.
    pub(super) fn stage(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join(RECORD_NEW);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()
    }

    /// Lets the staged record count; a reader sees the old one or the new one.
    pub(super) fn publish(dir: &Path) -> io::Result<()> {
        fs::rename(dir.join(RECORD_NEW), dir.join(RECORD))
    }

    /// The first process, if it still lives.
    pub(super) fn living(&self) -> io::Result<Option<ProcessId>> {
        Ok((self.boot_id == boot_id()? && self.init.stat()?.is_some()).then_some(self.init))
    }
}

impl Lock {
    /// Waits for the lock. The directory must exist.
    pub(super) fn wait(dir: &Path) -> io::Result<Self> {
        loop {
            if let Some(lock) = Self::take(dir, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock if nobody holds it.
    pub(super) fn try_take(dir: &Path) -> io::Result<Option<Self>> {
        Self::take(dir, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(dir: &Path, how: FlockOperation) -> io::Result<Option<Self>> {
        let path = dir.join(LOCK);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match flock(&file, how) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // While we waited, the one who held it may have removed the directory and the file with it.
        let same = fs::metadata(&path).is_ok_and(|now| {
            file.metadata().is_ok_and(|then| then.ino() == now.ino() && then.dev() == now.dev())
        });
        Ok(same.then_some(Self { _file: file }))
    }
}

/// Whether a lease's directory shows that the sandbox has ever worked in it.
pub(super) fn has_traces(dir: &Path) -> bool {
    [RECORD, RECORD_NEW, LOCK, super::ids::FILE].iter().any(|name| dir.join(name).exists())
}

/// The image that the lease's container was made from first; `wanted` from now on, where it is the first. What is on the
/// lease's disk fits to no other, also when its name means another one by now.
pub(super) fn keep_image(dir: &Path, wanted: &Path) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    if let Some(kept) = kept_image(dir)? {
        return Ok(if kept.is_dir() { kept } else { wanted.to_owned() });
    }
    let new = dir.join(IMAGE_NEW);
    fs::write(&new, wanted.as_os_str().as_bytes())?;
    fs::rename(&new, dir.join(IMAGE))?;
    Ok(wanted.to_owned())
}

/// The image that the lease's container was made from first, if there is one.
pub(super) fn kept_image(dir: &Path) -> io::Result<Option<PathBuf>> {
    use std::os::unix::ffi::OsStringExt as _;
    match fs::read(dir.join(IMAGE)) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        kept => Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(kept?)))),
    }
}

/// Removes the record, so that the container counts as gone.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(RECORD)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where the helper mounts things; empty for everybody outside of its mount namespace.
pub(super) fn mount_dir(dir: &Path) -> PathBuf {
    dir.join("mnt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            node_id: "node".to_owned(),
            lease: LeaseId::from_random_bytes([3; 16]),
            generation: 2,
            boot_id: boot_id().expect("boot id"),
            init: ProcessId::of(std::process::id()).expect("reads").expect("own process"),
        }
    }

    /// A container of before the machine's restart would be taken for a running one, with a stranger's process.
    #[test]
    fn records_survive_and_age() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(Record::read(dir.path()).expect("read"), None);
        let record = record();
        record.stage(dir.path()).expect("stage");
        assert_eq!(Record::read(dir.path()).expect("read"), None, "not before it counts");
        Record::publish(dir.path()).expect("publish");
        assert_eq!(Record::read(dir.path()).expect("read"), Some(record.clone()));
        assert_eq!(record.living().expect("living"), Some(record.init));
        let yesterday = Record { boot_id: "other".to_owned(), ..record };
        assert_eq!(yesterday.living().expect("living"), None);
        forget(dir.path()).expect("forget");
        forget(dir.path()).expect("forget twice");
        assert_eq!(Record::read(dir.path()).expect("read"), None);
    }

    /// A container started again after the operator changed an image would have the files of one and the changes of another.
    #[test]
    fn a_lease_keeps_its_image() {
        let dir = tempfile::tempdir().expect("dir");
        let images = ["one", "two"].map(|name| dir.path().join(name));
        for image in &images {
            fs::create_dir(image).expect("mkdir");
        }
        let [one, two] = &images;
        assert_eq!(keep_image(dir.path(), one).expect("first"), *one);
        assert_eq!(keep_image(dir.path(), two).expect("later"), *one);
        fs::remove_dir(one).expect("gone");
        assert_eq!(keep_image(dir.path(), two).expect("the first is gone"), *two);
    }

    /// Two helpers at work on one lease would start two containers.
    #[test]
    fn the_lock_is_exclusive() {
        let dir = tempfile::tempdir().expect("dir");
        let held = Lock::wait(dir.path()).expect("lock");
        assert!(Lock::try_take(dir.path()).expect("try").is_none());
        drop(held);
        assert!(Lock::try_take(dir.path()).expect("try").is_some());
    }

    /// A damaged record must be an error, never an absent container.
    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        for text in ["", "{", "{\"node_id\":1}"] {
            fs::write(dir.path().join(RECORD), text).expect("write");
            assert!(Record::read(dir.path()).is_err(), "{text:?}");
        }
    }
}
