//! One process per state directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The file that is locked.
const FILE: &str = "lock";

/// Held for as long as this process may write to the directory; the operating system lets go of it even after a kill.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirLockError {
    /// Another process holds it.
    #[error("the state directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It cannot be made or locked.
    #[error("the state directory {} cannot be used", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl DirLock {
    /// Makes the directory if needed and takes it.
    pub(crate) fn take(dir: &Path) -> Result<Self, DirLockError> {
        let failed = |source| DirLockError::Io { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join(FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DirLockError::InUse(dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
