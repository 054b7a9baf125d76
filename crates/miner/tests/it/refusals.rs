//! Requests that are well signed and wrong: each has its code, and changes nothing.

use nicompute_miner::{AccessList, ApiLimits, MIN_STAKE, MinerConfig};
use nicompute_wire::codes::{Code, Problem};
use serde_json::{Value, json};

use crate::world::{KEY, World, ask, id, key, path};

/// A wrong field must be named, with a code that a program can act on, and must not hold the machine.
#[tokio::test]
async fn a_wrong_request_is_refused_by_its_field() {
    let world = World::new();
    let node = world.start().await;
    let with = |field: &str, value: Value| {
        let mut request = ask(1);
        request[field] = value;
        request
    };
    let many: Vec<_> = (0..17).map(|_| KEY).collect();
    let cases = [
        (with("offer", json!("another")), 404, Code::NoSuchOffer, "another"),
        (with("offer", json!("../x")), 400, Code::BadRequest, "offer"),
        (with("purpose", json!("fun")), 400, Code::BadRequest, "purpose"),
        (with("image", json!("alpine")), 422, Code::NoSuchImage, "image"),
        (with("ssh_keys", json!([])), 422, Code::BadSshKey, "ssh_keys"),
        (with("ssh_keys", json!(many)), 422, Code::BadSshKey, "17"),
        (with("ssh_keys", json!([KEY, "ssh-rsa AAAA"])), 422, Code::BadSshKey, "key 1"),
        (with("ssh_keys", json!([format!("no-pty {KEY}")])), 422, Code::BadSshKey, "options"),
        (with("duration_seconds", json!(9)), 400, Code::BadRequest, "duration_seconds"),
        (with("duration_seconds", json!(2_678_401)), 400, Code::BadRequest, "31 days"),
        (with("duration_seconds", json!(u64::MAX)), 400, Code::BadRequest, "31 days"),
        (with("duration_seconds", json!(-1)), 400, Code::BadRequest, "invalid value"),
        (with("id", json!("1")), 400, Code::BadRequest, "the body"),
        (with("price", json!(0)), 400, Code::BadRequest, "price"),
        (json!([]), 400, Code::BadRequest, "the body"),
    ];
    for (request, status, code, word) in cases {
        let answer = node.post("//Validator", "/v1/leases", &request).await;
        assert_eq!((answer.status, answer.code()), (status, Some(code)), "{request}");
        let problem: Problem = answer.json();
        assert!(problem.detail.contains(word), "{} does not say {word}", problem.detail);
        assert_eq!(problem.request_id.len(), 16);
    }
    assert!(node.is_available().await);
    assert_eq!(node.get("//Validator", &path(1)).await.status, 404);
    assert!(world.machine.containers().is_empty());
}

/// A machine that two callers ask for must go to one of them, and a repeated request must not take a second lease.
#[tokio::test]
async fn a_held_machine_is_not_given_twice() {
    let world = World::new();
    let node = world.start().await;
    let first = node.running(1).await;
    let repeated = node.post("//Validator", "/v1/leases", &ask(1)).await;
    assert_eq!(
        (repeated.status, repeated.json::<Value>()["state"].clone()),
        (200, json!("running"))
    );
    let other_words = {
        let mut request = ask(1);
        request["duration_seconds"] = json!(60);
        request
    };
    let conflict = node.post("//Validator", "/v1/leases", &other_words).await;
    assert_eq!((conflict.status, conflict.code()), (409, Some(Code::LeaseConflict)));
    let other_holder = node.post("//Other", "/v1/leases", &ask(1)).await;
    assert_eq!((other_holder.status, other_holder.code()), (409, Some(Code::LeaseConflict)));
    for by in ["//Validator", "//Other"] {
        let occupied = node.post(by, "/v1/leases", &ask(2)).await;
        assert_eq!((occupied.status, occupied.code()), (409, Some(Code::Occupied)), "{by}");
    }
    assert_eq!(node.get("//Validator", &path(2)).await.status, 404, "nothing was stored");
    assert_eq!(node.until(1, "running").await, first);
    // Two at the same moment: one gets it.
    node.send("//Validator", "DELETE", &path(1), b"").await;
    node.until(1, "ended").await;
    let (third, fourth) = (ask(3), ask(4));
    let (third, fourth) = tokio::join!(
        node.post("//Validator", "/v1/leases", &third),
        node.post("//Other", "/v1/leases", &fourth),
    );
    let mut both = [third.status, fourth.status];
    both.sort_unstable();
    assert_eq!(both, [201, 409]);
}

/// What is another's must look like nothing, on every path, and must stay as it is.
#[tokio::test]
async fn only_its_holder_sees_a_lease() {
    let world = World::new();
    let node = world.start().await;
    let before = node.running(1).await;
    for (method, suffix, body) in every_path_of_a_lease() {
        let target = format!("{}{suffix}", path(1));
        let answer = node.send("//Other", method, &target, body.to_string().as_bytes()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, Some(Code::NoSuchLease)),
            "{method} {target}"
        );
        let answer = node.send("//Plain", method, &target, body.to_string().as_bytes()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, Some(Code::NotPermitted)),
            "{method} {target}"
        );
        let unknown = format!("/v1/leases/{}{suffix}", id(9));
        for unknown in [unknown.as_str(), &format!("/v1/leases/nonsense{suffix}")] {
            let answer =
                node.send("//Validator", method, unknown, body.to_string().as_bytes()).await;
            assert_eq!((answer.status, answer.code()), (404, Some(Code::NoSuchLease)), "{unknown}");
        }
    }
    assert_eq!(node.until(1, "running").await, before);
}

