//! Renting through the v1.9.0 door: a lease from its check to its end, whose it is, and what is left of one that failed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nicompute_daemon::Clock as _;
use nicompute_host::gateway::Route;
use nicompute_market::LeaseId;
use nicompute_miner::{AccessList, ApiLimits, MIN_STAKE, MinerConfig};
use nicompute_wire::axon::{Allocate, Body as _, Received};
use nicompute_wire::node::LeaseView;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::sha2::Sha256;
use rsa::{Oaep, RsaPrivateKey};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::axon::{Asking, open, served, with};
use crate::http::{PATIENCE, request};
use crate::world::{KEY, Node, OTHER_KEY, SSH_PORT, START_MS, World};

const PRIVATE: &str = include_str!("../../../wire/testdata/caller2048.pem");
const PEM: &str = include_str!("../../../wire/testdata/caller2048.pub.pem");
const OTHER_PEM: &str = include_str!("../../../wire/testdata/caller4096.pub.pem");
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const ME: &str = "//Validator";

/// One request with these fields beside the defaults, and the `output` that comes back.
async fn ask(node: &Node<'_>, by: &str, fields: &Value) -> Map<String, Value> {
    let asking = asking(node.world, by, fields);
    served::<Allocate>(&asking.send(node).await).output
}

fn asking<'a>(world: &World, by: &str, fields: &Value) -> Asking<'a> {
    let body = Received::<Allocate>::parse(fields.to_string().as_bytes()).unwrap().body;
    Asking { timeout: Duration::from_secs(60), ..Asking::new(world, by, body) }
}

fn is_so(output: &Map<String, Value>) -> bool {
    assert_eq!(output["port"], SSH_PORT, "{output:?}");
    let status = output["status"].as_bool().unwrap();
    assert!(
        status || output["message"].as_str().is_some_and(|words| words.len() > 15),
        "{output:?}"
    );
    status
}

fn check() -> Value {
    json!({"timeline": 1})
}

fn mine(key: &str) -> Value {
    json!({"timeline": 0, "public_key": key})
}

fn create(key: &str) -> Value {
    json!({"timeline": 30, "checking": false, "public_key": key})
}

fn destroy(key: &str) -> Value {
    json!({"timeline": 0, "checking": false, "public_key": key})
}

fn change(key: &str, action: &str) -> Value {
    json!({
        "checking": false, "docker_change": true, "public_key": key,
        "docker_action": {"action": action, "ssh_key": ""},
    })
}

fn exchange(key: &str, ssh_key: &str, slot: &str) -> Value {
    json!({
        "checking": false, "docker_change": true, "public_key": key,
        "docker_action": {"action": "exchange_key", "ssh_key": ssh_key, "key_type": slot},
    })
}

/// What an answer says to the owner of the key.
fn opened(output: &Map<String, Value>) -> Value {
    let sealed = STANDARD.decode(output["info"].as_str().unwrap()).unwrap();
    let key = RsaPrivateKey::from_pkcs8_pem(PRIVATE).unwrap();
    serde_json::from_slice(&key.decrypt(Oaep::<Sha256>::new(), &sealed).unwrap()).unwrap()
}

/// The only container of the machine.
fn only(node: &Node<'_>) -> LeaseId {
    let containers = node.world.machine.containers();
    assert_eq!(containers.len(), 1, "{containers:?}");
    containers[0].0
}

