//! What the edge needs of the market behind it.

use nicompute_market::LeaseId;
use nicompute_validator::{Denied, Handle, Principal, RentalAct};
use nicompute_wire::market_api::{
    MarketOffersView, MarketStatusView, RentRequest, RentalView, RentalsView,
};

/// An answer of the market, or why there is none.
type Answer<T> = Result<T, Denied>;

/// The market behind the edge.
pub trait Market: Clone + Send + Sync + 'static {
    /// Every offer, cheapest first.
    fn offers(&self) -> impl Future<Output = Answer<MarketOffersView>> + Send;
    /// What the validator knows of its subnet.
    fn status(&self) -> impl Future<Output = Answer<MarketStatusView>> + Send;
    /// Rents; the same request twice is the same lease.
    fn rent(
        &self,
        who: &Principal,
        request: RentRequest,
    ) -> impl Future<Output = Answer<RentalView>> + Send;
    /// The caller's leases.
    fn leases(&self, who: &Principal) -> impl Future<Output = Answer<RentalsView>> + Send;
    /// One of the caller's leases.
    fn lease(
        &self,
        who: &Principal,
        id: LeaseId,
    ) -> impl Future<Output = Answer<RentalView>> + Send;
    /// Gives one of the caller's leases back.
    fn release(
        &self,
        who: &Principal,
        id: LeaseId,
    ) -> impl Future<Output = Answer<RentalView>> + Send;
    /// Has something done to one of the caller's leases.
    fn act(
        &self,
        who: &Principal,
        id: LeaseId,
        act: RentalAct,
    ) -> impl Future<Output = Answer<RentalView>> + Send;
    /// A signed transcript by its BLAKE3.
    fn transcript(&self, digest: [u8; 32]) -> impl Future<Output = Answer<Option<Vec<u8>>>> + Send;
    /// Whose API key this is.
    fn principal_of(&self, api_key: &str)
    -> impl Future<Output = Answer<Option<Principal>>> + Send;
}

impl Market for Handle {
    async fn offers(&self) -> Answer<MarketOffersView> {
        Self::offers(self).await
    }

    async fn status(&self) -> Answer<MarketStatusView> {
        Self::status(self).await
    }

    async fn rent(&self, who: &Principal, request: RentRequest) -> Answer<RentalView> {
        Self::rent(self, who, request).await
    }

    async fn leases(&self, who: &Principal) -> Answer<RentalsView> {
        Self::leases(self, who).await
    }

    async fn lease(&self, who: &Principal, id: LeaseId) -> Answer<RentalView> {
        Self::lease(self, who, id).await
    }

    async fn release(&self, who: &Principal, id: LeaseId) -> Answer<RentalView> {
        Self::release(self, who, id).await
    }

    async fn act(&self, who: &Principal, id: LeaseId, act: RentalAct) -> Answer<RentalView> {
        Self::act(self, who, id, act).await
    }

    async fn transcript(&self, digest: [u8; 32]) -> Answer<Option<Vec<u8>>> {
        Self::transcript(self, digest).await
    }

    async fn principal_of(&self, api_key: &str) -> Answer<Option<Principal>> {
        Self::principal_of(self, api_key).await
    }
}
