//! The validator: discovers providers, proves their machines, keeps the evidence, scores, sets weights, brokers rentals.
//!
//! Four loops, each idempotent and without input: `discover` reads the metagraph and the providers' offers, `prove` runs
//! sessions on leases of its own, `weights` turns stored evidence into weights on chain, `rentals` follows the leases that
//! were brokered. What must survive is stored before it takes effect: a validator that was killed gives back, after its
//! restart, every lease that it had asked for. The outside world sees one [`Handle`].

mod config;
mod dir_lock;
mod handle;
mod loops;
mod session;
mod start;
mod state;
mod store;
mod views;

pub use config::{ProofSize, ValidatorConfig};
pub use dir_lock::LockError;
pub use handle::{Denied, Handle, Principal};
pub use session::{Channel, ChannelEvent, Proven, SessionError, SessionPlan, prove};
pub use start::{StartError, Validator};
pub use store::StoreError;
