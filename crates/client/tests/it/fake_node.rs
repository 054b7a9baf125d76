//! A node on loopback whose every answer the test decides, with the real signatures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use nicompute_client::{NodeClient, NodeDialer};
use nicompute_daemon::{OnError, SystemClock, Tasks};
use nicompute_keys::{Keypair, Scheme};
use nicompute_wire::btauth::{self, sign_response};

pub(crate) const BUDGET: Duration = Duration::from_secs(10);

/// What the fake says to a request.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) signer: Option<Keypair>,
    /// Signed over these bytes instead of the body.
    pub(crate) signed_body: Option<Vec<u8>>,
    /// Added to the nonce that the answer names.
    pub(crate) nonce_shift: u64,
    pub(crate) silent: bool,
}

impl Reply {
    pub(crate) fn signed(key: &Keypair, status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            signer: Some(key.clone()),
            signed_body: None,
            nonce_shift: 0,
            silent: false,
        }
    }
}

type Decide = Arc<dyn Fn(&str, &str, &[u8]) -> Reply + Send + Sync>;

pub(crate) struct FakeNode {
    pub(crate) client: NodeClient,
    pub(crate) key: Keypair,
    _tasks: Tasks,
}

pub(crate) fn provider_key() -> Keypair {
    Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap()
}

pub(crate) fn validator_key() -> Keypair {
    Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap()
}

impl FakeNode {
    /// Starts a node that answers as the closure says: method, target, body.
    pub(crate) async fn start(
        decide: impl Fn(&str, &str, &[u8]) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let tasks = Tasks::new();
        let address = serve(Arc::new(decide), &tasks).await;
        let key = provider_key();
        let dialer = NodeDialer::new(validator_key(), SystemClock::shared()).unwrap();
        Self { client: dialer.node(address, key.hotkey()), key, _tasks: tasks }
    }

    /// A node that answers every request with this signed body.
    pub(crate) async fn saying(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::start(move |_, _, _| Reply::signed(&provider_key(), status, body.clone())).await
    }
}

async fn serve(decide: Decide, tasks: &Tasks) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(decide);
    tasks.spawn("fake node", OnError::Log, async move { Ok(axum::serve(listener, app).await?) });
    address
}

async fn answer(State(decide): State<Decide>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let target = parts.uri.path_and_query().unwrap().as_str();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    // Whatever the test answers, the client's own signature must hold for this node.
    let signed = btauth::Request { method: parts.method.as_str(), target, body: &body };
    let now_ns = nicompute_daemon::Clock::unix_ns(&SystemClock::new());
    let me = provider_key().hotkey();
    let checked = btauth::check_request(header, &signed, &me, now_ns).unwrap();
    let receiver = *checked.sender();
    let nonce: u64 = header("X-Bittensor-Nonce").unwrap().parse().unwrap();
    let reply = decide(parts.method.as_str(), target, &body);
    if reply.silent {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(reply.status);
    if let Some(key) = &reply.signer {
        let body = reply.signed_body.as_ref().unwrap_or(&reply.body);
        let what = btauth::Response { status: reply.status, body };
        for (name, value) in sign_response(key, &what, nonce + reply.nonce_shift, &receiver).0 {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            response = response.header(name, HeaderValue::from_str(&value).unwrap());
        }
    }
    response.body(Body::from(reply.body)).unwrap()
}
