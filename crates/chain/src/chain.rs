//! The client itself: one connection, one runtime, and the head of the chain.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::{OnError, SharedClock, Tasks};
use nicompute_market::BlockNumber;
use subxt::config::Header as _;
use subxt::rpcs::methods::legacy::{RuntimeVersion, StateGetMetadataResponse};
use tokio::sync::watch;

use crate::error::{ConnectError, ReadError, ShapeError};
use crate::heads;
use crate::link::{Hash, Link, Rpc};
use crate::nonces::Nonces;
use crate::place::EndpointState;
use crate::reads::Head;
use crate::runtime::{Runtime, encode_u32};
use crate::timelock::BEACON_KEY_LEN;
use crate::url::NodeUrl;

/// The most endpoints of one client.
pub(crate) const ENDPOINTS_MAX: usize = 8;
/// The most runtimes that are kept: the one before an upgrade, the one after it, and that of an old block.
const RUNTIMES_MAX: usize = 3;

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
    /// One extrinsic, from signing to the block it is in; one that is to be final may take this long without any block.
    pub submit: Duration,
    /// Between two looks for a node that is preferred to the one in use.
    pub come_home: Duration,
}

impl Limits {
    /// What fits a chain with a block every 12 seconds and a node across the world.
    pub const STANDARD: Self = Self {
        connect: Duration::from_secs(20),
        read: Duration::from_secs(30),
        submit: Duration::from_secs(150),
        come_home: Duration::from_secs(60),
    };
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) limits: Limits,
    pub(crate) nonces: Arc<Nonces>,
    /// The runtimes that were met, the latest last.
    runtimes: Mutex<Vec<Arc<Runtime>>>,
    /// The beacon that weights were sealed for last.
    beacon_key: Mutex<Option<[u8; BEACON_KEY_LEN]>>,
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
    /// Connects to `local`, `finney`, `test`, `archive`, `HOST:PORT` or a WebSocket URL, and follows the chain's head from then on.
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
        Self::connect_any(&[url], limits, clock, tasks).await
    }

    /// Connects to the first of several nodes of one chain that is of use, in the order of preference, and goes on with
    /// the others when it fails: a node of one's own first, and a public one behind it. A preferred node that is back is
    /// used again. A node of another chain is left out; which chain it is, a known network's name says, and otherwise the
    /// first node that answers.
    ///
    /// # Errors
    /// When none of them is a Subtensor of that chain that answers.
    pub async fn connect_any(
        endpoints: &[NodeUrl],
        limits: Limits,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Result<Self, ConnectError> {
        if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
            return Err(ConnectError::Count(endpoints.len()));
        }
        let names: Vec<&str> = endpoints.iter().map(NodeUrl::as_str).collect();
        let unusable = |source| ConnectError::Unusable { endpoint: names.join(", "), source };
        let first = Head { number: BlockNumber(0), hash: [0; 32] };
        let shared = Arc::new(Shared {
            link: Link::new(endpoints, clock.clone()),
            limits,
            nonces: Arc::default(),
            runtimes: Mutex::default(),
            beacon_key: Mutex::default(),
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
        if endpoints.len() > 1 {
            let (shared, stop) = (Arc::downgrade(&chain.shared), tasks.token().clone());
            let home = heads::come_home(shared, (clock, limits.come_home), stop);
            tasks.spawn("chain endpoints", OnError::Log, home);
        }
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

    /// How each endpoint stands, in the order of preference.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.shared.link.states()
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
        let reach = |rpc: Rpc| async move { rpc.system_chain().await };
        drop(self.shared.link.ask_once(limit, "system_chain", reach).await?);
        self.shared.at_best(limit).await
    }
}

impl Shared {
    /// The best block, and the runtime at it.
    pub(crate) async fn at_best(&self, limit: Duration) -> Result<At, ReadError> {
        let ask = |rpc: Rpc| async move {
            let Some(hash) = rpc.chain_get_block_hash(None).await? else { return Ok(None) };
            let Some(header) = rpc.chain_get_header(Some(hash)).await? else { return Ok(None) };
            let version = rpc.state_get_runtime_version(Some(hash)).await?;
            Ok(Some((hash, header.number(), version)))
        };
        let found = self.link.ask(limit, "chain_getHeader", ask).await?;
        let (hash, number, version) = found.ok_or_else(no_head)?;
        let head = Head { number: BlockNumber(number), hash: hash.0 };
        let runtime = self.runtime(limit, hash, &version).await?;
        Ok(At { head, runtime })
    }

    /// The runtime that carries out what comes after a block.
    pub(crate) async fn runtime_at(
        &self,
        hash: Hash,
        limit: Duration,
    ) -> Result<Arc<Runtime>, ReadError> {
        let ask = |rpc: Rpc| async move { rpc.state_get_runtime_version(Some(hash)).await };
        let read = async {
            let version = self.link.ask(limit, "state_getRuntimeVersion", ask).await?;
            self.runtime(limit, hash, &version).await
        };
        read.await.map_err(|error| error.at_block(hash.0))
    }

    /// Forgets the runtimes, so that the next read asks for one anew.
    pub(crate) fn forget_runtimes(&self) {
        self.known_runtimes().clear();
    }

    pub(crate) const fn heads(&self) -> &watch::Sender<Head> {
        &self.heads
    }

    /// The runtime of that version: a known one, or the one at that block.
    async fn runtime(
        &self,
        limit: Duration,
        at: Hash,
        version: &RuntimeVersion,
    ) -> Result<Arc<Runtime>, ReadError> {
        let versions = (version.spec_version, version.transaction_version);
        // What one connection offered instead of the newest metadata says nothing about another one.
        let holds = |known: &Arc<Runtime>| {
            known.makeshift_of.is_none_or(|connection| connection == self.link.connections())
        };
        let is_it =
            |known: &&Arc<Runtime>| (known.spec_version, known.transaction_version) == versions;
        if let Some(known) = self.known_runtimes().iter().filter(|it| holds(it)).find(is_it) {
            return Ok(Arc::clone(known));
        }
        let (metadata, makeshift_of) = self.fetch_metadata(limit, at).await?;
        let genesis = self.link.genesis().unwrap_or_default();
        let runtime = Arc::new(Runtime::new(versions, genesis, (&metadata, makeshift_of))?);
        let mut known = self.known_runtimes();
        known.retain(|known| !is_it(&known) || known.makeshift_of.is_none());
        if known.iter().any(|known| is_it(&known)) {
            return Ok(runtime);
        }
        if !known.is_empty() {
            tracing::info!(spec = versions.0, "the chain has another runtime now");
        }
        if known.len() >= RUNTIMES_MAX {
            known.remove(0);
        }
        known.push(Arc::clone(&runtime));
        Ok(runtime)
    }

    /// The metadata at a block: the newest version that both sides know, or the old fourteenth with the connection that
    /// has no other.
    async fn fetch_metadata(
        &self,
        limit: Duration,
        at: Hash,
    ) -> Result<(Vec<u8>, Option<u64>), ReadError> {
        let connection = self.link.connections();
        let versions = match self.call_raw(limit, "Metadata_metadata_versions", &[], at).await {
            Ok(versions) => Some(Runtime::metadata_version(&versions)?),
            // A runtime that cannot list them has the fourteenth.
            Err(ReadError::Refused { source, .. }) if source.is_about_missing_export() => None,
            Err(error) => return Err(error),
        };
        if let Some(version) = versions {
            let version = encode_u32(version);
            let answer = self.call_raw(limit, "Metadata_metadata_at_version", &version, at).await?;
            return Ok((Runtime::unwrap_metadata(&answer)?, None));
        }
        tracing::info!(
            "the node's runtime lists no metadata; what only newer ones tell is not read"
        );
        let ask = |rpc: Rpc| async move {
            rpc.state_get_metadata(Some(at)).await.map(StateGetMetadataResponse::into_raw)
        };
        let metadata = self.link.ask(limit, "state_getMetadata", ask).await?;
        Ok((metadata, Some(connection)))
    }

    /// Says once under which key this chain's weights are sealed: for that key there is only the node's word.
    pub(crate) fn note_beacon(&self, key: &[u8; BEACON_KEY_LEN]) {
        let mut known = self.beacon_key.lock().unwrap_or_else(PoisonError::into_inner);
        if known.replace(*key) != Some(*key) {
            tracing::info!(key = %hex::encode(key), "weights are sealed for this beacon");
        }
    }

    fn known_runtimes(&self) -> MutexGuard<'_, Vec<Arc<Runtime>>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a runtime API by its wire name.
    pub(crate) async fn call_raw(
        &self,
        limit: Duration,
        function: &'static str,
        arguments: &[u8],
        at: Hash,
    ) -> Result<Vec<u8>, ReadError> {
        let ask =
            |rpc: Rpc| async move { rpc.state_call(function, Some(arguments), Some(at)).await };
        self.link.ask(limit, function, ask).await
    }
}

pub(crate) const fn no_head() -> ReadError {
    ReadError::Shape { about: "its best block", source: ShapeError::Kind("a block") }
}
