//! What a spec may do to a tenant's container: driver's nodes under `/dev`, driver's files read-only, a few variables, and
//! hooks that are replaced by what they do.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use super::spec::{RawEdits, RawHook, RawMount, RawNode};
use super::{CdiError, stale};

/// Device nodes of one injection.
pub(super) const DEVICES_MAX: usize = 1_024;
/// Mounts of one injection. A driver has about a hundred files.
pub(super) const MOUNTS_MAX: usize = 1_024;
/// Variables of one injection.
pub(super) const VARIABLES_MAX: usize = 64;
/// Hooks of one injection.
pub(super) const HOOKS_MAX: usize = 256;
/// Links and folders of one hook.
const HOOK_ITEMS_MAX: usize = 512;
/// Bytes of one path or value.
const TEXT_BYTES_MAX: usize = 4_096;

/// Places in a container that are not the driver's to change.
const CONTAINER_PLACES_REFUSED: [&str; 4] = ["/proc", "/sys", "/dev", "/.nicompute"];
/// Places of the host from which nothing is shown to a tenant, whatever a spec says.
const HOST_PLACES_REFUSED: [&str; 8] =
    ["/proc", "/sys", "/dev", "/root", "/home", "/boot", "/var/lib", "/etc/shadow"];
/// Places of the host where sockets and pipes lie; a tenant at a socket of the driver's daemons could change what others have.
const HOST_PLACES_LEFT_OUT: [&str; 3] = ["/run", "/var/run", "/tmp"];
/// Where a driver lies that came in a container of its own.
const DRIVER_ROOTS: [&str; 2] = ["/run/nvidia/driver", "/var/run/nvidia/driver"];

/// The number by which the kernel knows the driver's nodes of GPUs. The second number of such a node is the GPU's own.
const DRIVER_MAJOR: u32 = 195;

/// The nodes of the display interface. They are numbered apart from the driver's, and anew at each start of the machine.
const DISPLAY: &str = "/dev/dri";

/// A device node of a container. Its major and minor number are those of the host's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where it is in the container.
    pub container: PathBuf,
    /// Where it is on the host.
    pub host: PathBuf,
    /// What the container may do with it: some of `r` and `w`, never `m`.
    pub permissions: String,
}

/// A file or folder of the host in a container: read-only, `nosuid`, `nodev`, private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where it is in the container.
    pub container: PathBuf,
}

/// A step that a spec leaves to a program. It is never started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// `create-symlinks`.
    Symlinks(Vec<Link>),
    /// `update-ldcache`: the loader finds libraries in these folders of the container.
    LibraryCache(Vec<PathBuf>),
    /// A step that a container of ours does without, by its name.
    NotNeeded(String),
}

/// A symbolic link in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where it points, as written: often relative.
    pub target: String,
    /// Where it is.
    pub place: PathBuf,
}

/// Judged edits.
#[derive(Debug, Default)]
pub(super) struct Edits {
    pub(super) devices: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) hooks: Vec<Hook>,
    pub(super) left_out: Vec<String>,
}

/// Builds the error about a path of one file.
struct Judge<'a> {
    file: &'a Path,
}

// === impl DeviceNode ===

impl DeviceNode {
    /// The number in `/dev/nvidia<number>`; nothing for nodes that all GPUs share.
    #[must_use]
    pub fn gpu_minor(&self) -> Option<u32> {
        gpu_minor(&self.container)
    }

