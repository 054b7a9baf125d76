//! A local chain that speaks Subtensor's JSON-RPC, so that real clients use it unchanged.
//!
//! It owns an interface table of its own (`schema`), a key-value state with Subtensor's storage keys (`state`, `items`),
//! the rules of the calls that a market needs (`runtime`, `yuma`), a log on disk (`store`) and the RPC server (`rpc`). It
//! is one authority with no peers: it listens on loopback only and proves nothing to light clients. Its blocks are final at
//! once, or with a lag behind which it can be told to fork; it can also be told to stall, to restart and to upgrade its
//! runtime (`chaos`). What it does not carry out it refuses by a dispatch error, never by silent success.

mod api;
mod call;
mod chaos;
mod config;
mod control;
mod devnet;
mod dump;
mod events;
mod extrinsic;
mod face;
mod hash;
mod items;
mod ledger;
mod node;
mod pool;
mod rpc;
mod runtime;
mod schema;
mod shield;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod version;
pub mod yuma;

pub use chaos::{Answers, Change, Chaos, ChaosDone, ChaosError, STALL_MS_MAX};
pub use config::{
    BLOCK_TIME_MAX, BLOCK_TIME_MIN, Beacon, DEFAULT_NETUID, DevnetConfig, FINALITY_LAG_MAX,
    Genesis, GenesisError, MECHANISMS_MAX, Parameters, Registration, SubnetGenesis, Switches,
};
pub use control::{Control, ControlError};
pub use devnet::{Devnet, StartError};
pub use dump::{AccountDump, BlockDump, CommitDump, Dump, NeuronDump, SubnetDump, WaitingDump};
pub use rpc::{
    BATCH_MAX, CONNECTIONS_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, SUBSCRIPTIONS_MAX,
};
pub use runtime::beacon::PulseError;
pub use schema::{Profile, SchemaError};
pub use store::StoreError;
pub use yuma::LiquidAlpha;

/// The chain's name; not the main network's, so that nobody takes it for that.
const CHAIN_NAME: &str = "nicompute-devnet";
