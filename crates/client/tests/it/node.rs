//! What the node client believes and what it does not.

use std::time::Duration;

use nicompute_client::{NodeError, TransportError};
use nicompute_daemon::Kind;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{LeaseId, LeaseState};
use nicompute_wire::btauth::AnswerError;
use nicompute_wire::codes::{Code, Problem};
use nicompute_wire::hostkey;
use nicompute_wire::node::{BODY_BYTES_MAX, LeaseRequest, OFFERS_MAX, OptionsView};
use serde_json::{Value, json};

use crate::fake_node::{BUDGET, FakeNode, Reply, provider_key, validator_key};

const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

fn machine() -> Value {
    json!({"cpu_model": "a cpu", "cores": 4, "memory_bytes": 8, "disk_bytes": 9, "gpus": []})
}

fn offer(id: &str) -> Value {
    json!({
        "id": id, "machine": machine(), "price_micro_usd_per_hour": 100, "images": ["base"],
        "runtime": "sandbox", "limits": "enforced", "available": true,
    })
}

fn offers(list: &[Value]) -> String {
    json!({ "offers": list }).to_string()
}

fn node_view(key: &Keypair, signature: &str) -> String {
    json!({
        "hotkey": key.hotkey(), "version": "1", "runtime": "sandbox", "limits_enforced": true,
        "machine": machine(),
        "ssh": {"port": 4444, "host_key": HOST_KEY, "host_key_signature": signature},
    })
    .to_string()
}

fn lease_id() -> LeaseId {
    LeaseId::from_random_bytes([7; 16])
}

fn lease_view(change: &Value) -> String {
    let mut view = json!({
        "id": lease_id(), "offer": "machine", "purpose": "rental",
        "holder": validator_key().hotkey(), "state": "running", "generation": 3,
        "requested_at_unix_ms": 1, "expires_at_unix_ms": 2, "image": "base",
        "ssh": {"host": "203.0.113.9", "port": 4444, "user": "07070707", "host_key": HOST_KEY},
    });
    for (name, value) in change.as_object().unwrap() {
        view[name] = value.clone();
    }
    view.to_string()
}

async fn offers_error(node: &FakeNode) -> NodeError {
    node.client.offers(BUDGET).await.unwrap_err()
}

/// A validator that cannot read an honest provider pays nobody.
#[tokio::test]
async fn a_signed_answer_is_read() {
    let node = FakeNode::saying(200, offers(&[offer("one"), offer("two")])).await;
    let got = node.client.offers(BUDGET).await.unwrap();
    assert_eq!(got.iter().map(|offer| offer.id.as_str()).collect::<Vec<_>>(), ["one", "two"]);
}

/// Anybody between validator and provider could answer in the provider's name.
#[tokio::test]
async fn an_answer_that_is_not_the_providers_own_is_not_believed() {
    type Spoil = fn(&mut Reply);
    let cases: [(Spoil, AnswerError); 4] = [
        (|reply| reply.signer = None, AnswerError::Unsigned("X-Nicompute-Response-Version")),
        (
            |reply| reply.signer = Some(Keypair::from_uri("//Eve", Scheme::Sr25519).unwrap()),
            AnswerError::WrongResponder,
        ),
        (|reply| reply.nonce_shift = 1, AnswerError::WrongRequest),
        (|reply| reply.signed_body = Some(b"{}".to_vec()), AnswerError::BadSignature),
    ];
    for (spoil, expected) in cases {
        let node = FakeNode::start(move |_, _, _| {
            let mut reply = Reply::signed(&provider_key(), 200, offers(&[]));
            spoil(&mut reply);
            reply
        })
        .await;
        match offers_error(&node).await {
            NodeError::NotBelieved { status: 200, source } => assert_eq!(source, expected),
            other => panic!("{other:?}"),
        }
    }
}

