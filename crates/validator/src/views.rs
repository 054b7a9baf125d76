//! The validator's nouns in the words of the market API.

use nicompute_market::{Capability, Hotkey, Score, Track, Verdict, score};
use nicompute_wire::market_api::{
    MarketOfferView, MarketStatusView, ProofView, ProviderView, RentalView, SessionView, WeightView,
};
use nicompute_wire::node::OfferView;

use crate::state::{Provider, Shared, View};
use crate::store::{Rental, StoredEvidence};

/// Every offer that is known, cheapest first.
pub(crate) fn offers(shared: &Shared) -> Vec<MarketOfferView> {
    let mut offers = shared.view(|view| {
        let mut offers = Vec::new();
        for (hotkey, provider) in &view.providers {
            let proof = proof(shared, view, hotkey, provider);
            for offer in provider.offers.iter().flatten() {
                offers.push(offer_view(*hotkey, provider, offer.into(), proof.clone()));
            }
        }
        offers
    });
    offers.sort_by(|a, b| {
        (a.price_micro_usd_per_hour, a.uid).cmp(&(b.price_micro_usd_per_hour, b.uid))
    });
    offers
}

fn offer_view(
    hotkey: Hotkey,
    provider: &Provider,
    offer: OfferView,
    proof: Option<ProofView>,
) -> MarketOfferView {
    MarketOfferView {
        provider: hotkey,
        uid: provider.uid.get(),
        offer: offer.id,
        machine: offer.machine,
        price_micro_usd_per_hour: offer.price_micro_usd_per_hour,
        images: offer.images,
        runtime: offer.runtime,
        limits: offer.limits,
        available: offer.available,
        proof,
    }
}

/// The subnet as the validator sees it.
pub(crate) fn status(shared: &Shared) -> MarketStatusView {
    shared.view(|view| {
        let providers = view.providers.iter().map(|(hotkey, provider)| ProviderView {
            hotkey: *hotkey,
            uid: provider.uid.get(),
            endpoint: Some(provider.address.to_string()),
            reachable: provider.offers.is_some(),
            session: provider.session.map(|session| SessionView {
                lease: session.lease,
                phase: session.phase.to_owned(),
                started_at_unix_ms: session.started.get(),
            }),
            proof: proof(shared, view, hotkey, provider),
        });
        let weights = view.weights.as_ref();
        let weight = |(uid, weight): &(nicompute_market::Uid, u16)| WeightView {
            uid: uid.get(),
            weight: *weight,
        };
        MarketStatusView {
            hotkey: shared.key.hotkey(),
            uid: view.own_uid.map(nicompute_market::Uid::get),
            netuid: shared.netuid.get(),
            block: view.block.get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            providers: providers.collect(),
            weights: weights.map_or_else(Vec::new, |set| set.weights.iter().map(weight).collect()),
            weights_block: weights.map(|set| set.block.get()),
        }
    })
}

fn proof(shared: &Shared, view: &View, hotkey: &Hotkey, provider: &Provider) -> Option<ProofView> {
    let stored = view.evidence.get(hotkey)?;
    let evidence = Shared::evidence_of(view, hotkey);
    let track = Track { evidence: &evidence, is_rented: provider.is_rented() };
    let scored = score(track, &shared.catalogue, shared.score, shared.now());
    Some(proof_view(stored, scored))
}

fn proof_view(stored: &StoredEvidence, scored: Score) -> ProofView {
    let (verdict, shown) = match &stored.evidence.verdict {
        Verdict::Passed(shown) => ("passed", Some(shown)),
        Verdict::Refused => ("refused", None),
        Verdict::Unreachable => ("unreachable", None),
    };
    // A session that showed nothing showed zero of everything.
    let of = |number: fn(&Capability) -> u64| shown.map_or(0, number);
    ProofView {
        verdict: verdict.to_owned(),
        class: scored.class,
        score_micro: scored.micro,
        reason: scored.reason.as_str().to_owned(),
        at_unix_ms: stored.evidence.at.get(),
        devices: shown.map_or(0, |shown| shown.devices),
        bytes_per_device: of(|shown| shown.bytes_per_device),
        ops_per_second: of(|shown| shown.ops_per_second),
        walk_bytes_per_second: of(|shown| shown.walk_bytes_per_second),
        transcript: stored.digest.map(hex::encode).unwrap_or_default(),
        lease: stored.lease,
    }
}

/// A rental as its renter sees it.
pub(crate) fn rental(rental: &Rental) -> RentalView {
    RentalView {
        id: rental.request.id,
        provider: rental.request.provider,
        offer: rental.request.offer.clone(),
        state: rental.state.clone(),
        reason: rental.reason.clone(),
        requested_at_unix_ms: rental.requested.get(),
        expires_at_unix_ms: rental.expires.get(),
        price_micro_usd_per_hour: rental.price,
        ssh: rental.ssh.clone(),
    }
}
