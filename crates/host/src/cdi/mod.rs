//! Which device nodes, files and variables a GPU needs in a container, as the machine's CDI specs say.
//!
//! A CDI spec (Container Device Interface) is a file that the driver's tools write: `nvidia-ctk cdi generate`. Engines that
//! know CDI read it themselves; for those that do not, and for the sandbox, this module reads it. It is a pure reading: no
//! hook is ever started, hooks whose effect can be had without them are handed out as data. What a spec asks for and a
//! tenant must not have (sockets of the host, paths outside of their place, the nodes of other GPUs) is left out or refused.

mod edits;
mod files;
mod spec;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use edits::Edits;
pub use edits::{DeviceNode, Hook, Link, Mount};
use spec::Spec;

/// Where specs lie. A later folder's device replaces that of an earlier one.
pub const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// GPUs of one injection.
pub const GPUS_MAX: usize = 64;
/// Longest GPU identifier; a MIG slice's UUID has 40 letters.
const UUID_LEN_MAX: usize = 64;
/// Links that lead to links: `libcuda.so` to `libcuda.so.1`, and that to the library.
const LINK_DEPTH: usize = 2;
/// The kind of device that is read; others stay where they are.
const KIND: &str = "nvidia.com/gpu";

/// The specs of a machine.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    dirs: Vec<PathBuf>,
    specs: Vec<Spec>,
    unread: Vec<UnreadSpec>,
    known: BTreeMap<String, KnownAs>,
}

/// A file that looks like a spec and could not be used.
#[derive(Debug)]
pub struct UnreadSpec {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: SpecProblem,
}

/// What is wrong with a spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecProblem {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Anybody could have written it.
    #[error("it can be changed by others than root")]
    Writable,
    /// It is no file.
    #[error("it is no regular file")]
    NotAFile,
    /// It is larger than any machine's spec.
    #[error("it is larger than {} bytes", files::SPEC_BYTES_MAX)]
    TooLarge,
    /// It is not YAML of the kind that is read here.
    #[error("it is no YAML that is read here: {0}")]
    Yaml(String),
    /// It is not JSON, or not of a spec's shape.
    #[error("it does not have the shape of a CDI spec: {0}")]
    Shape(String),
    /// A version that is not known.
    #[error("its version {0:?} is not known")]
    Version(String),
}

/// What NVML says about a GPU's names in specs that do not name it by UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAs {
    /// `0` for the first GPU, `0:1` for the second slice of the first GPU.
    pub name: String,
    /// The number in `/dev/nvidia<minor>` of the GPU, or of the GPU that the slice is one of.
    pub minor: Option<u32>,
}

/// Everything that a container with some GPUs needs, and nothing of other GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// Device nodes.
    pub devices: Vec<DeviceNode>,
    /// Files and folders of the driver, always read-only.
    pub mounts: Vec<Mount>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Steps that the spec leaves to programs of the toolkit; they are not started, but their effect may be had.
    pub hooks: Vec<Hook>,
    /// What the specs ask for and the container does not get, in words for the operator.
    pub left_out: Vec<String>,
}

