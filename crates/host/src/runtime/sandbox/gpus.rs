//! GPUs for containers of the embedded runtime: exactly the leased ones, as the machine's CDI specs describe them.
//!
//! The specs are read anew for each container, since an update of the driver writes them anew. Nothing of a spec is ever
//! started; what its hooks would do is had by mounts and by the loader's search path. That all of it is there at the start
//! decides whether GPUs can be offered.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nicompute_daemon::ErrorChain;

use super::super::RuntimeError;
use super::protocol::{FileOrder, GpuOrder, NodeOrder};
use crate::cdi::{self, CdiError, Injection, KnownAs, Mount, Registry};
use crate::inventory::ask_in_time;
use crate::nvml::{Answer, NvmlLibrary};

/// How long the driver may take to tell of its GPUs. One without persistence mode wakes each of them first.
const DRIVER_LIMIT: Duration = Duration::from_secs(60);
/// How many questions the driver may leave without an answer; each has left a thread behind.
const UNANSWERED_MAX: u32 = 8;
/// Where the loader looks for libraries.
const LIBRARY_VARIABLE: &str = "LD_LIBRARY_PATH";
/// Programs of NVIDIA's take this variable for a wish; it is never one.
const GPU_VARIABLE: (&str, &str) = ("NVIDIA_VISIBLE_DEVICES", "void");

/// Where a machine's GPUs are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSource {
    /// Folders of CDI specs.
    pub dirs: Vec<PathBuf>,
    /// NVIDIA's management library, which knows the GPUs' other names.
    pub library: NvmlLibrary,
}

/// What gives GPUs on this machine.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    dirs: Vec<PathBuf>,
    library: NvmlLibrary,
    /// The GPUs' other names, once the driver has told some.
    known: OnceLock<Vec<(String, KnownAs)>>,
    unanswered: AtomicU32,
    /// The GPUs that containers can have: all of the machine's, or none.
    pub(super) given: Vec<String>,
}

/// Whose containers they are: root makes nodes of its own, a plain user shows those of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    Root,
    User,
}

/// What a container with GPUs is made of.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) order: GpuOrder,
    environment: Vec<(String, String)>,
    libraries: Vec<String>,
}

// === impl GpuSource ===

impl Default for GpuSource {
    fn default() -> Self {
        let dirs = cdi::DIRS.iter().map(PathBuf::from).collect();
        Self { dirs, library: NvmlLibrary::default() }
    }
}

// === impl Gpus ===

impl Gpus {
    /// Reads the specs and, where there are some, asks the driver for its GPUs. Blocks.
    pub(super) fn find(source: GpuSource, maker: Maker) -> Self {
        let registry = Registry::load(&source.dirs);
        let names: Vec<String> = registry.names().map(str::to_owned).collect();
        let mut gpus = Self { dirs: source.dirs, library: source.library, ..Self::default() };
        if names.is_empty() {
            return gpus;
        }
        gpus.learn(ask_in_time(gpus.library.clone(), DRIVER_LIMIT));
        let told: BTreeSet<String> = match gpus.known.get() {
            None => names.into_iter().filter(|name| cdi::is_uuid(name)).collect(),
            Some(known) => known.iter().map(|(uuid, _)| uuid.clone()).collect(),
        };
        for uuid in &told {
            if let Err(error) = gpus.order(std::slice::from_ref(uuid), maker) {
                let (error, remedy) = (ErrorChain(&error).to_string(), error.remedy());
                tracing::warn!(
                    uuid,
                    error,
                    remedy,
                    "the sandbox cannot give this GPU, and so none"
                );
                return gpus;
            }
        }
        gpus.given = told.into_iter().take(cdi::GPUS_MAX).collect();
        gpus
    }

    /// Asks the driver again where it has told of no GPU yet: a node may be up before its driver is.
    pub(super) async fn ask_again(&self) {
        if self.known.get().is_some() || self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX {
            return;
        }
        let library = self.library.clone();
        let asked = tokio::task::spawn_blocking(move || ask_in_time(library, DRIVER_LIMIT)).await;
        self.learn(asked.unwrap_or_default());
    }

