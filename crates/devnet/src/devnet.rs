//! Starting and stopping the chain.
//!
//! Starts one task, `devnet blocks`, which makes a block at every tick of the clock and carries out faults on command, and
//! the RPC server's own tasks, which end with it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{BoxError, CancellationToken, OnError, SharedClock, Tasks};
use tokio::sync::{mpsc, oneshot};

use crate::chaos::{Answers, Chaos, ChaosDone, ChaosError, STALL_MS_MAX};
use crate::config::{
    BLOCK_TIME_MAX, BLOCK_TIME_MIN, Beacon, DevnetConfig, FINALITY_LAG_MAX, GenesisError,
};
use crate::dump::{self, Dump};
use crate::face::Face;
use crate::ledger::{Block, Ledger};
use crate::node::{Node, Undone};
use crate::rpc::{self, Context, Door, DoorError, Gate};
use crate::runtime::beacon::PulseError;
use crate::runtime::upgrade::Runtime;
use crate::runtime::{beacon, genesis};
use crate::schema::SchemaError;
use crate::store::{Store, StoreError};

/// Faults that wait to be made. One person gives them, one after the other.
const ORDERS_MAX: usize = 16;

/// A running chain. It runs until the tasks that it was started with are shut down.
#[derive(Debug, Clone)]
pub struct Devnet {
    address: SocketAddr,
    genesis: [u8; 32],
    node: Arc<Node>,
    orders: mpsc::Sender<Order>,
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
    /// A lag that keeps too much from being final.
    #[error("a finality lag of {0} blocks: choose at most {FINALITY_LAG_MAX}")]
    FinalityLag(u32),
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
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let gate = Arc::new(Gate::new(clock.clone()));
        // The listener outlives each door that is opened on it, so that nobody else can take the port meanwhile.
        let listener = rpc::listen(listen).map_err(|error| refused(listen, error))?;
        let address = listener.local_addr().map_err(|error| refused(listen, error))?;
        let doorway = Doorway {
            listener,
            node: Arc::clone(&node),
            orders: orders.clone(),
            gate: Arc::clone(&gate),
            token: tasks.token().clone(),
        };
        let door = doorway.open().map_err(|error| match error {
            DoorError::Listen(source) => refused(listen, source),
            DoorError::Register(_) => StartError::Methods,
        })?;
        let devnet =
            Self { address, genesis: node.read().ledger.genesis, node: Arc::clone(&node), orders };
        let author = Author { node, doorway, door, gate, orders: received, block_time, clock };
        tasks.spawn("devnet blocks", OnError::Stop, author.work());
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

    /// Hands in a round of a recorded beacon, as `devnet_pulse` does.
    ///
    /// # Errors
    /// When the chain's beacon is no recorded one, the signature is not its, or the round is past.
    pub async fn offer_pulse(&self, round: u64, signature: &[u8]) -> Result<(), PulseError> {
        let signature = signature.try_into().map_err(|_| PulseError::Signature)?;
        let node = Arc::clone(&self.node);
        let offered = tokio::task::spawn_blocking(move || node.offer_pulse(round, signature));
        offered.await.unwrap_or(Err(PulseError::Full))
    }

    /// The number of the newest block.
    #[must_use]
    pub fn head(&self) -> u64 {
        u64::from(self.node.read().ledger.head().block.header.number)
    }

    /// Does something to the chain on purpose, and returns when it is done.
    ///
    /// # Errors
    /// Where the chain's limits forbid it or its folder fails.
    pub async fn chaos(&self, chaos: Chaos) -> Result<ChaosDone, ChaosError> {
        let (done, answer) = oneshot::channel();
        let order = Order { chaos, done };
        self.orders.send(order).await.map_err(|_| ChaosError::Stopped)?;
        answer.await.map_err(|_| ChaosError::Stopped)?
    }

    /// Everything that can be seen of the chain at its newest block.
    #[must_use]
    pub fn dump(&self) -> Dump {
        dump::of(&self.node)
    }
}

fn check(config: &DevnetConfig) -> Result<(), StartError> {
    if !config.listen.ip().is_loopback() {
        return Err(StartError::NotLoopback(config.listen));
    }
    if config.block_time < BLOCK_TIME_MIN || config.block_time > BLOCK_TIME_MAX {
        return Err(StartError::BlockTime(config.block_time));
    }
    if config.finality_lag > FINALITY_LAG_MAX {
        return Err(StartError::FinalityLag(config.finality_lag));
    }
    Ok(())
}

fn refused(address: SocketAddr, source: io::Error) -> StartError {
    if source.kind() == io::ErrorKind::AddrInUse {
        return StartError::PortTaken(address);
    }
    StartError::Listen { address, source }
}

pub(crate) fn open(config: &DevnetConfig, clock: SharedClock) -> Result<Node, StartError> {
    let face = Face::new(Runtime::first(config.profile), config.block_time);
    let face = face.map_err(StartError::Schema)?;
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
    let times = (config.block_time, config.finality_lag);
    Ok(Node::new(face, (store, ledger), times, clock))
}

