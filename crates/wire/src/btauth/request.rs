//! The signed request.

use nicompute_keys::{Keypair, Scheme, verify};
use nicompute_market::{AccountId, Hotkey};

use crate::btauth::replay::{ReplayRefusal, ReplayStore};
use crate::btauth::{Headers, parse_nonce, parse_signature, sha256_hex, signature_text};
use crate::codes::Code;

const PROTOCOL: &str = "btauth/1";
const VERSION: &str = "1";
const NO_RECEIVER: &str = "-";

const HEADER_VERSION: &str = "X-Bittensor-Version";
const HEADER_HOTKEY: &str = "X-Bittensor-Hotkey";
const HEADER_RECEIVER: &str = "X-Bittensor-Receiver";
const HEADER_NONCE: &str = "X-Bittensor-Nonce";
const HEADER_CRYPTO: &str = "X-Bittensor-Crypto";
const HEADER_SIGNATURE: &str = "X-Bittensor-Signature";

/// How old a request may be.
pub const MAX_AGE_NS: u64 = 10_000_000_000;
/// How far the sender's clock may be ahead of ours.
pub const MAX_SKEW_NS: u64 = 2_000_000_000;

/// The parts of an HTTP request that are signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The method; signed in upper case.
    pub method: &'a str,
    /// The request target exactly as sent: path and query.
    pub target: &'a str,
    /// The raw body.
    pub body: &'a [u8],
}

/// Who sent a request that was found authentic, fresh and new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The sender's account. That it is a hotkey of the subnet is for the caller of this room to find out.
    pub account: AccountId,
    /// The request's nonce; the answer is bound to it.
    pub nonce_ns: u64,
    /// The scheme under which the signature held.
    pub scheme: Scheme,
}

/// A request that is authentic and fresh; whether it is new, [`Checked::admit`] says.
#[derive(Debug)]
pub struct Checked(Caller);

/// Why a request is not accepted. Safe to show to the caller: it never repeats a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// A header of the protocol is absent.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// A header of the protocol is there and cannot be read.
    #[error("the header {0} is malformed")]
    Malformed(&'static str),
    /// The method or the target has characters that no HTTP request line has.
    #[error("the request line is malformed")]
    RequestLine,
    /// Signed for another receiver.
    #[error("the request was signed for another receiver")]
    WrongReceiver,
    /// Older than the window allows.
    #[error("the request was signed more than 10 s ago")]
    Stale,
    /// Too far in the future.
    #[error("the request was signed more than 2 s in the future")]
    Future,
    /// The signature does not hold under the stated scheme.
    #[error("the signature does not belong to this request and sender")]
    BadSignature,
    /// Accepted once already.
    #[error("this request was already accepted")]
    Replayed,
    /// The memory against replays has no room for another request of this sender, or of anybody.
    #[error("too many requests within the last seconds")]
    Busy,
}

impl AuthError {
    /// The public code of this refusal.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Missing(_) | Self::Malformed(_) | Self::RequestLine => Code::NotSigned,
            Self::WrongReceiver => Code::WrongReceiver,
            Self::Stale | Self::Future => Code::NotFresh,
            Self::BadSignature => Code::BadSignature,
            Self::Replayed => Code::Replayed,
            Self::Busy => Code::TooManyRequests,
        }
    }

    /// What the sender can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Malformed(_) | Self::RequestLine => {
                "sign the request with btauth/1: Bittensor SDK 11's http_auth.sign, or this program's client"
            }
            Self::WrongReceiver => "sign for the hotkey that the chain announces for this address",
            Self::Stale | Self::Future => "set the clock of the sender by NTP and sign anew",
            Self::BadSignature => {
                "sign method, target with query and the raw body exactly as they are sent"
            }
            Self::Replayed => "sign each attempt with a fresh nonce",
            Self::Busy => "wait some seconds and send fewer requests",
        }
    }
}

/// Signs a request. Without a receiver the request may be shown to anybody, and our own nodes refuse it.
#[must_use]
pub fn sign_request(
    key: &Keypair,
    request: &Request<'_>,
    receiver: Option<&Hotkey>,
    nonce_ns: u64,
) -> Headers {
    let caller = Caller { account: key.account(), nonce_ns, scheme: key.scheme() };
    let receiver = receiver.map(Hotkey::to_string);
    let signature = key.sign(payload(&caller, request, receiver.as_deref()).as_bytes());
    let mut headers = vec![
        (HEADER_VERSION, VERSION.to_owned()),
        (HEADER_HOTKEY, caller.account.to_string()),
        (HEADER_NONCE, nonce_ns.to_string()),
        (HEADER_SIGNATURE, signature_text(&signature)),
    ];
    if caller.scheme != Scheme::Sr25519 {
        headers.push((HEADER_CRYPTO, caller.scheme.to_string()));
    }
    headers.extend(receiver.map(|receiver| (HEADER_RECEIVER, receiver)));
    Headers(headers)
}

