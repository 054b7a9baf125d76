//! What the outside may ask of a validator.

use std::sync::Arc;
use std::time::Duration;

use nicompute_client::NodeError;
use nicompute_daemon::{ErrorChain, Kind, Secret};
use nicompute_market::{
    LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, LeaseId, Offer, SSH_KEYS_MAX, UnixMillis,
};
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::{
    MarketOffersView, MarketStatusView, RentRequest, RentalView, RentalsView,
};
use nicompute_wire::node::LeaseRequest;
use nicompute_wire::ssh_key::SshKey;

use crate::loops::refresh;
use crate::state::{Provider, Shared};
use crate::store::{Rental, StoreError};
use crate::views;

/// How long a provider may take to take a lease.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How long an answer waits for a lease to come up; the caller asks again with the same id after that.
const UP_MAX: Duration = Duration::from_secs(10);
/// Characters of an API key's name.
const NAME_CHARS_MAX: usize = 64;
/// Random bytes of an API key's public part.
const KEY_ID_BYTES: usize = 6;
/// Random bytes of an API key's secret part.
const KEY_SECRET_BYTES: usize = 32;
/// What every API key begins with, so that one that leaked is found.
const KEY_PREFIX: &str = "nic_";

/// The door to a validator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// The owner of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key's public part.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
}

/// A request that is not done, in words for its caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({code})")]
pub struct Denied {
    /// The public code.
    pub code: Code,
    /// What is wrong this time.
    pub detail: String,
    /// What the caller can do.
    pub hint: Option<String>,
}

fn denied(code: Code, detail: impl Into<String>, hint: &str) -> Denied {
    Denied { code, detail: detail.into(), hint: Some(hint.to_owned()) }
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %ErrorChain(&error), "a request failed in the store");
        let hint = "ask again later; the operator finds the cause in the log";
        denied(Code::Internal, "the validator could not read or write its store", hint)
    }
}