    /// Major and minor number of the host's node.
    ///
    /// # Errors
    /// When it is not there, or no character device.
    pub fn numbers(&self) -> Result<(u32, u32), CdiError> {
        let stat = rustix::fs::lstat(&self.host).map_err(|error| stale(&self.host, error))?;
        let is_device = std::fs::symlink_metadata(&self.host)
            .is_ok_and(|meta| meta.file_type().is_char_device());
        if !is_device {
            return Err(CdiError::NotADevice { path: self.host.clone() });
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        if major == DRIVER_MAJOR && self.gpu_minor().is_some_and(|number| number != minor) {
            return Err(CdiError::Number { path: self.host.clone() });
        }
        Ok((major, minor))
    }
}

// === impl Mount ===

impl Mount {
    /// What is at the host's path, after all links: a file or a folder in no place that is refused.
    ///
    /// # Errors
    /// When it is not there, or leads to something that a tenant must not see.
    pub fn source(host: &Path) -> Result<PathBuf, CdiError> {
        let gone = |source: io::Error| CdiError::Stale { path: host.to_owned(), source };
        let target = std::fs::canonicalize(host).map_err(gone)?;
        let kind = std::fs::symlink_metadata(&target).map_err(gone)?.file_type();
        let is_hidden = lies_in(&target, &HOST_PLACES_REFUSED)
            || (lies_in(&target, &HOST_PLACES_LEFT_OUT) && !lies_in(&target, &DRIVER_ROOTS))
            || target == Path::new("/etc")
            || target.components().count() < 3;
        if is_hidden || !(kind.is_file() || kind.is_dir()) {
            return Err(CdiError::Leads { path: host.to_owned(), target });
        }
        Ok(target)
    }
}

// === impl Edits ===

impl Edits {
    /// Judges what a spec of this file asks for.
    pub(super) fn read(file: &Path, raw: &RawEdits) -> Result<Self, CdiError> {
        let judge = Judge { file };
        let mut edits = Self::default();
        for node in raw.device_nodes.iter().flatten() {
            let node = judge.node(node)?;
            if node.container.starts_with(DISPLAY) {
                edits.left_out.push(format!(
                    "{}: its number does not tell whose it is, and it may be another GPU's",
                    node.container.display()
                ));
                continue;
            }
            edits.devices.push(node);
        }
        for mount in raw.mounts.iter().flatten() {
            match judge.mount(mount)? {
                Some(mount) => edits.mounts.push(mount),
                None => edits.left_out.push(format!(
                    "{}: sockets and pipes of the host are not shown to tenants",
                    mount.host_path
                )),
            }
        }
        for variable in raw.env.iter().flatten() {
            edits.environment.push(judge.variable(variable)?);
        }
        for hook in raw.hooks.iter().flatten() {
            edits.hooks.push(judge.hook(hook)?);
        }
        for name in raw.others.keys() {
            let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            edits.left_out.push(format!("{name}: edits of this kind are not made"));
        }
        Ok(edits)
    }

    /// The nodes that belong to one GPU each.
    pub(super) fn gpu_nodes(&self) -> impl Iterator<Item = &DeviceNode> {
        self.devices.iter().filter(|node| node.gpu_minor().is_some())
    }
}

// === impl Judge ===

impl Judge<'_> {
    fn place(&self, path: &str, problem: &'static str) -> CdiError {
        let path = path.chars().take(256).collect();
        CdiError::Place { file: self.file.to_owned(), path, problem }
    }

