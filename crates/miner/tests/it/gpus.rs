//! What the driver says about leased GPUs, and what becomes of their leases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nicompute_daemon::Clock as _;
use nicompute_host::inventory::{Gpu, GpuShare};
use nicompute_host::telemetry::{
    Answer, GpuSample, GpuSource, Gpus, History, Look, Reading, Voice, Xid,
};
use nicompute_miner::ApiLimits;
use nicompute_wire::codes::Code;
use nicompute_wire::gpus::LeaseGpusView;
use nicompute_wire::node::LeaseView;
use tokio::sync::watch;

use crate::http::PATIENCE;
use crate::world::{Node, World, ask, path};

const FIRST: &str = "GPU-1";
const SECOND: &str = "GPU-2";

/// A driver in the test's hand.
#[derive(Debug)]
struct Driver {
    look: watch::Sender<Arc<Look>>,
    histories: Mutex<BTreeMap<String, History>>,
}

impl GpuSource for Driver {
    fn looks(&self) -> watch::Receiver<Arc<Look>> {
        self.look.subscribe()
    }

    fn voice(&self) -> Voice {
        Voice::Answers
    }

    fn history(&self, uuid: &str) -> History {
        self.histories.lock().unwrap().get(uuid).cloned().unwrap_or_default()
    }
}

fn sample(uuid: &str, bus_id: &str) -> GpuSample {
    GpuSample {
        gpu: Gpu {
            uuid: uuid.to_owned(),
            name: "NVIDIA Test".to_owned(),
            memory_bytes: 80 << 30,
            compute_capability: None,
            share: GpuShare::Whole,
        },
        index: "0".to_owned(),
        bus_id: Some(bus_id.to_owned()),
        minor: Some(0),
        memory_used_bytes: Some(1 << 20),
        temperature_celsius: Some(41),
        power_milliwatts: Some(120_500),
        power_limit_milliwatts: Some(700_000),
        clock_mhz: Some(1_980),
        memory_clock_mhz: Some(2_619),
        throttled: vec!["power cap"],
        ecc_corrected: Some(3),
        ecc_uncorrected: Some(0),
        pids: vec![17],
    }
}

impl Driver {
    fn new() -> Arc<Self> {
        let look = watch::Sender::new(Arc::new(Look::none()));
        Arc::new(Self { look, histories: Mutex::default() })
    }

    /// An answer, so many seconds after the one before.
    fn says(&self, world: &World, seconds: u64, answer: Answer) {
        world.clock.advance(Duration::from_secs(seconds));
        let (at, at_unix_ms) = (world.clock.monotonic(), world.clock.unix_ms());
        if let Answer::Gpus(gpus) = &answer {
            let mut histories = self.histories.lock().unwrap();
            for sample in &gpus.samples {
                let history = histories.entry(sample.gpu.uuid.clone()).or_default();
                history.readings.push_back(Reading { at_unix_ms, sample: sample.clone() });
            }
        }
        let number = self.look.borrow().number + 1;
        self.look.send_replace(Arc::new(Look { number, at_unix_ms, at, answer }));
    }

    fn shows(&self, world: &World, seconds: u64, samples: &[GpuSample]) {
        let gpus = Gpus { samples: samples.to_vec(), ..Gpus::default() };
        self.says(world, seconds, Answer::Gpus(gpus));
    }
}

/// A node whose machine has two GPUs, and the driver that tells of them.
async fn start<'w>(world: &'w World, driver: &Arc<Driver>) -> Node<'w> {
    let mut config = world.config();
    config.gpus = Some(Arc::clone(driver) as _);
    driver.shows(world, 1, &[sample(FIRST, "01"), sample(SECOND, "02")]);
    world.start_with(config, ApiLimits::standard()).await.unwrap()
}

