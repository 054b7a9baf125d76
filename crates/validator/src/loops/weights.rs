//! Scores become weights on the chain: when they changed and the rate limit allows it, and often enough to stay active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nicompute_chain::Chain;
use nicompute_market::{
    BlockNumber, Hotkey, Score, Track, Uid, WeightLimits, WeightPolicy, WeightsError, score,
    weights,
};

use crate::chain_view::ChainView;
use crate::context::Context;
use crate::loops::{LoopError, Outcome, submission};
use crate::store::{Step, StoredEvidence, Submission};

/// Blocks after failed weights before new ones are signed: what made them fail may pass by itself. Twice as many after each
/// further failure, at most a tempo.
const FAILED_WAIT_BLOCKS: u64 = 5;

/// What is known of one provider.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) latest: Option<StoredEvidence>,
    pub(crate) score: Score,
}

/// What to do about the weights now.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Set(Vec<(Uid, u16)>),
    Wait(&'static str),
}

/// One look.
pub(crate) async fn run(ctx: &Arc<Context>) -> Outcome {
    let Some(view) = ctx.view() else { return Ok("waiting for the chain".to_owned()) };
    if let Some(chain) = &ctx.chain {
        let head = ctx.head().get();
        let is_news = ctx.commits_seen_at.load(Ordering::Relaxed) != head;
        if is_news {
            submission::note_opened(ctx, chain, view.own).await?;
        }
        if let Some(open) = ctx.store.open_submission().await? {
            return submission::follow(ctx, chain, &open).await;
        }
        if is_news {
            if let Some(text) = submission::reveal_due(ctx, chain).await? {
                return Ok(text);
            }
            ctx.commits_seen_at.store(head, Ordering::Relaxed);
        }
    }
    let standings = standings(ctx).await?;
    let scored = |hotkey| standings.get(hotkey).map_or(0, |standing| standing.score.micro);
    let scores: Vec<(Uid, u64)> =
        view.peers.iter().map(|peer| (peer.uid, scored(&peer.hotkey))).collect();
    let genesis = ctx.chain.as_ref().map(Chain::genesis_hash);
    let last = ctx.store.last_said().await?.filter(|it| Some(it.said.genesis) == genesis);
    let failed = ctx.store.last_submission().await?.filter(|it| it.step == Step::Failed);
    let past = Past {
        said: last.as_ref().and_then(Said::of),
        failed_block: failed.and_then(|it| it.ended_block),
        failures: ctx.store.failures_in_a_row().await?,
    };
    let share = ctx.config.policies.burn_share_ppm;
    match decide(&view, ctx.head(), &scores, share, past)? {
        Decision::Wait(why) => Ok(why.to_owned()),
        Decision::Set(weights) => match &ctx.chain {
            None => Ok("no chain to set weights on".to_owned()),
            Some(chain) => {
                let version_key = view.rules.weights_version_key;
                submission::begin(ctx, chain, version_key, weights).await
            }
        },
    }
}

/// Every provider's newest evidence and the score that follows.
pub(crate) async fn standings(ctx: &Context) -> Result<BTreeMap<Hotkey, Standing>, LoopError> {
    let latest = ctx.store.latest_evidence().await?;
    let open = ctx.store.open_rentals().await?;
    let rented: BTreeSet<Hotkey> =
        open.iter().filter(|rental| rental.holds_machine()).map(|rental| rental.provider).collect();
    let (policy, now) = (ctx.config.policies.score, ctx.now());
    let standing = |stored: StoredEvidence| {
        let is_rented = rented.contains(&stored.provider);
        let track = Track { evidence: std::slice::from_ref(&stored.evidence), is_rented };
        let score = score(track, &ctx.config.catalogue, policy, now);
        (stored.provider, Standing { latest: Some(stored), score })
    };
    Ok(latest.into_iter().map(standing).collect())
}

/// What this validator said before.
#[derive(Debug, Clone, Copy, Default)]
struct Past<'a> {
    /// What the chain took last, in the clear or as a commit.
    said: Option<Said<'a>>,
    /// The block in which the newest weights failed, if they did.
    failed_block: Option<BlockNumber>,
    /// How many failed one after the other.
    failures: u64,
}

/// Weights that the chain took.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    block: BlockNumber,
    /// The epoch of a commit.
    epoch: Option<u64>,
    weights: &'a [(Uid, u16)],
}

impl<'a> Said<'a> {
    fn of(it: &'a Submission) -> Option<Self> {
        let block = it.said_block?;
        Some(Self { block, epoch: it.epoch, weights: &it.said.weights })
    }
}

