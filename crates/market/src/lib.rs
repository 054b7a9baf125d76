//! Nouns, units and rules of the trade, as pure functions.
//!
//! Everything that the market decides (who a party is, what a machine is worth, what a lease may do next, which
//! weight follows from which evidence) is decided here from values that were passed in. This room does no I/O,
//! reads no clock, draws no randomness and knows neither the chain nor HTTP nor SQL.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod account;
mod ids;
mod units;

pub use account::{AccountId, Coldkey, Hotkey, ParseAccountError};
pub use ids::{LeaseId, OfferId, ParseIdError};
pub use units::{BlockNumber, MicroUsd, Netuid, Rao, Uid, UnixMillis};
