//! The key by which clients recognise this provider's gateway. Made once, kept in one file, never shown.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::ssh_key::{self, Algorithm, LineEnding};

/// A longer file is no host key.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// An ed25519 host key.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

/// Why there is no host key. The file, if there was one, is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// It exists and cannot be read.
    #[error("could not read the host key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It could not be written.
    #[error("could not write the host key {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may read it. Remedy: make a new one, since this one may be known.
    #[error("the host key {} is readable by others; remove it and a new one is made", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Its content is no key, or one under a password.
    #[error("the host key {} is not an OpenSSH private key", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ssh_key::Error,
    },
    /// A key of another kind, or one under a password.
    #[error("the host key {} is not a plain ed25519 key", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no randomness.
    #[error("no randomness for a new host key")]
    Random,
}

impl HostKey {
    /// The key in the file; where there is no file, a new key that is in the file before this returns.
    ///
    /// # Errors
    /// When the file cannot be used or written. It is never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, HostKeyError> {
        match fs::symlink_metadata(path) {
            Ok(meta) => Self::load(path, &meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(source) => Err(HostKeyError::Read { path: path.to_path_buf(), source }),
        }
    }

    /// The public half in OpenSSH's text form.
    ///
    /// # Errors
    /// When it cannot be encoded, which no ed25519 key does.
    pub fn public_openssh(&self) -> Result<String, ssh_key::Error> {
        let mut public = self.0.public_key().clone();
        public.set_comment("");
        Ok(public.to_openssh()?.trim_end().to_owned())
    }

    pub(super) fn into_private(self) -> PrivateKey {
        self.0
    }

    fn load(path: &Path, meta: &fs::Metadata) -> Result<Self, HostKeyError> {
        let owned = || path.to_path_buf();
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(HostKeyError::Exposed { path: owned() });
        }
        if !meta.is_file() || meta.len() > FILE_LEN_MAX {
            return Err(HostKeyError::Kind { path: owned() });
        }
        let text = fs::read_to_string(path)
            .map_err(|source| HostKeyError::Read { path: owned(), source })?;
        let key = PrivateKey::from_openssh(&text)
            .map_err(|source| HostKeyError::Parse { path: owned(), source })?;
        if key.algorithm() != Algorithm::Ed25519 || key.is_encrypted() {
            return Err(HostKeyError::Kind { path: owned() });
        }
        Ok(Self(key))
    }

    fn create(path: &Path) -> Result<Self, HostKeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| HostKeyError::Random)?;
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let text = key
            .to_openssh(LineEnding::LF)
            .map_err(|source| HostKeyError::Parse { path: path.to_path_buf(), source })?;
        match write_new(path, text.as_bytes()) {
            Ok(()) => Ok(Self(key)),
            // Somebody was faster: theirs is the key.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let meta = fs::symlink_metadata(path)
                    .map_err(|source| HostKeyError::Read { path: path.to_path_buf(), source })?;
                Self::load(path, &meta)
            }
            Err(source) => Err(HostKeyError::Write { path: path.to_path_buf(), source }),
        }
    }
}

/// Writes the whole file under another name and links it to its own, so that it is never seen half or replaced.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|_| io::ErrorKind::Other)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", hex::encode(nonce)));
    let fresh = path.with_file_name(name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let linked = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&fresh, path));
    fs::remove_file(&fresh)?;
    linked?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host key that changes between starts makes every client warn of an attack.
    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("host_key");
        let first = HostKey::load_or_create(&path).expect("creates");
        let again = HostKey::load_or_create(&path).expect("loads");
        let public = first.public_openssh().expect("shows");
        assert_eq!(public, again.public_openssh().expect("shows"));
        assert!(public.starts_with("ssh-ed25519 AAAA") && !public.contains('\n'), "{public}");
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        assert_eq!(format!("{first:?}"), "HostKey(..)");
    }

    /// A damaged or exposed key file must be reported, never replaced behind the operator's back.
    #[test]
    fn unusable_files_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("host_key");
        fs::write(&path, "not a key").expect("writes");
        assert!(matches!(HostKey::load_or_create(&path), Err(HostKeyError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(matches!(HostKey::load_or_create(&path), Err(HostKeyError::Parse { .. })));
        assert_eq!(fs::read(&path).expect("reads"), b"not a key");
        let nowhere = dir.path().join("missing/host_key");
        assert!(matches!(HostKey::load_or_create(&nowhere), Err(HostKeyError::Write { .. })));
    }
}