    fn learn(&self, answer: Option<Answer>) {
        match answer {
            None => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            Some(Answer::Gpus(found)) => {
                let known: Vec<_> = found.known().collect();
                if !known.is_empty() {
                    // Another may have been told the same meanwhile.
                    self.known.get_or_init(|| known);
                }
            }
            Some(Answer::NoLibrary | Answer::Broken(_)) => {}
        }
    }

    /// What a container with exactly these GPUs is made of.
    pub(super) fn order(&self, uuids: &[String], maker: Maker) -> Result<Given, RuntimeError> {
        if uuids.is_empty() {
            return Ok(Given::default());
        }
        let registry =
            Registry::load(&self.dirs).knowing(self.known.get().into_iter().flatten().cloned());
        let injection = registry.injection(uuids).map_err(refused)?;
        let mut nodes = Vec::new();
        for node in &injection.devices {
            let (major, minor) = node.numbers().map_err(refused)?;
            let (host, place) = (node.host.clone(), below_root(&node.container));
            let wanted = mode(&node.permissions);
            if maker == Maker::User && !allows_everybody(&host, wanted) {
                return Err(RuntimeError::Unsupported {
                    what: format!("{} is not open to everybody", host.display()),
                    remedy: "run the node as root, or let the driver open its nodes (NVreg_DeviceFileMode=0666)",
                });
            }
            nodes.push(NodeOrder { host, place, major, minor, mode: wanted });
        }
        are_distinct(&injection, &nodes, uuids)?;
        let mut files = Vec::new();
        for (place, host) in injection.files() {
            let (host, place) = (Mount::source(host).map_err(refused)?, below_root(&place));
            files.push(FileOrder { host, place });
        }
        let libraries = injection.library_folders().map(|folder| folder.display().to_string());
        let libraries = libraries.collect();
        let environment = injection.environment;
        Ok(Given { order: GpuOrder { nodes, files }, environment, libraries })
    }
}

// === impl Given ===

impl Given {
    /// Sets the driver's variables, which win over others; its libraries are found after those that were named already.
    pub(super) fn add_to(&self, environment: &mut Vec<(String, String)>) {
        if self.order.nodes.is_empty() {
            return;
        }
        environment.extend(self.environment.iter().cloned());
        let (name, value) = GPU_VARIABLE;
        environment.push((name.to_owned(), value.to_owned()));
        if self.libraries.is_empty() {
            return;
        }
        let own = environment.iter().rev().find(|(name, _)| name == LIBRARY_VARIABLE);
        let own = own.map(|(_, value)| value.clone()).filter(|value| !value.is_empty());
        let path: Vec<String> = own.into_iter().chain(self.libraries.iter().cloned()).collect();
        environment.push((LIBRARY_VARIABLE.to_owned(), path.join(":")));
    }
}

/// Refuses specs that give fewer or more GPUs than were leased, or one under two names.
fn are_distinct(
    injection: &Injection,
    nodes: &[NodeOrder],
    uuids: &[String],
) -> Result<(), RuntimeError> {
    let of_gpus =
        injection.devices.iter().zip(nodes).filter(|(node, _)| node.gpu_minor().is_some());
    let numbers: Vec<(u32, u32)> = of_gpus.map(|(_, node)| (node.major, node.minor)).collect();
    let distinct: BTreeSet<_> = numbers.iter().collect();
    let slices = uuids.iter().filter(|uuid| uuid.starts_with("MIG-")).count();
    let whole = uuids.len() - slices;
    let fits = whole.max(1)..=whole + slices;
    if distinct.len() == numbers.len() && fits.contains(&numbers.len()) {
        return Ok(());
    }
    Err(RuntimeError::Unsupported {
        what: format!("the CDI specs give {} GPUs to a lease of {}", distinct.len(), uuids.len()),
        remedy: "write the machine's GPUs down anew: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    })
}

fn mode(permissions: &str) -> u32 {
    let bit = |letter, bits| if permissions.contains(letter) { bits } else { 0 };
    bit('r', 0o444) | bit('w', 0o222)
}

fn allows_everybody(node: &Path, wanted: u32) -> bool {
    let wanted = wanted & 0o006;
    fs::metadata(node).is_ok_and(|data| data.permissions().mode() & wanted == wanted)
}

fn below_root(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn refused(error: CdiError) -> RuntimeError {
    let remedy = error.remedy();
    RuntimeError::Unsupported { what: ErrorChain(&error).to_string(), remedy }
}
