//! An engine that says what a test wants it to say: what is asked of engines that this machine does not have.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use nicompute_daemon::{ErrorChain, SystemClock};
use nicompute_host::runtime::docker::{Docker, DockerError, GpuWay, Maker};
use nicompute_host::runtime::{
    ContainerSpec, Limits, Options, Presence, Runtime, RuntimeConfig, RuntimeError,
};
use nicompute_market::RuntimeClass;
use serde_json::{Value, json};

use crate::gateway_world::background;
use crate::support::Node;

/// A process number that no machine has, so that nobody looks into a process of this one.
const PID: u32 = 4_200_000;

/// What the engine says and what it was asked.
pub(crate) struct Mock {
    api: &'static str,
    version: Value,
    info: Value,
    /// The answer to every start, where it is not a success.
    start_refusal: Option<&'static str>,
    /// Words that make a creation fail when the request has them.
    create_refusal: Option<(&'static str, &'static str)>,
    /// Answers that make no sense, to everything but the first questions.
    nonsense: Option<&'static str>,
    containers: BTreeMap<String, (Value, bool)>,
    asked: Vec<(String, Value)>,
}

impl Mock {
    fn new(api: &'static str) -> Self {
        let info = json!({
            "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]],
            "DockerRootDir": "/nowhere/docker", "Architecture": "x86_64",
            "MemoryLimit": true, "CpuCfsQuota": true, "PidsLimit": true, "SwapLimit": true,
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            "Runtimes": {"runc": {"path": "runc"}}, "ServerVersion": "99",
        });
        Self {
            api,
            version: json!({"Version": "99", "ApiVersion": api, "MinAPIVersion": "1.24",
                "Components": [{"Name": "Engine", "Version": "99"}]}),
            info,
            start_refusal: None,
            create_refusal: None,
            nonsense: None,
            containers: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.info[key] = value;
        self
    }

    fn serve(self, node: &Node) -> (Shared, RuntimeConfig) {
        let socket = node.config.state_dir.join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("bind");
        let shared = Shared(Arc::new(Mutex::new(self)));
        let app = axum::Router::new().fallback(answer).with_state(shared.clone());
        drop(background(async move { axum::serve(listener, app).await.expect("serve") }));
        let config = RuntimeConfig {
            docker_socket: Some(PathBuf::from(&socket)),
            images: vec!["box:1".to_owned()],
            ..node.config.clone()
        };
        (shared, config)
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Response {
        self.asked.push((format!("{method} {path}"), body.clone()));
        let path = strip_version(path);
        if let Some(nonsense) = self.nonsense.filter(|_| !matches!(path, "/info" | "/version")) {
            return Response::new(Body::from(nonsense));
        }
        let refusal = |status: u16, message: &str| {
            let status = StatusCode::from_u16(status).expect("status");
            (status, axum::Json(json!({"message": message}))).into_response()
        };
        match (method.as_str(), path) {
            ("GET", "/version") => axum::Json(self.version.clone()).into_response(),
            ("GET", "/info") => axum::Json(self.info.clone()).into_response(),
            ("GET", "/containers/json" | "/images/json") => axum::Json(json!([])).into_response(),
            ("GET", "/volumes") => axum::Json(json!({"Volumes": []})).into_response(),
            ("POST", "/containers/create") => {
                if let Some((words, message)) = self.create_refusal
                    && body.to_string().contains(words)
                {
                    return refusal(500, message);
                }
                let name = query.split('&').find_map(|pair| pair.strip_prefix("name="));
                let name = name.expect("a name").to_owned();
                if self.containers.contains_key(&name) {
                    return refusal(409, "the name is taken");
                }
                self.containers.insert(name, (body, false));
                (StatusCode::CREATED, axum::Json(json!({"Id": "c", "Warnings": []})))
                    .into_response()
            }
            ("GET", path) if path.starts_with("/images/") => {
                axum::Json(json!({"Id": "sha256:1", "Size": 1, "Config": {}})).into_response()
            }
            (verb, path) => self.of_container(verb, path),
        }
    }

    fn of_container(&mut self, verb: &str, path: &str) -> Response {
        let rest = path.strip_prefix("/containers/").unwrap_or_default();
        let (name, act) = rest.split_once('/').unwrap_or((rest, ""));
        let missing = || {
            let message = axum::Json(json!({"message": "no such container"}));
            (StatusCode::NOT_FOUND, message).into_response()
        };
        if verb == "DELETE" {
            return match self.containers.remove(name) {
                Some(_) => StatusCode::NO_CONTENT.into_response(),
                None => missing(),
            };
        }
        let Some((body, runs)) = self.containers.get_mut(name) else { return missing() };
        match act {
            "start" => match self.start_refusal {
                Some(message) => {
                    let message = axum::Json(json!({"message": message}));
                    (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
                }
                None => {
                    *runs = true;
                    StatusCode::NO_CONTENT.into_response()
                }
            },
            "json" => {
                let started = if *runs { "2026-11-22T20:00:00Z" } else { "0001-01-01T00:00:00Z" };
                let pid = if *runs { PID } else { 0 };
                axum::Json(json!({
                    "Id": "c", "Name": name, "Config": {"Labels": body["Labels"]},
                    "State": {"Running": *runs, "Paused": false, "Pid": pid, "StartedAt": started},
                }))
                .into_response()
            }
            _ => missing(),
        }
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Mock>>);

impl Shared {
    /// The requests of that path, without the interface's version.
    fn asked(&self, path: &str) -> Vec<Value> {
        let mock = self.0.lock().expect("lock");
        let bodies = mock.asked.iter().filter(|(line, _)| {
            line.split_once(' ').is_some_and(|(_, at)| strip_version(at) == path)
        });
        bodies.map(|(_, body)| body.clone()).collect()
    }

    fn versions(&self) -> Vec<String> {
        let mock = self.0.lock().expect("lock");
        let number =
            |line: &str| Some(format!("1.{}", line.split_once(" /v1.")?.1.split('/').next()?));
        mock.asked.iter().filter_map(|(line, _)| number(line)).collect()
    }

    fn api(&self) -> &'static str {
        self.0.lock().expect("lock").api
    }

    fn left(&self) -> usize {
        self.0.lock().expect("lock").containers.len()
    }
}

async fn answer(State(shared): State<Shared>, method: Method, uri: Uri, body: Bytes) -> Response {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut mock = shared.0.lock().expect("lock");
    mock.answer(&method, uri.path(), uri.query().unwrap_or_default(), body)
}

fn strip_version(path: &str) -> &str {
    match path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')) {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            &path[path.len() - rest.len() - 1..]
        }
        _ => path,
    }
}

async fn detect(config: RuntimeConfig) -> Result<Docker, DockerError> {
    Docker::detect(config, SystemClock::shared()).await
}

fn lease(node: &Node, gpus: &[&str]) -> ContainerSpec {
    let gpus = gpus.iter().map(|uuid| (*uuid).to_owned()).collect();
    ContainerSpec { gpus, ..node.spec("box:1") }
}

/// An engine would be asked in a version that it does not speak, or one that cannot hold a lease be taken for one.
#[tokio::test]
async fn the_interfaces_version_is_agreed() {
    for api in ["1.41", "1.47"] {
        let node = Node::new();
        let (mock, config) = Mock::new(api).serve(&node);
        let docker = detect(config).await.expect("detect");
        let spec = lease(&node, &[]);
        docker.ensure(&spec).await.expect("ensure");
        let running = Presence::Running { init_pid: PID };
        assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), running);
        docker.remove(spec.lease).await.expect("remove");
        assert_eq!(mock.left(), 0);
        let versions = mock.versions();
        assert!(versions.iter().skip(1).all(|spoken| *spoken == api), "{versions:?}");
        assert_eq!(mock.api(), api);
    }
    let node = Node::new();
    let mut old = Mock::new("1.39");
    old.version["MinAPIVersion"] = json!("1.12");
    let error = detect(old.serve(&node).1).await.expect_err("too old");
    assert!(matches!(&error, DockerError::TooOld { api, .. } if api == "1.39"), "{error}");
    assert!(error.remedy().contains("20.10"));
}

