//! A key pair of either scheme: made, derived, signing; and the check of a signature.

use std::fmt;

use ed25519_dalek::Signer as _;
use nicompute_market::{AccountId, Coldkey, Hotkey};
use schnorrkel::derive::{ChainCode, Derivation as _};
use schnorrkel::{ExpansionMode, MiniSecretKey};
use zeroize::Zeroizing;

use crate::mnemonic::{self, MnemonicError, WordCount, generate_mnemonic};
use crate::scheme::Scheme;
use crate::uri::{self, Junction, Root, UriError};

/// Substrate's signing context for sr25519.
const SIGNING_CONTEXT: &[u8] = b"substrate";
/// The domain of Substrate's hard derivation of ed25519 keys, SCALE-encoded (11 bytes of text).
const ED25519_HARD_DOMAIN: &[u8] = b"\x2cEd25519HDKD";

/// A secret and public key. `Debug` shows the public half only; dropping wipes the secret.
///
/// A pair that came from a mnemonic or a seed remembers it, because Bittensor's keyfiles hold it.
#[derive(Clone)]
pub struct Keypair {
    secret: Secret,
    phrase: Option<Zeroizing<String>>,
    seed: Option<Zeroizing<[u8; 32]>>,
}

#[derive(Clone)]
enum Secret {
    Sr25519(Box<schnorrkel::Keypair>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

/// Raw private key bytes that no key of the scheme has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// sr25519 has 64 bytes; ed25519 has 32, or 64 with its public half.
    #[error("a private key of {len} bytes is no {scheme} key")]
    Length {
        /// The scheme that was asked for.
        scheme: Scheme,
        /// The length that was given.
        len: usize,
    },
    /// The right length and not a valid secret.
    #[error("the private key is not a valid {0} secret")]
    Invalid(Scheme),
}

/// Checks a signature over the message, under exactly this scheme.
///
/// The all-zero account is refused whatever the signature: on sr25519 it is the neutral point, for which anybody can
/// make signatures, and on the chain it stands for "nobody".
#[must_use]
pub fn verify(scheme: Scheme, account: &AccountId, message: &[u8], signature: &[u8; 64]) -> bool {
    if account.as_bytes() == &[0; 32] {
        return false;
    }
    match scheme {
        Scheme::Sr25519 => {
            let key = schnorrkel::PublicKey::from_bytes(account.as_bytes());
            let signature = schnorrkel::Signature::from_bytes(signature);
            matches!((key, signature), (Ok(key), Ok(signature))
                if key.verify_simple(SIGNING_CONTEXT, message, &signature).is_ok())
        }
        Scheme::Ed25519 => {
            let signature = ed25519_dalek::Signature::from_bytes(signature);
            ed25519_dalek::VerifyingKey::from_bytes(account.as_bytes())
                .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
        }
    }
}

// === impl Keypair ===

impl Keypair {
    /// Draws a new pair with a mnemonic of twelve words.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give.
    #[must_use]
    pub fn generate(scheme: Scheme) -> Self {
        Self::from_mnemonic(&generate_mnemonic(WordCount::Twelve), scheme)
            .expect("a mnemonic that was just drawn is valid")
    }

    /// The pair behind a mnemonic.
    ///
    /// # Errors
    /// Where the phrase is not a BIP-39 mnemonic; the error says which word is wrong by its position.
    pub fn from_mnemonic(phrase: &str, scheme: Scheme) -> Result<Self, MnemonicError> {
        let checked = mnemonic::check(phrase, "")?;
        let mut pair = Self::from_seed(*checked.seed, scheme);
        pair.phrase = Some(checked.phrase);
        Ok(pair)
    }

    /// The pair behind a 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32], scheme: Scheme) -> Self {
        let seed = Zeroizing::new(seed);
        Self { secret: Secret::from_seed(&seed, scheme), phrase: None, seed: Some(seed) }
    }

