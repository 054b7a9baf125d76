//! The chain as one thing: it takes extrinsics, makes blocks, and lets everybody read.
//!
//! State and pool sit behind one lock that is never held across a wait. Blocks are made by one caller at a time, which
//! holds the store; a block becomes visible only after it is on disk.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use nicompute_daemon::SharedClock;
use tokio::sync::{mpsc, watch};

use crate::call::{Call, ShieldCall};
use crate::extrinsic::{ExtrinsicError, Signed, timestamp_inherent};
use crate::hash::{H256, blake2_256};
use crate::items;
use crate::ledger::{Block, Ledger};
use crate::pool::{Entry, Pool, PoolError, Status, WATCH_CAPACITY};
use crate::runtime::beacon::{self, PulseError, Recorded};
use crate::runtime::validity::{self, BAD_REQUEST, Invalid, Tip};
use crate::runtime::{Exec, genesis, hooks};
use crate::schema::{Interface, MetadataSet};
use crate::shield::ShieldKey;
use crate::state::{Changes, Overlay};
use crate::store::{Store, StoreError};

/// The most extrinsics of one block besides the timestamp.
const BLOCK_EXTRINSICS_MAX: usize = 512;
/// Recorded pulses that are remembered.
const PULSES_WAITING_MAX: usize = 1_024;

/// The running chain.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) interface: Interface,
    pub(crate) metadata: MetadataSet,
    block_time: Duration,
    clock: SharedClock,
    shield: ShieldKey,
    store: Mutex<Store>,
    inner: RwLock<Inner>,
    pulses: Mutex<Recorded>,
    heads: watch::Sender<u32>,
}

/// What is read under the lock.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) ledger: Ledger,
    pub(crate) pool: Pool,
}

