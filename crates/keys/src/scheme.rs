//! Which signature scheme a key belongs to.

use std::fmt;
use std::str::FromStr;

/// The two signature schemes that Bittensor's keys use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// Schnorr signatures over Ristretto, signing context `substrate`; the default of every wallet.
    Sr25519,
    /// Ed25519 as in RFC 8032.
    Ed25519,
}

/// The text names neither scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a signature scheme is \"sr25519\" or \"ed25519\"")]
pub struct ParseSchemeError;

impl Scheme {
    /// Both schemes, the usual one first.
    pub const ALL: [Self; 2] = [Self::Sr25519, Self::Ed25519];

    /// The name in keyfiles' neighbours: URLs, headers, command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sr25519 => "sr25519",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The number that keyfiles store as `cryptoType`.
    #[must_use]
    pub const fn crypto_type(self) -> u8 {
        match self {
            Self::Ed25519 => 0,
            Self::Sr25519 => 1,
        }
    }

    /// The scheme behind a keyfile's `cryptoType`.
    #[must_use]
    pub const fn from_crypto_type(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Ed25519),
            1 => Some(Self::Sr25519),
            _ => None,
        }
    }

    /// The scheme that is not this one.
    #[must_use]
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Sr25519 => Self::Ed25519,
            Self::Ed25519 => Self::Sr25519,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scheme {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == text).ok_or(ParseSchemeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scheme that changes its name or number would make our keyfiles and signatures unreadable elsewhere.
    #[test]
    fn names_and_numbers_round_trip() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
            assert_eq!(Scheme::from_crypto_type(scheme.crypto_type().into()), Some(scheme));
        }
        assert_eq!("SR25519".parse::<Scheme>(), Err(ParseSchemeError));
        assert_eq!(Scheme::from_crypto_type(2), None);
    }
}