    /// An absolute path of plain names.
    fn path(&self, text: &str) -> Result<PathBuf, CdiError> {
        let path = Path::new(text);
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(self.place(text, "is too long or not printable"));
        }
        if !path.is_absolute() || !path.components().all(is_plain) || path == Path::new("/") {
            return Err(self.place(text, "is no absolute path without `..`"));
        }
        Ok(path.components().collect())
    }

    fn node(&self, raw: &RawNode) -> Result<DeviceNode, CdiError> {
        let container = self.path(&raw.path)?;
        let host = match raw.host_path.as_deref().filter(|path| !path.is_empty()) {
            Some(host) => self.path(host)?,
            None => container.clone(),
        };
        if !is_driver_node(&container) {
            return Err(self.place(&raw.path, "is no device node of the GPU driver"));
        }
        // A driver in a folder of its own has its nodes under that folder's `dev`; they end in the same way.
        if !host.ends_with(container.strip_prefix("/").unwrap_or(&container)) {
            return Err(self.place(&raw.path, "is another device on the host"));
        }
        let asked = raw.permissions.as_deref().unwrap_or("rw");
        let permissions = asked.chars().filter(|c| matches!(c, 'r' | 'w')).collect();
        Ok(DeviceNode { container, host, permissions })
    }

    /// The mount, or nothing where it would show a socket of the host.
    fn mount(&self, raw: &RawMount) -> Result<Option<Mount>, CdiError> {
        let (host, container) = (self.path(&raw.host_path)?, self.path(&raw.container_path)?);
        if lies_in(&container, &CONTAINER_PLACES_REFUSED) {
            return Err(self.place(&raw.container_path, "is no place for a driver's file"));
        }
        if lies_in(&host, &HOST_PLACES_REFUSED) || host == Path::new("/etc") {
            return Err(self.place(&raw.host_path, "is nothing that a tenant may see"));
        }
        if host.components().count() < 3 {
            return Err(self.place(&raw.host_path, "is a whole tree of the host"));
        }
        if lies_in(&host, &HOST_PLACES_LEFT_OUT) && !lies_in(&host, &DRIVER_ROOTS) {
            return Ok(None);
        }
        Ok(Some(Mount { host, container }))
    }

    fn variable(&self, text: &str) -> Result<(String, String), CdiError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let is_name = !name.is_empty()
            && name.len() <= 128
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        // What decides which code runs in the container is the image's and the tenant's.
        let decides = name.starts_with("LD_") || name == "PATH";
        let is_value = value.len() <= TEXT_BYTES_MAX && !value.chars().any(char::is_control);
        if !is_name || decides || !is_value {
            let name = name.chars().take(128).collect();
            return Err(CdiError::Variable { file: self.file.to_owned(), name });
        }
        Ok((name.to_owned(), value.to_owned()))
    }

    fn hook(&self, raw: &RawHook) -> Result<Hook, CdiError> {
        // `nvidia-cdi-hook create-symlinks …` and, before it, `nvidia-ctk hook create-symlinks …`.
        let args = raw.args.as_deref().unwrap_or_default();
        let mut words = args.iter().map(String::as_str).skip(1).peekable();
        words.next_if_eq(&"hook");
        let name = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        match name {
            "create-symlinks" => {
                let links = values(&words, "--link").map(|link| self.link(link));
                Ok(Hook::Symlinks(self.bounded(links)?))
            }
            "update-ldcache" => {
                let folders = values(&words, "--folder").map(|folder| self.path(folder));
                Ok(Hook::LibraryCache(self.bounded(folders)?))
            }
            // Modes of folders under /dev, the image's own newer CUDA, and a switch against nodes that the container
            // could not make anyway.
            "chmod" | "enable-cuda-compat" | "disable-device-node-modification" => {
                Ok(Hook::NotNeeded(name.to_owned()))
            }
            _ => {
                let name = if name.is_empty() { &raw.path } else { name };
                let name = name.chars().take(128).collect();
                Err(CdiError::Hook { file: self.file.to_owned(), name })
            }
        }
    }

    fn bounded<T>(
        &self,
        items: impl Iterator<Item = Result<T, CdiError>>,
    ) -> Result<Vec<T>, CdiError> {
        let items: Vec<T> = items.take(HOOK_ITEMS_MAX + 1).collect::<Result<_, _>>()?;
        if items.len() > HOOK_ITEMS_MAX {
            return Err(CdiError::TooMany { what: "items of a hook", max: HOOK_ITEMS_MAX });
        }
        Ok(items)
    }

    /// `target::place`. A target that is relative is so from the link's folder, and must stay inside the container.
    fn link(&self, text: &str) -> Result<Link, CdiError> {
        let (target, place) = text
            .split_once("::")
            .ok_or_else(|| self.place(text, "is no pair of target and link"))?;
        let place = self.path(place)?;
        if lies_in(&place, &CONTAINER_PLACES_REFUSED) {
            return Err(self.place(text, "is no place for a driver's file"));
        }
        if target.is_empty()
            || target.len() > TEXT_BYTES_MAX
            || target.chars().any(char::is_control)
            || climbs_out(&place, Path::new(target))
        {
            return Err(self.place(text, "points out of the container"));
        }
        Ok(Link { target: target.to_owned(), place })
    }
}

/// The values of an option that may be given many times, as `--name value` and `--name=value`.
fn values<'a>(words: &'a [&'a str], option: &'a str) -> impl Iterator<Item = &'a str> {
    words.iter().enumerate().filter_map(move |(at, word)| {
        if *word == option {
            return words.get(at + 1).copied();
        }
        word.strip_prefix(option)?.strip_prefix('=')
    })
}

fn lies_in(path: &Path, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// `/dev/nvidia…` and the GPUs' nodes of the display interface.
fn is_driver_node(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("/dev") else { return false };
    let first = below.components().next().and_then(|part| part.as_os_str().to_str());
    first.is_some_and(|name| name.starts_with("nvidia") || name == "dri")
}

fn gpu_minor(path: &Path) -> Option<u32> {
    let number = path.to_str()?.strip_prefix("/dev/nvidia")?;
    number.bytes().all(|c| c.is_ascii_digit()).then(|| number.parse().ok())?
}

fn climbs_out(place: &Path, target: &Path) -> bool {
    let mut depth = if target.is_absolute() {
        0
    } else {
        place
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .count()
            .saturating_sub(1)
    };
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    false
}
