//! The pages as HTML.

use std::error::Error;

use maud::{DOCTYPE, Markup, html};
use nicompute_wire::market_api::{
    MarketOfferView, MarketOffersView, MarketStatusView, PendingWeightsView, ProofView,
    ProviderView,
};

/// Seconds until a browser asks again.
const REFRESH_SECONDS: u32 = 5;
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d7dbe0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.85em}.dim{color:#5c6670}
@media(prefers-color-scheme:dark){body{color:#e4e7eb;background:#15181c}th,td{border-color:#333a42}.dim{color:#98a2ad}}";

/// Providers, offers and weights.
pub(crate) fn market(status: &MarketStatusView, offers: &MarketOffersView) -> Markup {
    frame(&html! {
        h1 { "Market on subnet " (status.netuid) }
        p.dim {
            "Validator " code { (status.hotkey) } ", block " (status.block) ", version " (status.version)
        }
        h2 { "Providers" }
        table {
            thead { tr {
                th { "uid" } th { "hotkey" } th { "endpoint" } th { "proof" } th { "class" }
                th.n { "held MiB" } th.n { "Gop/s" } th.n { "walk MB/s" } th.n { "score ×10⁻⁶" } th.n { "weight" }
            } }
            tbody { @for provider in &status.providers { (provider_row(provider, status)) } }
        }
        @if let Some(pending) = &status.weights_pending { (pending_weights(pending)) }
        h2 { "Offers" }
        table {
            thead { tr {
                th { "provider" } th { "offer" } th { "machine as claimed" } th { "runtime" } th { "limits" }
                th.n { "µ$ an hour" } th { "free" }
            } }
            tbody { @for offer in &offers.offers { (offer_row(offer)) } }
        }
    })
}

/// Weights that the chain does not have yet, or did not take.
fn pending_weights(pending: &PendingWeightsView) -> Markup {
    html! {
        p.dim {
            "Weights: " (pending.step) " (" (pending.way) ")"
            @if let Some(block) = pending.block { ", in block " (block) }
            @if let Some(block) = pending.reveal_block { ", opened from block " (block) }
            @if let Some(round) = pending.reveal_round { " with round " (round) }
            @if !pending.note.is_empty() { ": " (pending.note) }
        }
    }
}

/// The API did not answer.
pub(crate) fn unavailable(error: &(dyn Error + 'static)) -> Markup {
    frame(&html! {
        h1 { "The market's API does not answer" }
        p { (error) }
        p.dim { "This page asks again every " (REFRESH_SECONDS) " seconds." }
    })
}

fn frame(body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(REFRESH_SECONDS);
                title { "nicompute" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

fn provider_row(provider: &ProviderView, status: &MarketStatusView) -> Markup {
    let weight = status.weights.iter().find(|weight| weight.uid == provider.uid);
    html! {
        tr {
            td { (provider.uid) }
            td { code { (provider.hotkey) } }
            td { (provider.endpoint.as_deref().unwrap_or("none announced")) }
            @match &provider.proof {
                Some(proof) => (proof_cells(proof)),
                None => {
                    td { (provider.session.as_ref().map_or("none yet", |session| &*session.phase)) }
                    td {} td.n {} td.n {} td.n {} td.n {}
                }
            }
            td.n { @if let Some(weight) = weight { (weight.weight) } }
        }
    }
}

fn proof_cells(proof: &ProofView) -> Markup {
    html! {
        td title=(proof.transcript) { (proof.verdict) ", " (proof.reason) }
        td { (proof.class.as_deref().unwrap_or("none")) }
        td.n { (proof.bytes_per_device >> 20) }
        td.n { (proof.ops_per_second / 1_000_000_000) }
        td.n { (proof.walk_bytes_per_second / 1_000_000) }
        td.n { (proof.score_micro) }
    }
}

fn offer_row(offer: &MarketOfferView) -> Markup {
    let machine = &offer.machine;
    html! {
        tr {
            td { "uid " (offer.uid) }
            td { (offer.offer) }
            td {
                (machine.cores) " × " (machine.cpu_model) ", " (machine.memory_bytes >> 30) " GiB"
                @for gpu in &machine.gpus { ", " (gpu.name) }
            }
            td { (offer.runtime) }
            td { (offer.limits) }
            td.n { (offer.price_micro_usd_per_hour) }
            td { @if offer.available { "yes" } @else { "no" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use nicompute_market::Hotkey;
    use nicompute_wire::node::MachineView;

    use super::*;

    /// A provider that names its processor `<script>` must not run code in a reader's browser.
    #[test]
    fn text_from_providers_is_escaped() {
        let hotkey = Hotkey::from_bytes([1; 32]);
        let machine = MachineView {
            cpu_model: "<script>alert(1)</script>".to_owned(),
            cores: 2,
            memory_bytes: 1 << 30,
            disk_bytes: 1,
            gpus: Vec::new(),
        };
        let offer = MarketOfferView {
            provider: hotkey,
            uid: 1,
            offer: "machine".parse().unwrap(),
            machine,
            price_micro_usd_per_hour: 5,
            images: Vec::new(),
            runtime: "sandbox".to_owned(),
            limits: "enforced".to_owned(),
            available: true,
            conditions: nicompute_wire::node::ConditionsView::default(),
            proof: None,
        };
        let status = MarketStatusView {
            hotkey,
            uid: Some(0),
            netuid: 27,
            block: 9,
            version: "0".to_owned(),
            providers: Vec::new(),
            weights: Vec::new(),
            weights_block: None,
            weights_pending: Some(PendingWeightsView {
                way: "timelocked".to_owned(),
                step: "committed".to_owned(),
                decided_at_unix_ms: 1,
                block: Some(7),
                reveal_block: Some(20),
                reveal_round: Some(33),
                note: "<i>".to_owned(),
            }),
        };
        let page = market(&status, &MarketOffersView { offers: vec![offer] }).into_string();
        let pending = "committed (timelocked), in block 7, opened from block 20 with round 33";
        assert!(page.contains(pending) && page.contains("&lt;i&gt;"), "{page}");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"), "{page}");
    }
}
