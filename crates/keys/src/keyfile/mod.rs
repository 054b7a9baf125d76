//! Keyfiles: the bytes of `coldkey`, `hotkeys/<name>` and the `…pub.txt` files, both ways.
//!
//! Reading believes nothing: whatever secret a file holds is turned into a key, and the key's address must be the one
//! that the file states. Files of all known writers are read, with their faults (see [`parse`]); what is written is what
//! `btcli` and the wallet packages read. Opening and storing the files is the business of [`crate::wallet`].

mod json;
mod nacl;

use std::io;
use std::path::{Path, PathBuf};

use nicompute_market::{AccountId, ParseAccountError};
use zeroize::Zeroizing;

use crate::files;
use crate::keypair::Keypair;
use crate::password::Password;
use crate::scheme::Scheme;
use crate::wallet::NameError;

pub use nacl::EncryptionKey;

const ANSIBLE_MAGIC: &[u8] = b"$ANSIBLE_VAULT";
/// Every Fernet token begins with version byte 0x80 and a timestamp, which is this in base64.
const FERNET_MAGIC: &[u8] = b"gAAAAA";
/// Room for the JSON of a secret keyfile, so that the buffer never moves and leaves a copy behind.
const JSON_CAPACITY: usize = 2048;

/// Why a key could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyfileError {
    /// There is no such file.
    #[error("there is no keyfile {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The operating system did not give the file.
    #[error("cannot read the keyfile {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is there and gives no key.
    #[error("the keyfile {} gives no key", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: Refused,
    },
    /// A wallet or hotkey name that is no plain file name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What is wrong with the content of a keyfile. The texts never repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Longer than any keyfile.
    #[error("it is longer than 64 KiB")]
    TooLong,
    /// Neither JSON of a keyfile nor one of the older forms.
    #[error("it is not a Bittensor keyfile")]
    NotAKeyfile,
    /// The encryption is cut off.
    #[error("it is an encrypted keyfile that was cut off")]
    Damaged,
    /// Encrypted, and no password was given.
    #[error("it is encrypted and no password was given")]
    PasswordNeeded,
    /// The password does not open it.
    #[error("the password is wrong, or the file was damaged")]
    WrongPassword,
    /// Encrypted by a wallet from before 2023.
    #[error("it uses the old encryption {0}, which this program does not read")]
    OldEncryption(&'static str),
    /// An export of the polkadot.js wallet.
    #[error("it is an export of the polkadot.js wallet")]
    PolkadotJs,
    /// Only the public half, where a secret was wanted.
    #[error("it holds a public key only")]
    PublicOnly,
    /// A scheme that this program does not know.
    #[error("it has the unknown cryptoType {0}")]
    Scheme(u64),
    /// The stated address is none.
    #[error("the address that it states is no SS58 address")]
    Address(#[source] ParseAccountError),
    /// The stated public key is none.
    #[error("its {0} is not 0x and 64 hex digits")]
    PublicKey(&'static str),
    /// The parts of the file belong to different keys.
    #[error("its contents do not belong to the address {0} that it states")]
    AddressMismatch(AccountId),
}

/// The public half of a key as a file states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Public {
    /// Whose key it is.
    pub account: AccountId,
    /// Its scheme; files of old wallets do not say and mean sr25519.
    pub scheme: Scheme,
}

// === impl errors ===

impl KeyfileError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some(
                "check --wallet.path, --wallet.name and --wallet.hotkey; `nicompute wallet list` shows what there is",
            ),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("keyfiles are readable by their owner only: run as that user")
            }
            Self::Read { .. } => None,
            Self::Refused { reason, .. } => reason.hint(),
            Self::Name(error) => Some(error.hint()),
        }
    }
}

impl Refused {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::PasswordNeeded => Some(
                "give the password; a daemon's hotkey is best stored unencrypted (wallet new-hotkey, regen-hotkey)",
            ),
            Self::WrongPassword => Some("try the password again; capitals and spaces count"),
            Self::OldEncryption(_) => Some(
                "open it once with btcli, which stores it anew, or regenerate it from its mnemonic",
            ),
            Self::PolkadotJs => Some(
                "regenerate the key from its mnemonic with `nicompute wallet regen-hotkey` or regen-coldkey",
            ),
            Self::PublicOnly => Some("the secret is in the file of the same name without pub.txt"),
            Self::Damaged | Self::AddressMismatch(_) => {
                Some("restore the file from a copy, or regenerate the key from its mnemonic")
            }
            Self::NotAKeyfile | Self::TooLong => Some("is this the right file?"),
            Self::Scheme(_) | Self::Address(_) | Self::PublicKey(_) => None,
        }
    }
}

// === reading ===

