//! `btauth/1`: HTTP requests signed by a hotkey, as Bittensor's SDK 11 defines them, and our signed answers.
//!
//! A request proves "sent by hotkey X, to hotkey Y, with exactly this method, target and body, just now". The answer,
//! which is this project's own extension, proves "this status and body is Y's answer to that request of X". Here are
//! only the bytes: no HTTP library, no clock, no network. The caller passes the time and keeps the [`ReplayStore`].
//!
//! The order of the checks is part of the protocol: shape, receiver, freshness, signature, replay. What is remembered
//! against replays is written only after the signature held, so that nobody can burn another's nonces.

mod replay;
mod request;
mod response;

use sha2::{Digest as _, Sha256};

pub use replay::{NonceSource, REPLAYS_MAX, REPLAYS_PER_SENDER_MAX, RETENTION_NS, ReplayStore};
pub use request::{
    AuthError, Caller, Checked, MAX_AGE_NS, MAX_SKEW_NS, Request, check_headers, check_request,
    sign_request, verify_request,
};
pub use response::{AnswerError, Response, sign_response, verify_response};

/// Header names and values to put on a message, in the order in which they are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Headers(pub Vec<(&'static str, String)>);

impl Headers {
    /// The value under a name, in any capitalisation.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(crate) fn signature_text(signature: &[u8; 64]) -> String {
    format!("0x{}", hex::encode(signature))
}

pub(crate) fn parse_signature(text: &str) -> Option<[u8; 64]> {
    let mut signature = [0u8; 64];
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode_to_slice(digits, &mut signature).ok()?;
    Some(signature)
}

/// Decimal digits without sign, space or leading zero: one number has one text.
pub(crate) fn parse_nonce(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (plain && canonical).then(|| text.parse().ok()).flatten()
}
