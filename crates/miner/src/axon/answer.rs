//! Answers of the door: the whole synapse with the headers that Python reads, or a refusal that is signed as Python signs.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use nicompute_keys::Keypair;
use nicompute_wire::axon::{
    AxonError, Body as SynapseBody, EMPTY_BODY_HASH, Head, PROTOCOL_VERSION, Ping, Received,
    Synapse, TerminalInfo, error_body, sign_answer, unparsable_body,
};
use serde_json::Number;

/// What Python says where the caller named no timeout.
const DEFAULT_TIMEOUT: &str = "12.0";
const SUCCESS: &str = "Success";

/// A synapse that was handled.
#[derive(Debug)]
pub(super) struct Served {
    head: Head,
    /// Everything but the times, which are known when it is sent.
    body: Box<dyn ToBytes>,
}

/// A refusal, with what its headers repeat.
#[derive(Debug)]
pub(super) enum Refused {
    /// In the original's words.
    Error(Box<(Head, AxonError)>),
    /// The 422 of Python's web framework, which has none of the headers.
    NoJson(serde_json::Error),
}

/// A synapse without its own fields, which its handler has.
pub(super) type Envelope = Received<Ping>;

/// A synapse of whatever kind, once both ends are filled in.
trait ToBytes: std::fmt::Debug + Send {
    fn to_bytes(self: Box<Self>, axon: TerminalInfo, dendrite: TerminalInfo) -> Vec<u8>;
}

#[derive(Debug)]
struct Answered<B>(Envelope, B);

impl<B: SynapseBody> ToBytes for Answered<B> {
    fn to_bytes(self: Box<Self>, axon: TerminalInfo, dendrite: TerminalInfo) -> Vec<u8> {
        let Self(envelope, body) = *self;
        let synapse = Synapse {
            name: Some(B::NAME.to_owned()),
            // Python's default, which stands in its answers where a body names none.
            timeout: envelope.timeout.or_else(|| DEFAULT_TIMEOUT.parse().ok()),
            total_size: envelope.total_size.or(Some(0)),
            header_size: envelope.header_size.or(Some(0)),
            dendrite: Some(dendrite),
            axon: Some(axon),
            computed_body_hash: Some(envelope.computed_body_hash.unwrap_or_default()),
            body,
        };
        synapse.to_bytes()
    }
}

/// A synapse's own fields, and all others.
pub(super) fn open<B>(synapse: Received<B>) -> (B, Envelope) {
    let envelope = Received {
        timeout: synapse.timeout,
        total_size: synapse.total_size,
        header_size: synapse.header_size,
        computed_body_hash: synapse.computed_body_hash,
        body: Ping {},
    };
    (synapse.body, envelope)
}

// === impl Served ===

impl Served {
    pub(super) fn new<B: SynapseBody>(
        asked: &Head,
        body_bytes: usize,
        envelope: Envelope,
        answered: B,
    ) -> Self {
        let head = Head {
            name: Some(B::NAME.to_owned()),
            timeout: asked.timeout.clone().or_else(|| Some(DEFAULT_TIMEOUT.to_owned())),
            axon: TerminalInfo {
                status_code: Some(200),
                status_message: Some(SUCCESS.to_owned()),
                ip: asked.axon.ip.clone(),
                port: asked.axon.port,
                hotkey: asked.axon.hotkey.clone(),
                ..TerminalInfo::default()
            },
            // What the signature vouches for, and not what the body says.
            dendrite: TerminalInfo {
                status_code: None,
                status_message: None,
                process_time: None,
                ..asked.dendrite.clone()
            },
            header_size: Some(0),
            total_size: u64::try_from(body_bytes).ok(),
            computed_body_hash: Some(EMPTY_BODY_HASH.to_owned()),
        };
        Self { head, body: Box::new(Answered(envelope, answered)) }
    }

    pub(super) fn response(self, took: Duration) -> Response {
        let Self { mut head, body } = self;
        head.axon.process_time = Number::from_f64(took.as_secs_f64());
        let bytes = body.to_bytes(head.axon.clone(), head.dendrite.clone());
        response(200, &head, bytes)
    }
}

// === impl Refused ===

impl Refused {
    /// Before the headers were read: nothing of them is repeated.
    pub(super) fn early(error: AxonError) -> Self {
        let head = Head {
            name: Some(Ping::NAME.to_owned()),
            timeout: Some(DEFAULT_TIMEOUT.to_owned()),
            ..Head::default()
        };
        Self::Error(Box::new((head, error)))
    }

    /// With the headers that were read.
    pub(super) fn of(name: &'static str, head: Head, error: AxonError) -> Self {
        Self::Error(Box::new((Head { name: Some(name.to_owned()), ..head }, error)))
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Error(refused) => refused.1.status(),
            Self::NoJson(_) => 422,
        }
    }

    pub(super) fn response(
        self,
        key: &Keypair,
        uuid: &str,
        (now_ns, took): (u64, Duration),
        peer: Option<SocketAddr>,
    ) -> Response {
        let (mut head, error) = match self {
            Self::Error(refused) => *refused,
            Self::NoJson(error) => {
                return response(422, &Head::default(), unparsable_body(&error));
            }
        };
        // Of what the caller says about us only the address is repeated.
        head.axon = TerminalInfo {
            ip: head.axon.ip,
            port: head.axon.port,
            hotkey: head.axon.hotkey,
            ..TerminalInfo::default()
        };
        head.axon.status_code = Some(error.status());
        head.axon.status_message = Some(error.to_string());
        head.axon.process_time = Number::from_f64(took.as_secs_f64());
        if head.dendrite.hotkey.is_some() {
            head.axon.version = Some(u64::from(PROTOCOL_VERSION));
            head.dendrite.ip = peer.map(|peer| peer.ip().to_string());
            head.dendrite.port = peer.map(|peer| peer.port());
            sign_answer(key, &mut head, now_ns, uuid);
        }
        head.header_size = Some(0);
        head.total_size = Some(0);
        head.computed_body_hash = Some(EMPTY_BODY_HASH.to_owned());
        response(error.status(), &head, error_body(&error))
    }
}

fn response(status: u16, head: &Head, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in head.to_headers() {
        // Every value was read as plain text or is a text of ours; one that is not is left out.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
