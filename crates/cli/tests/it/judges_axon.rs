//! The v1.9.0 axon in both directions with the Python that speaks it: the SDK that the original pins, and the last that has it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use nicompute_client::{AxonCallError, AxonClient, AxonDialer, AxonReason, Reach};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_host::runtime::{
    FakeMachine, FakeRuntime, ImagePolicy, RuntimeConfig, SandboxProgram,
};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{MicroUsd, Netuid, Rao};
use nicompute_miner::{
    AccessList, ApiLimits, MIN_STAKE, Member, Miner, MinerConfig, Neighbours, OnShutdown,
    SessionLimits, Subnet, SubnetError, UnenforcedLimits,
};
use nicompute_wire::axon::{Allocate, Body, Challenge, Ping, Specs};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::judges::{PYTHON_9, PYTHON_10, ask, python};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
const PATIENCE: Duration = Duration::from_secs(60);
/// What is kept of a judge's words.
const LINES_MAX: usize = 1_000;
const LINE_BYTES_MAX: u64 = 64 * 1024;

fn key(uri: &str) -> Keypair {
    Keypair::from_uri(uri, Scheme::Sr25519).unwrap()
}

/// A subnet that never changes.
#[derive(Debug)]
struct Members(Vec<Member>);

#[async_trait]
impl Subnet for Members {
    async fn members(&self) -> Result<Vec<Member>, SubnetError> {
        Ok(self.0.clone())
    }

    async fn announce(&self, _: SocketAddr) -> Result<(), SubnetError> {
        Ok(())
    }
}

