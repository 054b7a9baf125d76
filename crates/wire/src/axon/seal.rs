//! The caller's RSA key and the answer that only its owner can read.
//!
//! NI Compute 1.9.0 answers an order with `base64(RSA-OAEP(SHA-256, MGF1-SHA-256, no label))` over a small JSON, and knows
//! the key ever after as the mark of the lease's owner. The key is written by a stranger: its text is bounded before it is
//! read, and what no honest client makes is refused by name.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use getrandom_sys::SysRng;
use rsa::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use rsa::sha2::{Digest as _, Sha256};
use rsa::traits::{PaddingScheme as _, PublicKeyParts as _};
use rsa::{BoxedUint, Oaep, RsaPublicKey};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::axon::PROTOCOL_VERSION;

/// Characters of a key's PEM. One of 4096 bits has 800.
pub const CALLER_KEY_CHARS_MAX: usize = 2048;
/// The smallest modulus: what 1.9.0 makes.
pub const CALLER_KEY_BITS_MIN: u32 = 2048;
/// The largest modulus: a larger one costs more than it is worth here.
pub const CALLER_KEY_BITS_MAX: u32 = 4096;
/// The smallest exponent. Everything that makes keys takes this one; below it padding is all that stands.
const EXPONENT_MIN: u64 = 65_537;
/// Bytes that a key of 2048 bits can seal: 256 less two hashes and two.
pub const SEALED_BYTES_MAX: usize = 190;

/// An RSA public key that an answer can be sealed for.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerKey {
    key: RsaPublicKey,
    sha256: [u8; 32],
}

/// How to enter a lease, as 1.9.0 tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// The password of `root`.
    pub password: Zeroizing<String>,
    /// The port of the SSH door.
    pub port: u16,
}

/// A key that nothing is sealed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallerKeyError {
    /// None was given.
    #[error("public_key is empty")]
    Empty,
    /// Above [`CALLER_KEY_CHARS_MAX`].
    #[error("public_key has more than {CALLER_KEY_CHARS_MAX} characters")]
    Long,
    /// No PEM, another kind of key, or damaged.
    #[error("public_key is no RSA public key in PEM (-----BEGIN PUBLIC KEY-----)")]
    NoKey,
    /// Fewer bits than [`CALLER_KEY_BITS_MIN`] or more than [`CALLER_KEY_BITS_MAX`].
    #[error("public_key has {bits} bits, {CALLER_KEY_BITS_MIN} to {CALLER_KEY_BITS_MAX} are taken")]
    Bits {
        /// How many.
        bits: u32,
    },
    /// An exponent that no honest client takes.
    #[error("public_key has an exponent below {EXPONENT_MIN}")]
    Exponent,
}

/// An answer that could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Above [`SEALED_BYTES_MAX`].
    #[error("the answer has more than {SEALED_BYTES_MAX} bytes")]
    Long,
    /// The system gave no random numbers, or the key is not usable after all.
    #[error("the answer cannot be encrypted")]
    Failed,
}

/// The JSON inside, in the order of 1.9.0.
#[derive(Serialize)]
struct Inside<'a> {
    username: &'static str,
    password: &'a str,
    port: u16,
    version: u32,
}

// === impl CallerKey ===

impl CallerKey {
    /// Reads a key's PEM. Space around it does not count.
    ///
    /// # Errors
    /// When there is none, or it is none that an answer is sealed for.
    pub fn parse(pem: &str) -> Result<Self, CallerKeyError> {
        if pem.len() > CALLER_KEY_CHARS_MAX {
            return Err(CallerKeyError::Long);
        }
        let pem = pem.trim();
        if pem.is_empty() {
            return Err(CallerKeyError::Empty);
        }
        let key = RsaPublicKey::from_public_key_pem(pem).map_err(|_| CallerKeyError::NoKey)?;
        let bits = key.n().bits_vartime();
        if !(CALLER_KEY_BITS_MIN..=CALLER_KEY_BITS_MAX).contains(&bits) {
            return Err(CallerKeyError::Bits { bits });
        }
        if *key.e() < BoxedUint::from(EXPONENT_MIN) {
            return Err(CallerKeyError::Exponent);
        }
        // Of the key and not of its text: line ends and spaces make no other owner.
        let der = key.to_public_key_der().map_err(|_| CallerKeyError::NoKey)?;
        Ok(Self { sha256: Sha256::digest(der.as_bytes()).into(), key })
    }

    /// SHA-256 over the key's DER (`SubjectPublicKeyInfo`): by this its owner is known again.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The `info` of an answer: how to enter, for the owner of this key alone.
    ///
    /// # Errors
    /// When the password is too long, or the system gives no random numbers.
    pub fn seal(&self, access: &Access) -> Result<String, SealError> {
        let plain = access.json();
        if plain.len() > SEALED_BYTES_MAX {
            return Err(SealError::Long);
        }
        let sealed = Oaep::<Sha256>::new().encrypt(&mut SysRng, &self.key, plain.as_bytes());
        sealed.map(|sealed| STANDARD.encode(sealed)).map_err(|_| SealError::Failed)
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallerKey").field(&hex::encode(self.sha256)).finish()
    }
}

// === impl Access ===