/// A GPU would be given by a way that the engine does not have, or another GPU than the leased one.
#[tokio::test]
async fn gpus_are_asked_for_as_the_engine_can() {
    let node = Node::new();
    let mock = Mock::new("1.47").with("CDISpecDirs", json!(["/nowhere/cdi"])).with(
        "DiscoveredDevices",
        json!([
            {"Source": "cdi", "ID": "nvidia.com/gpu=GPU-1"},
            {"Source": "cdi", "ID": "nvidia.com/gpu=GPU-2"},
            {"Source": "cdi", "ID": "nvidia.com/gpu=all"},
        ]),
    );
    let (mock, config) = mock.serve(&node);
    let docker = detect(config).await.expect("detect");
    assert!(docker.gives_gpus());
    assert_eq!(docker.gpu_ways(), [GpuWay::Cdi]);
    assert_eq!(mock.left(), 0, "the trial is cleared away");
    let error = docker.ensure(&lease(&node, &["GPU-2"])).await.expect_err("not to be counted");
    assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
    assert_eq!(mock.left(), 0, "nobody can look which GPUs it was given");
    let body = mock.asked("/containers/create").pop().expect("a request");
    let expected = json!([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-2"]}]);
    assert_eq!(body["HostConfig"]["DeviceRequests"], expected);
    let env = body["Env"].as_array().expect("env");
    assert!(env.contains(&json!("NVIDIA_VISIBLE_DEVICES=void")));
    let error = docker.ensure(&lease(&node, &["GPU-1", "GPU-9"])).await.expect_err("unknown");
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    for bad in [&["all"][..], &["GPU-1", "GPU-1"], &["0"], &["GPU-1,GPU-2"]] {
        let error = docker.ensure(&lease(&node, bad)).await.expect_err("not a GPU");
        assert!(matches!(error, RuntimeError::InvalidSpec { field: "gpus", .. }), "{error}");
    }
}

/// A host with the toolkit would give no GPU, and one with a broken toolkit offer them and fail every lease.
#[tokio::test]
async fn the_toolkit_is_tried_before_it_is_offered() {
    let runtimes = json!({"runc": {"path": "runc"}, "nvidia": {"path": "x"}});
    let node = Node::new();
    let (mock, config) = Mock::new("1.41").with("Runtimes", runtimes.clone()).serve(&node);
    let docker = detect(config).await.expect("detect");
    assert_eq!(docker.gpu_ways(), [GpuWay::Toolkit]);
    docker.ensure(&lease(&node, &["GPU-7", "GPU-8"])).await.expect_err("not to be counted");
    let body = mock.asked("/containers/create").pop().expect("a request");
    let request = &body["HostConfig"]["DeviceRequests"][0];
    assert_eq!(request["DeviceIDs"], json!(["GPU-7", "GPU-8"]));
    assert_eq!(body["HostConfig"]["Runtime"], "runc", "not the one that reads variables");

    let node = Node::new();
    let mut broken = Mock::new("1.41").with("Runtimes", runtimes);
    broken.start_refusal = Some("could not select device driver \"\" with capabilities: [[gpu]]");
    let (mock, config) = broken.serve(&node);
    let docker = detect(config).await.expect("detect");
    assert!(!docker.gives_gpus());
    assert_eq!(mock.left(), 0);
    let error = docker.ensure(&lease(&node, &["GPU-7"])).await.expect_err("no way");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("toolkit")), "{error}");

    let node = Node::new();
    let docker = detect(Mock::new("1.41").serve(&node).1).await.expect("detect");
    assert!(!docker.gives_gpus(), "nothing gives GPUs here");
}