/// The only lease, once it has the time that was answered: no rental and no test is as short as one that was not.
async fn kept(node: &Node<'_>) -> LeaseView {
    let path = format!("/v1/leases/{}", only(node));
    let kept = async {
        loop {
            let view: LeaseView = node.get(ME, &path).await.json();
            if view.expires_at_unix_ms > node.world.clock.unix_ms() + 240_000 {
                return view;
            }
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("a lease with its time")
}

/// From now on the machine fails at whatever it is asked for. What it has is known by then.
async fn starts_nothing(node: &Node<'_>) {
    assert!(node.is_available().await);
    node.world.machine.fail_next(u32::MAX);
}

/// Waits until everything is given back and nothing is left. What failed meanwhile is tried again after a pause; the time
/// that passes is too short for a lease to end by itself.
async fn until_clear(node: &Node<'_>) {
    let clear = async {
        let mut pauses = 0..40;
        while !node.is_available().await || !node.world.machine.containers().is_empty() {
            if pauses.next().is_some() {
                node.world.clock.advance(Duration::from_millis(250));
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, clear).await.expect("a clear machine");
}

/// A peer of 1.9.0 has nothing but these answers; one that is wrong is a machine that it never uses or never lets go of.
#[tokio::test]
async fn a_lease_from_its_check_to_its_end() {
    let world = World::new();
    let node = open(&world).await;
    let free =
        Map::from_iter([("status".to_owned(), json!(true)), ("port".to_owned(), json!(SSH_PORT))]);
    assert_eq!(ask(&node, ME, &check()).await, free);
    assert!(!is_so(&ask(&node, ME, &mine(PEM)).await));

    let answer = ask(&node, ME, &create(PEM)).await;
    assert!(is_so(&answer), "{answer:?}");
    assert_eq!(answer.keys().collect::<Vec<_>>(), ["info", "port", "status"]);
    let info = opened(&answer);
    assert_eq!((&info["username"], &info["port"]), (&json!("root"), &json!(SSH_PORT)));
    assert_eq!((info["version"].clone(), info.as_object().unwrap().len()), (json!(190), 4));
    let password = info["password"].as_str().unwrap();
    assert!(password.len() >= 10 && password.chars().all(|c| c.is_ascii_alphanumeric()));
    let lease = only(&node);
    let route = || node.routes.of(lease).unwrap();
    assert!(route().password.unwrap().matches(password));
    assert!(route().keys.is_empty());

    assert!(is_so(&ask(&node, ME, &mine(PEM)).await));
    assert!(!is_so(&ask(&node, ME, &check()).await), "it is leased");
    assert!(!is_so(&ask(&node, ME, &create(PEM)).await), "one of a key at a time");
    assert!(!is_so(&ask(&node, ME, &create(OTHER_PEM)).await), "one of the machine at a time");

    assert!(is_so(&ask(&node, ME, &change(PEM, "pause")).await));
    assert!(!is_so(&ask(&node, ME, &mine(PEM)).await), "it does not run");
    assert!(!is_so(&ask(&node, ME, &check()).await), "it is held all the same");
    for action in ["resume", "pause", "unpause", "restart"] {
        assert!(is_so(&ask(&node, ME, &change(PEM, action)).await), "{action}");
    }
    assert!(is_so(&ask(&node, ME, &mine(PEM)).await));
    let user = exchange(PEM, &format!("{OTHER_KEY} someone@somewhere\n"), "user");
    assert!(is_so(&ask(&node, ME, &user).await));
    assert!(is_so(&ask(&node, ME, &exchange(PEM, KEY, "terminal")).await));
    let entered = async {
        while route().keys != [OTHER_KEY, KEY] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, entered).await.expect("both keys enter");
    assert!(route().password.unwrap().matches(password), "the password stays");
    for action in ["", "stop", "kill -9 1"] {
        assert!(!is_so(&ask(&node, ME, &change(PEM, action)).await), "{action}");
    }

    assert!(is_so(&ask(&node, ME, &destroy(PEM)).await));
    until_clear(&node).await;
    assert!(node.routes.of(lease).is_none());
    assert!(!is_so(&ask(&node, ME, &mine(PEM)).await));
    assert!(!is_so(&ask(&node, ME, &destroy(PEM)).await), "there is none any more");
    assert_eq!(ask(&node, ME, &check()).await, free);
}

/// In 1.9.0 whoever has read a public key on the line can end the lease that it belongs to.
#[tokio::test]
async fn only_its_hotkey_with_its_key_changes_a_lease() {
    let world = World::new();
    let node = open(&world).await;
    assert!(is_so(&ask(&node, ME, &create(PEM)).await));
    let lease = only(&node);
    // The greeting tells of the lease's end, which moves once the order is answered.
    let way_in = || Route { greeting: None, ..node.routes.of(lease).unwrap() };
    let before = way_in();
    let unknown = ask(&node, ME, &destroy(OTHER_PEM)).await;
    for (by, key) in [("//Other", PEM), (ME, OTHER_PEM), ("//Other", OTHER_PEM)] {
        let mut asks = vec![mine(key), destroy(key), exchange(key, KEY, "user")];
        asks.extend(["pause", "restart", "resume"].map(|action| change(key, action)));
        for fields in asks {
            let answer = ask(&node, by, &fields).await;
            assert_eq!(answer, unknown, "{by}: {fields}");
        }
    }
    assert_eq!(way_in(), before);
    assert!(is_so(&ask(&node, ME, &mine(PEM)).await));
    // The same key with other line ends is the same owner.
    assert!(is_so(&ask(&node, ME, &destroy(&PEM.replace('\n', "\r\n"))).await));
    until_clear(&node).await;
}

/// Two who both get yes share one machine.
#[tokio::test]
async fn two_orders_at_once_make_one_lease() {
    let world = World::new();
    let node = open(&world).await;
    for (second_by, second_key) in [(ME, PEM), (ME, OTHER_PEM), ("//Other", OTHER_PEM)] {
        let (one, other) = (create(PEM), create(second_key));
        let answers = tokio::join!(ask(&node, ME, &one), ask(&node, second_by, &other));
        let given = [is_so(&answers.0), is_so(&answers.1)];
        assert_eq!(given.iter().filter(|given| **given).count(), 1, "{answers:?}");
        only(&node);
        let (by, key) = if given[0] { (ME, PEM) } else { (second_by, second_key) };
        assert!(is_so(&ask(&node, by, &destroy(key)).await));
        until_clear(&node).await;
    }
}

/// Two who are told the same free slice at once: the slower one must get the next, not a no.
#[tokio::test]
async fn whoever_is_slower_gets_the_next_offer() {
    let world = World::new();
    let file = world.dir.path().join("offers.toml");
    let text = "[[offer]]\nid = \"s\"\ncopies = 2\ncores_milli = 200\nmemory = \"64MiB\"\n\
                disk = \"64MiB\"\nprice_micro_usd_per_hour = 1\n";
    std::fs::write(&file, text).unwrap();
    let axon = Some(AccessList::new(MIN_STAKE));
    let config = MinerConfig { axon, offers: Some(file), ..world.config() };
    let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
    for _ in 0..5 {
        let (one, other) = (create(PEM), create(OTHER_PEM));
        let answers = tokio::join!(ask(&node, ME, &one), ask(&node, ME, &other));
        assert!(is_so(&answers.0) && is_so(&answers.1), "{answers:?}");
        let third = ask(&node, "//Other", &create(PEM)).await;
        assert!(!is_so(&third), "there are two: {third:?}");
        for key in [PEM, OTHER_PEM] {
            assert!(is_so(&ask(&node, ME, &destroy(key)).await));
        }
        let gone = async {
            while !world.machine.containers().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the leases go");
    }
}

/// A lease that nobody can enter, for its password was never heard, holds the machine for a month.
#[tokio::test]
async fn a_caller_who_hangs_up_leaves_nothing() {
    let world = World::new();
    let node = open(&world).await;
    starts_nothing(&node).await;
    let asking = asking(&world, ME, &create(PEM));
    tokio::select! {
        answer = asking.send(&node) => panic!("{answer:?}"),
        () = async { while node.is_available().await {} } => {}
    }
    world.machine.fail_next(0);
    until_clear(&node).await;
    assert!(is_so(&ask(&node, ME, &create(PEM)).await));
}

/// A caller who waits for ever for a machine that does not start asks no other.
#[tokio::test]
async fn what_does_not_come_up_in_time_is_refused_and_gone() {
    let world = World::new();
    let node = open(&world).await;
    starts_nothing(&node).await;
    let asking = asking(&world, ME, &create(PEM));
    let late = async {
        while node.is_available().await {}
        world.clock.advance(Duration::from_millis(54_700));
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = asking.send(&node) => answer,
        () = late => unreachable!(),
    };
    assert!(!is_so(&served::<Allocate>(&answer).output));
    world.machine.fail_next(0);
    until_clear(&node).await;
}

/// A node that dies between the order and its answer must not keep the lease; one that dies after it must.
#[tokio::test]
async fn a_killed_node_keeps_what_it_has_answered() {
    let world = World::new();
    let node = open(&world).await;
    starts_nothing(&node).await;
    let order = asking(&world, ME, &create(PEM));
    let mut waiting = TcpStream::connect(node.at()).await.unwrap();
    waiting.write_all(&request("POST", "/Allocate", &order.lines(), &order.body)).await.unwrap();
    while node.is_available().await {}
    node.kill().await;
    drop(waiting);
    world.machine.fail_next(0);
    // Nonces of just before the kill are not taken again.
    world.clock.advance(Duration::from_secs(5));
    let node = open(&world).await;
    until_clear(&node).await;
    let answer = ask(&node, ME, &create(PEM)).await;
    let info = opened(&answer);
    let lease = only(&node);
    kept(&node).await;
    node.kill().await;

    world.clock.advance(Duration::from_secs(5));
    let node = open(&world).await;
    let adopted = async {
        while node.routes.of(lease).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, adopted).await.expect("the lease is adopted");
    assert!(is_so(&ask(&node, ME, &mine(PEM)).await));
    let password = node.routes.of(lease).unwrap().password.unwrap();
    assert!(password.matches(info["password"].as_str().unwrap()));
    assert!(is_so(&ask(&node, ME, &destroy(PEM)).await));
}

/// A test that lasts a month keeps renters out; a month that ends after minutes is no rental.
#[tokio::test]
async fn a_lease_lasts_as_long_as_was_asked_within_limits() {
    let world = World::new();
    let node = open(&world).await;
    let cases = [
        (json!({"timeline": 1}), DAY_MS, None),
        (json!({"timeline": 31}), 31 * DAY_MS, None),
        (json!({"timeline": 60}), 31 * DAY_MS, Some("the lease ends after 31 days")),
        (json!({"timeline": i64::MAX}), 31 * DAY_MS, Some("the lease ends after 31 days")),
        (json!({"timeline": 1, "device_requirement": {"testing": true}}), 600_000, None),
    ];
    for (fields, lasts_ms, message) in cases {
        let mut order = create(PEM);
        order.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let asked_at = world.clock.unix_ms();
        let answer = ask(&node, ME, &order).await;
        assert!(is_so(&answer), "{fields}: {answer:?}");
        assert_eq!(answer.get("message").and_then(Value::as_str), message, "{fields}");
        assert_eq!(kept(&node).await.expires_at_unix_ms, asked_at + lasts_ms, "{fields}");
        assert!(is_so(&ask(&node, ME, &destroy(PEM)).await));
        until_clear(&node).await;
    }
}

/// An offer's own terms hold for callers of this door too: a lease that is longer, or of another image, is one that its
/// owner did not put up.
#[tokio::test]
async fn the_offers_terms_hold() {
    let world = World::new();
    world.machine.set_images(&["debian:12", "pytorch/pytorch:2.7.0"]);
    let file = world.dir.path().join("offers.toml");
    let small = "[[offer]]\nid = \"small\"\ncores = 1\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n\
                 price_micro_usd_per_hour = 1\nmin_duration = \"2d\"\nmax_duration = \"10d\"\n\
                 images = [\"debian:12\"]\n";
    let large = "[[offer]]\nid = \"large\"\ncores = 1\nmemory = \"128MiB\"\ndisk = \"64MiB\"\n\
                 price_micro_usd_per_hour = 1\n";
    std::fs::write(&file, format!("{small}{large}")).unwrap();
    let config = MinerConfig {
        axon: Some(AccessList::new(MIN_STAKE)),
        offers: Some(file),
        ..world.config()
    };
    let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
    let order = |days: u64, memory: u64, image: &str| {
        let mut order = create(PEM);
        order["timeline"] = json!(days);
        order["device_requirement"] = json!({"ram": {"capacity": memory}});
        order["docker_requirement"] = json!({"base_image": image});
        order
    };
    for refused in [order(5, 1, "pytorch"), order(5, 1 << 40, "")] {
        let answer = ask(&node, ME, &refused).await;
        assert!(!is_so(&answer), "{refused}: {answer:?}");
    }
    let cases = [
        (order(1, 1, ""), "large", "debian:12", 1),
        (order(5, 1, "ubuntu"), "small", "debian:12", 5),
        (order(60, 1, "pytorch/pytorch:2.7.0"), "small", "debian:12", 10),
        (order(5, 100 << 20, "pytorch/pytorch:2.7.0"), "large", "pytorch/pytorch:2.7.0", 5),
        (order(60, 100 << 20, "debian:12"), "large", "debian:12", 31),
    ];
    for (order, offer, image, days) in cases {
        let answer = ask(&node, ME, &order).await;
        assert!(is_so(&answer), "{order}: {answer:?}");
        let view = kept(&node).await;
        let expected = (offer, image, START_MS + days * DAY_MS);
        assert_eq!((view.offer.as_str(), &*view.image, view.expires_at_unix_ms), expected);
        assert!(is_so(&ask(&node, ME, &destroy(PEM)).await));
        let gone = async {
            while !world.machine.containers().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the lease goes");
    }
}

/// Whatever stands in a body that nobody signs: it is refused in words, or it is nothing but data.
#[tokio::test]
async fn hostile_orders_change_nothing() {
    let world = World::new();
    let mut list = AccessList::new(MIN_STAKE);
    list.trust(crate::world::key("//Plain").account());
    let node = with(&world, list).await;
    let docker = |field: &str, value: &str| {
        let mut order = create(PEM);
        order["docker_requirement"] = json!({ field: value });
        order
    };
    let keys = [
        "PEM",
        "-----BEGIN PUBLIC KEY-----\n$(touch /tmp/x)\n-----END PUBLIC KEY-----",
        include_str!("../../../wire/testdata/caller1024.pub.pem"),
        include_str!("../../../wire/testdata/caller16384.pub.pem"),
        include_str!("../../../wire/testdata/caller2048e3.pub.pem"),
        include_str!("../../../wire/testdata/p256.pub.pem"),
        PRIVATE,
        &"A".repeat(16 * 1024),
        "",
    ];
    let mut orders: Vec<Value> = keys.iter().map(|key| create(key)).collect();
    orders.extend(keys.iter().map(|key| destroy(key)));
    orders.extend(keys.iter().map(|key| change(key, "pause")));
    orders.extend([
        docker("dockerfile", "pip install torch"),
        docker("dockerfile", "echo $(id)\nRUN id"),
        docker("volume_path", "/var/run/docker.sock"),
        docker("volume_path", "../../etc"),
        docker("base_image", "$(id)"),
        docker("base_image", "not/there:1"),
        docker("ssh_key", "'; touch /tmp/x; '"),
        docker("ssh_key", &format!("command=\"id\" {KEY}")),
        docker("ssh_key", &format!("{KEY}\n{KEY}")),
        docker("ssh_key", &format!("{KEY} {}", "x".repeat(16 * 1024))),
    ]);
    for kind in ["cpu", "ram", "hard_disk", "gpu"] {
        for number in [json!(u64::MAX), json!(1e300), json!(-1), json!("x"), json!({})] {
            let mut order = create(PEM);
            order["device_requirement"] = json!({ kind: {"count": number, "capacity": number} });
            orders.push(order);
        }
    }
    for order in orders {
        let answer = ask(&node, "//Plain", &order).await;
        assert!(!is_so(&answer), "{order}: {answer:?}");
    }
    assert!(node.is_available().await);
    assert!(world.machine.containers().is_empty());
    assert_eq!(Allocate::NAME, "Allocate");
}

/// An owner who lets in nobody for less than an hour, or for more than a week, must not be closed to peers of 1.9.0, which
/// ask for days; and they must be told how long they have.
#[tokio::test]
async fn an_owners_shortest_and_longest_time_hold_for_the_whole_lease() {
    let world = World::new();
    let file = world.dir.path().join("offers.toml");
    let text = "[[offer]]\nid = \"a\"\nprice_micro_usd_per_hour = 1\ncores = 1\nmemory = \"64 MiB\"\n\
                disk = \"64 MiB\"\nmin_duration = \"1h\"\nmax_duration = \"7d\"\n";
    std::fs::write(&file, text).unwrap();
    let list = AccessList::new(MIN_STAKE);
    let config = MinerConfig { axon: Some(list), offers: Some(file), ..world.config() };
    let node = world.start_with(config, ApiLimits::standard()).await.unwrap();
    let answer = ask(&node, ME, &create(PEM)).await;
    assert!(is_so(&answer), "{answer:?}");
    assert!(answer["message"].as_str().unwrap().contains("7 days"), "{answer:?}");
    assert!(is_so(&ask(&node, ME, &destroy(PEM)).await));
}
