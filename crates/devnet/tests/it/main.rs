//! The devnet from outside: over its RPC, and over its folder.

mod durability;
mod harness;
mod metadata;
mod rpc;
