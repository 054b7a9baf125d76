//! One WebSocket to the node, opened when it is needed and opened anew when it is lost.
//!
//! Owns the deadline of every request. A request that the node refused is over; one that got lost with the connection
//! is asked again while its deadline lasts, so only requests that may be repeated go through here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nicompute_daemon::{Backoff, Clock, SharedClock};
use subxt::SubstrateConfig;
use subxt::config::{RpcConfigFor, substrate};
use subxt::rpcs::{self, LegacyRpcMethods, RpcClient};
use tokio::sync::Mutex;

use crate::error::{NodeError, ReadError};
use crate::url::NodeUrl;

/// The node's methods.
pub(crate) type Rpc = LegacyRpcMethods<RpcConfigFor<SubstrateConfig>>;
/// A block's or an extrinsic's hash, as subxt writes it.
pub(crate) type Hash = substrate::H256;

/// Waits between tries to reach the node; the deadline ends them, not their number.
pub(crate) const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(5), tries_max: u32::MAX };

/// The connection to one node. Shared by all clones of a client.
#[derive(Debug)]
pub(crate) struct Link {
    url: NodeUrl,
    clock: SharedClock,
    open: Mutex<Option<Open>>,
    genesis: OnceLock<Hash>,
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

impl Link {
    pub(crate) fn new(url: NodeUrl, clock: SharedClock) -> Self {
        Self { url, clock, open: Mutex::new(None), genesis: OnceLock::new() }
    }

    pub(crate) const fn url(&self) -> &NodeUrl {
        &self.url
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The hash of the chain's first block; known once a connection was there.
    pub(crate) fn genesis(&self) -> Option<Hash> {
        self.genesis.get().copied()
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
            match self.within(left, Box::pin(self.attempt(request, &op))).await {
                None => {
                    // A node that is silent for a whole deadline may sit behind a dead connection.
                    self.close(None).await;
                    return Err(self.gone(limit, last));
                }
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
            None => Err(self.gone(limit, None)),
            Some(Try::Done(value)) => Ok(value),
            Some(Try::Over(error)) => Err(error),
            Some(Try::Again(error)) => Err(self.gone(limit, Some(error))),
        }
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

    /// The open connection, or a new one to the same chain.
    async fn open(&self) -> Result<Result<Open, NodeError>, ReadError> {
        let mut slot = self.open.lock().await;
        if let Some(open) = &*slot {
            return Ok(Ok(open.clone()));
        }
        let connected = async {
            let client = RpcClient::from_insecure_url(self.url.as_str()).await?;
            let rpc = Rpc::new(client);
            let genesis = rpc.genesis_hash().await?;
            Ok((rpc, genesis))
        };
        let (rpc, genesis) = match connected.await {
            Ok(connected) => connected,
            Err(error) => return Ok(Err(NodeError::new(error))),
        };
        if *self.genesis.get_or_init(|| genesis) != genesis {
            return Err(ReadError::OtherChain { endpoint: self.url.to_string() });
        }
        let open = Open { rpc, id: Arc::new(()) };
        *slot = Some(open.clone());
        Ok(Ok(open))
    }

    /// Forgets the connection; with `which`, only if it is still that one.
    async fn close(&self, which: Option<&Open>) {
        let mut slot = self.open.lock().await;
        let same = |open: &Open| which.is_none_or(|which| Arc::ptr_eq(&open.id, &which.id));
        if slot.as_ref().is_some_and(same) {
            *slot = None;
        }
    }

    /// Forgets the connection, for a subscriber that found it silent.
    pub(crate) async fn reset(&self) {
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
        ReadError::Gone { endpoint: self.url.to_string(), waited, source }
    }
}
