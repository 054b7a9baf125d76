//! What becomes of an extrinsic after it was sent.
//!
//! The blocks themselves are searched for it, from the best one back to where it was born, so that a lost connection, a
//! restarted process or a fork loses no outcome. Only what is final counts as expired, so nothing is ever signed twice.

use std::collections::HashMap;
use std::time::Duration;

use nicompute_daemon::ErrorChain;
use nicompute_market::BlockNumber;
use subxt::config::substrate::BlakeTwo256;
use subxt::config::{Hasher as _, Header as _};

use crate::chain::{At, Chain};
use crate::dispatch::ModuleError;
use crate::error::{ReadError, ShapeError, SubmitError};
use crate::link::{Hash, Rpc};
use crate::plain::Plain;
use crate::pool::PoolRejection;
use crate::prepared::Prepared;
use crate::reads::Head;
use crate::runtime::account_value;
use crate::submit::{Depth, Included};

/// The longest wait for a new head before the node is asked for one.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(6);
/// Blocks without the extrinsic after which the same bytes are sent again: the node may have lost its pool.
const SEND_AGAIN_BLOCKS: u64 = 5;
/// Blocks after the last possible one in which finality may still come before the caller is told that it does not.
const FINALITY_LAG_MAX: u64 = 256;
/// The most blocks that one search remembers, forks included.
const TRAIL_MAX: usize = 1_024;

/// What is known about an extrinsic at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was carried out, for ever.
    Finalized(Included),
    /// It is in a block that a fork may still take away, and was carried out there.
    Included(Included),
    /// It is in a final block, and the chain undid it.
    Undone {
        /// The block.
        at: Head,
        /// Why.
        error: ModuleError,
    },
    /// Not decided: it may be waiting in a pool, or was never sent.
    Pending,
    /// It can never be carried out any more, so a new one may be signed: its era, its nonce or its runtime has passed.
    Expired,
}

/// What is known about the sending of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Not by this process.
    Unsent,
    /// The pool has them.
    Taken,
    /// The connection broke: they may or may not have arrived.
    Lost,
}

/// Blocks that were searched, by their hash.
type Trail = HashMap<Hash, Step>;

#[derive(Debug, Clone, Copy)]
struct Step {
    number: u64,
    parent: Hash,
    index: Option<u32>,
}

/// The chain as one look found it.
#[derive(Debug, Clone, Copy)]
struct Look {
    best: Head,
    finalized: Head,
    place: Option<Place>,
    /// Whether the block that the signature refers to is on this chain.
    born_here: bool,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    block: Head,
    parent: Hash,
    index: u32,
}

/// One extrinsic on its way.
struct Chase<'a> {
    prepared: &'a Prepared,
    depth: Depth,
    delivery: Delivery,
    trail: Trail,
    best: BlockNumber,
    finalized: Option<BlockNumber>,
    sent_at: u64,
    was_found: bool,
    refused: Option<(PoolRejection, BlockNumber)>,
}

// === impl Chain ===

impl Chain {
    /// What is known about an extrinsic now, also after a restart.
    ///
    /// # Errors
    /// When the chain cannot be read; [`ReadError::Pruned`] when the node has forgotten the block that would tell.
    pub async fn fate(&self, prepared: &Prepared) -> Result<Fate, ReadError> {
        self.check_chain(prepared)?;
        let look = self.look(prepared, &mut Trail::new()).await?;
        let Some(place) = look.place else {
            let expired = self.expired(prepared, &look).await?;
            return Ok(if expired { Fate::Expired } else { Fate::Pending });
        };
        let is_final = place.block.number <= look.finalized.number;
        let included = Included { block: place.block, hash: prepared.hash };
        Ok(match self.verdict(&place).await? {
            None if is_final => Fate::Finalized(included),
            None => Fate::Included(included),
            Some(error) if is_final => Fate::Undone { at: place.block, error },
            // On another branch it may end otherwise.
            Some(_) => Fate::Pending,
        })
    }

