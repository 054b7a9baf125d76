//! Refusals: their statuses and words, which clients of the Python SDK show to people and match on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Characters of a name that is repeated in a refusal.
const NAME_CHARS_MAX: usize = 64;

/// Why a request is not believed to be its sender's, or not to be new.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotVerified {
    /// A part of the signature's text is absent. Python writes "None" for it, and accepts who signs that.
    #[error("Missing {0}")]
    Missing(&'static str),
    /// A part of the signature's text cannot be one.
    #[error("Malformed {0}")]
    Malformed(&'static str),
    /// A dendrite from before 7.2, or one that says so to have its nonces bound to no time.
    #[error("Version is missing or older than 7002000, whose nonces do not expire")]
    OldVersion,
    /// Signed too long ago.
    #[error(
        "Nonce is too old: acceptable delta is {:.2} seconds but request was {:.2} seconds old",
        .window.as_secs_f64(), .age.as_secs_f64()
    )]
    TooOld {
        /// How old it might be.
        window: Duration,
        /// How old it is.
        age: Duration,
    },
    /// Signed too far ahead.
    #[error("Nonce is more than 2 seconds in the future, set the clock")]
    Ahead,
    /// The signature does not hold.
    #[error("Signature mismatch with {signed} and {signature}")]
    Signature {
        /// The text that should have been signed.
        signed: String,
        /// The signature that was sent.
        signature: String,
    },
    /// This request or a later one of the same dendrite was accepted before.
    #[error("Nonce is too old, a newer one was last processed")]
    Replayed,
    /// From before this process could tell.
    #[error("Nonce is too old, it may have been processed before the restart")]
    Forgotten,
    /// No room to remember another dendrite.
    #[error("Too many dendrites within the last seconds")]
    Full,
}

/// Why a request is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AxonError {
    /// No synapse of this name.
    #[error("Synapse name '{name}' not found. Available synapses {}", list(available))]
    UnknownName {
        /// What was asked for, as [`shown_name`] writes it.
        name: String,
        /// What there is.
        available: &'static [&'static str],
    },
    /// Headers that cannot be read.
    #[error(
        "Improperly formatted request. Could not parse headers into synapse of type {name}: {why}."
    )]
    Headers {
        /// The synapse.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Not believed.
    #[error("Not Verified with error: {0}")]
    NotVerified(#[from] NotVerified),
    /// Known, and kept out.
    #[error("Forbidden. Key is blacklisted: {0}.")]
    Blacklisted(String),
    /// Not done while the caller waits.
    #[error("Response timeout after: {0}s")]
    Timeout(String),
    /// More work than is taken, or nobody can tell now who the caller is.
    #[error("Service unavailable: {0}.")]
    Unavailable(&'static str),
    /// Above the limit.
    #[error("Request too large: {0}.")]
    TooLarge(&'static str),
    /// Neither GET nor POST.
    #[error("Method Not Allowed")]
    Method,
    /// Whatever Python raises on: a body of another shape, a hash that is not the body's, a failed handler.
    #[error("Internal Server Error #{id}")]
    Internal {
        /// By which the operator finds the cause in the log.
        id: String,
    },
}

/// The body of a refusal.
#[derive(Serialize, Deserialize)]
struct Message {
    message: String,
}

impl AxonError {
    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::UnknownName { .. } => 404,
            Self::Headers { .. } => 400,
            Self::NotVerified(NotVerified::Full) | Self::Unavailable(_) => 503,
            Self::NotVerified(_) => 401,
            Self::Blacklisted(_) => 403,
            Self::Timeout(_) => 408,
            Self::TooLarge(_) => 413,
            Self::Method => 405,
            Self::Internal { .. } => 500,
        }
    }
}

/// The body of a refusal.
#[must_use]
pub fn error_body(error: &AxonError) -> Vec<u8> {
    let message = Message { message: error.to_string() };
    serde_json::to_vec(&message).expect("a text is JSON")
}

/// The words of a refusal, if its body has any.
#[must_use]
pub fn message_of(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Message>(body).ok().map(|message| message.message)
}

/// The body of a 422, which Python's web framework answers for a body that is no JSON.
#[must_use]
pub fn unparsable_body(error: &serde_json::Error) -> Vec<u8> {
    let detail = serde_json::json!({ "detail": [{
        "type": "json_invalid",
        "loc": ["body", error.column()],
        "msg": "JSON decode error",
        "input": {},
        "ctx": { "error": error.to_string() },
    }]});
    detail.to_string().into_bytes()
}

/// A name from a path, fit for a header.
#[must_use]
pub fn shown_name(name: &str) -> String {
    let shown = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '?' });
    shown.take(NAME_CHARS_MAX).collect()
}

/// A list of names as Python writes it.
fn list(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", names.join(", "))
}
