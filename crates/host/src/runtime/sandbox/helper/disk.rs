//! What root arranges on the machine's side before the container's own processes build their tree: the lease's disk and its
//! sized volumes, the image's overlay, and views of the gateway's directory, of the agent and of `resolv.conf`.
//!
//! All of it is mounted in the helper's private mount namespace, below its working directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::super::super::disk::{self, Making, Owner};
use super::super::DISK;
use super::super::protocol::{
    Failure, Image, InStep as _, Order, Profile, Remedy, Resolver, RootProfile, Step, VolumeOrder,
};
use super::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttributes};

/// Where sized volumes are mounted, below the helper's working directory.
pub(super) const SIZED_VOLUMES: &str = "volumes";
/// Where the others lie: on the lease's disk.
pub(super) const DISK_VOLUMES: &str = "disk/volumes";
/// Directories on the lease's disk, with their modes. The first two belong to the overlay; the others stand in for the
/// writable directories where the image is read-only.
pub(super) const DISK_DIRS: [(&str, u32); 10] = [
    ("upper", 0o755),
    ("work", 0o700),
    ("volumes", 0o755),
    ("root", 0o700),
    ("home", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Begins to make the lease's disk where there is none yet; it takes a moment, in which others can be done.
pub(super) fn begin(order: &Order) -> Step<Option<Making>> {
    match &order.profile {
        Profile::User => Ok(None),
        Profile::Root(root) => {
            let owner = Owner::Later { templates: &root.templates };
            Ok(disk::begin(&root.mkfs, &own_disk(), root.disk_bytes, owner)?)
        }
    }
}

/// Gives a new disk its name, for good.
pub(super) fn keep(making: Making) -> Step<()> {
    making.finish()?;
    Ok(disk::keep_name(&own_disk())?)
}

fn own_disk() -> PathBuf {
    Path::new("..").join(DISK)
}

/// Arranges everything. The working directory is the one for mounting.
pub(super) fn prepare(
    order: &Order,
    root: &RootProfile,
    making: Option<&mut Making>,
    userns: &OwnedFd,
    id_base: u32,
) -> Step<()> {
    let lease = order.lease.to_string();
    super::gpus::make_nodes(&order.gpus, id_base)?;
    match making {
        Some(making) => disk::mount_new(making.formatted()?, Path::new("disk"))?,
        None => disk::mount(&own_disk(), &Path::new(&lease).join(DISK), Path::new("disk"))?,
    }
    chown("disk", Some(id_base), Some(id_base)).step("give the lease its disk")?;
    make_disk_dirs(Path::new("disk"), Some(id_base)).step("lay out the lease's disk")?;
    for volume in &order.extras.volumes {
        mount_volume(volume, &lease, root, id_base)?;
    }
    if let Image::Directory(image) = &order.image {
        mount_overlay(image, userns)?;
    }
    view_run_dir(&order.dir.join("run"), userns)?;
    if order.extras.resolver == Resolver::Lease {
        view_resolver(&order.dir.join("resolv.conf"), userns)?;
    }
    view_agent(&order.agent)
}

/// Makes the directories of a lease's disk and gives them to the container's root.
pub(super) fn make_disk_dirs(disk: &Path, owner: Option<u32>) -> io::Result<()> {
    for (name, mode) in DISK_DIRS {
        make_dir(&disk.join(name), mode, owner)?;
    }
    Ok(())
}

fn make_dir(dir: &Path, mode: u32, owner: Option<u32>) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    if owner.is_some() { chown(dir, owner, owner) } else { Ok(()) }
}

/// A volume with a size is a disk of its own; the others share the lease's.
fn mount_volume(volume: &VolumeOrder, lease: &str, root: &RootProfile, owner: u32) -> Step<()> {
    const STEP: &str = "make a volume";
    let Some(bytes) = volume.bytes else {
        let dir = Path::new(DISK_VOLUMES).join(&volume.name);
        return make_dir(&dir, 0o755, Some(owner)).step(STEP);
    };
    let file = format!("{}.img", volume.name);
    let volumes = Path::new("../volumes");
    make_dir(volumes, 0o700, None).step(STEP)?;
    let (image, holder) = (volumes.join(&file), PathBuf::from(format!("{lease}/volumes/{file}")));
    disk::make(&root.mkfs, &image, bytes, owner)?;
    let at = Path::new(SIZED_VOLUMES).join(&volume.name);
    make_dir(&at, 0o755, None).step(STEP)?;
    Ok(disk::mount(&image, &holder, &at)?)
}

/// The image below, with its owners shifted to the container's, and the lease's disk above.
fn mount_overlay(image: &Path, userns: &OwnedFd) -> Step<()> {
    let lower = clone_of(image).step("open the image")?;
    let shifted = MountAttributes {
        set: ATTR_RDONLY | ATTR_NODEV,
        idmap: Some(userns.as_fd()),
        recursive: false,
    };
    sys::mount_setattr(lower.as_fd(), shifted)
        .step_or("shift the owners of the image's files", Remedy::Idmap)?;
    attach(&lower, "lower").step("mount the image")?;
    // Relative names: a path may contain the characters that separate these options.
    let layers = c"lowerdir=lower,upperdir=disk/upper,workdir=disk/work";
    rustix::mount::mount("overlay", "root", "overlay", MountFlags::NODEV, layers)
        .step_or("mount the overlay", Remedy::Idmap)
}

/// The gateway's directory: its socket belongs to us, and appears to belong to the container's root.
fn view_run_dir(dir: &Path, userns: &OwnedFd) -> Step<()> {
    let view = clone_of(dir).step("open the gateway's directory")?;
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let change = MountAttributes { set, idmap: Some(userns.as_fd()), recursive: false };
    sys::mount_setattr(view.as_fd(), change)
        .step_or("shift the owner of the gateway's directory", Remedy::Idmap)?;
    attach(&view, "run").step("mount the gateway's directory")
}

fn view_resolver(file: &Path, userns: &OwnedFd) -> Step<()> {
    const STEP: &str = "show resolv.conf";
    let view = clone_of(file).step(STEP)?;
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let change = MountAttributes { set, idmap: Some(userns.as_fd()), recursive: false };
    sys::mount_setattr(view.as_fd(), change).step_or(STEP, Remedy::Idmap)?;
    File::create("resolv.conf").step(STEP)?;
    attach(&view, "resolv.conf").step(STEP)
}

fn view_agent(agent: &Path) -> Step<()> {
    const STEP: &str = "mount the agent";
    let mode = fs::metadata(agent).step_or(STEP, Remedy::Agent)?.permissions().mode();
    if mode & 0o005 != 0o005 {
        let text = "others may not read and execute it";
        return Err(Failure::because(STEP, text, Some(Remedy::Agent)));
    }
    File::create("agent").step(STEP)?;
    attach(&clone_of(agent).step(STEP)?, "agent").step(STEP)
}

fn clone_of(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(open_tree(CWD, path, flags)?)
}

fn attach(mount: &OwnedFd, target: &str) -> io::Result<()> {
    Ok(move_mount(mount, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
