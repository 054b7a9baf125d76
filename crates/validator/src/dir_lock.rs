//! One validator for one state folder: two would set weights against each other.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "validator.lock";

/// Holds the folder until it is dropped or its process dies, however it dies.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another validator uses it.
    #[error("the state directory {} is in use by another validator", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// It cannot be made or written.
    #[error("cannot use the state directory {}", dir.display())]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DirLock {
    /// Makes the folder where it is missing, for its owner only, and takes it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let mut open = OpenOptions::new();
        let file = open.append(true).create(true).mode(0o600).open(dir.join(LOCK_FILE));
        let file = file.map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}
