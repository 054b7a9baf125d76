//! The client of a validator's market API: the renter's side of the trade.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nicompute_daemon::{Kind, Secret};
use nicompute_market::LeaseId;
use nicompute_wire::market_api::{
    MarketOffersView, MarketStatusView, RentRequest, RentalView, RentalsView,
};
use nicompute_wire::node::{ExtendRequest, KeysRequest};
use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;

use crate::http::{Answer, Http, TransportError, exchange};
use crate::refusal::Refusal;

/// Bytes of one JSON answer of the market.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of the longest transcript: a body of 32 MiB with its header and signature.
pub const TRANSCRIPT_BYTES_MAX: usize = 33 * 1024 * 1024;
/// Digits of a transcript's name.
const HASH_DIGITS: usize = 64;

/// The address of a market API: `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiBase(String);

/// Why a text is no address of a market API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiBaseError {
    /// Not a URL.
    #[error("not a URL such as http://127.0.0.1:8092")]
    Url,
    /// TLS is not part of this program.
    #[error(
        "https is not supported: let a local TLS proxy or an SSH tunnel listen and give its http address"
    )]
    Tls,
    /// A path, query, user or fragment that would be dropped or doubled.
    #[error("the URL must be http://host:port and nothing else")]
    Extra,
}

/// What an offer must have; absent means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfferQuery {
    /// Part of the GPUs' name.
    pub gpu: Option<String>,
    /// GPUs, at least.
    pub gpus: Option<u32>,
    /// Memory of each GPU, at least.
    pub min_vram_bytes: Option<u64>,
    /// Logical processors, at least.
    pub cores: Option<u32>,
    /// Main memory, at least.
    pub memory_bytes: Option<u64>,
    /// The price in millionths of a dollar per hour, at most.
    pub max_price: Option<u64>,
}

/// The client of one market. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MarketClient {
    http: Http,
    base: ApiBase,
    api_key: Option<Secret<String>>,
    budget: Duration,
}

/// Why the market gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MarketError {
    /// No answer.
    #[error("the market at {base} gave no answer")]
    Transport {
        /// Where it was asked.
        base: ApiBase,
        /// Why.
        #[source]
        source: TransportError,
    },
    /// The market said no.
    #[error("the market refused: {0}")]
    Refused(Refusal),
    /// A body that is not the JSON of this answer.
    #[error("the market's answer is not of the shape that this version knows")]
    Decode(#[source] serde_json::Error),
    /// The name of a transcript is 64 hexadecimal digits.
    #[error("the name of a transcript is 64 hexadecimal digits")]
    Hash,
    /// Our own request could not be written.
    #[error("the request could not be written")]
    Encode(#[source] serde_json::Error),
}

// === impl ApiBase ===

impl FromStr for ApiBase {
    type Err = ApiBaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| ApiBaseError::Url)?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(ApiBaseError::Tls),
            _ => return Err(ApiBaseError::Url),
        }
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !bare || url.host_str().is_none_or(str::is_empty) {
            return Err(ApiBaseError::Extra);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for ApiBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

// === impl OfferQuery ===

impl OfferQuery {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        let mut push = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
        push("gpu", self.gpu.clone());
        push("gpus", self.gpus.map(|n| n.to_string()));
        push("min_vram_bytes", self.min_vram_bytes.map(|n| n.to_string()));
        push("cores", self.cores.map(|n| n.to_string()));
        push("memory_bytes", self.memory_bytes.map(|n| n.to_string()));
        push("max_price", self.max_price.map(|n| n.to_string()));
        pairs
    }
}

// === impl MarketClient ===

impl MarketClient {
    /// A client whose every call may take as long as `budget`.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up.
    pub fn new(
        base: ApiBase,
        api_key: Option<Secret<String>>,
        budget: Duration,
    ) -> Result<Self, TransportError> {
        Ok(Self { http: Http::new()?, base, api_key, budget })
    }