impl Handle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Every offer that is known, cheapest first.
    ///
    /// # Errors
    /// None so far.
    #[expect(clippy::unused_async, reason = "one shape for every question of the edge")]
    pub async fn offers(&self) -> Result<MarketOffersView, Denied> {
        Ok(MarketOffersView { offers: views::offers(&self.shared) })
    }

    /// The subnet as the validator sees it.
    ///
    /// # Errors
    /// None so far.
    #[expect(clippy::unused_async, reason = "one shape for every question of the edge")]
    pub async fn status(&self) -> Result<MarketStatusView, Denied> {
        Ok(views::status(&self.shared))
    }

    /// Rents. The same id asked for again in the same words is the same lease, however often and after whatever failure.
    ///
    /// # Errors
    /// When the request is wrong, the offer is gone, taken or dearer, or the provider cannot be asked.
    pub async fn rent(&self, who: &Principal, request: RentRequest) -> Result<RentalView, Denied> {
        check(&request)?;
        let rental = match self.shared.store.rental(request.id).await? {
            Some(known) => same(known, who, &request)?,
            None => self.note(who, request).await?,
        };
        if rental.state != "requested" {
            let rental = refresh(&self.shared, rental).await?;
            return Ok(views::rental(&rental));
        }
        self.ask_provider(&rental).await?;
        let node = self.shared.node(rental.address, rental.request.provider);
        // What became of it is read below; a lease that is slow is no error.
        if let Err(error) = node.settled(rental.request.id, UP_MAX).await {
            tracing::debug!(error = %ErrorChain(&error), "a rental is not up yet");
        }
        let rental = refresh(&self.shared, rental).await?;
        Ok(views::rental(&rental))
    }

    /// The caller's leases, newest first, as they were noted last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn leases(&self, who: &Principal) -> Result<RentalsView, Denied> {
        let rentals = self.shared.store.rentals_of(&who.id).await?;
        Ok(RentalsView { leases: rentals.iter().map(views::rental).collect() })
    }

    /// One of the caller's leases, as its provider says now.
    ///
    /// # Errors
    /// When the caller has no such lease.
    pub async fn lease(&self, who: &Principal, id: LeaseId) -> Result<RentalView, Denied> {
        let rental = self.own(who, id).await?;
        let rental = refresh(&self.shared, rental).await?;
        Ok(views::rental(&rental))
    }

    /// Gives one of the caller's leases back. Noted before the provider is told, and told again until it agrees.
    ///
    /// # Errors
    /// When the caller has no such lease.
    pub async fn release(&self, who: &Principal, id: LeaseId) -> Result<RentalView, Denied> {
        let rental = Rental { release_asked: true, ..self.own(who, id).await? };
        self.shared.store.update_rental(&rental).await?;
        let rental = refresh(&self.shared, rental).await?;
        Ok(views::rental(&rental))
    }

    /// A signed transcript by its BLAKE3.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn transcript(&self, digest: [u8; 32]) -> Result<Option<Vec<u8>>, Denied> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || shared.store.transcript(&digest)).await;
        let lost = |_| denied(Code::Internal, "the transcript was not read", "ask again later");
        Ok(read.map_err(lost)??)
    }

    /// Whose API key this is; none for a text that is no key or is not known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn principal_of(&self, api_key: &str) -> Result<Option<Principal>, Denied> {
        let parts = api_key.strip_prefix(KEY_PREFIX).and_then(|rest| rest.split_once('_'));
        let Some((id, secret)) = parts else { return Ok(None) };
        if id.len() != KEY_ID_BYTES * 2 || secret.len() != KEY_SECRET_BYTES * 2 {
            return Ok(None);
        }
        let Some((name, hash)) = self.shared.store.api_key(id).await? else { return Ok(None) };
        // BLAKE3's hashes compare in constant time.
        let is_right = blake3::hash(secret.as_bytes()) == blake3::Hash::from_bytes(hash);
        Ok(is_right.then(|| Principal { id: id.to_owned(), name }))
    }

    /// Makes an API key. Only its hash is kept: this is the one time that it is shown.
    ///
    /// # Errors
    /// When the name is too long, there is no randomness, or the store cannot be written.
    pub async fn create_api_key(&self, name: &str) -> Result<Secret<String>, Denied> {
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            let hint = "choose a name of 1 to 64 characters";
            return Err(denied(Code::BadRequest, "the name of the key is empty or too long", hint));
        }
        let (mut id, mut secret) = ([0; KEY_ID_BYTES], [0; KEY_SECRET_BYTES]);
        getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret)).map_err(|error| {
            tracing::error!(%error, "no randomness for an API key");
            denied(Code::Internal, "the validator has no randomness", "ask again later")
        })?;
        let (id, secret) = (hex::encode(id), hex::encode(secret));
        let hash = *blake3::hash(secret.as_bytes()).as_bytes();
        self.shared.store.add_api_key((&id, name), &hash, self.shared.now()).await?;
        Ok(Secret::new(format!("{KEY_PREFIX}{id}_{secret}")))
    }

    async fn own(&self, who: &Principal, id: LeaseId) -> Result<Rental, Denied> {
        let rental = self.shared.store.rental(id).await?;
        let missing = || denied(Code::NoSuchLease, "no such lease of yours", "list your leases");
        rental.filter(|rental| rental.principal == who.id).ok_or_else(missing)
    }

    /// Stores what the renter wants, before the provider hears of it.
    async fn note(&self, who: &Principal, request: RentRequest) -> Result<Rental, Denied> {
        let (provider, offer) = self.find(&request)?;
        let price = offer.price_per_hour.get();
        if request.price_micro_usd_per_hour_max.is_some_and(|max| price > max) {
            let detail = format!("the offer costs {price} millionths of a dollar an hour now");
            return Err(denied(
                Code::BadRequest,
                detail,
                "agree to the price, or rent another offer",
            ));
        }
        if !offer.available {
            return Err(denied(Code::Occupied, "the offer is taken", "rent another offer"));
        }
        let requested = self.shared.now();
        let duration_ms = request.duration_seconds.saturating_mul(1000);
        let rental = Rental {
            principal: who.id.clone(),
            address: provider.address,
            price,
            state: "requested".to_owned(),
            reason: None,
            requested,
            expires: UnixMillis(requested.get().saturating_add(duration_ms)),
            ssh: None,
            release_asked: false,
            request,
        };
        if self.shared.store.add_rental(&rental).await? {
            return Ok(rental);
        }
        // Somebody was quicker with the same id.
        match self.shared.store.rental(rental.request.id).await? {
            Some(known) => same(known, who, &rental.request),
            None => Err(denied(Code::Internal, "the lease was not noted", "ask again")),
        }
    }

    fn find(&self, request: &RentRequest) -> Result<(Provider, Offer), Denied> {
        let found = self.shared.view(|view| {
            let provider = view.providers.get(&request.provider)?;
            let mut offers = provider.offers.iter().flatten();
            let offer = offers.find(|offer| offer.id == request.offer)?;
            Some((provider.clone(), offer.clone()))
        });
        let missing =
            || denied(Code::NoSuchOffer, "no such offer", "list the offers: they come and go");
        found.ok_or_else(missing)
    }

    async fn ask_provider(&self, rental: &Rental) -> Result<(), Denied> {
        let request = &rental.request;
        let node = self.shared.node(rental.address, request.provider);
        let lease = LeaseRequest {
            id: request.id,
            offer: request.offer.clone(),
            purpose: "rental".to_owned(),
            ssh_keys: request.ssh_keys.clone(),
            image: request.image.clone(),
            duration_seconds: request.duration_seconds,
        };
        let Err(error) = node.create_lease(&lease, ASK_MAX).await else { return Ok(()) };
        let refused = error.code().filter(|_| error.kind() == Kind::Caller);
        let Some(code) = refused else { return Err(unknown_outcome(&error)) };
        // The provider said no: this lease will never be, and its id is used up.
        let failed = Rental {
            state: "failed".to_owned(),
            reason: Some("refused".to_owned()),
            ..rental.clone()
        };
        self.shared.store.update_rental(&failed).await?;
        let detail = format!("the provider refused: {}", code.title());
        Err(denied(code, detail, "rent another offer, with a new id"))
    }
}

