//! What a holder does with a lease, from asking to the end.

use std::time::Duration;

use nicompute_host::runtime::Presence;
use nicompute_market::{
    EndReason, LeaseKeys, LeaseOptions, LeaseState, LegacyAccess, PROOF_LEASE_MILLIS_MAX, Purpose,
};
use nicompute_miner::{Created, Denied, OFFER_ID, Order, Owner};
use nicompute_wire::codes::Code;
use nicompute_wire::hostkey;
use nicompute_wire::node::{LeaseView, NodeView, OffersView};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::{PATIENCE, request};
use crate::world::{ANNOUNCED_IP, KEY, OTHER_KEY, SSH_PORT, World, ask, id, key, path, signed};

/// The path that every rental takes: if a step of it is wrong, nothing can be rented.
#[tokio::test]
async fn a_lease_is_asked_for_used_and_given_back() {
    let world = World::new();
    let node = world.start().await;
    assert!(node.is_available().await);
    let asked: LeaseView = node.post("//Validator", "/v1/leases", &ask(1)).await.json();
    assert_eq!((asked.purpose.as_str(), asked.image.as_str()), ("rental", "fake"));
    assert_eq!(asked.holder, key("//Validator").hotkey());
    assert_eq!(asked.ssh, None, "nobody can enter yet");
    let running = node.until(1, "running").await;
    let ssh = running.ssh.unwrap();
    assert_eq!((ssh.host, ssh.port), (ANNOUNCED_IP.to_string(), SSH_PORT));
    assert_eq!(ssh.user, id(1).short());
    let spec = world.machine.spec_of(id(1)).unwrap();
    assert_eq!(
        (spec.image.as_str(), spec.dir),
        ("fake", world.state_dir().join("leases").join(id(1).to_string()))
    );
    let route = node.routes.of(id(1)).unwrap();
    assert_eq!(route.keys, [KEY]);
    assert!(route.init_pid.is_some());
    assert!(!node.is_available().await);

    let released: LeaseView = node.send("//Validator", "DELETE", &path(1), b"").await.json();
    assert_eq!((released.state.as_str(), released.reason.as_deref()), ("ending", Some("released")));
    let ended = node.until(1, "ended").await;
    assert_eq!(ended.reason.as_deref(), Some("released"));
    assert!(world.machine.containers().is_empty());
    assert_eq!(node.routes.of(id(1)), None);
    assert!(!world.state_dir().join("leases").join(id(1).to_string()).exists());
    assert!(node.is_available().await);
    // Giving back once more is no error and changes nothing.
    let again: LeaseView = node.send("//Validator", "DELETE", &path(1), b"").await.json();
    assert_eq!(again, ended);
}

