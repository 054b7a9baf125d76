//! The v1.9.0 axon against fourteen exchanges that Bittensor's SDK 9.0.0 and 10.5.0 had with themselves.

use std::time::Duration;

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;
use nicompute_wire::axon::{
    Allocate, AxonError, Body, Call, Challenge, EMPTY_BODY_HASH, Head, NonceStore, NotVerified,
    PyValue, Received, Specs, Synapse, SynapseError, body_hash, error_body, message_of,
    seconds_text, shown_name, sign_answer, sign_call, verify_answer, verify_call,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const AXON_MNEMONIC: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
/// Between a request and its arrival, for these tests.
const ON_THE_WAY_NS: u64 = 1_000_000;

pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../../testdata/axon_dendrite_wire.json")).unwrap()
}

fn exchanges() -> Vec<Value> {
    let all = vectors()["exchanges"].as_array().unwrap().clone();
    assert_eq!(all.len(), 14);
    all
}

pub(crate) fn axon_key() -> Keypair {
    Keypair::from_mnemonic(AXON_MNEMONIC, Scheme::Sr25519).unwrap()
}

pub(crate) fn lines(side: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let line = |line: &Value| (text(&line[0]), text(&line[1]));
    side["headers"].as_array().unwrap().iter().map(line).collect()
}

pub(crate) fn parse(lines: &[(String, String)]) -> Head {
    Head::parse(lines.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))).unwrap()
}

fn case(exchange: &Value) -> &str {
    exchange["case"].as_str().unwrap()
}

fn body(side: &Value) -> &[u8] {
    side["body"].as_str().unwrap().as_bytes()
}

/// The lines that belong to the wire, in their order.
fn of_the_wire(lines: &[(String, String)]) -> Vec<(String, String)> {
    let singles = ["name", "timeout", "header_size", "total_size", "computed_body_hash"];
    let ours = |name: &str| name.starts_with("bt_header_") || singles.contains(&name);
    lines.iter().filter(|(name, _)| ours(name)).cloned().collect()
}

fn written(head: &Head) -> Vec<(String, String)> {
    head.to_headers().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A header that we write otherwise, or in another order, is one that some peer does not read.
#[test]
fn headers_are_read_and_written_as_python_does() {
    for exchange in exchanges() {
        for side in [&exchange["request"], &exchange["response"]] {
            let lines = lines(side);
            assert_eq!(written(&parse(&lines)), of_the_wire(&lines), "{}", case(&exchange));
        }
    }
}

/// A request that the SDK signed is accepted once; one that is for another axon is refused in the original's words.
#[test]
fn requests_of_the_sdk_are_verified() {
    let me = axon_key().hotkey();
    let alice = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
    let mut accepted = 0;
    for exchange in exchanges() {
        let head = parse(&lines(&exchange["request"]));
        let nonce = head.dendrite.nonce.unwrap();
        let now = nonce + ON_THE_WAY_NS;
        if case(&exchange) == "signed_for_other_hotkey_401" {
            let error = AxonError::from(verify_call(&head, &me, now).unwrap_err());
            assert_eq!(
                (error.status(), error_body(&error)),
                (401, body(&exchange["response"]).to_vec())
            );
            assert_eq!(verify_call(&head, &alice.hotkey(), now).unwrap().account, alice.account());
            continue;
        }
        let call = verify_call(&head, &me, now).unwrap();
        assert_eq!((call.account, call.nonce_ns), (alice.account(), nonce));
        assert_eq!(seconds_text(call.timeout), head.timeout.clone().unwrap());
        let mut store = NonceStore::new(nonce);
        assert_eq!(store.admit(&call, now), Ok(()));
        assert_eq!(store.admit(&call, now), Err(NotVerified::Replayed));
        accepted += 1;
    }
    assert_eq!(accepted, 12);
}

/// How many sides of an exchange have a synapse of this kind in their body; a refusal has none.
fn bodies<B: Body + PartialEq>(exchange: &Value) -> usize {
    let mut compared = 0;
    for side in [&exchange["request"], &exchange["response"]] {
        let bytes = body(side);
        let theirs: Value = serde_json::from_slice(bytes).unwrap();
        if theirs["name"].is_null() {
            continue;
        }
        let synapse = Synapse::<B>::parse(bytes).unwrap();
        let ours: Value = serde_json::from_slice(&synapse.to_bytes()).unwrap();
        assert_eq!(ours, theirs, "{}", case(exchange));
        assert_eq!(Synapse::<B>::parse(&synapse.to_bytes()).unwrap(), synapse);
        assert_eq!(Received::<B>::parse(bytes).unwrap().body, synapse.body);
        compared += 1;
    }
    compared
}

/// The class that the recorder made up to be refused.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Unknown {
    x: u64,
}

