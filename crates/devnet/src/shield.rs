//! Shielded extrinsics: an extrinsic that travels encrypted inside another one, until a block is made.
//!
//! The real chain's authors announce a new key in every block. This chain has one key, made from its genesis nonce, which
//! anybody can read: it lets clients that insist on the shield work, and hides nothing.

use blake2::{Blake2b512, Digest as _};
use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{DecapsulationKey768, Seed};

use crate::hash::twox_128;

/// The bytes before the encapsulated key: a hash of the announced key, and a length.
const KEY_HASH_LEN: usize = 16;
const KEM_LEN: usize = 1_088;
const NONCE_LEN: usize = 24;
/// The longest ciphertext; `submit_encrypted` is bounded to it.
const CIPHERTEXT_BYTES_MAX: usize = 8_192;

const CONTEXT: &[u8] = b"nicompute-devnet shield key";

/// The chain's key pair.
#[derive(Debug)]
pub(crate) struct ShieldKey {
    secret: DecapsulationKey768,
    announced: Vec<u8>,
}

/// A ciphertext taken apart.
struct Parts<'c> {
    kem: &'c [u8],
    nonce: &'c [u8],
    sealed: &'c [u8],
}

impl ShieldKey {
    /// The key pair of the chain with this genesis nonce.
    pub(crate) fn new(genesis_nonce: &[u8]) -> Self {
        let mut hasher = Blake2b512::new();
        hasher.update(CONTEXT);
        hasher.update(genesis_nonce);
        let seed: [u8; 64] = hasher.finalize().into();
        let secret = DecapsulationKey768::from_seed(Seed::from(seed));
        let announced = secret.encapsulation_key().to_bytes().to_vec();
        Self { secret, announced }
    }

    /// The key that clients encrypt for.
    pub(crate) fn announced(&self) -> &[u8] {
        &self.announced
    }

    /// Whether a ciphertext has the right form and is for this key.
    pub(crate) fn accepts(&self, ciphertext: &[u8]) -> bool {
        self.parts(ciphertext).is_some()
    }

    /// The extrinsic inside; none if the ciphertext is for another key or was changed.
    pub(crate) fn open(&self, ciphertext: &[u8]) -> Option<Vec<u8>> {
        let parts = self.parts(ciphertext)?;
        let shared = self.secret.decapsulate(&parts.kem.try_into().ok()?);
        let cipher = XChaCha20Poly1305::new_from_slice(&shared).ok()?;
        cipher.decrypt(XNonce::from_slice(parts.nonce), parts.sealed).ok()
    }

    fn parts<'c>(&self, ciphertext: &'c [u8]) -> Option<Parts<'c>> {
        if ciphertext.len() > CIPHERTEXT_BYTES_MAX {
            return None;
        }
        let (key_hash, rest) = ciphertext.split_at_checked(KEY_HASH_LEN)?;
        let (len, rest) = rest.split_at_checked(2)?;
        let len = usize::from(u16::from_le_bytes(len.try_into().ok()?));
        let (kem, rest) = rest.split_at_checked(len)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let ours = key_hash == twox_128(&self.announced) && len == KEM_LEN;
        ours.then_some(Parts { kem, nonce, sealed })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ml_kem::kem::TryKeyInit as _;

    use super::*;

    /// Encrypts as clients do, with a fixed message in place of randomness.
    pub(crate) fn seal(announced: &[u8], inner: &[u8]) -> Vec<u8> {
        let key = ml_kem::EncapsulationKey768::new_from_slice(announced).unwrap();
        let (kem, shared) = key.encapsulate_deterministic(&ml_kem::B32::from([7; 32]));
        let nonce = [3; NONCE_LEN];
        let cipher = XChaCha20Poly1305::new_from_slice(&shared).unwrap();
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), inner).unwrap();
        let len = u16::try_from(kem.len()).unwrap().to_le_bytes();
        [&twox_128(announced)[..], &len, &kem, &nonce, &sealed].concat()
    }

    /// A shield that opens to other bytes, or opens changed ones, loses or forges a transaction.
    #[test]
    fn what_was_sealed_opens_and_nothing_else() {
        let key = ShieldKey::new(&[1; 32]);
        assert_eq!(key.announced().len(), 1_184);
        let sealed = seal(key.announced(), b"inner");
        assert_eq!(key.open(&sealed).as_deref(), Some(&b"inner"[..]));
        assert_eq!(ShieldKey::new(&[2; 32]).open(&sealed), None);
        for at in [0, 16, 20, 1_106, 1_130, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&changed), None, "byte {at}");
        }
        for len in 0..sealed.len() {
            assert_eq!(key.open(&sealed[..len]), None);
        }
        assert!(!key.accepts(&[0; CIPHERTEXT_BYTES_MAX + 1]));
    }
}
