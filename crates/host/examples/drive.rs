//! One act of a runtime in a process of its own, for tests that kill it half-way. The product does the same in the node.
//!
//! `drive KIND ACT LEASE IMAGE AGENT STATE_DIR NODE_ID HELPER`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use nicompute_daemon::SystemClock;
use nicompute_host::runtime::docker::Docker;
use nicompute_host::runtime::sandbox::Sandbox;
use nicompute_host::runtime::{
    ContainerSpec, ImagePolicy, Options, Rootfs, Runtime, RuntimeConfig, SandboxProgram, Volume,
};
use nicompute_market::LeaseId;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::FAILURE };
    match runtime.block_on(drive(&words)) {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

async fn drive(words: &[String]) -> Option<()> {
    let [kind, act, lease, image, agent, state_dir, node_id, helper] = words else { return None };
    let lease: LeaseId = lease.parse().ok()?;
    let config = RuntimeConfig {
        node_id: node_id.clone(),
        state_dir: PathBuf::from(state_dir),
        rootfs: Some(Rootfs::Host),
        sandbox_program: SandboxProgram { path: helper.into(), args: Vec::new() },
        docker_socket: None,
        images: vec![image.clone()],
        image_policy: ImagePolicy::default(),
        classes: Vec::new(),
        trial_agent: None,
    };
    let spec = ContainerSpec {
        lease,
        generation: 3,
        cores_milli: 500,
        memory_bytes: 128 << 20,
        disk_bytes: 80 << 20,
        gpus: Vec::new(),
        image: image.clone(),
        dir: config.lease_dir(lease),
        agent: PathBuf::from(agent),
        masked_host_paths: Vec::new(),
        options: Options { volumes: volumes(act), ..Options::default() },
    };
    let clock = SystemClock::shared();
    let runtime: Arc<dyn Runtime> = if kind == "docker" {
        Arc::new(Docker::detect(config, clock).await.ok()?)
    } else {
        Arc::new(Sandbox::without_trial(config, clock).ok()?)
    };
    match act.as_str() {
        "ensure" | "ensure-volumes" => runtime.ensure(&spec).await.map(|_| ()),
        "restart" => runtime.restart(&spec).await.map(|_| ()),
        "pause" => runtime.pause(lease).await,
        "resume" => runtime.resume(lease).await,
        "remove" => runtime.remove(lease).await,
        _ => return None,
    }
    .ok()
}

fn volumes(act: &str) -> Vec<Volume> {
    if act != "ensure-volumes" {
        return Vec::new();
    }
    let volume =
        |name: &str, bytes| Volume { name: name.to_owned(), target: format!("/{name}"), bytes };
    vec![volume("data", None), volume("sized", Some(40 << 20))]
}
