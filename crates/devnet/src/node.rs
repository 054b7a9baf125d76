//! The chain as one thing: it takes extrinsics, makes blocks, and lets everybody read.
//!
//! State and pool sit behind one lock that is never held across a wait. Blocks are made by one caller at a time, which
//! holds the store; a block becomes visible only after it is on disk. Forks, upgrades and restarts are in `fork`.

mod fork;

pub(crate) use fork::Undone;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use nicompute_daemon::SharedClock;
use tokio::sync::{mpsc, watch};

use crate::call::{Call, ShieldCall};
use crate::extrinsic::{ExtrinsicError, Signed, timestamp_inherent};
use crate::face::{Face, Faces};
use crate::hash::{H256, blake2_256};
use crate::items;
use crate::ledger::{Block, Kept, Ledger};
use crate::pool::{Entry, Pool, PoolError, Status, WATCH_CAPACITY};
use crate::runtime::beacon::{self, PulseError, Recorded};
use crate::runtime::upgrade::{self, Runtime};
use crate::runtime::validity::{self, BAD_REQUEST, Invalid, Tip};
use crate::runtime::{Exec, genesis, hooks};
use crate::shield::ShieldKey;
use crate::state::{Changes, Overlay, Read};
use crate::store::{Store, StoreError};

/// The most extrinsics of one block besides the timestamp.
const BLOCK_EXTRINSICS_MAX: usize = 512;
/// Recorded pulses that are remembered.
const PULSES_WAITING_MAX: usize = 1_024;

/// The running chain.
#[derive(Debug)]
pub(crate) struct Node {
    faces: Faces,
    /// The runtime that the next block's extrinsics are written for.
    current: RwLock<Arc<Face>>,
    block_time: Duration,
    finality_lag: u32,
    clock: SharedClock,
    shield: ShieldKey,
    store: Mutex<Store>,
    inner: RwLock<Inner>,
    pulses: Mutex<Recorded>,
    heads: watch::Sender<H256>,
}

/// What is read under the lock.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) ledger: Ledger,
    pub(crate) pool: Pool,
    /// What the blocks that are not final took from the pool, the oldest block first.
    unfinal: Vec<Taken>,
    /// A runtime that the next block writes.
    upgrade: Option<Runtime>,
}

