//! Weights from the decision to the chain's last word, once.
//!
//! How they are said is the subnet's choice: in the clear, by a hash that this validator reveals in its epoch, or sealed for
//! a round of the beacon, which the chain opens itself. Every extrinsic is stored, signed, before it is sent. While its fate
//! is open nothing else is signed: after a kill, a lost connection or a fork the chain is asked for it first, and the very
//! same bytes are sent again. A new one is signed only when the old one is undone or can never be carried out any more.

use std::sync::Arc;

use nicompute_chain::timelock::{self, Sealed};
use nicompute_chain::{
    Call, Chain, Depth, Fate, Prepared, ReadError, SubmitError, View, WeightsWay,
};
use nicompute_daemon::ErrorChain;
use nicompute_market::{BlockNumber, Uid};

use crate::chain_view::ChainView;
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
    let stored = ctx.store.begin_submission(new).await?;
    send(ctx, chain, &stored, (&prepared, Sending::First)).await
}

/// Takes weights that are on their way one step on.
pub(crate) async fn follow(ctx: &Arc<Context>, chain: &Chain, it: &Submission) -> Outcome {
    if it.said.genesis != chain.genesis_hash() {
        return fail(ctx, it, ctx.head(), "they were signed for another chain").await;
    }
    if it.step == Step::Committed {
        return reveal(ctx, chain, it).await;
    }
    let Ok(prepared) = Prepared::decode(&it.said.extrinsic.bytes) else {
        return abandon(ctx, chain, it, "the stored extrinsic cannot be read").await;
    };
    match chain.fate(&prepared).await {
        Ok(Fate::Finalized(included)) => said(ctx, chain, it, included.block.number).await,
        Ok(Fate::Included(_) | Fate::Pending) => {
            send(ctx, chain, it, (&prepared, Sending::Again)).await
        }
        Ok(Fate::Undone { at, error }) => fail(ctx, it, at.number, &error.to_string()).await,
        Ok(Fate::Expired) => expired(ctx, it).await,
        Err(ReadError::Pruned { .. }) => by_the_metagraph(ctx, chain, it).await,
        Err(error) => Err(error.into()),
    }
}

/// Looks whether the chain has opened what was sealed. Nothing depends on it: the next weights may be said meanwhile.
pub(crate) async fn note_opened(
    ctx: &Arc<Context>,
    chain: &Chain,
    view: &ChainView,
) -> Result<(), LoopError> {
    let head = ctx.head();
    let sealed = ctx.store.sealed_submissions().await?;
    let due = |it: &&Submission| it.said.opens.is_some_and(|opens| opens.block <= head);
    if !sealed.iter().any(|it| due(&it)) {
        return Ok(());
    }
    let me = ctx.config.hotkey.hotkey();
    let held = chain.timelocked_commits_of(ctx.config.netuid, &me).await?;
    let on_chain = match view.own {
        Some(own) => chain.weights_of(ctx.config.netuid, own.uid).await?,
        None => Vec::new(),
    };
    for it in sealed.iter().filter(due) {
        let waits = it
            .said
            .opens
            .is_some_and(|opens| held.iter().any(|commit| commit.reveal_round == opens.round));
        if it.said.genesis == chain.genesis_hash() && waits {
            continue;
        }
        let note = if on_chain == it.said.weights { "opened" } else { "no longer held" };
        ctx.store.end_submission(it.id, Step::Done, (head, note)).await?;
        tracing::info!(block = head.get(), note, "sealed weights are decided");
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
    let netuid = ctx.config.netuid;
    let call = if chain.has_call(SUBTENSOR, "set_mechanism_weights").await? {
        Call::set_mechanism_weights(netuid, FIRST_MECHANISM, &weights, version_key)
    } else {
        Call::set_weights(netuid, &weights, version_key)
    };
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
    let said = Sealed { hotkey: &me, weights: &weights, version_key };
    let commit = timelock::seal(&beacon.public_key, opens.round, said)?;
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
                Fate::Undone { at, error } => fail(ctx, it, at.number, &error.to_string()).await,
                Fate::Finalized(_) | Fate::Included(_) | Fate::Pending | Fate::Expired => {
                    Ok(format!("the chain undid them: {error}"))
                }
            }
        }
        Err(SubmitError::Expired { .. }) => expired(ctx, it).await,
        // Never sent before and not taken now: nobody has them.
        Err(SubmitError::Pool(rejection)) if sending == Sending::First => {
            fail(ctx, it, ctx.head(), &rejection.to_string()).await
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
        ctx.store.end_submission(it.id, Step::Done, (block, "revealed")).await?;
        tracing::info!(block = block.get(), count, "weights are revealed");
        return Ok(format!("{count} weights revealed in block {block}"));
    }
    let epoch = match it.said.way {
        Way::Hash => Some(epoch_of(ctx, chain, block).await?),
        Way::Plain | Way::Timelocked => None,
    };
    ctx.store.submission_said(it, block, (epoch, ctx.now())).await?;
    let way = it.said.way.as_str();
    tracing::info!(block = block.get(), count, way, "weights are set");
    Ok(match it.said.way {
        Way::Plain => format!("{count} weights set in block {block}"),
        Way::Hash => format!("a commit to {count} weights is in block {block}"),
        Way::Timelocked => format!("{count} sealed weights are in block {block}"),
    })
}

