//! Our dendrite: calls a peer that runs the v1.9.0 axon, or any axon of Bittensor's SDK up to 10.5.
//!
//! The wire gives less than the node API's: the body of a call is not signed and a good answer is not signed either, so
//! whoever sits on the line can change both. Use [`crate::NodeClient`] wherever the other side has it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::{Kind, SharedClock};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;
use nicompute_wire::axon::{
    Body, Call, Head, HeadError, Synapse, SynapseError, message_of, sign_call, verify_answer,
};
use nicompute_wire::btauth::NonceSource;
use nicompute_wire::node::BODY_BYTES_MAX;
use serde_json::Number;
use uuid::Uuid;

use crate::http::{Answer, Http, TransportError, exchange};
use crate::text::plain;

/// Characters of a refusal's words that are kept.
const MESSAGE_CHARS_MAX: usize = 512;

/// Makes clients of axons that share one key, one name, one pool of connections and one source of nonces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AxonDialer {
    http: Http,
    key: Arc<Keypair>,
    clock: SharedClock,
    uuid: Arc<str>,
    ip: IpAddr,
    nonces: Arc<Mutex<NonceSource>>,
}

/// The client of one axon. Cheap to clone.
///
/// An axon takes the calls of one dialer in the order in which they were signed and refuses one that comes late as a
/// replay: calls of one axon are made one after the other.
#[derive(Debug, Clone)]
pub struct AxonClient {
    dialer: AxonDialer,
    address: SocketAddr,
    axon: Hotkey,
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
}

/// The statuses of an axon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AxonReason {
    /// 400 or 422: it could not read the call.
    NotUnderstood,
    /// 401: it does not believe the signature or its time.
    NotVerified,
    /// 403: it does not want this caller.
    Blacklisted,
    /// 404: it does not serve this synapse.
    NoSuchSynapse,
    /// 408: it was not done in time.
    TimedOut,
    /// 500: it failed.
    Failed,
    /// 503: it has too much to do.
    Busy,
    /// Another status.
    Other,
}

// === impl AxonDialer ===

impl AxonDialer {
    /// Signs with this hotkey, says that it calls from this address, and takes nonces from this clock.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up, or the key is of another scheme.
    pub fn new(key: Keypair, ip: IpAddr, clock: SharedClock) -> Result<Self, AxonCallError> {
        if key.scheme() != Scheme::Sr25519 {
            return Err(AxonCallError::Scheme);
        }
        let nonces = Arc::new(Mutex::new(NonceSource::default()));
        let uuid = Uuid::new_v4().to_string().into();
        Ok(Self { http: Http::new()?, key: Arc::new(key), clock, uuid, ip, nonces })
    }

    /// A client of the axon at this address, for this hotkey.
    #[must_use]
    pub fn axon(&self, address: SocketAddr, axon: Hotkey) -> AxonClient {
        AxonClient { dialer: self.clone(), address, axon }
    }

    fn next_nonce(&self) -> u64 {
        let now_ns = self.clock.unix_ns();
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).next(now_ns)
    }
}

// === impl AxonClient ===

impl AxonClient {
    /// Calls a synapse and waits for its answer for this long, which the axon is told.
    ///
    /// # Errors
    /// When there is no answer, a refusal, or an answer that cannot be read.
    pub async fn call<B: Body>(
        &self,
        body: B,
        timeout: Duration,
    ) -> Result<AxonAnswer<B>, AxonCallError> {
        let (head, bytes) = self.write(body, timeout);
        let url = format!("http://{}/{}", self.address, B::NAME);
        let mut request = self.dialer.http.client().post(url);
        for (name, value) in head.to_headers() {
            request = request.header(name, value);
        }
        let request = request.header("content-type", "application/json").body(bytes);
        self.read(&exchange(request, BODY_BYTES_MAX, timeout).await?)
    }

    /// The headers and the body of a call: both ends stand in both, as Python writes them.
    fn write<B: Body>(&self, body: B, timeout: Duration) -> (Head, Vec<u8>) {
        let AxonDialer { key, uuid, ip, .. } = &self.dialer;
        let call = Call {
            name: B::NAME,
            timeout,
            axon: (self.address.ip(), self.address.port()),
            axon_hotkey: &self.axon,
            dendrite_ip: *ip,
            nonce_ns: self.dialer.next_nonce(),
            uuid,
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
            let message = words.as_deref().unwrap_or("the answer does not say why");
            return Err(AxonCallError::Refused {
                reason: AxonReason::of(answer.status),
                status: answer.status,
                message: plain(message, MESSAGE_CHARS_MAX),
                signed: head
                    .is_ok_and(|head| verify_answer(&head, &self.axon, &self.dialer.key.account())),
            });
        }
        let synapse = Synapse::<B>::parse(&answer.body).map_err(AxonCallError::Decode)?;
        Ok(AxonAnswer { body: synapse.body, head: head? })
    }
}

// === impl AxonCallError ===

impl AxonCallError {
    /// Whether asking again may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Scheme => Kind::Caller,
            Self::Transport(error) => error.kind(),
            Self::Refused { reason, .. } => match reason {
                AxonReason::TimedOut
                | AxonReason::Failed
                | AxonReason::Busy
                | AxonReason::Other => Kind::Elsewhere,
                AxonReason::NotUnderstood
                | AxonReason::NotVerified
                | AxonReason::Blacklisted
                | AxonReason::NoSuchSynapse => Kind::Caller,
            },
            Self::Headers(_) | Self::Decode(_) => Kind::Elsewhere,
        }
    }

    /// The kind of a refusal.
    #[must_use]
    pub const fn reason(&self) -> Option<AxonReason> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::Scheme | Self::Transport(_) | Self::Headers(_) | Self::Decode(_) => None,
        }
    }
}

// === impl AxonReason ===

impl AxonReason {
    const fn of(status: u16) -> Self {
        match status {
            400 | 422 => Self::NotUnderstood,
            401 => Self::NotVerified,
            403 => Self::Blacklisted,
            404 => Self::NoSuchSynapse,
            408 => Self::TimedOut,
            500 => Self::Failed,
            503 => Self::Busy,
            _ => Self::Other,
        }
    }
}
