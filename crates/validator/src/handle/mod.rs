//! The validator as its API, its command line and its tests see it.

mod rent;
mod views;

use std::sync::Arc;

use nicompute_daemon::{Secret, TaskStatus};
use nicompute_market::{Hotkey, LeaseId, LeaseState};
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::{
    MarketOffersView, MarketStatusView, RentRequest, RentalView, RentalsView,
};

use crate::api_key::{self, NAME_CHARS_MAX};
use crate::context::Context;
use crate::denied::Denied;
use crate::loops::rentals::RentalAct;
use crate::loops::{LoopStatus, rentals};
use crate::store::{ApiKeyInfo, Rental, StoredEvidence, StoredKey};

/// The running validator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    ctx: Arc<Context>,
}

/// Who asks: the owner of an API key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    id: String,
}

/// How the validator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The loops, by name.
    pub loops: Vec<(&'static str, LoopStatus)>,
    /// Every task of the process, by name.
    pub tasks: Vec<(&'static str, TaskStatus)>,
}

/// The loops, in the order in which they are shown.
const LOOPS: [&str; 5] = ["follow", "discover", "prove", "weights", "rentals"];

impl Principal {
    /// A principal by the public half of its API key.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into() }
    }

    /// The public half of the API key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Health {
    /// Whether every loop's last run went well and no task has failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let is_failed = |status: &TaskStatus| matches!(status, TaskStatus::Failed(_));
        !self.loops.iter().any(|(_, status)| status.is_failing)
            && !self.tasks.iter().any(|(_, status)| is_failed(status))
    }
}

impl Handle {
    pub(crate) const fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }

    /// Every offer that may be rented here, cheapest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn offers(&self) -> Result<MarketOffersView, Denied> {
        views::offers(&self.ctx).await
    }

    /// What the validator knows of its subnet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn status(&self) -> Result<MarketStatusView, Denied> {
        views::status(&self.ctx).await
    }

    /// How the loops and tasks are.
    #[must_use]
    pub fn health(&self) -> Health {
        let loops = LOOPS.iter().map(|name| (*name, self.ctx.status(name))).collect();
        Health { loops, tasks: self.ctx.tasks.status().into_iter().collect() }
    }

    /// Rents a machine. The same request twice is the same lease.
    ///
    /// # Errors
    /// When the request is wrong, the offer is not to be had, or the provider does not give it.
    pub async fn rent(&self, who: &Principal, request: RentRequest) -> Result<RentalView, Denied> {
        rent::rent(&self.ctx, who, request).await
    }

    /// The caller's leases, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn leases(&self, who: &Principal) -> Result<RentalsView, Denied> {
        let rentals = self.ctx.store.rentals_of(&who.id).await?;
        Ok(RentalsView { leases: rentals.iter().map(views::rental).collect() })
    }

    /// One of the caller's leases, as its provider shows it now where that can be asked.
    ///
    /// # Errors
    /// When the caller has no such lease or the store fails.
    pub async fn lease(&self, who: &Principal, id: LeaseId) -> Result<RentalView, Denied> {
        let rental = self.own(who, id).await?;
        if rental.state.is_final() {
            return Ok(views::rental(&rental));
        }
        rentals::follow(&self.ctx, &rental).await?;
        Ok(views::rental(&self.own(who, id).await?))
    }

    /// Gives one of the caller's leases back. Giving back what is given back already is no error; a provider that cannot be
    /// reached now is told later.
    ///
    /// # Errors
    /// When the caller has no such lease or the store fails.
    pub async fn release(&self, who: &Principal, id: LeaseId) -> Result<RentalView, Denied> {
        let rental = self.own(who, id).await?;
        if !matches!(rental.state, LeaseState::Ended(_) | LeaseState::Failed(_)) {
            self.ctx.store.ask_release(id).await?;
            let asked = Rental { is_release_asked: true, ..rental };
            rentals::follow(&self.ctx, &asked).await?;
            self.ctx.nudges.rentals.notify_one();
            self.ctx.nudges.discover.notify_one();
        }
        Ok(views::rental(&self.own(who, id).await?))
    }

    /// Has one of the caller's leases extended, frozen, thawed, restarted, or given other keys.
    ///
    /// # Errors
    /// When the caller has no such lease, its provider does not do it or cannot be asked, or the store fails.
    pub async fn act(
        &self,
        who: &Principal,
        id: LeaseId,
        act: RentalAct,
    ) -> Result<RentalView, Denied> {
        let rental = self.own(who, id).await?;
        if rental.state.is_final() || rental.is_release_asked {
            let detail = format!("the lease is {}", rental.state);
            return Err(Denied::new(Code::WrongState, detail).hint("rent another one"));
        }
        rentals::act(&self.ctx, &rental, &act).await.map_err(|error| match error {
            rentals::ActError::Node(error) => Denied::from_node(&error),
            rentals::ActError::Store(error) => error.into(),
        })?;
        Ok(views::rental(&self.own(who, id).await?))
    }

    /// The verdicts about a provider, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn evidence(&self, provider: &Hotkey) -> Result<Vec<StoredEvidence>, Denied> {
        Ok(self.ctx.store.evidence_of(provider).await?)
    }

    /// A signed transcript by its BLAKE3.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn transcript(&self, digest: [u8; 32]) -> Result<Option<Vec<u8>>, Denied> {
        Ok(self.ctx.store.transcript(&digest).await?)
    }

    /// Makes an API key. It is shown here and never again.
    ///
    /// # Errors
    /// When the name is no name, there are too many keys, there is no randomness, or the store fails.
    pub async fn create_api_key(&self, name: &str) -> Result<Secret<String>, Denied> {
        let is_plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
        if !is_plain || name.chars().count() > NAME_CHARS_MAX {
            let detail = format!("a key's name has 1 to {NAME_CHARS_MAX} printable characters");
            return Err(Denied::new(Code::BadRequest, detail));
        }
        let drawn = api_key::draw().map_err(|error| {
            tracing::error!(%error, "no randomness for an API key");
            Denied::new(Code::Internal, "no randomness for an API key")
        })?;
        let stored = StoredKey {
            id: drawn.id,
            name: name.to_owned(),
            hash: drawn.hash,
            created_at: self.ctx.now(),
        };
        if self.ctx.store.add_api_key(&stored).await? {
            Ok(drawn.key)
        } else {
            let denied = Denied::new(Code::TooManyRequests, "there are as many API keys as may be");
            Err(denied.hint("revoke keys that nobody uses"))
        }
    }

    /// Takes an API key back for good. Gives whether there was one to take back; its leases go on.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoke_api_key(&self, id: &str) -> Result<bool, Denied> {
        Ok(self.ctx.store.revoke_api_key(id, self.ctx.now()).await?)
    }

    /// Every API key, without its secret.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyInfo>, Denied> {
        Ok(self.ctx.store.api_keys().await?)
    }

    /// Whose API key this is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn principal_of(&self, api_key: &str) -> Result<Option<Principal>, Denied> {
        let Some(shown) = api_key::parse(api_key) else { return Ok(None) };
        let stored = self.ctx.store.api_key_hash(&shown.id).await?;
        Ok(stored.filter(|hash| shown.is(*hash)).map(|_| Principal { id: shown.id }))
    }

    /// What is not yours does not exist.
    async fn own(&self, who: &Principal, id: LeaseId) -> Result<Rental, Denied> {
        let rental = self.ctx.store.rental(id).await?;
        rental.filter(|rental| rental.owner == who.id).ok_or_else(|| {
            Denied::new(Code::NoSuchLease, "you have no lease of this id")
                .hint("list your leases to see their ids")
        })
    }
}