    /// The pair behind raw private key bytes as keyfiles hold them.
    ///
    /// # Errors
    /// Where the bytes have the wrong length or are not a secret of the scheme.
    pub fn from_private_key(bytes: &[u8], scheme: Scheme) -> Result<Self, PrivateKeyError> {
        let wrong = || PrivateKeyError::Length { scheme, len: bytes.len() };
        match scheme {
            Scheme::Sr25519 => {
                if bytes.len() != schnorrkel::SECRET_KEY_LENGTH {
                    return Err(wrong());
                }
                let secret = schnorrkel::SecretKey::from_bytes(bytes)
                    .map_err(|_| PrivateKeyError::Invalid(scheme))?;
                let secret = Secret::Sr25519(Box::new(secret.to_keypair()));
                Ok(Self { secret, phrase: None, seed: None })
            }
            Scheme::Ed25519 => {
                if bytes.len() != 32 && bytes.len() != 64 {
                    return Err(wrong());
                }
                let (seed, public) = bytes.split_at(32);
                let seed: [u8; 32] = seed.try_into().map_err(|_| wrong())?;
                let pair = Self::from_seed(seed, scheme);
                if !public.is_empty() && public != pair.account().as_bytes() {
                    return Err(PrivateKeyError::Invalid(scheme));
                }
                Ok(pair)
            }
        }
    }

    /// The pair behind a secret URI such as `//Alice` or `<mnemonic>//hard/soft///password`.
    ///
    /// # Errors
    /// Where the URI is malformed, or asks for a soft derivation of an ed25519 key.
    pub fn from_uri(text: &str, scheme: Scheme) -> Result<Self, UriError> {
        let (root, path) = uri::parse(text)?;
        let seed = match root {
            Root::Phrase { phrase, password } => {
                mnemonic::check(phrase, password).map_err(UriError::Phrase)?.seed
            }
            Root::Seed(seed) => seed,
        };
        let mut secret = Secret::from_seed(&seed, scheme);
        for step in path {
            secret = secret.derive(&step)?;
        }
        Ok(Self { secret, phrase: None, seed: None })
    }

    /// The scheme of this pair.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match self.secret {
            Secret::Sr25519(_) => Scheme::Sr25519,
            Secret::Ed25519(_) => Scheme::Ed25519,
        }
    }

    /// The public half.
    #[must_use]
    pub fn account(&self) -> AccountId {
        AccountId::from_bytes(match &self.secret {
            Secret::Sr25519(pair) => pair.public.to_bytes(),
            Secret::Ed25519(key) => key.verifying_key().to_bytes(),
        })
    }

    /// The public half, where this pair is a hotkey.
    #[must_use]
    pub fn hotkey(&self) -> Hotkey {
        Hotkey(self.account())
    }

    /// The public half, where this pair is a coldkey.
    #[must_use]
    pub fn coldkey(&self) -> Coldkey {
        Coldkey(self.account())
    }

    /// Signs a message. sr25519 signatures are randomised, ed25519 ones are not.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match &self.secret {
            Secret::Sr25519(pair) => pair.sign_simple(SIGNING_CONTEXT, message).to_bytes(),
            Secret::Ed25519(key) => key.sign(message).to_bytes(),
        }
    }

    /// The mnemonic that this pair came from, where it came from one. It is the key: show it to its owner only.
    #[must_use]
    pub fn mnemonic(&self) -> Option<&str> {
        self.phrase.as_ref().map(|phrase| phrase.as_str())
    }

    /// The 32-byte seed, where it is known.
    pub(crate) fn seed(&self) -> Option<&[u8; 32]> {
        self.seed.as_deref()
    }

    /// The private key as keyfiles hold it: 64 bytes for sr25519, the 32-byte seed for ed25519.
    pub(crate) fn private_key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match &self.secret {
            Secret::Sr25519(pair) => Zeroizing::new(pair.secret.to_bytes()).to_vec(),
            Secret::Ed25519(key) => key.as_bytes().to_vec(),
        })
    }

    /// Adds what a keyfile says about the origin of a pair that was read from its private key, if it is true.
    pub(crate) fn with_origin_of(mut self, other: &Self) -> Self {
        if other.account() == self.account() && other.scheme() == self.scheme() {
            self.phrase = self.phrase.or_else(|| other.phrase.clone());
            self.seed = self.seed.or_else(|| other.seed.clone());
        }
        self
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("scheme", &self.scheme())
            .field("account", &self.account())
            .finish_non_exhaustive()
    }
}

// === impl Secret ===