async fn until(node: &Node<'_>, what: &str, reached: impl Fn(&LeaseView) -> bool) -> LeaseView {
    let wait = async {
        loop {
            let view: LeaseView = node.get("//Validator", &path(1)).await.json();
            if reached(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"))
}

async fn gpus(node: &Node<'_>) -> LeaseGpusView {
    node.get("//Validator", &format!("{}/gpus", path(1))).await.json()
}

async fn until_state(node: &Node<'_>, state: &str) -> LeaseGpusView {
    let wait = async {
        loop {
            let view = gpus(node).await;
            if view.gpus.iter().any(|gpu| gpu.state == state) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no GPU is {state}"))
}

/// A holder must see his GPUs' heat and errors, those of his own time alone, and nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn the_holder_sees_his_gpus() {
    let (world, driver) = (World::new(), Driver::new());
    driver
        .histories
        .lock()
        .unwrap()
        .entry(FIRST.to_owned())
        .or_default()
        .xids
        .push_back(Xid { code: 13, at_unix_ms: 1 });
    let node = start(&world, &driver).await;
    node.running(1).await;
    driver.shows(&world, 10, &[sample(FIRST, "01"), sample(SECOND, "02")]);
    driver
        .histories
        .lock()
        .unwrap()
        .get_mut(FIRST)
        .unwrap()
        .xids
        .push_back(Xid { code: 31, at_unix_ms: world.clock.unix_ms() });
    let view = until_state(&node, "present").await;
    assert_eq!(view.driver, "answers");
    let first = &view.gpus[0];
    assert_eq!((first.uuid.as_str(), first.temperature_celsius), (FIRST, Some(41)));
    assert_eq!(first.throttled, ["power cap"]);
    assert_eq!(first.xids.len(), 1, "not those of a tenant before");
    assert_eq!(first.xids[0].code, 31);
    let other = node.get("//Other", &format!("{}/gpus", path(1))).await;
    assert_eq!(other.code(), Some(Code::NoSuchLease));
    node.kill().await;
}

/// A GPU that is gone degrades its lease, then ends it, with evidence, and is offered to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gpu_ends_its_lease_with_evidence() {
    let (world, driver) = (World::new(), Driver::new());
    let node = start(&world, &driver).await;
    let both = [sample(FIRST, "01"), sample(SECOND, "02")];
    driver.shows(&world, 1, &both);
    node.running(1).await;
    until_state(&node, "present").await;
    driver.shows(&world, 10, &both[1..]);
    until_state(&node, "missing").await;
    let view: LeaseView = node.get("//Validator", &path(1)).await.json();
    assert_eq!((view.state.as_str(), view.detail), ("running", None), "one lost answer is nothing");
    driver.shows(&world, 10, &both[1..]);
    let view = until(&node, "degraded", |view| view.detail.is_some()).await;
    assert_eq!(view.state, "running");
    let evidence = view.detail.unwrap();
    assert!(evidence.contains(FIRST) && evidence.contains("last seen"), "{evidence}");
    driver.shows(&world, 10, &both);
    let view = until(&node, "back", |view| {
        view.detail.as_ref().is_some_and(|detail| detail.contains("answers again"))
    })
    .await;
    let generation = view.generation;
    driver.shows(&world, 10, &[sample("GPU-3", "01"), both[1].clone()]);
    until_state(&node, "missing").await;
    driver.shows(&world, 10, &[sample("GPU-3", "01"), both[1].clone()]);
    until(&node, "degraded again", |view| view.generation > generation).await;
    for _ in 0..3 {
        driver.shows(&world, 15, &[sample("GPU-3", "01"), both[1].clone()]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let view = until(&node, "ended", |view| view.state == "ended").await;
    assert_eq!(view.reason.as_deref(), Some("gpu"));
    let evidence = view.detail.unwrap();
    assert!(evidence.contains("GPU-3 is in its place"), "{evidence}");
    assert!(!node.is_available().await, "what is missing is not offered");
    let refused = node.post("//Validator", "/v1/leases", &ask(2)).await;
    assert_eq!(refused.code(), Some(Code::NoCapacity));
    driver.shows(&world, 10, &both);
    let wait = async {
        while !node.is_available().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("offered again");
    node.kill().await;
}

/// A driver that is broken or silent for an hour is no news, and no news ends no rental.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_driver_degrades_and_ends_nothing() {
    let (world, driver) = (World::new(), Driver::new());
    let node = start(&world, &driver).await;
    driver.shows(&world, 1, &[sample(FIRST, "01"), sample(SECOND, "02")]);
    node.running(1).await;
    until_state(&node, "present").await;
    for _ in 0..20 {
        driver.says(&world, 30, Answer::Broken("unknown error".to_owned()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let view = until(&node, "degraded", |view| view.detail.is_some()).await;
    assert_eq!(view.state, "running");
    assert!(view.detail.unwrap().contains("has not answered"));
    let generation = view.generation;
    for _ in 0..20 {
        driver.says(&world, 30, Answer::NoLibrary);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let view: LeaseView = node.get("//Validator", &path(1)).await.json();
    assert_eq!((view.state.as_str(), view.generation), ("running", generation));
    node.kill().await;
}
