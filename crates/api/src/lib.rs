//! The HTTP edge of the market: who asks, how often, in which words. It translates, and owns nothing that must be stored.
//!
//! Everything behind it is a [`Market`]: `nicompute_validator::Handle` in the product. Each answer is JSON; each error is a
//! problem of RFC 9457 with a public code, also where the router itself refuses. Reading offers, the status and transcripts
//! needs no key; leases belong to the API key that rented them, and nobody else learns that they exist.

mod auth;
mod door;
mod limits;
mod market;
mod problem;
mod routes;
mod server;

pub use limits::Limits;
pub use market::Market;
pub use server::{ApiConfig, ServeError, serve};