impl Body for Unknown {
    const NAME: &'static str = "Unknown";
}

/// A field that gets lost on the way is reset to its default by the peer: a timeline of 30 days becomes a release.
#[test]
fn bodies_keep_every_field() {
    let mut compared = 0;
    for exchange in exchanges() {
        let line = exchange["request"]["start_line"].as_str().unwrap();
        compared += match line.split(' ').nth(1).unwrap() {
            "/Allocate" => bodies::<Allocate>(&exchange),
            "/Challenge" => bodies::<Challenge>(&exchange),
            "/Specs" => bodies::<Specs>(&exchange),
            "/Unknown" => bodies::<Unknown>(&exchange),
            other => panic!("{other} was never recorded"),
        };
    }
    assert_eq!(compared, 22, "fourteen requests and eight answers with a synapse");
}

/// What nobody looks at must not be able to refuse a call: Python takes any number for a port.
#[test]
fn what_a_body_says_about_its_ends_is_passed_over() {
    let text = br#"{"axon": {"port": 70000}, "dendrite": {"nonce": -1}, "name": 5, "timeline": 3}"#;
    let received = Received::<Allocate>::parse(text).unwrap();
    assert_eq!(received.body, Allocate { timeline: 3, ..Allocate::default() });
    let text = br#"{"axon": 7, "timeline": "x"}"#;
    assert!(matches!(Received::<Allocate>::parse(text), Err(SynapseError::Shape { .. })));
}

