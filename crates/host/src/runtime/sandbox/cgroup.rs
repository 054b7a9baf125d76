//! Control groups of the root profile: where the kernel has them (version 2, version 1, or both at once), one group a
//! lease in each hierarchy that is used, limits, freezing, and the sweep of what is left.
//!
//! Groups lie at `nicompute/<node>/<lease>`, so that they name their owner even when its state directory is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use nicompute_market::LeaseId;

use super::super::{ContainerSpec, PIDS_MAX};

/// The directory of all our groups in each hierarchy.
const TOP: &str = "nicompute";
/// Over what span processor time is counted; the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses a smaller quota.
const CPU_QUOTA_US_MIN: u64 = 1_000;

/// What we limit, and the freezer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    Memory,
    Cpu,
    Pids,
    Freezer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Whether processes are to stand still or to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Motion {
    Freeze,
    Thaw,
}

/// Which hierarchy serves which controller on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    places: BTreeMap<Controller, (Version, PathBuf)>,
}

/// The groups of one lease, ready to be made by the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CgroupPlan {
    groups: Vec<PathBuf>,
    limits: Vec<Limit>,
}

/// One file of a group and what it is to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Limit {
    file: PathBuf,
    value: String,
    /// Kernels without swap accounting lack the file; without swap there is nothing to limit.
    if_present: bool,
}

