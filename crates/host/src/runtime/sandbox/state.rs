//! What the sandbox remembers of a container in the lease's directory, and the lock under which it changes.
//!
//! The helper writes the record before it lets the agent start, and the agent's process ends by itself if that word never
//! comes. So there is no moment at which a container runs and no record names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use nicompute_market::LeaseId;

use super::process::{ProcessId, boot_id};

const RECORD: &str = "sandbox.json";
const RECORD_NEW: &str = "sandbox.json.new";
const IMAGE: &str = "sandbox.image";
const LOCK: &str = "sandbox.lock";
/// A record is a few hundred bytes.
const RECORD_BYTES_MAX: u64 = 16 << 10;
/// An image's environment has 64 KiB at most, of which JSON makes six times as much.
const IMAGE_BYTES_MAX: u64 = 1 << 20;
/// Gives each writer of this program a file of its own.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) node_id: String,
    pub(super) lease: LeaseId,
    pub(super) generation: u64,
    pub(super) boot_id: String,
    pub(super) init: ProcessId,
}

/// The image that a lease's container was made from first. What is on the lease's disk fits to no other, also when its name
/// means another one by now, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptImage {
    pub(super) files: PathBuf,
    /// What its author set; older leases have the files' place alone.
    pub(super) environment: Option<Vec<(String, String)>>,
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

/// Notes the image that the lease's container is made from, unless one is noted already.
pub(super) fn keep_image(dir: &Path, image: &KeptImage) -> io::Result<()> {
    if kept_image(dir)?.is_some() {
        return Ok(());
    }
    let (pid, writer) = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
    let new = dir.join(format!("{IMAGE}.new.{pid}.{writer}"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(image)?)?;
    // A name that is older than what it names would be an empty file after a power cut. The name itself is written with that
    // of the lease's disk, which comes later.
    file.sync_all()?;
    fs::rename(&new, dir.join(IMAGE))
}

/// The image that the lease's container was made from first, if there is one. What cannot be understood is an error: any
/// other image would be a wrong one.
pub(super) fn kept_image(dir: &Path) -> io::Result<Option<KeptImage>> {
    let file = match File::open(dir.join(IMAGE)) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(IMAGE_BYTES_MAX).read_to_end(&mut bytes)?;
    let kept = if bytes.starts_with(b"/") {
        let files = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        KeptImage { files, environment: None }
    } else {
        serde_json::from_slice::<KeptImage>(&bytes)?
    };
    if kept.files.is_absolute() { Ok(Some(kept)) } else { Err(io::ErrorKind::InvalidData.into()) }
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
        let [one, two] = ["/one", "/two"].map(|files| KeptImage {
            files: files.into(),
            environment: Some(vec![("FROM".to_owned(), files.to_owned())]),
        });
        assert_eq!(kept_image(dir.path()).expect("none"), None);
        keep_image(dir.path(), &one).expect("first");
        keep_image(dir.path(), &two).expect("later");
        assert_eq!(kept_image(dir.path()).expect("kept"), Some(one));
        let names = fs::read_dir(dir.path()).expect("list").count();
        assert_eq!(names, 1, "nothing half-written stays");
    }

    /// After a power cut or an update a tenant's disk would get another image than the one that it was made over, and its
    /// own image be removed.
    #[test]
    fn a_damaged_image_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let wanted = KeptImage { files: "/today".into(), environment: Some(Vec::new()) };
        for text in ["", "\0\0", "{", "today", "{\"files\":\"today\",\"environment\":[]}"] {
            fs::write(dir.path().join(IMAGE), text).expect("write");
            assert!(kept_image(dir.path()).is_err(), "{text:?}");
            assert!(keep_image(dir.path(), &wanted).is_err(), "{text:?}");
        }
        fs::write(dir.path().join(IMAGE), "/of/an/older/node").expect("write");
        let kept = kept_image(dir.path()).expect("read").expect("there");
        assert_eq!(kept, KeptImage { files: "/of/an/older/node".into(), environment: None });
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
