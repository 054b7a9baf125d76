//! The market's own messages: what crosses the line between parties, in shapes that are kept stable.
//!
//! Signed requests and answers, the node API, the market API and the public error codes. Nothing here opens a connection.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

pub mod axon;
pub mod btauth;
pub mod codes;
pub mod gpus;
pub mod hostkey;
pub mod market_api;
pub mod node;
pub mod probe;

pub use nicompute_market::ssh_key;
