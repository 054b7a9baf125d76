//! The v1.9.0 axon: the synapses, headers, signatures and nonces of Bittensor's SDK up to 10.5, as NI Compute 1.9.0 uses
//! them, in both directions.
//!
//! A peer that still runs the Python code speaks nothing else. The wire is weak: the body is not signed, answers are not
//! signed, and the time that a request stays good is said by the caller. Here it is bounded (see [`FRESH_NS`],
//! [`TIMEOUT_MAX`], [`AHEAD_NS`] and [`OLDEST_VERSION`]) exactly as far as real dendrites stay inside. Only the bytes are
//! here: no HTTP library, no clock, no network.
//!
//! `docs/axon-v190.md` is the page about it.

mod error;
mod hash;
mod head;
mod nonce;
mod requirement;
mod seal;
mod synapse;
mod terminal;

pub use error::{AxonError, NotVerified, error_body, message_of, shown_name, unparsable_body};
pub use hash::{EMPTY_BODY_HASH, NotCovered, PyValue, body_hash};
pub use head::{
    Call, HEADER_VALUE_BYTES_MAX, Head, HeadError, Verified, seconds_text, sign_answer, sign_call,
    verify_answer, verify_call,
};
pub use nonce::{
    AHEAD_NS, FRESH_NS, NONCES_MAX, NONCES_PER_SENDER_MAX, NONCES_RESERVED_MAX,
    NONCES_RESERVED_PER_SENDER, NonceStore, RETENTION_NS, TIMEOUT_MAX, UUID_BYTES_MAX, fresh,
};
pub use requirement::{GpuRequirement, Requirement, RequirementError};
pub use seal::{
    Access, CALLER_KEY_BITS_MAX, CALLER_KEY_BITS_MIN, CALLER_KEY_CHARS_MAX, CallerKey,
    CallerKeyError, SEALED_BYTES_MAX, SealError,
};
pub use synapse::{
    Allocate, Body, Challenge, DockerAction, DockerRequirement, Ping, Received, Specs, Synapse,
    SynapseError,
};
pub use terminal::TerminalInfo;

/// The version that NI Compute 1.9.0 announces on chain and in its answers.
pub const PROTOCOL_VERSION: u32 = 190;
/// What a dendrite of ours says that it is: the SDK whose wire this is.
pub const DENDRITE_VERSION: u64 = 9_000_000;
/// Dendrites before it bind their nonces to no time, so that anything they ever sent could be sent again.
pub const OLDEST_VERSION: u64 = 7_002_000;
