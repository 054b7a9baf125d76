//! The node's HTTP door under `/v1`: every request signed by its sender for this node, every answer signed by this node.
//!
//! A request passes the limits, then the signature, then the question who may ask at all; only then its handler sees it.
//! Handlers change nothing on the machine: they store what is wanted, the reconciler does it.

mod ask;
mod events;
mod gpus;
mod guard;
mod leases;
mod probe;
mod refusal;
mod server;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};
use nicompute_daemon::{CancellationToken, SharedClock};
use nicompute_keys::Keypair;
use nicompute_market::{Lease, PublishedPort};
use nicompute_wire::btauth::{MAX_SKEW_NS, ReplayStore};
use nicompute_wire::codes::Code;
use nicompute_wire::hostkey::{self, HostKeyError};
use nicompute_wire::node::{
    LeaseView, NodeView, OffersView, PublishedPortView, SshAccessView, SshDoorView,
};
use tokio::sync::Semaphore;

use crate::axon::{
    ALLOCATE_LIMIT, AXON_ARRIVALS_MAX, AXON_RUNNING_MAX, AXON_STRANGERS_ARRIVALS_MAX,
    AXON_WAITING_MAX, AccessList,
};
use crate::gpus::GpuWatch;
use crate::leases::Leases;
use crate::offers::Offers;
use crate::ports::PortBoard;
use crate::routes::Routes;
use crate::store::{Store, StoreError};
use crate::subnet::Permits;
use guard::guard;
pub(crate) use guard::header_bytes;
pub use probe::PROBE_EVERY;
use refusal::{Refusal, json};
pub(crate) use server::serve;

/// Connections at once. Each costs a socket and a small buffer.
pub const CONNECTIONS_MAX: usize = 256;
/// Connections at once from one address; beyond it a new one is closed.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// Requests that arrive at once: until its body is read and its signature admitted, one may be anybody's. More than one
/// address can have connections, so that none keeps the others out.
pub const ARRIVALS_MAX: usize = 192;
/// How long a request's body may take to arrive.
pub const BODY_LIMIT: Duration = Duration::from_secs(3);
/// Admitted requests that are worked on at once, long polls included.
pub const REQUESTS_MAX: usize = 64;
/// Changes of one lease after which its holder can only give it back.
pub const LEASE_CHANGES_MAX: u64 = 10_000;
/// Event streams at once.
pub const EVENT_STREAMS_MAX: usize = 16;
/// Bytes of all header names and values of one request. A signed request has about 600.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// From a request's first byte to its answer. Longer than the longest wait that a caller may ask for.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// The longest wait for a change of a lease that a caller may ask for.
pub const WAIT_MILLIS_MAX: u64 = 10_000;
/// Requests of strangers that are remembered against replays, in all and of one: they may only look.
const STRANGERS_REPLAYS_MAX: usize = 8_192;
const STRANGER_REPLAYS_MAX: usize = 64;
/// How far ahead of the clock the nonces of a process before may keep others out. A floor beyond it is left from a clock
/// that was far ahead, which must not shut everybody out for ever.
pub const FLOOR_AHEAD_MAX: Duration = Duration::from_secs(600);
pub(crate) const FLOOR_AHEAD_MAX_NS: u64 = FLOOR_AHEAD_MAX.as_secs() * NANOS_PER_SECOND;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How much the node API takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address.
    pub connections_per_address: usize,
    /// Requests at once that are not admitted yet.
    pub arrivals: usize,
    /// Admitted requests at once.
    pub requests: usize,
    /// Changes of one lease after which its holder can only give it back.
    pub lease_changes: u64,
    /// Event streams at once.
    pub event_streams: usize,
    /// From a request's first byte to its answer.
    pub request: Duration,
    /// The same for an order at the v1.9.0 door, which is answered when its lease can be entered.
    pub axon_allocate: Duration,
    /// Requests at the v1.9.0 door that are worked on at once.
    pub axon_running: usize,
    /// Requests at the v1.9.0 door that wait for that.
    pub axon_waiting: usize,
    /// Bodies of the accepted that the v1.9.0 door reads at once.
    pub axon_arrivals: usize,
    /// Bodies of everybody else that the v1.9.0 door reads at once.
    pub axon_strangers_arrivals: usize,
}

/// What the handlers work on.
#[derive(Debug)]
pub(crate) struct Api {
    store: Arc<Store>,
    leases: Arc<Leases>,
    offers: Arc<Offers>,
    permits: Arc<Permits>,
    /// The provider's lists, which both doors keep to.
    access: Option<AccessList>,
    key: Keypair,
    clock: SharedClock,
    limits_enforced: bool,
    ssh: SshDoorView,
    ports: Arc<PortBoard>,
    announce_ip: IpAddr,
    /// Replays of those who may take leases, and of everybody else: strangers must not fill the memory of the others.
    admitted: Mutex<ReplayStore>,
    strangers: Mutex<ReplayStore>,
    limits: ApiLimits,
    arrivals: Semaphore,
    requests: Semaphore,
    event_streams: Arc<Semaphore>,
    stop: CancellationToken,
}

/// What an API is made from.
pub(crate) struct ApiParts<'a> {
    pub(crate) store: Arc<Store>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) offers: Arc<Offers>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) access: Option<AccessList>,
    pub(crate) routes: &'a dyn Routes,
    pub(crate) ports: Arc<PortBoard>,
    pub(crate) key: Keypair,
    pub(crate) clock: SharedClock,
    pub(crate) limits_enforced: bool,
    pub(crate) announce_ip: IpAddr,
    pub(crate) limits: ApiLimits,
    pub(crate) stop: CancellationToken,
}

