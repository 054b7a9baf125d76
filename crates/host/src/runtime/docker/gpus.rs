//! GPUs in containers: exactly the leased ones, by UUID.
//!
//! Three ways lead there: the engine's own CDI devices, the NVIDIA toolkit behind the engine's device requests, and an
//! injection of our own from the machine's CDI specs. Which of them work is found out by a trial at the start; a request
//! takes the first that knows its GPUs. Environment variables, which an image or a tenant may set, never give a GPU.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use bollard::models::{DeviceMapping, DeviceRequest, Mount};

use rustix::fs::{Dir, Mode, OFlags};

use super::super::{ContainerSpec, RuntimeError};
use super::request::read_only;
use super::{EngineFacts, files};
use crate::cdi::{self, Injection, Registry};

/// The kind of CDI device that NVIDIA's tools write.
const KIND: &str = "nvidia.com/gpu";
/// Where the toolkit's program lies that an engine starts for a device request.
const TOOLKIT_PLACES: [&str; 6] = [
    "/usr/bin/nvidia-container-runtime-hook",
    "/usr/bin/nvidia-container-toolkit",
    "/usr/local/bin/nvidia-container-runtime-hook",
    "/usr/local/nvidia/toolkit/nvidia-container-runtime-hook",
    "/usr/sbin/nvidia-container-runtime-hook",
    "/run/current-system/sw/bin/nvidia-container-runtime-hook",
];
/// What an engine says when it cannot give a GPU.
const REFUSALS: [&str; 6] = [
    "could not select device driver",
    "nvidia-container",
    "CDI device",
    "unresolvable CDI devices",
    "CDI registry",
    "nvidia-smi",
];

/// A way to give a GPU to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuWay {
    /// The engine reads the machine's CDI specs itself.
    Cdi,
    /// The engine starts the NVIDIA toolkit.
    Toolkit,
    /// We read the machine's CDI specs and ask for the devices and files in them.
    Injected,
}

/// Entries of one `/dev` that are looked at.
const NODES_MAX: usize = 10_000;

/// The part of a container's request that gives it GPUs.
#[derive(Debug, Default)]
pub(super) struct GpuRequest {
    pub(super) requests: Option<Vec<DeviceRequest>>,
    pub(super) devices: Option<Vec<DeviceMapping>>,
    pub(super) mounts: Vec<Mount>,
    pub(super) environment: Vec<(String, String)>,
    /// Folders of the container in which the loader finds the driver.
    pub(super) libraries: Vec<String>,
}

/// What gives GPUs on this machine.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    /// The ways that work, in the order in which they are tried.
    pub(super) ways: Vec<GpuWay>,
    listed: BTreeSet<String>,
    registry: Registry,
}

impl Gpus {
    /// The ways that this engine may have, untried.
    pub(super) fn untried(facts: &EngineFacts) -> Self {
        let dirs: Vec<&Path> = if facts.cdi_dirs.is_empty() {
            cdi::DIRS.iter().map(Path::new).collect()
        } else {
            facts.cdi_dirs.iter().map(AsRef::as_ref).collect()
        };
        let has_toolkit = facts.runtimes.contains_key("nvidia")
            || TOOLKIT_PLACES.iter().any(|place| Path::new(place).exists());
        Self::new(facts, Registry::load(&dirs), has_toolkit.then_some(GpuWay::Toolkit))
    }

    fn new(facts: &EngineFacts, registry: Registry, toolkit: Option<GpuWay>) -> Self {
        let prefix = format!("{KIND}=");
        let listed = facts.cdi_devices.iter().filter_map(|name| name.strip_prefix(&prefix));
        let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
        let is_specified = registry.names().next().is_some();
        let takes_cdi = !facts.cdi_dirs.is_empty() && (is_specified || !listed.is_empty());
        let ways =
            [takes_cdi.then_some(GpuWay::Cdi), toolkit, is_specified.then_some(GpuWay::Injected)];
        Self { ways: ways.into_iter().flatten().collect(), listed, registry }
    }

