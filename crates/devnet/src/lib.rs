//! A local chain that speaks Subtensor's JSON-RPC, so that real clients use it unchanged.
//!
//! It owns an interface table of its own (`schema`), a key-value state with Subtensor's storage keys (`state`, `items`),
//! the rules of the calls that a market needs (`runtime`, `yuma`), a log on disk (`store`) and the RPC server (`rpc`). It
//! is one authority with no peers: it listens on loopback only, its blocks are final at once, and it proves nothing to light
//! clients. What it does not carry out it refuses by a dispatch error, never by silent success.

mod api;
mod call;
mod config;
mod devnet;
mod events;
mod extrinsic;
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

pub use config::{
    BLOCK_TIME_MAX, BLOCK_TIME_MIN, Beacon, DEFAULT_NETUID, DevnetConfig, Genesis, GenesisError,
    MECHANISMS_MAX, Parameters, Registration, SubnetGenesis, Switches,
};
pub use devnet::{Devnet, StartError};
pub use rpc::{
    BATCH_MAX, CONNECTIONS_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, SUBSCRIPTIONS_MAX,
};
pub use schema::{Profile, SchemaError};
pub use store::StoreError;
pub use yuma::LiquidAlpha;
