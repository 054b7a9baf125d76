//! The client of a provider's node API: every request signed for that provider, every answer checked to be its own.

mod error;
mod machine;
mod views;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::SharedClock;
use nicompute_keys::Keypair;
use nicompute_market::{Hotkey, LeaseId, LeaseState, Offer};
use nicompute_wire::btauth::{NonceSource, Request, Response, sign_request, verify_response};
use nicompute_wire::node::{
    BODY_BYTES_MAX, ExtendRequest, KeysRequest, LeaseRequest, LeaseView, NodeView, OffersView,
};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{Answer, Http, TransportError, exchange};
use crate::refusal::Refusal;

pub use error::NodeError;
pub use views::{HeldLease, Node, ReachedPort};

/// How long a node is asked to wait for a change of a lease before it answers; nodes take up to 10 s.
const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// The pause before a node that did not answer is asked again, and what is left of a budget for the way back.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// Makes clients of nodes that share one key, one pool of connections and one source of nonces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeDialer {
    http: Http,
    key: Arc<Keypair>,
    clock: SharedClock,
    nonces: Arc<Mutex<NonceSource>>,
}

/// The client of one provider's node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeClient {
    dialer: NodeDialer,
    address: SocketAddr,
    provider: Hotkey,
}

// === impl NodeDialer ===

impl NodeDialer {
    /// Signs with this hotkey and takes nonces from this clock.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up.
    pub fn new(key: Keypair, clock: SharedClock) -> Result<Self, TransportError> {
        let nonces = Arc::new(Mutex::new(NonceSource::default()));
        Ok(Self { http: Http::new()?, key: Arc::new(key), clock, nonces })
    }

    /// A client of the node at this address, which must prove to be this provider.
    #[must_use]
    pub fn node(&self, address: SocketAddr, provider: Hotkey) -> NodeClient {
        NodeClient { dialer: self.clone(), address, provider }
    }

    fn next_nonce(&self) -> u64 {
        let now_ns = self.clock.unix_ns();
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).next(now_ns)
    }
}

// === impl NodeClient ===

impl NodeClient {
    /// The provider that this client believes, and nobody else.
    #[must_use]
    pub const fn provider(&self) -> &Hotkey {
        &self.provider
    }

    /// Where it is asked.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who the node is, with an SSH host key that its hotkey vouches for.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or its host key is not signed by its hotkey.
    pub async fn node(&self, budget: Duration) -> Result<Node, NodeError> {
        let view: NodeView = self.get("/v1/node", budget).await?;
        Node::check(view, &self.provider, self.address.ip())
    }

    /// What can be leased.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or lists something that is no offer.
    pub async fn offers(&self, budget: Duration) -> Result<Vec<Offer>, NodeError> {
        let view: OffersView = self.get("/v1/offers", budget).await?;
        views::offers(view)
    }