/// The pool's entries in a block that is not final.
#[derive(Debug)]
struct Taken {
    block: H256,
    number: u32,
    entries: Vec<Entry>,
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
        first: Face,
        (store, ledger): (Store, Ledger),
        (block_time, finality_lag): (Duration, u32),
        clock: SharedClock,
    ) -> Self {
        let faces = Faces::new(first, block_time);
        let runtime = Runtime::of(&Overlay::new(ledger.state()), faces.first());
        let heads = watch::Sender::new(ledger.head().hash);
        let nonce = ledger.state().get(genesis::NONCE_KEY).map(Vec::as_slice);
        let shield = ShieldKey::new(nonce.unwrap_or_default());
        let pool = Pool::default();
        Self {
            current: RwLock::new(faces.get(runtime)),
            faces,
            block_time,
            finality_lag,
            clock,
            shield,
            store: Mutex::new(store),
            inner: RwLock::new(Inner { ledger, pool, unfinal: Vec::new(), upgrade: None }),
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

    /// Follows the hash of the newest block.
    pub(crate) fn heads(&self) -> watch::Receiver<H256> {
        self.heads.subscribe()
    }

    /// The runtime that the next extrinsics are written for.
    pub(crate) fn current(&self) -> Arc<Face> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The runtime of a state.
    pub(crate) fn face_of(&self, state: &impl Read) -> Arc<Face> {
        self.faces.get(Runtime::of(state, self.faces.first()))
    }

    /// The newest block that nothing can undo.
    pub(crate) fn finalized<'l>(&self, ledger: &'l Ledger) -> &'l Kept {
        let number = ledger.head().block.header.number.saturating_sub(self.finality_lag);
        ledger.by_number(number).unwrap_or_else(|| ledger.head())
    }

    /// How many blocks the finalised head trails the newest one.
    pub(crate) const fn finality_lag(&self) -> u32 {
        self.finality_lag
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
        let face = self.current();
        let call = Call::decode(&face.interface, face.runtime.calls_moved_by, &signed.call);
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
        validity::check(&state, &self.tip(&inner.ledger), &signed, &call, bytes.len())?;
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
        // The state is read before the pulses are locked: a block in the making holds the state and waits for the pulses.
        let last = {
            let inner = self.read();
            let state = Overlay::new(inner.ledger.state());
            beacon::check(&state, round, &signature)?;
            items::LAST_STORED_ROUND.get(&state).unwrap_or_default()
        };
        let mut pulses = self.pulses();
        // Those that are in the chain for good are forgotten first; a fork may still need the others again.
        if pulses.len() >= PULSES_WAITING_MAX {
            *pulses = pulses.split_off(&last);
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
        let Draft { block, changes, included, dropped } = {
            let inner = self.read();
            let waiting = inner.pool.iter().take(BLOCK_EXTRINSICS_MAX);
            self.draft(&inner.ledger, waiting, self.next_moment(&inner.ledger), inner.upgrade)
        };
        let record = [(block, changes)];
        store.append(&record)?;
        let [(block, changes)] = record;
        let mut inner = self.write();
        let number = block.header.number;
        inner.ledger.push(block, changes);
        inner.upgrade = None;
        let block = inner.ledger.head().hash;
        let entries = inner.pool.remove(&included);
        entries.iter().for_each(|entry| entry.tell(Status::InBlock(block)));
        inner.unfinal.push(Taken { block, number, entries });
        for entry in inner.pool.remove(&dropped) {
            entry.tell(Status::Invalid);
        }
        self.finalize(&mut inner);
        drop(inner);
        self.announce();
        if store.wants_checkpoint() {
            let snapshot = self.read().ledger.clone();
            store.checkpoint(&snapshot)?;
        }
        Ok(())
    }

    /// Tells the watchers of the blocks that became final.
    fn finalize(&self, inner: &mut Inner) {
        let last = self.finalized(&inner.ledger).block.header.number;
        for taken in inner.unfinal.extract_if(.., |taken| taken.number <= last) {
            taken.entries.iter().for_each(|entry| entry.tell(Status::Finalized(taken.block)));
        }
    }

    /// Lets everybody see the newest block and what it changed.
    fn announce(&self) {
        let (hash, face) = {
            let inner = self.read();
            (inner.ledger.head().hash, self.face_of(&Overlay::new(inner.ledger.state())))
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = face;
        self.heads.send_replace(hash);
    }

    /// The next block's time: the clock's, and later than its parent's.
    fn next_moment(&self, ledger: &Ledger) -> u64 {
        let last = items::NOW.get(&Overlay::new(ledger.state())).unwrap_or_default();
        self.clock.unix_ms().max(last.saturating_add(1))
    }

    fn draft<'e>(
        &self,
        ledger: &Ledger,
        waiting: impl Iterator<Item = &'e Entry>,
        now: u64,
        upgrade: Option<Runtime>,
    ) -> Draft {
        let tip = self.tip(ledger);
        let mut exec = Exec::new(Overlay::new(ledger.state()), tip.number.saturating_add(1));
        let slot = now.checked_div(self.block_ms()).unwrap_or_default();
        hooks::begin(&mut exec, &tip.hash, now, slot);
        upgrade::begin(&mut exec, self.face_of(&Overlay::new(ledger.state())).runtime);
        beacon::step(&mut exec, now, &self.pulses());
        let mut extrinsics = vec![timestamp_inherent(now)];
        let (mut included, mut dropped) = (Vec::new(), Vec::new());
        for entry in waiting {
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
        if let Some(runtime) = upgrade {
            upgrade::write(&mut exec, runtime);
        }
        hooks::end(&mut exec, u32::try_from(extrinsics.len()).unwrap_or(u32::MAX));
        let changes = exec.state.into_changes();
        let block = Block::new(ledger.head(), slot, extrinsics, &changes);
        Draft { block, changes, included, dropped }
    }

    fn block_ms(&self) -> u64 {
        u64::try_from(self.block_time.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn tip(&self, ledger: &Ledger) -> Tip {
        Tip {
            number: u64::from(ledger.head().block.header.number),
            hash: ledger.head().hash,
            genesis: ledger.genesis,
            spec_version: self.face_of(&Overlay::new(ledger.state())).runtime.spec_version,
        }
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
