//! The key of one lease.

use std::fmt;
use std::sync::Arc;

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;

/// An ed25519 key that is made for one lease and used for no other. `Debug` shows the public half.
#[derive(Clone)]
pub struct LeaseKey(Arc<PrivateKey>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum LeaseKeyError {
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness(#[source] getrandom::Error),
    /// Not a private key in OpenSSH's format, or an encrypted one.
    #[error("not an unencrypted OpenSSH private key")]
    Parse(#[source] russh::keys::ssh_key::Error),
    /// The key cannot be written as text.
    #[error("the key cannot be written in OpenSSH's format")]
    Write(#[source] russh::keys::ssh_key::Error),
}

impl LeaseKey {
    /// Draws a new key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, LeaseKeyError> {
        let mut seed = [0_u8; 32];
        getrandom::fill(&mut seed).map_err(LeaseKeyError::Randomness)?;
        Ok(Self(Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))))
    }

    /// Reads an unencrypted private key in OpenSSH's format.
    ///
    /// # Errors
    /// When the text is none.
    pub fn from_openssh(text: &str) -> Result<Self, LeaseKeyError> {
        let key = PrivateKey::from_openssh(text).map_err(LeaseKeyError::Parse)?;
        Ok(Self(Arc::new(key)))
    }

    /// The private key in OpenSSH's format, for a file that only its owner reads.
    ///
    /// # Errors
    /// When the library cannot write it.
    pub fn to_openssh(&self) -> Result<String, LeaseKeyError> {
        let text = self.0.to_openssh(LineEnding::LF).map_err(LeaseKeyError::Write)?;
        Ok(text.as_str().to_owned())
    }

    /// The public key as it stands in a lease request: `ssh-ed25519 AAAA…`.
    ///
    /// # Errors
    /// When the library cannot write it.
    pub fn public_openssh(&self) -> Result<String, LeaseKeyError> {
        let text = self.0.public_key().to_openssh().map_err(LeaseKeyError::Write)?;
        Ok(text.trim_end().to_owned())
    }

    pub(super) fn private(&self) -> Arc<PrivateKey> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeaseKey").field(&self.public_openssh().unwrap_or_default()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key file that OpenSSH or we cannot read again locks a renter out of a paid machine.
    #[test]
    fn a_key_survives_its_text() {
        let key = LeaseKey::generate().unwrap();
        let again = LeaseKey::from_openssh(&key.to_openssh().unwrap()).unwrap();
        assert_eq!(again.public_openssh().unwrap(), key.public_openssh().unwrap());
        assert!(key.public_openssh().unwrap().starts_with("ssh-ed25519 AAAA"));
        assert!(!format!("{key:?}").contains("PRIVATE"));
        assert!(LeaseKey::from_openssh("x").is_err());
    }
}