/// Whether these bytes need a password.
#[must_use]
pub fn is_encrypted(file: &[u8]) -> bool {
    file.starts_with(nacl::MAGIC)
        || file.starts_with(ANSIBLE_MAGIC)
        || file.starts_with(FERNET_MAGIC)
}

/// The key in the clear text of a keyfile.
///
/// The private key goes before the mnemonic, the mnemonic before a well-formed seed, the stated scheme before the other
/// one; the first that gives the stated address is the key. Files from before the JSON form (a bare hex secret or a bare
/// mnemonic) state no address and are taken as they are.
///
/// # Errors
/// Where the file is encrypted, holds no secret, is of another program, or contradicts itself.
pub fn parse(clear: &[u8]) -> Result<Keypair, Refused> {
    refuse_encrypted(clear)?;
    let Some(fields) = json_fields(clear)? else {
        return parse_bare(clear);
    };
    let stated = fields.stated()?;
    let secrets =
        [&fields.private_key, &fields.secret_phrase, &fields.secret_seed].map(Option::as_ref);
    if secrets.iter().all(Option::is_none) {
        return Err(if stated.is_some() { Refused::PublicOnly } else { Refused::NotAKeyfile });
    }
    let declared = fields.scheme()?;
    for scheme in [declared, declared.other()] {
        let mut candidates = fields.candidates(scheme);
        candidates.retain(|pair| stated.is_none_or(|address| pair.account() == address));
        let mut candidates = candidates.into_iter();
        if let Some(first) = candidates.next() {
            return Ok(candidates.fold(first, |pair, other| pair.with_origin_of(&other)));
        }
    }
    Err(stated.map_or(Refused::NotAKeyfile, Refused::AddressMismatch))
}

/// The public half that a keyfile or a `…pub.txt` file states.
///
/// # Errors
/// Where the file states none, or states two different ones.
pub fn parse_public(clear: &[u8]) -> Result<Public, Refused> {
    refuse_encrypted(clear)?;
    if let Some(fields) = json_fields(clear)? {
        let account = fields.stated()?.ok_or(Refused::NotAKeyfile)?;
        return Ok(Public { account, scheme: fields.scheme()? });
    }
    let text = bare_text(clear)?;
    let account = match json::hex_bytes::<32>(text) {
        Some(bytes) => AccountId::from_bytes(*bytes),
        None => text.parse().map_err(|_| Refused::NotAKeyfile)?,
    };
    Ok(Public { account, scheme: Scheme::Sr25519 })
}

/// Opens a keyfile and gives its key. The password is asked for only where one is needed.
pub(crate) fn load(
    path: &Path,
    password: impl FnOnce() -> Option<Password>,
) -> Result<Keypair, KeyfileError> {
    let bytes = read(path)?;
    let refused = |reason| KeyfileError::Refused { path: path.to_owned(), reason };
    if !bytes.starts_with(nacl::MAGIC) {
        return parse(&bytes).map_err(refused);
    }
    let password = password().ok_or_else(|| refused(Refused::PasswordNeeded))?;
    let clear = EncryptionKey::derive(&password).open(&bytes).map_err(refused)?;
    parse(&clear).map_err(refused)
}

/// Opens a file and gives the public half that it states.
pub(crate) fn load_public(path: &Path) -> Result<Public, KeyfileError> {
    let bytes = read(path)?;
    parse_public(&bytes).map_err(|reason| KeyfileError::Refused { path: path.to_owned(), reason })
}

pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyfileError> {
    match files::read_bounded(path) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(KeyfileError::Refused { path: path.to_owned(), reason: Refused::TooLong }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(KeyfileError::Missing { path: path.to_owned() })
        }
        Err(source) => Err(KeyfileError::Read { path: path.to_owned(), source }),
    }
}

// === writing ===

/// The clear text of a secret keyfile.
#[must_use]
pub fn encode(pair: &Keypair) -> Zeroizing<Vec<u8>> {
    let account = pair.account();
    let public_key = json::hex_text(account.as_bytes());
    let private_key = json::hex_text(&pair.private_key());
    let seed = pair.seed().map(|seed| json::hex_text(seed));
    serialize(&json::Write {
        account_id: &public_key,
        public_key: &public_key,
        private_key: Some(&private_key),
        secret_phrase: pair.mnemonic(),
        secret_seed: seed.as_ref().map(|seed| seed.as_str()),
        ss58_address: &account.to_ss58(),
        crypto_type: stated_crypto_type(pair.scheme()),
    })
}

/// The text of a `…pub.txt` file.
#[must_use]
pub fn encode_public(public: &Public) -> Vec<u8> {
    let public_key = json::hex_text(public.account.as_bytes());
    let text = serialize(&json::Write {
        account_id: &public_key,
        public_key: &public_key,
        private_key: None,
        secret_phrase: None,
        secret_seed: None,
        ss58_address: &public.account.to_ss58(),
        crypto_type: stated_crypto_type(public.scheme),
    });
    text.to_vec()
}

