//! What root arranges on the machine's side before the container's own processes build their tree: the lease's disk as an
//! ext4 file system in a file, the image's overlay, and views of the gateway's directory and of the agent.
//!
//! All of it is mounted in the helper's private mount namespace, below its working directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::super::loop_holds;
use super::super::protocol::{Failure, Image, InStep as _, Order, Remedy, RootProfile, Step};
use super::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttributes};

/// The lease's disk, in its directory.
const DISK: &str = "../disk.img";
/// It has its name only when it is whole. Until then it has one of its own, since a `mkfs.ext4` whose helper was killed
/// goes on for a moment and must not write into the next one.
const DISK_NEW: &str = "../disk.img.new";
/// How often a wait for the disk's release looks again, and how many times: twenty seconds in all, well below the time
/// that the node gives to the helper.
const RELEASE_POLL: Duration = Duration::from_millis(5);
const RELEASE_POLLS_MAX: u32 = 4_000;
/// Others take loop devices between our asking for a free one and taking it.
const LOOP_TRIES: u32 = 64;

/// Directories on the lease's disk, with their modes. The first two belong to the overlay; the others stand in for the
/// writable directories where the image is read-only.
pub(super) const DISK_DIRS: [(&str, u32); 9] = [
    ("upper", 0o755),
    ("work", 0o700),
    ("root", 0o700),
    ("home", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Arranges everything. The working directory is the one for mounting.
pub(super) fn prepare(order: &Order, root: &RootProfile, userns: &OwnedFd) -> Step<()> {
    make_disk(root)?;
    await_release(RELEASE_POLLS_MAX, || loop_holds(order.lease))?;
    let (device, bound) = attach_loop()?;
    rustix::mount::mount(device.as_str(), "disk", "ext4", MountFlags::NODEV, c"")
        .step_or("mount the lease's disk", Remedy::Loop)?;
    // From here on the mount keeps the device.
    drop(bound);
    make_disk_dirs(Path::new("disk"), Some(root.id_base)).step("lay out the lease's disk")?;
    if let Image::Directory(image) = &order.image {
        mount_overlay(image, userns)?;
    }
    view_run_dir(&order.dir.join("run"), userns)?;
    view_agent(&order.agent)
}

/// Makes the directories of a lease's disk and gives them to the container's root.
pub(super) fn make_disk_dirs(disk: &Path, owner: Option<u32>) -> io::Result<()> {
    for (name, mode) in DISK_DIRS {
        let dir = disk.join(name);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode))?;
        if owner.is_some() {
            chown(&dir, owner, owner)?;
        }
    }
    Ok(())
}

/// A sparse file with an empty file system, unless an earlier start of the same lease has left one.
fn make_disk(root: &RootProfile) -> Step<()> {
    if Path::new(DISK).exists() {
        return Ok(());
    }
    let new = format!("{DISK_NEW}.{}", std::process::id());
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let sized = file.and_then(|file| file.set_len(root.disk_bytes));
    sized.step("make the lease's disk")?;
    let owner = root.id_base;
    let options =
        format!("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={owner}:{owner}");
    #[expect(clippy::disallowed_methods, reason = "the host runs programs; mkfs.ext4 is one")]
    let mut mkfs = Command::new(&root.mkfs);
    mkfs.args(["-q", "-F", "-m", "0", "-E", &options, &new]).stdin(Stdio::null());
    let made = mkfs.output().step_or("run mkfs.ext4", Remedy::Mkfs)?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(Failure::because("run mkfs.ext4", said.trim(), Some(Remedy::Mkfs)));
    }
    fs::rename(&new, DISK).step("make the lease's disk")
}

/// Waits until the container that had the disk before has let go of it. That takes a moment after the container's end, and
/// a file system that is mounted from two devices at once is destroyed.
fn await_release(polls_max: u32, mut is_held: impl FnMut() -> bool) -> Step<()> {
    for _ in 0..polls_max {
        if !is_held() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "the helper has one thread and no runtime")]
        std::thread::sleep(RELEASE_POLL);
    }
    let text = "the container's last run has not let go of it";
    Err(Failure::because("wait for the lease's disk", text, None))
}

/// Binds the disk's file to a free loop device and returns the device with its path. It lets go of the file when its last
/// descriptor is closed and its last mount is gone.
fn attach_loop() -> Step<(String, OwnedFd)> {
    const STEP: &str = "find a loop device";
    let read_write = |path: &str| File::options().read(true).write(true).open(path);
    let disk = read_write(DISK).step("open the lease's disk")?;
    let control = read_write("/dev/loop-control").step_or(STEP, Remedy::Loop)?;
    for _ in 0..LOOP_TRIES {
        let number = sys::loop_free_number(control.as_fd()).step_or(STEP, Remedy::Loop)?;
        let path = format!("/dev/loop{number}");
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(&path, flags, Mode::empty()).step_or(STEP, Remedy::Loop)?;
        match sys::loop_configure(&device, disk.as_fd()) {
            Ok(()) => return Ok((path, device)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(Failure::new(STEP, &error, Some(Remedy::Loop))),
        }
    }
    Err(Failure::because(STEP, "all of them are taken by others", Some(Remedy::Loop)))
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
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

fn attach(mount: &OwnedFd, target: &str) -> io::Result<()> {
    Ok(move_mount(mount, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is never let go of would be mounted twice, or hold the node up for ever.
    #[test]
    fn the_wait_for_the_disk_ends() {
        let held_for = |polls: u32| {
            let mut left = polls;
            await_release(3, move || {
                left = left.saturating_sub(1);
                left > 0
            })
        };
        assert!(held_for(0).is_ok());
        assert!(held_for(3).is_ok());
        let failure = held_for(4).expect_err("held");
        assert_eq!(failure.step, "wait for the lease's disk");
        assert_eq!(failure.errno, None);
    }
}
