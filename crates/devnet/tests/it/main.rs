//! The devnet from outside: over its RPC, and over its folder.

mod chaos;
mod durability;
mod harness;
mod metadata;
mod rpc;
