//! The v1.9.0 axon door: `/Allocate`, `/Challenge`, `/Specs` and `/Synapse` on the node's port, for peers that still run
//! the Python code. On only where the provider turns it on.
//!
//! A request passes in this order: its name, its headers, time and signature, the lists, the memory of nonces, its body,
//! its place by priority, its handler. Python asks the lists before the signature and so tells strangers who is listed.
//! The body is signed by nobody: what a handler does must not depend on more than the caller who signed may ask for anyway.

mod access;
mod allocate;
mod answer;
mod faults;
mod gate;
mod handlers;
mod memory;
mod order;
mod password;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use axum::{Router, middleware};
use nicompute_daemon::{SharedClock, Tasks};
use nicompute_keys::Keypair;
use nicompute_market::Hotkey;
use nicompute_wire::axon::{
    AHEAD_NS, Allocate, AxonError, Body as SynapseBody, Challenge, EMPTY_BODY_HASH, Head, Ping,
    Received, Specs, SynapseError, Verified, fresh, shown_name, verify_call,
};
use nicompute_wire::node::BODY_BYTES_MAX;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::leases::Leases;
use crate::node_api::{
    ApiLimits, BODY_LIMIT, CONNECTIONS_PER_ADDRESS_MAX, FLOOR_AHEAD_MAX_NS, HEADER_BYTES_MAX,
    header_bytes,
};
use crate::offers::Offers;
use crate::store::{Store, StoreError};
use crate::subnet::Permits;
pub(crate) use access::Listed;
use access::decide;
pub use access::{AccessList, AccessListError, BLOCKED_MAX, MIN_STAKE};
pub use allocate::ALLOCATE_LIMIT;
use allocate::{Asker, Creating};
use answer::Refused;
use faults::Faults;
use gate::Gate;
use memory::{Guest, Memory};

/// Requests that are worked on at once.
pub const AXON_RUNNING_MAX: usize = 16;
/// Requests that wait for a place; beyond it the one of least priority is refused.
pub const AXON_WAITING_MAX: usize = 64;
/// Bodies of the accepted that are read at once.
pub const AXON_ARRIVALS_MAX: usize = 192;
/// Bodies of everybody else that are read at once: keys are free, so they have places of their own.
pub const AXON_STRANGERS_ARRIVALS_MAX: usize = 32;
const _: () = assert!(
    AXON_ARRIVALS_MAX > CONNECTIONS_PER_ADDRESS_MAX,
    "one address would keep all others out"
);
/// How far ahead of the last accepted nonce the stored floor is put, so that it is written once in this time.
const FLOOR_STEP_NS: u64 = 1_000_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// The names that a 404 lists: those that 1.9.0 attaches, in its order, and `Specs`, which it defines and does not attach.
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
    leases: Arc<Leases>,
    offers: Arc<Offers>,
    permits: Arc<Permits>,
    tasks: Tasks,
    access: AccessList,
    ssh_port: u16,
    creating: Creating,
    memory: Memory,
    /// No nonce beyond it was accepted without being stored first.
    stored_floor_ns: AtomicU64,
    gate: Arc<Gate>,
    arrivals: Semaphore,
    strangers_arrivals: Semaphore,
    faults: Faults,
    limit: Duration,
    allocate_limit: Duration,
}

/// What a door is made from.
pub(crate) struct DoorParts {
    pub(crate) key: Keypair,
    pub(crate) clock: SharedClock,
    pub(crate) store: Arc<Store>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) offers: Arc<Offers>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) tasks: Tasks,
    pub(crate) ssh_port: u16,
    pub(crate) limits: ApiLimits,
}