/// Checks what can be checked before the body is there: shape, receiver and freshness. That the request is authentic,
/// only [`check_request`] can say; this keeps a receiver from waiting for bodies of requests that it refuses anyway.
///
/// # Errors
/// The first check that fails, in the order of the protocol.
pub fn check_headers<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    method: &str,
    target: &str,
    me: &Hotkey,
    now_ns: u64,
) -> Result<(), AuthError> {
    before_body(header, &Request { method, target, body: &[] }, me, now_ns).map(drop)
}

/// Checks all but the replay, so that the node can ask who the sender is before it remembers anything about it.
///
/// Anybody can make a key and sign with it. A node that admits only some senders should refuse the others between this
/// and [`Checked::admit`]; otherwise strangers fill its memory against replays.
///
/// # Errors
/// The first check that fails, in the order of the protocol.
pub fn check_request<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    request: &Request<'_>,
    me: &Hotkey,
    now_ns: u64,
) -> Result<Checked, AuthError> {
    let (caller, signature) = before_body(header, request, me, now_ns)?;
    let payload = payload(&caller, request, Some(&me.to_string()));
    if !verify(caller.scheme, &caller.account, payload.as_bytes(), &signature) {
        return Err(AuthError::BadSignature);
    }
    Ok(Checked(caller))
}

/// Checks a request completely and remembers it.
///
/// # Errors
/// The first check that fails, in the order of the protocol.
pub fn verify_request<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    request: &Request<'_>,
    me: &Hotkey,
    now_ns: u64,
    replays: &mut ReplayStore,
) -> Result<Caller, AuthError> {
    check_request(header, request, me, now_ns)?.admit(replays, now_ns)
}

impl Checked {
    /// Who signed.
    #[must_use]
    pub const fn sender(&self) -> &AccountId {
        &self.0.account
    }

    /// Accepts the request, unless it was accepted before.
    ///
    /// # Errors
    /// Where it is a replay, or may be one for all that the store remembers, or where the store has no room.
    pub fn admit(self, replays: &mut ReplayStore, now_ns: u64) -> Result<Caller, AuthError> {
        replays.remember(self.0.account, self.0.nonce_ns, now_ns).map_err(
            |refusal| match refusal {
                ReplayRefusal::Seen => AuthError::Replayed,
                ReplayRefusal::Forgotten => AuthError::Stale,
                ReplayRefusal::Full => AuthError::Busy,
            },
        )?;
        Ok(self.0)
    }
}

/// Every check that needs no body, in the order of the protocol.
fn before_body<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    request: &Request<'_>,
    me: &Hotkey,
    now_ns: u64,
) -> Result<(Caller, [u8; 64]), AuthError> {
    let (caller, signature, receiver) = shape(header, request)?;
    if receiver.ok_or(AuthError::Missing(HEADER_RECEIVER))? != me.0 {
        return Err(AuthError::WrongReceiver);
    }
    if now_ns.saturating_sub(caller.nonce_ns) > MAX_AGE_NS {
        return Err(AuthError::Stale);
    }
    if caller.nonce_ns.saturating_sub(now_ns) > MAX_SKEW_NS {
        return Err(AuthError::Future);
    }
    Ok((caller, signature))
}

/// Everything that can be read from the headers alone.
fn shape<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    request: &Request<'_>,
) -> Result<(Caller, [u8; 64], Option<AccountId>), AuthError> {
    let required = |name| header(name).ok_or(AuthError::Missing(name));
    if required(HEADER_VERSION)? != VERSION {
        return Err(AuthError::Malformed(HEADER_VERSION));
    }
    let account =
        required(HEADER_HOTKEY)?.parse().map_err(|_| AuthError::Malformed(HEADER_HOTKEY))?;
    let nonce_ns =
        parse_nonce(required(HEADER_NONCE)?).ok_or(AuthError::Malformed(HEADER_NONCE))?;
    let scheme = match header(HEADER_CRYPTO) {
        None => Scheme::Sr25519,
        Some(name) => name.parse().map_err(|_| AuthError::Malformed(HEADER_CRYPTO))?,
    };
    let signature = parse_signature(required(HEADER_SIGNATURE)?)
        .ok_or(AuthError::Malformed(HEADER_SIGNATURE))?;
    let receiver = header(HEADER_RECEIVER)
        .map(|text| text.parse().map_err(|_| AuthError::Malformed(HEADER_RECEIVER)))
        .transpose()?;
    // A line break here would let one signed text be read as two different requests.
    let line = [request.method, request.target];
    if line.iter().any(|part| part.is_empty() || part.chars().any(char::is_control)) {
        return Err(AuthError::RequestLine);
    }
    Ok((Caller { account, nonce_ns, scheme }, signature, receiver))
}

/// The signed text, line by line as SDK 11 defines it.
fn payload(caller: &Caller, request: &Request<'_>, receiver: Option<&str>) -> String {
    [
        PROTOCOL,
        caller.scheme.name(),
        &request.method.to_uppercase(),
        request.target,
        &sha256_hex(request.body),
        &caller.nonce_ns.to_string(),
        &caller.account.to_string(),
        receiver.unwrap_or(NO_RECEIVER),
    ]
    .join("\n")
}
