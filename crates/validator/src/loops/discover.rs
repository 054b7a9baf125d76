//! Who is on the subnet, and what do they offer?

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use nicompute_chain::{Metagraph, ReadError};
use nicompute_daemon::ErrorChain;
use nicompute_market::{Hotkey, Offer, Uid};

use crate::state::{Provider, Shared};

/// How long one provider may take to list its offers.
const OFFERS_MAX: Duration = Duration::from_secs(5);
/// Providers that are asked at the same time.
const ASKED_AT_ONCE: usize = 16;

/// Reads the metagraph once, asks every provider once, and replaces the view.
pub(crate) async fn round(shared: &Shared) {
    let metagraph = match read(shared).await {
        Ok(metagraph) => metagraph,
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "the metagraph was not read");
            return;
        }
    };
    let own = shared.key.hotkey();
    let own_uid = metagraph.neuron(&own).map(|neuron| neuron.uid);
    let block = metagraph.block;
    let endpoints = endpoints(&metagraph, &own);
    let asked = endpoints.into_iter().map(|(hotkey, (uid, address))| async move {
        let offers = shared.node(address, hotkey).offers(OFFERS_MAX).await;
        let offers = match offers {
            Ok(offers) => Some(acceptable(shared, offers)),
            Err(error) => {
                tracing::debug!(provider = %hotkey, error = %ErrorChain(&error), "no offers");
                None
            }
        };
        (hotkey, Provider { uid, address, offers, session: None })
    });
    let answered = futures_util::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
    let providers: BTreeMap<Hotkey, Provider> = answered.collect().await;
    shared.view(|view| {
        let before = std::mem::replace(&mut view.providers, providers);
        for (hotkey, provider) in &mut view.providers {
            provider.session = before.get(hotkey).and_then(|known| known.session);
        }
        view.block = block;
        view.own_uid = own_uid;
    });
}

async fn read(shared: &Shared) -> Result<Metagraph, ReadError> {
    shared.chain.metagraph(shared.netuid).await
}

/// Every neuron but ourselves that announces an address which can be reached.
fn endpoints(metagraph: &Metagraph, own: &Hotkey) -> BTreeMap<Hotkey, (Uid, SocketAddr)> {
    let reachable = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast();
    let endpoint = |neuron: &nicompute_chain::Neuron| {
        let axon = neuron.axon.as_ref().filter(|axon| axon.port != 0 && reachable(axon.ip))?;
        Some((neuron.hotkey, (neuron.uid, SocketAddr::new(axon.ip, axon.port))))
    };
    metagraph.neurons.iter().filter(|neuron| neuron.hotkey != *own).filter_map(endpoint).collect()
}

/// Offers whose limits are not enforced are accepted on a local market only.
fn acceptable(shared: &Shared, offers: Vec<Offer>) -> Vec<Offer> {
    let fits = |offer: &Offer| shared.devnet || offer.runtime.limits_enforced();
    offers.into_iter().filter(fits).collect()
}