/// Why there is no injection. Each names what to do in [`CdiError::remedy`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CdiError {
    /// No spec of NVIDIA's GPUs lies where specs lie.
    #[error("no CDI spec of {KIND} lies in {}", shown(dirs))]
    NoSpec {
        /// Where was looked.
        dirs: Vec<PathBuf>,
    },
    /// A spec is there and cannot be used.
    #[error("the CDI spec {} cannot be used", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: SpecProblem,
    },
    /// No spec names the GPU.
    #[error("no CDI spec names the GPU {uuid}")]
    UnknownGpu {
        /// The GPU.
        uuid: String,
    },
    /// Two specs of one folder name the same device and mean different things.
    #[error("two CDI specs describe the device {name} in different ways")]
    Ambiguous {
        /// The name.
        name: String,
    },
    /// The spec's device is another GPU than the driver's.
    #[error(
        "the CDI spec gives {uuid} the device node {found}, the driver says /dev/nvidia{minor}"
    )]
    OtherGpu {
        /// The GPU.
        uuid: String,
        /// What the spec has.
        found: String,
        /// What the driver says.
        minor: u32,
    },
    /// The nodes of the GPU itself are not exactly one.
    #[error("the CDI spec gives {uuid} {count} GPUs' device nodes instead of one")]
    NodeCount {
        /// The GPU.
        uuid: String,
        /// How many.
        count: usize,
    },
    /// Edits that every container gets hold a GPU's own node.
    #[error("the CDI spec {} gives every container the device node {node}", file.display())]
    SharedNode {
        /// The file.
        file: PathBuf,
        /// The node.
        node: String,
    },
    /// A path leaves the place where it may lie.
    #[error("the CDI spec {} has {path:?}, which {problem}", file.display())]
    Place {
        /// The file.
        file: PathBuf,
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A step that this program cannot do without starting the toolkit's program.
    #[error("the CDI spec {} wants the hook {name:?}, which cannot be replaced", file.display())]
    Hook {
        /// The file.
        file: PathBuf,
        /// The hook.
        name: String,
    },
    /// A variable that a container must not get.
    #[error("the CDI spec {} sets the variable {name:?}", file.display())]
    Variable {
        /// The file.
        file: PathBuf,
        /// Its name.
        name: String,
    },
    /// Two edits put different things in one place.
    #[error("the CDI specs put different things at {path:?}")]
    Conflict {
        /// The path in the container.
        path: String,
    },
    /// The spec names something that is not on the machine: it is older than the driver.
    #[error("{} of the CDI spec is not on this machine", path.display())]
    Stale {
        /// The path on the host.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path of the machine that is a link to something else than a driver's file.
    #[error("{} of the CDI spec leads to {}, which is nothing that a tenant may see", path.display(), target.display())]
    Leads {
        /// The path on the host.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A GPU's node that has the number of another one.
    #[error("{} has the number of another GPU", path.display())]
    Number {
        /// The path on the host.
        path: PathBuf,
    },
    /// A device node that is none.
    #[error("{} is not a character device", path.display())]
    NotADevice {
        /// The path on the host.
        path: PathBuf,
    },
    /// More than can be meant.
    #[error("{what} of the CDI specs are more than {max}")]
    TooMany {
        /// What.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

// === impl Registry ===

impl Registry {
    /// Reads the specs in some folders, [`DIRS`] as a rule. Blocks for some milliseconds. A spec that cannot be used hinders
    /// only those who need it.
    #[must_use]
    pub fn load<P: AsRef<Path>>(dirs: &[P]) -> Self {
        let dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.as_ref().to_owned()).collect();
        let mut registry = Self { dirs, ..Self::default() };
        for (rank, dir) in registry.dirs.clone().iter().enumerate() {
            for file in files::spec_files(dir) {
                match files::read(&file).and_then(|text| spec::parse(&file, &text, rank)) {
                    Ok(spec) if spec.kind == KIND => registry.specs.push(spec),
                    Ok(_) => {}
                    Err(problem) => registry.unread.push(UnreadSpec { file, problem }),
                }
            }
        }
        registry
    }

    /// The same, with what NVML says about the GPUs' other names: specs often name GPUs by their index alone.
    #[must_use]
    pub fn knowing(mut self, gpus: impl IntoIterator<Item = (String, KnownAs)>) -> Self {
        self.known.extend(gpus);
        self
    }

    /// The files that specs of NVIDIA's GPUs were read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.specs.iter().map(|spec| &*spec.file)
    }

    /// The names of all devices, `all` among them where the spec has it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.specs.iter().flat_map(|spec| spec.devices.keys().map(String::as_str))
    }

    /// The specs that could not be used.
    #[must_use]
    pub fn unread(&self) -> &[UnreadSpec] {
        &self.unread
    }

    /// The name under which the specs have a GPU: its UUID, or the index that NVML gives it.
    #[must_use]
    pub fn name_of(&self, uuid: &str) -> Option<&str> {
        let has = |name: &str| self.specs.iter().any(|spec| spec.devices.contains_key(name));
        let by_uuid = self.specs.iter().find_map(|spec| spec.devices.get_key_value(uuid));
        let by_index = || self.known.get(uuid).map(|known| &*known.name).filter(|name| has(name));
        by_uuid.map(|(name, _)| name.as_str()).or_else(by_index)
    }

    /// What a container with these GPUs and MIG slices needs.
    ///
    /// # Errors
    /// When a GPU is in no spec, or a spec asks for something that a tenant must not have. Nothing is read from the machine
    /// here; [`Injection::check_on_host`] does that.
    pub fn injection<S: AsRef<str>>(&self, uuids: &[S]) -> Result<Injection, CdiError> {
        if uuids.len() > GPUS_MAX {
            return Err(CdiError::TooMany { what: "GPUs", max: GPUS_MAX });
        }
        let mut injection = Injection::default();
        let mut used: Vec<&Path> = Vec::new();
        for uuid in uuids {
            let (spec, edits) = self.device(uuid.as_ref())?;
            if !used.contains(&&*spec.file) {
                used.push(&spec.file);
                let common = Edits::read(&spec.file, &spec.common)?;
                if let Some(node) = common.gpu_nodes().next() {
                    let node = node.container.display().to_string();
                    return Err(CdiError::SharedNode { file: spec.file.clone(), node });
                }
                injection.add(common)?;
            }
            injection.add(edits)?;
        }
        Ok(injection)
    }

    /// The spec of a GPU, and the edits of that GPU alone.
    fn device(&self, uuid: &str) -> Result<(&Spec, Edits), CdiError> {
        let name = self.name_of(uuid).ok_or_else(|| self.missing(uuid))?;
        let with = |spec: &&Spec| spec.devices.contains_key(name);
        let rank = self.specs.iter().filter(with).map(|spec| spec.rank).max().unwrap_or(0);
        let mut found = self.specs.iter().filter(with).filter(|spec| spec.rank == rank);
        let spec = found.next().ok_or_else(|| self.missing(uuid))?;
        let device = &spec.devices[name];
        if found.any(|other| other.devices[name] != *device || other.common != spec.common) {
            return Err(CdiError::Ambiguous { name: name.to_owned() });
        }
        let edits = Edits::read(&spec.file, device)?;
        let nodes: Vec<&DeviceNode> = edits.gpu_nodes().collect();
        let [node] = *nodes else {
            return Err(CdiError::NodeCount { uuid: uuid.to_owned(), count: nodes.len() });
        };
        let minor = self.known.get(uuid).and_then(|known| known.minor);
        match minor.filter(|minor| node.gpu_minor() != Some(*minor)) {
            None => Ok((spec, edits)),
            Some(minor) => Err(CdiError::OtherGpu {
                uuid: uuid.to_owned(),
                found: node.container.display().to_string(),
                minor,
            }),
        }
    }

    fn missing(&self, uuid: &str) -> CdiError {
        if !self.specs.is_empty() {
            return CdiError::UnknownGpu { uuid: uuid.to_owned() };
        }
        match self.unread.first() {
            Some(UnreadSpec { file, problem }) => {
                CdiError::Unusable { file: file.clone(), problem: problem.again() }
            }
            None => CdiError::NoSpec { dirs: self.dirs.clone() },
        }
    }
}

// === impl Injection ===

impl Injection {
    /// Adds edits. The same thing twice is the same thing; another thing in the same place is an error.
    fn add(&mut self, edits: Edits) -> Result<(), CdiError> {
        merge(&mut self.devices, edits.devices, |node| &node.container)?;
        merge(&mut self.mounts, edits.mounts, |mount| &mount.container)?;
        for (name, value) in edits.environment {
            match self.environment.iter().find(|(known, _)| *known == name) {
                Some((_, known)) if *known == value => {}
                Some(_) => return Err(CdiError::Conflict { path: name }),
                None => self.environment.push((name, value)),
            }
        }
        for hook in edits.hooks {
            if !self.hooks.contains(&hook) {
                self.hooks.push(hook);
            }
        }
        for line in edits.left_out {
            if !self.left_out.contains(&line) {
                self.left_out.push(line);
            }
        }
        let lists = [
            ("device nodes", self.devices.len(), edits::DEVICES_MAX),
            ("mounts", self.mounts.len(), edits::MOUNTS_MAX),
            ("variables", self.environment.len(), edits::VARIABLES_MAX),
            ("hooks", self.hooks.len(), edits::HOOKS_MAX),
        ];
        match lists.into_iter().find(|(_, count, max)| count > max) {
            Some((what, _, max)) => Err(CdiError::TooMany { what, max }),
            None => Ok(()),
        }
    }

    /// The links that the spec wants in the container.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.hooks.iter().flat_map(|hook| match hook {
            Hook::Symlinks(links) => links.as_slice(),
            Hook::LibraryCache(_) | Hook::NotNeeded(_) => &[],
        })
    }

    /// The folders in the container whose libraries the loader must find.
    pub fn library_folders(&self) -> impl Iterator<Item = &Path> {
        self.hooks
            .iter()
            .flat_map(|hook| match hook {
                Hook::LibraryCache(folders) => folders.as_slice(),
                Hook::Symlinks(_) | Hook::NotNeeded(_) => &[],
            })
            .map(PathBuf::as_path)
    }

    /// Every file and folder of the container that comes from the host: its place, and what is there. A link becomes another
    /// place of what it leads to, since nothing of ours is written into an image; so do the names by which programs ask for
    /// the driver's libraries, `libcuda.so.1` for `libcuda.so.550.54.14`, which the loader's cache would make: they are read
    /// from the links beside the machine's own libraries.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, &Path> {
        let mut files: BTreeMap<PathBuf, &Path> = BTreeMap::new();
        for mount in &self.mounts {
            files.insert(mount.container.clone(), &mount.host);
        }
        for (link, host) in self.links_beside() {
            files.entry(link).or_insert(host);
        }
        for _ in 0..LINK_DEPTH {
            for link in self.links() {
                let folder = link.place.parent().unwrap_or_else(|| Path::new("/"));
                if let Some(host) = files.get(&plain(&folder.join(&link.target))).copied() {
                    files.entry(link.place.clone()).or_insert(host);
                }
            }
        }
        files
    }

    fn links_beside(&self) -> Vec<(PathBuf, &Path)> {
        let mut links = Vec::new();
        for mount in &self.mounts {
            let (Some(folder), Some(name), Some(inside)) =
                (mount.host.parent(), mount.host.file_name(), mount.container.parent())
            else {
                continue;
            };
            let Some((stem, _)) = name.to_str().and_then(|name| name.split_once(".so.")) else {
                continue;
            };
            for number in ["1", "2", "0"] {
                let link = format!("{stem}.so.{number}");
                let leads_here = std::fs::read_link(folder.join(&link))
                    .is_ok_and(|target| target.file_name() == Some(name));
                if leads_here {
                    links.push((inside.join(link), &*mount.host));
                }
            }
        }
        links
    }

    /// Whether everything is on the machine: a spec that is older than the driver names files that are gone.
    ///
    /// # Errors
    /// The first thing that is missing, or a device node that is none.
    pub fn check_on_host(&self) -> Result<(), CdiError> {
        for mount in &self.mounts {
            let found = rustix::fs::stat(&mount.host);
            found.map_err(|error| stale(&mount.host, error))?;
        }
        self.devices.iter().try_for_each(|node| node.numbers().map(drop))
    }
}

