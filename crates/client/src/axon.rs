//! Our dendrite: calls a peer that runs the v1.9.0 axon, or any axon of Bittensor's SDK up to 10.5.
//!
//! The wire gives less than the node API's: the body of a call is not signed and a good answer is not signed either, so
//! whoever sits on the line can change both. Use [`crate::NodeClient`] wherever the other side has it.
//!
//! Addresses come from the chain, where anybody writes what he likes: only those of the internet are called, unless the
//! caller says [`Reach::Anywhere`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::{Kind, SharedClock};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;
use nicompute_wire::axon::{
    Body, Call, Head, HeadError, Received, Synapse, SynapseError, message_of, sign_call,
    verify_answer,
};
use nicompute_wire::btauth::NonceSource;
use nicompute_wire::node::BODY_BYTES_MAX;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use crate::http::{Answer, Http, TransportError, exchange};
use crate::reach::{NotCalled, Reach};
use crate::text::plain;

/// Characters of a refusal's words that are kept.
const MESSAGE_CHARS_MAX: usize = 512;
/// How 401s begin that a call with a new nonce may not get, from Python's axon and from ours.
const STALE: &str = "Not Verified with error: Nonce is too old";

/// Makes clients of axons that share one key, one pool of connections and one source of nonces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AxonDialer {
    http: Http,
    key: Arc<Keypair>,
    clock: SharedClock,
    reach: Reach,
    ip: IpAddr,
    nonces: Arc<Mutex<NonceSource>>,
}

