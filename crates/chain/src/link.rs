//! The WebSocket to a node, opened when it is needed and opened anew when it is lost.
//!
//! Owns the deadline of every request and the choice among several nodes: the first of the list that answers, is of the
//! same chain and is not catching up. A request that the node refused is over; one that got lost with the connection is
//! asked again while its deadline lasts, so only requests that may be repeated go through here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nicompute_daemon::{Backoff, Clock, ErrorChain, SharedClock};
use subxt::SubstrateConfig;
use subxt::config::{RpcConfigFor, substrate};
use subxt::ext::jsonrpsee::client_transport::ws::{Url, WsTransportClientBuilder};
use subxt::ext::jsonrpsee::core::client::Client;
use subxt::rpcs::{self, LegacyRpcMethods, RpcClient};
use tokio::sync::watch;

use crate::error::{NodeError, ReadError};
use crate::place::{Condition, EndpointState, Place};
use crate::url::NodeUrl;

/// The node's methods.
pub(crate) type Rpc = LegacyRpcMethods<RpcConfigFor<SubstrateConfig>>;
/// A block's or an extrinsic's hash, as subxt writes it.
pub(crate) type Hash = substrate::H256;

/// Waits between tries to reach the node; the deadline ends them, not their number.
pub(crate) const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(5), tries_max: u32::MAX };
/// The largest message of a node. Metadata in hexadecimal is the largest honest one, of about a megabyte.
pub(crate) const MESSAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Heads that wait to be read; a subscription that floods is closed.
const SUBSCRIPTION_MAX: usize = 256;
/// How long one node of several may take to be reached before the next one is tried, where the deadline is long; half of
/// the deadline is enough to try them all.
const REACH_WAIT_MAX: Duration = Duration::from_secs(5);

/// The connection to a chain. Shared by all clones of a client.
#[derive(Debug)]
pub(crate) struct Link {
    places: Vec<Place>,
    clock: SharedClock,
    open: Mutex<Option<Open>>,
    /// Held by whoever connects; only those who need a connection wait for it, each within its own deadline.
    connecting: tokio::sync::Mutex<()>,
    current: AtomicUsize,
    genesis: OnceLock<Hash>,
    /// Counts the connections, for those who hold a subscription of one.
    opened: watch::Sender<u64>,
}

/// An open connection; two are equal if they are the same one.
#[derive(Debug, Clone)]
struct Open {
    rpc: Rpc,
    at: usize,
    id: Arc<()>,
}

/// How one try ended.
enum Try<T> {
    Done(T),
    Again(NodeError),
    Silent,
    Over(ReadError),
}

/// How long one try may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The try itself, with connecting.
    left: Duration,
    /// The node's answer.
    share: Duration,
    /// Reaching one node.
    reach: Duration,
}

/// A node that was reached, or why it is of no use.
enum Reached {
    Ready(Rpc),
    Syncing(Rpc),
    Gone(Option<NodeError>),
    OtherChain,
}

impl Link {
    /// A link to the first usable one of these, of which there is at least one. Where the chain is known by its name, so
    /// is its genesis.
    pub(crate) fn new(urls: &[NodeUrl], clock: SharedClock) -> Self {
        let genesis = OnceLock::new();
        if let Some(known) = urls.iter().find_map(NodeUrl::genesis) {
            genesis.get_or_init(|| Hash::from(known));
        }
        Self {
            places: urls.iter().cloned().map(Place::new).collect(),
            clock,
            open: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            current: AtomicUsize::new(0),
            genesis,
            opened: watch::Sender::new(0),
        }
    }

