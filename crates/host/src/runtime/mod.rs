//! Containers of leases: one trait, its implementations, and how to choose between them.
//!
//! A runtime turns a stored lease into a running container and back into nothing. Every act is idempotent, because the
//! reconciler of the node repeats it after a crash; what a runtime made is labelled with the node and the lease, so that
//! a restarted node finds, adopts or sweeps it. A runtime never decides what should run, never talks to a renter, and
//! never starts anything inside a container except our agent, which is its first process.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use nicompute_market::{LeaseId, RuntimeClass};
use tokio::sync::watch;

pub mod disk;
pub mod docker;
pub mod sandbox;

mod detect;
mod error;
mod fake;
mod images;
mod options;

pub use detect::{Choice, DetectError, detect};
pub use error::RuntimeError;
pub use fake::{FakeMachine, FakeRuntime};
pub use images::{
    IMAGE_NAME_LEN_MAX, ImageName, ImagePattern, ImagePolicy, NotAPattern, NotAnImage,
};
pub use options::{
    ENVIRONMENT_BYTES_MAX, ENVIRONMENT_MAX, Network, Options, RootAccess, TARGET_LEN_MAX,
    TMPFS_MAX, Tmpfs, VOLUME_NAME_LEN_MAX, VOLUMES_MAX, Volume,
};

/// Where the agent lies inside every container.
pub const AGENT_IN_CONTAINER: &str = "/.nicompute/agent";
/// Where the directory of the gateway's socket is mounted, read-only.
pub const RUN_IN_CONTAINER: &str = "/.nicompute/run";
/// The socket that the agent dials.
pub const SOCKET_IN_CONTAINER: &str = "/.nicompute/run/gateway.sock";
/// A small writable directory in memory where programs may be executed; the prover is uploaded to it.
pub const SCRATCH_IN_CONTAINER: &str = "/run/nicompute";
/// Processes and threads in one container. Enough for compilers and data loaders, far below the kernel's own limit.
pub const PIDS_MAX: u32 = 4096;
/// The smallest disk that a container can be given: an ext4 file system with its journal and a little room.
pub const DISK_BYTES_MIN: u64 = 32 << 20;
/// The smallest memory file system. Engines take zero for no limit at all.
pub(crate) const MEMORY_FILES_BYTES_MIN: u64 = 64 << 10;
/// The smallest memory limit under which the agent and a shell work.
pub const MEMORY_BYTES_MIN: u64 = 32 << 20;

/// Capabilities that a container's root keeps: what package managers, servers and shells need and nothing that reaches
/// outside. Everything else is dropped for good.
pub(crate) const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "KILL",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
];

/// What a lease's container is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The lease that it belongs to; at most one container exists for it.
    pub lease: LeaseId,
    /// The lease's generation that asks for it. An older generation than the container's own is refused.
    pub generation: u64,
    /// Processor time, in thousandths of a core.
    pub cores_milli: u32,
    /// Memory, swap included.
    pub memory_bytes: u64,
    /// Disk for everything that the container writes outside of its memory file systems.
    pub disk_bytes: u64,
    /// UUIDs of exactly the GPUs that it sees.
    pub gpus: Vec<String>,
    /// One of `Runtime::images`.
    pub image: String,
    /// The lease's directory, `<state>/leases/<lease id>`. Its `run` holds the gateway's socket.
    pub dir: PathBuf,
    /// The agent's executable on this machine, readable by everybody.
    pub agent: PathBuf,
    /// Paths of this machine that must not be seen where the machine's own root is the image.
    pub masked_host_paths: Vec<PathBuf>,
    /// What it asked for beyond its share.
    pub options: Options,
}

/// Which implementation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeKind {
    /// The Docker Engine, or Podman behind the same socket.
    Docker,
    /// The embedded runtime with root: user namespace, cgroups, a disk of its own.
    SandboxRoot,
    /// The embedded runtime of an ordinary user: one uid, no limits.
    SandboxUser,
    /// In memory, for tests of others.
    Fake,
}

/// Which of the leased amounts the runtime enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// Processor, memory, processes and disk.
    All,
    /// Processor, memory and processes; the disk is shared with the machine.
    AllButDisk,
    /// Nothing: the container may use what the machine has.
    Nothing,
}

