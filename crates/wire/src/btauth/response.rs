//! The signed answer: our extension, so that a peer on plain HTTP cannot be given somebody else's answer.
//!
//! Signed lines: `btauth/1-response`, scheme, status, nonce of the request, SHA-256 of the body, responder, receiver.
//! Together with the receiver the nonce names one request, so an old answer does not fit a new question.

use nicompute_keys::{Keypair, Scheme, verify};
use nicompute_market::{AccountId, Hotkey};

use crate::btauth::{Headers, parse_nonce, parse_signature, sha256_hex, signature_text};

const PROTOCOL: &str = "btauth/1-response";
const VERSION: &str = "1";

const HEADER_VERSION: &str = "X-Nicompute-Response-Version";
const HEADER_HOTKEY: &str = "X-Nicompute-Response-Hotkey";
const HEADER_NONCE: &str = "X-Nicompute-Response-Nonce";
const HEADER_CRYPTO: &str = "X-Nicompute-Response-Crypto";
const HEADER_SIGNATURE: &str = "X-Nicompute-Response-Signature";

/// The parts of an HTTP answer that are signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// The raw body.
    pub body: &'a [u8],
}

/// Why an answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No signature at all: an older node, or something in between that answered itself.
    #[error("the answer is not signed: the header {0} is missing")]
    Unsigned(&'static str),
    /// A header that cannot be read.
    #[error("the answer's header {0} is malformed")]
    Malformed(&'static str),
    /// Signed by another hotkey than the one that was asked.
    #[error("the answer was signed by another hotkey")]
    WrongResponder,
    /// An answer to another request.
    #[error("the answer belongs to another request")]
    WrongRequest,
    /// The signature does not hold.
    #[error("the answer's signature does not belong to its status and body")]
    BadSignature,
}

/// Signs the answer to the request of this nonce, which this receiver sent.
#[must_use]
pub fn sign_response(
    key: &Keypair,
    response: &Response<'_>,
    request_nonce_ns: u64,
    receiver: &AccountId,
) -> Headers {
    let (scheme, responder) = (key.scheme(), key.account());
    let payload = payload(scheme, response, request_nonce_ns, &responder, receiver);
    let mut headers = vec![
        (HEADER_VERSION, VERSION.to_owned()),
        (HEADER_HOTKEY, responder.to_string()),
        (HEADER_NONCE, request_nonce_ns.to_string()),
        (HEADER_SIGNATURE, signature_text(&key.sign(payload.as_bytes()))),
    ];
    if scheme != Scheme::Sr25519 {
        headers.push((HEADER_CRYPTO, scheme.to_string()));
    }
    Headers(headers)
}

/// Checks that this is the responder's answer to our request.
///
/// # Errors
/// The first check that fails: shape, responder, request, signature.
pub fn verify_response<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    response: &Response<'_>,
    request_nonce_ns: u64,
    responder: &Hotkey,
    me: &AccountId,
) -> Result<(), AnswerError> {
    let required = |name| header(name).ok_or(AnswerError::Unsigned(name));
    if required(HEADER_VERSION)? != VERSION {
        return Err(AnswerError::Malformed(HEADER_VERSION));
    }
    let signer: AccountId =
        required(HEADER_HOTKEY)?.parse().map_err(|_| AnswerError::Malformed(HEADER_HOTKEY))?;
    let nonce_ns =
        parse_nonce(required(HEADER_NONCE)?).ok_or(AnswerError::Malformed(HEADER_NONCE))?;
    let scheme = match header(HEADER_CRYPTO) {
        None => Scheme::Sr25519,
        Some(name) => name.parse().map_err(|_| AnswerError::Malformed(HEADER_CRYPTO))?,
    };
    let signature = parse_signature(required(HEADER_SIGNATURE)?)
        .ok_or(AnswerError::Malformed(HEADER_SIGNATURE))?;
    if signer != responder.0 {
        return Err(AnswerError::WrongResponder);
    }
    if nonce_ns != request_nonce_ns {
        return Err(AnswerError::WrongRequest);
    }
    let payload = payload(scheme, response, nonce_ns, &signer, me);
    if !verify(scheme, &signer, payload.as_bytes(), &signature) {
        return Err(AnswerError::BadSignature);
    }
    Ok(())
}

fn payload(
    scheme: Scheme,
    response: &Response<'_>,
    nonce_ns: u64,
    responder: &AccountId,
    receiver: &AccountId,
) -> String {
    [
        PROTOCOL,
        scheme.name(),
        &response.status.to_string(),
        &nonce_ns.to_string(),
        &sha256_hex(response.body),
        &responder.to_string(),
        &receiver.to_string(),
    ]
    .join("\n")
}
