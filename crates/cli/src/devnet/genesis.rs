//! What a local chain begins with, as a file between `devnet up` and `devnet chain`.

use std::path::Path;

use anyhow::Context as _;
use nicompute_market::{AccountId, Coldkey, Hotkey};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// Coins of each party at the beginning: 1,000.
pub(crate) const ENDOWMENT_RAO: u64 = 1_000 * 1_000_000_000;
/// Alpha of each validator at the beginning: 100,000.
pub(crate) const VALIDATOR_STAKE_RAO: u64 = 100_000 * 1_000_000_000;
/// The longest genesis file that is read.
const BYTES_MAX: u64 = 1024 * 1024;

/// Accounts, subnets and validators of the first block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenesisFile {
    /// Accounts with coins.
    pub(crate) endowed: Vec<Endowed>,
    /// Subnets beside the root.
    pub(crate) subnets: Vec<Subnet>,
}

/// An account with coins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endowed {
    pub(crate) account: AccountId,
    pub(crate) rao: u64,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subnet {
    pub(crate) netuid: u16,
    pub(crate) owner_coldkey: Coldkey,
    pub(crate) owner_hotkey: Hotkey,
    pub(crate) tempo: u16,
    /// Whether weights are committed first and revealed later.
    #[serde(default)]
    pub(crate) commit_reveal: bool,
    pub(crate) validators: Vec<Validator>,
}

/// A validator that is registered with stake from the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Validator {
    pub(crate) hotkey: Hotkey,
    pub(crate) coldkey: Coldkey,
    pub(crate) stake_rao: u64,
}

impl GenesisFile {
    /// Reads a genesis file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let unusable = |problem: String| {
            Failure::new(Exit::Config, format!("--genesis {}: {problem}", path.display()))
        };
        let size =
            std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
        if size > BYTES_MAX {
            return Err(unusable(format!("{size} bytes, at most {BYTES_MAX} are read")).into());
        }
        let text = std::fs::read_to_string(path)?;
        Ok(serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?)
    }
}
