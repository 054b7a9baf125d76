//! The v1.9.0 axon door: who is let in, what is refused in which words, and what a peer of 1.9.0 gets.

use std::time::Duration;

use nicompute_keys::Keypair;
use nicompute_market::{AccountId, Hotkey, Rao};
use nicompute_miner::{AccessList, ApiLimits, MIN_STAKE, MinerConfig};
use nicompute_wire::axon::{
    Allocate, Body, Call, Challenge, Head, Ping, Specs, Synapse, message_of, sign_call,
    verify_answer,
};
use nicompute_wire::node::BODY_BYTES_MAX;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::{Answer, exchange, request};
use crate::world::{Node, World, key};

/// One call of a dendrite.
pub(crate) struct Asking<'a> {
    pub(crate) by: Keypair,
    pub(crate) receiver: Hotkey,
    pub(crate) path: &'a str,
    pub(crate) uuid: &'a str,
    pub(crate) nonce_ns: u64,
    pub(crate) timeout: Duration,
    pub(crate) body: Vec<u8>,
}

impl<'a> Asking<'a> {
    pub(crate) fn new<B: Body>(world: &World, by: &str, body: B) -> Self {
        let synapse = Synapse { name: Some(B::NAME.to_owned()), body, ..Synapse::<B>::default() };
        Self {
            by: key(by),
            receiver: key("//Miner").hotkey(),
            path: B::NAME,
            uuid: "dendrite-1",
            nonce_ns: world.nonce(),
            timeout: Duration::from_secs(12),
            body: synapse.to_bytes(),
        }
    }

    pub(crate) fn lines(&self) -> Vec<(String, String)> {
        let call = Call {
            name: self.path,
            timeout: self.timeout,
            axon: ("127.0.0.1".parse().unwrap(), 8091),
            axon_hotkey: &self.receiver,
            dendrite_ip: "192.0.2.77".parse().unwrap(),
            nonce_ns: self.nonce_ns,
            uuid: self.uuid,
        };
        let lines = sign_call(&self.by, &call).to_headers();
        let lines = lines.into_iter().map(|(name, value)| (name.to_owned(), value));
        lines.chain([("content-type".to_owned(), "application/json".to_owned())]).collect()
    }

    pub(crate) async fn send(&self, node: &Node<'_>) -> Answer {
        self.send_as(node, "POST").await
    }

    async fn send_as(&self, node: &Node<'_>, method: &str) -> Answer {
        let target = format!("/{}", self.path);
        exchange(node.at(), &request(method, &target, &self.lines(), &self.body)).await
    }
}

/// A node whose door is open.
pub(crate) async fn open(world: &World) -> Node<'_> {
    with(world, AccessList::new(MIN_STAKE)).await
}

pub(crate) async fn with(world: &World, list: AccessList) -> Node<'_> {
    let config = MinerConfig { axon: Some(list), ..world.config() };
    world.start_with(config, ApiLimits::standard()).await.unwrap()
}

fn head(answer: &Answer) -> Head {
    let lines = answer.headers.iter();
    Head::parse(lines.map(|(name, value)| (name.as_str(), value.as_bytes()))).unwrap()
}

pub(crate) fn refused(answer: &Answer) -> (u16, String) {
    let (message, head) = (message_of(&answer.body).unwrap(), head(answer));
    assert_eq!(head.axon.status_message.as_deref(), Some(message.as_str()));
    assert_eq!(head.axon.status_code, Some(answer.status));
    (answer.status, message)
}

pub(crate) fn served<B: Body>(answer: &Answer) -> B {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(head(answer).axon.status_message.as_deref(), Some("Success"));
    let synapse = Synapse::<B>::parse(&answer.body).unwrap();
    assert_eq!(synapse.axon.unwrap().status_code, Some(200));
    synapse.body
}

pub(crate) fn check(device_requirement: &Value) -> Allocate {
    let device_requirement = device_requirement.as_object().unwrap().clone();
    Allocate { timeline: 1, device_requirement, ..Allocate::default() }
}

/// What a check is answered, and why.
fn refusal(message: &str) -> Map<String, Value> {
    Map::from_iter([
        ("status".to_owned(), json!(false)),
        ("message".to_owned(), json!(message)),
        ("port".to_owned(), json!(crate::world::SSH_PORT)),
    ])
}

