//! The paths of the market's API.

use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Json, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use nicompute_market::{LeaseId, MicroUsd, Offer, Wish};
use nicompute_validator::RentalAct;
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::{MarketOfferView, MarketOffersView, RentRequest};
use nicompute_wire::node::{ExtendRequest, KeysRequest, OfferView};
use serde::Deserialize;

use crate::Market;
use crate::auth::CallerOf;
use crate::door::{self, Door};
use crate::problem::{Refusal, json};

/// Bytes of a BLAKE3 digest.
const DIGEST_BYTES: usize = 32;
/// Characters of a filter's text.
const FILTER_CHARS_MAX: usize = 128;

/// What the routes share.
#[derive(Debug, Clone)]
pub(crate) struct Edge<M> {
    pub(crate) market: M,
}

/// `GET /v1/offers?…`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OffersQuery {
    gpu: Option<String>,
    gpus: Option<u32>,
    min_vram_bytes: Option<u64>,
    cores: Option<u32>,
    memory_bytes: Option<u64>,
    max_price: Option<u64>,
}

/// Every path, behind the door.
pub(crate) fn router<M: Market>(market: M, door: Door) -> Router {
    let body_bytes_max = door.limits.body_bytes_max;
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/offers", get(offers::<M>))
        .route("/v1/status", get(status::<M>))
        .route("/v1/leases", get(leases::<M>).post(rent::<M>))
        .route("/v1/leases/{id}", get(lease::<M>).delete(release::<M>))
        .route("/v1/leases/{id}/extend", post(extend::<M>))
        .route("/v1/leases/{id}/keys", post(keys::<M>))
        .route("/v1/leases/{id}/pause", post(pause::<M>))
        .route("/v1/leases/{id}/resume", post(resume::<M>))
        .route("/v1/leases/{id}/restart", post(restart::<M>))
        .route("/v1/transcripts/{digest}", get(transcript::<M>))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(middleware::from_fn_with_state(door, door::pass))
        .with_state(Edge { market })
}

async fn health() -> Response {
    json(StatusCode::OK, serde_json::json!({ "status": "ok" }))
}

async fn offers<M: Market>(
    State(edge): State<Edge<M>>,
    query: Result<Query<OffersQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let wish = wish(query)?;
    let view = edge.market.offers().await?;
    let offers = view.offers.into_iter().filter(|offer| meets(&wish, offer)).collect();
    Ok(json(StatusCode::OK, MarketOffersView { offers }))
}

fn wish(query: OffersQuery) -> Result<Wish, Refusal> {
    if query.gpu.as_ref().is_some_and(|name| name.chars().count() > FILTER_CHARS_MAX) {
        return Err(Refusal::new(Code::BadRequest, "query: gpu has more than 128 characters"));
    }
    Ok(Wish {
        gpus_min: query.gpus.map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX)),
        gpu_name: query.gpu,
        gpu_memory_bytes_min: query.min_vram_bytes.unwrap_or(0),
        cores_min: query.cores.unwrap_or(0),
        memory_bytes_min: query.memory_bytes.unwrap_or(0),
        price_per_hour_max: query.max_price.map(MicroUsd),
    })
}

/// Whether the offer meets the wish; offers that are taken are listed too, and say so.
fn meets(wish: &Wish, view: &MarketOfferView) -> bool {
    let offer = Offer::try_from(OfferView {
        id: view.offer.clone(),
        machine: view.machine.clone(),
        price_micro_usd_per_hour: view.price_micro_usd_per_hour,
        images: view.images.clone(),
        runtime: view.runtime.clone(),
        limits: view.limits.clone(),
        available: true,
        conditions: view.conditions.clone(),
    });
    offer.is_ok_and(|offer| wish.fits(&offer))
}

async fn status<M: Market>(State(edge): State<Edge<M>>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, edge.market.status().await?))
}

async fn leases<M: Market>(by: CallerOf<M>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, by.market.leases(&by.caller.0).await?))
}

async fn rent<M: Market>(
    by: CallerOf<M>,
    body: Result<Json<RentRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body?;
    Ok(json(StatusCode::OK, by.market.rent(&by.caller.0, request).await?))
}

async fn lease<M: Market>(by: CallerOf<M>, Path(id): Path<String>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, by.market.lease(&by.caller.0, lease_id(&id)?).await?))
}

async fn release<M: Market>(by: CallerOf<M>, Path(id): Path<String>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, by.market.release(&by.caller.0, lease_id(&id)?).await?))
}

async fn extend<M: Market>(
    by: CallerOf<M>,
    Path(id): Path<String>,
    body: Result<Json<ExtendRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body?;
    act(by, &id, RentalAct::Extend(request)).await
}

async fn keys<M: Market>(
    by: CallerOf<M>,
    Path(id): Path<String>,
    body: Result<Json<KeysRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body?;
    act(by, &id, RentalAct::Keys(request)).await
}

async fn pause<M: Market>(by: CallerOf<M>, Path(id): Path<String>) -> Result<Response, Refusal> {
    act(by, &id, RentalAct::Pause).await
}

async fn resume<M: Market>(by: CallerOf<M>, Path(id): Path<String>) -> Result<Response, Refusal> {
    act(by, &id, RentalAct::Resume).await
}

async fn restart<M: Market>(by: CallerOf<M>, Path(id): Path<String>) -> Result<Response, Refusal> {
    act(by, &id, RentalAct::Restart).await
}

async fn act<M: Market>(by: CallerOf<M>, id: &str, act: RentalAct) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, by.market.act(&by.caller.0, lease_id(id)?, act).await?))
}

fn lease_id(text: &str) -> Result<LeaseId, Refusal> {
    text.parse().map_err(|_| Refusal::new(Code::NoSuchLease, "a lease id is a UUID"))
}

async fn transcript<M: Market>(
    State(edge): State<Edge<M>>,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    let missing = || Refusal::new(Code::NoSuchPath, "no transcript of that name");
    let mut bytes = [0; DIGEST_BYTES];
    hex::decode_to_slice(&digest, &mut bytes).map_err(|_| missing())?;
    let file = edge.market.transcript(bytes).await?.ok_or_else(missing)?;
    let mut response = file.into_response();
    let media_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}