    /// A request for any GPU at all, to see whether a way works.
    pub(super) fn trial(&self, way: GpuWay) -> Result<GpuRequest, RuntimeError> {
        match way {
            GpuWay::Toolkit => Ok(device_request("", None)),
            GpuWay::Cdi | GpuWay::Injected => {
                let mut names = self.listed.iter().map(String::as_str).chain(self.registry.names());
                let name = names.find(|name| *name != "all").ok_or_else(no_way)?.to_owned();
                self.by(way, &[name]).ok_or_else(no_way)?
            }
        }
    }

    /// The request for exactly these GPUs.
    pub(super) fn request(&self, uuids: &[String]) -> Result<GpuRequest, RuntimeError> {
        if uuids.is_empty() {
            return Ok(GpuRequest::default());
        }
        if self.ways.is_empty() {
            return Err(no_way());
        }
        let fitting = self.ways.iter().find_map(|way| self.by(*way, uuids));
        fitting.unwrap_or_else(|| {
            Err(RuntimeError::Unsupported {
                what: format!("no way to give GPUs knows all of {}", uuids.join(", ")),
                remedy: "write the machine's GPUs down anew: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            })
        })
    }

    /// The request by one way; `None` where that way does not know them all.
    fn by(&self, way: GpuWay, uuids: &[String]) -> Option<Result<GpuRequest, RuntimeError>> {
        match way {
            GpuWay::Toolkit => Some(Ok(device_request("", Some(uuids.to_vec())))),
            GpuWay::Cdi => {
                let names: Option<Vec<String>> =
                    uuids.iter().map(|uuid| self.cdi_name(uuid)).collect();
                Some(Ok(device_request("cdi", Some(names?))))
            }
            GpuWay::Injected => {
                let injection = self.registry.injection(uuids).and_then(|injection| {
                    injection.check_on_host()?;
                    Ok(injection)
                });
                match injection {
                    Ok(injection) => Some(Ok(injected(&injection))),
                    Err(cdi::CdiError::UnknownGpu { .. } | cdi::CdiError::NoSpec { .. }) => None,
                    Err(error) => {
                        let remedy = error.remedy();
                        let what = nicompute_daemon::ErrorChain(&error).to_string();
                        Some(Err(RuntimeError::Unsupported { what, remedy }))
                    }
                }
            }
        }
    }

    fn cdi_name(&self, uuid: &str) -> Option<String> {
        let listed = self.listed.get(uuid).map(String::as_str);
        let name = listed.or_else(|| self.registry.name_of(uuid))?;
        Some(format!("{KIND}={name}"))
    }
}

/// Whether the engine refused because of a GPU.
pub(super) fn is_refusal(error: &RuntimeError) -> bool {
    REFUSALS.iter().any(|phrase| super::engine::says(error, phrase))
}

/// What is said where nothing gives GPUs.
pub(super) fn no_way() -> RuntimeError {
    RuntimeError::Unsupported {
        what: "the engine cannot give GPUs to containers".to_owned(),
        remedy: "install the NVIDIA container toolkit and run `nvidia-ctk runtime configure`, then restart the engine",
    }
}

/// All GPUs where none are named; only a trial asks so.
fn device_request(driver: &str, ids: Option<Vec<String>>) -> GpuRequest {
    let wanted = ["gpu", "compute", "utility"].map(str::to_owned).to_vec();
    let is_cdi = driver == "cdi";
    let request = DeviceRequest {
        driver: Some(driver.to_owned()),
        count: ids.is_none().then_some(-1),
        device_ids: ids,
        capabilities: (!is_cdi).then(|| vec![wanted]),
        ..DeviceRequest::default()
    };
    GpuRequest { requests: Some(vec![request]), ..GpuRequest::default() }
}

/// The devices and files of an injection. A link becomes a mount of what it leads to, since nothing can be written into an
/// image; the loader's cache becomes a search path.
fn injected(injection: &Injection) -> GpuRequest {
    let devices = injection.devices.iter().map(|device| DeviceMapping {
        path_on_host: Some(device.host.display().to_string()),
        path_in_container: Some(device.container.display().to_string()),
        cgroup_permissions: Some(device.permissions.clone()),
    });
    let libraries = injection.library_folders().map(|folder| folder.display().to_string());
    let files = injection.files();
    let mounts = files.iter().map(|(place, host)| read_only(host, &place.display().to_string()));
    GpuRequest {
        requests: None,
        devices: Some(devices.collect()),
        mounts: mounts.collect(),
        environment: injection.environment.clone(),
        libraries: libraries.collect(),
    }
}

/// Counts the GPUs that the container has been given. Too many are another tenant's; none may be lacking. Where its `/dev`
/// cannot be looked at, that is no success: only a machine without GPUs has none to give away.
pub(super) fn check_given(
    init_pid: u32,
    spec: &ContainerSpec,
    machine: &Path,
) -> Result<(), RuntimeError> {
    let count = match files::open_inside(init_pid, "dev").and_then(count_nodes) {
        Some(count) => count,
        None if spec.gpus.is_empty() && has_no_gpus(machine) => return Ok(()),
        None => {
            let path = format!("/proc/{init_pid}/root/dev").into();
            let source = std::io::Error::other("it is not known which GPUs it was given");
            return Err(RuntimeError::Io { act: "look into a container at", path, source });
        }
    };
    let slices = spec.gpus.iter().filter(|uuid| uuid.starts_with("MIG-")).count();
    let whole = spec.gpus.len() - slices;
    if (whole..=whole + slices).contains(&count) {
        return Ok(());
    }
    Err(RuntimeError::Unsupported {
        what: format!("the engine gave {count} GPUs to a lease of {}", spec.gpus.len()),
        remedy: "check the NVIDIA toolkit's configuration; the default runtime must not be nvidia in its legacy mode",
    })
}

/// The GPUs of one `/dev`; nothing where it cannot be read to its end.
fn count_nodes(dev: OwnedFd) -> Option<usize> {
    let is_gpu = |name: &CStr| {
        let number = name.to_bytes().strip_prefix(b"nvidia");
        number.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
    };
    let mut count = 0;
    for entry in Dir::new(dev).ok()?.take(NODES_MAX) {
        count += usize::from(is_gpu(entry.ok()?.file_name()));
    }
    Some(count)
}

fn has_no_gpus(dev: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dev, flags, Mode::empty()).ok();
    opened.and_then(count_nodes) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[
        {"name":"GPU-1","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"}]}},
        {"name":"GPU-2","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia1"}]}},
        {"name":"all","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"},{"path":"/dev/nvidia1"}]}}],
        "containerEdits":{"deviceNodes":[{"path":"/dev/nvidiactl"}]}}"#;

    fn registry(spec: &str) -> Registry {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("nvidia.json"), spec).expect("spec");
        Registry::load(&[dir.path()])
    }

    fn facts(devices: &[&str]) -> EngineFacts {
        EngineFacts {
            cdi_dirs: vec!["/etc/cdi".into()],
            cdi_devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            ..EngineFacts::default()
        }
    }

    fn uuids(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn json(request: &GpuRequest) -> serde_json::Value {
        serde_json::to_value(&request.requests).expect("json")
    }

    /// An engine that reads CDI would be asked in a way that needs the toolkit, or with names that it does not have.
    #[test]
    fn cdi_comes_first_by_the_engines_own_names() {
        let known = facts(&["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2", "nvidia.com/gpu=all"]);
        let gpus = Gpus::new(&known, Registry::default(), Some(GpuWay::Toolkit));
        assert_eq!(gpus.ways, [GpuWay::Cdi, GpuWay::Toolkit]);
        let request = gpus.request(&uuids(&["GPU-2"])).expect("request");
        let expected =
            serde_json::json!([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-2"]}]);
        assert_eq!(json(&request), expected);
        // Older engines do not list what they know; the specs do.
        let gpus = Gpus::new(&facts(&[]), registry(SPEC), None);
        assert_eq!(gpus.ways, [GpuWay::Cdi, GpuWay::Injected]);
        let request = gpus.request(&uuids(&["GPU-1", "GPU-2"])).expect("request");
        assert_eq!(json(&request)[0]["DeviceIDs"].as_array().expect("ids").len(), 2);
    }

    /// A GPU that the specs do not name would not be given although the toolkit can.
    #[test]
    fn the_toolkit_gives_what_cdi_does_not_know() {
        let known = facts(&["nvidia.com/gpu=0"]);
        let gpus = Gpus::new(&known, Registry::default(), Some(GpuWay::Toolkit));
        let request = gpus.request(&uuids(&["GPU-1"])).expect("request");
        let expected = serde_json::json!([
            {"Driver": "", "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu", "compute", "utility"]]}
        ]);
        assert_eq!(json(&request), expected);
        assert_eq!(json(&gpus.trial(GpuWay::Toolkit).expect("trial"))[0]["Count"], -1);
    }

    /// A container whose devices cannot be looked at would keep whatever the engine gave it: every GPU of the machine.
    #[test]
    fn devices_that_cannot_be_counted_are_no_success() {
        let machine = tempfile::tempdir().expect("dir");
        let spec = |gpus: &[&str]| ContainerSpec {
            lease: nicompute_market::LeaseId::from_random_bytes([1; 16]),
            generation: 1,
            cores_milli: 1_000,
            memory_bytes: 64 << 20,
            disk_bytes: 64 << 20,
            gpus: uuids(gpus),
            image: "box:1".to_owned(),
            dir: "/state/leases/x".into(),
            agent: "/state/agent".into(),
            masked_host_paths: Vec::new(),
            options: super::super::super::Options::default(),
        };
        // Larger than any process number: nobody's container.
        let (none, one) = (spec(&[]), spec(&["GPU-1"]));
        check_given(u32::MAX, &none, machine.path()).expect("a machine without GPUs");
        let error = check_given(u32::MAX, &one, machine.path()).expect_err("unknown");
        assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
        std::fs::write(machine.path().join("nvidia0"), "").expect("node");
        check_given(u32::MAX, &none, machine.path()).expect_err("it may have been given one");
    }

    /// A machine without any way would offer its GPUs, and every lease of them fail.
    #[test]
    fn nothing_gives_nothing() {
        let gpus = Gpus::new(&EngineFacts::default(), Registry::default(), None);
        assert_eq!(gpus.ways, []);
        assert!(gpus.request(&[]).expect("none wanted").requests.is_none());
        let error = gpus.request(&uuids(&["GPU-1"])).expect_err("no way");
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
        let gpus = Gpus::new(&facts(&["nvidia.com/gpu=GPU-1"]), Registry::default(), None);
        let error = gpus.request(&uuids(&["GPU-1", "GPU-9"])).expect_err("one is unknown");
        assert!(error.to_string().contains("GPU-9"), "{error}");
    }

    /// An engine that knows neither CDI nor the toolkit would be given other devices than the leased GPU's.
    #[test]
    fn an_injection_gives_the_devices_of_the_specs() {
        let spec = SPEC
            .replace("/dev/nvidia0\"", "/dev/nvidia0\",\"hostPath\":\"/dev/null\"")
            .replace("/dev/nvidiactl\"", "/dev/nvidiactl\",\"hostPath\":\"/dev/zero\"");
        let gpus = Gpus::new(&EngineFacts::default(), registry(&spec), None);
        assert_eq!(gpus.ways, [GpuWay::Injected]);
        match gpus.request(&uuids(&["GPU-1"])) {
            Ok(request) => {
                let devices = request.devices.expect("devices");
                let seen: BTreeSet<_> = devices
                    .iter()
                    .filter_map(|device| device.path_in_container.as_deref())
                    .collect();
                assert!(seen.into_iter().eq(["/dev/nvidia0", "/dev/nvidiactl"]));
                assert!(request.requests.is_none());
            }
            // A stricter reading of specs may refuse nodes that are another device on the host.
            Err(error) => assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}"),
        }
        let error = gpus.request(&uuids(&["GPU-9"])).expect_err("unknown");
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    }
}