    /// Asks for a lease. The same id asked for again with the same words is the same lease.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn create_lease(
        &self,
        request: &LeaseRequest,
        budget: Duration,
    ) -> Result<HeldLease, NodeError> {
        let view = self.send(Method::POST, "/v1/leases", Some(request), budget).await?;
        self.held(view, request.id)
    }

    /// How a lease stands.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or does not know the lease.
    pub async fn lease(&self, id: LeaseId, budget: Duration) -> Result<HeldLease, NodeError> {
        let view = self.get(&format!("/v1/leases/{id}"), budget).await?;
        self.held(view, id)
    }

    /// Waits until a lease is no longer on its way up: running, paused, ending or over. A node that does not answer for a
    /// moment is asked again.
    ///
    /// # Errors
    /// When the budget ends first, or at an error that waiting does not cure.
    pub async fn settled(&self, id: LeaseId, budget: Duration) -> Result<HeldLease, NodeError> {
        let clock = &self.dialer.clock;
        let end = clock.monotonic().saturating_add(budget);
        let mut seen = None;
        loop {
            let left = end.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Err(NodeError::Transport(TransportError::Deadline(budget)));
            }
            match self.lease_after(id, seen, left).await {
                Ok(held) if !on_its_way_up(held.state) => return Ok(held),
                Ok(held) => seen = Some(held.generation),
                Err(error) if !error.may_pass() => return Err(error),
                Err(_) => clock.sleep(SETTLE_PAUSE.min(left)).await,
            }
        }
    }

    /// The lease, once it is newer than this generation or the node's own wait is over.
    async fn lease_after(
        &self,
        id: LeaseId,
        seen: Option<u64>,
        left: Duration,
    ) -> Result<HeldLease, NodeError> {
        let Some(generation) = seen else { return self.lease(id, left).await };
        let wait = SETTLE_WAIT.min(left.saturating_sub(SETTLE_PAUSE)).as_millis();
        let target = format!("/v1/leases/{id}?wait_ms={wait}&generation={generation}");
        let view = self.get(&target, left).await?;
        self.held(view, id)
    }

    /// Gives a lease back. Giving back what is given back already is no error.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or does not know the lease.
    pub async fn release(&self, id: LeaseId, budget: Duration) -> Result<HeldLease, NodeError> {
        let target = format!("/v1/leases/{id}");
        let view = self.send(Method::DELETE, &target, None::<&()>, budget).await?;
        self.held(view, id)
    }

    /// Moves a lease's end.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn extend(
        &self,
        id: LeaseId,
        request: &ExtendRequest,
        budget: Duration,
    ) -> Result<HeldLease, NodeError> {
        self.act(id, "extend", Some(request), budget).await
    }

    /// Replaces a lease's SSH keys.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn keys(
        &self,
        id: LeaseId,
        request: &KeysRequest,
        budget: Duration,
    ) -> Result<HeldLease, NodeError> {
        self.act(id, "keys", Some(request), budget).await
    }

    /// Freezes a lease.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn pause(&self, id: LeaseId, budget: Duration) -> Result<HeldLease, NodeError> {
        self.act(id, "pause", None::<&()>, budget).await
    }

    /// Lets a frozen lease go on.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn resume(&self, id: LeaseId, budget: Duration) -> Result<HeldLease, NodeError> {
        self.act(id, "resume", None::<&()>, budget).await
    }

    /// Ends a lease's processes and starts it anew on its disk.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn restart(&self, id: LeaseId, budget: Duration) -> Result<HeldLease, NodeError> {
        self.act(id, "restart", None::<&()>, budget).await
    }

    async fn act<B: Serialize + Sync>(
        &self,
        id: LeaseId,
        action: &str,
        body: Option<&B>,
        budget: Duration,
    ) -> Result<HeldLease, NodeError> {
        let target = format!("/v1/leases/{id}/{action}");
        let view = self.send(Method::POST, &target, body, budget).await?;
        self.held(view, id)
    }

    fn held(&self, view: LeaseView, asked: LeaseId) -> Result<HeldLease, NodeError> {
        HeldLease::check(view, asked, &self.dialer.key.hotkey(), self.address.ip())
    }

    async fn get<T: DeserializeOwned>(
        &self,
        target: &str,
        budget: Duration,
    ) -> Result<T, NodeError> {
        self.send(Method::GET, target, None::<&()>, budget).await
    }

    async fn send<T: DeserializeOwned, B: Serialize + Sync>(
        &self,
        method: Method,
        target: &str,
        body: Option<&B>,
        budget: Duration,
    ) -> Result<T, NodeError> {
        let body = match body {
            Some(value) => serde_json::to_vec(value).map_err(NodeError::Encode)?,
            None => Vec::new(),
        };
        let answer = self.signed(method, target, body, budget).await?;
        if !answer.is_success() {
            return Err(NodeError::Refused(Refusal::parse(answer.status, &answer.body)));
        }
        serde_json::from_slice(&answer.body).map_err(NodeError::Decode)
    }

    /// One signed request and its signed answer.
    async fn signed(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        budget: Duration,
    ) -> Result<Answer, NodeError> {
        let NodeDialer { http, key, .. } = &self.dialer;
        let nonce_ns = self.dialer.next_nonce();
        let request = Request { method: method.as_str(), target, body: &body };
        let headers = sign_request(key, &request, Some(&self.provider), nonce_ns);
        let url = format!("http://{}{target}", self.address);
        let mut builder = http.client().request(method, url);
        for (name, value) in headers.0 {
            builder = builder.header(name, value);
        }
        if !body.is_empty() {
            builder = builder.header("content-type", "application/json").body(body);
        }
        let answer = exchange(builder, BODY_BYTES_MAX, budget).await?;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let response = Response { status: answer.status, body: &answer.body };
        verify_response(header, &response, nonce_ns, &self.provider, &key.account())
            .map_err(|source| NodeError::NotBelieved { status: answer.status, source })?;
        Ok(answer)
    }
}

const fn on_its_way_up(state: LeaseState) -> bool {
    match state {
        LeaseState::Requested | LeaseState::Reserved | LeaseState::Preparing => true,
        LeaseState::Running
        | LeaseState::Paused
        | LeaseState::Ending(_)
        | LeaseState::Ended(_)
        | LeaseState::Failed(_) => false,
    }
}
