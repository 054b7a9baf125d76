//! `btauth/1` exchanged both ways with Bittensor's SDK 11.

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;
use nicompute_wire::btauth::{ReplayStore, Request, sign_request, verify_request};
use serde_json::{Map, Value, json};

use crate::judges::{PYTHON_11, ask, python};

const NOW: u64 = 1_800_000_000_000_000_000;
const SIGNERS: [(&str, Scheme); 3] =
    [("//Alice", Scheme::Sr25519), ("//Alice", Scheme::Ed25519), ("//Charlie", Scheme::Sr25519)];
const REQUESTS: [(&str, &str, &[u8]); 4] = [
    ("GET", "/v1/offers", b""),
    ("POST", "/v1/leases", b"{\"offer\": \"cpu-0\", \"name\": \"Gr\xc3\xbc\xc3\x9fe\"}"),
    ("delete", "/v1/leases/6f9619ff-8b86-4011-b42d-00c04fc964ff?why=a%20b&x=", b""),
    ("PUT", "/bin", &[0, 255, 10, 13]),
];

fn receiver() -> Hotkey {
    Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap().hotkey()
}

fn all_cases() -> Vec<(Keypair, &'static str, Request<'static>, u64)> {
    let mut cases = Vec::new();
    for (uri, scheme) in SIGNERS {
        for (method, target, body) in REQUESTS {
            let nonce = NOW + u64::try_from(cases.len()).unwrap();
            let pair = Keypair::from_uri(uri, scheme).unwrap();
            cases.push((pair, uri, Request { method, target, body }, nonce));
        }
    }
    cases
}

/// A validator that runs SDK 11 must be able to talk to our node.
#[test]
fn requests_that_sdk_11_signs_are_accepted() {
    let Some(judge) = python(PYTHON_11) else { return };
    let cases = all_cases();
    let asked: Vec<Value> = cases
        .iter()
        .map(|(pair, uri, request, nonce)| {
            json!({
                "scheme": pair.scheme().name(), "uri": uri, "method": request.method,
                "path": request.target, "body": hex::encode(request.body),
                "receiver": receiver().to_string(), "nonce": nonce,
            })
        })
        .collect();
    let signed = ask(&judge, "btauth_exchange.py", &["sign"], &json!(asked));
    let mut replays = ReplayStore::new(0);
    for ((pair, _, request, nonce), answer) in cases.iter().zip(signed.as_array().unwrap()) {
        let header = |name: &str| answer["headers"][name].as_str();
        let caller = verify_request(header, request, &receiver(), NOW, &mut replays).unwrap();
        assert_eq!((caller.account, caller.nonce_ns), (pair.account(), *nonce));
        assert_eq!(answer["sender"], pair.account().to_string());
    }
    assert_eq!(replays.len(), cases.len());
}

/// A provider that runs SDK 11 must accept our requests, and refuse what was changed, as ours does.
#[test]
fn requests_that_we_sign_are_accepted_by_sdk_11() {
    let Some(judge) = python(PYTHON_11) else { return };
    let (mut asked, mut expected) = (Vec::new(), Vec::new());
    let mut ask_about =
        |request: &Request<'_>, me: &str, now: u64, headers: &Value, outcome: Value| {
            asked.push(json!({
                "method": request.method, "path": request.target, "body": hex::encode(request.body),
                "self": me, "now": now, "headers": headers,
            }));
            expected.push(outcome);
        };
    for (pair, _, request, nonce) in all_cases() {
        let signed = sign_request(&pair, &request, Some(&receiver()), nonce);
        let headers: Map<String, Value> =
            signed.0.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let (headers, me) = (Value::Object(headers), receiver().to_string());
        let changed = Request { body: b"changed", ..request };
        ask_about(&changed, &me, NOW, &headers, json!({ "refused": "BadSignature" }));
        let other = pair.account().to_string();
        ask_about(&request, &other, NOW, &headers, json!({ "refused": "WrongReceiver" }));
        let late = NOW + 11_000_000_000;
        ask_about(&request, &me, late, &headers, json!({ "refused": "StaleRequest" }));
        ask_about(&request, &me, NOW, &headers, json!({ "sender": other, "nonce": nonce }));
        ask_about(&request, &me, NOW, &headers, json!({ "refused": "ReplayedRequest" }));
    }
    let verdicts = ask(&judge, "btauth_exchange.py", &["verify"], &json!(asked));
    assert_eq!(verdicts, json!(expected));
}
