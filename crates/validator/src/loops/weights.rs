//! Stored evidence becomes weights on chain.

use nicompute_chain::{ReadError, SubmitError};
use nicompute_daemon::ErrorChain;
use nicompute_market::{BlockNumber, Track, Uid, WeightPolicy, WeightsError, score, weights};

use crate::state::Shared;
use crate::store::{StoreError, WeightsSet};

/// Why the weights were not set this time.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("the chain was not read")]
    Read(#[from] ReadError),
    #[error("no weights follow from the evidence")]
    Weights(#[source] WeightsError),
    #[error("the weights were not set")]
    Submit(#[from] SubmitError),
    #[error("the weights were not noted")]
    Store(#[from] StoreError),
}

/// Computes the weights that follow from the evidence, and sets them when they changed or are due again.
pub(crate) async fn round(shared: &Shared) {
    match set(shared).await {
        Ok(()) => {}
        Err(RoundError::Weights(WeightsError::Nothing)) => {
            tracing::debug!("nobody has a score yet");
        }
        Err(error) => tracing::warn!(error = %ErrorChain(&error), "weights"),
    }
}

async fn set(shared: &Shared) -> Result<(), RoundError> {
    let scores = scores(shared);
    if scores.is_empty() && shared.burn_share_ppm == 0 {
        return Ok(());
    }
    let burn_uid = burn_uid(shared).await?;
    let policy = WeightPolicy { burn_share_ppm: shared.burn_share_ppm, burn_uid };
    let wanted = weights(&scores, policy).map_err(RoundError::Weights)?;
    let last = shared.view(|view| view.weights.clone());
    let head = shared.view(|view| view.block);
    let repeat_at = last.as_ref().map(|last| {
        BlockNumber(last.block.get().saturating_add(shared.pace.weights_repeat_blocks))
    });
    let is_same = last.as_ref().is_some_and(|last| last.weights == wanted);
    if is_same && repeat_at.is_some_and(|at| head < at) {
        return Ok(());
    }
    let rules = shared.chain.hyperparameters(shared.netuid).await?;
    let earliest = last.map(|last| last.block.get().saturating_add(rules.weights_rate_limit));
    if earliest.is_some_and(|earliest| head.get() < earliest) {
        return Ok(());
    }
    let key = rules.weights_version_key;
    let included = shared.chain.set_weights(shared.netuid, &wanted, key, &shared.key).await?;
    tracing::info!(block = %included.block.number, weights = ?wanted, "weights are set");
    let set = WeightsSet { block: included.block.number, weights: wanted };
    shared.store.add_weights(&set, shared.now()).await?;
    shared.view(|view| view.weights = Some(set));
    Ok(())
}

/// The score of every provider on the subnet.
fn scores(shared: &Shared) -> Vec<(Uid, u64)> {
    let now = shared.now();
    shared.view(|view| {
        let providers = view.providers.iter().map(|(hotkey, known)| {
            let evidence = Shared::evidence_of(view, hotkey);
            let track = Track { evidence: &evidence, is_rented: known.is_rented() };
            (known.uid, score(track, &shared.catalogue, shared.score, now).micro)
        });
        providers.filter(|(_, micro)| *micro > 0).collect()
    })
}

async fn burn_uid(shared: &Shared) -> Result<Option<Uid>, ReadError> {
    if shared.burn_share_ppm == 0 {
        return Ok(None);
    }
    let Some(owner) = shared.chain.owner_hotkey(shared.netuid).await? else { return Ok(None) };
    shared.chain.uid_of(shared.netuid, &owner).await
}
