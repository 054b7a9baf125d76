//! Asks every provider of the subnet for its offers. What it learns is for showing and for choosing; a proof and a rental
//! ask again themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nicompute_daemon::ErrorChain;
use nicompute_market::Hotkey;

use crate::board::Shown;
use crate::chain_view::Peer;
use crate::context::Context;
use crate::loops::Outcome;

/// Providers that are asked at the same time.
const CONCURRENT_MAX: usize = 32;
/// What one provider has to answer.
const PROVIDER_BUDGET: Duration = Duration::from_secs(5);

/// One round.
pub(crate) async fn run(ctx: &Arc<Context>) -> Outcome {
    let Some(view) = ctx.view() else { return Ok("waiting for the chain".to_owned()) };
    let announced = |peer: &Peer| Some((peer.hotkey, peer.address?));
    let announced: Vec<_> = view.peers.iter().filter_map(announced).collect();
    let asked: Vec<bool> = futures_util::stream::iter(announced)
        .map(|(provider, address)| ask(ctx, provider, address))
        .buffer_unordered(CONCURRENT_MAX)
        .collect()
        .await;
    let here = |hotkey: &_| view.peer(hotkey).is_some_and(|peer| peer.address.is_some());
    let is_first_sight = {
        let mut board = ctx.board.lock();
        board.shown.retain(|hotkey, _| here(hotkey));
        board.tries.retain(|hotkey, _| here(hotkey));
        board.shown.keys().any(|hotkey| !board.tries.contains_key(hotkey))
    };
    if is_first_sight {
        ctx.nudges.prove.notify_one();
    }
    let reachable = asked.iter().filter(|reachable| **reachable).count();
    Ok(format!("{reachable} of {} providers answered", asked.len()))
}

/// Asks one provider; gives whether it answered.
async fn ask(ctx: &Context, provider: Hotkey, address: SocketAddr) -> bool {
    let answer = ctx.dialer.node(address, provider).offers(PROVIDER_BUDGET).await;
    let mut board = ctx.board.lock();
    let shown = board.shown.entry(provider).or_default();
    match answer {
        Ok(offers) => {
            *shown = Shown { is_reachable: true, offers };
            true
        }
        Err(error) => {
            tracing::debug!(%provider, error = %ErrorChain(&error), "a provider did not answer");
            shown.is_reachable = false;
            false
        }
    }
}
