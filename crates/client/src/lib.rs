//! The typed way to talk to a provider's node, to a validator's market, and to a lease.
//!
//! [`NodeClient`] signs its requests with `btauth/1` and believes no answer that the provider did not sign;
//! [`MarketClient`] is the renter's side; [`AxonClient`] calls peers that still run the Python code; [`LeaseSession`] enters a lease by SSH with the one host key that the provider's
//! hotkey vouches for. Everything that arrives is hostile until it was bounded, authenticated and parsed here. This room
//! stores nothing, retries nothing by itself and takes every deadline from its caller.

mod access;
mod axon;
mod http;
mod market;
mod node;
mod reach;
mod refusal;
mod ssh;
mod text;

pub use access::{AccessError, SshAccess};
pub use axon::{AxonAnswer, AxonCallError, AxonClient, AxonDialer, AxonReason};
pub use http::TransportError;
pub use market::{
    ApiBase, ApiBaseError, MarketClient, MarketError, OfferQuery, TRANSCRIPT_BYTES_MAX,
};
pub use node::{HeldLease, Node, NodeClient, NodeDialer, NodeError, ReachedPort};
pub use reach::{NotCalled, Reach};
pub use refusal::Refusal;
pub use ssh::{
    EXEC_OUTPUT_BYTES_MAX, ExecEvent, ExecStream, LeaseKey, LeaseKeyError, LeaseSession, Ran,
    SshError,
};
pub use text::plain;
