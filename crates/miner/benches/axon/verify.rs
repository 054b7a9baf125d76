//! Requests that are verified one after the other, from their header lines to their place in the memory against replays.

use std::time::Duration;

use nicompute_keys::{Scheme, verify};
use nicompute_wire::axon::{self, Allocate, Body as _, Call, Head, NonceStore, sign_call};
use nicompute_wire::btauth::{self, ReplayStore, Request, sign_request, verify_request};

use crate::{key, per_second};

const COUNT: usize = 2_000;
const NOW: u64 = 1_700_000_000_000_000_000;

fn nonces() -> impl Iterator<Item = u64> {
    (NOW..).take(COUNT)
}

/// The bare check of texts as long as those that are signed.
pub(crate) fn raw() -> f64 {
    let alice = key("//Alice");
    let text = |nonce: u64| format!("{nonce}{}", ".".repeat(205));
    let signed: Vec<_> =
        nonces().map(|nonce| (text(nonce), alice.sign(text(nonce).as_bytes()))).collect();
    let account = alice.account();
    per_second(COUNT, || {
        let holds = |(text, signature): &&(String, [u8; 64])| {
            verify(Scheme::Sr25519, &account, text.as_bytes(), signature)
        };
        signed.iter().filter(holds).collect()
    })
}

pub(crate) fn axon() -> f64 {
    let (alice, bob) = (key("//Alice"), key("//Bob").hotkey());
    let lines = |nonce_ns| {
        let call = Call {
            name: Allocate::NAME,
            timeout: Duration::from_secs(30),
            axon: ([127, 0, 0, 1].into(), 8091),
            axon_hotkey: &bob,
            dendrite_ip: [192, 0, 2, 77].into(),
            nonce_ns,
            uuid: "8278ee5e-e642-11f1-bcea-02fc00000001",
        };
        sign_call(&alice, &call).to_headers()
    };
    let requests: Vec<_> = nonces().map(lines).collect();
    per_second(COUNT, || {
        let mut store = NonceStore::new(NOW);
        let accepted = |lines: &Vec<(&'static str, String)>| {
            let lines = lines.iter().map(|(name, value)| (*name, value.as_bytes()));
            let call = axon::verify_call(&Head::parse(lines).ok()?, &bob, NOW).ok()?;
            store.admit(&call, NOW).ok()
        };
        requests.iter().filter_map(accepted).collect()
    })
}

pub(crate) fn btauth() -> f64 {
    let (alice, bob) = (key("//Alice"), key("//Bob").hotkey());
    let request = Request { method: "GET", target: "/v1/offers", body: b"" };
    let requests: Vec<btauth::Headers> =
        nonces().map(|nonce| sign_request(&alice, &request, Some(&bob), nonce)).collect();
    per_second(COUNT, || {
        let mut replays = ReplayStore::new(NOW);
        let accepted = |headers: &btauth::Headers| {
            verify_request(|name| headers.get(name), &request, &bob, NOW, &mut replays).ok()
        };
        requests.iter().filter_map(accepted).collect()
    })
}
