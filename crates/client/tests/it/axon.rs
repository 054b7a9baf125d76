//! Our dendrite against an axon whose every answer the test decides.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use nicompute_client::{
    AxonAnswer, AxonCallError, AxonClient, AxonDialer, AxonReason, NotCalled, Reach, TransportError,
};
use nicompute_daemon::{Kind, OnError, SystemClock, Tasks};
use nicompute_keys::{Keypair, Scheme};
use nicompute_wire::axon::{
    Allocate, Challenge, Head, NonceStore, Ping, Synapse, sign_answer, verify_call,
};
use nicompute_wire::node::BODY_BYTES_MAX;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

type Decide = Arc<dyn Fn(Head, &[u8]) -> Option<Response> + Send + Sync>;

struct FakeAxon {
    client: AxonClient,
    _tasks: Tasks,
}

fn key(name: &str) -> Keypair {
    Keypair::from_uri(name, Scheme::Sr25519).unwrap()
}

async fn fake(
    decide: impl Fn(Head, &[u8]) -> Option<Response> + Send + Sync + 'static,
) -> FakeAxon {
    let (tasks, clock) = (Tasks::new(), SystemClock::shared());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let decide: Decide = Arc::new(decide);
    let router = Router::new().fallback(reply).with_state(decide);
    tasks.spawn("fake axon", OnError::Log, async move { Ok(axum::serve(listener, router).await?) });
    let dialer = AxonDialer::new(key("//Alice"), HERE, clock).unwrap().reaching(Reach::Anywhere);
    let client = dialer.axon(address, key("//Bob").hotkey()).unwrap();
    FakeAxon { client, _tasks: tasks }
}

async fn reply(State(decide): State<Decide>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let lines = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = Head::parse(lines).unwrap();
    let body = to_bytes(body, BODY_BYTES_MAX).await.unwrap();
    match decide(head, &body) {
        Some(response) => response,
        None => std::future::pending().await,
    }
}

fn answer(status: u16, body: impl Into<Body>) -> Option<Response> {
    Some(Response::builder().status(status).body(body.into()).unwrap())
}

/// With the axon's own status, as every axon writes it.
fn axons(status: u16, inner: &str, body: impl Into<Body>) -> Option<Response> {
    let mut response = answer(status, body).unwrap();
    response.headers_mut().insert("bt_header_axon_status_code", inner.parse().unwrap());
    Some(response)
}

/// A call that the peer cannot verify, or that lacks a field, is lost on every peer of 1.9.0.
#[tokio::test]
async fn a_call_is_signed_and_whole() {
    let axon = fake(|head, body| {
        let nonce = head.dendrite.nonce.unwrap();
        let call = verify_call(&head, &key("//Bob").hotkey(), nonce).unwrap();
        assert_eq!((call.account, call.timeout), (key("//Alice").account(), PATIENCE));
        let synapse = Synapse::<Challenge>::parse(body).unwrap();
        assert_eq!(synapse.dendrite.as_ref(), Some(&head.dendrite));
        assert_eq!(synapse.axon.as_ref(), Some(&head.axon));
        let fields: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(
            fields.as_object().unwrap().len(),
            14,
            "seven of all synapses, seven of its own"
        );
        axons(200, "200", body.to_vec())
    })
    .await;
    let asked = Challenge { challenge_hash: "h".to_owned(), ..Challenge::default() };
    let AxonAnswer { body, .. } = axon.client.call(asked.clone(), PATIENCE).await.unwrap();
    assert_eq!(body, asked);
}

