//! The v1.9.0 axon door: `/Allocate`, `/Challenge`, `/Specs` and `/Synapse` on the node's port, for peers that still run
//! the Python code. On only where the provider turns it on.
//!
//! A request passes in this order: its name, its headers, time and signature, the lists, the memory of nonces, its body,
//! its place by priority, its handler. Python asks the lists before the signature and so tells strangers who is listed.
//! The body is signed by nobody: what a handler does must not depend on more than the caller who signed may ask for anyway.

mod access;
mod answer;
mod gate;
mod handlers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use axum::{Router, middleware};
use nicompute_daemon::{ErrorChain, SharedClock};
use nicompute_keys::Keypair;
use nicompute_market::Hotkey;
use nicompute_wire::axon::{
    Allocate, AxonError, Body as SynapseBody, Challenge, EMPTY_BODY_HASH, Head, NonceStore, Ping,
    Specs, Synapse, SynapseError, Verified, fresh, shown_name, verify_call,
};
use nicompute_wire::node::BODY_BYTES_MAX;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::node_api::{ApiLimits, BODY_LIMIT, FLOOR_AHEAD_MAX_NS, HEADER_BYTES_MAX, header_bytes};
use crate::offers::Offers;
use crate::store::{Store, StoreError};
use crate::subnet::{Known, Permits};
use access::decide;
pub use access::{AccessList, AccessListError, BLOCKED_MAX, MIN_STAKE};
use answer::Refused;
use gate::Gate;

/// Requests that are worked on at once.
pub const AXON_RUNNING_MAX: usize = 16;
/// Requests that wait for a place; beyond it the one of least priority is refused.
pub const AXON_WAITING_MAX: usize = 64;
/// Bodies that are read at once.
pub const AXON_ARRIVALS_MAX: usize = 64;
/// Dendrites of strangers that are remembered, in all and of one: they may only ask whether somebody is there.
const STRANGERS_NONCES_MAX: usize = 4_096;
const STRANGER_NONCES_MAX: usize = 16;
/// How far ahead of the last accepted nonce the stored floor is put, so that it is written once in this time.
const FLOOR_STEP_NS: u64 = 1_000_000_000;
/// The names that a 404 lists, in the order in which 1.9.0 attaches them.
const NAMES: &[&str] = &[Ping::NAME, Allocate::NAME, Challenge::NAME, Specs::NAME];

/// The address at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) std::net::SocketAddr);

/// The door, and what its handlers work on.
#[derive(Debug)]
pub(crate) struct Door {
    key: Keypair,
    uuid: String,
    clock: SharedClock,
    store: Arc<Store>,
    offers: Arc<Offers>,
    permits: Arc<Permits>,
    access: AccessList,
    ssh_port: u16,
    /// Nonces of those who may do something here, and of everybody else.
    admitted: Mutex<NonceStore>,
    strangers: Mutex<NonceStore>,
    /// No nonce beyond it was accepted without being stored first.
    stored_floor_ns: AtomicU64,
    gate: Arc<Gate>,
    arrivals: Semaphore,
    limit: Duration,
}

/// What a door is made from.
pub(crate) struct DoorParts {
    pub(crate) key: Keypair,
    pub(crate) clock: SharedClock,
    pub(crate) store: Arc<Store>,
    pub(crate) offers: Arc<Offers>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) ssh_port: u16,
    pub(crate) limits: ApiLimits,
}

/// A caller who may ask for this synapse, and how soon its turn comes.
struct Admitted {
    caller: Verified,
    /// `None` goes past the gate.
    priority: Option<u64>,
}

/// The synapses that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Ping,
    Allocate,
    Challenge,
    Specs,
}

/// Puts the door beside the node API, where the provider wants it.
pub(crate) async fn mount(
    router: Router,
    access: Option<AccessList>,
    parts: DoorParts,
) -> Result<Router, StoreError> {
    let Some(access) = access else { return Ok(router) };
    let door = Arc::new(Door::new(parts, access).await?);
    Ok(router.layer(middleware::from_fn_with_state(door, beside_the_api)))
}

/// Lets the node API have its own paths, and answers all others.
async fn beside_the_api(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/v1" || path.starts_with("/v1/") {
        return next.run(request).await;
    }
    door.answer(request).await
}

// === impl Door ===

