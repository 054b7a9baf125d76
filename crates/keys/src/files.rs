//! How secret files reach the disk: private from their first byte, complete or absent, never over another key by accident.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Largest keyfile that is read. Real ones are under 1 KiB; the room above is for fields of later versions.
pub(crate) const KEYFILE_LEN_MAX: u64 = 64 * 1024;
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// What to do where a key is already there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// Leave it alone and fail.
    Refuse,
    /// Replace it. The old key is gone for good.
    Replace,
}

/// Why a key was not stored. In every case the files that were there are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is a key already.
    #[error("{} is already there", path.display())]
    Exists {
        /// The file that would have been overwritten.
        path: PathBuf,
    },
    /// The disk or its permissions refused.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file or folder in question.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A wallet or hotkey name that is no plain file name.
    #[error(transparent)]
    Name(#[from] crate::wallet::NameError),
}

impl WriteError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => Some(
                "choose another name, or ask for the key to be overwritten if you have its mnemonic on paper",
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the folder belongs to another user: check its owner and mode")
            }
            Self::Io { .. } => None,
            Self::Name(error) => Some(error.hint()),
        }
    }
}

/// Reads a whole regular file of at most [`KEYFILE_LEN_MAX`] bytes; `Ok(None)` is a file that is longer.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let facts = fs::metadata(path)?;
    if !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if facts.len() > KEYFILE_LEN_MAX {
        return Ok(None);
    }
    let capacity = usize::try_from(facts.len()).unwrap_or_default().saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    File::open(path)?.take(KEYFILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= KEYFILE_LEN_MAX).then_some(bytes))
}

/// Creates a folder and its parents, each of them closed to other users.
pub(crate) fn create_dir(path: &Path) -> Result<(), WriteError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(|source| WriteError::Io { path: path.to_owned(), source })
}

/// A private file that lies complete on the disk and does not have its name yet. Dropping it removes it.
///
/// A crash before that can leave a hidden `.<name>.<random>.tmp` of mode 0600 behind; nothing reads it.
pub(crate) struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Writes the bytes beside the place that they are for.
    pub(crate) fn new(path: &Path, bytes: &[u8]) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Io { path: path.to_owned(), source };
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|_| failed(io::ErrorKind::Other.into()))?;
        let name = format!(".{}.{}.tmp", name.to_string_lossy(), hex::encode(random));
        let staged = Self { temporary: dir.join(name), path: path.to_owned() };
        store(&staged.temporary, bytes).map_err(failed)?;
        Ok(staged)
    }

    /// Gives the file its name, so that after any crash the name leads to the old bytes or to the new ones.
    pub(crate) fn name(self, existing: Existing) -> Result<(), WriteError> {
        let named = match existing {
            Existing::Replace => fs::rename(&self.temporary, &self.path),
            // A hard link never replaces what is there, and of two writers only one can succeed.
            Existing::Refuse => fs::hard_link(&self.temporary, &self.path),
        };
        let dir = self.path.parent().unwrap_or_else(|| Path::new("."));
        named.and_then(|()| File::open(dir)?.sync_all()).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists { path: self.path.clone() },
            _ => WriteError::Io { path: self.path.clone(), source },
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and a leftover is not worth a second error.
        drop(fs::remove_file(&self.temporary));
    }
}

fn store(temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write_private(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), WriteError> {
        Staged::new(path, bytes)?.name(existing)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// A second key under the same name would destroy the first, and with it somebody's coins.
    #[test]
    fn an_existing_file_stays_unless_replacing_was_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        create_dir(&dir).unwrap();
        let path = dir.join("key");
        write_private(&path, b"one", Existing::Refuse).unwrap();
        let again = write_private(&path, b"two", Existing::Refuse).unwrap_err();
        assert!(matches!(again, WriteError::Exists { .. }), "{again:?}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_private(&path, b"three", Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!((mode(&path), mode(&dir), mode(&root.path().join("a"))), (0o600, 0o700, 0o700));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "a temporary file was left");
    }

    /// Of many writers at once exactly one may win, with its own bytes.
    #[test]
    fn one_of_many_writers_wins() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let wins: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = (0u8..8)
                .map(|who| {
                    let path = &path;
                    scope.spawn(move || write_private(path, &[who; 500], Existing::Refuse).is_ok())
                })
                .collect();
            writers.into_iter().map(|w| usize::from(w.join().unwrap())).sum()
        });
        assert_eq!(wins, 1);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 500 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    /// A huge or special file in a wallet folder must not eat the memory or hang the reader.
    #[test]
    fn reading_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let limit = usize::try_from(KEYFILE_LEN_MAX).unwrap();
        fs::write(&path, vec![b' '; limit]).unwrap();
        assert_eq!(read_bounded(&path).unwrap().unwrap().len(), limit);
        fs::write(&path, vec![b' '; limit + 1]).unwrap();
        assert!(read_bounded(&path).unwrap().is_none());
        assert_eq!(read_bounded(root.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    /// A folder that cannot be written must leave nothing behind and name the file.
    #[test]
    fn a_missing_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("none/key");
        let error = write_private(&path, b"x", Existing::Refuse).unwrap_err();
        assert!(error.to_string().ends_with("none/key"), "{error}");
    }
}
