//! Weights from the decision to the chain's last word, once.
//!
//! How they are said is the subnet's choice: in the clear, by a hash that this validator reveals in its epoch, or sealed for
//! a round of the beacon, which the chain opens itself. Every extrinsic is stored, signed, before it is sent. While its fate
//! is open nothing else is signed: after a kill, a lost connection or a fork the chain is asked for it first, and the very
//! same bytes are sent again. A new one is signed only when the old one is undone or can never be carried out any more.
//! A commit that is final keeps nobody waiting, and is no weights yet: it becomes some when it is revealed or opened.

use std::sync::Arc;

use nicompute_chain::timelock::{self, SealError, Sealed};
use nicompute_chain::{
    Call, Chain, Depth, Fate, ModuleError, PoolRejection, Prepared, ReadError, Refusal,
    SubmitError, View, WeightsWay,
};
use nicompute_daemon::ErrorChain;
use nicompute_market::{BlockNumber, Netuid, Uid};

use crate::chain_view::Own;
use crate::context::Context;
use crate::loops::{LoopError, Outcome};
use crate::store::{NewSubmission, Opening, Signed, Step, Submission, Way};

/// Blocks in which an extrinsic with weights may be included. Short, so that one that no pool takes is soon known to be void;
/// Bittensor's own client gives plain weights eight.
const ERA_BLOCKS: u16 = 16;
/// Numbers in the salt of a hash: as many as Bittensor's client draws.
const SALT_LEN: usize = 8;
/// The mechanism that a subnet has when it has one.
const FIRST_MECHANISM: u8 = 0;
const SUBTENSOR: &str = "SubtensorModule";

/// Signs weights in the subnet's own way, stores them, and carries them out.
pub(crate) async fn begin(
    ctx: &Arc<Context>,
    chain: &Chain,
    version_key: u64,
    weights: Vec<(Uid, u16)>,
) -> Outcome {
    let (stored, prepared) = sign(ctx, chain, version_key, weights).await?;
    send(ctx, chain, &stored, (&prepared, Sending::First)).await
}

/// Signs weights and stores them; nothing is sent.
async fn sign(
    ctx: &Context,
    chain: &Chain,
    version_key: u64,
    weights: Vec<(Uid, u16)>,
) -> Result<(Submission, Prepared), LoopError> {
    let view = chain.now().await?;
    let said = match view.weights_way(ctx.config.netuid).await? {
        WeightsWay::Plain => plain(ctx, chain, weights, version_key).await?,
        WeightsWay::Hash { .. } => hash(ctx, weights, version_key)?,
        WeightsWay::Timelocked { version, .. } => {
            sealed(ctx, chain, &view, (weights, version_key, version)).await?
        }
    };
    let prepared = chain.prepare(&said.call.within_blocks(ERA_BLOCKS), &ctx.config.hotkey).await?;
    let new = NewSubmission {
        decided_at: ctx.now(),
        genesis: chain.genesis_hash(),
        way: said.way,
        weights: said.weights,
        version_key,
        salt: said.salt,
        extrinsic: signed(&prepared),
        opens: said.opens,
    };
    Ok((ctx.store.begin_submission(new).await?, prepared))
}

/// Takes weights that are on their way one step on.
pub(crate) async fn follow(ctx: &Arc<Context>, chain: &Chain, it: &Submission) -> Outcome {
    if it.said.genesis != chain.genesis_hash() {
        return fail(ctx, it, ctx.head(), "they were signed for another chain").await;
    }
    let Ok(prepared) = Prepared::decode(&it.said.extrinsic.bytes) else {
        return by_the_metagraph(ctx, chain, it, "the stored extrinsic cannot be read").await;
    };
    match chain.fate(&prepared).await {
        Ok(Fate::Finalized(included)) => said(ctx, chain, it, included.block.number).await,
        Ok(Fate::Included(_) | Fate::Pending) => {
            send(ctx, chain, it, (&prepared, Sending::Again)).await
        }
        Ok(Fate::Undone { at, error }) => undone(ctx, chain, it, (at.number, &error)).await,
        Ok(Fate::Expired) => expired(ctx, it).await,
        Err(ReadError::Pruned { .. }) => {
            by_the_metagraph(ctx, chain, it, "the node has forgotten the blocks that would tell")
                .await
        }
        Err(error) => Err(error.into()),
    }
}

