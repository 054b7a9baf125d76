//! The leased GPUs in a container: nodes, the driver's files, and a look at the result.
//!
//! Root makes the nodes anew, in a small file system that exists in the container's namespaces alone, so that no tenant
//! holds a lock or a watch on a node that others use as well. A plain user can only show those of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::super::protocol::{
    Failure, FileOrder, GpuOrder, Image, InStep as _, NodeOrder, Profile, Remedy, Step,
};
use super::is_host;
use super::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttributes};
use super::tree::{DEVICES, Tree, attach_at, clone_of};

/// Where root makes the nodes, below the helper's working directory.
pub(super) const NODES: &str = "gpus";
/// Entries of the container's `/dev` that are looked at; it has a dozen and the driver's.
const ENTRIES_MAX: usize = 4_096;
/// Folders of the driver below `/dev`, as `nvidia-caps`.
const DEPTH_MAX: u32 = 2;

/// Makes the nodes with the numbers that the machine's have, and gives them to the container's root.
pub(super) fn make_nodes(order: &GpuOrder, owner: u32) -> Step<()> {
    const STEP: &str = "make the GPUs' device nodes";
    if order.nodes.is_empty() {
        return Ok(());
    }
    let made = (|| {
        fs::create_dir_all(NODES)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", NODES, "tmpfs", flags, c"size=1m,mode=755")?;
        for (number, node) in order.nodes.iter().enumerate() {
            let path = Path::new(NODES).join(number.to_string());
            let mode = Mode::from_raw_mode(0o600);
            let device = makedev(node.major, node.minor);
            mknodat(CWD, &path, FileType::CharacterDevice, mode, device)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(node.mode))?;
            chown(&path, Some(owner), Some(owner))?;
        }
        Ok::<_, io::Error>(())
    })();
    made.step_or(STEP, Remedy::Gpu)
}

impl Tree<'_> {
    /// Shows the nodes at their places in `/dev`, which is ours.
    pub(super) fn bind_gpus(&self) -> Step<()> {
        const STEP: &str = "show the GPUs' device nodes";
        for (number, node) in self.order.gpus.nodes.iter().enumerate() {
            let source = match self.order.profile {
                Profile::Root(_) => Path::new(NODES).join(number.to_string()),
                Profile::User => node.host.clone(),
            };
            let mount = clone_of(source).step_or(STEP, Remedy::Gpu)?;
            // A device can be written to all the same; what cannot be changed is the node.
            let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC;
            let change = MountAttributes { set, idmap: None, recursive: false };
            sys::mount_setattr(mount.as_fd(), change).step(STEP)?;
            self.attach(&mount, &node.place, FileType::RegularFile).step_or(STEP, Remedy::Gpu)?;
        }
        Ok(())
    }

    /// Shows the driver's files in the image.
    pub(super) fn bind_driver(&self) -> Step<()> {
        for file in &self.order.gpus.files {
            let step = format!("show the driver's {}", file.place.display());
            self.bind_file(file).step_or(&step, Remedy::Gpu)?;
        }
        Ok(())
    }

    fn bind_file(&self, file: &FileOrder) -> io::Result<()> {
        let source = fs::metadata(&file.host)?;
        let found = self.find(&file.place);
        if let Ok(found) = &found
            && is_host(self.order)
        {
            let there = rustix::fs::fstat(found)?;
            if (there.st_dev, there.st_ino) == (source.dev(), source.ino()) {
                return Ok(());
            }
        }
        let mount = clone_of(&file.host)?;
        let set = ATTR_RDONLY | ATTR_NODEV | ATTR_NOSUID;
        sys::mount_setattr(mount.as_fd(), MountAttributes { set, idmap: None, recursive: false })?;
        let target = match found {
            Err(Errno::NOENT) if source.is_dir() => self.make_dirs(&file.place)?,
            Err(Errno::NOENT) => self.make_file(&file.place)?,
            found => found?,
        };
        attach_at(&mount, &target)
    }

    fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let nothing = || io::Error::from(io::ErrorKind::InvalidInput);
        let (parent, name) = (path.parent().ok_or_else(nothing)?, path.file_name());
        let parent = self.make_dirs(parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let name = name.ok_or_else(nothing)?;
        drop(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?);
        Ok(self.find(path)?)
    }

    fn make_dirs(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut at = PathBuf::new();
        let mut opened = self.find(Path::new("."))?;
        for name in path {
            at.push(name);
            opened = match self.find(&at) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&opened, name, Mode::from_raw_mode(0o755))?;
                    self.find(&at)?
                }
                opened => opened?,
            };
        }
        Ok(opened)
    }

    /// Opens a path of the image. Its links are followed as they will be inside: an image may have `/lib` as a link to
    /// `usr/lib`. None leads out of it, and none into a mount of ours, since those are made later.
    fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if matches!(
            (&self.order.image, &self.order.profile),
            (Image::Directory(_), Profile::Root(_))
        ) {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Looks whether `/dev` has the devices that every container has and those of the leased GPUs, and nothing else.
    pub(super) fn check_devices(&self) -> Step<()> {
        const STEP: &str = "look at the devices";
        let nodes = self.order.gpus.nodes.iter();
        let mut wanted: BTreeMap<&Path, u64> = nodes.map(by_place).collect();
        let mut left = vec![(PathBuf::from("dev"), 0)];
        while let Some((folder, depth)) = left.pop() {
            let opened = self.open(&folder, OFlags::RDONLY | OFlags::DIRECTORY).step(STEP)?;
            let entries = Dir::read_from(&opened).step(STEP)?;
            for entry in entries.take(ENTRIES_MAX) {
                let entry = entry.step(STEP)?;
                let name = entry.file_name().to_bytes();
                let path = folder.join(std::ffi::OsStr::from_bytes(name));
                if matches!(name, b"." | b"..") || is_ours(&path) {
                    continue;
                }
                // A link of ours leads to what is looked at anyway.
                let found = match self.open(&path, OFlags::PATH) {
                    Err(Errno::LOOP) => continue,
                    found => rustix::fs::fstat(found.step(STEP)?).step(STEP)?,
                };
                let kind = FileType::from_raw_mode(found.st_mode);
                if kind == FileType::Directory && depth < DEPTH_MAX {
                    left.push((path, depth + 1));
                } else if wanted.remove(&*path) != Some(found.st_rdev) {
                    return Err(strange(&path));
                }
            }
        }
        wanted.into_keys().next().map_or(Ok(()), |path| Err(strange(path)))
    }
}

fn by_place(node: &NodeOrder) -> (&Path, u64) {
    (&node.place, makedev(node.major, node.minor))
}

/// What every container has in `/dev`, GPUs or not.
fn is_ours(path: &Path) -> bool {
    const FOLDERS: [&str; 3] = ["pts", "shm", "mqueue"];
    let name = path.strip_prefix("dev").unwrap_or(path);
    DEVICES.iter().chain(&FOLDERS).any(|known| Path::new(known) == name)
}

fn strange(path: &Path) -> Failure {
    let text = format!("/{} is not what was ordered", path.display());
    Failure::because("look at the devices", &text, Some(Remedy::Gpu))
}