/// A size that nobody enforces would be sold, or no limit at all be called one.
#[tokio::test]
async fn limits_are_what_the_engine_does() {
    let xfs = json!([["Backing Filesystem", "xfs"]]);
    let node = Node::new();
    let (mock, config) = Mock::new("1.41").with("DriverStatus", xfs.clone()).serve(&node);
    let docker = detect(config).await.expect("detect");
    assert_eq!(docker.limits(), Limits::All);
    assert_eq!(mock.left(), 0);
    let spec = lease(&node, &[]);
    docker.ensure(&spec).await.expect("ensure");
    let body = mock.asked("/containers/create").pop().expect("a request");
    assert_eq!(body["HostConfig"]["StorageOpt"]["size"], spec.disk_bytes.to_string());

    let node = Node::new();
    let mut without = Mock::new("1.41").with("DriverStatus", xfs);
    without.create_refusal =
        Some(("StorageOpt", "--storage-opt is supported only for overlay over xfs with 'pquota'"));
    let docker = detect(without.serve(&node).1).await.expect("detect");
    assert_eq!(docker.limits(), Limits::AllButDisk, "its file system keeps no quota");
    docker.ensure(&lease(&node, &[])).await.expect("ensure without a size");

    let node = Node::new();
    let without = Mock::new("1.41").with("MemoryLimit", json!(false));
    let docker = detect(without.serve(&node).1).await.expect("detect");
    assert_eq!(docker.limits(), Limits::Nothing);
    assert!(!docker.limits_enforced());
}