/// A peer resets every field that is absent in the answer, and sees no status without the headers.
#[tokio::test]
async fn the_whole_synapse_comes_back() {
    let world = World::new();
    let node = open(&world).await;
    let asking = Asking::new(
        &world,
        "//Validator",
        Challenge { challenge_hash: "h".to_owned(), ..Challenge::default() },
    );
    let answer = asking.send(&node).await;
    let challenge: Challenge = served(&answer);
    assert_eq!(challenge, Challenge { challenge_hash: "h".to_owned(), ..Challenge::default() });
    let head = head(&answer);
    assert_eq!(head.name.as_deref(), Some("Challenge"));
    assert_eq!(head.timeout.as_deref(), Some("12.0"));
    assert_eq!(head.dendrite.hotkey, Some(asking.by.hotkey().to_string()));
    assert_eq!((head.dendrite.nonce, head.axon.port), (Some(asking.nonce_ns), Some(8091)));
    assert_eq!(head.axon.signature, None, "as the original: only refusals are signed");
    assert!(head.axon.process_time.is_some());
    let synapse = Synapse::<Challenge>::parse(&answer.body).unwrap();
    assert_eq!(synapse.dendrite.unwrap().uuid.as_deref(), Some("dendrite-1"));
    let ping = Asking::new(&world, "//Nobody", Ping {});
    assert_eq!(served::<Ping>(&ping.send(&node).await), Ping {});
    let bare = Asking {
        body: br#"{"axon": {"port": 70000}}"#.to_vec(),
        ..Asking::new(&world, "//Nobody", Ping {})
    };
    let answer: Value = bare.send(&node).await.json();
    assert_eq!((&answer["timeout"], &answer["total_size"]), (&json!(12.0), &json!(0)));
    assert_eq!(answer["axon"]["port"], 8091, "the headers', not the body's");
    let get = Asking::new(&world, "//Nobody", Ping {});
    assert_eq!(get.send_as(&node, "GET").await.status, 200);
    let specs: Specs =
        served(&Asking::new(&world, "//Validator", Specs::default()).send(&node).await);
    let said: Value = serde_json::from_str(&specs.specs_output).unwrap();
    assert_eq!(said["status"], false);
}

/// A node that says yes to a check and no to the order that follows is asked in vain, again and again.
#[tokio::test]
async fn a_check_is_answered_as_the_order_would_be() {
    let world = World::new();
    let node = open(&world).await;
    let ask = async |body: Allocate| -> Allocate {
        served(&Asking::new(&world, "//Validator", body).send(&node).await)
    };
    let modest = json!({"cpu": {"count": 1}, "gpu": {}, "ram": {"capacity": 1}});
    let answered = ask(check(&modest)).await;
    assert_eq!(answered.output["status"], true);
    assert_eq!(answered.docker_requirement["ssh_port"], crate::world::SSH_PORT);
    assert_eq!((answered.timeline, answered.checking), (1, true));
    let too_much = json!({"cpu": {"count": 100_000}});
    let less = "the machine has less than device_requirement.cpu.count";
    assert_eq!(ask(check(&too_much)).await.output, refusal(less));
    let nonsense = json!({"cpu": {"count": "many"}});
    let unread = "device_requirement.cpu.count is not of its kind";
    assert_eq!(ask(check(&nonsense)).await.output, refusal(unread));
    for requirement in [&too_much, &nonsense] {
        let public_key = include_str!("../../../wire/testdata/caller2048.pub.pem").to_owned();
        let order = Allocate { checking: false, public_key, ..check(requirement) };
        assert_eq!(ask(check(requirement)).await.output, ask(order).await.output, "{requirement}");
    }
}

