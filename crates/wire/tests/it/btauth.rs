//! `btauth/1` against the vectors that Bittensor's SDK 11.3.0 made, and our answers.

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;
use nicompute_wire::btauth::{
    AnswerError, AuthError, Headers, ReplayStore, Request, Response, check_request, sign_request,
    sign_response, verify_request, verify_response,
};
use serde_json::Value;

fn vectors() -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../testdata/btauth1.json")).unwrap();
    all["vectors"].as_array().unwrap().clone()
}

fn header<'a>(case: &'a Value, name: &str) -> Option<&'a str> {
    case["headers"][name].as_str()
}

/// A request that SDK 11 signed must be accepted, and one that is bound to nobody refused.
#[test]
fn requests_of_the_sdk_are_accepted() {
    for case in vectors() {
        let body = hex::decode(case["body_hex"].as_str().unwrap()).unwrap();
        let request = Request {
            method: case["method"].as_str().unwrap(),
            target: case["path"].as_str().unwrap(),
            body: &body,
        };
        let nonce = case["nonce_ns"].as_u64().unwrap();
        let bob = Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap().hotkey();
        let mut replays = ReplayStore::new(nonce);
        let verdict =
            verify_request(|name| header(&case, name), &request, &bob, nonce, &mut replays);
        if case["receiver"].is_null() {
            assert_eq!(verdict, Err(AuthError::Missing("X-Bittensor-Receiver")));
            continue;
        }
        let caller = verdict.unwrap();
        assert_eq!(caller.account.to_string(), case["sender"].as_str().unwrap());
        assert_eq!(
            (caller.nonce_ns, caller.scheme.name()),
            (nonce, case["scheme"].as_str().unwrap())
        );
        let again = verify_request(|name| header(&case, name), &request, &bob, nonce, &mut replays);
        assert_eq!(again, Err(AuthError::Replayed));
    }
}

/// Ed25519 is deterministic, so our headers must be the SDK's to the byte; sr25519's but for the signature.
#[test]
fn our_headers_are_the_sdks() {
    for case in vectors() {
        let scheme: Scheme = case["scheme"].as_str().unwrap().parse().unwrap();
        let alice = Keypair::from_uri("//Alice", scheme).unwrap();
        let body = hex::decode(case["body_hex"].as_str().unwrap()).unwrap();
        let request = Request {
            method: case["method"].as_str().unwrap(),
            target: case["path"].as_str().unwrap(),
            body: &body,
        };
        let receiver: Option<Hotkey> = case["receiver"].as_str().map(|text| text.parse().unwrap());
        let nonce = case["nonce_ns"].as_u64().unwrap();
        let ours = sign_request(&alice, &request, receiver.as_ref(), nonce);
        let theirs = case["headers"].as_object().unwrap();
        assert_eq!(ours.0.len(), theirs.len(), "{case}");
        for (name, value) in theirs {
            let random = scheme == Scheme::Sr25519 && name == "X-Bittensor-Signature";
            assert!(random || ours.get(name) == value.as_str(), "{name} of {case}");
        }
    }
}

struct Exchange {
    node: Keypair,
    validator: Keypair,
    headers: Headers,
}

const NONCE: u64 = 1_700_000_000_000_000_000;
const ANSWER: Response<'_> = Response { status: 201, body: b"{\"id\":1}" };

fn exchange(scheme: Scheme) -> Exchange {
    let (node, validator) = (Keypair::generate(scheme), Keypair::generate(Scheme::Sr25519));
    let headers = sign_response(&node, &ANSWER, NONCE, &validator.account());
    Exchange { node, validator, headers }
}

impl Exchange {
    fn verdict(&self, answer: &Response<'_>, nonce: u64) -> Result<(), AnswerError> {
        let header = |name: &str| self.headers.get(name);
        verify_response(header, answer, nonce, &self.node.hotkey(), &self.validator.account())
    }
}

/// An answer must hold for its status, body, request, responder and receiver, and for nothing else.
#[test]
fn answers_are_bound() {
    for scheme in Scheme::ALL {
        let exchange = exchange(scheme);
        assert_eq!(exchange.verdict(&ANSWER, NONCE), Ok(()));
        let status = Response { status: 200, ..ANSWER };
        assert_eq!(exchange.verdict(&status, NONCE), Err(AnswerError::BadSignature));
        let body = Response { body: b"{\"id\":2}", ..ANSWER };
        assert_eq!(exchange.verdict(&body, NONCE), Err(AnswerError::BadSignature));
        assert_eq!(exchange.verdict(&ANSWER, NONCE + 1), Err(AnswerError::WrongRequest));
        let header = |name: &str| exchange.headers.get(name);
        let (other, me) = (Keypair::generate(scheme), exchange.validator.account());
        let wrong = verify_response(header, &ANSWER, NONCE, &other.hotkey(), &me);
        assert_eq!(wrong, Err(AnswerError::WrongResponder));
        let node = exchange.node.hotkey();
        let wrong = verify_response(header, &ANSWER, NONCE, &node, &other.account());
        assert_eq!(wrong, Err(AnswerError::BadSignature));
    }
}

/// An answer that something on the way made must be seen as such.
#[test]
fn unsigned_and_malformed_answers_are_refused() {
    let mut exchange = exchange(Scheme::Sr25519);
    for at in 0..exchange.headers.0.len() {
        let (name, value) = exchange.headers.0.remove(at);
        assert_eq!(exchange.verdict(&ANSWER, NONCE), Err(AnswerError::Unsigned(name)));
        exchange.headers.0.insert(at, (name, "\u{fffd}".to_owned()));
        assert_eq!(exchange.verdict(&ANSWER, NONCE), Err(AnswerError::Malformed(name)));
        exchange.headers.0[at].1 = value;
    }
    assert_eq!(exchange.verdict(&ANSWER, NONCE), Ok(()));
    // The same headers cannot be passed off under the other scheme.
    exchange.headers.0.push(("X-Nicompute-Response-Crypto", "ed25519".to_owned()));
    assert_eq!(exchange.verdict(&ANSWER, NONCE), Err(AnswerError::BadSignature));
}

/// A signed answer must not pass as a signed request, nor the other way round.
#[test]
fn answers_and_requests_are_different_things() {
    let (node, me) = (Keypair::generate(Scheme::Sr25519), Keypair::generate(Scheme::Sr25519));
    let request = Request { method: "GET", target: "/v1/offers", body: b"" };
    let signed = sign_request(&node, &request, Some(&me.hotkey()), NONCE);
    let as_answer = |name: &str| signed.get(&name.replace("Nicompute-Response", "Bittensor"));
    let answer = Response { status: 200, body: b"" };
    let verdict = verify_response(as_answer, &answer, NONCE, &node.hotkey(), &me.account());
    assert_eq!(verdict, Err(AnswerError::BadSignature));
    let signed = sign_response(&node, &answer, NONCE, &me.account());
    let receiver = me.hotkey().to_string();
    let as_request = |name: &str| match name {
        "X-Bittensor-Receiver" => Some(receiver.as_str()),
        name => signed.get(&name.replace("Bittensor", "Nicompute-Response")),
    };
    let verdict = check_request(as_request, &request, &me.hotkey(), NONCE);
    assert_eq!(verdict.err(), Some(AuthError::BadSignature));
}
