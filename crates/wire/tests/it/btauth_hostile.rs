//! Everything a hostile or broken peer may do to a signed request.

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;
use nicompute_wire::btauth::{
    AuthError, Caller, Headers, MAX_AGE_NS, MAX_SKEW_NS, ReplayStore, Request, check_headers,
    check_request, sign_request, verify_request,
};
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000_000_000_000;
const REQUEST: Request<'_> =
    Request { method: "POST", target: "/v1/leases?a=1", body: b"{\"offer\":\"cpu-0\"}" };

struct Scene {
    sender: Keypair,
    me: Hotkey,
    headers: Headers,
    replays: ReplayStore,
}

fn scene() -> Scene {
    scene_at(NOW)
}

fn scene_at(nonce_ns: u64) -> Scene {
    let sender = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
    let me = Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap().hotkey();
    let headers = sign_request(&sender, &REQUEST, Some(&me), nonce_ns);
    Scene { sender, me, headers, replays: ReplayStore::new(0) }
}

impl Scene {
    fn verdict(&mut self, request: &Request<'_>) -> Result<Caller, AuthError> {
        let header = |name: &str| self.headers.get(name);
        verify_request(header, request, &self.me, NOW, &mut self.replays)
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.headers.0.retain(|(known, _)| *known != name);
        self.headers.0.push((name, value.to_owned()));
    }
}

/// A recorded request must not be accepted a second time.
#[test]
fn a_replayed_request_is_refused() {
    let mut scene = scene();
    assert_eq!(scene.verdict(&REQUEST).unwrap().account, scene.sender.account());
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Replayed));
    // A randomised second signature over the same nonce is the same request.
    let me = scene.me;
    scene.headers = sign_request(&scene.sender, &REQUEST, Some(&me), NOW);
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Replayed));
    scene.headers = sign_request(&scene.sender, &REQUEST, Some(&me), NOW + 1);
    assert!(scene.verdict(&REQUEST).is_ok());
}

/// The window is 10 s back and 2 s ahead, to the nanosecond.
#[test]
fn stale_and_future_requests_are_refused() {
    let check = |nonce| {
        let mut scene = scene_at(nonce);
        let verdict = scene.verdict(&REQUEST).map(|caller| caller.nonce_ns);
        // The head alone says as much.
        let header = |name: &str| scene.headers.get(name);
        let by_head = check_headers(header, REQUEST.method, REQUEST.target, &scene.me, NOW);
        assert_eq!(by_head, verdict.map(drop));
        verdict
    };
    assert_eq!(check(NOW - MAX_AGE_NS), Ok(NOW - MAX_AGE_NS));
    assert_eq!(check(NOW - MAX_AGE_NS - 1), Err(AuthError::Stale));
    assert_eq!(check(NOW + MAX_SKEW_NS), Ok(NOW + MAX_SKEW_NS));
    assert_eq!(check(NOW + MAX_SKEW_NS + 1), Err(AuthError::Future));
    assert_eq!(check(0), Err(AuthError::Stale));
    assert_eq!(check(u64::MAX), Err(AuthError::Future));
}

/// Whatever is changed after signing must be noticed.
#[test]
fn changed_parts_are_noticed() {
    let changed = [
        Request { body: b"{\"offer\":\"cpu-1\"}", ..REQUEST },
        Request { body: b"", ..REQUEST },
        Request { target: "/v1/leases", ..REQUEST },
        Request { target: "/v1/leases?a=2", ..REQUEST },
        Request { target: "/v1/leases?a=1&b", ..REQUEST },
        Request { method: "PUT", ..REQUEST },
    ];
    for request in &changed {
        let mut scene = scene();
        assert_eq!(scene.verdict(request), Err(AuthError::BadSignature), "{request:?}");
        assert!(scene.replays.is_empty(), "a forged request must not burn the sender's nonce");
        assert!(scene.verdict(&REQUEST).is_ok());
    }
    let lower = Request { method: "post", ..REQUEST };
    assert!(scene().verdict(&lower).is_ok(), "the method is signed in upper case");
}

/// A request to one node must not be good for another.
#[test]
fn another_receiver_refuses() {
    let mut scene = scene();
    let charlie = Keypair::from_uri("//Charlie", Scheme::Sr25519).unwrap().hotkey();
    scene.me = charlie;
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::WrongReceiver));
    scene.set("X-Bittensor-Receiver", &charlie.to_string());
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::BadSignature));
    scene.headers = sign_request(&scene.sender, &REQUEST, None, NOW);
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Missing("X-Bittensor-Receiver")));
}

/// The sender's name must be the signer's, under the stated scheme only.
#[test]
fn senders_and_schemes_cannot_be_swapped() {
    let mut scene = scene();
    let charlie = Keypair::from_uri("//Charlie", Scheme::Sr25519).unwrap();
    scene.set("X-Bittensor-Hotkey", &charlie.account().to_string());
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::BadSignature));
    let me = scene.me;
    for scheme in Scheme::ALL {
        let sender = Keypair::generate(scheme);
        for stated in Scheme::ALL {
            scene.headers = sign_request(&sender, &REQUEST, Some(&me), NOW);
            scene.set("X-Bittensor-Crypto", stated.name());
            let verdict = scene.verdict(&REQUEST);
            if stated == scheme {
                assert_eq!(verdict.unwrap().scheme, scheme);
            } else {
                assert_eq!(verdict, Err(AuthError::BadSignature));
            }
        }
    }
}