/// Signature before list: a stranger must not learn who is kept out, and nobody passes unsigned.
#[tokio::test]
async fn who_is_not_believed_or_not_wanted_is_told_so() {
    let world = World::new();
    let mut list = AccessList::new(MIN_STAKE);
    list.block(key("//Other").account(), "resold GPUs").unwrap();
    list.trust(key("//Friend").account());
    let node = with(&world, list).await;
    let ask = |by: &str| Asking::new(&world, by, check(&json!({})));
    let says = async |by: &str| refused(&ask(by).send(&node).await);
    let listed = |reason: &str| (403, format!("Forbidden. Key is blacklisted: {reason}."));
    assert_eq!(says("//Stranger").await, listed("Unrecognized hotkey"));
    assert_eq!(says("//Plain").await, listed("Not enough stake!"));
    assert_eq!(says("//Other").await, listed("resold GPUs"));
    served::<Allocate>(&ask("//Friend").send(&node).await);
    // Whoever signs may ask whether somebody is there, and is told nothing of the list.
    served::<Ping>(&Asking::new(&world, "//Other", Ping {}).send(&node).await);
    let elsewhere = Asking { receiver: key("//Other").hotkey(), ..ask("//Validator") };
    let answer = elsewhere.send(&node).await;
    let (status, message) = refused(&answer);
    assert!(message.starts_with("Not Verified with error: Signature mismatch with "), "{message}");
    assert_eq!(status, 401);
    let head = head(&answer);
    assert!(verify_answer(&head, &key("//Miner").hotkey(), &key("//Validator").account()));
    assert_eq!(head.axon.version, Some(190));
    assert_eq!(head.dendrite.ip.as_deref(), Some("127.0.0.1"), "as we see it");
    // A listed caller with a bad signature learns nothing of the list.
    let forged = Asking { by: key("//Plain"), ..ask("//Other") };
    let lines: Vec<_> = forged
        .lines()
        .into_iter()
        .map(|(name, value)| {
            let listed = key("//Other").hotkey().to_string();
            if name == "bt_header_dendrite_hotkey" { (name, listed) } else { (name, value) }
        })
        .collect();
    let answer = exchange(node.at(), &request("POST", "/Allocate", &lines, &forged.body)).await;
    assert_eq!(refused(&answer).0, 401);
}