/// Why an API could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the gateway's host key cannot be signed")]
    HostKey(#[from] HostKeyError),
}

// === impl ApiLimits ===

impl ApiLimits {
    /// The limits of a provider's node.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            connections_per_address: CONNECTIONS_PER_ADDRESS_MAX,
            arrivals: ARRIVALS_MAX,
            requests: REQUESTS_MAX,
            lease_changes: LEASE_CHANGES_MAX,
            event_streams: EVENT_STREAMS_MAX,
            request: REQUEST_LIMIT,
            axon_allocate: ALLOCATE_LIMIT,
            axon_running: AXON_RUNNING_MAX,
            axon_waiting: AXON_WAITING_MAX,
            axon_arrivals: AXON_ARRIVALS_MAX,
            axon_strangers_arrivals: AXON_STRANGERS_ARRIVALS_MAX,
        }
    }
}

// === impl Api ===

impl Api {
    pub(crate) async fn new(parts: ApiParts<'_>) -> Result<Self, ApiError> {
        let (host_key, host_key_signature) = hostkey::sign(&parts.key, &parts.routes.host_key())?;
        let ssh = SshDoorView { port: parts.routes.port(), host_key, host_key_signature };
        let now_ns = parts.clock.unix_ns();
        let floor_ns = parts.store.nonce_floor_ns().await?.saturating_add(1);
        let start_ns = now_ns.max(floor_ns.min(now_ns.saturating_add(FLOOR_AHEAD_MAX_NS)));
        if floor_ns > now_ns.saturating_add(MAX_SKEW_NS) {
            tracing::error!(
                seconds = floor_ns.saturating_sub(now_ns) / NANOS_PER_SECOND,
                "the clock is behind the last accepted request; requests are refused until it has caught up, \
                 set it by NTP"
            );
        }
        let strangers =
            ReplayStore::with_limits(start_ns, STRANGERS_REPLAYS_MAX, STRANGER_REPLAYS_MAX);
        Ok(Self {
            store: parts.store,
            leases: parts.leases,
            offers: parts.offers,
            permits: parts.permits,
            access: parts.access,
            key: parts.key,
            clock: parts.clock,
            limits_enforced: parts.limits_enforced,
            ssh,
            ports: parts.ports,
            announce_ip: parts.announce_ip,
            admitted: Mutex::new(ReplayStore::new(start_ns)),
            strangers: Mutex::new(strangers),
            limits: parts.limits,
            arrivals: Semaphore::new(parts.limits.arrivals),
            requests: Semaphore::new(parts.limits.requests),
            event_streams: Arc::new(Semaphore::new(parts.limits.event_streams)),
            stop: parts.stop,
        })
    }

    fn view(&self, lease: &Lease) -> LeaseView {
        let ssh = SshAccessView {
            host: self.announce_ip.to_string(),
            port: self.ssh.port,
            user: lease.terms.id.short(),
            host_key: self.ssh.host_key.clone(),
        };
        let port = |port: &PublishedPort| PublishedPortView {
            container_port: port.container_port,
            host: self.announce_ip.to_string(),
            port: port.port,
            problem: self.ports.problem(lease.terms.id, port.container_port).map(str::to_owned),
        };
        LeaseView::new(lease, ssh, lease.published.iter().map(port).collect())
    }
}

/// Every path of the door. One place, so that a test can walk through all of them.
pub(crate) fn router(api: Arc<Api>, watch: Option<Arc<GpuWatch>>) -> Router {
    Router::new()
        .route("/v1/node", get(node))
        .route("/v1/offers", get(offers))
        .route("/v1/leases", post(leases::ask))
        .route("/v1/leases/{id}", get(leases::show).delete(leases::release))
        .route("/v1/leases/{id}/extend", post(leases::extend))
        .route("/v1/leases/{id}/pause", post(leases::pause))
        .route("/v1/leases/{id}/resume", post(leases::resume))
        .route("/v1/leases/{id}/restart", post(leases::restart))
        .route("/v1/leases/{id}/keys", post(leases::change_keys))
        .route("/v1/leases/{id}/events", get(events::stream))
        .route("/v1/leases/{id}/gpus", get(gpus::gpus))
        .route("/v1/probe", post(probe::probe))
        .layer(Extension(watch))
        .layer(Extension(Arc::new(probe::Probes::default())))
        .fallback(async || Refusal::new(Code::NoSuchPath, "nothing is served under this path"))
        .method_not_allowed_fallback(async || {
            Refusal::new(Code::MethodNotAllowed, "this path is served, with another method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard))
        .with_state(api)
}

async fn node(State(api): State<Arc<Api>>) -> Response {
    json(
        200,
        &NodeView {
            hotkey: api.key.hotkey(),
            version: VERSION.to_owned(),
            runtime: api.offers.kind().to_string(),
            limits_enforced: api.limits_enforced,
            machine: api.offers.machine().into(),
            ssh: api.ssh.clone(),
        },
    )
}

async fn offers(State(api): State<Arc<Api>>) -> Result<Response, Refusal> {
    let offers = api.offers.current(&api.store).await?;
    Ok(json(200, &OffersView { offers: offers.iter().map(Into::into).collect() }))
}

/// The sender of the request under way, as the guard found it.
type Caller = Extension<nicompute_wire::btauth::Caller>;