struct Node {
    miner: Miner,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

/// A node with an open door and a fake machine: //Alice may come in, //Charlie has no stake, //Dave is on the list.
async fn node() -> Node {
    let folder = tempfile::tempdir().unwrap();
    let (tasks, hotkey) = (Tasks::new(), key("//Bob"));
    let member = |uri: &str, stake| Member {
        hotkey: key(uri).hotkey(),
        coldkey: key(uri).coldkey(),
        stake,
        endpoint: None,
        validator_permit: stake > Rao(0),
    };
    let subnet = Members(vec![
        member("//Bob", Rao(0)),
        member("//Alice", MIN_STAKE),
        member("//Charlie", Rao(0)),
        member("//Dave", MIN_STAKE),
    ]);
    let mut list = AccessList::new(MIN_STAKE);
    list.block(key("//Dave").account(), "Suspected exploiter").unwrap();
    let runtime = RuntimeConfig {
        node_id: hotkey.hotkey().to_string(),
        state_dir: folder.path().to_owned(),
        rootfs: None,
        sandbox_program: SandboxProgram { path: "/none".into(), args: Vec::new() },
        docker_socket: None,
        images: Vec::new(),
        image_policy: ImagePolicy::default(),
        trial_agent: None,
        classes: Vec::new(),
    };
    let config = MinerConfig {
        state_dir: folder.path().to_owned(),
        netuid: Netuid(27),
        listen: SocketAddr::new(LOOPBACK, 0),
        ssh_listen: SocketAddr::new(LOOPBACK, 0),
        announce_ip: LOOPBACK,
        announce_port: None,
        hotkey,
        price_per_hour: MicroUsd(1),
        offers: None,
        fetches: Vec::new(),
        runtime: Arc::new(FakeRuntime::new(runtime, FakeMachine::new())),
        network: None,
        ports: None,
        sessions: SessionLimits::default(),
        agent: "/agent".into(),
        masked_host_paths: Vec::new(),
        unenforced_limits: UnenforcedLimits::Refuse,
        gpus: None,
        axon: Some(list),
        lists: None,
        on_shutdown: OnShutdown::KeepLeases,
        kill_after: None,
    };
    let neighbours =
        Neighbours { subnet: Box::new(subnet), routes: None, api_limits: ApiLimits::standard() };
    let miner = Miner::start_among(config, neighbours, SystemClock::shared(), tasks.clone()).await;
    Node { miner: miner.unwrap(), tasks, _folder: folder }
}

/// What a dendrite asks, and how it ends.
fn cases() -> Vec<(Value, u16, &'static str)> {
    let modest = json!({"cpu": {"count": 1}, "gpu": {}, "hard_disk": {"capacity": 1}, "ram": {"capacity": 1}});
    let check = json!({"timeline": 30, "device_requirement": modest, "public_key": "PEM"});
    let create = json!({"timeline": 30, "checking": false});
    let too_much = json!({"timeline": 30, "device_requirement": {"cpu": {"count": 1_000_000}}});
    let challenge = json!({"challenge_hash": "h", "challenge_difficulty": 9});
    let elsewhere = key("//Charlie").hotkey().to_string();
    vec![
        (json!({"synapse": "Synapse", "uri": "//Alice"}), 200, "Success"),
        (json!({"synapse": "Allocate", "uri": "//Alice", "fields": check}), 200, "Success"),
        (json!({"synapse": "Allocate", "uri": "//Alice", "fields": create}), 200, "Success"),
        (json!({"synapse": "Allocate", "uri": "//Alice", "fields": too_much}), 200, "Success"),
        (json!({"synapse": "Challenge", "uri": "//Alice", "fields": challenge}), 200, "Success"),
        (json!({"synapse": "Specs", "uri": "//Alice"}), 200, "Success"),
        (json!({"synapse": "Unknown", "uri": "//Alice"}), 404, "Synapse name 'Unknown' not found."),
        (
            json!({"synapse": "Allocate", "uri": "//Eve"}),
            403,
            "Forbidden. Key is blacklisted: Unrecognized hotkey.",
        ),
        (
            json!({"synapse": "Allocate", "uri": "//Charlie"}),
            403,
            "Forbidden. Key is blacklisted: Not enough stake!.",
        ),
        (
            json!({"synapse": "Challenge", "uri": "//Dave"}),
            403,
            "Forbidden. Key is blacklisted: Suspected exploiter.",
        ),
        (
            json!({"synapse": "Allocate", "uri": "//Alice", "hotkey": elsewhere}),
            401,
            "Not Verified with error: Signature mismatch with ",
        ),
    ]
}

async fn dendrite_is_served(variable: &str) {
    let Some(judge) = python(variable) else { return };
    let node = node().await;
    let mut asked = cases();
    let ended: Vec<_> = asked.iter().map(|(_, status, words)| (*status, *words)).collect();
    let raw = [
        json!({"synapse": "Allocate", "uri": "//Alice", "times": 2}),
        json!({"synapse": "Allocate", "uri": "//Alice", "body": "{"}),
        json!({"synapse": "Allocate", "uri": "//Alice", "body": "{\"timeline\": []}"}),
    ];
    let mut sent: Vec<Value> = asked.drain(..).map(|(case, ..)| case).collect();
    sent.extend(raw);
    let order = json!({
        "port": node.miner.addresses().api.port(),
        "hotkey": key("//Bob").hotkey(),
        "cases": sent,
    });
    let told = tokio::task::block_in_place(|| ask(&judge, "axon9_dendrite.py", &[], &order));
    for (index, (status, words)) in ended.iter().enumerate() {
        let (told, case) = (&told[index], &sent[index]);
        assert_eq!(told["status"], *status, "{case}: {told}");
        assert_eq!(told["axon_status"], *status, "{case}: {told}");
        assert!(told["message"].as_str().unwrap().starts_with(words), "{case}: {told}");
        assert_eq!(told["fields"]["timeout"], 60.0, "{case}: {told}");
        assert!(told["took"].is_f64(), "{case}: {told}");
    }
    let caller = key("//Alice").hotkey().to_string();
    assert_eq!(told[1]["caller"], caller);
    let check = &told[1]["fields"];
    assert_eq!((&check["public_key"], &check["checking"]), (&json!("PEM"), &json!(true)));
    assert_eq!((&check["timeline"], &told[2]["fields"]["timeline"]), (&json!(30), &json!(30)));
    assert_eq!(check["output"]["status"], true, "the machine is free");
    // An order without a key, and a check of what the machine has not.
    for refused in [2, 3] {
        let output = &told[refused]["fields"]["output"];
        assert_eq!(output["status"], false);
        assert!(output["message"].as_str().is_some_and(|text| text.len() > 10), "{output}");
    }
    let challenge = &told[4]["fields"];
    assert_eq!(
        (&challenge["challenge_hash"], &challenge["challenge_difficulty"], &challenge["output"]),
        (&json!("h"), &json!(9), &json!({}))
    );
    let specs: Value =
        serde_json::from_str(told[5]["fields"]["specs_output"].as_str().unwrap()).unwrap();
    assert_eq!(specs["status"], false);
    let replay = &told[ended.len()];
    assert_eq!((&replay[0]["status"], &replay[1]["status"]), (&json!(200), &json!(401)));
    let newer = "Not Verified with error: Nonce is too old, a newer one was last processed";
    assert_eq!(replay[1]["body"]["message"], newer);
    assert_eq!(told[ended.len() + 1][0]["status"], 422);
    assert_eq!(told[ended.len() + 2][0]["status"], 500);
    node.miner.shutdown().await;
    assert!(node.tasks.shutdown(PATIENCE).await);
}

/// A validator that still runs 1.9.0 must be served by our node, and refused as its own axon refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_dendrite_of_sdk_9_is_served() {
    dendrite_is_served(PYTHON_9).await;
}

/// The same wire is spoken up to SDK 10.5.
#[tokio::test(flavor = "multi_thread")]
async fn a_dendrite_of_sdk_10_is_served() {
    dendrite_is_served(PYTHON_10).await;
}

/// Reads a program's lines to their end, so that it is never kept waiting, and gives the first of them.
fn read_on(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (give, lines) = mpsc::sync_channel(LINES_MAX);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            drop(give.try_send(String::from_utf8_lossy(&line).trim_end().to_owned()));
            line.clear();
        }
    });
    lines
}

/// A Python axon, ended with the test.
struct Axon {
    child: Child,
    address: SocketAddr,
    _home: tempfile::TempDir,
}