// === impl CdiError ===

impl CdiError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoSpec { .. } => {
                "install the NVIDIA Container Toolkit, then: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            }
            Self::Unusable { .. } | Self::Ambiguous { .. } => {
                "remove the file, then: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            }
            Self::UnknownGpu { .. }
            | Self::OtherGpu { .. }
            | Self::NodeCount { .. }
            | Self::Stale { .. }
            | Self::Number { .. }
            | Self::NotADevice { .. } => {
                "the spec is older than the driver or the GPUs: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            }
            Self::SharedNode { .. }
            | Self::Leads { .. }
            | Self::Place { .. }
            | Self::Hook { .. }
            | Self::Variable { .. }
            | Self::Conflict { .. }
            | Self::TooMany { .. } => {
                "write the spec with the toolkit itself: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            }
        }
    }
}

// === impl SpecProblem ===

impl SpecProblem {
    /// The same problem once more, for an error that is handed out.
    fn again(&self) -> Self {
        match self {
            Self::Read(error) => Self::Read(io::Error::new(error.kind(), error.to_string())),
            Self::Writable => Self::Writable,
            Self::NotAFile => Self::NotAFile,
            Self::TooLarge => Self::TooLarge,
            Self::Yaml(text) => Self::Yaml(text.clone()),
            Self::Shape(text) => Self::Shape(text.clone()),
            Self::Version(text) => Self::Version(text.clone()),
        }
    }
}

impl Clone for UnreadSpec {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), problem: self.problem.again() }
    }
}