/// Why an extrinsic was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubmitError {
    /// Not an extrinsic.
    #[error(transparent)]
    Format(#[from] ExtrinsicFormat),
    /// An extrinsic that the chain refuses.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The pool has no place for it.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Bytes that are not an extrinsic of this chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExtrinsicFormat {
    /// The outer part does not decode.
    #[error("{0}")]
    Outer(&'static str),
    /// The call does not decode.
    #[error("the call is not one of this chain's")]
    Call,
    /// The extrinsic asks for a check that this chain cannot make.
    #[error("the metadata hash check is not offered by this chain")]
    MetadataHash,
}

impl Node {
    /// A chain that goes on from a ledger.
    pub(crate) fn new(
        interface: Interface,
        metadata: MetadataSet,
        (store, ledger): (Store, Ledger),
        block_time: Duration,
        clock: SharedClock,
    ) -> Self {
        let heads = watch::Sender::new(ledger.head().block.header.number);
        let nonce = ledger.state().get(genesis::NONCE_KEY).map(Vec::as_slice);
        let shield = ShieldKey::new(nonce.unwrap_or_default());
        Self {
            interface,
            metadata,
            block_time,
            clock,
            shield,
            store: Mutex::new(store),
            inner: RwLock::new(Inner { ledger, pool: Pool::default() }),
            pulses: Mutex::new(Recorded::new()),
            heads,
        }
    }

    /// Reads blocks, states and the pool.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the number of the newest block.
    pub(crate) fn heads(&self) -> watch::Receiver<u32> {
        self.heads.subscribe()
    }

    /// Time between blocks.
    pub(crate) const fn block_time(&self) -> Duration {
        self.block_time
    }

    /// Takes an extrinsic apart as far as the chain understands it.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<(Signed, Call), ExtrinsicFormat> {
        let signed = Signed::decode(bytes).map_err(|error| match error {
            ExtrinsicError::MetadataHash => ExtrinsicFormat::MetadataHash,
            ExtrinsicError::TooLong => ExtrinsicFormat::Outer("the extrinsic is too long"),
            ExtrinsicError::Length => ExtrinsicFormat::Outer("the length prefix does not match"),
            ExtrinsicError::Version => {
                ExtrinsicFormat::Outer("only signed extrinsics of format 4 are taken")
            }
            ExtrinsicError::Signer => ExtrinsicFormat::Outer("the signer is not an account id"),
            ExtrinsicError::Format => ExtrinsicFormat::Outer("the bytes do not decode"),
        })?;
        let call = Call::decode(&self.interface, &signed.call);
        Ok((signed, call.map_err(|_| ExtrinsicFormat::Call)?))
    }

    /// Puts an extrinsic into the pool; its hash.
    pub(crate) fn submit(&self, bytes: Vec<u8>) -> Result<H256, SubmitError> {
        self.add(bytes, None)
    }

    /// Puts an extrinsic into the pool; the receiver hears what becomes of it.
    pub(crate) fn submit_and_watch(
        &self,
        bytes: Vec<u8>,
    ) -> Result<mpsc::Receiver<Status>, SubmitError> {
        let (sender, receiver) = mpsc::channel(WATCH_CAPACITY);
        self.add(bytes, Some(sender))?;
        Ok(receiver)
    }

    fn add(
        &self,
        bytes: Vec<u8>,
        watcher: Option<mpsc::Sender<Status>>,
    ) -> Result<H256, SubmitError> {
        let (signed, call) = self.decode(&bytes)?;
        let hash = blake2_256(&bytes);
        let mut inner = self.write();
        inner.pool.check(&hash, &signed)?;
        let state = Overlay::new(inner.ledger.state());
        validity::check_nonce(&state, &signed, inner.pool.waiting_of(&signed.signer))?;
        validity::check(&state, &tip(&inner.ledger), &signed, &call, bytes.len())?;
        if let Call::Shield(ShieldCall::SubmitEncrypted { ciphertext }) = &call
            && !self.shield.accepts(ciphertext)
        {
            return Err(Invalid::Custom(BAD_REQUEST).into());
        }
        inner.pool.add(Entry { hash, bytes, signed, call, watcher });
        Ok(hash)
    }

    /// Takes a pulse of a recorded beacon for the next block. Blocking: a signature costs two pairings.
    pub(crate) fn offer_pulse(
        &self,
        round: u64,
        signature: [u8; beacon::SIGNATURE_LEN],
    ) -> Result<(), PulseError> {
        beacon::check(&Overlay::new(self.read().ledger.state()), round, &signature)?;
        let mut pulses = self.pulses();
        // Those that are in the chain for good are forgotten first; a fork may still need the others again.
        if pulses.len() >= PULSES_WAITING_MAX {
            let last = items::LAST_STORED_ROUND.get(&Overlay::new(self.read().ledger.state()));
            *pulses = pulses.split_off(&last.unwrap_or_default());
        }
        if pulses.len() >= PULSES_WAITING_MAX {
            return Err(PulseError::Full);
        }
        pulses.insert(round, signature);
        Ok(())
    }

    fn pulses(&self) -> MutexGuard<'_, Recorded> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next block from what waits. Blocking: it writes to disk.
    pub(crate) fn make_block(&self) -> Result<(), StoreError> {
        let mut store = self.store();
        let draft = self.draft();
        store.append(&draft.block, &draft.changes)?;
        let mut inner = self.write();
        let number = draft.block.header.number;
        inner.ledger.push(draft.block, draft.changes);
        let hash = inner.ledger.head().hash;
        for entry in inner.pool.remove(&draft.included) {
            entry.tell(Status::InBlock(hash));
            entry.tell(Status::Finalized(hash));
        }
        for entry in inner.pool.remove(&draft.dropped) {
            entry.tell(Status::Invalid);
        }
        drop(inner);
        self.heads.send_replace(number);
        if store.wants_checkpoint() {
            let snapshot = self.read().ledger.clone();
            store.checkpoint(&snapshot)?;
        }
        Ok(())
    }

    fn draft(&self) -> Draft {
        let inner = self.read();
        let ledger = &inner.ledger;
        let tip = tip(ledger);
        let mut exec = Exec::new(Overlay::new(ledger.state()), tip.number.saturating_add(1));
        let last = items::NOW.get(&exec.state).unwrap_or_default();
        let now = self.clock.unix_ms().max(last.saturating_add(1));
        let block_ms = u64::try_from(self.block_time.as_millis()).unwrap_or(u64::MAX).max(1);
        let slot = now.checked_div(block_ms).unwrap_or_default();
        hooks::begin(&mut exec, &tip.hash, now, slot);
        beacon::step(&mut exec, now, &self.pulses());
        let mut extrinsics = vec![timestamp_inherent(now)];
        let (mut included, mut dropped) = (Vec::new(), Vec::new());
        for entry in inner.pool.iter().take(BLOCK_EXTRINSICS_MAX) {
            let (signed, call) = (&entry.signed, &entry.call);
            match include(&mut exec, &tip, &mut extrinsics, (&entry.bytes, signed, call)) {
                Ok(()) => included.push(entry.hash),
                Err(reason) => {
                    tracing::info!(reason = %reason, "an extrinsic became invalid while it waited");
                    dropped.push(entry.hash);
                    continue;
                }
            }
            if let Call::Shield(ShieldCall::SubmitEncrypted { ciphertext }) = call {
                self.include_shielded(&mut exec, &tip, &mut extrinsics, ciphertext);
            }
        }
        hooks::end(&mut exec, u32::try_from(extrinsics.len()).unwrap_or(u32::MAX));
        let changes = exec.state.into_changes();
        let block = Block::new(ledger.head(), slot, extrinsics, &changes);
        Draft { block, changes, included, dropped }
    }

    /// Opens a shielded extrinsic and includes what is inside right behind its carrier. One that does not open, or is not
    /// valid, is left out; its carrier has paid.
    fn include_shielded(
        &self,
        exec: &mut Exec<'_>,
        tip: &Tip,
        extrinsics: &mut Vec<Vec<u8>>,
        ciphertext: &[u8],
    ) {
        let Some(bytes) = self.shield.open(ciphertext) else {
            tracing::info!("a shielded extrinsic did not open");
            return;
        };
        match self.decode(&bytes) {
            Err(error) => tracing::info!(error = %error, "a shield held no extrinsic"),
            Ok((_, Call::Shield(_))) => tracing::info!("a shield held another shield"),
            Ok((signed, call)) => {
                if let Err(reason) = include(exec, tip, extrinsics, (&bytes, &signed, &call)) {
                    tracing::info!(reason = %reason, "a shielded extrinsic is not valid");
                }
            }
        }
    }
}

/// Applies an extrinsic if it is valid now, and puts it into the block.
fn include(
    exec: &mut Exec<'_>,
    tip: &Tip,
    extrinsics: &mut Vec<Vec<u8>>,
    (bytes, signed, call): (&Vec<u8>, &Signed, &Call),
) -> Result<(), Invalid> {
    validity::check_nonce(&exec.state, signed, 0)?;
    validity::check(&exec.state, tip, signed, call, bytes.len())?;
    exec.begin_extrinsic(u32::try_from(extrinsics.len()).unwrap_or(u32::MAX));
    if let Err(error) = exec.apply(&signed.signer, call, signed.tip, bytes.len()) {
        tracing::debug!(error = ?error, "a call failed");
    }
    extrinsics.push(bytes.clone());
    Ok(())
}

struct Draft {
    block: Block,
    changes: Changes,
    included: Vec<H256>,
    dropped: Vec<H256>,
}

fn tip(ledger: &Ledger) -> Tip {
    Tip {
        number: u64::from(ledger.head().block.header.number),
        hash: ledger.head().hash,
        genesis: ledger.genesis,
    }
}