/// The client of one axon, with a name of its own. Cheap to clone; keep it, for axons remember so many names of a hotkey.
///
/// An axon takes the calls under one name in the order in which they were signed and refuses one that comes late as a
/// replay: a client and its clones make one call after the other.
#[derive(Debug, Clone)]
pub struct AxonClient {
    dialer: AxonDialer,
    address: SocketAddr,
    axon: Hotkey,
    uuid: Arc<str>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What an axon answered. Nobody has signed it.
#[derive(Debug, Clone, PartialEq)]
pub struct AxonAnswer<B> {
    /// The synapse's own fields, as they came back.
    pub body: B,
    /// The headers.
    pub head: Head,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AxonCallError {
    /// An address that is not called.
    #[error("the axon's address is not called")]
    Address(#[from] NotCalled),
    /// The wire knows sr25519 alone.
    #[error("an axon can be called with an sr25519 hotkey only")]
    Scheme,
    /// No answer. Axons of NI Compute 1.9.0 answer some calls with a broken `100 Continue`, which ends here too.
    #[error("the axon gave no answer")]
    Transport(#[from] TransportError),
    /// It said no.
    #[error("the axon refused ({reason:?}, status {status}): {message}")]
    Refused {
        /// What kind of no.
        reason: AxonReason,
        /// The HTTP status.
        status: u16,
        /// Its words, cleaned.
        message: String,
        /// Whether its hotkey has signed that it refused. The signature is bound to no call.
        signed: bool,
    },
    /// Headers that cannot be read.
    #[error("the axon's answer has headers that cannot be read")]
    Headers(#[from] HeadError),
    /// A body that is none of this synapse.
    #[error("the axon's answer is not of the shape that was asked for")]
    Decode(#[source] SynapseError),
    /// A 200 of something else: without the axon's own status, or without one field of the synapse.
    #[error("what answered is no axon: {0}")]
    NoAxon(&'static str),
}

/// The statuses of an axon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AxonReason {
    /// 400, 405, 413, 422, and what else says that the call is wrong or belongs elsewhere (300 to 499).
    NotUnderstood,
    /// 401: it does not believe the signature or its time.
    NotVerified,
    /// 401 because of the nonce alone: too late, overtaken, or the axon has just restarted. Calling again signs anew.
    StaleNonce,
    /// 403: it does not want this caller.
    Blacklisted,
    /// 404: it does not serve this synapse.
    NoSuchSynapse,
    /// 408: it was not done in time.
    TimedOut,
    /// 500: it failed.
    Failed,
    /// 429 or 503: it has too much to do.
    Busy,
    /// Another status.
    Other,
}

// === impl AxonDialer ===

impl AxonDialer {
    /// Signs with this hotkey, says that it calls from this address, and takes nonces from this clock. Calls addresses of
    /// the internet; [`AxonDialer::reaching`] changes that.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up, or the key is of another scheme.
    pub fn new(key: Keypair, ip: IpAddr, clock: SharedClock) -> Result<Self, AxonCallError> {
        if key.scheme() != Scheme::Sr25519 {
            return Err(AxonCallError::Scheme);
        }
        let nonces = Arc::new(Mutex::new(NonceSource::default()));
        let reach = Reach::Internet;
        Ok(Self { http: Http::new()?, key: Arc::new(key), clock, reach, ip, nonces })
    }

    /// The same for these addresses.
    #[must_use]
    pub fn reaching(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    /// A client of the axon at this address, for this hotkey.
    ///
    /// # Errors
    /// [`AxonCallError::Address`] where the address is nobody's, or not within reach.
    pub fn axon(&self, address: SocketAddr, axon: Hotkey) -> Result<AxonClient, AxonCallError> {
        self.reach.check(address)?;
        let uuid = Uuid::new_v4().to_string().into();
        Ok(AxonClient { dialer: self.clone(), address, axon, uuid, turn: Arc::default() })
    }

    fn next_nonce(&self) -> u64 {
        let now_ns = self.clock.unix_ns();
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).next(now_ns)
    }
}

// === impl AxonClient ===

impl AxonClient {
    /// Calls a synapse and waits for its answer for this long, which the axon is told. Waiting for a call before this one
    /// counts.
    ///
    /// # Errors
    /// When there is no answer, a refusal, or an answer that cannot be read.
    pub async fn call<B: Body>(
        &self,
        body: B,
        timeout: Duration,
    ) -> Result<AxonAnswer<B>, AxonCallError> {
        let began = self.dialer.clock.monotonic();
        let Ok(_turn) = tokio::time::timeout(timeout, self.turn.lock()).await else {
            return Err(TransportError::Deadline(timeout).into());
        };
        let left = timeout.saturating_sub(self.dialer.clock.monotonic().saturating_sub(began));
        let (head, bytes) = self.write(body, timeout);
        let url = format!("http://{}/{}", self.address, B::NAME);
        let mut request = self.dialer.http.client().post(url);
        for (name, value) in head.to_headers() {
            request = request.header(name, value);
        }
        let request = request.header("content-type", "application/json").body(bytes);
        self.read(&exchange(request, BODY_BYTES_MAX, left).await?)
    }

    /// The headers and the body of a call: both ends stand in both, as Python writes them.
    fn write<B: Body>(&self, body: B, timeout: Duration) -> (Head, Vec<u8>) {
        let AxonDialer { key, ip, .. } = &self.dialer;
        let call = Call {
            name: B::NAME,
            timeout,
            axon: (self.address.ip(), self.address.port()),
            axon_hotkey: &self.axon,
            dendrite_ip: *ip,
            nonce_ns: self.dialer.next_nonce(),
            uuid: &self.uuid,
        };
        let mut head = sign_call(key, &call);
        let synapse = Synapse {
            name: Some(B::NAME.to_owned()),
            timeout: Number::from_f64(timeout.as_secs_f64()),
            total_size: Some(0),
            header_size: Some(0),
            dendrite: Some(head.dendrite.clone()),
            axon: Some(head.axon.clone()),
            computed_body_hash: Some(String::new()),
            body,
        };
        let bytes = synapse.to_bytes();
        head.total_size = u64::try_from(bytes.len()).ok();
        (head, bytes)
    }

    fn read<B: Body>(&self, answer: &Answer) -> Result<AxonAnswer<B>, AxonCallError> {
        let lines = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let head = Head::parse(lines);
        if answer.status != 200 {
            let words = message_of(&answer.body);
            return Err(self.refused(answer.status, words.as_deref(), head.ok().as_ref()));
        }
        let synapse = Received::<B>::parse(&answer.body).map_err(AxonCallError::Decode)?;
        let head = head?;
        match head.axon.status_code {
            Some(200) => {}
            Some(inner) => {
                return Err(self.refused(inner, head.axon.status_message.as_deref(), Some(&head)));
            }
            None => return Err(AxonCallError::NoAxon("it does not state the axon's status")),
        }
        if !echoes::<B>(&answer.body) {
            return Err(AxonCallError::NoAxon("it has no field of what was asked"));
        }
        Ok(AxonAnswer { body: synapse.body, head })
    }

    fn refused(&self, status: u16, words: Option<&str>, head: Option<&Head>) -> AxonCallError {
        let words = words.unwrap_or("the answer does not say why");
        let caller = self.dialer.key.account();
        AxonCallError::Refused {
            reason: AxonReason::of(status, words),
            status,
            message: plain(words, MESSAGE_CHARS_MAX),
            signed: head.is_some_and(|head| verify_answer(head, &self.axon, &caller)),
        }
    }
}

/// Whether a body has a field of the synapse's own, if the synapse has any: absent ones have defaults, which nobody said.
fn echoes<B: Body>(bytes: &[u8]) -> bool {
    let Ok(Value::Object(own)) = serde_json::to_value(B::default()) else { return true };
    let answered: Map<String, Value> = serde_json::from_slice(bytes).unwrap_or_default();
    own.is_empty() || own.keys().any(|field| answered.contains_key(field))
}

// === impl AxonCallError ===

impl AxonCallError {
    /// Whether asking again may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Scheme | Self::Address(_) => Kind::Caller,
            Self::Transport(error) => error.kind(),
            Self::Refused { reason, .. } => match reason {
                AxonReason::StaleNonce
                | AxonReason::TimedOut
                | AxonReason::Failed
                | AxonReason::Busy
                | AxonReason::Other => Kind::Elsewhere,
                AxonReason::NotUnderstood
                | AxonReason::NotVerified
                | AxonReason::Blacklisted
                | AxonReason::NoSuchSynapse => Kind::Caller,
            },
            Self::Headers(_) | Self::Decode(_) | Self::NoAxon(_) => Kind::Elsewhere,
        }
    }

    /// The kind of a refusal.
    #[must_use]
    pub const fn reason(&self) -> Option<AxonReason> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::Scheme
            | Self::Address(_)
            | Self::Transport(_)
            | Self::Headers(_)
            | Self::Decode(_)
            | Self::NoAxon(_) => None,
        }
    }
}

// === impl AxonReason ===

impl AxonReason {
    fn of(status: u16, words: &str) -> Self {
        match status {
            401 if words.starts_with(STALE) => Self::StaleNonce,
            401 => Self::NotVerified,
            403 => Self::Blacklisted,
            404 => Self::NoSuchSynapse,
            408 => Self::TimedOut,
            500 => Self::Failed,
            429 | 503 => Self::Busy,
            300..=499 => Self::NotUnderstood,
            _ => Self::Other,
        }
    }
}
