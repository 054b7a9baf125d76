//! Keys and Bittensor's wallet files: sr25519 and ed25519 pairs, mnemonics, secret URIs, keyfiles, wallet folders.
//!
//! This room owns every secret of the project. A secret lives in a [`Keypair`] or a [`Password`], both of which wipe
//! themselves and show nothing in `Debug`; no error of this room carries a secret. It reads and writes the same files
//! as `btcli` and Bittensor's wallet packages, and it never touches the network, the environment or a terminal.

mod files;
mod keyfile;
mod keypair;
mod mnemonic;
mod password;
mod scheme;
mod uri;
pub mod wallet;

pub use files::{Existing, WriteError};
pub use keyfile::{
    EncryptionKey, KeyfileError, Public, Refused, encode, encode_public, is_encrypted, parse,
    parse_public,
};
pub use keypair::{Keypair, PrivateKeyError, verify};
pub use mnemonic::{MnemonicError, WordCount, generate_mnemonic};
pub use password::{EnvPasswordError, Password, env_password, env_password_name};
pub use scheme::{ParseSchemeError, Scheme};
pub use uri::UriError;