/// A frozen lease must really stop and keep its door; other keys must replace the old ones at once.
#[tokio::test]
async fn a_lease_is_paused_resumed_extended_and_given_other_keys() {
    let world = World::new();
    let node = world.start().await;
    let running = node.running(1).await;
    let is = |wanted: fn(&Presence) -> bool| {
        let machine = world.machine.clone();
        async move {
            let reached = async {
                while !machine.containers().iter().all(|(_, presence)| wanted(presence)) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, reached).await.unwrap();
        }
    };
    let paused: LeaseView =
        node.post("//Validator", &format!("{}/pause", path(1)), &json!({})).await.json();
    assert_eq!(paused.state, "paused");
    is(|presence| matches!(presence, Presence::Paused { .. })).await;
    assert!(node.routes.of(id(1)).is_some());
    let resumed: LeaseView =
        node.post("//Validator", &format!("{}/resume", path(1)), &json!({})).await.json();
    assert_eq!(resumed.state, "running");
    is(|presence| matches!(presence, Presence::Running { .. })).await;

    world.clock.advance(Duration::from_secs(60));
    let more = json!({ "duration_seconds": 7200 });
    let extended: LeaseView =
        node.post("//Validator", &format!("{}/extend", path(1)), &more).await.json();
    assert_eq!(extended.expires_at_unix_ms, running.expires_at_unix_ms + 3_660_000);
    let less = json!({ "duration_seconds": 5 });
    let unchanged: LeaseView =
        node.post("//Validator", &format!("{}/extend", path(1)), &less).await.json();
    assert_eq!(unchanged, extended);

    let keys = json!({ "ssh_keys": [OTHER_KEY, OTHER_KEY] });
    let replaced: LeaseView =
        node.post("//Validator", &format!("{}/keys", path(1)), &keys).await.json();
    assert_eq!(replaced.generation, extended.generation + 1);
    let reached = async {
        while node.routes.of(id(1)).unwrap().keys != [OTHER_KEY] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
}

/// A renter whose programs hang must get its machine anew, with its disk and its keys; a terminal's key must come and go
/// without the renter's own.
#[tokio::test]
async fn a_lease_is_restarted_and_each_slot_has_its_keys() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    let pid = || node.routes.of(id(1)).unwrap().init_pid.unwrap();
    let before = pid();
    let asked: LeaseView =
        node.post("//Validator", &format!("{}/restart", path(1)), &json!({})).await.json();
    assert!(asked.state == "running" && asked.restart_pending);
    let done = async {
        while node.lease(1).await.restart_pending {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.unwrap();
    assert_ne!(pid(), before, "the old process is not let in any more");

    let keys = format!("{}/keys", path(1));
    let terminal = json!({ "ssh_keys": [OTHER_KEY], "slot": "terminal" });
    assert_eq!(node.post("//Validator", &keys, &terminal).await.status, 200);
    let enter = async |wanted: &[&str]| {
        let reached = async {
            while node.routes.of(id(1)).unwrap().keys != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    };
    enter(&[KEY, OTHER_KEY]).await;
    let two = json!({ "ssh_keys": [KEY, OTHER_KEY], "slot": "terminal" });
    assert_eq!(node.post("//Validator", &keys, &two).await.code(), Some(Code::BadSshKey));
    let unknown = json!({ "ssh_keys": [KEY], "slot": "root" });
    assert_eq!(node.post("//Validator", &keys, &unknown).await.code(), Some(Code::BadRequest));
    let none = json!({ "ssh_keys": [], "slot": "terminal" });
    assert_eq!(node.post("//Validator", &keys, &none).await.status, 200);
    enter(&[KEY]).await;
}

/// What a renter asked for beyond its share must reach the container as it was said, and what no container may be given
/// must be refused before anything is held.
#[tokio::test]
async fn options_reach_the_container_or_are_refused() {
    let world = World::new();
    let node = world.start().await;
    let mut asked = ask(1);
    asked["options"] = json!({
        "environment": { "TOKEN": "$(x) 'y'\n" },
        "volumes": [{ "name": "data", "target": "/data" }],
        "tmpfs": [{ "target": "/scratch", "bytes": 65536 }],
        "shm_bytes": 65536,
    });
    let lease: LeaseView = node.post("//Validator", "/v1/leases", &asked).await.json();
    assert!(lease.share.is_some_and(|share| share.cores_milli > 0));
    node.until(1, "running").await;
    let options = world.machine.spec_of(id(1)).unwrap().options;
    assert_eq!(options.environment, [("TOKEN".to_owned(), "$(x) 'y'\n".to_owned())]);
    assert_eq!((options.volumes[0].name.as_str(), options.tmpfs[0].bytes), ("data", 65536));
    assert_eq!(options.shm_bytes, Some(65536));
    let again = node.post("//Validator", "/v1/leases", &asked).await;
    assert_eq!(again.status, 200, "the same words");
    asked["options"]["environment"]["TOKEN"] = json!("other");
    let other = node.post("//Validator", "/v1/leases", &asked).await;
    assert_eq!(other.code(), Some(Code::LeaseConflict));
    node.send("//Validator", "DELETE", &path(1), b"").await;
    node.until(1, "ended").await;
    for options in [
        json!({ "volumes": [{ "name": "x", "target": "/proc" }] }),
        json!({ "volumes": [{ "name": "../x", "target": "/x" }] }),
        json!({ "environment": { "LD_PRELOAD": "x" } }),
        json!({ "environment": { "A": "b\u{0}" } }),
        json!({ "tmpfs": [{ "target": "/x", "bytes": 1 }] }),
        json!({ "shm_bytes": u64::MAX }),
        json!({ "class": "host" }),
        json!({ "ports": [0] }),
        json!({ "privileged": true }),
    ] {
        let mut asked = ask(2);
        asked["options"] = options.clone();
        let refused = node.post("//Validator", "/v1/leases", &asked).await;
        assert_eq!((refused.status, refused.code()), (400, Some(Code::BadRequest)), "{options}");
    }
    assert!(node.is_available().await);
}

/// A GPU that is gone must end its lease with what shows it, for the renter to see; a smaller fault must be said and end
/// nothing.
#[tokio::test]
async fn the_node_ends_and_degrades_with_evidence() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    let leases = node.miner.leases();
    leases.degrade(id(1), "GPU-1 runs at half its clock").await.unwrap();
    let degraded = node.lease(1).await;
    assert_eq!(degraded.state, "running");
    assert_eq!(degraded.detail.as_deref(), Some("GPU-1 runs at half its clock"));
    leases.end(id(1), EndReason::Gpu, "GPU-1 fell off the bus (Xid 79)").await.unwrap();
    let ended = node.until(1, "ended").await;
    assert_eq!(ended.reason.as_deref(), Some("gpu"));
    assert_eq!(ended.detail.as_deref(), Some("GPU-1 fell off the bus (Xid 79)"));
    leases.end(id(1), EndReason::Provider, "later").await.unwrap();
    assert_eq!(node.lease(1).await, ended, "the first reason stands");
}

/// The key of a lease of the v1.9.0 door must change that lease and no other, and no hotkey's lease answers to a key.
#[tokio::test]
async fn a_lease_with_an_owner_key_answers_to_it() {
    let world = World::new();
    let node = world.start().await;
    let leases = node.miner.leases();
    let holder = key("//Plain").hotkey();
    let order = Order {
        id: id(1),
        offer: OFFER_ID.parse().unwrap(),
        purpose: Purpose::Rental,
        holder,
        keys: LeaseKeys::default(),
        image: None,
        duration_seconds: 3600,
        full_seconds: None,
        options: LeaseOptions::default(),
        legacy: Some(LegacyAccess {
            owner_key_sha256: [7; 32],
            password_hash: "$argon2id$x".to_owned(),
        }),
    };
    let without = Order { legacy: None, ..order.clone() };
    assert!(matches!(leases.create(without).await, Err(Denied::BadKey(_))), "nobody could enter");
    assert!(matches!(leases.create(order).await, Ok(Created::New(_))));
    let settled = leases.settled(id(1), Owner::Caller(&holder, &[7; 32]));
    let lease = tokio::time::timeout(PATIENCE, settled).await.unwrap().unwrap();
    assert_eq!(lease.state, LeaseState::Running);
    assert!(!leases.is_free(&lease.terms.offer).await.unwrap());
    assert!(matches!(
        leases.pause(id(1), Owner::Caller(&holder, &[8; 32])).await,
        Err(Denied::NoSuchLease)
    ));
    let other = key("//Validator").hotkey();
    for stranger in [Owner::Holder(&other), Owner::Caller(&other, &[7; 32])] {
        assert!(matches!(leases.release(id(1), stranger).await, Err(Denied::NoSuchLease)));
    }
    assert!(leases.find(Owner::Caller(&other, &[7; 32])).await.unwrap().is_none());
    assert_eq!(
        leases.find(Owner::Caller(&holder, &[7; 32])).await.unwrap().map(|l| l.terms.id),
        Some(id(1))
    );
    leases.release(id(1), Owner::Caller(&holder, &[7; 32])).await.unwrap();
    let gone = async {
        while leases.find(Owner::Caller(&holder, &[7; 32])).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

/// A lease whose time is over must end by itself, whoever forgets it.
#[tokio::test]
async fn a_lease_ends_by_the_clock() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    world.clock.advance(Duration::from_secs(3600));
    let ended = node.until(1, "ended").await;
    assert_eq!(ended.reason.as_deref(), Some("expired"));
    assert!(world.machine.containers().is_empty());
}

/// A proof must never hold a machine longer than ten minutes, extended or not.
#[tokio::test]
async fn a_proof_ends_after_ten_minutes() {
    let world = World::new();
    let node = world.start().await;
    let mut proof = ask(1);
    proof["purpose"] = json!("proof");
    proof["duration_seconds"] = json!(PROOF_LEASE_MILLIS_MAX / 1000 + 1);
    let refused = node.post("//Validator", "/v1/leases", &proof).await;
    assert_eq!((refused.status, refused.code()), (400, Some(Code::BadRequest)));
    proof["duration_seconds"] = json!(300);
    assert_eq!(node.post("//Validator", "/v1/leases", &proof).await.status, 201);
    node.until(1, "running").await;
    let extend = format!("{}/extend", path(1));
    let longest = json!({ "duration_seconds": PROOF_LEASE_MILLIS_MAX / 1000 });
    assert_eq!(node.post("//Validator", &extend, &longest).await.status, 200);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(node.post("//Validator", &extend, &longest).await.status, 400);
    world.clock.advance(Duration::from_millis(PROOF_LEASE_MILLIS_MAX - 1000));
    node.until(1, "ended").await;
}

/// A caller that waits for a change must get it at once, and an answer when there is none.
#[tokio::test]
async fn waiting_for_a_change_ends_with_it_or_with_the_time() {
    let world = World::new();
    let node = world.start().await;
    let running = node.running(1).await;
    // Older than what is stored: no wait.
    let stale = format!("{}?wait_ms=10000&generation={}", path(1), running.generation - 1);
    assert_eq!(node.get("//Validator", &stale).await.json::<LeaseView>(), running);
    let wait = format!("{}?wait_ms=10000&generation={}", path(1), running.generation);
    let (waited, released) = tokio::join!(node.get("//Validator", &wait), async {
        tokio::task::yield_now().await;
        node.send("//Validator", "DELETE", &path(1), b"").await
    });
    assert!(waited.json::<LeaseView>().generation > running.generation);
    assert_eq!(released.status, 200);
    let ended = node.until(1, "ended").await;
    let over = format!("{}?wait_ms=10000&generation={}", path(1), ended.generation);
    assert_eq!(
        node.get("//Validator", &over).await.json::<LeaseView>(),
        ended,
        "a final lease never changes"
    );
    node.running(2).await;
    let quiet = format!("{}?wait_ms=1000", path(2));
    let (answer, ()) = tokio::join!(node.get("//Validator", &quiet), async {
        // Less in all than a request may be old; each question goes the same way as the waiting one, behind it.
        for _ in 0..9 {
            assert_eq!(node.get("//Validator", &path(2)).await.status, 200);
            world.clock.advance(Duration::from_secs(1));
        }
    });
    assert_eq!(answer.json::<LeaseView>().state, "running");
}

/// A stream must show everything that happened, and end with the lease.
#[tokio::test]
async fn events_are_streamed_from_the_first_to_the_last() {
    let world = World::new();
    let node = world.start().await;
    node.running(1).await;
    let target = format!("{}/events?since=1", path(1));
    let headers = signed(&key("//Validator"), "GET", &target, b"", world.nonce());
    let mut socket = tokio::net::TcpStream::connect(node.at()).await.unwrap();
    socket.write_all(&request("GET", &target, &headers, b"")).await.unwrap();
    let mut text = String::new();
    while !text.contains("\"running\"") {
        let mut chunk = [0; 4096];
        let count = socket.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the stream ended early: {text}");
        text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    assert!(text.contains("text/event-stream") && text.contains("x-nicompute-response-signature"));
    assert!(!text.contains("\"requested\""), "only what came after generation 1");
    node.send("//Validator", "DELETE", &path(1), b"").await;
    let rest = tokio::time::timeout(PATIENCE, socket.read_to_string(&mut text)).await;
    rest.expect("the stream ends with the lease").unwrap();
    let states: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap())
        .map(|event| event["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["preparing", "running", "ending", "ended"]);
}

/// A renter must be able to check the SSH host key against the hotkey before the first connection.
#[tokio::test]
async fn the_node_says_who_it_is() {
    let world = World::new();
    let node = world.start().await;
    // Anybody who signs may look.
    let view: NodeView = node.get("//Stranger", "/v1/node").await.json();
    assert_eq!(view.hotkey, key("//Miner").hotkey());
    assert_eq!((view.ssh.port, view.limits_enforced), (SSH_PORT, true));
    let ssh = &view.ssh;
    hostkey::verify(&view.hotkey, &ssh.host_key, &ssh.host_key_signature).unwrap();
    let offers: OffersView = node.get("//Stranger", "/v1/offers").await.json();
    let [offer] = offers.offers.as_slice() else { panic!("one offer for the whole machine") };
    assert_eq!(offer.id.as_str(), nicompute_miner::OFFER_ID);
    assert_eq!(offer.price_micro_usd_per_hour, 250_000);
    assert_eq!(offer.images, ["fake"]);
    assert_eq!(offer.machine, view.machine);
    assert!(offer.machine.cores > 0 && offer.machine.memory_bytes > 0);
}