/// Every refusal has the status and the shape on which clients of the SDK decide.
#[tokio::test]
async fn refusals_have_the_statuses_of_the_original() {
    let world = World::new();
    let node = open(&world).await;
    let ask = || Asking::new(&world, "//Validator", check(&json!({})));
    let unknown = Asking { path: "Unknown", ..ask() };
    let names = "Synapse name 'Unknown' not found. Available synapses ['Synapse', 'Allocate', 'Challenge', 'Specs']";
    assert_eq!(refused(&unknown.send(&node).await), (404, names.to_owned()));
    let mut lines = ask().lines();
    lines.push(("bt_header_dendrite_nonce".to_owned(), "1".to_owned()));
    let twice = exchange(node.at(), &request("POST", "/Allocate", &lines, b"{}")).await;
    assert_eq!(refused(&twice).0, 400);
    let bad = Asking { body: b"{".to_vec(), ..ask() }.send(&node).await;
    assert_eq!(bad.status, 422);
    assert_eq!(bad.json::<Value>()["detail"][0]["type"], "json_invalid");
    let other = Asking { body: br#"{"timeline": []}"#.to_vec(), ..ask() }.send(&node).await;
    let (status, message) = refused(&other);
    assert!(status == 500 && message.starts_with("Internal Server Error #"), "{message}");
    let large = Asking { body: vec![b' '; BODY_BYTES_MAX + 1], ..ask() }.send(&node).await;
    assert_eq!(refused(&large).0, 413);
    let fits = Asking { body: vec![b' '; BODY_BYTES_MAX], ..ask() }.send(&node).await;
    assert_eq!(fits.status, 422);
    assert_eq!(refused(&ask().send_as(&node, "PUT").await).0, 405);
    let put = exchange(node.at(), &request("PUT", "/Allocate", &Vec::new(), b"")).await;
    assert_eq!(refused(&put).0, 401, "who calls is asked before how");
    let unsigned = exchange(node.at(), &request("PUT", "/Unknown", &Vec::new(), b"")).await;
    assert_eq!(refused(&unsigned), (404, names.to_owned()), "a name is no secret");
    let unsigned = exchange(node.at(), &request("GET", "/Synapse", &Vec::new(), b"")).await;
    assert_eq!(refused(&unsigned), (401, "Not Verified with error: Missing Nonce".to_owned()));
    let mut wrong = ask().lines();
    wrong.retain(|(name, _)| name != "computed_body_hash");
    wrong.push(("computed_body_hash".to_owned(), "00".repeat(32)));
    let answer = exchange(node.at(), &request("POST", "/Allocate", &wrong, b"{}")).await;
    assert_eq!(refused(&answer).0, 401, "the hash is part of what is signed");
    // The node API is where it was.
    assert_eq!(
        exchange(node.at(), &request("GET", "/v1/node", &Vec::new(), b"")).await.status,
        401
    );
    assert!(node.is_available().await);
}

/// A recorded request must be worth nothing, also after a kill and with a clock that was ahead.
#[tokio::test]
async fn a_replay_is_refused_also_after_a_restart() {
    let world = World::new();
    let node = open(&world).await;
    let ahead = Asking {
        nonce_ns: world.nonce() + 1_900_000_000,
        ..Asking::new(&world, "//Validator", check(&json!({})))
    };
    served::<Allocate>(&ahead.send(&node).await);
    let again = "Not Verified with error: Nonce is too old, a newer one was last processed";
    assert_eq!(refused(&ahead.send(&node).await), (401, again.to_owned()));
    node.kill().await;
    world.clock.advance(Duration::from_millis(100));
    let node = open(&world).await;
    let (status, message) = refused(&ahead.send(&node).await);
    assert!(status == 401 && message.contains("restart"), "{message}");
    // The floor is at most three seconds ahead of the last request.
    world.clock.advance(Duration::from_secs(3));
    served::<Allocate>(&Asking::new(&world, "//Validator", check(&json!({}))).send(&node).await);
    assert_eq!(refused(&ahead.send(&node).await).0, 401);
}

/// A chain that is gone must neither open the door nor say of anybody that he is not registered.
#[tokio::test]
async fn without_a_chain_nobody_new_is_let_in() {
    let world = World::new();
    world.subnet.goes();
    let node = open(&world).await;
    let ask = || Asking::new(&world, "//Validator", check(&json!({})));
    assert_eq!(refused(&ask().send(&node).await).0, 503);
    served::<Ping>(&Asking::new(&world, "//Validator", Ping {}).send(&node).await);
    world.subnet.comes_back();
    world.clock.advance(Duration::from_secs(3));
    served::<Allocate>(&ask().send(&node).await);
}

/// A caller whose body never comes must not hold a place of the others for ever.
#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::new();
    let limits = ApiLimits { axon_arrivals: 1, ..ApiLimits::standard() };
    let config = MinerConfig { axon: Some(AccessList::new(MIN_STAKE)), ..world.config() };
    let node = world.start_with(config, limits).await.unwrap();
    let slow = Asking::new(&world, "//Validator", check(&json!({})));
    let whole = request("POST", "/Allocate", &slow.lines(), &slow.body);
    let mut socket = TcpStream::connect(node.at()).await.unwrap();
    socket.write_all(&whole[..whole.len() - slow.body.len()]).await.unwrap();
    let ask = || Asking { uuid: "dendrite-2", ..Asking::new(&world, "//Validator", Ping {}) };
    let mut busy = ask().send(&node).await;
    for _ in 0..1000 {
        if busy.status == 503 {
            break;
        }
        tokio::task::yield_now().await;
        busy = ask().send(&node).await;
    }
    assert_eq!(refused(&busy).1, "Service unavailable: as many requests arrive as are taken.");
    let late = async {
        loop {
            world.clock.advance(Duration::from_millis(500));
            let answer = ask().send(&node).await;
            if answer.status == 200 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::http::PATIENCE, late).await.expect("the place is given back");
}

/// Off means off: the paths are those of the node API, which knows none of them.
#[tokio::test]
async fn a_node_whose_door_is_shut_has_none_of_the_paths() {
    let world = World::new();
    let node = world.start().await;
    let answer = Asking::new(&world, "//Validator", Ping {}).send(&node).await;
    assert_eq!(answer.code(), Some(nicompute_wire::codes::Code::NotSigned));
}

/// Stake is read from the chain, and so is who owns a hotkey.
#[tokio::test]
async fn a_coldkey_speaks_for_its_hotkeys() {
    let world = World::new();
    let coldkey: AccountId = key("//Plain//coldkey").account();
    let mut list = AccessList::new(MIN_STAKE);
    list.trust(coldkey);
    let node = with(&world, list).await;
    served::<Allocate>(&Asking::new(&world, "//Plain", check(&json!({}))).send(&node).await);
    node.kill().await;
    // Past the floor that the process before has stored.
    world.clock.advance(Duration::from_secs(3));
    world.subnet.change("//Plain", |member| member.stake = Rao(1_000));
    let node = with(&world, AccessList::new(Rao(1_000))).await;
    served::<Allocate>(&Asking::new(&world, "//Plain", check(&json!({}))).send(&node).await);
}