/// What a peer leaves out has the meaning that 1.9.0 gives it.
#[test]
fn absent_fields_have_the_defaults_of_1_9_0() {
    let allocate = Synapse::<Allocate>::parse(b"{}").unwrap().body;
    assert_eq!(allocate, Allocate::default());
    assert!(allocate.checking && !allocate.docker_change && allocate.timeline == 0);
    let docker = allocate.docker().unwrap();
    assert_eq!((docker.base_image.as_deref(), docker.ssh_port), (Some("ubuntu"), Some(4444)));
    assert_eq!(allocate.action().unwrap().action.as_deref(), Some(""));
    assert_eq!(Synapse::<Challenge>::parse(b"{}").unwrap().body.challenge_difficulty, 7);
    // A dictionary replaces its default as a whole.
    let text = br#"{"docker_requirement": {"base_image": "img"}, "checking": false}"#;
    let allocate = Synapse::<Allocate>::parse(text).unwrap().body;
    assert_eq!(allocate.docker().unwrap().ssh_key, None);
    assert!(!allocate.checking);
    assert!(matches!(Synapse::<Specs>::parse(b"{"), Err(SynapseError::Json(_))));
    let shape = Synapse::<Allocate>::parse(br#"{"timeline": "x"}"#);
    assert!(matches!(shape, Err(SynapseError::Shape { name: "Allocate", .. })));
}

/// What we sign, the SDK must take for a dendrite of its own: the same headers in the same order, but for the signature.
#[test]
fn our_calls_are_the_sdks() {
    let alice = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
    for exchange in exchanges() {
        let lines = lines(&exchange["request"]);
        let theirs = parse(&lines);
        let asked: Hotkey = theirs.axon.hotkey.as_ref().unwrap().parse().unwrap();
        let call = Call {
            name: theirs.name.as_ref().unwrap(),
            timeout: Duration::from_secs_f64(theirs.timeout.as_ref().unwrap().parse().unwrap()),
            axon: ("127.0.0.1".parse().unwrap(), theirs.axon.port.unwrap()),
            axon_hotkey: &asked,
            dendrite_ip: "192.0.2.77".parse().unwrap(),
            nonce_ns: theirs.dendrite.nonce.unwrap(),
            uuid: theirs.dendrite.uuid.as_ref().unwrap(),
        };
        let mut ours = sign_call(&alice, &call);
        assert!(verify_call(&ours, &asked, call.nonce_ns + ON_THE_WAY_NS).is_ok());
        ours.dendrite.signature.clone_from(&theirs.dendrite.signature);
        ours.dendrite.version = theirs.dendrite.version;
        (ours.header_size, ours.total_size) = (theirs.header_size, theirs.total_size);
        assert_eq!(ours, theirs, "{}", case(&exchange));
    }
}

/// A refusal says the same in body and header, and its signature is the axon's.
#[test]
fn refusals_are_understood_and_ours_are_the_sdks() {
    let me = axon_key();
    let mut signed = 0;
    for exchange in exchanges() {
        let response = &exchange["response"];
        let head = parse(&lines(response));
        let status = head.axon.status_code.unwrap();
        if status == 200 {
            assert_eq!(head.axon.signature, None);
            continue;
        }
        let message = message_of(body(response)).unwrap();
        assert_eq!(head.axon.status_message.as_ref(), Some(&message));
        if status == 404 {
            let error = AxonError::UnknownName {
                name: shown_name("Unknown"),
                available: &["Synapse", "Specs", "Allocate", "Challenge"],
            };
            assert_eq!((error.status(), error.to_string()), (404, message));
            continue;
        }
        let caller = head.dendrite.hotkey.as_ref().unwrap().parse().unwrap();
        assert!(verify_answer(&head, &me.hotkey(), &caller), "{}", case(&exchange));
        assert!(!verify_answer(&head, &Hotkey(caller), &caller));
        let mut ours = head.clone();
        sign_answer(&me, &mut ours, head.axon.nonce.unwrap(), head.axon.uuid.as_ref().unwrap());
        assert!(verify_answer(&ours, &me.hotkey(), &caller));
        ours.axon.signature.clone_from(&head.axon.signature);
        assert_eq!(ours, head);
        signed += 1;
    }
    assert_eq!(signed, 4);
}

fn py(value: &Value) -> PyValue {
    match value {
        Value::Null => PyValue::None,
        Value::Bool(truth) => PyValue::Bool(*truth),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => PyValue::Int(whole.into()),
            None => PyValue::Float(number.as_f64().unwrap()),
        },
        Value::String(text) => PyValue::Text(text.clone()),
        Value::Array(items) => PyValue::List(items.iter().map(py).collect()),
        Value::Object(entries) => {
            PyValue::Dict(entries.iter().map(|(key, value)| (key.clone(), py(value))).collect())
        }
    }
}

/// The hash of a class that names fields is what Python's `str()` makes of them.
#[test]
fn body_hashes_are_pythons() {
    let vectors = vectors();
    assert_eq!(vectors["empty_body_hash_sha3_256"], EMPTY_BODY_HASH);
    let cases = vectors["body_hash_vectors_required_hash_fields"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let fields: Vec<PyValue> = ["s", "i", "d", "f", "b", "l", "o"]
            .iter()
            .map(|name| py(&case["fields"][name]))
            .collect();
        assert_eq!(body_hash(&fields).unwrap(), case["body_hash"].as_str().unwrap());
    }
}