impl Access {
    /// As Python's `json.dumps` writes it.
    fn json(&self) -> Zeroizing<String> {
        let inside = Inside {
            username: "root",
            password: &self.password,
            port: self.port,
            version: PROTOCOL_VERSION,
        };
        Zeroizing::new(serde_json::to_string(&inside).expect("two texts and two numbers"))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("port", &self.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rsa::RsaPrivateKey;
    use rsa::pkcs8::{DecodePrivateKey as _, LineEnding};

    use super::*;

    const PRIVATE: &str = include_str!("../../testdata/caller2048.pem");
    const PUBLIC: &str = include_str!("../../testdata/caller2048.pub.pem");
    const PUBLIC_1024: &str = include_str!("../../testdata/caller1024.pub.pem");
    const PUBLIC_4096: &str = include_str!("../../testdata/caller4096.pub.pem");
    const PUBLIC_4104: &str = include_str!("../../testdata/caller4104.pub.pem");
    const PUBLIC_16384: &str = include_str!("../../testdata/caller16384.pub.pem");
    const PUBLIC_E3: &str = include_str!("../../testdata/caller2048e3.pub.pem");
    const PUBLIC_EC: &str = include_str!("../../testdata/p256.pub.pem");

    fn open(info: &str) -> String {
        let key = RsaPrivateKey::from_pkcs8_pem(PRIVATE).unwrap();
        let sealed = STANDARD.decode(info).unwrap();
        assert_eq!(sealed.len(), 256);
        String::from_utf8(key.decrypt(Oaep::<Sha256>::new(), &sealed).unwrap()).unwrap()
    }

    fn access(password: &str) -> Access {
        Access { password: Zeroizing::new(password.to_owned()), port: 4444 }
    }

    /// A peer that cannot open the answer, or reads another field in it, never enters what it rented.
    #[test]
    fn the_answer_opens_with_the_callers_key() {
        let key = CallerKey::parse(PUBLIC).unwrap();
        let info = key.seal(&access("0123456789")).unwrap();
        assert_eq!(info.len(), 344);
        let inside = r#"{"username":"root","password":"0123456789","port":4444,"version":190}"#;
        assert_eq!(open(&info), inside);
        assert_ne!(key.seal(&access("0123456789")).unwrap(), info, "sealed with fresh randomness");
    }

    /// What a 2048-bit key cannot carry must be refused here, not break the one order in a thousand.
    #[test]
    fn the_limit_of_what_is_sealed() {
        let key = CallerKey::parse(PUBLIC).unwrap();
        let around = access("").json().len();
        let longest = "x".repeat(SEALED_BYTES_MAX - around);
        assert!(open(&key.seal(&access(&longest)).unwrap()).contains(&longest));
        assert_eq!(key.seal(&access(&format!("{longest}x"))), Err(SealError::Long));
    }

    /// The owner of a lease must be known again by the same key, however its client ends its lines.
    #[test]
    fn one_key_is_one_owner() {
        let key = CallerKey::parse(PUBLIC).unwrap();
        for same in [
            PUBLIC.trim().to_owned(),
            format!("\n  {PUBLIC}\n\n"),
            PUBLIC.replace('\n', "\r\n"),
            key.key.to_public_key_pem(LineEnding::CRLF).unwrap(),
        ] {
            assert_eq!(CallerKey::parse(&same).unwrap().sha256(), key.sha256(), "{same:?}");
        }
        assert_ne!(CallerKey::parse(PUBLIC_4096).unwrap().sha256(), key.sha256());
    }

    /// A key that seals nothing, or costs seconds to look at, must be refused by what is wrong with it.
    #[test]
    fn other_keys_are_refused() {
        let pem = |inside: &str| {
            format!("-----BEGIN PUBLIC KEY-----\n{inside}\n-----END PUBLIC KEY-----\n")
        };
        let cases = [
            (String::new(), CallerKeyError::Empty),
            (" \r\n\t".to_owned(), CallerKeyError::Empty),
            ("PEM".to_owned(), CallerKeyError::NoKey),
            (pem("AAAA"), CallerKeyError::NoKey),
            (pem("$(touch /tmp/x)"), CallerKeyError::NoKey),
            (PRIVATE.to_owned(), CallerKeyError::NoKey),
            (PUBLIC.replace("PUBLIC", "RSA PUBLIC"), CallerKeyError::NoKey),
            (PUBLIC.replacen('A', "B", 1), CallerKeyError::NoKey),
            (PUBLIC.replace("-----END", "\u{0}-----END"), CallerKeyError::NoKey),
            (PUBLIC_EC.to_owned(), CallerKeyError::NoKey),
            (PUBLIC_E3.to_owned(), CallerKeyError::Exponent),
            (PUBLIC_1024.to_owned(), CallerKeyError::Bits { bits: 1024 }),
            (PUBLIC_4104.to_owned(), CallerKeyError::Bits { bits: 4104 }),
            (PUBLIC_16384.to_owned(), CallerKeyError::Long),
            ("x".repeat(16 * 1024), CallerKeyError::Long),
        ];
        for (text, error) in cases {
            assert_eq!(CallerKey::parse(&text).unwrap_err(), error, "{text}");
        }
        assert!(CallerKey::parse(PUBLIC_4096).is_ok());
    }

    /// The password must not reach a log by way of a debugging line.
    #[test]
    fn what_is_secret_is_not_shown() {
        assert!(!format!("{:?}", access("geheim")).contains("geheim"));
    }

    proptest! {
        /// A damaged key must not end the node: it is one more refusal.
        #[test]
        fn damaged_keys_never_panic(at in 0_usize..460, byte in 0_u8..128, cut in 0_usize..460) {
            let mut bytes = PUBLIC.as_bytes().to_vec();
            let last = bytes.len().saturating_sub(1);
            bytes[at.min(last)] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut.min(last)));
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(key) = CallerKey::parse(&text) {
                prop_assert!(key.seal(&access("0123456789")).is_ok());
            }
        }
    }
}
