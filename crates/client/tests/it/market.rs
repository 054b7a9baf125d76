//! The renter's client of a market.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use nicompute_client::{MarketClient, MarketError, OfferQuery, TransportError};
use nicompute_daemon::{OnError, Secret, Tasks};
use nicompute_market::LeaseId;

async fn serve(app: Router, tasks: &Tasks) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("fake market", OnError::Log, async move { Ok(axum::serve(listener, app).await?) });
    address
}

fn client(address: SocketAddr) -> MarketClient {
    let base = format!("http://{address}").parse().unwrap();
    let key = Some(Secret::new("nic_a_b".to_owned()));
    MarketClient::new(base, key, Duration::from_secs(5)).unwrap()
}

/// A filter that does not reach the market rents the wrong machine.
#[tokio::test]
async fn filters_and_key_are_sent() {
    let tasks = Tasks::new();
    let app = Router::new().route(
        "/v1/offers",
        get(|uri: axum::http::Uri, headers: HeaderMap| async move {
            assert_eq!(uri.query(), Some("gpu=H100+SXM&gpus=2&max_price=5"));
            assert_eq!(headers["authorization"], "Bearer nic_a_b");
            "{\"offers\":[]}"
        }),
    );
    let client = client(serve(app, &tasks).await);
    let query = OfferQuery {
        gpu: Some("H100 SXM".to_owned()),
        gpus: Some(2),
        max_price: Some(5),
        ..OfferQuery::default()
    };
    assert_eq!(client.offers(&query).await.unwrap().offers, []);
}

/// A refusal's code and hint are all that a renter has to go by.
#[tokio::test]
async fn a_problem_document_is_kept() {
    let tasks = Tasks::new();
    let problem = r#"{"type":"t","title":"t","status":404,"detail":"no lease","code":"NIC-0021","hint":"list them","request_id":"r"}"#;
    let app =
        Router::new().fallback(move || async move { (axum::http::StatusCode::NOT_FOUND, problem) });
    let client = client(serve(app, &tasks).await);
    let error = client.lease(LeaseId::from_random_bytes([1; 16])).await.unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("list them"));
    assert!(matches!(error, MarketError::Refused(refusal) if refusal.code == "NIC-0021"));
    assert!(matches!(client.transcript("../x").await, Err(MarketError::Hash)));
}

/// Where nothing listens, the user must be told where was asked.
#[tokio::test]
async fn nobody_there() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client(address).status().await.unwrap_err();
    assert!(error.hint().unwrap().contains(&address.to_string()));
    assert!(matches!(error, MarketError::Transport { source: TransportError::Unreachable(_), .. }));
}
