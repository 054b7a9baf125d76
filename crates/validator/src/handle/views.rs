//! What is stored and known, in the shapes of the market API.

use nicompute_market::{BlockNumber, Verdict};
use nicompute_wire::market_api::{
    LegView, MarketOfferView, MarketOffersView, MarketStatusView, PendingWeightsView, ProofView,
    ProviderView, RentalView, SessionView, WeightView,
};
use nicompute_wire::node::OfferView;

use crate::board::Running;
use crate::chain_view::Peer;
use crate::context::Context;
use crate::denied::Denied;
use crate::legs::LegFigure;
use crate::loops::weights::{Standing, standings};
use crate::store::{Rental, Step, Submission, verdict_name};

pub(super) async fn offers(ctx: &Context) -> Result<MarketOffersView, Denied> {
    let standings = standings(ctx).await?;
    let legs = ctx.store.latest_legs().await?;
    let Some(view) = ctx.view() else { return Ok(MarketOffersView { offers: Vec::new() }) };
    let mut offers = Vec::new();
    let board = ctx.board.lock();
    for peer in &view.peers {
        let Some(shown) = board.shown.get(&peer.hotkey).filter(|shown| shown.is_reachable) else {
            continue;
        };
        let proof = standings
            .get(&peer.hotkey)
            .and_then(|standing| proof(standing, legs.get(&peer.hotkey)));
        let is_open =
            |offer: &&nicompute_market::Offer| ctx.config.devnet || offer.runtime.limits_enforced();
        for offer in shown.offers.iter().filter(is_open) {
            offers.push(market_offer(peer, OfferView::from(offer), proof.clone()));
        }
    }
    drop(board);
    offers.sort_by(|a, b| {
        let key = |offer: &MarketOfferView| (offer.price_micro_usd_per_hour, offer.uid);
        key(a).cmp(&key(b)).then_with(|| a.offer.cmp(&b.offer))
    });
    Ok(MarketOffersView { offers })
}

pub(super) async fn status(ctx: &Context) -> Result<MarketStatusView, Denied> {
    let standings = standings(ctx).await?;
    let legs = ctx.store.latest_legs().await?;
    let last = ctx.store.last_weight_set().await?;
    let view = ctx.view();
    let providers = view.as_ref().map_or_else(Vec::new, |view| {
        let board = ctx.board.lock();
        let provider = |peer: &Peer| ProviderView {
            hotkey: peer.hotkey,
            uid: peer.uid.0,
            endpoint: peer.address.map(|address| address.to_string()),
            reachable: board.shown.get(&peer.hotkey).is_some_and(|shown| shown.is_reachable),
            session: board.sessions.get(&peer.hotkey).filter(|s| s.is_accepted).map(session),
            proof: standings
                .get(&peer.hotkey)
                .and_then(|standing| proof(standing, legs.get(&peer.hotkey))),
        };
        let is_provider =
            |peer: &&Peer| peer.address.is_some() || standings.contains_key(&peer.hotkey);
        view.peers.iter().filter(is_provider).map(provider).collect()
    });
    let weights = last.as_ref().map_or_else(Vec::new, |set| {
        set.weights.iter().map(|(uid, weight)| WeightView { uid: uid.0, weight: *weight }).collect()
    });
    Ok(MarketStatusView {
        hotkey: ctx.config.hotkey.hotkey(),
        uid: view.as_ref().and_then(|view| view.own).map(|own| own.uid.0),
        netuid: ctx.config.netuid.0,
        block: ctx.head().get(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        providers,
        weights,
        weights_block: last.map(|set| set.block.get()),
        weights_pending: ctx.store.last_submission().await?.and_then(pending),
    })
}

/// Weights whose last word is not spoken; those of the past only if they failed.
fn pending(it: Submission) -> Option<PendingWeightsView> {
    let is_said = match it.step {
        Step::Done => true,
        Step::Sending | Step::Committed | Step::Revealing | Step::Failed => false,
    };
    let opens = it.said.opens;
    (!is_said).then(|| PendingWeightsView {
        way: it.said.way.as_str().to_owned(),
        step: it.step.as_str().to_owned(),
        decided_at_unix_ms: it.said.decided_at.get(),
        block: it.said_block.map(BlockNumber::get),
        reveal_block: opens.map(|opens| opens.block.get()),
        reveal_round: opens.map(|opens| opens.round),
        note: it.note,
    })
}

pub(super) fn rental(rental: &Rental) -> RentalView {
    let is_known = rental.is_known || rental.state.is_final();
    RentalView {
        id: rental.lease,
        provider: rental.provider,
        offer: rental.offer.clone(),
        state: if is_known { rental.state.name() } else { "unknown" }.to_owned(),
        reason: rental.state.reason().filter(|_| is_known).map(str::to_owned),
        requested_at_unix_ms: rental.requested_at.get(),
        expires_at_unix_ms: rental.expires_at.get(),
        price_micro_usd_per_hour: rental.price_per_hour.get(),
        detail: rental.detail.clone(),
        ssh: rental.ssh.clone(),
        ports: rental.ports.clone(),
    }
}

fn session(running: &Running) -> SessionView {
    SessionView {
        lease: running.lease,
        phase: running.phase.as_str().to_owned(),
        started_at_unix_ms: running.started_at.get(),
    }
}

fn market_offer(peer: &Peer, offer: OfferView, proof: Option<ProofView>) -> MarketOfferView {
    MarketOfferView {
        provider: peer.hotkey,
        uid: peer.uid.0,
        offer: offer.id,
        machine: offer.machine,
        price_micro_usd_per_hour: offer.price_micro_usd_per_hour,
        images: offer.images,
        runtime: offer.runtime,
        limits: offer.limits,
        available: offer.available,
        conditions: offer.conditions,
        proof,
    }
}

fn proof(standing: &Standing, legs: Option<&Vec<LegFigure>>) -> Option<ProofView> {
    let stored = standing.latest.as_ref()?;
    let shown = match &stored.evidence.verdict {
        Verdict::Passed(shown) => Some(shown),
        Verdict::Refused | Verdict::Unreachable => None,
    };
    Some(ProofView {
        verdict: verdict_name(&stored.evidence.verdict).to_owned(),
        class: standing.score.class.clone(),
        score_micro: standing.score.micro,
        points_micro: standing.score.points_micro,
        reason: standing.score.reason.as_str().to_owned(),
        detail: stored.detail.clone(),
        at_unix_ms: stored.evidence.at.get(),
        devices: shown.map_or(0, |shown| shown.devices),
        bytes_per_device: shown.map_or(0, |shown| shown.bytes_per_device),
        ops_per_second: shown.map_or(0, |shown| shown.ops_per_second),
        walk_bytes_per_second: shown.map_or(0, |shown| shown.walk_bytes_per_second),
        legs: legs.into_iter().flatten().map(leg).collect(),
        transcript: stored.transcript.map(hex::encode).unwrap_or_default(),
        lease: stored.lease,
    })
}

fn leg(figure: &LegFigure) -> LegView {
    LegView {
        leg: figure.leg.to_owned(),
        bytes: figure.bytes,
        bytes_per_second: figure.bytes_per_second,
        reason: figure.reason.clone(),
        transcript: figure.transcript.map(hex::encode).unwrap_or_default(),
    }
}
