//! The whole way of a lease on this machine: a real container, the real agent, the real gateway. Skipped aloud where the
//! embedded runtime, its helper or the agent is missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{ErrorChain, SharedClock, SystemClock, Tasks};
use nicompute_host::runtime::sandbox::Sandbox;
use nicompute_host::runtime::{ImagePolicy, Rootfs, Runtime, RuntimeConfig, SandboxProgram};
use nicompute_miner::{ApiLimits, Miner, MinerConfig, Neighbours, OnShutdown, UnenforcedLimits};
use nicompute_wire::node::LeaseView;

use crate::http::{Answer, PATIENCE, exchange, request};
use crate::world::{World, ask, believe, key, path, signed};

struct Real {
    world: World,
    clock: SharedClock,
    runtime: Arc<dyn Runtime>,
    agent: PathBuf,
}

/// What this machine has for such a test, or why it has not.
async fn real() -> Option<Real> {
    #[expect(clippy::disallowed_methods, reason = "the test runner says where the agent is")]
    let agent = std::env::var("NICOMPUTE_TEST_AGENT").map(PathBuf::from);
    let test = std::env::current_exe().unwrap();
    let helper = test.ancestors().nth(2).unwrap().join("examples/sandbox");
    let (Ok(agent), true) = (agent, helper.exists()) else {
        #[expect(
            clippy::disallowed_methods,
            reason = "the test runner says what must not be missing"
        )]
        let strict = std::env::var("NICOMPUTE_TEST_STRICT").is_ok_and(|value| value == "1");
        assert!(!strict, "NICOMPUTE_TEST_AGENT and the sandbox's helper are needed");
        return skip(
            "NICOMPUTE_TEST_AGENT or the sandbox's helper (`cargo build --examples`) is missing",
        );
    };
    let (world, clock) = (World::new(), SystemClock::shared());
    std::fs::create_dir(world.state_dir()).unwrap();
    let config = RuntimeConfig {
        node_id: format!("miner-test-{}", std::process::id()),
        state_dir: world.state_dir(),
        rootfs: Some(Rootfs::Host),
        sandbox_program: SandboxProgram { path: helper, args: Vec::new() },
        docker_socket: None,
        images: Vec::new(),
        image_policy: ImagePolicy::default(),
        trial_agent: None,
        classes: Vec::new(),
    };
    match Sandbox::detect(config, Arc::clone(&clock)).await {
        Ok(sandbox) => Some(Real { world, clock, runtime: Arc::new(sandbox), agent }),
        Err(error) => skip(&ErrorChain(&error).to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "a test that did not run must be heard")]
fn skip<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: a lease in a real container: {why}");
    None
}

impl Real {
    async fn start(&self, on_shutdown: OnShutdown) -> (Miner, Tasks) {
        let config = MinerConfig {
            runtime: Arc::clone(&self.runtime),
            agent: self.agent.clone(),
            masked_host_paths: Vec::new(),
            unenforced_limits: UnenforcedLimits::AcceptOnDevnet,
            on_shutdown,
            ..self.world.config()
        };
        let neighbours = Neighbours {
            subnet: Box::new(self.world.subnet.clone()),
            routes: None,
            api_limits: ApiLimits::standard(),
        };
        let tasks = Tasks::new();
        let started =
            Miner::start_among(config, neighbours, Arc::clone(&self.clock), tasks.clone()).await;
        (started.unwrap(), tasks)
    }

    async fn send(&self, miner: &Miner, method: &str, target: &str, body: &[u8]) -> Answer {
        let (caller, nonce) = (key("//Validator"), self.clock.unix_ns());
        let headers = signed(&caller, method, target, body, nonce);
        let answer =
            exchange(miner.addresses().api, &request(method, target, &headers, body)).await;
        believe(&answer, nonce, &caller);
        answer
    }

    async fn until(&self, miner: &Miner, state: &str) -> LeaseView {
        let reached = async {
            let mut view: LeaseView = self.send(miner, "GET", &path(1), b"").await.json();
            while view.state != state {
                let over = ["ended", "failed"].contains(&view.state.as_str());
                assert!(!over, "{} {:?} instead of {state}", view.state, view.reason);
                let wait = format!("{}?wait_ms=5000&generation={}", path(1), view.generation);
                view = self.send(miner, "GET", &wait, b"").await.json();
            }
            view
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap()
    }
}

/// `running` is a promise: the agent has reported and keys can enter. It must hold for a new container, after the node was
/// started again, and nothing may be left when the lease is over.
#[tokio::test]
async fn a_lease_in_a_real_container_runs_survives_a_restart_and_goes() {
    let Some(real) = real().await else { return };
    let (miner, tasks) = real.start(OnShutdown::KeepLeases).await;
    let body = ask(1).to_string();
    let asked = real.send(&miner, "POST", "/v1/leases", body.as_bytes()).await;
    assert_eq!(asked.status, 201, "{}", String::from_utf8_lossy(&asked.body));
    let before = real.until(&miner, "running").await;
    miner.shutdown().await;
    assert!(tasks.shutdown(PATIENCE).await);
    assert_eq!(real.runtime.list().await.unwrap().len(), 1, "the container goes on alone");

    let (miner, tasks) = real.start(OnShutdown::EndLeases).await;
    let adopted = real.until(&miner, "running").await;
    assert_eq!(adopted.generation, before.generation);
    let suffixes = [("pause", "paused"), ("resume", "running")];
    for (act, state) in suffixes {
        let target = format!("{}/{act}", path(1));
        assert_eq!(real.send(&miner, "POST", &target, b"").await.status, 200);
        real.until(&miner, state).await;
    }
    tokio::time::timeout(Duration::from_secs(60), miner.shutdown()).await.unwrap();
    assert!(tasks.shutdown(PATIENCE).await);
    assert!(real.runtime.list().await.unwrap().is_empty());
    assert!(!real.world.state_dir().join("leases").join(ask(1)["id"].as_str().unwrap()).exists());
}
