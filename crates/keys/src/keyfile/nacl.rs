//! Bittensor's `$NACL` encryption of keyfiles: Argon2i with one salt for all the world, then XSalsa20-Poly1305.
//!
//! Layout: `"$NACL" ‖ nonce (24) ‖ MAC (16) ‖ ciphertext`. The fixed salt means that equal passwords give equal keys on
//! every machine, so a weak password can be looked up in a table; files that `btcli` can open leave no choice.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use zeroize::Zeroizing;

use crate::keyfile::Refused;
use crate::password::Password;

pub(super) const MAGIC: &[u8] = b"$NACL";
const NONCE_LEN: usize = 24;
const MAC_LEN: usize = 16;
/// libsodium's "sensitive" limits of Argon2i: 8 passes over 512 MiB, one lane.
const PASSES: u32 = 8;
const MEMORY_KIB: u32 = 512 * 1024;
const LANES: u32 = 1;
const SALT: [u8; 16] = [
    0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1,
];

/// The key behind a password. Deriving it takes seconds and 512 MiB, so it belongs off any async executor.
#[derive(Clone)]
pub struct EncryptionKey(Zeroizing<[u8; 32]>);

impl EncryptionKey {
    /// Stretches a password.
    ///
    /// # Panics
    /// Where the machine has no 512 MiB to give: the allocator ends the process, as for any other allocation.
    #[must_use]
    pub fn derive(password: &Password) -> Self {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32))
            .expect("the limits are within Argon2's own");
        let mut key = Zeroizing::new([0u8; 32]);
        Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
            .hash_password_into(password.expose().as_bytes(), &SALT, key.as_mut())
            .expect("salt and output have lengths that Argon2 allows");
        Self(key)
    }

    /// Opens the bytes of an encrypted keyfile.
    ///
    /// # Errors
    /// Where the bytes are cut off, were changed, or belong to another password.
    pub fn open(&self, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let sealed = file.strip_prefix(MAGIC).ok_or(Refused::NotAKeyfile)?;
        if sealed.len() < NONCE_LEN + MAC_LEN {
            return Err(Refused::Damaged);
        }
        let (nonce, sealed) = sealed.split_at(NONCE_LEN);
        XSalsa20Poly1305::new(self.0.as_ref().into())
            .decrypt(Nonce::from_slice(nonce), sealed)
            .map(Zeroizing::new)
            .map_err(|_| Refused::WrongPassword)
    }

    /// Seals the text of a keyfile under a fresh random nonce.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give.
    #[must_use]
    pub fn seal(&self, clear: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the operating system gives randomness");
        let sealed = XSalsa20Poly1305::new(self.0.as_ref().into())
            .encrypt(Nonce::from_slice(&nonce), clear)
            .expect("a keyfile is shorter than the cipher's limit");
        [MAGIC, &nonce, &sealed].concat()
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey(…)")
    }
}