/// Looks whether the chain has opened what was sealed. Nothing depends on it: where it cannot be read, that is noted.
pub(crate) async fn note_opened(
    ctx: &Arc<Context>,
    chain: &Chain,
    own: Option<Own>,
) -> Result<(), LoopError> {
    let head = ctx.head();
    let mut due = ctx.store.commits(Way::Timelocked).await?;
    due.retain(|it| it.said.opens.is_none_or(|opens| opens.block <= head));
    let Some(newest) = due.last() else { return Ok(()) };
    match decide_opened(ctx, chain, own, &due).await {
        Err(error @ LoopError::Chain(_)) => {
            let note = ErrorChain(&error).to_string();
            tracing::debug!(error = note, "whether sealed weights are open is not known");
            Ok(ctx.store.note_submission(newest.id, &note).await?)
        }
        decided => decided,
    }
}

/// The epoch that the next block is in: one may begin with it.
pub(crate) async fn next_epoch(view: &View, netuid: Netuid) -> Result<u64, ReadError> {
    let next = BlockNumber(view.head().number.get().saturating_add(1));
    let begins = view.next_epoch_start(netuid).await? <= next;
    Ok(view.epoch_index(netuid).await?.saturating_add(u64::from(begins)))
}

/// Reveals the oldest hash whose epoch has come. Gives nothing where all wait or there is none.
pub(crate) async fn reveal_due(
    ctx: &Arc<Context>,
    chain: &Chain,
) -> Result<Option<String>, LoopError> {
    for it in ctx.store.commits(Way::Hash).await? {
        if let Some(text) = reveal(ctx, chain, &it).await? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

async fn decide_opened(
    ctx: &Context,
    chain: &Chain,
    own: Option<Own>,
    due: &[Submission],
) -> Result<(), LoopError> {
    let me = ctx.config.hotkey.hotkey();
    // One view: a commit that is gone must not be held against weights from before.
    let view = chain.now().await?;
    let head = view.head().number;
    let held = view.timelocked_commits_of(ctx.config.netuid, &me).await?;
    let on_chain = match own {
        Some(own) => view.weights_of(ctx.config.netuid, own.uid).await?,
        None => Vec::new(),
    };
    // The newest first: only it can still be seen.
    for it in due.iter().rev() {
        let is_here = it.said.genesis == chain.genesis_hash();
        let opens = it.said.opens;
        let waits = |round: u64| held.iter().any(|commit| commit.reveal_round == round);
        if is_here && opens.is_some_and(|opens| opens.block > head || waits(opens.round)) {
            continue;
        }
        if is_here && on_chain == it.said.weights {
            ctx.store.commit_done(it, (head, ctx.now()), "opened").await?;
            tracing::info!(block = head.get(), "sealed weights are opened");
            continue;
        }
        let newest = ctx.store.last_said().await?;
        let is_overtaken = newest.is_some_and(|it| it.step == Step::Done);
        let note = match (is_here, is_overtaken) {
            (false, _) => "they were committed to another chain",
            (true, true) => "newer weights stand; whether these were opened cannot be seen",
            (true, false) => "the chain has thrown them away without opening them",
        };
        ctx.store.submission_failed(it.id, (head, note)).await?;
        tracing::warn!(block = head.get(), note, "sealed weights are not on the chain");
    }
    Ok(())
}

/// Whether the bytes leave this process for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    First,
    Again,
}

/// What is to be said, and what must be remembered of it.
struct Said {
    way: Way,
    call: Call,
    weights: Vec<(Uid, u16)>,
    salt: Vec<u16>,
    opens: Option<Opening>,
}

async fn plain(
    ctx: &Context,
    chain: &Chain,
    weights: Vec<(Uid, u16)>,
    version_key: u64,
) -> Result<Said, LoopError> {
    let call = chain.weights_call(ctx.config.netuid, &weights, version_key).await?;
    Ok(Said { way: Way::Plain, call, weights, salt: Vec::new(), opens: None })
}

fn hash(ctx: &Context, weights: Vec<(Uid, u16)>, version_key: u64) -> Result<Said, LoopError> {
    let mut drawn = [0; 2 * SALT_LEN];
    getrandom::fill(&mut drawn).map_err(|_| LoopError::Random)?;
    let salt: Vec<u16> =
        drawn.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let me = ctx.config.hotkey.hotkey();
    let netuid = ctx.config.netuid;
    let said = Sealed { hotkey: &me, weights: &weights, version_key };
    let call = Call::commit_weights(netuid, timelock::commit_hash(netuid, said, &salt));
    Ok(Said { way: Way::Hash, call, weights, salt, opens: None })
}

async fn sealed(
    ctx: &Context,
    chain: &Chain,
    view: &View,
    (weights, version_key, version): (Vec<(Uid, u16)>, u64, u16),
) -> Result<Said, LoopError> {
    let netuid = ctx.config.netuid;
    let (clock, beacon) = view.reveal_clock(netuid).await?.ok_or(LoopError::NoBeacon)?;
    let opens = Opening { block: clock.reveal_block()?, round: clock.reveal_round()? };
    let me = ctx.config.hotkey.hotkey();
    // Pairings take milliseconds, which no other task should wait for.
    let sealing = tokio::task::spawn_blocking(move || {
        let said = Sealed { hotkey: &me, weights: &weights, version_key };
        let commit = timelock::seal(&beacon.public_key, opens.round, said);
        commit.map(|commit| (commit, weights))
    });
    let (commit, weights) = sealing.await.map_err(|_| SealError::Encrypt)??;
    let call = if chain.has_call(SUBTENSOR, "commit_timelocked_mechanism_weights").await? {
        let mecid = FIRST_MECHANISM;
        Call::commit_timelocked_mechanism_weights(netuid, mecid, &commit, opens.round, version)
    } else {
        Call::commit_timelocked_weights(netuid, &commit, opens.round, version)
    };
    Ok(Said { way: Way::Timelocked, call, weights, salt: Vec::new(), opens: Some(opens) })
}

fn signed(prepared: &Prepared) -> Signed {
    let (birth, last) = (prepared.birth().number, prepared.last_block());
    Signed { bytes: prepared.encode(), birth, last }
}

/// Sends what is stored and watches it until no fork can undo it.
async fn send(
    ctx: &Arc<Context>,
    chain: &Chain,
    it: &Submission,
    (prepared, sending): (&Prepared, Sending),
) -> Outcome {
    match chain.carry_out(prepared, Depth::Finalized).await {
        Ok(included) => said(ctx, chain, it, included.block.number).await,
        Err(SubmitError::Dispatch(error)) => {
            // It may still be undone itself: only its fate decides.
            ctx.store.note_submission(it.id, &error.to_string()).await?;
            match chain.fate(prepared).await? {
                Fate::Undone { at, error } => undone(ctx, chain, it, (at.number, &error)).await,
                Fate::Finalized(_) | Fate::Included(_) | Fate::Pending | Fate::Expired => {
                    Ok(format!("the chain undid them: {error}"))
                }
            }
        }
        Err(SubmitError::Expired { .. }) => expired(ctx, it).await,
        // Never sent before and not taken now: nobody has them.
        Err(SubmitError::Pool(rejection)) if sending == Sending::First => {
            let is_last_word = rejection == PoolRejection::Refused(Refusal::CommitNotFound);
            let verdict = if is_last_word { Verdict::Final } else { Verdict::Passing };
            refused(ctx, chain, it, (ctx.head(), &rejection.to_string(), verdict)).await
        }
        Err(error) => {
            let note = ErrorChain(&error).to_string();
            ctx.store.note_submission(it.id, &note).await?;
            Err(error.into())
        }
    }
}

async fn said(ctx: &Arc<Context>, chain: &Chain, it: &Submission, block: BlockNumber) -> Outcome {
    let count = it.said.weights.len();
    if it.step == Step::Revealing {
        ctx.store.commit_done(it, (block, ctx.now()), "revealed").await?;
        tracing::info!(block = block.get(), count, "weights are revealed");
        return Ok(format!("{count} weights revealed in block {block}"));
    }
    let epoch = match it.said.way {
        Way::Hash => match hash_epoch(ctx, chain, it, block).await? {
            Some(epoch) => Some(epoch),
            None => {
                let why = "the chain holds no such commit any more";
                return fail(ctx, it, block, why).await;
            }
        },
        // Only the rhythm of the next ones depends on it.
        Way::Timelocked => epoch_at(ctx, chain, block).await.ok(),
        Way::Plain => None,
    };
    ctx.store.submission_said(it, block, (epoch, ctx.now())).await?;
    let way = it.said.way.as_str();
    tracing::info!(block = block.get(), count, way, "weights are said");
    Ok(match it.said.way {
        Way::Plain => format!("{count} weights set in block {block}"),
        Way::Hash => format!("a commit to {count} weights is in block {block}"),
        Way::Timelocked => format!("{count} sealed weights are in block {block}"),
    })
}

/// The epoch of a hash commit as the chain holds it, because the reveal depends on it; none if it holds no such commit.
async fn hash_epoch(
    ctx: &Context,
    chain: &Chain,
    it: &Submission,
    block: BlockNumber,
) -> Result<Option<u64>, LoopError> {
    let netuid = ctx.config.netuid;
    let me = ctx.config.hotkey.hotkey();
    let NewSubmission { weights, salt, version_key, .. } = &it.said;
    let said = Sealed { hotkey: &me, weights, version_key: *version_key };
    let hash = timelock::commit_hash(netuid, said, salt);
    let view = chain.now().await?;
    let held = view.hash_commits_of(netuid, &me).await?;
    match held.iter().find(|commit| commit.hash == hash).map(|commit| commit.epoch) {
        Some(Some(epoch)) => Ok(Some(epoch)),
        // Older runtimes count epochs by the block's height alone.
        Some(None) => {
            let tempo = u64::from(view.hyperparameters(netuid).await?.tempo);
            let counted = block.get().saturating_add(u64::from(netuid.0)).saturating_add(1);
            Ok(Some(counted / tempo.saturating_add(1)))
        }
        // The node that answers may be behind the one that knew the block as final.
        None => match epoch_at(ctx, chain, block).await {
            Ok(epoch) => Ok(Some(epoch)),
            Err(ReadError::Pruned { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        },
    }
}

/// The epoch that a commit in a block belongs to.
async fn epoch_at(ctx: &Context, chain: &Chain, block: BlockNumber) -> Result<u64, ReadError> {
    chain.at_block(block).await?.epoch_index(ctx.config.netuid).await
}

/// Reveals what a hash committed to, in the epoch in which the chain takes it. Gives nothing while it waits.
async fn reveal(
    ctx: &Arc<Context>,
    chain: &Chain,
    it: &Submission,
) -> Result<Option<String>, LoopError> {
    let netuid = ctx.config.netuid;
    let view = chain.now().await?;
    let head = view.head().number;
    let rules = view.hyperparameters(netuid).await?;
    let epoch = next_epoch(&view, netuid).await?;
    let due = it.epoch.map(|epoch| epoch.saturating_add(rules.reveal_period_epochs));
    let vain = match due {
        _ if it.said.genesis != chain.genesis_hash() => "they were committed to another chain",
        _ if !rules.commit_reveal => "the subnet takes weights in the clear now",
        Some(due) if epoch < due => return Ok(None),
        Some(due) if epoch == due => return say_reveal(ctx, chain, it).await.map(Some),
        Some(_) => "the epoch of its reveal is over",
        None => "the epoch of its reveal is not known",
    };
    fail(ctx, it, head, vain).await.map(Some)
}

async fn say_reveal(ctx: &Arc<Context>, chain: &Chain, it: &Submission) -> Outcome {
    let (revealing, prepared) = sign_reveal(ctx, chain, it).await?;
    send(ctx, chain, &revealing, (&prepared, Sending::First)).await
}

/// Signs a reveal and stores it; nothing is sent.
async fn sign_reveal(
    ctx: &Context,
    chain: &Chain,
    it: &Submission,
) -> Result<(Submission, Prepared), LoopError> {
    let NewSubmission { weights, salt, version_key, .. } = &it.said;
    let call = Call::reveal_weights(ctx.config.netuid, weights, salt, *version_key);
    let prepared = chain.prepare(&call.within_blocks(ERA_BLOCKS), &ctx.config.hotkey).await?;
    let extrinsic = signed(&prepared);
    ctx.store.begin_reveal(it.id, &extrinsic).await?;
    let said = NewSubmission { extrinsic, ..it.said.clone() };
    Ok((Submission { step: Step::Revealing, said, ..it.clone() }, prepared))
}

/// Where the extrinsic cannot be followed, the chain still shows when this validator last said anything.
async fn by_the_metagraph(
    ctx: &Arc<Context>,
    chain: &Chain,
    it: &Submission,
    why: &str,
) -> Outcome {
    let Signed { birth, last, .. } = it.said.extrinsic;
    let Some(view) = ctx.view() else { return Ok("waiting for the chain".to_owned()) };
    let finalized = view.finalized.number;
    let is_ours = |own: &Own| {
        let block = own.last_update;
        block > birth && block <= last && block <= finalized && block > own.registered_at
    };
    match view.own.filter(is_ours) {
        Some(own) if it.step == Step::Sending => said(ctx, chain, it, own.last_update).await,
        _ if finalized <= last => Ok(format!("{why}; waiting for block {last}")),
        _ => refused(ctx, chain, it, (finalized, why, Verdict::Passing)).await,
    }
}

/// Whether the same may be said again after it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passing,
    Final,
}

async fn undone(
    ctx: &Arc<Context>,
    chain: &Chain,
    it: &Submission,
    (block, error): (BlockNumber, &ModuleError),
) -> Outcome {
    let verdict = match error.name.as_str() {
        "NoWeightsCommitFound"
        | "ExpiredWeightCommit"
        | "InvalidRevealCommitHashNotMatch"
        | "CommitRevealDisabled" => Verdict::Final,
        _ => Verdict::Passing,
    };
    refused(ctx, chain, it, (block, &error.to_string(), verdict)).await
}

/// Weights that were refused are decided anew. A reveal comes again as long as its epoch lasts: the commit stands.
async fn refused(
    ctx: &Arc<Context>,
    chain: &Chain,
    it: &Submission,
    (block, why, verdict): (BlockNumber, &str, Verdict),
) -> Outcome {
    if it.step != Step::Revealing {
        return fail(ctx, it, block, why).await;
    }
    if verdict == Verdict::Passing {
        ctx.store.reveal_again(it.id, why).await?;
        tracing::warn!(block = block.get(), why, "a reveal was not taken; another one is signed");
        return Ok(format!("the reveal was not taken, another one is signed: {why}"));
    }
    // An earlier one may have been carried out unseen.
    let view = chain.now().await?;
    let netuid = ctx.config.netuid;
    if let Some(uid) = view.uid_of(netuid, &ctx.config.hotkey.hotkey()).await?
        && view.weights_of(netuid, uid).await? == it.said.weights
    {
        return said(ctx, chain, it, view.head().number).await;
    }
    fail(ctx, it, block, why).await
}

async fn expired(ctx: &Arc<Context>, it: &Submission) -> Outcome {
    if it.step == Step::Revealing {
        ctx.store.reveal_again(it.id, "the reveal expired").await?;
        return Ok("the reveal got into no block; another one is signed".to_owned());
    }
    fail(ctx, it, ctx.head(), "they got into no block in time").await
}

async fn fail(ctx: &Arc<Context>, it: &Submission, block: BlockNumber, why: &str) -> Outcome {
    ctx.store.submission_failed(it.id, (block, why)).await?;
    tracing::warn!(block = block.get(), step = it.step.as_str(), why, "weights were not set");
    Ok(format!("the weights were not set: {why}"))
}

#[cfg(test)]
mod tests;
