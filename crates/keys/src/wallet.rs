//! Wallet folders as Bittensor's tools lay them out:
//! `<root>/<wallet>/{coldkey, coldkeypub.txt, hotkeys/<hotkey>, hotkeys/<hotkey>pub.txt}`.
//!
//! A daemon loads a hotkey and the coldkey's public half and never opens the coldkey. Secrets are stored before their
//! public halves, so that a crash in between loses convenience and never a key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nicompute_market::{AccountId, Coldkey, Hotkey};
use zeroize::Zeroizing;

use crate::files::{self, Existing, Staged, WriteError};
use crate::keyfile::{self, EncryptionKey, KeyfileError, Public};
use crate::keypair::Keypair;
use crate::password::Password;

const COLDKEY: &str = "coldkey";
const COLDKEYPUB: &str = "coldkeypub.txt";
const HOTKEYS: &str = "hotkeys";
const PUB_SUFFIX: &str = "pub.txt";
/// Longest wallet or hotkey name: with `pub.txt` and the name of a temporary file around it, it stays under 255 bytes.
const NAME_LEN_MAX: usize = 200;
/// Most entries of one folder that are listed.
pub const ENTRIES_MAX: usize = 10_000;

/// A wallet or hotkey name that cannot be a file name of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the name of a wallet or hotkey")]
pub struct NameError(String);

impl NameError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        "a name is a plain file name of 1 to 200 bytes: no '/', no control characters, no leading '.', not ending in \"pub.txt\""
    }
}

/// One wallet folder; it need not exist yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalletPath {
    dir: PathBuf,
    name: String,
}

/// What `list` found of one wallet.
#[derive(Debug)]
pub struct WalletSummary {
    /// The folder's name.
    pub name: String,
    /// The coldkey's public half, from `coldkeypub.txt` or else from an unencrypted `coldkey`.
    pub coldkey: Result<Coldkey, KeyfileError>,
    /// How the secret half of the coldkey is kept here.
    pub secret: Secrecy,
    /// The hotkeys by name.
    pub hotkeys: Vec<HotkeySummary>,
}

/// What `list` found of one hotkey.
#[derive(Debug)]
pub struct HotkeySummary {
    /// The file's name.
    pub name: String,
    /// The public half, from the keyfile or, where that is encrypted, from its `pub.txt`.
    pub hotkey: Result<Hotkey, KeyfileError>,
    /// How the secret half is kept.
    pub secret: Secrecy,
}

/// How a secret half is kept on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secrecy {
    /// Not here.
    Absent,
    /// Here and readable by whoever reads the file.
    Clear,
    /// Here and encrypted with a password.
    Encrypted,
}

/// The folder of wallets could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// There is no such folder.
    #[error("there is no wallet folder {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The operating system did not list it.
    #[error("cannot list {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// More entries than any wallet folder has.
    #[error("{} has more than {ENTRIES_MAX} entries", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

impl ListError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some(
                "make a wallet with `nicompute wallet new-coldkey` and `new-hotkey`, or give --wallet.path",
            ),
            Self::Io { .. } => None,
            Self::TooMany { .. } => Some("is this the folder of the wallets?"),
        }
    }
}

/// Every wallet under the root, by name. A wallet whose files are broken is listed with what is wrong.
///
/// # Errors
/// Where the root cannot be listed.
pub fn list(root: &Path) -> Result<Vec<WalletSummary>, ListError> {
    let mut wallets = Vec::new();
    for name in entries(root)? {
        let Ok(wallet) = WalletPath::new(root, &name) else { continue };
        if wallet.dir.is_dir() {
            wallets.push(wallet.summary()?);
        }
    }
    Ok(wallets)
}

// === impl WalletPath ===

impl WalletPath {
    /// The wallet of this name under the root folder (`~/.bittensor/wallets`, unless the user says otherwise).
    ///
    /// # Errors
    /// Where the name is no plain file name, so that it could point outside of the root.
    pub fn new(root: &Path, name: &str) -> Result<Self, NameError> {
        check_name(name)?;
        Ok(Self { dir: root.join(name), name: name.to_owned() })
    }

    /// The wallet's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The wallet's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the secret coldkey lies.
    #[must_use]
    pub fn coldkey_file(&self) -> PathBuf {
        self.dir.join(COLDKEY)
    }

