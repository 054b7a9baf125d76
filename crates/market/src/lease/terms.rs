//! What was agreed when a lease was asked for. It is stored with the lease and never computed again: what an offer says
//! later changes nothing about a lease that runs.

use std::str::FromStr;

use crate::{Hotkey, LeaseId, MicroUsd, OfferId, RuntimeClass};

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A validator proves the machine.
    Proof,
    /// A renter works on it.
    Rental,
}

/// What was agreed when the lease was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The lease's name, drawn by the caller.
    pub id: LeaseId,
    /// What is leased.
    pub offer: OfferId,
    /// What for.
    pub purpose: Purpose,
    /// The hotkey that asked: a validator, or a caller of the v1.9.0 door.
    pub holder: Hotkey,
    /// What of the machine it is given.
    pub share: Share,
    /// What an hour costs, where a price was agreed.
    pub price_per_hour: Option<MicroUsd>,
    /// Who may enter.
    pub keys: LeaseKeys,
    /// The image to start.
    pub image: String,
    /// What it asked for beyond its share.
    pub options: LeaseOptions,
    /// How it is entered and changed where it was made through the v1.9.0 door.
    pub legacy: Option<LegacyAccess>,
}

/// A part of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    /// Processor time, in thousandths of a core.
    pub cores_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
    /// UUIDs of exactly the GPUs that it sees.
    pub gpus: Vec<String>,
}

/// The keys of a lease, in two slots: what is done to one leaves the other as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseKeys {
    /// OpenSSH public keys of whoever rents it.
    pub user: Vec<String>,
    /// The key of a terminal that the renter's market puts beside them.
    pub terminal: Option<String>,
}

/// One of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum KeySlot {
    /// The keys of whoever rents it.
    #[default]
    User,
    /// The key of a terminal.
    Terminal,
}

/// What a lease asked for beyond its share; the default asks for nothing. Whether it can be had says the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseOptions {
    /// What runs its processes.
    pub class: RuntimeClass,
    /// Bytes of `/dev/shm`; half of the memory where it is left out.
    pub shm_bytes: Option<u64>,
    /// Whether the image's own files stay as they are.
    pub read_only_root: bool,
    /// Directories that outlive a restart and are wiped at the lease's end.
    pub volumes: Vec<LeaseVolume>,
    /// Memory file systems: where, and how many bytes.
    pub tmpfs: Vec<(String, u64)>,
    /// Names and values for every process. They may be secret: they are shown to nobody.
    pub environment: Vec<(String, String)>,
    /// TCP ports of the container that are reached through the node.
    pub ports: Vec<u16>,
    /// Whether it reaches the outside.
    pub network: LeaseNetwork,
    /// Whether clients of the SSH gateway may lend their keys to programs inside.
    pub agent_forwarding: bool,
}

/// A directory that outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseVolume {
    /// Letters, digits, `-` and `_`; unique in its lease.
    pub name: String,
    /// Where it is seen in the container.
    pub target: String,
    /// Its size, where it is to be held to one.
    pub bytes: Option<u64>,
}

/// Whether a lease's processes reach the outside by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LeaseNetwork {
    /// Only through the gateway.
    #[default]
    None,
    /// A wire to the outside under the provider's rules.
    Egress,
}

/// How a lease of the v1.9.0 door is entered and changed.
#[derive(Clone, PartialEq, Eq)]
pub struct LegacyAccess {
    /// SHA-256 of the RSA public key, stripped, that the lease was asked for with: whoever shows it may change the lease.
    pub owner_key_sha256: [u8; 32],
    /// The password as the gateway keeps it; the password itself is nowhere.
    pub password_hash: String,
}

/// A name that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what}, expected {expected}")]
pub struct UnknownTerm {
    /// What was to be named.
    what: &'static str,
    /// What there is.
    expected: &'static str,
}

/// A purpose that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown purpose, expected proof or rental")]
pub struct UnknownPurpose;

// === impl Purpose ===

impl Purpose {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Rental => "rental",
        }
    }
}

impl FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "proof" => Ok(Self::Proof),
            "rental" => Ok(Self::Rental),
            _ => Err(UnknownPurpose),
        }
    }
}

// === impl LeaseKeys ===

impl LeaseKeys {
    /// Keys of whoever rents it, and none of a terminal.
    #[must_use]
    pub const fn of_user(user: Vec<String>) -> Self {
        Self { user, terminal: None }
    }

    /// Every key that may enter, the user's first, each once.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let mut all = self.user.clone();
        all.extend(self.terminal.iter().filter(|key| !self.user.contains(key)).cloned());
        all
    }
}

// === impl KeySlot ===

impl KeySlot {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Terminal => "terminal",
        }
    }
}

impl FromStr for KeySlot {
    type Err = UnknownTerm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "user" => Ok(Self::User),
            "terminal" => Ok(Self::Terminal),
            _ => Err(UnknownTerm { what: "key slot", expected: "user or terminal" }),
        }
    }
}

// === impl LeaseNetwork ===

impl LeaseNetwork {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Egress => "egress",
        }
    }
}

impl FromStr for LeaseNetwork {
    type Err = UnknownTerm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "egress" => Ok(Self::Egress),
            _ => Err(UnknownTerm { what: "network", expected: "none or egress" }),
        }
    }
}

// === impl LegacyAccess ===

impl std::fmt::Debug for LegacyAccess {
    /// A password's hash is for the store alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LegacyAccess").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that does not read back would be another thing than what was agreed.
    #[test]
    fn names_read_back() {
        for purpose in [Purpose::Proof, Purpose::Rental] {
            assert_eq!(purpose.as_str().parse(), Ok(purpose));
        }
        for slot in [KeySlot::User, KeySlot::Terminal] {
            assert_eq!(slot.as_str().parse(), Ok(slot));
        }
        for network in [LeaseNetwork::None, LeaseNetwork::Egress] {
            assert_eq!(network.as_str().parse(), Ok(network));
        }
        assert!("".parse::<KeySlot>().is_err() && "Egress".parse::<LeaseNetwork>().is_err());
    }

    /// A key that stands in both slots must not enter twice, nor vanish with one of them.
    #[test]
    fn both_slots_enter() {
        let keys = LeaseKeys { user: vec!["a".to_owned()], terminal: Some("b".to_owned()) };
        assert_eq!(keys.all(), ["a", "b"]);
        let same = LeaseKeys { user: vec!["a".to_owned()], terminal: Some("a".to_owned()) };
        assert_eq!(same.all(), ["a"]);
    }

    /// A log line with a password's hash would let its reader try passwords at leisure.
    #[test]
    fn a_passwords_hash_is_not_printed() {
        let access = LegacyAccess { owner_key_sha256: [1; 32], password_hash: "secret".to_owned() };
        assert!(!format!("{access:?}").contains("secret"));
    }
}