    /// The node in use, or the one that was used last.
    pub(crate) fn url(&self) -> &NodeUrl {
        let current = self.current.load(Ordering::Relaxed);
        // There is one for every number that was ever stored.
        self.places.get(current).map_or(&NodeUrl::LOCAL, Place::url)
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The hash of the chain's first block; known once a connection was there.
    pub(crate) fn genesis(&self) -> Option<Hash> {
        self.genesis.get().copied()
    }

    /// How each node stands, in the order of preference.
    pub(crate) fn states(&self) -> Vec<EndpointState> {
        let current = self.current.load(Ordering::Relaxed);
        let state = |(at, place): (usize, &Place)| EndpointState {
            url: place.url().clone(),
            condition: place.condition(),
            in_use: at == current,
        };
        self.places.iter().enumerate().map(state).collect()
    }

    /// Hears of every new connection.
    pub(crate) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Asks the node, for as long as `limit`, whatever becomes of the connection meanwhile.
    pub(crate) async fn ask<T, F, Fut>(
        &self,
        limit: Duration,
        request: &'static str,
        op: F,
    ) -> Result<T, ReadError>
    where
        F: Fn(Rpc) -> Fut,
        Fut: Future<Output = Result<T, rpcs::Error>>,
    {
        let until = self.clock.monotonic().saturating_add(limit);
        let mut attempt = 1;
        let mut last = None;
        loop {
            let left = until.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Err(self.gone(limit, last));
            }
            // Of several nodes none may use up the whole deadline with its silence.
            let limits = Limits { left, share: self.share(limit), reach: self.reach_wait(limit) };
            match self.attempt(limits, request, &op).await {
                Try::Silent => {}
                Try::Done(value) => return Ok(value),
                Try::Over(error) => return Err(error),
                Try::Again(error) => last = Some(error),
            }
            let left = until.saturating_sub(self.clock.monotonic());
            self.clock.sleep(RECONNECT.delay(attempt).min(left)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// One try, without repetition: for what must not be said twice, and for the first connection.
    pub(crate) async fn ask_once<T, F, Fut>(
        &self,
        limit: Duration,
        request: &'static str,
        op: F,
    ) -> Result<T, ReadError>
    where
        F: Fn(Rpc) -> Fut,
        Fut: Future<Output = Result<T, rpcs::Error>>,
    {
        let limits = Limits { left: limit, share: limit, reach: self.reach_wait(limit) };
        match self.attempt(limits, request, &op).await {
            Try::Silent => Err(self.gone(limit, None)),
            Try::Done(value) => Ok(value),
            Try::Over(error) => Err(error),
            Try::Again(error) => Err(self.gone(limit, Some(error))),
        }
    }

    /// Goes back to a node that is preferred to the one in use, if one is back.
    pub(crate) async fn come_home(&self) {
        let current = self.current.load(Ordering::Relaxed);
        for (at, place) in self.places.iter().enumerate().take(current) {
            if !place.may_be_tried(self.clock.monotonic()) {
                continue;
            }
            if let Reached::Ready(rpc) = self.reach(place, REACH_WAIT_MAX).await {
                tracing::info!(endpoint = %place.url(), "back to a preferred node of the chain");
                self.use_place(at, rpc);
                return;
            }
        }
    }

    /// Forgets the connection, for a subscriber that found it silent.
    pub(crate) fn reset(&self) {
        let open = self.slot().clone();
        if let Some(open) = open {
            self.give_up(&open);
        }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> u64 {
        *self.opened.borrow()
    }

    async fn attempt<T, F, Fut>(&self, limits: Limits, request: &'static str, op: &F) -> Try<T>
    where
        F: Fn(Rpc) -> Fut,
        Fut: Future<Output = Result<T, rpcs::Error>>,
    {
        let until = self.clock.monotonic().saturating_add(limits.left);
        let open = match self.within(limits.left, Box::pin(self.open(limits.reach))).await {
            None => return Try::Silent,
            Some(Ok(Ok(open))) => open,
            Some(Ok(Err(error))) => return Try::Again(error),
            Some(Err(error)) => return Try::Over(error),
        };
        let left = until.saturating_sub(self.clock.monotonic()).min(limits.share);
        match self.within(left, Box::pin(op(open.rpc.clone()))).await {
            None => {
                // A node that is silent for so long may sit behind a dead connection. One that had hardly any time is
                // not to blame.
                if left >= limits.share / 2 {
                    self.give_up(&open);
                }
                Try::Silent
            }
            Some(Ok(value)) => Try::Done(value),
            Some(Err(error)) => {
                let source = NodeError::new(error);
                if source.lost() {
                    self.close(&open);
                    return Try::Again(source);
                }
                Try::Over(ReadError::Refused { request, source })
            }
        }
    }

    /// The open connection, or a new one to the same chain: to the first node that is ready, or to one that is catching up
    /// where none is.
    async fn open(&self, wait: Duration) -> Result<Result<Open, NodeError>, ReadError> {
        if let Some(open) = self.slot().clone() {
            return Ok(Ok(open));
        }
        let _alone = self.connecting.lock().await;
        if let Some(open) = self.slot().clone() {
            return Ok(Ok(open));
        }
        let (mut syncing, mut last, mut is_gone) = (None, None, false);
        for at in self.candidates() {
            let Some(place) = self.places.get(at) else { continue };
            match self.reach(place, wait).await {
                Reached::Ready(rpc) => return Ok(Ok(self.use_place(at, rpc))),
                Reached::Syncing(rpc) => syncing = syncing.or(Some((at, rpc))),
                Reached::Gone(error) => {
                    is_gone = true;
                    last = error.or(last);
                }
                Reached::OtherChain => {}
            }
        }
        if let Some((at, rpc)) = syncing {
            return Ok(Ok(self.use_place(at, rpc)));
        }
        if !is_gone {
            return Err(ReadError::OtherChain { endpoint: self.url().to_string() });
        }
        Ok(Err(last.unwrap_or_else(NodeError::silent)))
    }

    /// The nodes to try now, in order. One that failed rests for a while, unless all do.
    fn candidates(&self) -> Vec<usize> {
        if self.places.len() == 1 {
            return vec![0];
        }
        let now = self.clock.monotonic();
        let usable = |at: &usize| {
            self.places.get(*at).is_some_and(|place| place.condition() != Condition::OtherChain)
        };
        let awake = |at: &usize| self.places.get(*at).is_some_and(|place| place.may_be_tried(now));
        let all: Vec<usize> = (0..self.places.len()).filter(usable).collect();
        let some: Vec<usize> = all.iter().copied().filter(awake).collect();
        if some.is_empty() { all } else { some }
    }

    fn use_place(&self, at: usize, rpc: Rpc) -> Open {
        let open = Open { rpc, at, id: Arc::new(()) };
        *self.slot() = Some(open.clone());
        if self.current.swap(at, Ordering::Relaxed) != at {
            tracing::info!(endpoint = %self.url(), "another node of the chain is in use");
        }
        self.opened.send_modify(|count| *count = count.wrapping_add(1));
        open
    }

    /// Connects to one node and asks whether it is one of this chain and has caught up.
    async fn reach(&self, place: &Place, wait: Duration) -> Reached {
        let several = self.places.len() > 1;
        let work = Box::pin(async {
            let rpc = Rpc::new(connect(place.url()).await?);
            let genesis = rpc.genesis_hash().await?;
            // A node that keeps its health to itself counts as healthy.
            let syncing =
                several && rpc.system_health().await.is_ok_and(|health| health.is_syncing);
            Ok::<_, rpcs::Error>((rpc, genesis, syncing))
        });
        let found = if several { self.within(wait, work).await } else { Some(work.await) };
        let now = self.clock.monotonic();
        let (rpc, genesis, syncing) = match found {
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                place.failed(now);
                let error = NodeError::new(error);
                tracing::debug!(endpoint = %place.url(), error = %ErrorChain(&error), "no node");
                return Reached::Gone(Some(error));
            }
            None => {
                place.failed(now);
                return Reached::Gone(None);
            }
        };
        if *self.genesis.get_or_init(|| genesis) != genesis {
            if several && place.condition() != Condition::OtherChain {
                tracing::error!(
                    endpoint = %place.url(),
                    "this node is of another chain than the others, and is left out"
                );
            }
            place.is_of_another_chain();
            return Reached::OtherChain;
        }
        if syncing {
            place.failed(now);
            return Reached::Syncing(rpc);
        }
        place.reached();
        Reached::Ready(rpc)
    }

    /// Forgets this connection, if it is still the one in use. Whether it was.
    fn close(&self, which: &Open) -> bool {
        let mut slot = self.slot();
        let is_it = slot.as_ref().is_some_and(|open| Arc::ptr_eq(&open.id, &which.id));
        if is_it {
            *slot = None;
        }
        is_it
    }

    /// Forgets a connection that was silent, and lets its node rest. Of many who waited for it only the first one does:
    /// what is in use by then is another connection.
    fn give_up(&self, which: &Open) {
        if self.close(which)
            && let Some(place) = self.places.get(which.at)
        {
            place.failed(self.clock.monotonic());
        }
    }

    /// How long one node may take for its answer, of a whole deadline.
    fn share(&self, limit: Duration) -> Duration {
        limit / u32::try_from(self.places.len()).unwrap_or(1).max(1)
    }

    /// How long one node may take to be reached, of a whole deadline.
    fn reach_wait(&self, limit: Duration) -> Duration {
        REACH_WAIT_MAX.min(self.share(limit) / 2)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clock.sleep(limit) => None,
        }
    }

    fn gone(&self, waited: Duration, source: Option<NodeError>) -> ReadError {
        ReadError::Gone { endpoint: self.url().to_string(), waited, source }
    }
}

/// A connection whose messages are bounded, and which no answer of the node leads elsewhere.
async fn connect(url: &NodeUrl) -> Result<RpcClient, rpcs::Error> {
    let lost = |error: Box<dyn std::error::Error + Send + Sync>| rpcs::Error::Client(error);
    let parsed = Url::parse(url.as_str()).map_err(|error| lost(error.into()))?;
    let transport = WsTransportClientBuilder::default()
        .max_request_size(MESSAGE_BYTES_MAX)
        .max_response_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .max_redirections(1)
        .build(parsed);
    let (sender, receiver) = transport.await.map_err(|error| lost(error.into()))?;
    let client = Client::builder()
        .max_buffer_capacity_per_subscription(SUBSCRIPTION_MAX)
        .build_with_tokio(sender, receiver);
    Ok(RpcClient::new(client))
}