    /// Follows it until it is as deep as asked or can never be.
    pub(crate) async fn follow(
        &self,
        prepared: &Prepared,
        delivery: Delivery,
        depth: Depth,
    ) -> Result<Included, SubmitError> {
        let clock = self.shared.link.clock();
        let limit = self.shared.limits.submit;
        let mut until = clock.monotonic().saturating_add(limit);
        let mut heads = self.subscribe_heads();
        let mut chase = Chase::new(prepared, delivery, depth);
        loop {
            let before = chase.best;
            let last = match self.step(&mut chase).await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => None,
                Err(error) => {
                    tracing::debug!(error = %ErrorChain(&error), "an extrinsic is out of sight");
                    chase.lose();
                    Some(error)
                }
            };
            if depth == Depth::Finalized && chase.best > before {
                // While the chain moves, finality comes or the era ends.
                until = clock.monotonic().saturating_add(limit);
            }
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() || chase.is_hopeless() {
                return Err(SubmitError::Unknown { hash: prepared.hash, source: last });
            }
            tokio::select! {
                biased;
                changed = heads.changed() => {
                    if changed.is_err() {
                        return Err(SubmitError::Unknown { hash: prepared.hash, source: last });
                    }
                }
                () = clock.sleep(HEAD_WAIT_MAX.min(left)) => {}
            }
        }
    }

    /// One look, and what follows from it.
    async fn step(
        &self,
        chase: &mut Chase<'_>,
    ) -> Result<Option<Result<Included, SubmitError>>, ReadError> {
        let prepared = chase.prepared;
        let look = self.look(prepared, &mut chase.trail).await?;
        chase.best = look.best.number;
        if let Some(place) = look.place {
            chase.was_found = true;
            let is_final = place.block.number <= look.finalized.number;
            if chase.depth == Depth::Finalized && !is_final {
                return Ok(None);
            }
            let included = Included { block: place.block, hash: prepared.hash };
            let verdict = self.verdict(&place).await?;
            return Ok(Some(verdict.map_or(Ok(included), |error| Err(error.into()))));
        }
        if chase.finalized.replace(look.finalized.number) != Some(look.finalized.number)
            && self.expired(prepared, &look).await?
        {
            return Ok(Some(Err(SubmitError::Expired { hash: prepared.hash })));
        }
        if let Some((rejection, at)) = chase.refused.take_if(|(_, at)| *at < look.best.number) {
            tracing::debug!(%rejection, at = at.get(), "an extrinsic was refused, and is in no block");
            return Ok(Some(Err(rejection.into())));
        }
        if chase.wants_sending() {
            self.send_again(chase).await;
        }
        Ok(None)
    }

    async fn send_again(&self, chase: &mut Chase<'_>) {
        chase.sent_at = chase.best.0;
        chase.was_found = false;
        match self.send(chase.prepared).await {
            Ok(delivery) => chase.delivery = delivery,
            // It says that the bytes are in a block, or can never be: the chain itself will tell which.
            Err(rejection) if rejection.cured_by_signing_anew() => chase.delivery = Delivery::Taken,
            Err(rejection) => {
                // A block that came meanwhile may hold it, so one more is awaited.
                if chase.delivery == Delivery::Unsent {
                    chase.refused = Some((rejection, chase.best));
                }
                chase.delivery = Delivery::Taken;
            }
        }
    }

    /// Searches the blocks of its life, from the best one down.
    async fn look(&self, prepared: &Prepared, trail: &mut Trail) -> Result<Look, ReadError> {
        let finalized = self.finalized().await?;
        let best = self.head().await?;
        let (birth, last) = (prepared.facts.birth, prepared.last_block());
        let mut look = Look { best, finalized, place: None, born_here: true };
        let mut next = Hash::from(best.hash);
        if best.number > last {
            next =
                self.block_hash(last).await?.map(Hash::from).ok_or_else(crate::chain::no_head)?;
        }
        if trail.len() > TRAIL_MAX {
            trail.clear();
        }
        // Numbers that do not descend are a node's lie; the life of an extrinsic ends the search.
        for _ in 0..=prepared.facts.era_blocks {
            if next.0 == birth.hash {
                return Ok(look);
            }
            let step = self.step_at(prepared, next, trail).await?;
            if step.number <= birth.number.0 {
                break;
            }
            if let Some(index) = step.index {
                let block = Head { number: BlockNumber(step.number), hash: next.0 };
                look.place = Some(Place { block, parent: step.parent, index });
                return Ok(look);
            }
            next = step.parent;
        }
        look.born_here = best.number < birth.number;
        Ok(look)
    }

    async fn step_at(
        &self,
        prepared: &Prepared,
        hash: Hash,
        trail: &mut Trail,
    ) -> Result<Step, ReadError> {
        if let Some(step) = trail.get(&hash) {
            return Ok(*step);
        }
        let ask = |rpc: Rpc| async move { rpc.chain_get_block(Some(hash)).await };
        let limit = self.shared.limits.read;
        let block = self.shared.link.ask(limit, "chain_getBlock", ask).await?;
        let block = block.ok_or(ReadError::Pruned { block: hash.0 })?.block;
        let is_it = |bytes: &[u8]| BlakeTwo256.hash(bytes).0 == prepared.hash;
        let index = block.extrinsics.iter().position(|bytes| is_it(bytes));
        let step = Step {
            number: block.header.number(),
            parent: block.header.parent_hash,
            index: index.map(|index| u32::try_from(index).unwrap_or(u32::MAX)),
        };
        trail.insert(hash, step);
        Ok(step)
    }

    /// Whether it is in no block and can be in none any more, by what is final.
    async fn expired(&self, prepared: &Prepared, look: &Look) -> Result<bool, ReadError> {
        let facts = &prepared.facts;
        let finalized = look.finalized;
        if finalized.number > prepared.last_block() {
            return Ok(true);
        }
        if !look.born_here && finalized.number >= facts.birth.number {
            return Ok(true);
        }
        if finalized.number < facts.birth.number {
            return Ok(false);
        }
        let limit = self.shared.limits.read;
        let runtime = self.shared.runtime_at(Hash::from(finalized.hash), limit).await?;
        let versions = (runtime.spec_version, runtime.transaction_version);
        if versions != (facts.spec_version, facts.transaction_version) {
            return Ok(true);
        }
        let at = At { head: finalized, runtime };
        let about = "a nonce";
        let keys = vec![account_value(&facts.signer)];
        let Some(info) = self.shared.item(&at, about, ("System", "Account"), keys).await? else {
            return Ok(false);
        };
        let nonce = info.field("nonce").and_then(Plain::u64);
        Ok(nonce.map_err(|source| ReadError::Shape { about, source })? > facts.nonce)
    }

    /// Why the chain undid it, from the events of its block; none if it did not.
    async fn verdict(&self, place: &Place) -> Result<Option<ModuleError>, ReadError> {
        let about = "the events of a block";
        let limit = self.shared.limits.read;
        // A block is carried out, and its events are written, by the runtime of the block before it.
        let runtime = self.shared.runtime_at(place.parent, limit).await?;
        let at = At { head: place.block, runtime };
        let events = self.shared.item(&at, about, ("System", "Events"), Vec::new()).await?;
        let shape = |source| ReadError::Shape { about, source };
        let Some(events) = events else { return Ok(None) };
        match failure(&events, place.index).map_err(shape)? {
            Some(error) => at.runtime.dispatch_error(error).map(Some).map_err(shape),
            None => Ok(None),
        }
    }
}