/// How far a fetch of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// Bytes that have arrived.
    pub bytes_done: u64,
    /// Bytes in all, as far as they are known.
    pub bytes_total: u64,
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its first process, as this machine numbers it.
    pub init_pid: u32,
}

/// How a lease's container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// There is none.
    Absent,
    /// Its processes run.
    Running {
        /// The first process, as this machine numbers it.
        init_pid: u32,
    },
    /// Its processes are frozen.
    Paused {
        /// The first process, as this machine numbers it.
        init_pid: u32,
    },
    /// Its first process has ended; what it left on disk is still there.
    Exited,
}

/// Makes, watches and removes the containers of one node.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug {
    /// Which implementation this is.
    fn kind(&self) -> RuntimeKind;

    /// What of the leased amounts is enforced.
    fn limits(&self) -> Limits;

    /// Whether a container is held to its share of processor, memory and processes.
    fn limits_enforced(&self) -> bool {
        self.limits() != Limits::Nothing
    }

    /// Whether containers can be given GPUs. Where they cannot, none may be offered.
    fn gives_gpus(&self) -> bool;

    /// Whether a container's root is an ordinary user of this machine.
    fn user_namespaces(&self) -> bool {
        false
    }

    /// The classes that are installed and work here; never empty.
    fn classes(&self) -> Vec<RuntimeClass> {
        vec![RuntimeClass::Standard]
    }

    /// The images that a container can be made from on this machine, now.
    async fn images(&self) -> Result<Vec<String>, RuntimeError>;

    /// Makes the container and starts it, or adopts the one that is there. An exited one is started again with its disk.
    /// A paused one stays paused.
    async fn ensure(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError>;

    /// Ends every process of the container and starts it again on the disk that it had. A paused one runs afterwards.
    async fn restart(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        Err(RuntimeError::Unsupported {
            what: format!("the {} runtime cannot restart lease {}", self.kind(), spec.lease),
            remedy: "release the lease and take a new one",
        })
    }

    /// Brings an image onto the machine, so that `images` lists it. One that is there already is not fetched again. The
    /// caller decides which images may be fetched, and by dropping the future gives a fetch up.
    async fn pull(
        &self,
        image: &str,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        let _ = progress;
        Err(RuntimeError::Unsupported {
            what: format!("the {} runtime cannot fetch image {image:?}", self.kind()),
            remedy: "put the image on the machine and name it in the node's configuration",
        })
    }

    /// The digest under which the image's registry knows it, `sha256:` and 64 digits. `None` for an image that came from no
    /// registry.
    async fn digest(&self, image: &str) -> Result<Option<String>, RuntimeError> {
        let _ = image;
        Ok(None)
    }

    /// How the lease's container stands.
    async fn inspect(&self, lease: LeaseId) -> Result<Presence, RuntimeError>;

    /// Freezes every process of the container. Pausing twice is pausing once.
    async fn pause(&self, lease: LeaseId) -> Result<(), RuntimeError>;

    /// Lets the processes go on. Resuming what runs changes nothing.
    async fn resume(&self, lease: LeaseId) -> Result<(), RuntimeError>;

    /// Removes the container with all that belongs to it: processes, disk, cgroups, the lease's directory. Removing what
    /// is not there succeeds.
    async fn remove(&self, lease: LeaseId) -> Result<(), RuntimeError>;

    /// Every lease of this node that has anything left on this machine.
    async fn list(&self) -> Result<Vec<LeaseId>, RuntimeError>;
}

/// The file system that the embedded runtime gives to its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// The programs of the machine itself, read-only. For the local market only, never for a renter from outside.
    Host,
    /// An unpacked image.
    Directory(PathBuf),
    /// Images by the names under which they are offered.
    Images(Vec<NamedImage>),
}

/// An image of the embedded runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// The name under which it is offered.
    pub name: String,
    /// An unpacked image, an OCI layout, an archive of one, or what `docker save` writes. What is not unpacked is, once,
    /// before the node is ready.
    pub path: PathBuf,
}