/// A caller who may ask for this synapse, and how soon its turn comes.
struct Admitted {
    guest: Guest,
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
    door.end_unanswered().await?;
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
        let floor_max_ns = now_ns.saturating_add(FLOOR_AHEAD_MAX_NS);
        let floor_ns = if floor_ns > floor_max_ns {
            // Lowered in the store too, so that the next start does not wait as long again.
            parts.store.lower_axon_nonce_floor(floor_max_ns).await?;
            floor_max_ns
        } else {
            floor_ns
        };
        if floor_ns > now_ns.saturating_add(AHEAD_NS).saturating_add(FLOOR_STEP_NS) {
            tracing::error!(
                seconds = floor_ns.saturating_sub(now_ns) / NANOS_PER_SECOND,
                "the clock is behind the last request that the v1.9.0 door accepted; its requests are refused until \
                 it has caught up, set it by NTP"
            );
        }
        let start_ns = now_ns.max(floor_ns.saturating_add(1));
        let limits = parts.limits;
        Ok(Self {
            key: parts.key,
            uuid: Uuid::new_v4().to_string(),
            clock: parts.clock,
            store: parts.store,
            leases: parts.leases,
            offers: parts.offers,
            permits: parts.permits,
            tasks: parts.tasks,
            access,
            ssh_port: parts.ssh_port,
            creating: Creating::default(),
            memory: Memory::new(start_ns),
            stored_floor_ns: AtomicU64::new(floor_ns),
            gate: Gate::new(limits.axon_running, limits.axon_waiting),
            arrivals: Semaphore::new(limits.axon_arrivals),
            strangers_arrivals: Semaphore::new(limits.axon_strangers_arrivals),
            faults: Faults::default(),
            limit: limits.request,
            allocate_limit: limits.axon_allocate,
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
        let longest = if name == Name::Allocate { self.allocate_limit } else { self.limit };
        let waits = if caller.timeout.is_zero() { longest } else { caller.timeout };
        let waits = waits.min(longest);
        let until = self.clock.monotonic().saturating_add(waits);
        tokio::select! {
            biased;
            served = self.for_a_caller(name, head, (caller, until), body) => served,
            () = self.clock.sleep(waits) => {
                Err(AxonError::Timeout(nicompute_wire::axon::seconds_text(waits)).into())
            }
        }
    }

    async fn for_a_caller(
        &self,
        name: Name,
        head: &Head,
        (caller, until): (Verified, Duration),
        body: Body,
    ) -> Result<answer::Served, Stop> {
        let hotkey = Hotkey(caller.account);
        let admitted = self.admit(name, caller).await?;
        if head.computed_body_hash.as_deref() != Some(EMPTY_BODY_HASH) {
            let why = "the stated body hash is not that of this synapse";
            return Err(self.faults.of_caller(&self.clock, &Said(why)).into());
        }
        let body = self.read(admitted.guest, body).await?;
        let _place = match admitted.priority {
            Some(priority) => Some(self.gate.enter(priority).await.map_err(|gate::Full| {
                AxonError::Unavailable("as many requests wait as may wait")
            })?),
            None => None,
        };
        match name {
            Name::Ping => self.handle(head, &body, |ping: Ping| ping),
            Name::Allocate => {
                let (asked, envelope) = self.open(&body)?;
                let answered = Box::pin(self.allocate(asked, Asker { hotkey, until })).await;
                Ok(answer::Served::new(head, body.len(), envelope, answered))
            }
            Name::Challenge => self.handle(head, &body, handlers::challenge),
            Name::Specs => self.handle(head, &body, handlers::specs),
        }
    }

    /// Reads a synapse, lets its handler work on it, and writes it back whole.
    fn handle<B: SynapseBody>(
        &self,
        head: &Head,
        body: &[u8],
        handler: impl FnOnce(B) -> B,
    ) -> Result<answer::Served, Stop> {
        let (asked, envelope) = self.open(body)?;
        Ok(answer::Served::new(head, body.len(), envelope, handler(asked)))
    }

    /// A synapse's own fields, and all others.
    fn open<B: SynapseBody>(&self, body: &[u8]) -> Result<(B, answer::Envelope), Stop> {
        let synapse = Received::<B>::parse(body).map_err(|error| match error {
            SynapseError::Json(error) => Stop::NoJson(error),
            other => self.faults.of_caller(&self.clock, &other).into(),
        })?;
        Ok(answer::open(synapse))
    }

    /// Asks who the caller is and whether it may ask for this, then remembers its nonce.
    async fn admit(&self, name: Name, caller: Verified) -> Result<Admitted, AxonError> {
        let hotkey = Hotkey(caller.account);
        let (guest, priority) = match name {
            // Whoever signs may ask whether somebody is there; the lists say only whose places it takes.
            Name::Ping => {
                let known = self.permits.recall_member(&hotkey);
                let accepted = decide(&self.access, &hotkey, known).is_ok();
                (if accepted { Guest::Accepted } else { Guest::Stranger }, None)
            }
            Name::Allocate | Name::Challenge | Name::Specs => {
                let known = self.permits.member(&hotkey).await;
                let stake = decide(&self.access, &hotkey, known)?;
                (Guest::Accepted, Some(stake.get().saturating_add(name.bonus_rao())))
            }
        };
        // Read again: waiting for the chain may have made the request old.
        let now_ns = self.clock.unix_ns();
        fresh(caller.nonce_ns, caller.timeout, now_ns)?;
        self.memory.admit(guest, &caller, now_ns)?;
        self.store_floor(caller.nonce_ns).await?;
        Ok(Admitted { guest, priority })
    }

    /// Whatever was accepted stays below a number in the store, so that the next process accepts nothing of it again.
    async fn store_floor(&self, nonce_ns: u64) -> Result<(), AxonError> {
        if nonce_ns <= self.stored_floor_ns.load(Ordering::Acquire) {
            return Ok(());
        }
        let floor_ns = nonce_ns.saturating_add(FLOOR_STEP_NS);
        let raised = self.store.raise_axon_nonce_floor(floor_ns).await;
        raised.map_err(|error| faults::of_node("the nonces cannot be stored", &error))?;
        self.stored_floor_ns.fetch_max(floor_ns, Ordering::AcqRel);
        Ok(())
    }

    async fn read(&self, guest: Guest, body: Body) -> Result<axum::body::Bytes, AxonError> {
        let places = match guest {
            Guest::Accepted => &self.arrivals,
            Guest::Stranger => &self.strangers_arrivals,
        };
        let Ok(_place) = places.try_acquire() else {
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
                self.faults.of_caller(&self.clock, &error)
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

/// A cause that is a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(&'static str);

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