impl Door {
    async fn new(parts: DoorParts, access: AccessList) -> Result<Self, StoreError> {
        let now_ns = parts.clock.unix_ns();
        let floor_ns = parts.store.axon_nonce_floor_ns().await?;
        let start_ns =
            now_ns.max(floor_ns.saturating_add(1).min(now_ns.saturating_add(FLOOR_AHEAD_MAX_NS)));
        let limits = parts.limits;
        Ok(Self {
            key: parts.key,
            uuid: Uuid::new_v4().to_string(),
            clock: parts.clock,
            store: parts.store,
            offers: parts.offers,
            permits: parts.permits,
            access,
            ssh_port: parts.ssh_port,
            admitted: Mutex::new(NonceStore::new(start_ns)),
            strangers: Mutex::new(NonceStore::with_limits(
                start_ns,
                STRANGERS_NONCES_MAX,
                STRANGER_NONCES_MAX,
            )),
            stored_floor_ns: AtomicU64::new(floor_ns),
            gate: Gate::new(limits.axon_running, limits.axon_waiting),
            arrivals: Semaphore::new(limits.axon_arrivals),
            limit: limits.request,
        })
    }

    async fn answer(&self, request: Request) -> Response {
        let began = self.clock.monotonic();
        let (parts, body) = request.into_parts();
        let outcome = self.at_the_name(&parts, body).await;
        let took = self.clock.monotonic().saturating_sub(began);
        match outcome {
            Ok(served) => served.response(took),
            Err(refused) => {
                tracing::debug!(status = refused.status(), "refused at the v1.9.0 door");
                let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
                refused.response(&self.key, &self.uuid, (self.clock.unix_ns(), took), peer)
            }
        }
    }

    /// What can be refused before there is a caller.
    async fn at_the_name(&self, parts: &Parts, body: Body) -> Result<answer::Served, Refused> {
        let path = parts.uri.path();
        let asked = path.strip_prefix('/').unwrap_or(path);
        let Some(name) = Name::of(asked) else {
            let name = shown_name(asked);
            return Err(Refused::early(AxonError::UnknownName { name, available: NAMES }));
        };
        if header_bytes(&parts.headers) > HEADER_BYTES_MAX {
            return Err(Refused::early(AxonError::TooLarge("the headers have more than 16 KiB")));
        }
        let lines = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let head = Head::parse(lines).map_err(|error| {
            Refused::early(AxonError::Headers { name: name.as_str(), why: error.to_string() })
        })?;
        match self.at_the_head(name, parts, &head, body).await {
            Ok(served) => Ok(served),
            Err(Stop::Error(error)) => Err(Refused::of(name.as_str(), head, error)),
            Err(Stop::NoJson(error)) => Err(Refused::NoJson(error)),
        }
    }

    /// From headers to an answer, within the time that the caller waits.
    async fn at_the_head(
        &self,
        name: Name,
        parts: &Parts,
        head: &Head,
        body: Body,
    ) -> Result<answer::Served, Stop> {
        let caller = verify_call(head, &self.key.hotkey(), self.clock.unix_ns());
        let caller = caller.map_err(AxonError::NotVerified)?;
        if parts.method != Method::GET && parts.method != Method::POST {
            return Err(AxonError::Method.into());
        }
        // A caller that names no time, or hours, waits as long as a request may take.
        let waits = if caller.timeout.is_zero() { self.limit } else { caller.timeout };
        let waits = waits.min(self.limit);
        tokio::select! {
            biased;
            served = self.for_a_caller(name, head, caller, body) => served,
            () = self.clock.sleep(waits) => {
                Err(AxonError::Timeout(nicompute_wire::axon::seconds_text(waits)).into())
            }
        }
    }

    async fn for_a_caller(
        &self,
        name: Name,
        head: &Head,
        caller: Verified,
        body: Body,
    ) -> Result<answer::Served, Stop> {
        let admitted = self.admit(name, caller).await?;
        if head.computed_body_hash.as_deref() != Some(EMPTY_BODY_HASH) {
            return Err(internal("the stated body hash is not that of this synapse").into());
        }
        let body = self.read(body).await?;
        let _place = match admitted.priority {
            Some(priority) => Some(self.gate.enter(priority).await.map_err(|gate::Full| {
                AxonError::Unavailable("as many requests wait as may wait")
            })?),
            None => None,
        };
        match name {
            Name::Ping => self.handle::<Ping>(head, &body, async |ping| Ok(ping)).await,
            Name::Allocate => {
                self.handle(head, &body, async |asked| self.allocate(&admitted.caller, asked).await)
                    .await
            }
            Name::Challenge => {
                self.handle(head, &body, async |asked| Ok(handlers::challenge(asked))).await
            }
            Name::Specs => self.handle(head, &body, async |asked| Ok(handlers::specs(asked))).await,
        }
    }