/// The beacon that was asked for, or the chain's own where a subnet needs one.
fn beacon_of(config: &DevnetConfig, nonce: [u8; 32]) -> Option<Beacon> {
    let needed = config.genesis.subnets.iter().any(|it| it.parameters.switches.commit_reveal);
    config.genesis.beacon.or_else(|| needed.then(|| Beacon::own(nonce, config.block_time)))
}

/// A fault on command, and whom to tell.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) chaos: Chaos,
    pub(crate) done: oneshot::Sender<Result<ChaosDone, ChaosError>>,
}

/// What is needed to open the door again after a restart.
#[derive(Debug)]
struct Doorway {
    listener: TcpListener,
    node: Arc<Node>,
    orders: mpsc::Sender<Order>,
    gate: Arc<Gate>,
    token: CancellationToken,
}

impl Doorway {
    fn open(&self) -> Result<Door, DoorError> {
        let listener = self.listener.try_clone().map_err(DoorError::Listen)?;
        let context = Context {
            node: Arc::clone(&self.node),
            orders: self.orders.clone(),
            stop: self.token.child_token(),
        };
        rpc::open(listener, context, Arc::clone(&self.gate))
    }
}

/// The one task that makes blocks and carries out faults.
#[derive(Debug)]
struct Author {
    node: Arc<Node>,
    doorway: Doorway,
    door: Door,
    gate: Arc<Gate>,
    orders: mpsc::Receiver<Order>,
    block_time: Duration,
    clock: SharedClock,
}

impl Author {
    async fn work(mut self) -> Result<(), BoxError> {
        let token = self.doorway.token.clone();
        let mut due = self.clock.monotonic().saturating_add(self.block_time);
        let outcome = loop {
            let wait = due.saturating_sub(self.clock.monotonic());
            tokio::select! {
                () = token.cancelled() => break Ok(()),
                Some(order) = self.orders.recv() => {
                    let stalled = self.carry_out(order).await;
                    due = due.max(stalled);
                }
                () = self.clock.sleep(wait) => {
                    if let Err(error) = self.on_node(|node| node.make_block().map_err(ChaosError::Store)).await {
                        break Err(error.into());
                    }
                    // A late block moves the following ones; it does not hurry them.
                    due = due.saturating_add(self.block_time).max(self.clock.monotonic());
                }
            }
        };
        self.door.close().await;
        outcome
    }

    /// Carries out an order. Returns the moment before which there is no block.
    async fn carry_out(&mut self, order: Order) -> Duration {
        let mut until = Duration::ZERO;
        let outcome = match order.chaos {
            Chaos::Stall { ms, .. } if ms > STALL_MS_MAX => Err(ChaosError::TooLong(ms)),
            Chaos::Stall { ms, answers } => {
                until = self.clock.monotonic().saturating_add(Duration::from_millis(ms));
                if answers == Answers::Withheld {
                    self.gate.close_until(until);
                }
                Ok(())
            }
            Chaos::Fork { depth, drop } => {
                let undone = if drop { Undone::Lost } else { Undone::PutBack };
                self.on_node(move |node| node.fork(depth, undone)).await
            }
            Chaos::Restart => self.restart().await,
            Chaos::Upgrade { change } => {
                let upgraded = self.on_node(move |node| {
                    node.upgrade(change);
                    node.make_block().map_err(ChaosError::Store)
                });
                upgraded.await
            }
        };
        match &outcome {
            Ok(()) => tracing::warn!(chaos = ?order.chaos, "a fault was made on command"),
            Err(error) => tracing::warn!(chaos = ?order.chaos, error = %error, "no fault was made"),
        }
        if order.done.send(outcome.map(|()| self.done())).is_err() {
            tracing::debug!("nobody waits for the outcome of a fault");
        }
        until
    }

    fn done(&self) -> ChaosDone {
        let face = self.node.current();
        let inner = self.node.read();
        let head = inner.ledger.head();
        ChaosDone {
            block: u64::from(head.block.header.number),
            hash: rpc::hex(&head.hash),
            spec_version: face.runtime.spec_version,
        }
    }

    /// Closes every connection, reads the chain from its folder, and opens the door again.
    async fn restart(&mut self) -> Result<(), ChaosError> {
        self.door.close().await;
        self.gate.open();
        let reloaded = self.on_node(Node::reload).await;
        self.door = self.doorway.open().map_err(|_| ChaosError::Stopped)?;
        reloaded
    }

    async fn on_node(
        &self,
        act: impl FnOnce(&Node) -> Result<(), ChaosError> + Send + 'static,
    ) -> Result<(), ChaosError> {
        let node = Arc::clone(&self.node);
        let done = tokio::task::spawn_blocking(move || act(&node)).await;
        done.unwrap_or(Err(ChaosError::Stopped))
    }
}