    /// Where the public half of the coldkey lies.
    #[must_use]
    pub fn coldkeypub_file(&self) -> PathBuf {
        self.dir.join(COLDKEYPUB)
    }

    /// Where a hotkey lies.
    ///
    /// # Errors
    /// Where the name is no plain file name.
    pub fn hotkey_file(&self, hotkey: &str) -> Result<PathBuf, NameError> {
        check_name(hotkey)?;
        Ok(self.dir.join(HOTKEYS).join(hotkey))
    }

    /// Where the public half of a hotkey lies; wallets of version 3 do not write it.
    ///
    /// # Errors
    /// Where the name is no plain file name.
    pub fn hotkeypub_file(&self, hotkey: &str) -> Result<PathBuf, NameError> {
        check_name(hotkey)?;
        Ok(self.dir.join(HOTKEYS).join(format!("{hotkey}{PUB_SUFFIX}")))
    }

    /// Loads an unencrypted hotkey, as daemons do.
    ///
    /// # Errors
    /// Where it is missing, encrypted or broken.
    pub fn load_hotkey(&self, hotkey: &str) -> Result<Keypair, KeyfileError> {
        self.load_hotkey_with(hotkey, || None)
    }

    /// Loads a hotkey that may be encrypted. Decryption takes seconds and 512 MiB: keep it off async executors.
    ///
    /// # Errors
    /// Where it is missing or broken, or the password is absent or wrong.
    pub fn load_hotkey_with(
        &self,
        hotkey: &str,
        password: impl FnOnce() -> Option<Password>,
    ) -> Result<Keypair, KeyfileError> {
        keyfile::load(&self.hotkey_file(hotkey)?, password)
    }

    /// Loads the public half of a hotkey from its own file, which stands in for it on a machine without the secret.
    ///
    /// # Errors
    /// Where the file is missing or broken.
    pub fn load_hotkeypub(&self, hotkey: &str) -> Result<Hotkey, KeyfileError> {
        keyfile::load_public(&self.hotkeypub_file(hotkey)?).map(|public| Hotkey(public.account))
    }

    /// Loads the public half of the coldkey.
    ///
    /// # Errors
    /// Where the file is missing or broken.
    pub fn load_coldkeypub(&self) -> Result<Coldkey, KeyfileError> {
        keyfile::load_public(&self.coldkeypub_file()).map(|public| Coldkey(public.account))
    }

    /// Loads the secret coldkey. The password is asked for only where the file is encrypted; decryption takes seconds
    /// and 512 MiB.
    ///
    /// # Errors
    /// Where it is missing or broken, or the password is absent or wrong.
    pub fn load_coldkey(
        &self,
        password: impl FnOnce() -> Option<Password>,
    ) -> Result<Keypair, KeyfileError> {
        keyfile::load(&self.coldkey_file(), password)
    }

    /// Stores a coldkey and its public half, encrypted where a password is given.
    ///
    /// A `coldkeypub.txt` that already states this very key does not stand in the way.
    ///
    /// # Errors
    /// Where a key is already there and may not be replaced, or the disk refuses.
    pub fn write_coldkey(
        &self,
        pair: &Keypair,
        password: Option<&Password>,
        existing: Existing,
    ) -> Result<(), WriteError> {
        write_pair(&self.coldkey_file(), &self.coldkeypub_file(), pair, password, existing)
    }

    /// Stores a hotkey and its public half, encrypted where a password is given.
    ///
    /// # Errors
    /// Where a key is already there and may not be replaced, or the disk refuses.
    pub fn write_hotkey(
        &self,
        hotkey: &str,
        pair: &Keypair,
        password: Option<&Password>,
        existing: Existing,
    ) -> Result<(), WriteError> {
        let (secret, public) = (self.hotkey_file(hotkey)?, self.hotkeypub_file(hotkey)?);
        write_pair(&secret, &public, pair, password, existing)
    }

    /// Stores only the public half of a coldkey, as on a machine that must not hold the secret.
    ///
    /// # Errors
    /// Where another one is already there and may not be replaced, or the disk refuses.
    pub fn write_coldkeypub(&self, public: &Public, existing: Existing) -> Result<(), WriteError> {
        let file = self.coldkeypub_file();
        files::create_dir(&self.dir)?;
        match Staged::new(&file, &keyfile::encode_public(public))?.name(existing) {
            Err(WriteError::Exists { .. }) if states(&file, &public.account) => Ok(()),
            other => other,
        }
    }

