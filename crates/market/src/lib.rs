//! Nouns, units and rules of the trade, as pure functions.
//!
//! Everything that the market decides (who a party is, what a machine is worth, what a lease may do next, which
//! weight follows from which evidence) is decided here from values that were passed in. This room does no I/O,
//! reads no clock, draws no randomness and knows neither the chain nor HTTP nor SQL.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::wildcard_enum_match_arm
    )
)]

mod account;
mod catalogue;
mod class;
mod hardware;
mod ids;
mod lease;
mod naming;
mod offer;
mod placement;
mod score;
mod split;
pub mod ssh_key;
mod units;
mod weights;

pub use account::{AccountId, Coldkey, Hotkey, ParseAccountError};
pub use catalogue::{
    CATALOGUE_BYTES_MAX, Catalogue, CatalogueError, Class, Figure, KnownModel, MICRO, Shortfall,
};
pub use class::{RuntimeClass, UnknownClass};
pub use hardware::{Capability, DeviceKind, Gpu, Machine};
pub use ids::{LeaseId, OfferId, ParseIdError};
pub use lease::{
    EXPIRY_WARNINGS_MILLIS, EndReason, FailReason, KeySlot, LEASE_MILLIS_MAX, LEASE_MILLIS_MIN,
    Lease, LeaseEvent, LeaseKeys, LeaseNetwork, LeaseOptions, LeaseRefusal, LeaseState,
    LeaseVolume, LegacyAccess, PROOF_LEASE_MILLIS_MAX, PROOF_SURE_MILLIS, PublishedPort, Purpose,
    RENTAL_WAIT_MILLIS_MAX, SSH_KEYS_MAX, Share, Terms, UnknownPurpose, UnknownTerm, Wanted,
};
pub use naming::{NameFinding, Named};
pub use offer::{
    Conditions, LimitsHeld, Offer, RuntimeKind, UnknownRuntime, VolumesAllowed, Window,
};
pub use placement::Wish;
pub use score::{Evidence, Score, ScorePolicy, ScoreReason, Track, Verdict, score};
pub use split::Split;
pub use units::{BlockNumber, MicroUsd, Netuid, Rao, Uid, UnixMillis};
pub use weights::{WeightLimits, WeightPolicy, WeightsError, weights};