impl Secret {
    fn from_seed(seed: &[u8; 32], scheme: Scheme) -> Self {
        match scheme {
            Scheme::Sr25519 => Self::from_mini(
                &MiniSecretKey::from_bytes(seed).expect("any 32 bytes are a mini secret"),
            ),
            Scheme::Ed25519 => Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))),
        }
    }

    fn from_mini(mini: &MiniSecretKey) -> Self {
        Self::Sr25519(Box::new(mini.expand_to_keypair(ExpansionMode::Ed25519)))
    }

    fn derive(&self, step: &Junction) -> Result<Self, UriError> {
        let code = ChainCode(step.chain_code);
        match self {
            Self::Sr25519(pair) if step.hard => {
                let (mini, _) = pair.secret.hard_derive_mini_secret_key(Some(code), b"");
                Ok(Self::from_mini(&mini))
            }
            Self::Sr25519(pair) => {
                let (derived, _) = pair.derived_key_simple(code, b"");
                Ok(Self::Sr25519(Box::new(derived)))
            }
            Self::Ed25519(key) if step.hard => {
                use blake2::Digest as _;
                let hash = blake2::Blake2b::<blake2::digest::consts::U32>::new()
                    .chain_update(ED25519_HARD_DOMAIN)
                    .chain_update(key.as_bytes())
                    .chain_update(step.chain_code);
                let seed: Zeroizing<[u8; 32]> = Zeroizing::new(hash.finalize().into());
                Ok(Self::from_seed(&seed, Scheme::Ed25519))
            }
            Self::Ed25519(_) => Err(UriError::SoftEd25519),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key in a log line would be a leak.
    #[test]
    fn debug_shows_the_public_half_only() {
        let pair = Keypair::from_seed([0x11; 32], Scheme::Sr25519);
        assert_eq!(
            format!("{pair:?}"),
            "Keypair { scheme: Sr25519, account: 5DtDLm5rQHShDqojQpsvcN8tRXHVFaecfDoRet1SU6BFD9Fi, .. }"
        );
    }

    /// A signature must hold for its message, its signer and its scheme only.
    #[test]
    fn signatures_are_bound() {
        for scheme in Scheme::ALL {
            let (pair, other) = (Keypair::generate(scheme), Keypair::generate(scheme));
            let signature = pair.sign(b"message");
            assert!(verify(scheme, &pair.account(), b"message", &signature));
            assert!(!verify(scheme, &pair.account(), b"messagf", &signature));
            assert!(!verify(scheme, &other.account(), b"message", &signature));
            assert!(!verify(scheme.other(), &pair.account(), b"message", &signature));
            for bit in [0, 255, 256, 511] {
                let mut changed = signature;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(!verify(scheme, &pair.account(), b"message", &changed), "bit {bit}");
            }
        }
    }

    /// Anybody can sign for the neutral point; nobody may pass as the chain's "nobody" account.
    #[test]
    fn the_zero_account_signs_nothing() {
        let zero = AccountId::from_bytes([0; 32]);
        // s = 0, R = neutral: a valid Schnorr equation for the neutral public key.
        let mut forged = [0u8; 64];
        forged[63] = 0x80;
        let key = schnorrkel::PublicKey::from_bytes(&[0; 32]).unwrap();
        let parsed = schnorrkel::Signature::from_bytes(&forged).unwrap();
        assert!(key.verify_simple(SIGNING_CONTEXT, b"anything", &parsed).is_ok());
        assert!(!verify(Scheme::Sr25519, &zero, b"anything", &forged));
        assert!(!verify(Scheme::Ed25519, &zero, b"anything", &forged));
    }

    /// A private key of the other scheme's length must not be cut to fit.
    #[test]
    fn private_keys_have_their_length() {
        let pair = Keypair::generate(Scheme::Sr25519);
        let bytes = pair.private_key();
        let again = Keypair::from_private_key(&bytes, Scheme::Sr25519).unwrap();
        assert_eq!(again.account(), pair.account());
        let short = Keypair::from_private_key(&bytes[..32], Scheme::Sr25519);
        assert_eq!(
            short.unwrap_err(),
            PrivateKeyError::Length { scheme: Scheme::Sr25519, len: 32 }
        );
        let ed = Keypair::from_private_key(&bytes, Scheme::Ed25519);
        assert_eq!(ed.unwrap_err(), PrivateKeyError::Invalid(Scheme::Ed25519));
        let all = Keypair::from_private_key(&[0xff; 64], Scheme::Sr25519);
        assert_eq!(all.unwrap_err(), PrivateKeyError::Invalid(Scheme::Sr25519));
    }
}
