//! What the engine says about itself, as far as it decides what a lease can be given. An engine's word is taken for what
//! it lacks; what it claims to have is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bollard::models::{Runtime, SystemInfo, SystemVersion};

/// Storage drivers that hold a container to a size without help from the file system below.
const OWN_QUOTA: [&str; 2] = ["btrfs", "zfs"];
/// How an engine marks layers that are kept by containerd; those take no size.
const CONTAINERD_STORE: &str = "driver-type";
/// Runtimes, devices and folders that are looked at; an engine has a handful.
const LISTED_MAX: usize = 1_000;

/// What the engine says about itself that an operator should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its version.
    pub version: String,
    /// The newest version of its interface.
    pub api: String,
    /// Which program it is.
    pub maker: Maker,
    /// The machine's processor, as images name it.
    pub architecture: String,
    /// The machine's processor cores.
    pub cores: u32,
    /// How it stores layers.
    pub storage_driver: String,
    /// Where it keeps them.
    pub root_dir: PathBuf,
    /// The names of its runtimes with their arguments.
    pub runtimes: BTreeMap<String, Vec<String>>,
    /// Its folders of CDI specifications; empty where it takes no CDI devices.
    pub cdi_dirs: Vec<PathBuf>,
    /// CDI devices that it has found, by their full names; older engines do not tell.
    pub cdi_devices: BTreeSet<String>,
    /// The user that a container's root is on this machine, where the engine shifts users.
    pub shifted_root: Option<(u32, u32)>,
    /// What it can and cannot do.
    pub has: Features,
}

/// Which program answers at the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Maker {
    /// The Docker Engine.
    #[default]
    Docker,
    /// Podman, behind the same interface.
    Podman,
}

/// What an engine can and cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are a list of independent answers")]
pub struct Features {
    /// Containers outlive a restart of the engine.
    pub live_restore: bool,
    /// It can hold a container to a disk size, as far as it tells.
    pub disk_quota: bool,
    /// Its containers' system calls are filtered.
    pub seccomp: bool,
    /// Memory, processor time and processes can be limited on this machine.
    pub limits: bool,
    /// Swap can be limited too.
    pub swap_limit: bool,
    /// A container's root is an ordinary user of this machine.
    pub user_namespaces: bool,
}

impl EngineFacts {
    pub(super) fn of(info: &SystemInfo, version: &SystemVersion) -> Self {
        let storage_driver = info.driver.clone().unwrap_or_default();
        let root_dir = PathBuf::from(info.docker_root_dir.clone().unwrap_or_default());
        let shifted_root = shifted_root(info, &root_dir);
        let devices = info.discovered_devices.iter().flatten().take(LISTED_MAX);
        let cdi = devices.filter(|device| device.source.as_deref() == Some("cdi"));
        let folders = info.cdi_spec_dirs.iter().flatten().take(LISTED_MAX);
        Self {
            version: info.server_version.clone().unwrap_or_default(),
            api: version.api_version.clone().unwrap_or_default(),
            maker: maker(version),
            architecture: architecture(info),
            cores: info.ncpu.and_then(|cores| u32::try_from(cores).ok()).unwrap_or(1),
            runtimes: info.runtimes.iter().flatten().take(LISTED_MAX).map(runtime).collect(),
            cdi_dirs: folders.map(PathBuf::from).collect(),
            cdi_devices: cdi.filter_map(|device| device.id.clone()).collect(),
            shifted_root,
            has: features(info, &storage_driver, shifted_root),
            storage_driver,
            root_dir,
        }
    }
}

fn runtime((name, runtime): (&String, &Runtime)) -> (String, Vec<String>) {
    (name.clone(), runtime.runtime_args.clone().unwrap_or_default())
}

fn architecture(info: &SystemInfo) -> String {
    match info.architecture.as_deref().unwrap_or_default() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

fn maker(version: &SystemVersion) -> Maker {
    let parts = version.components.as_deref().unwrap_or_default();
    let is_podman = parts.iter().any(|part| part.name.to_ascii_lowercase().contains("podman"));
    if is_podman { Maker::Podman } else { Maker::Docker }
}

fn features(info: &SystemInfo, driver: &str, shifted_root: Option<(u32, u32)>) -> Features {
    let filter = security(info, "seccomp");
    Features {
        live_restore: info.live_restore_enabled.unwrap_or(false),
        disk_quota: disk_quota(info, driver),
        seccomp: filter.is_some_and(|option| !option.contains("unconfined")),
        limits: [info.memory_limit, info.cpu_cfs_quota, info.pids_limit]
            .into_iter()
            .all(|limit| limit.unwrap_or(false)),
        swap_limit: info.swap_limit.unwrap_or(false),
        user_namespaces: shifted_root.is_some()
            || security(info, "userns").is_some()
            || security(info, "rootless").is_some(),
    }
}

/// The engine's security option of that name.
fn security<'a>(info: &'a SystemInfo, name: &str) -> Option<&'a str> {
    let options = info.security_options.iter().flatten();
    options.map(String::as_str).find(|option| {
        let first = option.split(',').next().unwrap_or_default();
        first.strip_prefix("name=").unwrap_or(first) == name
    })
}

