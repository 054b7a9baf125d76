//! What the engine is asked to make for a lease: a pure translation of the spec. Everything that a renter chose goes in as
//! a value of its own, never as a part of a text that someone takes apart again.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType, MountVolumeOptions,
    MountVolumeOptionsDriverConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use nicompute_market::{LeaseId, RuntimeClass};

use super::super::options::is_target;
use super::super::{
    AGENT_IN_CONTAINER, CAPABILITIES, ContainerSpec, DISK_BYTES_MIN, Limits, Network, PIDS_MAX,
    RUN_IN_CONTAINER, RootAccess, RuntimeError, SCRATCH_IN_CONTAINER, SOCKET_IN_CONTAINER,
};
use super::files;
use super::gpus::GpuRequest;

const LABEL_MANAGED: &str = "io.nicompute.managed";
pub(super) const LABEL_NODE: &str = "io.nicompute.node";
pub(super) const LABEL_LEASE: &str = "io.nicompute.lease";
pub(super) const LABEL_GENERATION: &str = "io.nicompute.gen";
/// `lease` or `trial`. Always set, since an image's own labels become its container's.
pub(super) const LABEL_ROLE: &str = "io.nicompute.role";
pub(super) const ROLE_LEASE: &str = "lease";
pub(super) const ROLE_TRIAL: &str = "trial";
/// The GPUs of a lease, for whoever looks at the engine by hand.
const LABEL_GPUS: &str = "io.nicompute.gpus";
/// What the agent may say in all; renters' output never goes through the engine's log.
const LOG_BYTES: &str = "1m";
const LOG_FILES: &str = "2";
/// Open files of one process: what large data loaders need, where the kernel's own limit is not lower.
pub(super) const FILES_MAX: u64 = 1_048_576;
/// When memory is short, a tenant's process goes before the machine's own.
const OOM_SCORE: i64 = 500;
/// The variable on whose word NVIDIA's hook hands out devices.
const GPU_VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// The same for channels to other machines' memory.
const CHANNEL_VARIABLE: &str = "NVIDIA_IMEX_CHANNELS";
/// The value with which it hands out nothing.
const NOTHING: &str = "void";
/// Where the loader looks for libraries.
const LIBRARY_VARIABLE: &str = "LD_LIBRARY_PATH";
/// Directories that an image may declare as volumes; real ones declare one or two.
pub(super) const IMAGE_VOLUMES_MAX: usize = 32;

/// What is known of an image before a container is made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ImageFacts {
    /// Directories that it declares as volumes.
    pub(super) volumes: Vec<String>,
    /// Where its loader looks, if it says so.
    pub(super) library_path: Option<String>,
}

/// Everything that a container is made of.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) node: &'a str,
    pub(super) spec: &'a ContainerSpec,
    /// The image in the engine's spelling.
    pub(super) image: String,
    pub(super) image_facts: &'a ImageFacts,
    /// The engine's runtime; its own choice where there is none.
    pub(super) runtime: Option<String>,
    pub(super) gpus: GpuRequest,
    /// The size that the engine holds the container to, where it can.
    pub(super) disk_limit: Option<u64>,
    /// Open files of one process. `None` where the engine may raise no limits: its containers have its own.
    pub(super) files_max: Option<u64>,
}

/// The container's name, which makes a second one impossible.
pub(super) fn name(lease: LeaseId) -> String {
    format!("nicompute-{lease}")
}

/// The labels of everything that is made for a lease.
pub(super) fn labels(node: &str, lease: LeaseId) -> HashMap<String, String> {
    HashMap::from([
        (LABEL_MANAGED.to_owned(), "1".to_owned()),
        (LABEL_ROLE.to_owned(), ROLE_LEASE.to_owned()),
        (LABEL_NODE.to_owned(), node.to_owned()),
        (LABEL_LEASE.to_owned(), lease.to_string()),
    ])
}

/// Refuses an image whose declared volumes lie where nothing of a tenant's may lie.
pub(super) fn check_volumes(image: &ImageFacts) -> Result<(), &'static str> {
    if image.volumes.len() > IMAGE_VOLUMES_MAX {
        return Err("declares more volumes than a container may have");
    }
    if !image.volumes.iter().all(|target| is_target(target.trim_end_matches('/'))) {
        return Err("declares a volume where none may be");
    }
    Ok(())
}