/// A refusal must reach the caller with its code, and only if the provider signed it.
#[tokio::test]
async fn a_signed_refusal_keeps_its_code() {
    let problem = Problem::new(Code::Occupied, "taken", "r").with_hint("later");
    let node = FakeNode::saying(409, serde_json::to_vec(&problem).unwrap()).await;
    let error = offers_error(&node).await;
    assert_eq!((error.code(), error.kind()), (Some(Code::Occupied), Kind::Caller));
    let node = FakeNode::start(|_, _, _| Reply {
        signer: None,
        ..Reply::signed(&provider_key(), 409, "")
    })
    .await;
    assert!(matches!(offers_error(&node).await, NodeError::NotBelieved { status: 409, .. }));
}

/// A redirect would carry a signed request to an address that the chain does not know.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let node = FakeNode::saying(302, offers(&[])).await;
    assert!(
        matches!(offers_error(&node).await, NodeError::Refused(refusal) if refusal.status == 302)
    );
}

/// Without these limits one provider fills a validator's memory or stops its rounds.
#[tokio::test]
async fn answers_are_bounded_in_size_and_time() {
    let padded = |len: usize| {
        let body = offers(&[]);
        let pad = " ".repeat(len - body.len());
        format!("{body}{pad}")
    };
    let at_limit = FakeNode::saying(200, padded(BODY_BYTES_MAX)).await;
    assert_eq!(at_limit.client.offers(BUDGET).await.unwrap(), []);
    let over = FakeNode::saying(200, padded(BODY_BYTES_MAX + 1)).await;
    assert!(matches!(
        offers_error(&over).await,
        NodeError::Transport(TransportError::TooLong { limit_bytes: BODY_BYTES_MAX })
    ));
    let silent = FakeNode::start(|_, _, _| Reply {
        silent: true,
        ..Reply::signed(&provider_key(), 200, "")
    })
    .await;
    let budget = Duration::from_millis(50);
    let error = silent.client.offers(budget).await.unwrap_err();
    assert!(matches!(error, NodeError::Transport(TransportError::Deadline(_))), "{error:?}");
}