impl Axon {
    fn start(python: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let judges = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/judges");
        #[expect(clippy::disallowed_methods, reason = "the judge is another program")]
        let mut child = Command::new(python)
            .arg(judges.join("axon9_axon.py"))
            .env("HOME", home.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("BT_NO_PARSE_CLI_ARGS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let complaints = read_on(child.stderr.take().unwrap());
        let said = read_on(child.stdout.take().unwrap());
        // Ended also where it never says anything.
        let mut axon = Self { child, address: SocketAddr::new(LOOPBACK, 0), _home: home };
        let port = loop {
            let Ok(line) = said.recv_timeout(PATIENCE) else {
                drop(axon.child.kill());
                let why: Vec<String> = complaints.iter().collect();
                panic!("the axon does not say where it listens\n{}", why.join("\n"));
            };
            let Ok(told) = serde_json::from_str::<Value>(&line) else { continue };
            break u16::try_from(told["port"].as_u64().unwrap()).unwrap();
        };
        axon.address.set_port(port);
        axon
    }

    fn client(&self, uri: &str, axon: &str) -> AxonClient {
        let dialer = AxonDialer::new(key(uri), HERE, SystemClock::shared()).unwrap();
        dialer.reaching(Reach::Anywhere).axon(self.address, key(axon).hotkey()).unwrap()
    }

    async fn refuses<B: Body>(&self, uri: &str, axon: &str, body: B) -> (AxonReason, String) {
        let error = self.client(uri, axon).call(body, PATIENCE).await.unwrap_err();
        match error {
            AxonCallError::Refused { reason, message, signed, .. } => {
                let unsigned = reason == AxonReason::NoSuchSynapse || axon != "//Bob";
                assert_eq!(signed, !unsigned, "{message}");
                (reason, message)
            }
            other => panic!("{uri}: {other:?}"),
        }
    }
}

impl Drop for Axon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A synapse that no axon of this test serves.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Unknown {}

impl Body for Unknown {
    const NAME: &'static str = "Unknown";
}

async fn axon_is_called(variable: &str) {
    let Some(judge) = python(variable) else { return };
    let axon = tokio::task::block_in_place(|| Axon::start(&judge));
    let alice = axon.client("//Alice", "//Bob");
    assert_eq!(alice.call(Ping {}, PATIENCE).await.unwrap().body, Ping {});
    let asked = Allocate { timeline: 3, public_key: "PEM".to_owned(), ..Allocate::default() };
    let answer = alice.call(asked.clone(), PATIENCE).await.unwrap();
    let output = json!({"status": true, "info": "c2VhbGVk", "port": 4444, "asked": 3});
    assert_eq!(Value::Object(answer.body.output.clone()), output);
    assert_eq!(Allocate { output: asked.output.clone(), ..answer.body }, asked);
    assert_eq!(answer.head.axon.status_code, Some(200));
    assert_eq!(answer.head.axon.status_message.as_deref(), Some("Success"));
    let specs = Specs { specs_input: "app".to_owned(), ..Specs::default() };
    assert_eq!(alice.call(specs, PATIENCE).await.unwrap().body.specs_output, "APP");
    let challenge = Challenge { challenge_hash: "h".to_owned(), ..Challenge::default() };
    assert_eq!(alice.call(challenge.clone(), PATIENCE).await.unwrap().body, challenge);

    let words = "Not Verified with error: Signature mismatch with ";
    let (reason, message) = axon.refuses("//Alice", "//Charlie", Ping {}).await;
    assert!(reason == AxonReason::NotVerified && message.starts_with(words), "{message}");
    let listed = "Forbidden. Key is blacklisted: Unrecognized hotkey.".to_owned();
    let allocate = Allocate::default();
    let refused = axon.refuses("//Eve", "//Bob", allocate.clone()).await;
    assert_eq!(refused, (AxonReason::Blacklisted, listed));
    let (reason, message) = axon.refuses("//Alice", "//Bob", Unknown {}).await;
    assert!(reason == AxonReason::NoSuchSynapse && message.contains("'Unknown'"), "{message}");
    let late = (AxonReason::TimedOut, "Response timeout after: 60.0s".to_owned());
    assert_eq!(axon.refuses("//Late", "//Bob", allocate.clone()).await, late);
    let busy = (AxonReason::Busy, "no place in the queue".to_owned());
    assert_eq!(axon.refuses("//Busy", "//Bob", allocate).await, busy);
    let fails = Challenge { challenge_hash: "fail".to_owned(), ..Challenge::default() };
    let (reason, message) = axon.refuses("//Alice", "//Bob", fails).await;
    assert!(
        reason == AxonReason::Failed && message.starts_with("Internal Server Error #"),
        "{message}"
    );
}

/// A provider that still runs 1.9.0 must take our calls, and be understood when it refuses them.
#[tokio::test(flavor = "multi_thread")]
async fn an_axon_of_sdk_9_is_called() {
    axon_is_called(PYTHON_9).await;
}

/// The same wire is spoken up to SDK 10.5.
#[tokio::test(flavor = "multi_thread")]
async fn an_axon_of_sdk_10_is_called() {
    axon_is_called(PYTHON_10).await;
}
