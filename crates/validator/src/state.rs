//! What the validator knows now, in memory: rebuilt from chain, providers and store after every start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use nicompute_chain::Chain;
use nicompute_client::{NodeClient, NodeDialer};
use nicompute_daemon::SharedClock;
use nicompute_keys::Keypair;
use nicompute_market::{
    BlockNumber, Catalogue, Evidence, Hotkey, LeaseId, Netuid, Offer, ScorePolicy, Uid, UnixMillis,
};
use tokio::sync::Notify;

use crate::config::{Pace, ProofSize};
use crate::store::{Store, StoredEvidence, WeightsSet};

/// What the loops and the handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) netuid: Netuid,
    pub(crate) key: Keypair,
    pub(crate) catalogue: Catalogue,
    pub(crate) proof: ProofSize,
    pub(crate) prover: Vec<u8>,
    pub(crate) score: ScorePolicy,
    pub(crate) burn_share_ppm: u32,
    pub(crate) devnet: bool,
    pub(crate) pace: Pace,
    pub(crate) store: Store,
    pub(crate) chain: Chain,
    pub(crate) dialer: NodeDialer,
    pub(crate) clock: SharedClock,
    /// Wakes the loops that follow from new evidence or offers.
    pub(crate) nudge: Notify,
    view: Mutex<View>,
}

/// The changing part.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) block: BlockNumber,
    pub(crate) own_uid: Option<Uid>,
    pub(crate) providers: BTreeMap<Hotkey, Provider>,
    pub(crate) evidence: BTreeMap<Hotkey, StoredEvidence>,
    pub(crate) weights: Option<WeightsSet>,
}

/// A neuron with an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    pub(crate) uid: Uid,
    pub(crate) address: SocketAddr,
    /// Its offers, when they could be read the last time.
    pub(crate) offers: Option<Vec<Offer>>,
    pub(crate) session: Option<Session>,
}

/// A proof under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) lease: LeaseId,
    pub(crate) phase: &'static str,
    pub(crate) started: UnixMillis,
}

impl Provider {
    /// Whether a renter holds one of its offers: an offer that is taken while no proof of ours runs.
    pub(crate) fn is_rented(&self) -> bool {
        let taken = self.offers.iter().flatten().any(|offer| !offer.available);
        taken && self.session.is_none()
    }
}

/// The parts of [`Shared`] that are made before it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: crate::ValidatorConfig,
    pub(crate) store: Store,
    pub(crate) chain: Chain,
    pub(crate) dialer: NodeDialer,
    pub(crate) clock: SharedClock,
    pub(crate) view: View,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, store, chain, dialer, clock, view } = parts;
        Arc::new(Self {
            netuid: config.netuid,
            key: config.hotkey,
            catalogue: config.catalogue,
            proof: config.proof,
            prover: config.prover,
            score: config.score,
            burn_share_ppm: config.burn_share_ppm,
            devnet: config.devnet,
            pace: if config.devnet { Pace::DEVNET } else { Pace::NETWORK },
            store,
            chain,
            dialer,
            clock,
            nudge: Notify::new(),
            view: Mutex::new(view),
        })
    }

    /// Reads or changes the view; nothing may wait inside.
    pub(crate) fn view<T>(&self, act: impl FnOnce(&mut View) -> T) -> T {
        act(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The clock's wall time.
    pub(crate) fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.unix_ms())
    }

    /// The client of a provider's node.
    pub(crate) fn node(&self, address: SocketAddr, provider: Hotkey) -> NodeClient {
        self.dialer.node(address, provider)
    }

    /// Notes where the proof of a provider stands.
    pub(crate) fn set_session(&self, provider: &Hotkey, session: Option<Session>) {
        self.view(|view| {
            if let Some(known) = view.providers.get_mut(provider) {
                known.session = session;
            }
        });
    }

    /// The evidence of one provider, as the score takes it.
    pub(crate) fn evidence_of(view: &View, provider: &Hotkey) -> Vec<Evidence> {
        view.evidence.get(provider).map(|stored| stored.evidence.clone()).into_iter().collect()
    }
}

/// A fresh lease id; the validator draws it, so that asking twice is asking once.
pub(crate) fn fresh_lease_id() -> Result<LeaseId, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(LeaseId::from_random_bytes(bytes))
}