/// Why a machine's control groups cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    #[error("the cgroup controllers {} are not mounted", names.join(", "))]
    Missing { names: Vec<&'static str> },
    #[error("cannot prepare {}", path.display())]
    Prepare {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

// === impl Layout ===

impl Layout {
    /// Finds the hierarchies in the text of `/proc/self/mountinfo`.
    pub(super) fn discover(mountinfo: &str) -> Result<Self, LayoutError> {
        let mut places = BTreeMap::new();
        for mount in mountinfo.lines().filter_map(parse_mount) {
            for controller in Controller::ALL {
                if mount.serves(controller) {
                    // A controller belongs to one hierarchy at a time; for the freezer, which every version-2 hierarchy has, that one wins.
                    let better = mount.version == Version::V2 || !places.contains_key(&controller);
                    if better {
                        places.insert(controller, (mount.version, mount.path.clone()));
                    }
                }
            }
        }
        let missing = Controller::ALL.iter().filter(|controller| !places.contains_key(*controller));
        let names: Vec<&str> = missing.map(|controller| controller.name()).collect();
        if names.is_empty() { Ok(Self { places }) } else { Err(LayoutError::Missing { names }) }
    }

    /// Makes the parents of the node's groups and lets them hand controllers down.
    pub(super) fn prepare(&self, node: &str) -> Result<(), LayoutError> {
        for (version, root) in self.hierarchies() {
            let (top, ours) = (root.join(TOP), root.join(TOP).join(node));
            fs::create_dir_all(&ours)
                .map_err(|source| LayoutError::Prepare { path: ours.clone(), source })?;
            if version == Version::V2 {
                for dir in [root, top, ours] {
                    self.hand_down(&dir)?;
                }
            }
        }
        Ok(())
    }

    /// The groups of one lease with the limits of its spec.
    pub(super) fn plan(&self, node: &str, spec: &ContainerSpec) -> CgroupPlan {
        let mut limits = Vec::new();
        let memory = spec.memory_bytes.to_string();
        let quota =
            u64::from(spec.cores_milli).saturating_mul(CPU_PERIOD_US / 1000).max(CPU_QUOTA_US_MIN);
        let mut add = |controller: Controller, v1: &[(&str, &str)], v2: &[(&str, &str)]| {
            let Some((version, root)) = self.places.get(&controller) else { return };
            let group = group(root, node, spec.lease);
            let files = if *version == Version::V1 { v1 } else { v2 };
            limits.extend(files.iter().map(|(name, value)| Limit {
                file: group.join(name.trim_end_matches('?')),
                value: (*value).to_owned(),
                if_present: name.ends_with('?'),
            }));
        };
        add(
            Controller::Memory,
            &[
                ("memory.limit_in_bytes", &memory),
                ("memory.memsw.limit_in_bytes?", &memory),
                // Where swap is not counted, none of it is used.
                ("memory.swappiness?", "0"),
            ],
            &[("memory.max", &memory), ("memory.swap.max?", "0")],
        );
        let (quota_v1, period) = (quota.to_string(), CPU_PERIOD_US.to_string());
        let quota_v2 = format!("{quota} {period}");
        add(
            Controller::Cpu,
            &[("cpu.cfs_period_us", &period), ("cpu.cfs_quota_us", &quota_v1)],
            &[("cpu.max", &quota_v2)],
        );
        let pids = PIDS_MAX.to_string();
        add(Controller::Pids, &[("pids.max", &pids)], &[("pids.max", &pids)]);
        CgroupPlan { groups: self.groups(node, spec.lease), limits }
    }

    /// The directories of a lease's groups.
    pub(super) fn groups(&self, node: &str, lease: LeaseId) -> Vec<PathBuf> {
        self.hierarchies().into_iter().map(|(_, root)| group(&root, node, lease)).collect()
    }

    /// Leases of the node that have a group.
    pub(super) fn leases(&self, node: &str) -> io::Result<Vec<LeaseId>> {
        let mut found = Vec::new();
        for (_, root) in self.hierarchies() {
            let entries = match fs::read_dir(root.join(TOP).join(node)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let name = entry?.file_name();
                found.extend(name.to_str().and_then(|name| name.parse::<LeaseId>().ok()));
            }
        }
        Ok(found)
    }

    /// The processes in a lease's groups.
    pub(super) fn pids(&self, node: &str, lease: LeaseId) -> io::Result<Vec<u32>> {
        pids_of(&self.groups(node, lease))
    }

    /// Asks the kernel to freeze the lease's processes or to let them go on. It takes a moment: see `frozen`.
    pub(super) fn freeze(&self, node: &str, lease: LeaseId, motion: Motion) -> io::Result<()> {
        let Some((version, root)) = self.places.get(&Controller::Freezer) else { return Ok(()) };
        let group = group(root, node, lease);
        if motion == Motion::Thaw && !group.exists() {
            // A helper that was killed among the groups has frozen nothing yet.
            return Ok(());
        }
        match version {
            Version::V1 => {
                let state = if motion == Motion::Freeze { "FROZEN" } else { "THAWED" };
                fs::write(group.join("freezer.state"), state)
            }
            Version::V2 => {
                let state = if motion == Motion::Freeze { "1" } else { "0" };
                fs::write(group.join("cgroup.freeze"), state)
            }
        }
    }

    /// Lets the lease's processes have all the processor time that there is. Thousands of them that share a small part of
    /// a core need minutes to notice that they were killed.
    pub(super) fn unthrottle(&self, node: &str, lease: LeaseId) -> io::Result<()> {
        let Some((version, root)) = self.places.get(&Controller::Cpu) else { return Ok(()) };
        let (file, value) = match version {
            Version::V1 => ("cpu.cfs_quota_us", "-1"),
            Version::V2 => ("cpu.max", "max"),
        };
        match fs::write(group(root, node, lease).join(file), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// Whether all of the lease's processes stand still.
    pub(super) fn frozen(&self, node: &str, lease: LeaseId) -> io::Result<bool> {
        let Some((version, root)) = self.places.get(&Controller::Freezer) else {
            return Ok(false);
        };
        let group = group(root, node, lease);
        let (file, line) = match version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.events", "frozen 1"),
        };
        match fs::read_to_string(group.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            text => Ok(text?.lines().any(|found| found == line)),
        }
    }

    /// Removes the lease's groups. Returns false while the kernel still counts a process in one of them.
    pub(super) fn remove(&self, node: &str, lease: LeaseId) -> io::Result<bool> {
        remove_all(&self.groups(node, lease))
    }

    /// Removes the node's own directories once they are empty. Others of the machine's nodes keep theirs.
    pub(super) fn tidy(&self, node: &str) {
        for (_, root) in self.hierarchies() {
            let top = root.join(TOP);
            if fs::remove_dir(top.join(node)).is_ok() && fs::remove_dir(&top).is_ok() {
                tracing::debug!(hierarchy = %root.display(), "removed the last of our cgroups");
            }
        }
    }

    fn hierarchies(&self) -> Vec<(Version, PathBuf)> {
        let mut roots: Vec<(Version, PathBuf)> = Vec::new();
        for (version, root) in self.places.values() {
            if !roots.iter().any(|(_, known)| known == root) {
                roots.push((*version, root.clone()));
            }
        }
        roots
    }

    fn hand_down(&self, dir: &Path) -> Result<(), LayoutError> {
        let file = dir.join("cgroup.subtree_control");
        for (controller, (version, _)) in &self.places {
            if *version == Version::V2 && *controller != Controller::Freezer {
                fs::write(&file, format!("+{}", controller.name()))
                    .map_err(|source| LayoutError::Prepare { path: file.clone(), source })?;
            }
        }
        Ok(())
    }
}

// === impl CgroupPlan ===

impl CgroupPlan {
    /// Makes the groups, sets the limits and moves the process in.
    pub(super) fn carry_out(&self, pid: u32) -> io::Result<()> {
        for group in &self.groups {
            fs::create_dir_all(group)?;
        }
        for limit in &self.limits {
            if !limit.if_present || limit.file.exists() {
                fs::write(&limit.file, &limit.value)?;
            }
        }
        for group in &self.groups {
            fs::write(group.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }
}

impl CgroupPlan {
    /// The processes in the groups.
    pub(super) fn pids(&self) -> io::Result<Vec<u32>> {
        pids_of(&self.groups)
    }

    /// Removes the groups. Returns false while the kernel still counts a process in one of them.
    pub(super) fn remove(&self) -> io::Result<bool> {
        remove_all(&self.groups)
    }
}

// === impl Controller ===

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Pids, Self::Freezer];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
        }
    }
}

struct Mount {
    version: Version,
    path: PathBuf,
    controllers: String,
}

impl Mount {
    fn serves(&self, controller: Controller) -> bool {
        let split = |c: char| c == ',' || c.is_ascii_whitespace();
        let named = self.controllers.split(split).any(|name| name == controller.name());
        named || (self.version == Version::V2 && controller == Controller::Freezer)
    }
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let path = PathBuf::from(front.split(' ').nth(4)?);
    let mut back = back.split(' ');
    let (kind, options) = (back.next()?, back.nth(1)?);
    match kind {
        "cgroup" => Some(Mount { version: Version::V1, path, controllers: options.to_owned() }),
        "cgroup2" => {
            let controllers = fs::read_to_string(path.join("cgroup.controllers")).ok()?;
            Some(Mount { version: Version::V2, path, controllers })
        }
        _ => None,
    }
}

fn pids_of(groups: &[PathBuf]) -> io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = Vec::new();
    for group in groups {
        let text = match fs::read_to_string(group.join("cgroup.procs")) {
            Err(error) if is_absent(&error) => continue,
            text => text?,
        };
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn remove_all(groups: &[PathBuf]) -> io::Result<bool> {
    for group in groups {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Ok(false),
            removed => removed?,
        }
    }
    Ok(true)
}

/// A group that was removed, before it was opened or after.
fn is_absent(error: &io::Error) -> bool {
    let removed = rustix::io::Errno::NODEV.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(removed)
}

fn group(root: &Path, node: &str, lease: LeaseId) -> PathBuf {
    root.join(TOP).join(node).join(lease.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            lease: LeaseId::from_random_bytes([9; 16]),
            generation: 1,
            cores_milli: 1_500,
            memory_bytes: 64 << 20,
            disk_bytes: 64 << 20,
            gpus: Vec::new(),
            image: "host".to_owned(),
            dir: "/nowhere".into(),
            agent: "/nowhere/agent".into(),
            masked_host_paths: Vec::new(),
            options: crate::runtime::Options::default(),
        }
    }

    fn written(plan: &CgroupPlan, root: &Path) -> Vec<String> {
        let show = |limit: &Limit| {
            let file = limit.file.strip_prefix(root).unwrap_or(&limit.file);
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let top = file.components().next().map(|c| c.as_os_str().to_string_lossy());
            format!("{}:{name}={}", top.unwrap_or_default(), limit.value)
        };
        plan.limits.iter().map(show).collect()
    }

    /// A machine with the newer kernel interface would run its tenants with no limit at all.
    #[test]
    fn version_2_alone() {
        let root = tempfile::tempdir().expect("dir");
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n")
            .expect("write");
        let line = format!("1 1 0:1 / {} rw - cgroup2 cgroup2 rw\n", root.path().display());
        let layout = Layout::discover(&line).expect("layout");
        layout.prepare("node").expect("prepare");
        let control = root.path().join("nicompute/node/cgroup.subtree_control");
        assert_eq!(fs::read_to_string(control).expect("read"), "+pids");
        let plan = layout.plan("node", &spec());
        assert_eq!(plan.groups.len(), 1);
        assert_eq!(
            written(&plan, root.path()),
            [
                "nicompute:memory.max=67108864",
                "nicompute:memory.swap.max=0",
                "nicompute:cpu.max=150000 100000",
                "nicompute:pids.max=4096"
            ]
        );
        plan.carry_out(7).expect("carry out");
        let lease = spec().lease;
        assert_eq!(layout.leases("node").expect("leases"), [lease]);
        assert_eq!(layout.pids("node", lease).expect("reads"), [7]);
        layout.freeze("node", lease, Motion::Freeze).expect("freeze");
        let group = group(root.path(), "node", lease);
        assert_eq!(fs::read_to_string(group.join("cgroup.freeze")).expect("read"), "1");
        assert!(!group.join("memory.swap.max").exists(), "no swap accounting, nothing to write");
        fs::write(group.join("cgroup.events"), "populated 1\nfrozen 1\n").expect("write");
        assert!(layout.frozen("node", lease).expect("frozen"));
        layout.unthrottle("node", lease).expect("unthrottle");
        assert_eq!(fs::read_to_string(group.join("cpu.max")).expect("read"), "max");
        layout.unthrottle("node", LeaseId::from_random_bytes([1; 16])).expect("nothing to do");
    }

    /// Many machines still mount version 1 next to an empty version 2: limits go to the one, freezing to the other.
    #[test]
    fn both_versions_at_once() {
        let root = tempfile::tempdir().expect("dir");
        let unified = root.path().join("unified");
        fs::create_dir(&unified).expect("mkdir");
        fs::write(unified.join("cgroup.controllers"), "\n").expect("write");
        let base = root.path().display();
        let mountinfo = format!(
            "1 1 0:1 / {base}/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             1 1 0:1 / {base}/memory rw - cgroup cgroup rw,memory\n\
             1 1 0:1 / {base}/pids rw - cgroup cgroup rw,pids\n\
             1 1 0:1 / {base}/freezer rw - cgroup cgroup rw,freezer\n\
             1 1 0:1 / {base}/unified rw - cgroup2 cgroup2 rw\n"
        );
        let layout = Layout::discover(&mountinfo).expect("layout");
        let plan = layout.plan("node", &spec());
        assert_eq!(
            written(&plan, root.path()),
            [
                "memory:memory.limit_in_bytes=67108864",
                "memory:memory.memsw.limit_in_bytes=67108864",
                "memory:memory.swappiness=0",
                "cpu:cpu.cfs_period_us=100000",
                "cpu:cpu.cfs_quota_us=150000",
                "pids:pids.max=4096"
            ]
        );
        assert!(plan.groups.iter().any(|group| group.starts_with(&unified)));
        assert_eq!(plan.groups.len(), 4);
    }

    /// A machine without one of the controllers must be refused, not run without that limit.
    #[test]
    fn a_missing_controller_is_named() {
        let error = Layout::discover("1 1 0:1 / /x rw - cgroup cgroup rw,cpu\n").expect_err("no");
        assert_eq!(
            error.to_string(),
            "the cgroup controllers memory, pids, freezer are not mounted"
        );
    }

    /// The newer interface is often mounted beside the older one, which has the controllers: it would be taken for enough,
    /// and tenants run without limits.
    #[test]
    fn the_machine_s_own_version_2_is_asked_what_it_has() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let newer: Vec<&str> = mounts.lines().filter(|line| line.contains(" - cgroup2 ")).collect();
        let Some(mount) = newer.first().and_then(|line| parse_mount(line)) else { return };
        let lacks = |name: &&str| !mount.controllers.split_ascii_whitespace().any(|c| c == *name);
        let missing: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(lacks).collect();
        match Layout::discover(&newer.join("\n")) {
            Ok(_) => assert!(missing.is_empty(), "{missing:?}"),
            Err(LayoutError::Missing { names }) => assert_eq!(names, missing),
            Err(error) => panic!("{error}"),
        }
    }
}
