//! Scores become weights on the chain: when they changed and the rate limit allows it, and often enough to stay active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nicompute_market::{
    BlockNumber, Hotkey, Score, Track, Uid, WeightLimits, WeightPolicy, WeightsError, score,
    weights,
};

use crate::chain_view::ChainView;
use crate::context::Context;
use crate::loops::{LoopError, Outcome, submission};
use crate::store::{Step, StoredEvidence, WeightSet};

/// Blocks after failed weights before new ones are signed: what made them fail may pass by itself.
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
        submission::note_opened(ctx, chain, &view).await?;
        if let Some(open) = ctx.store.open_submission().await? {
            return submission::follow(ctx, chain, &open).await;
        }
    }
    let standings = standings(ctx).await?;
    let scored = |hotkey| standings.get(hotkey).map_or(0, |standing| standing.score.micro);
    let scores: Vec<(Uid, u64)> =
        view.peers.iter().map(|peer| (peer.uid, scored(&peer.hotkey))).collect();
    let last = ctx.store.last_weight_set().await?;
    let failed = ctx.store.last_submission().await?.filter(|it| it.step == Step::Failed);
    let past = Past { set: last.as_ref(), failed_block: failed.and_then(|it| it.ended_block) };
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
    set: Option<&'a WeightSet>,
    /// The block in which the newest weights failed, if they did.
    failed_block: Option<BlockNumber>,
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
    if failed.is_some_and(|block| passed(block) < FAILED_WAIT_BLOCKS) {
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
    // What was set counts only while the chain knows of it: a chain that began anew does not. A view from before it says
    // nothing about it.
    let is_unknown =
        |last: &WeightSet| view.finalized.number >= last.block && own.last_update < last.block;
    let stands = past.set.filter(|last| last.block <= head && !is_unknown(last));
    let since = stands.map_or(own.last_update, |last| last.block.max(own.last_update));
    if passed(since) < view.rules.weights_rate_limit {
        return Ok(Decision::Wait("the subnet's rate limit"));
    }
    let tempo = u64::from(view.rules.tempo).max(1);
    match stands {
        Some(last) if last.weights == weights && passed(last.block) < tempo => {
            Ok(Decision::Wait("the weights on the chain are right"))
        }
        // Of the commits of one epoch only the last one counts, and the chain holds few.
        Some(last) if view.rules.commit_reveal && passed(last.block) < tempo => {
            Ok(Decision::Wait("the weights of this epoch are committed"))
        }
        Some(_) | None => Ok(Decision::Set(weights)),
    }
}

#[cfg(test)]
mod tests {
    use nicompute_chain::{Head, Hyperparameters};
    use nicompute_market::UnixMillis;

    use super::*;
    use crate::chain_view::Own;

    fn view(last_update: u64) -> ChainView {
        ChainView {
            block: BlockNumber(0),
            finalized: Head { number: BlockNumber(0), hash: [0; 32] },
            peers: Vec::new(),
            own: Some(Own { uid: Uid(0), has_permit: true, last_update: BlockNumber(last_update) }),
            burn_uid: Some(Uid(9)),
            rules: Hyperparameters {
                tempo: 10,
                weights_rate_limit: 5,
                commit_reveal: false,
                immunity_period: 100,
                serving_rate_limit: 0,
                ..Hyperparameters::NEW_SUBNET
            },
        }
    }

    fn set_at(block: u64, weights: &[(Uid, u16)]) -> WeightSet {
        WeightSet { at: UnixMillis(0), block: BlockNumber(block), weights: weights.to_vec() }
    }

    /// Weights that are set too often are refused by the chain; too seldom, the validator counts as gone.
    #[test]
    fn weights_are_set_when_they_changed_or_each_tempo() {
        let scores = [(Uid(1), 10_000)];
        let right = vec![(Uid(1), u16::MAX)];
        let set = Decision::Set(right.clone());
        let at = |last_update: u64, head: u64, last: Option<&WeightSet>| {
            let past = Past { set: last, failed_block: None };
            let finalized = Head { number: BlockNumber(head), hash: [0; 32] };
            let view = ChainView { finalized, ..view(last_update) };
            decide(&view, BlockNumber(head), &scores, 0, past).unwrap()
        };
        assert_eq!(at(0, 4, None), Decision::Wait("the subnet's rate limit"));
        assert_eq!(at(0, 5, None), set);
        let same = set_at(100, &right);
        assert_eq!(at(100, 104, Some(&same)), Decision::Wait("the subnet's rate limit"));
        assert_eq!(at(100, 109, Some(&same)), Decision::Wait("the weights on the chain are right"));
        assert_eq!(at(100, 110, Some(&same)), set);
        let other = set_at(100, &[(Uid(2), u16::MAX)]);
        assert_eq!(at(100, 105, Some(&other)), set);
        assert_eq!(at(0, 20, Some(&same)), set, "a chain that began anew");
        assert_eq!(at(3, 120, Some(&same)), set, "the chain does not know of them");
        // The view was read before those weights were: it must not make them come twice.
        let past = Past { set: Some(&same), failed_block: None };
        let stale = decide(&view(60), BlockNumber(108), &scores, 0, past).unwrap();
        assert_eq!(stale, Decision::Wait("the weights on the chain are right"));
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
        let at = |head, block| {
            let past = Past { set: None, failed_block: Some(BlockNumber(block)) };
            decide(&view(0), BlockNumber(head), &scores, 0, past).unwrap()
        };
        assert_eq!(at(104, 100), Decision::Wait("the last weights failed a moment ago"));
        assert!(matches!(at(105, 100), Decision::Set(_)));
        assert!(matches!(at(20, 100), Decision::Set(_)));
    }

    /// A commit in every block would fill the ten that the chain holds, and the last ones would be refused.
    #[test]
    fn one_commit_an_epoch() {
        let scores = [(Uid(1), 10_000)];
        let other = set_at(100, &[(Uid(2), u16::MAX)]);
        let at = |head, commit_reveal| {
            let mut view = view(100);
            view.rules.commit_reveal = commit_reveal;
            let past = Past { set: Some(&other), failed_block: None };
            decide(&view, BlockNumber(head), &scores, 0, past).unwrap()
        };
        assert!(matches!(at(105, false), Decision::Set(_)));
        assert_eq!(at(109, true), Decision::Wait("the weights of this epoch are committed"));
        assert!(matches!(at(110, true), Decision::Set(_)));
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