fn unknown_outcome(error: &NodeError) -> Denied {
    tracing::warn!(error = %ErrorChain(error), "a rental's outcome is not known");
    let code = match error {
        NodeError::NotBelieved { .. } | NodeError::HostKey(_) | NodeError::Other(_) => {
            Code::ProviderNotBelieved
        }
        _ => Code::ProviderUnreachable,
    };
    let hint = "ask again with the same id: it is one lease, however often it is asked for";
    denied(code, "the provider gave no answer that can be used", hint)
}

/// A request that no provider could take.
fn check(request: &RentRequest) -> Result<(), Denied> {
    let bad = |code, detail: String, hint| Err(denied(code, detail, hint));
    let duration_ms = request.duration_seconds.saturating_mul(1000);
    if !(LEASE_MILLIS_MIN..=LEASE_MILLIS_MAX).contains(&duration_ms) {
        let detail = format!("duration_seconds is {}", request.duration_seconds);
        return bad(Code::BadRequest, detail, "a lease lasts 10 seconds to 31 days");
    }
    if request.ssh_keys.is_empty() || request.ssh_keys.len() > SSH_KEYS_MAX {
        let detail = format!("ssh_keys has {} keys", request.ssh_keys.len());
        return bad(Code::BadSshKey, detail, "give 1 to 16 OpenSSH public keys");
    }
    for key in &request.ssh_keys {
        if let Err(error) = key.parse::<SshKey>() {
            return bad(
                Code::BadSshKey,
                format!("an SSH key {error}"),
                "send the line of a .pub file",
            );
        }
    }
    Ok(())
}

/// The lease that has this id already, if it is the caller's and was asked for in the same words.
fn same(known: Rental, who: &Principal, request: &RentRequest) -> Result<Rental, Denied> {
    if known.principal == who.id && known.request == *request {
        return Ok(known);
    }
    let hint = "draw a fresh id for another lease";
    Err(denied(Code::LeaseConflict, "this id belongs to a lease in other words", hint))
}