    fn summary(&self) -> Result<WalletSummary, ListError> {
        let coldkey_file = self.coldkey_file();
        let coldkey = match self.load_coldkeypub() {
            Err(missing @ KeyfileError::Missing { .. }) => keyfile::load_public(&coldkey_file)
                .map(|public| Coldkey(public.account))
                .map_err(|_| missing),
            other => other,
        };
        Ok(WalletSummary {
            name: self.name.clone(),
            coldkey,
            secret: secrecy(&coldkey_file),
            hotkeys: self.hotkey_summaries()?,
        })
    }

    fn hotkey_summaries(&self) -> Result<Vec<HotkeySummary>, ListError> {
        let names = match entries(&self.dir.join(HOTKEYS)) {
            Err(ListError::Missing { .. }) => Vec::new(),
            other => other?,
        };
        let mut hotkeys = Vec::new();
        for name in names {
            let (Ok(secret), Ok(public)) = (self.hotkey_file(&name), self.hotkeypub_file(&name))
            else {
                continue;
            };
            let secrecy = secrecy(&secret);
            let stated = match keyfile::load_public(&secret) {
                Err(error) if secrecy == Secrecy::Encrypted => {
                    keyfile::load_public(&public).map_err(|_| error)
                }
                other => other,
            };
            let hotkey = stated.map(|public| Hotkey(public.account));
            hotkeys.push(HotkeySummary { name, hotkey, secret: secrecy });
        }
        Ok(hotkeys)
    }
}

// === private ===

fn check_name(name: &str) -> Result<(), NameError> {
    let plain = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && !name.starts_with('.')
        && !name.ends_with(PUB_SUFFIX)
        && !name.chars().any(|letter| letter == '/' || letter.is_control());
    if plain { Ok(()) } else { Err(NameError(name.chars().take(NAME_LEN_MAX).collect())) }
}

fn write_pair(
    secret: &Path,
    public: &Path,
    pair: &Keypair,
    password: Option<&Password>,
    existing: Existing,
) -> Result<(), WriteError> {
    let public_half = Public { account: pair.account(), scheme: pair.scheme() };
    if existing == Existing::Refuse {
        // Asked before the seconds of encryption; the writes themselves refuse again.
        for path in [secret, public] {
            let in_the_way = fs::symlink_metadata(path).is_ok();
            if in_the_way && !(path == public && states(path, &public_half.account)) {
                return Err(WriteError::Exists { path: path.to_owned() });
            }
        }
    }
    if let Some(dir) = secret.parent() {
        files::create_dir(dir)?;
    }
    let clear = keyfile::encode(pair);
    let stored = match password {
        Some(password) => Zeroizing::new(EncryptionKey::derive(password).seal(&clear)),
        None => clear,
    };
    // Both are on the disk before either has its name, so that a full disk leaves no half of a pair.
    let secret_file = Staged::new(secret, &stored)?;
    let public_file = Staged::new(public, &keyfile::encode_public(&public_half))?;
    secret_file.name(existing)?;
    match public_file.name(existing) {
        Err(WriteError::Exists { .. }) if states(public, &public_half.account) => Ok(()),
        Err(error @ WriteError::Exists { .. }) => {
            // Somebody else's public half came in between: our secret, a moment old and shown to nobody, must not
            // stand beside it.
            drop(fs::remove_file(secret));
            Err(error)
        }
        other => other,
    }
}

fn states(path: &Path, account: &AccountId) -> bool {
    keyfile::load_public(path).is_ok_and(|public| public.account == *account)
}

fn secrecy(path: &Path) -> Secrecy {
    match keyfile::read(path) {
        Ok(bytes) if keyfile::is_encrypted(&bytes) => Secrecy::Encrypted,
        Ok(_) => Secrecy::Clear,
        Err(_) => Secrecy::Absent,
    }
}

/// The names in a folder that are text, sorted; hidden ones (our temporary files, `.DS_Store`) fail the name check later.
fn entries(dir: &Path) -> Result<Vec<String>, ListError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ListError::Missing { path: dir.to_owned() },
        _ => ListError::Io { path: dir.to_owned(), source },
    };
    let mut names = Vec::new();
    for (count, entry) in fs::read_dir(dir).map_err(failed)?.enumerate() {
        if count == ENTRIES_MAX {
            return Err(ListError::TooMany { path: dir.to_owned() });
        }
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
