//! The whole market on one machine: a chain, providers, validators with their API, and a rental, all by the code that the real
//! network runs. This module composes; it decides nothing about the trade.

mod children;
mod daemons;
mod dir;
mod genesis;
mod market;
mod steps;
mod sweep;
mod up;
mod walk;
mod wallets;

pub(crate) use genesis::GenesisFile;
pub(crate) use up::{UpArgs, run};