/// How to start this program as a sandbox's first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxProgram {
    /// The executable; `/proc/self/exe` names the running one even after an upgrade replaced its file.
    pub path: PathBuf,
    /// Arguments that lead it to `sandbox::main`.
    pub args: Vec<String>,
}

/// What runtimes need to know about the node.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The node's hotkey in text form; labels carry it.
    pub node_id: String,
    /// The node's state directory; leases lie in its `leases`.
    pub state_dir: PathBuf,
    /// What the embedded runtime uses as image; without one it is not available.
    pub rootfs: Option<Rootfs>,
    /// How to start the embedded runtime.
    pub sandbox_program: SandboxProgram,
    /// The engine's socket; the usual places are tried without one.
    pub docker_socket: Option<PathBuf>,
    /// The engine's images that containers may be made from. The engine may have others, which are the operator's own; with
    /// none named here and none allowed by the policy, none can be leased.
    pub images: Vec<String>,
    /// What may be fetched beside them, and how much room it may take.
    pub image_policy: ImagePolicy,
    /// The agent's executable; with it a runtime tries at its start whether an agent inside a container reaches a socket of
    /// ours, once for each class. Without it only what needs no agent is tried.
    pub trial_agent: Option<PathBuf>,
    /// The classes that leases may have; with none named, every class that works here.
    pub classes: Vec<RuntimeClass>,
}

impl RuntimeConfig {
    /// The directory of a lease.
    #[must_use]
    pub fn lease_dir(&self, lease: LeaseId) -> PathBuf {
        self.state_dir.join("leases").join(lease.to_string())
    }
}

impl ContainerSpec {
    /// Refuses amounts that no runtime can give and names that no engine would take.
    ///
    /// # Errors
    /// The field and its rule.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let bad = |field, rule| Err(RuntimeError::InvalidSpec { lease: self.lease, field, rule });
        if self.cores_milli == 0 {
            return bad("cores_milli", "must be at least 1");
        }
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return bad("memory_bytes", "must be at least 32 MiB");
        }
        if self.disk_bytes < DISK_BYTES_MIN {
            return bad("disk_bytes", "must be at least 32 MiB");
        }
        if self.image.is_empty() || self.image.len() > IMAGE_NAME_LEN_MAX {
            return bad("image", "must have 1 to 255 bytes");
        }
        if !self.dir.is_absolute() {
            return bad("dir", "must be an absolute path");
        }
        if !self.agent.is_absolute() {
            return bad("agent", "must be an absolute path");
        }
        let in_memory = MEMORY_FILES_BYTES_MIN..=self.memory_bytes;
        if self.options.shm_bytes.is_some_and(|bytes| !in_memory.contains(&bytes)) {
            return bad("shm_bytes", "must be 64 KiB at least and the lease's memory at most");
        }
        if !self.options.tmpfs.iter().all(|tmpfs| in_memory.contains(&tmpfs.bytes)) {
            return bad("tmpfs.bytes", "must be 64 KiB at least and the lease's memory at most");
        }
        self.options.check(self.lease)?;
        if self.sized_volumes().any(|bytes| bytes < DISK_BYTES_MIN) {
            return bad("volumes.bytes", "must be at least 32 MiB");
        }
        if self.own_disk_bytes() < DISK_BYTES_MIN {
            return bad("volumes.bytes", "must leave 32 MiB of the lease's disk_bytes");
        }
        Ok(())
    }

    fn sized_volumes(&self) -> impl Iterator<Item = u64> {
        self.options.volumes.iter().filter_map(|volume| volume.bytes)
    }

    /// The part of `disk_bytes` that is left for the container's own files: sized volumes are cut out of what was leased.
    pub(crate) fn own_disk_bytes(&self) -> u64 {
        self.sized_volumes().fold(self.disk_bytes, u64::saturating_sub)
    }
}

impl Presence {
    /// The first process, where there is one.
    #[must_use]
    pub const fn init_pid(self) -> Option<u32> {
        match self {
            Self::Running { init_pid } | Self::Paused { init_pid } => Some(init_pid),
            Self::Absent | Self::Exited => None,
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Docker => "docker",
            Self::SandboxRoot => "sandbox (root)",
            Self::SandboxUser => "sandbox (plain user)",
            Self::Fake => "fake",
        })
    }
}
