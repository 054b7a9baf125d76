//! Accounts as values: a 32-byte public key and its SS58 text.
//!
//! SS58 here is Substrate's generic prefix 42 and nothing else, as on every Bittensor network:
//! `base58(0x2a ‖ key ‖ blake2b-512("SS58PRE" ‖ 0x2a ‖ key)[..2])`.

use std::fmt;
use std::str::FromStr;

use blake2::{Blake2b512, Digest as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SS58_PREFIX: u8 = 42;
const CHECKSUM_CONTEXT: &[u8] = b"SS58PRE";
/// One prefix byte, 32 key bytes, two checksum bytes.
const DECODED_LEN: usize = 35;
/// The longest base58 text of 35 bytes; anything longer is refused before it is decoded.
const TEXT_LEN_MAX: usize = 49;

/// A public key on the chain: 32 bytes, shown as SS58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId([u8; 32]);

/// Why a text is not an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAccountError {
    /// The text is longer or shorter than any SS58 account.
    #[error("an SS58 address of {0} characters, expected 46 to 49")]
    Length(usize),
    /// A character outside the base58 alphabet.
    #[error("not base58 text: copy the address again, it has no 0, O, I or l")]
    Base58,
    /// An account of another network family.
    #[error("SS58 prefix {0}, expected 42 (Bittensor)")]
    Prefix(u8),
    /// Two checksum bytes that do not belong to this key.
    #[error("the checksum does not match: a character of the address is wrong")]
    Checksum,
}

impl AccountId {
    /// Wraps a raw public key. Any 32 bytes are a possible account.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The SS58 text, prefix 42.
    #[must_use]
    pub fn to_ss58(self) -> String {
        let mut raw = Vec::with_capacity(DECODED_LEN);
        raw.push(SS58_PREFIX);
        raw.extend_from_slice(&self.0);
        raw.extend_from_slice(&checksum(&self.0));
        bs58::encode(raw).into_string()
    }
}

fn checksum(key: &[u8; 32]) -> [u8; 2] {
    let mut hasher = Blake2b512::new();
    hasher.update(CHECKSUM_CONTEXT);
    hasher.update([SS58_PREFIX]);
    hasher.update(key);
    let digest: [u8; 64] = hasher.finalize().into();
    let [first, second, ..] = digest;
    [first, second]
}

impl FromStr for AccountId {
    type Err = ParseAccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > TEXT_LEN_MAX {
            return Err(ParseAccountError::Length(text.len()));
        }
        let raw = bs58::decode(text).into_vec().map_err(|_| ParseAccountError::Base58)?;
        let raw: [u8; DECODED_LEN] =
            raw.try_into().map_err(|_| ParseAccountError::Length(text.len()))?;
        let [prefix, rest @ ..] = raw;
        if prefix != SS58_PREFIX {
            return Err(ParseAccountError::Prefix(prefix));
        }
        let (key, given) = rest.split_at(32);
        let key: [u8; 32] = key.try_into().map_err(|_| ParseAccountError::Length(text.len()))?;
        if given != checksum(&key) {
            return Err(ParseAccountError::Checksum);
        }
        Ok(Self(key))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_ss58())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_ss58())
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! key_role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub AccountId);

        impl $name {
            /// Wraps a raw public key.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(AccountId::from_bytes(bytes))
            }

            /// The raw public key.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseAccountError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<AccountId> for $name {
            fn from(account: AccountId) -> Self {
                Self(account)
            }
        }
    };
}

key_role!(
    /// The key that a daemon holds and signs with; a neuron is known by it.
    Hotkey
);
key_role!(
    /// The key that owns coins and hotkeys; daemons know only its public half.
    Coldkey
);

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    /// A wrong SS58 codec would send weights and coins to nobody.
    #[test]
    fn alice_round_trips() {
        let alice: AccountId = ALICE.parse().unwrap();
        assert_eq!(
            hex::encode(alice.as_bytes()),
            "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
        );
        assert_eq!(alice.to_string(), ALICE);
        assert_eq!(serde_roundtrip(alice), alice);
    }

    /// A mistyped address must never parse into somebody else's account.
    #[test]
    fn each_changed_character_is_refused() {
        for at in 0..ALICE.len() {
            let mut text = ALICE.as_bytes().to_vec();
            text[at] = if text[at] == b'2' { b'3' } else { b'2' };
            let text = String::from_utf8(text).unwrap();
            assert!(text.parse::<AccountId>().is_err(), "{text} was accepted");
        }
        assert_eq!("".parse::<AccountId>(), Err(ParseAccountError::Length(0)));
        assert_eq!("1".repeat(50).parse::<AccountId>(), Err(ParseAccountError::Length(50)));
        assert_eq!("0OIl".parse::<AccountId>(), Err(ParseAccountError::Base58));
    }

    fn serde_roundtrip(account: AccountId) -> AccountId {
        let text = toml::to_string(&std::collections::BTreeMap::from([("a", account)])).unwrap();
        toml::from_str::<std::collections::BTreeMap<String, AccountId>>(&text).unwrap()["a"]
    }
}