fn decide(
    view: &ChainView,
    head: BlockNumber,
    scores: &[(Uid, u64)],
    burn_share_ppm: u32,
    past: Past<'_>,
) -> Result<Decision, WeightsError> {
    let Some(own) = view.own else { return Ok(Decision::Wait("this validator is not registered")) };
    if !own.has_permit {
        return Ok(Decision::Wait("waiting for a validator permit"));
    }
    let passed = |since: BlockNumber| head.get().saturating_sub(since.get());
    // A chain that began anew has a lower head.
    let failed = past.failed_block.filter(|block| *block <= head);
    let tempo = u64::from(view.rules.tempo).max(1);
    let doublings = u32::try_from(past.failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let wait = FAILED_WAIT_BLOCKS.saturating_mul(2_u64.saturating_pow(doublings));
    if failed.is_some_and(|block| passed(block) < wait.min(tempo.max(FAILED_WAIT_BLOCKS))) {
        return Ok(Decision::Wait("the last weights failed a moment ago"));
    }
    let policy = WeightPolicy { burn_share_ppm, burn_uid: view.burn_uid };
    let limits = WeightLimits {
        count_min: view.rules.min_allowed_weights,
        neurons: u16::try_from(view.peers.len().saturating_add(1)).unwrap_or(u16::MAX),
        share_max: view.rules.max_weight_limit,
        own: Some(own.uid),
    };
    let weights = match weights(scores, policy, limits) {
        Ok(weights) => weights,
        Err(WeightsError::Nothing) => {
            return Ok(Decision::Wait("no provider has a score above zero"));
        }
        Err(error) => return Err(error),
    };
    // What was said counts only while the chain knows of it: one that began anew does not, nor a slot taken anew. A view from
    // before it says nothing about it.
    let is_known = |last: &Said<'_>| {
        let is_gone = view.finalized.number >= last.block && own.last_update < last.block;
        last.block <= head && own.registered_at < last.block && !is_gone
    };
    let stands = past.said.filter(is_known);
    let since = stands.map_or(own.last_update, |last| last.block.max(own.last_update));
    if passed(since) < view.rules.weights_rate_limit {
        return Ok(Decision::Wait("the subnet's rate limit"));
    }
    // Of the commits of one epoch only the last one counts, and the chain holds few.
    let commits = view.rules.commit_reveal;
    let is_current = |last: &Said<'_>| match (last.epoch, view.epoch) {
        (Some(then), Some(now)) if commits => now <= then,
        (_, _) => passed(last.block) < tempo,
    };
    match stands.filter(is_current) {
        Some(_) if commits => Ok(Decision::Wait("the weights of this epoch are committed")),
        Some(last) if last.weights == weights => {
            Ok(Decision::Wait("the weights on the chain are right"))
        }
        Some(_) | None => Ok(Decision::Set(weights)),
    }
}

#[cfg(test)]
mod tests {
    use nicompute_chain::{Head, Hyperparameters};

    use super::*;
    use crate::chain_view::Own;

    fn view(last_update: u64) -> ChainView {
        ChainView {
            block: BlockNumber(0),
            finalized: Head { number: BlockNumber(0), hash: [0; 32] },
            peers: Vec::new(),
            own: Some(Own {
                uid: Uid(0),
                has_permit: true,
                last_update: BlockNumber(last_update),
                registered_at: BlockNumber(0),
            }),
            burn_uid: Some(Uid(9)),
            rules: Hyperparameters {
                tempo: 10,
                weights_rate_limit: 5,
                commit_reveal: false,
                immunity_period: 100,
                serving_rate_limit: 0,
                ..Hyperparameters::NEW_SUBNET
            },
            epoch: None,
        }
    }

