//! What the engine is asked to make for a lease: a pure translation of the spec.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountType, RestartPolicy, RestartPolicyNameEnum,
};

use nicompute_market::LeaseId;

use super::super::{
    AGENT_IN_CONTAINER, CAPABILITIES, ContainerSpec, PIDS_MAX, RUN_IN_CONTAINER,
    SCRATCH_IN_CONTAINER, SOCKET_IN_CONTAINER,
};

const LABEL_MANAGED: &str = "io.nicompute.managed";
pub(super) const LABEL_NODE: &str = "io.nicompute.node";
pub(super) const LABEL_LEASE: &str = "io.nicompute.lease";
pub(super) const LABEL_GENERATION: &str = "io.nicompute.gen";
/// What the agent may say in all; renters' output never goes through the engine's log.
const LOG_BYTES: &str = "1m";
const LOG_FILES: &str = "2";

/// The container's name, which makes a second one impossible.
pub(super) fn name(lease: LeaseId) -> String {
    format!("nicompute-{lease}")
}

pub(super) fn create_body(
    node: &str,
    spec: &ContainerSpec,
    disk_limit: Option<u64>,
) -> ContainerCreateBody {
    let text = str::to_owned;
    ContainerCreateBody {
        hostname: Some(format!("nicompute-{}", spec.lease.short())),
        user: Some(text("0:0")),
        env: Some(vec![format!("NICOMPUTE_LEASE={}", spec.lease), text("container=nicompute")]),
        cmd: Some(vec![text("--socket"), text(SOCKET_IN_CONTAINER)]),
        entrypoint: Some(vec![text(AGENT_IN_CONTAINER)]),
        image: Some(spec.image.clone()),
        working_dir: Some(text("/")),
        network_disabled: Some(true),
        labels: Some(HashMap::from([
            (text(LABEL_MANAGED), text("1")),
            (text(LABEL_NODE), text(node)),
            (text(LABEL_LEASE), spec.lease.to_string()),
            (text(LABEL_GENERATION), spec.generation.to_string()),
        ])),
        host_config: Some(host_config(spec, disk_limit)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec, disk_limit: Option<u64>) -> HostConfig {
    let text = str::to_owned;
    let signed = |amount: u64| Some(i64::try_from(amount).unwrap_or(i64::MAX));
    let half = spec.memory_bytes / 2;
    let log = HashMap::from([("max-size", LOG_BYTES), ("max-file", LOG_FILES)]);
    HostConfig {
        memory: signed(spec.memory_bytes),
        memory_swap: signed(spec.memory_bytes),
        nano_cpus: signed(u64::from(spec.cores_milli).saturating_mul(1_000_000)),
        pids_limit: Some(i64::from(PIDS_MAX)),
        shm_size: signed(half),
        mounts: Some(vec![
            read_only(&spec.agent, AGENT_IN_CONTAINER),
            read_only(&spec.dir.join("run"), RUN_IN_CONTAINER),
        ]),
        tmpfs: Some(HashMap::from([(
            text(SCRATCH_IN_CONTAINER),
            format!("rw,exec,nosuid,nodev,mode=0755,size={half}"),
        )])),
        storage_opt: disk_limit.map(|bytes| HashMap::from([(text("size"), bytes.to_string())])),
        device_requests: gpus(&spec.gpus),
        cap_drop: Some(vec![text("ALL")]),
        cap_add: Some(CAPABILITIES.into_iter().map(text).collect()),
        security_opt: Some(vec![text("no-new-privileges")]),
        network_mode: Some(text("none")),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        privileged: Some(false),
        init: Some(false),
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some(text("json-file")),
            config: Some(log.into_iter().map(|(k, v)| (text(k), text(v))).collect()),
        }),
        ..HostConfig::default()
    }
}

fn read_only(source: &Path, target: &str) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Mount::default()
    }
}

/// Exactly these GPUs, by UUID. Environment variables could ask for all of them and are not used.
fn gpus(uuids: &[String]) -> Option<Vec<DeviceRequest>> {
    if uuids.is_empty() {
        return None;
    }
    let wanted = ["gpu", "compute", "utility"].map(str::to_owned).to_vec();
    Some(vec![DeviceRequest {
        driver: Some(String::new()),
        device_ids: Some(uuids.to_vec()),
        capabilities: Some(vec![wanted]),
        ..DeviceRequest::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit or a lock that is forgotten here is one that every tenant does without.
    #[test]
    fn everything_is_asked_for() {
        let spec = ContainerSpec {
            lease: LeaseId::from_random_bytes([1; 16]),
            generation: 7,
            cores_milli: 1_500,
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 30,
            gpus: vec!["GPU-1".to_owned()],
            image: "image:tag".to_owned(),
            dir: "/state/leases/x".into(),
            agent: "/state/agent".into(),
            masked_host_paths: Vec::new(),
            options: crate::runtime::Options::default(),
        };
        let body = create_body("5Node", &spec, Some(spec.disk_bytes));
        let json = serde_json::to_value(&body).expect("json");
        let host = &json["HostConfig"];
        assert_eq!(json["Labels"]["io.nicompute.gen"], "7");
        assert_eq!(json["Labels"]["io.nicompute.node"], "5Node");
        assert_eq!(json["Entrypoint"], serde_json::json!(["/.nicompute/agent"]));
        assert_eq!(host["NanoCpus"], 1_500_000_000_u64);
        assert_eq!(host["Memory"], host["MemorySwap"]);
        assert_eq!(host["PidsLimit"], 4096);
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges"]));
        assert_eq!(host["StorageOpt"]["size"], "1073741824");
        assert_eq!(host["DeviceRequests"][0]["DeviceIDs"], serde_json::json!(["GPU-1"]));
        let mounts = host["Mounts"].as_array().expect("mounts");
        assert!(mounts.iter().all(|mount| mount["ReadOnly"] == true));
        let body = create_body("5Node", &ContainerSpec { gpus: Vec::new(), ..spec }, None);
        let host = body.host_config.expect("host config");
        assert!(host.device_requests.is_none() && host.storage_opt.is_none());
    }
}
