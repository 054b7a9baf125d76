//! The program that is process 1 of every leased container, and the frames it speaks with the gateway.
//!
//! Owns the processes, terminals, files and connections that a renter opens inside. It connects out to one socket in a
//! read-only mount and does what the gateway asks on it; it listens only where a renter asked for it, inside the
//! container. The gateway, in turn, takes every byte from here as hostile, because a tenant who breaks the agent speaks
//! with its voice.

pub mod frames;

mod accounts;
mod args;
mod buffer;
mod channel;
mod hardening;
mod link;
mod listener;
mod process;
mod sftp;
mod supervisor;
mod terminal;

pub use args::{Mode, ParseArgsError, USAGE, parse};
pub use hardening::{HardenError, filter_calls};
pub use sftp::serve as serve_sftp;
pub use supervisor::{StartError, run};