// === impl Chase ===

impl<'a> Chase<'a> {
    fn new(prepared: &'a Prepared, delivery: Delivery, depth: Depth) -> Self {
        let sent_at = prepared.facts.birth.number.0;
        let best = prepared.facts.birth.number;
        let (trail, finalized) = (Trail::new(), None);
        let (was_found, refused) = (false, None);
        Self { prepared, depth, delivery, trail, best, finalized, sent_at, was_found, refused }
    }

    /// Whether the bytes are to be sent (again): nobody knows that they arrived, the pool has had time enough, or a fork
    /// has taken away the block that they were in.
    fn wants_sending(&mut self) -> bool {
        if self.refused.is_some() {
            return false;
        }
        if self.delivery == Delivery::Taken && self.sent_at <= self.prepared.facts.birth.number.0 {
            // Handed over before the first look.
            self.sent_at = self.best.0;
        }
        let waited = self.best.0.saturating_sub(self.sent_at);
        self.delivery != Delivery::Taken || self.was_found || waited >= SEND_AGAIN_BLOCKS
    }

    fn lose(&mut self) {
        if self.delivery == Delivery::Taken {
            self.delivery = Delivery::Lost;
        }
    }

    /// Whether its life is over for so long that finality does not come.
    fn is_hopeless(&self) -> bool {
        let last = self.prepared.last_block().0;
        self.best.0 > last.saturating_add(FINALITY_LAG_MAX)
    }
}

/// What undid the extrinsic of that index, if something did.
fn failure(events: &Plain, index: u32) -> Result<Option<&Plain>, ShapeError> {
    for record in events.list()? {
        let (phase, of) = record.field("phase")?.variant()?;
        if phase != "ApplyExtrinsic" || of.u32()? != index {
            continue;
        }
        let (pallet, event) = record.field("event")?.variant()?;
        let (name, contents) = event.variant()?;
        if pallet == "System" && name == "ExtrinsicFailed" {
            return contents.field("dispatch_error").map(Some);
        }
    }
    Ok(None)
}