    fn set_at(block: u64, weights: &[(Uid, u16)]) -> Said<'_> {
        Said { block: BlockNumber(block), epoch: None, weights }
    }

    /// Weights that are set too often are refused by the chain; too seldom, the validator counts as gone.
    #[test]
    fn weights_are_set_when_they_changed_or_each_tempo() {
        let scores = [(Uid(1), 10_000)];
        let right = vec![(Uid(1), u16::MAX)];
        let set = Decision::Set(right.clone());
        let at = |last_update: u64, head: u64, said: Option<Said<'_>>| {
            let past = Past { said, ..Past::default() };
            let finalized = Head { number: BlockNumber(head), hash: [0; 32] };
            let view = ChainView { finalized, ..view(last_update) };
            decide(&view, BlockNumber(head), &scores, 0, past).unwrap()
        };
        assert_eq!(at(0, 4, None), Decision::Wait("the subnet's rate limit"));
        assert_eq!(at(0, 5, None), set);
        let same = set_at(100, &right);
        assert_eq!(at(100, 104, Some(same)), Decision::Wait("the subnet's rate limit"));
        assert_eq!(at(100, 109, Some(same)), Decision::Wait("the weights on the chain are right"));
        assert_eq!(at(100, 110, Some(same)), set);
        let other = set_at(100, &[(Uid(2), u16::MAX)]);
        assert_eq!(at(100, 105, Some(other)), set);
        assert_eq!(at(0, 20, Some(same)), set, "a chain that began anew");
        assert_eq!(at(3, 120, Some(same)), set, "the chain does not know of them");
        // The view was read before those weights were: it must not make them come twice.
        let past = Past { said: Some(same), ..Past::default() };
        let stale = decide(&view(60), BlockNumber(108), &scores, 0, past).unwrap();
        assert_eq!(stale, Decision::Wait("the weights on the chain are right"));
    }

    /// `LastUpdate` is written at a registration too: it must not be taken for weights that a slot from before had.
    #[test]
    fn weights_of_an_earlier_registration_do_not_count() {
        let scores = [(Uid(1), 10_000)];
        let right = [(Uid(1), u16::MAX)];
        let at = |registered_at| {
            let mut view = view(104);
            view.finalized.number = BlockNumber(110);
            let own = view.own.as_mut().unwrap();
            own.registered_at = BlockNumber(registered_at);
            let past = Past { said: Some(set_at(103, &right)), ..Past::default() };
            decide(&view, BlockNumber(110), &scores, 0, past).unwrap()
        };
        assert_eq!(at(102), Decision::Wait("the weights on the chain are right"));
        assert!(matches!(at(104), Decision::Set(_)));
    }

    /// Without permit or score there is nothing to say; what must burn and cannot is a mistake of the operator.
    #[test]
    fn nothing_is_set_without_right_or_reason() {
        let head = BlockNumber(50);
        let none = decide(&view(0), head, &[(Uid(1), 0)], 0, Past::default()).unwrap();
        assert_eq!(none, Decision::Wait("no provider has a score above zero"));
        let burned = decide(&view(0), head, &[(Uid(1), 0)], 1_000_000, Past::default()).unwrap();
        assert_eq!(burned, Decision::Set(vec![(Uid(9), u16::MAX)]));
        let ownerless = ChainView { burn_uid: None, ..view(0) };
        let error = decide(&ownerless, head, &[(Uid(1), 1)], 1, Past::default()).unwrap_err();
        assert_eq!(error, WeightsError::NoBurnUid);
        let stranger = ChainView { own: None, ..view(0) };
        assert!(matches!(decide(&stranger, head, &[], 0, Past::default()), Ok(Decision::Wait(_))));
    }

    /// Weights that fail would otherwise be signed again in every block; a chain that began anew knows of no failure.
    #[test]
    fn failed_weights_are_not_tried_at_once() {
        let scores = [(Uid(1), 10_000)];
        let at = |head, failures| {
            let past = Past { said: None, failed_block: Some(BlockNumber(100)), failures };
            let mut view = view(0);
            view.rules.tempo = 360;
            decide(&view, BlockNumber(head), &scores, 0, past).unwrap()
        };
        let wait = Decision::Wait("the last weights failed a moment ago");
        for (failures, blocks) in [(1, 5), (2, 10), (3, 20), (7, 320), (8, 360), (u64::MAX, 360)] {
            assert_eq!(at(99 + blocks, failures), wait, "{failures} failures");
            assert!(matches!(at(100 + blocks, failures), Decision::Set(_)), "{failures} failures");
        }
        assert!(matches!(at(20, 9), Decision::Set(_)));
    }

    /// A commit in every block would fill the ten that the chain holds, and the last ones would be refused; one that comes
    /// a tempo after the last one falls behind, until an epoch has none.
    #[test]
    fn one_commit_an_epoch() {
        let scores = [(Uid(1), 10_000)];
        let weights = [(Uid(2), u16::MAX)];
        let at = |head, commit_reveal, then, now| {
            let mut view = view(100);
            view.rules.commit_reveal = commit_reveal;
            view.epoch = now;
            let said = Said { epoch: then, ..set_at(100, &weights) };
            let past = Past { said: Some(said), ..Past::default() };
            decide(&view, BlockNumber(head), &scores, 0, past).unwrap()
        };
        let wait = Decision::Wait("the weights of this epoch are committed");
        assert!(matches!(at(105, false, None, None), Decision::Set(_)));
        assert_eq!(at(109, true, None, None), wait);
        assert!(matches!(at(110, true, None, None), Decision::Set(_)));
        assert!(matches!(at(106, true, Some(7), Some(8)), Decision::Set(_)), "an epoch is new");
        assert_eq!(at(119, true, Some(7), Some(7)), wait, "an epoch is late");
        assert_eq!(at(119, true, Some(7), Some(6)), wait, "a view from before");
    }

    /// Weights that the subnet would refuse are a decision with a reason, not a failed extrinsic.
    #[test]
    fn the_subnets_limits_are_kept() {
        let scores = [(Uid(1), 10_000), (Uid(2), 1)];
        let mut narrow = view(0);
        narrow.rules.max_weight_limit = 30_000;
        let refused = decide(&narrow, BlockNumber(50), &scores, 0, Past::default());
        assert!(matches!(refused, Err(WeightsError::TooConcentrated { have: 2, .. })));
    }
}
