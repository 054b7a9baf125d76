//! Starting and stopping the chain.
//!
//! Starts one task, `devnet blocks`, which makes a block at every tick of the clock, and the RPC server's own tasks, which
//! end with it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{BoxError, OnError, SharedClock, Tasks};

use crate::config::{BLOCK_TIME_MAX, BLOCK_TIME_MIN, Beacon, DevnetConfig, GenesisError};
use crate::ledger::{Block, Ledger};
use crate::node::Node;
use crate::rpc::{self, DoorError};
use crate::runtime::{balances, beacon, genesis, hooks};
use crate::schema::{Interface, MetadataSet, Profile, Schema, SchemaError};
use crate::store::{Store, StoreError};
use crate::version;

/// A running chain. It runs until the tasks that it was started with are shut down.
#[derive(Debug, Clone)]
pub struct Devnet {
    address: SocketAddr,
    genesis: [u8; 32],
    node: Arc<Node>,
}

/// Why a devnet does not start. Nothing is left behind but its folder.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address would be reachable from other machines.
    #[error(
        "{0} is not a loopback address: the devnet's keys are public, so it listens on 127.0.0.0/8 or ::1 only"
    )]
    NotLoopback(SocketAddr),
    /// A block time that cannot be kept.
    #[error("a block time of {0:?}: choose {BLOCK_TIME_MIN:?} to {BLOCK_TIME_MAX:?}")]
    BlockTime(Duration),
    /// Something else listens there.
    #[error("{0} is taken: stop what listens there or choose another port")]
    PortTaken(SocketAddr),
    /// The address cannot be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The folder cannot be used.
    #[error("could not use the devnet's folder {dir}")]
    Store {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// A first state that cannot be.
    #[error("the genesis is not possible")]
    Genesis(#[source] GenesisError),
    /// No randomness for the genesis.
    #[error("the machine gave no random bytes")]
    Random,
    /// A mistake in the program itself.
    #[error("the interface table is broken")]
    Schema(#[source] SchemaError),
    /// A mistake in the program itself.
    #[error("the RPC methods could not be registered")]
    Methods,
}

impl Devnet {
    /// Takes the folder, goes on from what it holds or begins a new chain, and listens.
    ///
    /// # Errors
    /// Where an address, the folder or the genesis cannot be used; each says what to do about it.
    pub async fn start(
        config: DevnetConfig,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        check(&config)?;
        let (block_time, listen) = (config.block_time, config.listen);
        let for_node = clock.clone();
        let node = tokio::task::spawn_blocking(move || open(&config, for_node)).await;
        let node = Arc::new(node.map_err(|_| StartError::Methods)??);
        let opened = rpc::open(listen, Arc::clone(&node), tasks.token().clone()).await;
        let door = opened.map_err(|error| refused(listen, error))?;
        let devnet = Self {
            address: door.address,
            genesis: node.read().ledger.genesis,
            node: Arc::clone(&node),
        };
        let token = tasks.token().clone();
        tasks.spawn("devnet blocks", OnError::Stop, async move {
            let made = tokio::select! {
                () = token.cancelled() => Ok(()),
                made = make_blocks(node, block_time, clock) => made,
            };
            // Fails only if the server is gone already.
            if door.handle.stop().is_ok() {
                door.handle.stopped().await;
            }
            made
        });
        tracing::info!(address = %devnet.address, "devnet is up");
        Ok(devnet)
    }

    /// Where clients connect.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hash of the first block, different for every chain.
    #[must_use]
    pub const fn genesis_hash(&self) -> [u8; 32] {
        self.genesis
    }

    /// The number of the newest block.
    #[must_use]
    pub fn head(&self) -> u64 {
        u64::from(self.node.read().ledger.head().block.header.number)
    }
}

fn check(config: &DevnetConfig) -> Result<(), StartError> {
    if !config.listen.ip().is_loopback() {
        return Err(StartError::NotLoopback(config.listen));
    }
    if config.block_time < BLOCK_TIME_MIN || config.block_time > BLOCK_TIME_MAX {
        return Err(StartError::BlockTime(config.block_time));
    }
    Ok(())
}

fn refused(address: SocketAddr, error: DoorError) -> StartError {
    match error {
        DoorError::Listen(source) if source.kind() == io::ErrorKind::AddrInUse => {
            StartError::PortTaken(address)
        }
        DoorError::Listen(source) => StartError::Listen { address, source },
        DoorError::Register(_) => StartError::Methods,
    }
}

pub(crate) fn open(config: &DevnetConfig, clock: SharedClock) -> Result<Node, StartError> {
    let (interface, metadata) =
        interface(config.profile, config.block_time).map_err(StartError::Schema)?;
    let stored = |source| StartError::Store { dir: config.dir.clone(), source };
    let (mut store, ledger) = Store::open(&config.dir).map_err(stored)?;
    let ledger = match ledger {
        Some(ledger) => ledger,
        None => {
            let mut nonce = [0; 32];
            getrandom::fill(&mut nonce).map_err(|_| StartError::Random)?;
            let mut changes =
                genesis::build(&config.genesis, nonce).map_err(StartError::Genesis)?;
            if let Some(beacon) = beacon_of(config, nonce) {
                let now_s = clock.unix_ms() / 1_000;
                changes.extend(beacon::genesis(&beacon, now_s).map_err(StartError::Genesis)?);
            }
            let ledger = Ledger::new(Block::genesis(&changes), changes);
            store.checkpoint(&ledger).map_err(stored)?;
            ledger
        }
    };
    Ok(Node::new(interface, metadata, (store, ledger), config.block_time, clock))
}

/// The beacon that was asked for, or the chain's own where a subnet needs one.
fn beacon_of(config: &DevnetConfig, nonce: [u8; 32]) -> Option<Beacon> {
    let needed = config.genesis.subnets.iter().any(|it| it.parameters.switches.commit_reveal);
    config.genesis.beacon.or_else(|| needed.then(|| Beacon::own(nonce, config.block_time)))
}

/// The interface table in a profile, and the metadata with the constants of this chain.
pub(crate) fn interface(
    profile: Profile,
    block_time: Duration,
) -> Result<(Interface, MetadataSet), SchemaError> {
    let interface = Interface::new(Schema::load()?, profile)?;
    let slot_ms = u64::try_from(block_time.as_millis()).unwrap_or(u64::MAX);
    let constants = [
        (("System", "Version"), version::encoded()),
        (("System", "BlockHashCount"), hooks::BLOCK_HASH_COUNT.to_le_bytes().to_vec()),
        (("Aura", "SlotDuration"), slot_ms.to_le_bytes().to_vec()),
        (("Timestamp", "MinimumPeriod"), (slot_ms / 2).to_le_bytes().to_vec()),
        (
            ("Balances", "ExistentialDeposit"),
            balances::EXISTENTIAL_DEPOSIT_RAO.to_le_bytes().to_vec(),
        ),
    ];
    let metadata = MetadataSet::new(&interface, &constants.into())?;
    Ok((interface, metadata))
}

async fn make_blocks(
    node: Arc<Node>,
    block_time: Duration,
    clock: SharedClock,
) -> Result<(), BoxError> {
    let mut due = clock.monotonic().saturating_add(block_time);
    loop {
        clock.sleep(due.saturating_sub(clock.monotonic())).await;
        let node = Arc::clone(&node);
        tokio::task::spawn_blocking(move || node.make_block()).await??;
        // A late block moves the following ones; it does not hurry them.
        due = due.saturating_add(block_time).max(clock.monotonic());
    }
}