/// Refuses what no new container is made for. One that is there already is not judged by it, so that nothing that runs ends
/// with a change of these rules.
pub(super) fn check_new(spec: &ContainerSpec, limits: Limits) -> Result<(), RuntimeError> {
    let options = &spec.options;
    // It would be a piece of the machine's disk beside the one that was leased, as large as that disk.
    if limits == Limits::All && options.volumes.iter().any(|volume| volume.bytes.is_none()) {
        let rule = "must be named: this node holds every lease to its disk";
        return Err(RuntimeError::InvalidSpec { lease: spec.lease, field: "volumes.bytes", rule });
    }
    // These take their network over once, when they start, and the wire is laid only then.
    let takes_over = matches!(options.class, RuntimeClass::Gvisor | RuntimeClass::Kata);
    if takes_over && options.network == Network::Egress {
        return Err(RuntimeError::Unsupported {
            what: format!("the class {} has no network", options.class),
            remedy: "ask for another class, or for no network",
        });
    }
    Ok(())
}

/// Refuses an image with so many volumes of its own that the lease's disk cannot be divided among them.
pub(super) fn check_parts(order: &Order<'_>) -> Result<(), &'static str> {
    if disk_part(order).is_some_and(|bytes| bytes < DISK_BYTES_MIN) {
        return Err("declares volumes that leave less than 32 MiB of the lease's disk to each");
    }
    Ok(())
}

pub(super) fn create_body(order: Order<'_>) -> ContainerCreateBody {
    let text = str::to_owned;
    let spec = order.spec;
    let mut labels = labels(order.node, spec.lease);
    labels.insert(text(LABEL_GENERATION), spec.generation.to_string());
    labels.insert(text(LABEL_GPUS), spec.gpus.join(","));
    ContainerCreateBody {
        hostname: Some(format!("nicompute-{}", spec.lease.short())),
        user: Some(text("0:0")),
        env: Some(environment(&order)),
        cmd: Some(vec![text("--socket"), text(SOCKET_IN_CONTAINER)]),
        entrypoint: Some(vec![text(AGENT_IN_CONTAINER)]),
        image: Some(order.image.clone()),
        working_dir: Some(text("/")),
        network_disabled: Some(true),
        // An image's own check would be a program that the engine runs in the container every few seconds.
        healthcheck: Some(HealthConfig {
            test: Some(vec![text("NONE")]),
            ..HealthConfig::default()
        }),
        stop_signal: Some(text("SIGTERM")),
        labels: Some(labels),
        host_config: Some(host_config(order)),
        ..ContainerCreateBody::default()
    }
}

/// The tenant's variables, then ours, which it cannot change.
fn environment(order: &Order<'_>) -> Vec<String> {
    let mut ours = vec![
        ("NICOMPUTE_LEASE".to_owned(), order.spec.lease.to_string()),
        ("container".to_owned(), "nicompute".to_owned()),
    ];
    ours.extend(order.gpus.environment.iter().cloned());
    if !order.gpus.libraries.is_empty() {
        let own = order.image_facts.library_path.iter().cloned();
        let path: Vec<String> = own.chain(order.gpus.libraries.iter().cloned()).collect();
        ours.push((LIBRARY_VARIABLE.to_owned(), path.join(":")));
    }
    for variable in [GPU_VARIABLE, CHANNEL_VARIABLE] {
        ours.retain(|(name, _)| name != variable);
        ours.push((variable.to_owned(), NOTHING.to_owned()));
    }
    let taken: BTreeSet<&str> = ours.iter().map(|(name, _)| name.as_str()).collect();
    let theirs = order.spec.options.environment.iter();
    let theirs = theirs.filter(|(name, _)| !taken.contains(name.as_str()));
    theirs.chain(&ours).map(|(name, value)| format!("{name}={value}")).collect()
}

fn host_config(order: Order<'_>) -> HostConfig {
    let text = str::to_owned;
    let spec = order.spec;
    let options = &spec.options;
    let half = spec.memory_bytes / 2;
    let log = HashMap::from([("max-size", LOG_BYTES), ("max-file", LOG_FILES)]);
    HostConfig {
        memory: signed(spec.memory_bytes),
        memory_swap: signed(spec.memory_bytes),
        nano_cpus: Some(nano_cpus(spec)),
        pids_limit: Some(i64::from(PIDS_MAX)),
        ulimits: Some(ulimits(order.files_max)),
        oom_score_adj: Some(OOM_SCORE),
        shm_size: signed(options.shm_bytes.unwrap_or(half)),
        mounts: Some(mounts(&order)),
        tmpfs: Some(memory_file_systems(spec, half)),
        readonly_rootfs: Some(options.root == RootAccess::ReadOnly),
        storage_opt: disk_part(&order)
            .map(|bytes| HashMap::from([(text("size"), bytes.to_string())])),
        device_requests: order.gpus.requests,
        devices: order.gpus.devices,
        runtime: order.runtime,
        cap_drop: Some(vec![text("ALL")]),
        cap_add: Some(CAPABILITIES.into_iter().map(text).collect()),
        security_opt: Some(vec![text("no-new-privileges")]),
        network_mode: Some(text("none")),
        ipc_mode: Some(text("private")),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        privileged: Some(false),
        publish_all_ports: Some(false),
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

/// A lease's share of the processors, in the engine's unit.
pub(super) fn nano_cpus(spec: &ContainerSpec) -> i64 {
    i64::from(spec.cores_milli).saturating_mul(1_000_000)
}

fn signed(amount: u64) -> Option<i64> {
    Some(i64::try_from(amount).unwrap_or(i64::MAX))
}

/// Pinned memory is counted as memory and needs no limit of its own, which collective operations of GPUs run into. Nothing
/// of a tenant's is dumped on this machine.
fn ulimits(files_max: Option<u64>) -> Vec<ResourcesUlimits> {
    let limit = |name: &str, bound| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(bound),
        hard: Some(bound),
    };
    let raised = files_max.map(|files| {
        [limit("nofile", i64::try_from(files).unwrap_or(i64::MAX)), limit("memlock", -1)]
    });
    raised.into_iter().flatten().chain([limit("core", 0)]).collect()
}

fn memory_file_systems(spec: &ContainerSpec, scratch: u64) -> HashMap<String, String> {
    let mut all: HashMap<String, String> = spec
        .options
        .tmpfs
        .iter()
        .map(|tmpfs| {
            let options = format!("rw,exec,nosuid,nodev,mode=1777,size={}", tmpfs.bytes);
            (tmpfs.target.clone(), options)
        })
        .collect();
    let options = format!("rw,exec,nosuid,nodev,mode=0755,size={scratch}");
    all.insert(SCRATCH_IN_CONTAINER.to_owned(), options);
    all
}

fn mounts(order: &Order<'_>) -> Vec<Mount> {
    let spec = order.spec;
    let mut mounts = vec![
        read_only(&spec.agent, AGENT_IN_CONTAINER),
        read_only(&files::run_dir(&spec.dir), RUN_IN_CONTAINER),
    ];
    if spec.options.network == Network::Egress {
        mounts.push(read_only(&files::resolv_conf(&spec.dir), "/etc/resolv.conf"));
    }
    for volume in &spec.options.volumes {
        let source = files::volume_dir(&spec.dir, &volume.name);
        mounts.push(Mount { read_only: Some(false), ..read_only(&source, &volume.target) });
    }
    mounts.extend(order.gpus.mounts.iter().cloned());
    let part = disk_part(order);
    let own = image_targets(order);
    mounts.extend(own.into_iter().map(|target| image_volume(order, target, part)));
    mounts
}

/// The directories that become volumes since the image declares them, and nothing that was ordered is there.
fn image_targets<'a>(order: &'a Order<'_>) -> BTreeSet<&'a str> {
    let options = &order.spec.options;
    let volumes = options.volumes.iter().map(|volume| volume.target.as_str());
    let tmpfs = options.tmpfs.iter().map(|tmpfs| tmpfs.target.as_str());
    let gpus = order.gpus.mounts.iter().filter_map(|mount| mount.target.as_deref());
    let taken: BTreeSet<&str> = volumes.chain(tmpfs).chain(gpus).collect();
    let declared = order.image_facts.volumes.iter().map(|target| target.trim_end_matches('/'));
    declared.filter(|target| !taken.contains(target)).collect()
}

/// What the container's own files and each volume of its image may take: equal parts of what was leased, since the engine
/// counts each of them for itself.
fn disk_part(order: &Order<'_>) -> Option<u64> {
    let parts = u64::try_from(image_targets(order).len()).unwrap_or(u64::MAX).saturating_add(1);
    order.disk_limit.map(|bytes| bytes / parts)
}

/// A directory that the image declares as a volume. The engine would make one without a label and without a size.
fn image_volume(order: &Order<'_>, target: &str, part: Option<u64>) -> Mount {
    let sized = part.map(|bytes| MountVolumeOptionsDriverConfig {
        name: Some("local".to_owned()),
        options: Some(HashMap::from([("size".to_owned(), bytes.to_string())])),
    });
    Mount {
        target: Some(target.to_owned()),
        typ: Some(MountType::VOLUME),
        volume_options: Some(MountVolumeOptions {
            labels: Some(labels(order.node, order.spec.lease)),
            driver_config: sized,
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

pub(super) fn read_only(source: &Path, target: &str) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Options, Tmpfs, Volume};
    use super::*;

    fn spec(options: Options) -> ContainerSpec {
        ContainerSpec {
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
            options,
        }
    }

    fn json(spec: &ContainerSpec, image: &ImageFacts, disk: Option<u64>) -> serde_json::Value {
        serde_json::to_value(create_body(order(spec, image, disk))).expect("json")
    }

    fn order<'a>(spec: &'a ContainerSpec, image: &'a ImageFacts, disk: Option<u64>) -> Order<'a> {
        Order {
            node: "5Node",
            spec,
            image: "image:tag".to_owned(),
            image_facts: image,
            runtime: Some("runc".to_owned()),
            gpus: GpuRequest::default(),
            disk_limit: disk,
            files_max: Some(FILES_MAX),
        }
    }

    fn mount<'a>(body: &'a serde_json::Value, target: &str) -> &'a serde_json::Value {
        let mounts = body["HostConfig"]["Mounts"].as_array().expect("mounts");
        mounts.iter().find(|mount| mount["Target"] == target).unwrap_or(&serde_json::Value::Null)
    }

    /// A limit or a lock that is forgotten here is one that every tenant does without.
    #[test]
    fn everything_is_asked_for() {
        let spec = spec(Options::default());
        let json = json(&spec, &ImageFacts::default(), Some(spec.disk_bytes));
        let host = &json["HostConfig"];
        assert_eq!(json["Labels"]["io.nicompute.gen"], "7");
        assert_eq!(json["Labels"]["io.nicompute.node"], "5Node");
        assert_eq!(json["Labels"]["io.nicompute.role"], "lease");
        assert_eq!(json["Labels"]["io.nicompute.gpus"], "GPU-1");
        assert_eq!(json["Entrypoint"], serde_json::json!(["/.nicompute/agent"]));
        assert_eq!((&json["User"], &json["WorkingDir"]), (&"0:0".into(), &"/".into()));
        assert_eq!(json["Healthcheck"]["Test"], serde_json::json!(["NONE"]));
        assert_eq!(host["NanoCpus"], 1_500_000_000_u64);
        assert_eq!(host["Memory"], host["MemorySwap"]);
        assert_eq!(host["PidsLimit"], 4096);
        assert_eq!(host["OomScoreAdj"], 500);
        assert_eq!(host["ShmSize"], 32 << 20);
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["IpcMode"], "private");
        assert_eq!(host["CgroupnsMode"], "private");
        assert_eq!(host["Runtime"], "runc");
        assert_eq!(host["ReadonlyRootfs"], false);
        // The engine's own filter and masked paths stay as long as nothing is said about them.
        assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges"]));
        assert!(host["MaskedPaths"].is_null() && host["ReadonlyPaths"].is_null());
        assert!(host["Binds"].is_null() && host["VolumesFrom"].is_null());
        assert_eq!(host["Privileged"], false);
        assert_eq!(host["StorageOpt"]["size"], "1073741824");
        assert_eq!(host["LogConfig"]["Config"]["max-size"], "1m");
        let ulimit = |name: &str| {
            let all = host["Ulimits"].as_array().expect("ulimits");
            all.iter().find(|limit| limit["Name"] == name).expect("limit")["Hard"].clone()
        };
        assert_eq!(ulimit("memlock"), -1);
        assert_eq!(ulimit("core"), 0);
        assert_eq!(ulimit("nofile"), 1_048_576);
        let mounts = host["Mounts"].as_array().expect("mounts");
        assert!(mounts.iter().all(|mount| mount["ReadOnly"] == true));
        assert_eq!(mounts.len(), 2);
    }

    /// What a renter ordered would be missing, larger than ordered, or written where it must not be.
    #[test]
    fn options_are_asked_for() {
        let volume = Volume { name: "data".to_owned(), target: "/data".to_owned(), bytes: None };
        let spec = spec(Options {
            shm_bytes: Some(5 << 20),
            root: RootAccess::ReadOnly,
            network: Network::Egress,
            volumes: vec![volume],
            tmpfs: vec![Tmpfs { target: "/tmp".to_owned(), bytes: 7 << 20 }],
            ..Options::default()
        });
        let json = json(&spec, &ImageFacts::default(), None);
        let host = &json["HostConfig"];
        assert_eq!(host["ShmSize"], 5 << 20);
        assert_eq!(host["ReadonlyRootfs"], true);
        assert_eq!(host["Tmpfs"]["/tmp"], "rw,exec,nosuid,nodev,mode=1777,size=7340032");
        assert!(host["StorageOpt"].is_null());
        let data = mount(&json, "/data");
        assert_eq!(data["Source"], "/state/leases/x/volumes/data");
        assert_eq!(data["ReadOnly"], false);
        assert_eq!(data["BindOptions"]["Propagation"], "rprivate");
        let names = mount(&json, "/etc/resolv.conf");
        assert_eq!(names["Source"], "/state/leases/x/resolv.conf");
        assert_eq!(names["ReadOnly"], true);
        assert_eq!(host["NetworkMode"], "none", "the wire is laid from outside");
    }

    /// A variable of a tenant would give it GPUs that it has not rented, or speak in our name.
    #[test]
    fn variables_give_nothing() {
        let hostile = "'; touch /tmp/x; $(id) `id`\n\"\u{1b}[2J";
        let long = "x".repeat(16 << 10);
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let spec = spec(Options {
            environment: vec![
                set("NVIDIA_VISIBLE_DEVICES", "all"),
                set("NVIDIA_IMEX_CHANNELS", "0"),
                set("container", "docker"),
                set("X", hostile),
                set("LONG", &long),
            ],
            ..Options::default()
        });
        let json = json(&spec, &ImageFacts::default(), None);
        let env: Vec<&str> =
            json["Env"].as_array().expect("env").iter().filter_map(|v| v.as_str()).collect();
        let of = |name: &str| {
            let found = env.iter().filter_map(|entry| entry.split_once('='));
            found.filter(|(key, _)| *key == name).map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(of("NVIDIA_VISIBLE_DEVICES"), ["void"]);
        assert_eq!(of("NVIDIA_IMEX_CHANNELS"), ["void"]);
        assert_eq!(of("container"), ["nicompute"]);
        assert_eq!(of("X"), [hostile]);
        assert_eq!(of("LONG"), [long.as_str()]);
        assert_eq!(of("NICOMPUTE_LEASE"), [spec.lease.to_string()]);
    }

    /// A directory that an image declares would be a disk without a size that nobody finds again.
    #[test]
    fn an_images_volumes_are_labelled_and_sized() {
        let image = ImageFacts {
            volumes: vec!["/var/lib/db/".to_owned(), "/data".to_owned()],
            library_path: None,
        };
        let volume = Volume { name: "data".to_owned(), target: "/data".to_owned(), bytes: None };
        let spec = spec(Options { volumes: vec![volume], ..Options::default() });
        let json = json(&spec, &image, Some(1 << 30));
        let db = mount(&json, "/var/lib/db");
        assert_eq!(db["Type"], "volume");
        assert_eq!(db["VolumeOptions"]["Labels"]["io.nicompute.lease"], spec.lease.to_string());
        let half = "536870912";
        assert_eq!(db["VolumeOptions"]["DriverConfig"]["Options"]["size"], half);
        assert_eq!(json["HostConfig"]["StorageOpt"]["size"], half, "one disk in two parts");
        assert_eq!(mount(&json, "/data")["Type"], "bind", "the lease's own volume goes first");
        assert_eq!(check_volumes(&image), Ok(()));
        for target in ["/", "/proc", "/.nicompute/run", "/etc", "data", "/a/../b", "/dev/shm"] {
            let image = ImageFacts { volumes: vec![target.to_owned()], library_path: None };
            assert!(check_volumes(&image).is_err(), "{target}");
        }
        let many = (0..=IMAGE_VOLUMES_MAX).map(|n| format!("/v{n}")).collect();
        assert!(check_volumes(&ImageFacts { volumes: many, library_path: None }).is_err());
    }

    /// A tenant would get the leased disk once for each volume that its image declares.
    #[test]
    fn an_images_volumes_do_not_multiply_the_disk() {
        let volumes = |count: usize| ImageFacts {
            volumes: (0..count).map(|n| format!("/v{n}")).chain(["/v0/".to_owned()]).collect(),
            library_path: None,
        };
        let spec = spec(Options::default());
        for count in [1, 7, IMAGE_VOLUMES_MAX - 1] {
            let json = json(&spec, &volumes(count), Some(spec.disk_bytes));
            let host = &json["HostConfig"];
            let size = |value: &serde_json::Value| value.as_str().map(|text| text.parse::<u64>());
            let mut sizes = vec![size(&host["StorageOpt"]["size"])];
            for mount in host["Mounts"].as_array().expect("mounts") {
                let options = &mount["VolumeOptions"]["DriverConfig"]["Options"];
                sizes.push(size(&options["size"]));
            }
            let sizes: Vec<u64> = sizes.into_iter().flatten().map(|s| s.expect("size")).collect();
            assert_eq!(sizes.len(), 1 + count);
            assert!(sizes.iter().sum::<u64>() <= spec.disk_bytes, "{sizes:?}");
        }
        let image = volumes(7);
        assert_eq!(check_parts(&order(&spec, &image, Some(8 * DISK_BYTES_MIN))), Ok(()));
        check_parts(&order(&spec, &image, Some(8 * DISK_BYTES_MIN - 1))).expect_err("too small");
        assert_eq!(check_parts(&order(&spec, &image, None)), Ok(()), "nobody counts");
    }

    /// An offer would say that the disk is enforced, and a tenant fill the machine's; or a lease wait for a network that its
    /// class never sees.
    #[test]
    fn what_cannot_be_held_is_refused_before_it_is_made() {
        let volume = |bytes| Volume { name: "data".to_owned(), target: "/data".to_owned(), bytes };
        let with = |bytes| spec(Options { volumes: vec![volume(bytes)], ..Options::default() });
        let error = check_new(&with(None), Limits::All).expect_err("no size");
        assert!(
            matches!(error, RuntimeError::InvalidSpec { field: "volumes.bytes", .. }),
            "{error}"
        );
        check_new(&with(Some(DISK_BYTES_MIN)), Limits::All).expect("a size");
        check_new(&with(None), Limits::AllButDisk).expect("the offer says so");
        for class in RuntimeClass::ALL {
            let options = |network| Options { class, network, ..Options::default() };
            check_new(&spec(options(Network::None)), Limits::All).expect("no network");
            let checked = check_new(&spec(options(Network::Egress)), Limits::All);
            match class {
                RuntimeClass::Gvisor | RuntimeClass::Kata => {
                    let error = checked.expect_err("no network");
                    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
                }
                RuntimeClass::Standard | RuntimeClass::Sysbox => checked.expect("a network"),
            }
        }
    }
}