/// Signed nonsense is still nonsense: a provider may sign whatever it likes.
#[tokio::test]
async fn signed_nonsense_is_refused() {
    let many: Vec<_> = (0..=OFFERS_MAX).map(|n| offer(&format!("o-{n}"))).collect();
    let control = {
        let mut offer = offer("one");
        offer["machine"]["cpu_model"] = json!("a\u{1b}[31m");
        offer
    };
    for body in [offers(&many), offers(&[offer("one"), offer("one")]), offers(&[control])] {
        let node = FakeNode::saying(200, body).await;
        let error = offers_error(&node).await;
        assert!(matches!(error, NodeError::View(_)), "{error:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["", "null", "[]", "{\"offers\":{}}", "{\"offers\":[1]}", &deep] {
        let node = FakeNode::saying(200, body).await;
        let error = offers_error(&node).await;
        assert!(matches!(error, NodeError::Decode(_)), "{error:?}");
    }
}

/// The host key decides to which machine a renter's keystrokes go.
#[tokio::test]
async fn the_host_key_is_vouched_for_by_the_hotkey() {
    let key = provider_key();
    let (_, good) = hostkey::sign(&key, HOST_KEY).unwrap();
    let (_, foreign) = hostkey::sign(&validator_key(), HOST_KEY).unwrap();
    let node = FakeNode::saying(200, node_view(&key, &good)).await;
    assert_eq!(node.client.node(BUDGET).await.unwrap().hotkey, key.hotkey());
    for bad in [foreign.as_str(), "0x00", ""] {
        let node = FakeNode::saying(200, node_view(&key, bad)).await;
        let error = node.client.node(BUDGET).await.unwrap_err();
        assert!(matches!(error, NodeError::HostKey(_)), "{error:?}");
    }
    let node = FakeNode::saying(200, node_view(&validator_key(), &good)).await;
    let error = node.client.node(BUDGET).await.unwrap_err();
    assert!(matches!(error, NodeError::Other("provider")), "{error:?}");
}

/// A lease may be entered only at its provider's own address, with the host key that the provider signed.
#[tokio::test]
async fn access_is_the_nodes_own() {
    let key = provider_key();
    let (_, signature) = hostkey::sign(&key, HOST_KEY).unwrap();
    let view = node_view(&key, &signature);
    let cases = [
        (json!({}), true),
        (json!({"ssh": {"host": "h", "port": 4445, "user": "u", "host_key": HOST_KEY}}), false),
        (json!({"ssh": {"host": "h", "port": 4444, "user": "-oX", "host_key": HOST_KEY}}), false),
        (
            json!({"ssh": {"host": "h", "port": 4444, "user": "u", "host_key": "ssh-ed25519 A"}}),
            false,
        ),
    ];
    for (change, good) in cases {
        let (node_view, lease) = (view.clone(), lease_view(&change));
        let fake = FakeNode::start(move |_, target, _| {
            let body = if target == "/v1/node" { node_view.clone() } else { lease.clone() };
            Reply::signed(&provider_key(), 200, body)
        })
        .await;
        let node = fake.client.node(BUDGET).await.unwrap();
        let held = fake.client.lease(lease_id(), BUDGET).await.unwrap();
        match node.access(&held) {
            Ok(Some(access)) if good => assert_eq!(access.host(), "127.0.0.1"),
            Err(_) if !good => {}
            other => panic!("{other:?}"),
        }
    }
}

/// An answer about another lease, or one that another validator holds, must not be taken for this one.
#[tokio::test]
async fn a_lease_answer_is_about_the_lease_that_was_asked_for() {
    for change in [
        json!({"id": LeaseId::from_random_bytes([8; 16])}),
        json!({"holder": provider_key().hotkey()}),
        json!({"state": "asleep"}),
        json!({"state": "ended"}),
        json!({"purpose": "fun"}),
        json!({"image": "a\nb"}),
        json!({"generation": -1}),
    ] {
        let node = FakeNode::saying(200, lease_view(&change)).await;
        assert!(node.client.lease(lease_id(), BUDGET).await.is_err(), "{change}");
    }
}

/// Waiting for a container must end when it is up, and must ask the node to wait rather than ask it all the time.
#[tokio::test]
async fn settled_waits_for_the_next_generation() {
    let node = FakeNode::start(|_, target, _| {
        let change = if target.contains("wait_ms=") {
            assert!(target.ends_with("generation=3"), "{target}");
            json!({})
        } else {
            json!({"state": "preparing"})
        };
        Reply::signed(&provider_key(), 200, lease_view(&change))
    })
    .await;
    let held = node.client.settled(lease_id(), BUDGET).await.unwrap();
    assert_eq!(held.state, LeaseState::Running);
}

/// What is asked of a provider must be what was meant: method, path and body.
#[tokio::test]
async fn requests_are_as_documented() {
    let node = FakeNode::start(|method, target, body| {
        let path = format!("/v1/leases/{}", lease_id());
        match (method, target) {
            ("POST", "/v1/leases") => {
                let request: LeaseRequest = serde_json::from_slice(body).unwrap();
                assert_eq!(request.duration_seconds, 60);
            }
            ("DELETE" | "GET", target) if target == path => assert!(body.is_empty()),
            ("POST", target) => assert!(
                ["/pause", "/resume"].iter().any(|end| target == format!("{path}{end}")),
                "{target}"
            ),
            other => panic!("{other:?}"),
        }
        Reply::signed(&provider_key(), 200, lease_view(&json!({})))
    })
    .await;
    let request = LeaseRequest {
        id: lease_id(),
        offer: "machine".parse().unwrap(),
        purpose: "rental".to_owned(),
        ssh_keys: vec![HOST_KEY.to_owned()],
        image: None,
        duration_seconds: 60,
        terminal_key: None,
        options: OptionsView::default(),
    };
    node.client.create_lease(&request, BUDGET).await.unwrap();
    node.client.pause(lease_id(), BUDGET).await.unwrap();
    node.client.resume(lease_id(), BUDGET).await.unwrap();
    node.client.release(lease_id(), BUDGET).await.unwrap();
    assert_eq!(node.client.provider(), &node.key.hotkey());
}