/// An engine that shifts users keeps its store in a folder that is named after the user and group of their root.
fn shifted_root(info: &SystemInfo, root_dir: &std::path::Path) -> Option<(u32, u32)> {
    security(info, "userns")?;
    let (user, group) = root_dir.file_name()?.to_str()?.split_once('.')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

fn disk_quota(info: &SystemInfo, driver: &str) -> bool {
    let status = info.driver_status.as_deref().unwrap_or_default();
    let says = |key: &str, value: &str| {
        status.iter().any(|pair| matches!(pair.as_slice(), [k, v] if k == key && v == value))
    };
    let by_containerd =
        status.iter().any(|pair| pair.first().is_some_and(|key| key == CONTAINERD_STORE));
    !by_containerd
        && (OWN_QUOTA.contains(&driver)
            || (driver == "overlay2" && says("Backing Filesystem", "xfs")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{DeviceInfo, SystemVersionComponents};

    use super::*;

    fn info(driver: &str, status: &[(&str, &str)]) -> SystemInfo {
        let pair = |(key, value): &(&str, &str)| vec![(*key).to_owned(), (*value).to_owned()];
        SystemInfo {
            driver: Some(driver.to_owned()),
            driver_status: Some(status.iter().map(pair).collect()),
            docker_root_dir: Some("/var/lib/docker".to_owned()),
            live_restore_enabled: Some(true),
            memory_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(true),
            security_options: Some(vec!["name=seccomp,profile=default".to_owned()]),
            ..SystemInfo::default()
        }
    }

    fn facts(info: &SystemInfo) -> EngineFacts {
        EngineFacts::of(info, &SystemVersion::default())
    }

    /// A quota that the engine cannot keep would be promised in an offer.
    #[test]
    fn a_quota_follows_the_storage_driver() {
        let quota = |driver, status| facts(&info(driver, status)).has.disk_quota;
        assert!(!quota("overlay2", &[("Backing Filesystem", "extfs")]));
        assert!(quota("overlay2", &[("Backing Filesystem", "xfs")]));
        assert!(quota("btrfs", &[]));
        assert!(!quota("btrfs", &[("driver-type", "io.containerd.snapshotter.v1")]));
        assert!(!quota("overlayfs", &[("Backing Filesystem", "xfs")]));
        assert!(!facts(&SystemInfo::default()).has.live_restore);
    }

    /// An engine that cannot limit memory would be offered as one that does, and one without a filter as safe.
    #[test]
    fn what_an_engine_lacks_is_believed() {
        assert!(facts(&info("overlay2", &[])).has.limits);
        for lacking in [
            SystemInfo { memory_limit: Some(false), ..info("overlay2", &[]) },
            SystemInfo { pids_limit: None, ..info("overlay2", &[]) },
            SystemInfo { cpu_cfs_quota: Some(false), ..info("overlay2", &[]) },
        ] {
            assert!(!facts(&lacking).has.limits);
        }
        let filtered = |option: &str| {
            let security_options = Some(vec!["name=apparmor".to_owned(), option.to_owned()]);
            facts(&SystemInfo { security_options, ..info("overlay2", &[]) }).has.seccomp
        };
        assert!(filtered("name=seccomp,profile=builtin"));
        assert!(filtered("name=seccomp"));
        assert!(!filtered("name=seccomp,profile=unconfined"));
        assert!(!filtered("name=cgroupns"));
    }

    /// Files that a shifted root must read would keep an owner that it is not, and no agent would ever start.
    #[test]
    fn a_shifted_root_is_read_from_the_store() {
        let shifted = |root: &str, option: &str| {
            facts(&SystemInfo {
                docker_root_dir: Some(root.to_owned()),
                security_options: Some(vec![option.to_owned()]),
                ..info("overlay2", &[])
            })
        };
        let facts = shifted("/var/lib/docker/165536.165537", "name=userns");
        assert_eq!(facts.shifted_root, Some((165_536, 165_537)));
        assert!(facts.has.user_namespaces);
        assert_eq!(shifted("/var/lib/docker/165536.165537", "name=seccomp").shifted_root, None);
        assert_eq!(shifted("/var/lib/docker", "name=userns").shifted_root, None);
        assert!(shifted("/home/u/.local/share/docker", "name=rootless").has.user_namespaces);
    }

    /// A GPU would be asked for by a name that the engine does not know, or of an engine that is another.
    #[test]
    fn devices_runtimes_and_maker_are_read() {
        let device = |source: &str, id: &str| DeviceInfo {
            source: Some(source.to_owned()),
            id: Some(id.to_owned()),
        };
        let runsc = Runtime {
            runtime_args: Some(vec!["--host-uds=open".to_owned()]),
            ..Runtime::default()
        };
        let info = SystemInfo {
            cdi_spec_dirs: Some(vec!["/etc/cdi".to_owned()]),
            discovered_devices: Some(vec![device("cdi", "nvidia.com/gpu=GPU-1"), device("x", "y")]),
            runtimes: Some(HashMap::from([
                ("runsc".to_owned(), runsc),
                ("runc".to_owned(), Runtime::default()),
            ])),
            ..info("overlay2", &[])
        };
        let component = SystemVersionComponents {
            name: "Podman Engine".to_owned(),
            version: "5".to_owned(),
            details: None,
        };
        let version = SystemVersion {
            components: Some(vec![component]),
            api_version: Some("1.41".to_owned()),
            ..SystemVersion::default()
        };
        let facts = EngineFacts::of(&info, &version);
        assert_eq!(facts.maker, Maker::Podman);
        assert_eq!(facts.api, "1.41");
        assert_eq!(facts.cdi_dirs, [PathBuf::from("/etc/cdi")]);
        assert!(facts.cdi_devices.iter().eq(["nvidia.com/gpu=GPU-1"]));
        assert_eq!(facts.runtimes["runsc"], ["--host-uds=open"]);
        assert_eq!(facts.runtimes["runc"], Vec::<String>::new());
    }
}
