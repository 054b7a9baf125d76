//! What can be done to a running chain on purpose, to see whether its clients bear it.

use serde::{Deserialize, Serialize};

/// The longest stall.
pub const STALL_MS_MAX: u64 = 10 * 60 * 1_000;

/// A fault on command. As JSON it is `{"stall": {"ms": 5000}}`, `{"fork": {"depth": 3}}`, `"restart"`, or
/// `{"upgrade": {"change": "all"}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Chaos {
    /// No blocks for a while.
    Stall {
        /// How long, in milliseconds.
        ms: u64,
        /// What clients hear meanwhile.
        #[serde(default)]
        answers: Answers,
    },
    /// The newest blocks are thrown away, and a longer branch takes their place.
    Fork {
        /// How many blocks are thrown away; at most the finality lag.
        depth: u32,
        /// Lose the extrinsics of those blocks instead of putting them back into the pool.
        #[serde(default)]
        drop: bool,
    },
    /// Every connection is closed, the pool is lost, and the chain goes on from its disk on the same port.
    Restart,
    /// A newer runtime with other metadata, in the next block.
    Upgrade {
        /// What changes besides the version.
        #[serde(default)]
        change: Change,
    },
}

/// Whether a stalled chain answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// It answers; only blocks are missing.
    #[default]
    Given,
    /// Connections stay open and nothing comes over them until the stall is over.
    Withheld,
}

/// What an upgrade changes besides the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing else.
    Version,
    /// Subtensor's calls get other numbers; the next such upgrade moves them back.
    Calls,
    /// There is a storage item more, `SubtensorModule.DevnetUpgrades`.
    Storage,
    /// The metadata writes single-field types in the other way.
    Profile,
    /// All of these.
    #[default]
    All,
}

/// The chain after what was done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChaosDone {
    /// The number of the newest block.
    pub block: u64,
    /// Its hash.
    pub hash: String,
    /// The version of the runtime that its metadata describes.
    pub spec_version: u32,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A fork through a final block.
    #[error(
        "a fork of {depth} blocks would undo final ones: at most {lag} here; \
         start the chain with a larger finality lag"
    )]
    TooDeep {
        /// What was asked.
        depth: u32,
        /// The chain's lag.
        lag: u32,
    },
    /// A fork of no block at all, or of more than there are.
    #[error("a fork of {depth} blocks is not possible: the chain has {blocks}")]
    Depth {
        /// What was asked.
        depth: u32,
        /// The chain's blocks besides the genesis.
        blocks: u32,
    },
    /// A stall that is too long.
    #[error("a stall of {0} ms is too long: at most {STALL_MS_MAX}")]
    TooLong(u64),
    /// The chain's folder failed.
    #[error("the chain could not write or read its folder")]
    Store(#[source] crate::store::StoreError),
    /// The chain is not running any more.
    #[error("the chain has stopped")]
    Stopped,
}