    /// Reads a synapse, lets its handler work on it, and writes it back whole.
    async fn handle<B: SynapseBody>(
        &self,
        head: &Head,
        body: &[u8],
        handler: impl AsyncFnOnce(B) -> Result<B, StoreError>,
    ) -> Result<answer::Served, Stop> {
        let synapse = Synapse::<B>::parse(body).map_err(|error| match error {
            SynapseError::Json(error) => Stop::NoJson(error),
            other => internal(&other).into(),
        })?;
        let (asked, envelope) = answer::open(synapse);
        let answered = handler(asked).await.map_err(|error| {
            tracing::error!(error = %ErrorChain(&error), "a request failed in the store");
            internal("the store failed")
        })?;
        Ok(answer::Served::new(head, body.len(), envelope, answered))
    }

    /// Asks who the caller is and whether it may ask for this, then remembers its nonce.
    async fn admit(&self, name: Name, caller: Verified) -> Result<Admitted, AxonError> {
        let hotkey = Hotkey(caller.account);
        let (known, priority) = match name {
            // Whoever signs may ask whether somebody is there.
            Name::Ping => (self.permits.recall_member(&hotkey), None),
            Name::Allocate | Name::Challenge | Name::Specs => {
                let known = self.permits.member(&hotkey).await;
                let stake = decide(&self.access, &hotkey, known)?;
                (known, Some(stake.get().saturating_add(name.bonus_rao())))
            }
        };
        // Read again: waiting for the chain may have made the request old.
        let now_ns = self.clock.unix_ns();
        fresh(caller.nonce_ns, caller.timeout, now_ns)?;
        let stranger = priority.is_none() && !matches!(known, Known::Member(_));
        let nonces = if stranger { &self.strangers } else { &self.admitted };
        nonces.lock().unwrap_or_else(PoisonError::into_inner).admit(&caller, now_ns)?;
        self.store_floor(caller.nonce_ns).await?;
        Ok(Admitted { caller, priority })
    }

    /// Whatever was accepted stays below a number in the store, so that the next process accepts nothing of it again.
    async fn store_floor(&self, nonce_ns: u64) -> Result<(), AxonError> {
        if nonce_ns <= self.stored_floor_ns.load(Ordering::Acquire) {
            return Ok(());
        }
        let floor_ns = nonce_ns.saturating_add(FLOOR_STEP_NS);
        self.store.raise_axon_nonce_floor(floor_ns).await.map_err(|error| {
            tracing::error!(error = %ErrorChain(&error), "the nonces cannot be stored");
            internal("the nonce cannot be stored")
        })?;
        self.stored_floor_ns.fetch_max(floor_ns, Ordering::AcqRel);
        Ok(())
    }

    async fn read(&self, body: Body) -> Result<axum::body::Bytes, AxonError> {
        let Ok(_place) = self.arrivals.try_acquire() else {
            return Err(AxonError::Unavailable("as many requests arrive as are taken"));
        };
        let read = tokio::select! {
            biased;
            read = axum::body::to_bytes(body, BODY_BYTES_MAX) => read,
            () = self.clock.sleep(BODY_LIMIT) => {
                let waited = nicompute_wire::axon::seconds_text(BODY_LIMIT);
                return Err(AxonError::Timeout(waited));
            }
        };
        read.map_err(|error| {
            let cause = std::error::Error::source(&error);
            if cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
                AxonError::TooLarge("the body has more than 256 KiB")
            } else {
                internal("the body ended early or is malformed")
            }
        })
    }
}

/// Why a request with good headers is not answered.
enum Stop {
    Error(AxonError),
    NoJson(serde_json::Error),
}

impl From<AxonError> for Stop {
    fn from(error: AxonError) -> Self {
        Self::Error(error)
    }
}

/// A 500 that the operator finds in the log.
fn internal(cause: &(impl std::fmt::Display + ?Sized)) -> AxonError {
    let id = Uuid::new_v4().to_string();
    tracing::debug!(%id, %cause, "a request at the v1.9.0 door came to nothing");
    AxonError::Internal { id }
}

// === impl Name ===

impl Name {
    fn of(path: &str) -> Option<Self> {
        match path {
            Ping::NAME => Some(Self::Ping),
            Allocate::NAME => Some(Self::Allocate),
            Challenge::NAME => Some(Self::Challenge),
            Specs::NAME => Some(Self::Specs),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => Ping::NAME,
            Self::Allocate => Allocate::NAME,
            Self::Challenge => Challenge::NAME,
            Self::Specs => Specs::NAME,
        }
    }

    /// What 1.9.0 adds to the caller's stake: three, two and one coin.
    const fn bonus_rao(self) -> u64 {
        match self {
            Self::Allocate => 3_000_000_000,
            Self::Challenge => 2_000_000_000,
            Self::Specs => 1_000_000_000,
            Self::Ping => 0,
        }
    }
}
