//! The node that is measured: a whole one, with a fake machine and a subnet that never changes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_host::runtime::{
    FakeMachine, FakeRuntime, ImagePolicy, RuntimeConfig, SandboxProgram,
};
use nicompute_market::{MicroUsd, Netuid, Rao};
use nicompute_miner::{
    AccessList, ApiLimits, MIN_STAKE, Member, Miner, MinerConfig, Neighbours, OnShutdown,
    SessionLimits, Subnet, SubnetError, UnenforcedLimits,
};

use crate::key;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Debug)]
struct Members;

#[async_trait]
impl Subnet for Members {
    async fn members(&self) -> Result<Vec<Member>, SubnetError> {
        let member = |uri: &str, stake| Member {
            hotkey: key(uri).hotkey(),
            coldkey: key(uri).coldkey(),
            stake,
            endpoint: None,
            validator_permit: stake > Rao(0),
        };
        Ok(vec![member("//Bob", Rao(0)), member("//Alice", MIN_STAKE)])
    }

    async fn announce(&self, _: SocketAddr) -> Result<(), SubnetError> {
        Ok(())
    }
}

/// Serves until it is killed.
pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let neighbours = Neighbours {
            subnet: Box::new(Members),
            routes: None,
            api_limits: ApiLimits::standard(),
        };
        let (clock, tasks) = (SystemClock::shared(), Tasks::new());
        let miner =
            Miner::start_among(config(folder.path()), neighbours, clock, tasks).await.unwrap();
        println!("{}", serde_json::json!({ "port": miner.addresses().api.port() }));
        std::future::pending::<()>().await;
    });
}

fn config(folder: &std::path::Path) -> MinerConfig {
    let hotkey = key("//Bob");
    let runtime = RuntimeConfig {
        node_id: hotkey.hotkey().to_string(),
        state_dir: folder.to_owned(),
        rootfs: None,
        sandbox_program: SandboxProgram { path: "/none".into(), args: Vec::new() },
        docker_socket: None,
        images: Vec::new(),
        image_policy: ImagePolicy::default(),
        trial_agent: None,
        classes: Vec::new(),
    };
    MinerConfig {
        state_dir: folder.to_owned(),
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
        axon: Some(AccessList::new(MIN_STAKE)),
        lists: None,
        on_shutdown: OnShutdown::KeepLeases,
        kill_after: None,
    }
}