/// A renter's hotkey without a permit must not take a machine; a validator that loses its permit must not lose its leases.
#[tokio::test]
async fn leases_are_for_validators() {
    let world = World::new();
    let node = world.start().await;
    for by in ["//Plain", "//Stranger"] {
        let refused = node.post(by, "/v1/leases", &ask(1)).await;
        assert_eq!((refused.status, refused.code()), (403, Some(Code::NotPermitted)), "{by}");
    }
    let before = node.running(1).await;
    world.subnet.change("//Validator", |member| member.validator_permit = false);
    // The node reads the subnet again by itself.
    let reads = world.subnet.reads();
    world.clock.advance(std::time::Duration::from_secs(13));
    let read_again = async {
        while world.subnet.reads() == reads {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::http::PATIENCE, read_again).await.unwrap();
    assert_eq!(node.until(1, "running").await, before);
    let refused = node.post("//Validator", "/v1/leases", &ask(2)).await;
    assert_eq!((refused.status, refused.code()), (403, Some(Code::NotPermitted)));
    // It may see and change what it has, but not keep the machine for longer.
    let longer = json!({ "duration_seconds": 7200 });
    let refused = node.post("//Validator", &format!("{}/extend", path(1)), &longer).await;
    assert_eq!((refused.status, refused.code()), (403, Some(Code::NotPermitted)));
    assert_eq!(node.until(1, "running").await, before);
    let keys = json!({ "ssh_keys": [crate::world::OTHER_KEY] });
    assert_eq!(node.post("//Validator", &format!("{}/keys", path(1)), &keys).await.status, 200);
    assert_eq!(node.send("//Validator", "DELETE", &path(1), b"").await.status, 200);
}

/// Whom a provider keeps out of one door must not come in by the other, nor lose what it holds; whom it trusts needs no
/// permit.
#[tokio::test]
async fn the_lists_count_at_this_door_too() {
    let world = World::new();
    let mut list = AccessList::new(MIN_STAKE);
    list.block(key("//Other//coldkey").account(), "resold GPUs").unwrap();
    list.trust(key("//Plain").account());
    let open = MinerConfig { axon: Some(list.clone()), ..world.config() };
    let shut = MinerConfig { lists: Some(list), ..world.config() };
    for (byte, config) in [(2, open), (3, shut)] {
        let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
        let refused = node.post("//Other", "/v1/leases", &ask(1)).await;
        assert_eq!((refused.status, refused.code()), (403, Some(Code::NotPermitted)));
        assert!(refused.json::<Problem>().detail.contains("resold GPUs"));
        assert_eq!(node.post("//Plain", "/v1/leases", &ask(byte)).await.status, 201);
        assert_eq!(node.send("//Plain", "DELETE", &path(byte), b"").await.status, 200);
        assert_eq!(node.get("//Plain", &path(byte)).await.status, 200);
        node.kill().await;
    }
}

/// An act that does not fit must say where the lease stands, and leave it there.
#[tokio::test]
async fn acts_fit_the_state_or_are_refused() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    node.send("//Validator", "DELETE", &path(1), b"").await;
    let ended = node.until(1, "ended").await;
    let extend = json!({ "duration_seconds": 600 });
    let keys = json!({ "ssh_keys": [KEY] });
    let nothing = || json!({});
    let acts = [
        ("pause", nothing()),
        ("resume", nothing()),
        ("restart", nothing()),
        ("extend", extend),
        ("keys", keys),
    ];
    for (act, body) in acts {
        let answer = node.post("//Validator", &format!("{}/{act}", path(1)), &body).await;
        assert_eq!((answer.status, answer.code()), (409, Some(Code::WrongState)), "{act}");
        assert!(answer.json::<Problem>().detail.contains("ended"), "{act}");
    }
    assert_eq!(node.until(1, "ended").await, ended);
}

/// A path or method that does not exist must say so in the same form as everything else.
#[tokio::test]
async fn other_paths_and_methods_have_codes_too() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    let target = |text: &str| text.to_owned();
    let cases = [
        ("GET", target("/"), Code::NoSuchPath),
        ("GET", target("/v2/node"), Code::NoSuchPath),
        ("GET", target("/v1/node/"), Code::NoSuchPath),
        ("POST", format!("{}/explode", path(1)), Code::NoSuchPath),
        ("POST", target("/v1/node"), Code::MethodNotAllowed),
        ("GET", target("/v1/leases"), Code::MethodNotAllowed),
        ("PUT", path(1), Code::MethodNotAllowed),
        ("GET", format!("{}/pause", path(1)), Code::MethodNotAllowed),
        ("GET", format!("{}?wait_ms=10001", path(1)), Code::BadRequest),
        ("GET", format!("{}?wait_ms=soon", path(1)), Code::BadRequest),
        ("GET", format!("{}?wait=1", path(1)), Code::BadRequest),
        ("GET", format!("{}/events?since=-1", path(1)), Code::BadRequest),
    ];
    for (method, target, code) in cases {
        let answer = node.send("//Validator", method, &target, b"").await;
        assert_eq!(
            (answer.status, answer.code()),
            (code.status(), Some(code)),
            "{method} {target}"
        );
    }
}

/// Every path below a lease, with a body that would be taken.
pub(crate) fn every_path_of_a_lease() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("GET", "", Value::Null),
        ("DELETE", "", Value::Null),
        ("POST", "/extend", json!({ "duration_seconds": 600 })),
        ("POST", "/pause", json!({})),
        ("POST", "/resume", json!({})),
        ("POST", "/restart", json!({})),
        ("POST", "/keys", json!({ "ssh_keys": [KEY] })),
        ("GET", "/events", Value::Null),
    ]
}
