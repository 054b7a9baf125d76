//! The client itself: one connection, one runtime, and the head of the chain.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::{OnError, SharedClock, Tasks};
use nicompute_market::BlockNumber;
use subxt::config::Header as _;
use tokio::sync::watch;

use crate::error::{ConnectError, ReadError, ShapeError};
use crate::heads;
use crate::link::{Hash, Link};
use crate::reads::Head;
use crate::runtime::{Runtime, encode_u32};
use crate::url::NodeUrl;

/// A client of one Subtensor node. Cheap to clone; all clones share the connection.
#[derive(Debug, Clone)]
pub struct Chain {
    pub(crate) shared: Arc<Shared>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The first connection, with the runtime's metadata.
    pub connect: Duration,
    /// One read, including reconnections.
    pub read: Duration,
    /// One extrinsic, from signing to the block it is in.
    pub submit: Duration,
}

impl Limits {
    /// What fits a chain with a block every 12 seconds and a node across the world.
    pub const STANDARD: Self = Self {
        connect: Duration::from_secs(20),
        read: Duration::from_secs(30),
        submit: Duration::from_secs(150),
    };
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) limits: Limits,
    runtime: Mutex<Option<Arc<Runtime>>>,
    heads: watch::Sender<Head>,
}

/// A block to read at, and the runtime to read it with.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) head: Head,
    pub(crate) runtime: Arc<Runtime>,
}

impl At {
    pub(crate) fn hash(&self) -> Hash {
        Hash::from(self.head.hash)
    }
}

impl Chain {
    /// Connects to `local`, `finney`, `test` or a WebSocket URL, and follows the chain's head from then on.
    ///
    /// # Errors
    /// When the endpoint is none, when nothing answers there, or when what answers is no Subtensor.
    pub async fn connect(
        endpoint: &str,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Result<Self, ConnectError> {
        Self::connect_with(endpoint, Limits::STANDARD, clock, tasks).await
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`Chain::connect`].
    pub async fn connect_with(
        endpoint: &str,
        limits: Limits,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Result<Self, ConnectError> {
        let url: NodeUrl = endpoint.parse()?;
        let unusable = |source| ConnectError::Unusable { endpoint: url.to_string(), source };
        let first = Head { number: BlockNumber(0), hash: [0; 32] };
        let shared = Arc::new(Shared {
            link: Link::new(url.clone(), clock),
            limits,
            runtime: Mutex::new(None),
            heads: watch::Sender::new(first),
        });
        let chain = Self { shared };
        let at = chain.first_contact().await.map_err(unusable)?;
        if !at.runtime.has_storage(crate::runtime::SUBTENSOR, "Uids") {
            return Err(unusable(ReadError::Missing("pallet SubtensorModule".to_owned())));
        }
        chain.shared.heads.send_replace(at.head);
        let follower = heads::follow(Arc::downgrade(&chain.shared), tasks.token().clone());
        tasks.spawn("chain heads", OnError::Log, follower);
        Ok(chain)
    }

    /// The head of the chain as it moves. While the node is away it stands still.
    #[must_use]
    pub fn subscribe_heads(&self) -> watch::Receiver<Head> {
        self.shared.heads.subscribe()
    }

    /// The node that this client talks to.
    #[must_use]
    pub fn endpoint(&self) -> &NodeUrl {
        self.shared.link.url()
    }

    /// The hash of the chain's first block, which tells chains apart.
    #[must_use]
    pub fn genesis_hash(&self) -> [u8; 32] {
        // It is known since the first contact, without which there is no client.
        self.shared.link.genesis().unwrap_or_default().0
    }

    /// One try to connect; the metadata may then take the rest of the limit.
    async fn first_contact(&self) -> Result<At, ReadError> {
        let limit = self.shared.limits.connect;
        let reach = |rpc: crate::link::Rpc| async move { rpc.system_chain().await };
        drop(self.shared.link.ask_once(limit, "system_chain", reach).await?);
        self.shared.at_best(limit).await
    }
}

impl Shared {
    /// The best block, and the runtime at it.
    pub(crate) async fn at_best(&self, limit: Duration) -> Result<At, ReadError> {
        let ask = |rpc: crate::link::Rpc| async move {
            let Some(hash) = rpc.chain_get_block_hash(None).await? else { return Ok(None) };
            let Some(header) = rpc.chain_get_header(Some(hash)).await? else { return Ok(None) };
            let version = rpc.state_get_runtime_version(Some(hash)).await?;
            Ok(Some((hash, header.number(), version)))
        };
        let found = self.link.ask(limit, "chain_getHeader", ask).await?;
        let (hash, number, version) = found.ok_or_else(no_head)?;
        let head = Head { number: BlockNumber(number), hash: hash.0 };
        let known = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let runtime = match known.filter(|known| known.spec_version == version.spec_version) {
            Some(runtime) => runtime,
            None => {
                let versions = (version.spec_version, version.transaction_version);
                self.fetch_runtime(limit, hash, versions).await?
            }
        };
        Ok(At { head, runtime })
    }

    /// Forgets the runtime, so that the next read asks for it anew.
    pub(crate) fn forget_runtime(&self) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn heads(&self) -> &watch::Sender<Head> {
        &self.heads
    }

    async fn fetch_runtime(
        &self,
        limit: Duration,
        at: Hash,
        (spec_version, transaction_version): (u32, u32),
    ) -> Result<Arc<Runtime>, ReadError> {
        let versions = self.call_raw(limit, "Metadata_metadata_versions", &[], at).await?;
        let version = encode_u32(Runtime::metadata_version(&versions)?);
        let answer = self.call_raw(limit, "Metadata_metadata_at_version", &version, at).await?;
        let metadata = Runtime::unwrap_metadata(&answer)?;
        let genesis = self.link.genesis().unwrap_or_default();
        let runtime =
            Arc::new(Runtime::new(spec_version, transaction_version, genesis, &metadata)?);
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&runtime));
        Ok(runtime)
    }

    /// Calls a runtime API by its wire name.
    pub(crate) async fn call_raw(
        &self,
        limit: Duration,
        function: &'static str,
        arguments: &[u8],
        at: Hash,
    ) -> Result<Vec<u8>, ReadError> {
        let ask = |rpc: crate::link::Rpc| async move {
            rpc.state_call(function, Some(arguments), Some(at)).await
        };
        self.link.ask(limit, function, ask).await
    }
}

pub(crate) const fn no_head() -> ReadError {
    ReadError::Shape { about: "its best block", source: ShapeError::Kind("a block") }
}