/// A caller decides by the status what to do next.
#[tokio::test]
async fn every_status_is_a_reason() {
    let cases = [
        (400, AxonReason::NotUnderstood, Kind::Caller),
        (422, AxonReason::NotUnderstood, Kind::Caller),
        (401, AxonReason::NotVerified, Kind::Caller),
        (403, AxonReason::Blacklisted, Kind::Caller),
        (404, AxonReason::NoSuchSynapse, Kind::Caller),
        (408, AxonReason::TimedOut, Kind::Elsewhere),
        (500, AxonReason::Failed, Kind::Elsewhere),
        (503, AxonReason::Busy, Kind::Elsewhere),
        (429, AxonReason::Busy, Kind::Elsewhere),
        (405, AxonReason::NotUnderstood, Kind::Caller),
        (413, AxonReason::NotUnderstood, Kind::Caller),
        (418, AxonReason::NotUnderstood, Kind::Caller),
        (301, AxonReason::NotUnderstood, Kind::Caller),
        (502, AxonReason::Other, Kind::Elsewhere),
    ];
    for (status, expected, kind) in cases {
        let axon = fake(move |_, _| answer(status, r#"{"message": "no\u001b[2J"}"#)).await;
        let error = axon.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
        assert_eq!((error.reason(), error.kind()), (Some(expected), kind));
        assert!(
            matches!(error, AxonCallError::Refused { message, signed: false, .. } if message == "no [2J")
        );
    }
    let axon = fake(|mut head, _| {
        sign_answer(&key("//Bob"), &mut head, 7, "axon-1");
        let mut response = answer(403, "{}").unwrap();
        for (name, value) in head.to_headers() {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Some(response)
    })
    .await;
    let error = axon.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, AxonCallError::Refused { signed: true, .. }), "{error:?}");
}

/// A hostile axon must neither fill our memory nor keep us waiting, nor get anything through that is no answer.
#[tokio::test]
async fn hostile_answers_are_errors() {
    let long = fake(|_, _| answer(200, vec![b' '; BODY_BYTES_MAX + 1])).await;
    let error = long.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, AxonCallError::Transport(TransportError::TooLong { .. })), "{error:?}");
    let silent = fake(|_, _| None).await;
    let error =
        silent.client.call(Allocate::default(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, AxonCallError::Transport(TransportError::Deadline(_))), "{error:?}");
    for body in ["", "{", "[]", "7", r#"{"output": 3}"#] {
        let axon = fake(move |_, _| axons(200, "200", body)).await;
        let error = axon.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, AxonCallError::Decode(_)), "{body}: {error:?}");
    }
    let headers = fake(|_, _| {
        let mut response = answer(200, "{}").unwrap();
        response.headers_mut().insert("bt_header_axon_port", "none".parse().unwrap());
        Some(response)
    })
    .await;
    let error = headers.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, AxonCallError::Headers(_)), "{error:?}");
    let edwards = Keypair::from_uri("//Alice", Scheme::Ed25519).unwrap();
    let refused = AxonDialer::new(edwards, HERE, SystemClock::shared());
    assert!(matches!(refused, Err(AxonCallError::Scheme)));
}

/// A captive proxy, or another service at the address, must not pass for an axon that answered with defaults.
#[tokio::test]
async fn a_200_of_something_else_is_no_answer() {
    let whole = serde_json::json!({"timeline": 3}).to_string();
    let cases = [(None, whole.clone()), (Some("200"), "{}".to_owned())];
    for (inner, body) in cases {
        let axon = fake(move |_, _| match inner {
            Some(inner) => axons(200, inner, body.clone()),
            None => answer(200, body.clone()),
        })
        .await;
        let error = axon.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, AxonCallError::NoAxon(_)), "{error:?}");
        assert_eq!(error.kind(), Kind::Elsewhere);
    }
    let axon = fake(move |_, _| axons(200, "403", whole.clone())).await;
    let error = axon.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
    assert_eq!(error.reason(), Some(AxonReason::Blacklisted), "the axon's own status counts");
    let odd = r#"{"axon": {"port": 70000}, "timeline": 3}"#;
    let axon = fake(move |_, _| axons(200, "200", odd)).await;
    let answer = axon.client.call(Allocate::default(), PATIENCE).await.unwrap();
    assert_eq!(answer.body.timeline, 3);
    let axon = fake(move |_, _| axons(200, "200", "{}")).await;
    axon.client.call(Ping {}, PATIENCE).await.unwrap();
}

