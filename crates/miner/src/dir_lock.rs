//! One node for one state directory: two would fight over the same leases.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const LOCK_FILE: &str = "miner.lock";

/// Holds the directory until it is dropped or its process dies, however it dies.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another node uses it.
    #[error("the state directory {} is used by another running node", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be made or written.
    #[error("cannot use the state directory {}", dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LockError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "stop the other node, or give this one another --state-dir",
            Self::Unusable { .. } => "check the path of --state-dir and who may write there",
        }
    }
}

impl DirLock {
    /// Makes the directory where it is missing, for its owner only, and takes it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { dir: dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(LOCK_FILE))
            .map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::InUse { dir: dir.to_owned() }),
            Err(error) => Err(unusable(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes on one directory would remove each other's containers.
    #[test]
    fn a_directory_has_one_node() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("new/state");
        let held = DirLock::take(&dir).unwrap();
        let second = DirLock::take(&dir).unwrap_err();
        assert!(matches!(second, LockError::InUse { .. }));
        assert!(second.remedy().contains("--state-dir"));
        drop(held);
        DirLock::take(&dir).unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(DirLock::take(&file), Err(LockError::Unusable { .. })));
    }
}