    /// Every offer that meets the query.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn offers(&self, query: &OfferQuery) -> Result<MarketOffersView, MarketError> {
        let request = self.request(Method::GET, "/v1/offers").query(&query.pairs());
        self.json(request).await
    }

    /// What the validator knows of its subnet.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn status(&self) -> Result<MarketStatusView, MarketError> {
        self.json(self.request(Method::GET, "/v1/status")).await
    }

    /// Rents a machine. The same id asked for again with the same words is the same lease.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn rent(&self, request: &RentRequest) -> Result<RentalView, MarketError> {
        let body = serde_json::to_vec(request).map_err(MarketError::Encode)?;
        let builder = self
            .request(Method::POST, "/v1/leases")
            .header("content-type", "application/json")
            .body(body);
        self.json(builder).await
    }

    /// The caller's own leases, newest first.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn leases(&self) -> Result<RentalsView, MarketError> {
        self.json(self.request(Method::GET, "/v1/leases")).await
    }

    /// One of the caller's leases.
    ///
    /// # Errors
    /// When the market cannot be asked or does not know the lease.
    pub async fn lease(&self, id: LeaseId) -> Result<RentalView, MarketError> {
        self.json(self.request(Method::GET, &format!("/v1/leases/{id}"))).await
    }

    /// Gives a lease back. Giving back what is given back already is no error.
    ///
    /// # Errors
    /// When the market cannot be asked or does not know the lease.
    pub async fn release(&self, id: LeaseId) -> Result<RentalView, MarketError> {
        self.json(self.request(Method::DELETE, &format!("/v1/leases/{id}"))).await
    }

    /// Moves a lease's end to so many seconds from now, never back.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn extend(
        &self,
        id: LeaseId,
        request: &ExtendRequest,
    ) -> Result<RentalView, MarketError> {
        self.act(id, "extend", serde_json::to_vec(request)).await
    }

    /// Replaces the keys of one slot of a lease.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn keys(
        &self,
        id: LeaseId,
        request: &KeysRequest,
    ) -> Result<RentalView, MarketError> {
        self.act(id, "keys", serde_json::to_vec(request)).await
    }

    /// Freezes a lease.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn pause(&self, id: LeaseId) -> Result<RentalView, MarketError> {
        self.act(id, "pause", Ok(Vec::new())).await
    }

    /// Lets a frozen lease go on.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn resume(&self, id: LeaseId) -> Result<RentalView, MarketError> {
        self.act(id, "resume", Ok(Vec::new())).await
    }

    /// Ends a lease's processes and starts it anew on its disk.
    ///
    /// # Errors
    /// When the market cannot be asked or refuses.
    pub async fn restart(&self, id: LeaseId) -> Result<RentalView, MarketError> {
        self.act(id, "restart", Ok(Vec::new())).await
    }

    async fn act(
        &self,
        id: LeaseId,
        act: &str,
        body: Result<Vec<u8>, serde_json::Error>,
    ) -> Result<RentalView, MarketError> {
        let body = body.map_err(MarketError::Encode)?;
        let mut builder = self.request(Method::POST, &format!("/v1/leases/{id}/{act}"));
        if !body.is_empty() {
            builder = builder.header("content-type", "application/json").body(body);
        }
        self.json(builder).await
    }

    /// A signed transcript by its BLAKE3 in hexadecimal.
    ///
    /// # Errors
    /// When the market cannot be asked or has no such transcript.
    pub async fn transcript(&self, hash: &str) -> Result<Vec<u8>, MarketError> {
        if hash.len() != HASH_DIGITS || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(MarketError::Hash);
        }
        let request = self.request(Method::GET, &format!("/v1/transcripts/{hash}"));
        Ok(self.answer(request, TRANSCRIPT_BYTES_MAX).await?.body)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.client().request(method, format!("{}{path}", self.base));
        match &self.api_key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, MarketError> {
        let answer = self.answer(request, BODY_BYTES_MAX).await?;
        serde_json::from_slice(&answer.body).map_err(MarketError::Decode)
    }

    async fn answer(
        &self,
        request: RequestBuilder,
        body_bytes_max: usize,
    ) -> Result<Answer, MarketError> {
        let answer = exchange(request, body_bytes_max, self.budget)
            .await
            .map_err(|source| MarketError::Transport { base: self.base.clone(), source })?;
        if !answer.is_success() {
            return Err(MarketError::Refused(Refusal::parse(answer.status, &answer.body)));
        }
        Ok(answer)
    }
}

// === impl MarketError ===

impl MarketError {
    /// Whether asking again may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Transport { source, .. } => source.kind(),
            Self::Refused(refusal) => refusal.kind(),
            Self::Decode(_) => Kind::Elsewhere,
            Self::Hash => Kind::Caller,
            Self::Encode(_) => Kind::Bug,
        }
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Transport { source: TransportError::Unreachable(_), base } => {
                Some(format!("is a validator's API listening at {base}? `--api` names another"))
            }
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Transport { .. } | Self::Decode(_) | Self::Hash | Self::Encode(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API key must not be sent to an address that the user did not mean.
    #[test]
    fn only_plain_addresses_are_taken() {
        let base: ApiBase = "http://127.0.0.1:8092/".parse().unwrap();
        assert_eq!(base.to_string(), "http://127.0.0.1:8092");
        assert_eq!("https://market.example".parse::<ApiBase>(), Err(ApiBaseError::Tls));
        for bad in ["", "127.0.0.1:8092", "ftp://x", "file:///etc/passwd"] {
            assert_eq!(bad.parse::<ApiBase>(), Err(ApiBaseError::Url), "{bad}");
        }
        for bad in ["http://a/b", "http://u:p@a", "http://a?x=1", "http://a/#x"] {
            assert_eq!(bad.parse::<ApiBase>(), Err(ApiBaseError::Extra), "{bad}");
        }
    }
}
