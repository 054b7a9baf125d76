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
/// How far below the finalized block the end of an extrinsic's life is looked for block by block; below that, by number.
const FINAL_WALK_MAX: u64 = 16;
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
    parent: Hash,
    index: Option<u32>,
}

/// The chain as one look found it.
#[derive(Debug, Clone, Copy)]
struct Look {
    best: Head,
    finalized: Head,
    place: Option<Place>,
    line: FinalLine,
}

/// What the final blocks of an extrinsic's life say about it, where none of them holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FinalLine {
    /// Nothing: it was born above them, or the nodes do not agree about which ones are final.
    Silent,
    /// All of them were searched, down to the block that the signature refers to.
    Searched,
    /// The block that the signature refers to is none of them.
    BornElsewhere,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    block: Head,
    parent: Hash,
    index: u32,
    is_final: bool,
}

/// How the search of one line of blocks ended.
#[derive(Debug, Clone, Copy)]
enum Search {
    Found(Place),
    /// At this block, which was not searched itself.
    Bottom(Hash),
}

/// How an extrinsic ended in its block.
enum Ended<'a> {
    Well,
    Undone(&'a Plain),
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
        let included = Included { block: place.block, hash: prepared.hash };
        Ok(match self.verdict(&place).await? {
            None if place.is_final => Fate::Finalized(included),
            None => Fate::Included(included),
            Some(error) if place.is_final => Fate::Undone { at: place.block, error },
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
            if chase.depth == Depth::Finalized && !place.is_final {
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

    /// Searches the blocks of its life: the final ones from the finalized block itself, whatever the best block of the node
    /// that answers is, and then those above them.
    async fn look(&self, prepared: &Prepared, trail: &mut Trail) -> Result<Look, ReadError> {
        let (finalized, best) = self.both_heads().await?;
        let (birth, last) = (prepared.facts.birth, prepared.last_block());
        let mut look = Look { best, finalized, place: None, line: FinalLine::Silent };
        if trail.len() > TRAIL_MAX {
            trail.clear();
        }
        if finalized.number >= birth.number {
            let Some(from) = self.last_final(prepared, finalized).await? else { return Ok(look) };
            match self.search(prepared, (from, birth.number), trail).await? {
                Search::Found(place) => {
                    look.place = Some(Place { is_final: true, ..place });
                    return Ok(look);
                }
                Search::Bottom(hash) if hash.0 == birth.hash => look.line = FinalLine::Searched,
                Search::Bottom(_) => look.line = FinalLine::BornElsewhere,
            }
        }
        if finalized.number > last {
            return Ok(look);
        }
        let mut from = best;
        if best.number > last {
            // A node that took over meanwhile may not be that high.
            let Some(hash) = self.block_hash(last).await? else { return Ok(look) };
            from = Head { number: last, hash };
        }
        let floor = finalized.number.max(birth.number);
        if let Search::Found(place) = self.search(prepared, (from, floor), trail).await? {
            look.place = Some(place);
        }
        Ok(look)
    }

    /// The finalized and the best block, over one connection.
    async fn both_heads(&self) -> Result<(Head, Head), ReadError> {
        let ask = |rpc: Rpc| async move {
            let finalized = rpc.chain_get_finalized_head().await?;
            let Some(best) = rpc.chain_get_block_hash(None).await? else { return Ok(None) };
            let lower = rpc.chain_get_header(Some(finalized)).await?;
            let upper = rpc.chain_get_header(Some(best)).await?;
            let numbers = lower.zip(upper).map(|(lower, upper)| (lower.number(), upper.number()));
            Ok(numbers.map(|numbers| ((finalized, best), numbers)))
        };
        let limit = self.shared.limits.read;
        let found = self.shared.link.ask(limit, "chain_getHeader", ask).await?;
        let ((finalized, best), (lower, upper)) = found.ok_or_else(crate::chain::no_head)?;
        let head = |hash: Hash, number| Head { number: BlockNumber(number), hash: hash.0 };
        Ok((head(finalized, lower), head(best, upper)))
    }

    /// The final block from which the life of an extrinsic is searched; none where the node that answers does not know the
    /// finalized block, so that what it calls block so-and-so means nothing.
    async fn last_final(
        &self,
        prepared: &Prepared,
        finalized: Head,
    ) -> Result<Option<Head>, ReadError> {
        let number = prepared.last_block();
        if finalized.number.0.saturating_sub(number.0) <= FINAL_WALK_MAX {
            return Ok(Some(finalized));
        }
        let ask = |rpc: Rpc| async move {
            let known = rpc.chain_get_block_hash(Some(finalized.number.0.into())).await?;
            Ok((rpc.chain_get_block_hash(Some(number.0.into())).await?, known))
        };
        let limit = self.shared.limits.read;
        let (hash, known) = self.shared.link.ask(limit, "chain_getBlockHash", ask).await?;
        if known != Some(Hash::from(finalized.hash)) {
            return Ok(None);
        }
        let hash = hash.ok_or(ReadError::Pruned { block: prepared.facts.birth.hash })?;
        Ok(Some(Head { number, hash: hash.0 }))
    }

    /// Searches one line of blocks, parent by parent, down to a height that is not searched itself.
    async fn search(
        &self,
        prepared: &Prepared,
        (from, floor): (Head, BlockNumber),
        trail: &mut Trail,
    ) -> Result<Search, ReadError> {
        let (mut next, mut number) = (Hash::from(from.hash), from.number);
        while number > floor {
            let step = self.step_at(prepared, Head { number, hash: next.0 }, trail).await?;
            if let Some(index) = step.index {
                let block = Head { number, hash: next.0 };
                let place = Place { block, parent: step.parent, index, is_final: false };
                return Ok(Search::Found(place));
            }
            next = step.parent;
            number = BlockNumber(number.0.saturating_sub(1));
        }
        Ok(Search::Bottom(next))
    }

    async fn step_at(
        &self,
        prepared: &Prepared,
        at: Head,
        trail: &mut Trail,
    ) -> Result<Step, ReadError> {
        let hash = Hash::from(at.hash);
        if let Some(step) = trail.get(&hash) {
            return Ok(*step);
        }
        let ask = |rpc: Rpc| async move { rpc.chain_get_block(Some(hash)).await };
        let limit = self.shared.limits.read;
        let Some(block) = self.shared.link.ask(limit, "chain_getBlock", ask).await? else {
            // A node that took over meanwhile may not have got there yet, which is not forgetting.
            let is_behind = self.head().await?.number < at.number;
            let gone = ReadError::Pruned { block: hash.0 };
            return Err(if is_behind { ReadError::NoBlock(at.number) } else { gone });
        };
        let block = block.block;
        if block.header.number() != at.number.0 {
            // Numbers that do not descend by one are a node's lie, and would make the search endless.
            let source = ShapeError::Kind("the number below that of the next block");
            return Err(ReadError::Shape { about: "a block", source });
        }
        let is_it = |bytes: &[u8]| BlakeTwo256.hash(bytes).0 == prepared.hash;
        let index = block.extrinsics.iter().position(|bytes| is_it(bytes));
        let step = Step {
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
        match look.line {
            FinalLine::Silent => return Ok(false),
            FinalLine::BornElsewhere => return Ok(true),
            FinalLine::Searched if finalized.number > prepared.last_block() => return Ok(true),
            FinalLine::Searched => {}
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

    /// Why the chain undid it, from the events of its block; none if they say that it was carried out.
    async fn verdict(&self, place: &Place) -> Result<Option<ModuleError>, ReadError> {
        let about = "the events of a block";
        let limit = self.shared.limits.read;
        // A block is carried out, and its events are written, by the runtime of the block before it.
        let runtime = self.shared.runtime_at(place.parent, limit).await?;
        let at = At { head: place.block, runtime };
        let events = self.shared.item(&at, about, ("System", "Events"), Vec::new()).await?;
        let shape = |source| ReadError::Shape { about, source };
        let gone = ReadError::Pruned { block: place.block.hash };
        let Some(events) = events else { return Err(gone) };
        match ended(&events, place.index).map_err(shape)? {
            Some(Ended::Well) => Ok(None),
            Some(Ended::Undone(error)) => at.runtime.dispatch_error(error).map(Some).map_err(shape),
            // No block is without events; a state that the node does not have reads as if it had none.
            None if events.list().is_ok_and(<[_]>::is_empty) => Err(gone),
            None => Err(shape(ShapeError::Kind("how the extrinsic ended"))),
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

/// How the extrinsic of that index ended, if the events say it.
fn ended(events: &Plain, index: u32) -> Result<Option<Ended<'_>>, ShapeError> {
    for record in events.list()? {
        let (phase, of) = record.field("phase")?.variant()?;
        if phase != "ApplyExtrinsic" || of.u32()? != index {
            continue;
        }
        let (pallet, event) = record.field("event")?.variant()?;
        let (name, contents) = event.variant()?;
        match (pallet, name) {
            ("System", "ExtrinsicSuccess") => return Ok(Some(Ended::Well)),
            ("System", "ExtrinsicFailed") => {
                return contents.field("dispatch_error").map(|error| Some(Ended::Undone(error)));
            }
            _ => {}
        }
    }
    Ok(None)
}
