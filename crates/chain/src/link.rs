//! The WebSocket to a node, opened when it is needed and opened anew when it is lost.
//!
//! Owns the deadline of every request and the choice among several nodes: the first of the list that answers, is of the
//! same chain and is not catching up. A request that the node refused is over; one that got lost with the connection is
//! asked again while its deadline lasts, so only requests that may be repeated go through here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nicompute_daemon::{Backoff, Clock, ErrorChain, SharedClock};
use subxt::SubstrateConfig;
use subxt::config::{RpcConfigFor, substrate};
use subxt::ext::jsonrpsee::client_transport::ws::{Url, WsTransportClientBuilder};
use subxt::ext::jsonrpsee::core::client::Client;
use subxt::rpcs::{self, LegacyRpcMethods, RpcClient};
use tokio::sync::{Mutex, watch};

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
/// How long one node of several may take to be reached before the next one is tried.
const REACH_WAIT_MAX: Duration = Duration::from_secs(5);

/// The connection to a chain. Shared by all clones of a client.
#[derive(Debug)]
pub(crate) struct Link {
    places: Vec<Place>,
    clock: SharedClock,
    open: Mutex<Option<Open>>,
    current: AtomicUsize,
    genesis: OnceLock<Hash>,
    /// Counts the connections, for those who hold a subscription of one.
    opened: watch::Sender<u64>,
}

/// An open connection; two are equal if they are the same one.
#[derive(Debug, Clone)]
struct Open {
    rpc: Rpc,
    id: Arc<()>,
}

/// How one try ended.
enum Try<T> {
    Done(T),
    Again(NodeError),
    Over(ReadError),
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
            let share = limit / u32::try_from(self.places.len()).unwrap_or(1).max(1);
            match self.within(left.min(share), Box::pin(self.attempt(request, &op))).await {
                // A node that is silent for so long may sit behind a dead connection.
                None => self.give_up_current().await,
                Some(Try::Done(value)) => return Ok(value),
                Some(Try::Over(error)) => return Err(error),
                Some(Try::Again(error)) => last = Some(error),
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
        match self.within(limit, Box::pin(self.attempt(request, &op))).await {
            None => {
                self.give_up_current().await;
                Err(self.gone(limit, None))
            }
            Some(Try::Done(value)) => Ok(value),
            Some(Try::Over(error)) => Err(error),
            Some(Try::Again(error)) => Err(self.gone(limit, Some(error))),
        }
    }

    /// Goes back to a node that is preferred to the one in use, if one is back.
    pub(crate) async fn come_home(&self) {
        let current = self.current.load(Ordering::Relaxed);
        for (at, place) in self.places.iter().enumerate().take(current) {
            if !place.may_be_tried(self.clock.monotonic()) {
                continue;
            }
            if let Reached::Ready(rpc) = self.reach(place).await {
                tracing::info!(endpoint = %place.url(), "back to a preferred node of the chain");
                let mut slot = self.open.lock().await;
                *slot = Some(self.use_place(at, rpc));
                return;
            }
        }
    }

    /// Forgets the connection, for a subscriber that found it silent.
    pub(crate) async fn reset(&self) {
        self.give_up_current().await;
    }

    async fn attempt<T, F, Fut>(&self, request: &'static str, op: &F) -> Try<T>
    where
        F: Fn(Rpc) -> Fut,
        Fut: Future<Output = Result<T, rpcs::Error>>,
    {
        let open = match self.open().await {
            Ok(Ok(open)) => open,
            Ok(Err(error)) => return Try::Again(error),
            Err(error) => return Try::Over(error),
        };
        match op(open.rpc.clone()).await.map_err(NodeError::new) {
            Ok(value) => Try::Done(value),
            Err(error) if error.lost() => {
                self.close(Some(&open)).await;
                Try::Again(error)
            }
            Err(source) => Try::Over(ReadError::Refused { request, source }),
        }
    }

    /// The open connection, or a new one to the same chain: to the first node that is ready, or to one that is catching up
    /// where none is.
    async fn open(&self) -> Result<Result<Open, NodeError>, ReadError> {
        let mut slot = self.open.lock().await;
        if let Some(open) = &*slot {
            return Ok(Ok(open.clone()));
        }
        let (mut syncing, mut last, mut is_gone) = (None, None, false);
        for at in self.candidates() {
            let Some(place) = self.places.get(at) else { continue };
            match self.reach(place).await {
                Reached::Ready(rpc) => {
                    let open = self.use_place(at, rpc);
                    *slot = Some(open.clone());
                    return Ok(Ok(open));
                }
                Reached::Syncing(rpc) => syncing = syncing.or(Some((at, rpc))),
                Reached::Gone(error) => {
                    is_gone = true;
                    last = error.or(last);
                }
                Reached::OtherChain => {}
            }
        }
        if let Some((at, rpc)) = syncing {
            let open = self.use_place(at, rpc);
            *slot = Some(open.clone());
            return Ok(Ok(open));
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
        if self.current.swap(at, Ordering::Relaxed) != at {
            tracing::info!(endpoint = %self.url(), "another node of the chain is in use");
        }
        self.opened.send_modify(|count| *count = count.wrapping_add(1));
        Open { rpc, id: Arc::new(()) }
    }

    /// Connects to one node and asks whether it is one of this chain and has caught up.
    async fn reach(&self, place: &Place) -> Reached {
        let several = self.places.len() > 1;
        let work = Box::pin(async {
            let rpc = Rpc::new(connect(place.url()).await?);
            let genesis = rpc.genesis_hash().await?;
            // A node that keeps its health to itself counts as healthy.
            let syncing =
                several && rpc.system_health().await.is_ok_and(|health| health.is_syncing);
            Ok::<_, rpcs::Error>((rpc, genesis, syncing))
        });
        let found =
            if several { self.within(REACH_WAIT_MAX, work).await } else { Some(work.await) };
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

    /// Forgets the connection; with `which`, only if it is still that one.
    async fn close(&self, which: Option<&Open>) {
        let mut slot = self.open.lock().await;
        let same = |open: &Open| which.is_none_or(|which| Arc::ptr_eq(&open.id, &which.id));
        if slot.as_ref().is_some_and(same) {
            *slot = None;
        }
    }

    /// Forgets a connection that was silent, and lets its node rest.
    async fn give_up_current(&self) {
        let current = self.current.load(Ordering::Relaxed);
        if let Some(place) = self.places.get(current) {
            place.failed(self.clock.monotonic());
        }
        self.close(None).await;
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