/// A nonce that was overtaken, or is older than the axon's restart, is cured by signing anew; a bad signature is not.
#[tokio::test]
async fn a_stale_nonce_is_worth_another_call() {
    let cases = [
        ("Nonce is too old, a newer one was last processed", AxonReason::StaleNonce),
        ("Nonce is too old, it may have been processed before the restart", AxonReason::StaleNonce),
        (
            "Nonce is too old: acceptable delta is 16.00 seconds but request was 17.00 seconds old",
            AxonReason::StaleNonce,
        ),
        ("Nonce is more than 2 seconds in the future, set the clock", AxonReason::NotVerified),
        ("Signature mismatch with 1.2 and 0x", AxonReason::NotVerified),
    ];
    for (words, reason) in cases {
        let body = serde_json::json!({"message": format!("Not Verified with error: {words}")});
        let axon = fake(move |_, _| answer(401, body.to_string())).await;
        let error = axon.client.call(Allocate::default(), PATIENCE).await.unwrap_err();
        let kind = if reason == AxonReason::StaleNonce { Kind::Elsewhere } else { Kind::Caller };
        assert_eq!((error.reason(), error.kind()), (Some(reason), kind), "{words}");
    }
}

/// Calls that race each other to the axon arrive in another order than they were signed in, and are refused as replays.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_client_arrive_in_the_order_of_their_nonces() {
    let store = std::sync::Mutex::new(NonceStore::new(0));
    let axon = fake(move |head, body| {
        let nonce = head.dendrite.nonce.unwrap();
        let call = verify_call(&head, &key("//Bob").hotkey(), nonce).unwrap();
        store.lock().unwrap().admit(&call, nonce).unwrap();
        axons(200, "200", body.to_vec())
    })
    .await;
    let (tasks, client) = (Tasks::new(), axon.client.clone());
    let (done, mut ended) = tokio::sync::mpsc::channel(32);
    for _ in 0..32 {
        let (client, done) = (client.clone(), done.clone());
        tasks.spawn("a caller", OnError::Log, async move {
            done.send(client.call(Allocate::default(), PATIENCE).await).await?;
            Ok(())
        });
    }
    for _ in 0..32 {
        ended.recv().await.unwrap().unwrap();
    }
}

/// Whoever waits for the call before its own waits no longer than it said.
#[tokio::test]
async fn waiting_for_ones_turn_counts() {
    let silent = fake(|_, _| None).await;
    let first = silent.client.call(Ping {}, PATIENCE);
    let second = async {
        tokio::task::yield_now().await;
        silent.client.call(Ping {}, Duration::from_millis(50)).await
    };
    let error = tokio::select! {
        biased;
        ended = first => panic!("{ended:?}"),
        ended = second => ended.unwrap_err(),
    };
    assert!(matches!(error, AxonCallError::Transport(TransportError::Deadline(_))), "{error:?}");
}

/// An entry on chain may name the caller's own machine; who did not ask for that must not call it.
#[tokio::test]
async fn an_address_of_ones_own_network_is_refused() {
    let dialer = AxonDialer::new(key("//Alice"), HERE, SystemClock::shared()).unwrap();
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, 8091));
    let error = dialer.axon(own, key("//Bob").hotkey()).unwrap_err();
    assert!(matches!(error, AxonCallError::Address(NotCalled::NotOfTheInternet(_))), "{error:?}");
    assert_eq!(error.kind(), Kind::Caller);
    let anywhere = dialer.reaching(Reach::Anywhere);
    assert!(anywhere.axon(own, key("//Bob").hotkey()).is_ok());
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8091));
    let error = anywhere.axon(nobody, key("//Bob").hotkey()).unwrap_err();
    assert!(matches!(error, AxonCallError::Address(NotCalled::Nowhere(_))), "{error:?}");
}