/// A tenant could ask the host's kernel for anything, because the operator once turned the filter off.
#[tokio::test]
async fn an_engine_without_a_filter_is_not_used() {
    for options in [json!([]), json!(["name=seccomp,profile=unconfined"])] {
        let node = Node::new();
        let (_, config) = Mock::new("1.41").with("SecurityOptions", options).serve(&node);
        let error = detect(config).await.expect_err("no filter");
        assert!(matches!(error, DockerError::NoFilter), "{error}");
    }
}

/// A weaker wall than the leased one would stand, or the operator not learn what is missing for a stronger one.
#[tokio::test]
async fn classes_are_installed_or_refused() {
    let node = Node::new();
    let runtimes = json!({"runc": {}, "runsc": {"runtimeArgs": ["--platform=systrap"]}});
    let (_, config) = Mock::new("1.41").with("Runtimes", runtimes).serve(&node);
    let docker = detect(config.clone()).await.expect("detect");
    assert_eq!(docker.classes(), [RuntimeClass::Standard]);
    for class in [RuntimeClass::Gvisor, RuntimeClass::Kata, RuntimeClass::Sysbox] {
        let options = Options { class, ..Options::default() };
        let spec = ContainerSpec { options, ..lease(&node, &[]) };
        let error = docker.ensure(&spec).await.expect_err("not offered");
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
        assert!(error.remedy().is_some());
    }
    let wanted = RuntimeConfig { classes: vec![RuntimeClass::Gvisor], ..config };
    let error = detect(wanted).await.expect_err("it cannot be offered");
    assert!(matches!(error, DockerError::Class { class: RuntimeClass::Gvisor, .. }), "{error}");
    assert!(error.remedy().contains("--host-uds=open"), "{}", error.remedy());
}

/// Podman would be asked for a runtime by a name that means something else there.
#[tokio::test]
async fn podman_is_told_apart() {
    let node = Node::new();
    let mut podman = Mock::new("1.41");
    podman.version["Components"] = json!([{"Name": "Podman Engine", "Version": "4.3.1"}]);
    podman.info["SecurityOptions"] = json!(["name=seccomp,profile=default", "name=rootless"]);
    let (mock, config) = podman.serve(&node);
    let docker = detect(config).await.expect("detect");
    assert_eq!(docker.facts().maker, Maker::Podman);
    assert!(docker.user_namespaces());
    docker.ensure(&lease(&node, &[])).await.expect("ensure");
    let body = mock.asked("/containers/create").pop().expect("a request");
    assert!(body["HostConfig"]["Runtime"].is_null());
    let limits = json!([{"Name": "core", "Soft": 0, "Hard": 0}]);
    assert_eq!(body["HostConfig"]["Ulimits"], limits, "an ordinary user's engine raises none");
}

/// An engine's nonsense would stop the node with a panic, or be taken for the absence of a container.
#[tokio::test]
async fn nonsense_is_an_error() {
    for nonsense in ["", "{", "{\"Id\":7}", "\u{0}\u{1}\u{2}"] {
        let node = Node::new();
        let mut mock = Mock::new("1.41");
        mock.nonsense = Some(nonsense);
        let (shared, config) = mock.serve(&node);
        let error = detect(config.clone()).await.err();
        let error = error.map(|error| ErrorChain(&error).to_string());
        assert!(error.is_some_and(|text| !text.is_empty()), "{nonsense:?} was believed");
        shared.0.lock().expect("lock").nonsense = None;
        let docker = detect(config).await.expect("detect");
        shared.0.lock().expect("lock").nonsense = Some(nonsense);
        let spec = lease(&node, &[]);
        docker.ensure(&spec).await.expect_err("nonsense");
        docker.list().await.expect_err("nonsense");
        docker.remove(spec.lease).await.expect_err("nonsense");
    }
}
