//! The provider's node: what it offers, the leases on it, and the doors through which validators and renters come.
//!
//! The node owns one state directory with one SQLite file. A request that changes something is stored first; then one
//! loop, the reconciler, makes the machine equal to what is stored, as often as needed. So the process may be killed at
//! any moment: the next one reads the file, adopts what should run and removes what should not.
//!
//! It never believes a request before its signature is checked, never runs what a caller names except an image of its own
//! list, and knows nothing about proofs, scores or weights.

mod axon;
mod chain_subnet;
mod config;
mod dir_lock;
mod fuse;
mod gpus;
mod leases;
mod node;
mod node_api;
mod offers;
mod ports;
mod reconciler;
mod routes;
mod store;
mod subnet;

pub use axon::{
    ALLOCATE_LIMIT, AXON_ARRIVALS_MAX, AXON_RUNNING_MAX, AXON_STRANGERS_ARRIVALS_MAX,
    AXON_WAITING_MAX, AccessList, AccessListError, BLOCKED_MAX, MIN_STAKE,
};
pub use config::{MinerConfig, OnShutdown, SessionLimits, UnenforcedLimits};
pub use dir_lock::LockError;
pub use fuse::{KillPoint, UnknownKillPoint};
pub use leases::{Created, Denied, Leases, Order, Owner};
pub use node::{Addresses, Miner, Neighbours, StartError};
pub use node_api::{
    ARRIVALS_MAX, ApiLimits, BODY_LIMIT, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX,
    EVENT_STREAMS_MAX, FLOOR_AHEAD_MAX, HEADER_BYTES_MAX, LEASE_CHANGES_MAX, PROBE_EVERY,
    REQUEST_LIMIT, REQUESTS_MAX, WAIT_MILLIS_MAX,
};
pub use offers::{OFFER_ID, OFFERS_FILE_BYTES_MAX, OfferProblem, OffersError};
pub use ports::{BadPortRange, PortRange};
pub use routes::{PortRefused, RouteRefused, Routes};
pub use store::{LEASES_KEPT_MAX, StoreError};
pub use subnet::{Member, PERMITS_AGE_MAX, Subnet, SubnetError};