/// The epoch that a commit in a block belongs to. A node that has forgotten the block knows the present one at least.
async fn epoch_of(ctx: &Context, chain: &Chain, block: BlockNumber) -> Result<u64, LoopError> {
    let then = match chain.at_block(block).await {
        Ok(view) => view.epoch_index(ctx.config.netuid).await,
        Err(error) => Err(error),
    };
    match then {
        Err(ReadError::Pruned { .. }) => {
            Ok(chain.now().await?.epoch_index(ctx.config.netuid).await?)
        }
        then => Ok(then?),
    }
}

/// Reveals what a hash committed to, in the epoch in which the chain takes it.
async fn reveal(ctx: &Arc<Context>, chain: &Chain, it: &Submission) -> Outcome {
    let netuid = ctx.config.netuid;
    let view = chain.now().await?;
    let period = view.hyperparameters(netuid).await?.reveal_period_epochs;
    let index = view.epoch_index(netuid).await?;
    let head = view.head().number;
    // The reveal gets into the next block at the earliest, and that block may begin an epoch.
    let begins = view.next_epoch_start(netuid).await? <= BlockNumber(head.get().saturating_add(1));
    let epoch = index.saturating_add(u64::from(begins));
    let due = it.epoch.unwrap_or(index).saturating_add(period);
    if epoch < due {
        return Ok(format!("a commit waits for epoch {due}, it is epoch {epoch}"));
    }
    if epoch > due {
        return fail(ctx, it, head, "the epoch of its reveal is over").await;
    }
    let NewSubmission { weights, salt, version_key, .. } = &it.said;
    let call = Call::reveal_weights(netuid, weights, salt, *version_key);
    let prepared = chain.prepare(&call.within_blocks(ERA_BLOCKS), &ctx.config.hotkey).await?;
    let extrinsic = signed(&prepared);
    ctx.store.begin_reveal(it.id, &extrinsic).await?;
    let revealing = Submission { step: Step::Revealing, ..it.clone() };
    send(ctx, chain, &revealing, (&prepared, Sending::First)).await
}

/// A node that has forgotten the blocks in question still shows when this validator last said anything.
async fn by_the_metagraph(ctx: &Arc<Context>, chain: &Chain, it: &Submission) -> Outcome {
    let Signed { birth, last, .. } = it.said.extrinsic;
    let own = ctx.view().and_then(|view| view.own);
    match own.map(|own| own.last_update) {
        Some(block) if it.step == Step::Sending && block > birth && block <= last => {
            said(ctx, chain, it, block).await
        }
        _ => abandon(ctx, chain, it, "the node has forgotten the blocks that would tell").await,
    }
}

/// Gives up what cannot be followed, once it can no longer get onto the chain.
async fn abandon(ctx: &Arc<Context>, chain: &Chain, it: &Submission, why: &str) -> Outcome {
    let finalized = chain.finalized().await?.number;
    if finalized <= it.said.extrinsic.last {
        return Ok(format!("{why}; waiting for block {}", it.said.extrinsic.last));
    }
    fail(ctx, it, finalized, why).await
}

async fn expired(ctx: &Arc<Context>, it: &Submission) -> Outcome {
    if it.step == Step::Revealing {
        ctx.store.reveal_expired(it.id).await?;
        return Ok("the reveal got into no block; another one is signed".to_owned());
    }
    fail(ctx, it, ctx.head(), "they got into no block in time").await
}

async fn fail(ctx: &Arc<Context>, it: &Submission, block: BlockNumber, why: &str) -> Outcome {
    ctx.store.end_submission(it.id, Step::Failed, (block, why)).await?;
    tracing::warn!(block = block.get(), step = it.step.as_str(), why, "weights were not set");
    Ok(format!("the weights were not set: {why}"))
}

#[cfg(test)]
mod tests;