/// Headers that cannot be read are named, before anything else is asked.
#[test]
fn malformed_headers_are_named() {
    let long_signature = format!("0x{}", "00".repeat(65));
    let cases: [(&'static str, &[&str]); 6] = [
        ("X-Bittensor-Version", &["", "2", "1.0", " 1"]),
        (
            "X-Bittensor-Hotkey",
            &["", "5abc", "0x00", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ"],
        ),
        ("X-Bittensor-Receiver", &["", "-", "5abc"]),
        (
            "X-Bittensor-Nonce",
            &["", "-1", "+1", "01", "1.0", "1e9", " 1", "18446744073709551616", "٣"],
        ),
        ("X-Bittensor-Crypto", &["", "SR25519", "ecdsa", "1"]),
        ("X-Bittensor-Signature", &["", "0x", "0x00", "zz", &long_signature]),
    ];
    for (name, values) in cases {
        for value in values {
            let mut scene = scene();
            scene.set(name, value);
            assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Malformed(name)), "{value:?}");
        }
        let mut scene = scene();
        scene.headers.0.retain(|(known, _)| *known != name);
        match name {
            "X-Bittensor-Crypto" => assert!(scene.verdict(&REQUEST).is_ok()),
            _ => assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Missing(name))),
        }
    }
}

/// A line break in method or target could make one signed text mean two requests.
#[test]
fn line_breaks_in_the_request_line_are_refused() {
    for target in ["", "/a\nb", "/a\r", "/\0"] {
        let request = Request { target, ..REQUEST };
        assert_eq!(scene().verdict(&request), Err(AuthError::RequestLine), "{target:?}");
    }
    let request = Request { method: "GET\n/x", ..REQUEST };
    assert_eq!(scene().verdict(&request), Err(AuthError::RequestLine));
}

/// The checks have their order: a request that is wrong in all ways is refused for the first of them.
#[test]
fn checks_come_in_the_order_of_the_protocol() {
    let mut scene = scene_at(0);
    let me = scene.me;
    scene.me = scene.sender.hotkey();
    scene.set("X-Bittensor-Crypto", "rsa");
    assert!(matches!(scene.verdict(&REQUEST), Err(AuthError::Malformed(_))));
    scene.set("X-Bittensor-Crypto", "ed25519");
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::WrongReceiver));
    scene.me = me;
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Stale));
}

/// Strangers whose requests are checked and not admitted must leave nothing behind.
#[test]
fn checking_alone_remembers_nothing() {
    let mut scene = scene();
    let header = |name: &str| scene.headers.get(name);
    let checked = check_request(header, &REQUEST, &scene.me, NOW).unwrap();
    assert_eq!(checked.sender(), &scene.sender.account());
    assert!(scene.replays.is_empty());
    assert!(scene.verdict(&REQUEST).is_ok());
    assert_eq!(scene.replays.len(), 1);
}

/// When the memory is full a sender is told so, and its request was not carried out.
#[test]
fn a_full_memory_says_busy() {
    let mut scene = scene();
    scene.replays = ReplayStore::with_limits(0, 1, 1);
    assert!(scene.verdict(&REQUEST).is_ok());
    let me = scene.me;
    scene.headers = sign_request(&scene.sender, &REQUEST, Some(&me), NOW + 1);
    assert_eq!(scene.verdict(&REQUEST), Err(AuthError::Busy));
}

/// Every refusal has a public code and a remedy.
#[test]
fn refusals_have_codes_and_hints() {
    let all = [
        AuthError::Missing("X"),
        AuthError::Malformed("X"),
        AuthError::RequestLine,
        AuthError::WrongReceiver,
        AuthError::Stale,
        AuthError::Future,
        AuthError::BadSignature,
        AuthError::Replayed,
        AuthError::Busy,
    ];
    for error in all {
        assert!(matches!(error.code().status(), 401 | 429) && !error.hint().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// No text in any header may end the process, or be accepted unless it is what was signed.
    #[test]
    fn any_header_text_is_survived(which in 0usize..6, value in ".{0,140}") {
        let mut scene = scene();
        let (name, signed) = scene.headers.0.get(which).cloned().unwrap_or_else(|| ("X-Bittensor-Crypto", "sr25519".to_owned()));
        scene.set(name, &value);
        let verdict = scene.verdict(&REQUEST);
        prop_assert!(verdict.is_err() || value == signed);
    }

    /// No flipped bit anywhere in what is signed may pass.
    #[test]
    fn any_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut scene = scene();
        let mut body = REQUEST.body.to_vec();
        let at = at.index(body.len() + 64);
        if at < body.len() {
            body[at] ^= 1 << bit;
        } else {
            let signature = scene.headers.get("X-Bittensor-Signature").unwrap();
            let mut bytes = hex::decode(&signature[2..]).unwrap();
            bytes[at - body.len()] ^= 1 << bit;
            scene.set("X-Bittensor-Signature", &format!("0x{}", hex::encode(bytes)));
        }
        let verdict = scene.verdict(&Request { body: &body, ..REQUEST });
        prop_assert_eq!(verdict, Err(AuthError::BadSignature));
    }

    /// Any target and body that a client signs is accepted by the receiver that it was signed for.
    #[test]
    fn whatever_is_signed_is_accepted(target in "/[!-~]{0,200}", body in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut scene = scene();
        let request = Request { method: "PUT", target: &target, body: &body };
        let me = scene.me;
        scene.headers = sign_request(&scene.sender, &request, Some(&me), NOW);
        prop_assert!(scene.verdict(&request).is_ok());
    }
}
