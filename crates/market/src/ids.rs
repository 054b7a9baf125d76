//! Names of things in the market. Drawing a fresh one needs randomness, so that is done by whoever creates the thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest offer id; it stands in URLs, logs and labels.
const OFFER_ID_LEN_MAX: usize = 64;

/// One lease, from the request to its last receipt. The caller draws it, so that asking twice is asking once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(Uuid);

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not a UUID in its usual text form.
    #[error("a lease id is a UUID such as 6f9619ff-8b86-4011-b42d-00c04fc964ff")]
    Lease,
    /// An offer id with characters or a length that no provider writes.
    #[error("an offer id has 1 to 64 characters out of a-z, 0-9 and '-'")]
    Offer,
}

impl LeaseId {
    /// A lease id from random bytes that the caller drew.
    #[must_use]
    pub fn from_random_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// The raw 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The first eight hex digits: the SSH user name and the part of names that people read.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LeaseId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError::Lease)
    }
}

/// One thing a provider offers, unique within that provider.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OfferId(String);

impl OfferId {
    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OfferId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > OFFER_ID_LEN_MAX || !text.chars().all(plain) {
            return Err(ParseIdError::Offer);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for OfferId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OfferId> for String {
    fn from(id: OfferId) -> Self {
        id.0
    }
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id that does not survive its own text would lose a lease between two daemons.
    #[test]
    fn lease_id_round_trips() {
        let id = LeaseId::from_random_bytes([7; 16]);
        assert_eq!(id.to_string().parse::<LeaseId>(), Ok(id));
        assert_eq!(id.short().len(), 8);
        assert_eq!("x".parse::<LeaseId>(), Err(ParseIdError::Lease));
    }

    /// A hostile offer id would end up in a URL path, a label or a file name.
    #[test]
    fn offer_ids_are_plain() {
        assert!("cpu-0".parse::<OfferId>().is_ok());
        for bad in ["", "../x", "A", "a b", "ü", &"a".repeat(65)] {
            assert_eq!(bad.parse::<OfferId>(), Err(ParseIdError::Offer), "{bad}");
        }
    }
}