/// Refuses what is not a list of different GPUs by their UUIDs: `all`, an index, or one GPU twice.
pub(crate) fn are_uuids(uuids: &[String]) -> bool {
    let distinct: BTreeSet<&String> = uuids.iter().collect();
    distinct.len() == uuids.len() && uuids.iter().all(|uuid| is_uuid(uuid))
}

pub(crate) fn is_uuid(uuid: &str) -> bool {
    let rest = uuid.strip_prefix("GPU-").or_else(|| uuid.strip_prefix("MIG-"));
    uuid.len() <= UUID_LEN_MAX
        && rest.is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

/// The path without `.` and `..`, as if there were no links.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn merge<T: PartialEq>(
    known: &mut Vec<T>,
    added: Vec<T>,
    place: impl Fn(&T) -> &PathBuf,
) -> Result<(), CdiError> {
    for item in added {
        match known.iter().find(|other| place(other) == place(&item)) {
            Some(other) if *other == item => {}
            Some(_) => {
                return Err(CdiError::Conflict { path: place(&item).display().to_string() });
            }
            None => known.push(item),
        }
    }
    Ok(())
}

fn stale(path: &Path, error: rustix::io::Errno) -> CdiError {
    CdiError::Stale { path: path.to_owned(), source: error.into() }
}

fn shown(dirs: &[PathBuf]) -> String {
    let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    names.join(", ")
}