/// What is written as `cryptoType`: nothing for sr25519. Wallet 3.0.4, which the original pins, takes no file with a number
/// in it, and every newer one takes a file without it for sr25519.
const fn stated_crypto_type(scheme: Scheme) -> Option<u8> {
    match scheme {
        Scheme::Sr25519 => None,
        Scheme::Ed25519 => Some(scheme.crypto_type()),
    }
}

fn serialize(fields: &json::Write<'_>) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(JSON_CAPACITY));
    serde_json::to_writer(&mut *text, fields).expect("texts and numbers always serialise");
    text
}

// === parts of reading ===

fn refuse_encrypted(bytes: &[u8]) -> Result<(), Refused> {
    if bytes.starts_with(nacl::MAGIC) {
        return Err(Refused::PasswordNeeded);
    }
    if bytes.starts_with(ANSIBLE_MAGIC) {
        return Err(Refused::OldEncryption("$ANSIBLE_VAULT"));
    }
    if bytes.starts_with(FERNET_MAGIC) {
        return Err(Refused::OldEncryption("Fernet"));
    }
    Ok(())
}

/// The fields of a JSON file; `None` for a file of the older, bare forms.
fn json_fields(clear: &[u8]) -> Result<Option<json::Read>, Refused> {
    if clear.trim_ascii_start().first() != Some(&b'{') {
        return Ok(None);
    }
    let fields: json::Read = serde_json::from_slice(clear).map_err(|_| Refused::NotAKeyfile)?;
    if fields.encoded.is_some() && fields.encoding.is_some() {
        return Err(Refused::PolkadotJs);
    }
    Ok(Some(fields))
}

fn bare_text(clear: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(clear).map(str::trim).map_err(|_| Refused::NotAKeyfile)
}

/// Files from before the JSON form: a hex seed, a hex private key, or the words.
fn parse_bare(clear: &[u8]) -> Result<Keypair, Refused> {
    let text = bare_text(clear)?;
    if let Some(seed) = json::hex_bytes::<32>(text) {
        return Ok(Keypair::from_seed(*seed, Scheme::Sr25519));
    }
    if let Some(key) = json::hex_bytes::<64>(text) {
        return Keypair::from_private_key(key.as_ref(), Scheme::Sr25519)
            .map_err(|_| Refused::NotAKeyfile);
    }
    if text.parse::<AccountId>().is_ok() {
        return Err(Refused::PublicOnly);
    }
    Keypair::from_mnemonic(text, Scheme::Sr25519).map_err(|_| Refused::NotAKeyfile)
}

impl json::Read {
    /// The address that the file states; its several statements must agree.
    fn stated(&self) -> Result<Option<AccountId>, Refused> {
        let mut stated = None;
        if let Some(text) = &self.ss58_address {
            stated = Some(text.parse::<AccountId>().map_err(Refused::Address)?);
        }
        for (name, text) in [("publicKey", &self.public_key), ("accountId", &self.account_id)] {
            let Some(text) = text else { continue };
            let bytes = json::hex_bytes::<32>(text).ok_or(Refused::PublicKey(name))?;
            let account = AccountId::from_bytes(*bytes);
            if *stated.get_or_insert(account) != account {
                return Err(Refused::AddressMismatch(stated.unwrap_or(account)));
            }
        }
        Ok(stated)
    }

    fn scheme(&self) -> Result<Scheme, Refused> {
        let number = self.crypto_type.unwrap_or_else(|| Scheme::Sr25519.crypto_type().into());
        Scheme::from_crypto_type(number).ok_or(Refused::Scheme(number))
    }

    /// Every key that the secrets of this file can mean under a scheme, the most direct secret first.
    fn candidates(&self, scheme: Scheme) -> Vec<Keypair> {
        let private_key = self.private_key.as_ref().and_then(|text| {
            let long = json::hex_bytes::<64>(&text.0).map(|key| Zeroizing::new(key.to_vec()));
            let key =
                long.or_else(|| json::hex_bytes::<32>(&text.0).map(|k| Zeroizing::new(k.to_vec())));
            Keypair::from_private_key(&key?, scheme).ok()
        });
        let phrase = self.secret_phrase.as_ref();
        let phrase = phrase.and_then(|text| Keypair::from_mnemonic(&text.0, scheme).ok());
        let seed = self.secret_seed.as_ref().and_then(|text| json::hex_bytes::<32>(&text.0));
        let seed = seed.map(|seed| Keypair::from_seed(*seed, scheme));
        [private_key, phrase, seed].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
