//! What the node and its sandbox helper say to each other: one order in, one answer out, both JSON, both bounded.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use nicompute_market::LeaseId;

use super::super::disk::DiskError;
use super::cgroup::CgroupPlan;

/// Longest order or answer. A lease's environment has at most 64 KiB, an image's as much, and JSON makes six bytes of one.
pub(super) const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// What the helper is to make.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub(super) node_id: String,
    pub(super) lease: LeaseId,
    pub(super) generation: u64,
    pub(super) dir: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) image: Image,
    /// Canonical paths that are hidden where the image is the machine's own root.
    pub(super) masked: Vec<PathBuf>,
    pub(super) memory_bytes: u64,
    pub(super) extras: Extras,
    pub(super) gpus: GpuOrder,
    pub(super) profile: Profile,
    pub(super) end: End,
}

/// What the lease asked for beyond its share, and what its image brings along.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extras {
    pub(super) shm_bytes: u64,
    pub(super) root: Access,
    /// Parents before children.
    pub(super) volumes: Vec<VolumeOrder>,
    /// Parents before children.
    pub(super) tmpfs: Vec<TmpfsOrder>,
    /// The image's variables, then the lease's, which win.
    pub(super) environment: Vec<(String, String)>,
    /// Whether `resolv.conf` of the lease's directory is shown.
    pub(super) resolver: Resolver,
}

/// The driver's nodes and files that a container with GPUs has. Without GPUs both lists are empty.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuOrder {
    pub(super) nodes: Vec<NodeOrder>,
    /// Parents before children.
    pub(super) files: Vec<FileOrder>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeOrder {
    /// The machine's own.
    pub(super) host: PathBuf,
    /// Where it is in the container, from its root on: `dev/nvidia0`.
    pub(super) place: PathBuf,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) mode: u32,
}

/// A file or a folder of the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOrder {
    /// The machine's own, after all links.
    pub(super) host: PathBuf,
    /// Where it is in the container, from its root on.
    pub(super) place: PathBuf,
}

/// Whether the image's files can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Access {
    #[default]
    Writable,
    ReadOnly,
}

/// How names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Resolver {
    /// As the image has it.
    #[default]
    Image,
    /// By `resolv.conf` of the lease's directory.
    Lease,
}

/// A directory that outlives the container's restarts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VolumeOrder {
    pub(super) name: String,
    pub(super) target: String,
    /// A disk of its own of that size; a directory of the lease's disk otherwise.
    pub(super) bytes: Option<u64>,
}

/// A file system in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TmpfsOrder {
    pub(super) target: String,
    pub(super) bytes: u64,
}

/// Where the files of the container come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Image {
    Host,
    Directory(PathBuf),
}

/// With root or without.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Profile {
    User,
    Root(RootProfile),
}

/// What only root can arrange.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RootProfile {
    pub(super) disk_bytes: u64,
    pub(super) mkfs: PathBuf,
    /// Where formatted disks are kept to be copied.
    pub(super) templates: PathBuf,
    pub(super) cgroups: CgroupPlan,
}

/// How far to go. The stages in between exist for the tests that kill at each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// Start the agent.
    Started,
    /// Make everything ready, start nothing and let it vanish: answers whether this machine can do it.
    Tried,
}

/// What came of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The agent runs, or would have.
    Running { init_pid: u32 },
    /// The container is of a later generation.
    Superseded { current: u64 },
    /// A step failed; nothing is left running.
    Failed(Failure),
}

/// A step that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What was being done, as a verb phrase.
    pub(super) step: String,
    /// The system's error number, where there is one.
    pub(super) errno: Option<i32>,
    /// The error in words.
    pub(super) text: String,
    pub(super) remedy: Option<Remedy>,
}

/// What an operator can do about a failed step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Remedy {
    Userns,
    HiddenProc,
    Idmap,
    Loop,
    Cgroup,
    Agent,
    Mkfs,
    Gpu,
    /// Nobody but the renter: a target of theirs is not a place for a mount.
    Target,
}

pub(super) type Step<T> = Result<T, Failure>;

/// Names the step that an I/O result belongs to.
pub(super) trait InStep<T> {
    fn step(self, step: &str) -> Step<T>;
    fn step_or(self, step: &str, remedy: Remedy) -> Step<T>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn step(self, step: &str) -> Step<T> {
        self.map_err(|error| Failure::new(step, &error.into(), None))
    }

    fn step_or(self, step: &str, remedy: Remedy) -> Step<T> {
        self.map_err(|error| Failure::new(step, &error.into(), Some(remedy)))
    }
}

impl Failure {
    pub(super) fn new(step: &str, error: &io::Error, remedy: Option<Remedy>) -> Self {
        let (step, text) = (step.to_owned(), error.to_string());
        Self { step, errno: error.raw_os_error(), text, remedy }
    }

    /// A step that failed for a reason that is not a system call's.
    pub(super) fn because(step: &str, text: &str, remedy: Option<Remedy>) -> Self {
        Self { step: step.to_owned(), errno: None, text: text.to_owned(), remedy }
    }

    /// The error that it was on the other side of the pipe.
    pub(super) fn source(&self) -> io::Error {
        self.errno.map_or_else(|| io::Error::other(self.text.clone()), io::Error::from_raw_os_error)
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        let step = error.to_string();
        match error {
            DiskError::Io { source, .. } => Self::new(&step, &source, None),
            DiskError::Loop(source) => Self::new(&step, &source, Some(Remedy::Loop)),
            DiskError::NoMkfs | DiskError::Mkfs { .. } => {
                Self::because(&step, "the lease's disk was not made", Some(Remedy::Mkfs))
            }
            DiskError::InUse { .. } => {
                Self::because(&step, "the container's last run has not let go of it", None)
            }
        }
    }
}

impl Remedy {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Userns => {
                "allow user namespaces (sysctl user.max_user_namespaces above 0, and where they exist \
                 kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0), \
                 or use --runtime docker"
            }
            Self::HiddenProc => {
                "this machine hides parts of /proc or /sys, as containers do: run the node outside of a \
                 container, or use --runtime docker"
            }
            Self::Idmap => {
                "keep the image and the state directory on ext4, xfs or btrfs under Linux 5.19 or newer, \
                 or use --runtime docker"
            }
            Self::Loop => "load the loop driver (modprobe loop), or use --runtime docker",
            Self::Cgroup => {
                "mount the cgroup controllers memory, cpu and pids writable for root, or use --runtime docker"
            }
            Self::Agent => {
                "make the agent's file readable and executable for everybody, and use the static build \
                 where the image is not this machine"
            }
            Self::Target => {
                "choose a target that does not lead through a link or a file of the image"
            }
            Self::Gpu => {
                "the specs must be as new as the driver (nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml), and the \
                 image must not have links to nowhere where the driver's files belong; or use --runtime docker"
            }
            Self::Mkfs => "install mkfs.ext4 (apt-get install e2fsprogs), or use --runtime docker",
        }
    }
}
