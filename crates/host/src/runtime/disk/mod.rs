//! Disks of a size: an ext4 file system in a file, mounted through a loop device. Works on every file system that a machine
//! may have, where project quotas do not.
//!
//! A file has its name only once its file system is whole. Everything may be repeated after a crash; a disk that is mounted
//! already is not mounted a second time, since two mounts of one file destroy it. All calls block for a moment.

mod device;
mod template;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use template::Template;

/// Where `mkfs.ext4` may lie.
const MKFS_PLACES: [&str; 6] = [
    "/usr/sbin/mkfs.ext4",
    "/sbin/mkfs.ext4",
    "/usr/bin/mkfs.ext4",
    "/bin/mkfs.ext4",
    "/usr/local/sbin/mkfs.ext4",
    "/run/current-system/sw/bin/mkfs.ext4",
];
/// How often a wait for a disk's release looks again, and how many times: twenty seconds in all.
const RELEASE_POLL: Duration = Duration::from_millis(5);
const RELEASE_POLLS_MAX: u32 = 4_000;
/// Others take loop devices between our asking for a free one and taking it.
const LOOP_TRIES: u32 = 64;
/// Mounts below one directory that are let go of in one call; a lease has at most eight volumes.
const MOUNTS_MAX: usize = 64;
/// What `mkfs.ext4` puts into every file system.
const LOST_AND_FOUND: &str = "lost+found";

/// A disk that is being made.
#[derive(Debug)]
pub(super) struct Making {
    child: Option<Child>,
    /// What a copy is kept as, where none is yet.
    template: Option<Template>,
    new: PathBuf,
    image: PathBuf,
}

/// Whose the root of a new file system is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner<'a> {
    /// That user's and group's.
    Is(u32),
    /// Root's, until the caller gives it away. Such disks of one size are alike, and are copied from that folder.
    Later {
        /// The folder.
        templates: &'a Path,
    },
}

/// Why a disk could not be made, mounted or let go of.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `mkfs.ext4` is missing.
    #[error("mkfs.ext4 is not installed")]
    NoMkfs,
    /// `mkfs.ext4` refused.
    #[error("mkfs.ext4 failed: {said}")]
    Mkfs {
        /// Its own words.
        said: String,
    },
    /// A file could not be made, opened or removed.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// The act, as a verb.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The loop driver is missing or refuses.
    #[error("cannot find a loop device")]
    Loop(#[source] io::Error),
    /// The last user of the disk has not let go of it.
    #[error("the disk {} is still in use", path.display())]
    InUse {
        /// Its file.
        path: PathBuf,
    },
}

impl DiskError {
    /// What an operator can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoMkfs | Self::Mkfs { .. } => "install mkfs.ext4 (apt-get install e2fsprogs)",
            Self::Loop(_) => "load the loop driver (modprobe loop)",
            Self::Io { .. } | Self::InUse { .. } => {
                "see the cause; the state directory must lie on a disk with room, writable for root"
            }
        }
    }
}

/// The program that makes file systems, if this machine has it.
///
/// # Errors
/// When it has none.
pub fn find_mkfs() -> Result<PathBuf, DiskError> {
    let found = MKFS_PLACES.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or(DiskError::NoMkfs)
}

/// Makes a sparse file with an empty file system whose root belongs to that user and group, unless the file is there.
///
/// # Errors
/// When there is no room or no `mkfs.ext4`; then there is no file of that name.
pub fn make(mkfs: &Path, image: &Path, bytes: u64, owner: u32) -> Result<(), DiskError> {
    match begin(mkfs, image, bytes, Owner::Is(owner))? {
        None => Ok(()),
        Some(making) => {
            making.finish()?;
            keep_name(image)
        }
    }
}

/// Begins to make it, unless the file is there. What was made of that size before and never used is copied; otherwise
/// `mkfs.ext4` runs beside the caller until [`Making::formatted`].
///
/// # Errors
/// When there is no room or no `mkfs.ext4`.
pub(super) fn begin(
    mkfs: &Path,
    image: &Path,
    bytes: u64,
    owner: Owner<'_>,
) -> Result<Option<Making>, DiskError> {
    if image.exists() {
        return Ok(None);
    }
    // A `mkfs.ext4` whose starter was killed goes on for a moment and must not write into the next one's file.
    let mut new = image.as_os_str().to_owned();
    new.push(format!(".new.{}", std::process::id()));
    let new = PathBuf::from(new);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&new).map_err(io_error("make", &new))?;
    let (owner, template) = match owner {
        Owner::Is(owner) => (owner, None),
        Owner::Later { templates } => (0, Some(Template::new(templates, bytes))),
    };
    let mut making = Making { child: None, template: None, new, image: image.to_owned() };
    if template.as_ref().is_some_and(|template| template.copy_to(&file).is_ok()) {
        return Ok(Some(making));
    }
    file.set_len(0).and_then(|()| file.set_len(bytes)).map_err(io_error("make", &making.new))?;
    let features =
        format!("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={owner}:{owner}");
    #[expect(clippy::disallowed_methods, reason = "the host runs programs; mkfs.ext4 is one")]
    let mut program = Command::new(mkfs);
    program.args(["-q", "-F", "-m", "0", "-E", &features, "--"]).arg(&making.new);
    program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    making.child = Some(program.spawn().map_err(io_error("run", mkfs))?);
    making.template = template;
    Ok(Some(making))
}

/// Makes sure that the file's name outlives a power cut.
pub(super) fn keep_name(image: &Path) -> Result<(), DiskError> {
    let folder = image.parent().unwrap_or(image);
    let written = File::open(folder).and_then(|folder| folder.sync_all());
    written.map_err(io_error("write", folder))
}

// === impl Making ===

impl Making {
    /// Waits for the file system. It may be mounted then, by the name that the file has until [`Making::finish`].
    pub(super) fn formatted(&mut self) -> Result<&Path, DiskError> {
        let Some(child) = self.child.take() else { return Ok(&self.new) };
        let made =
            child.wait_with_output().map_err(io_error("wait for the maker of", &self.new))?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(DiskError::Mkfs { said });
        }
        if let Some(template) = self.template.take() {
            // Without it the next disk is formatted too.
            drop(template.keep(&self.new));
        }
        Ok(&self.new)
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> Result<(), DiskError> {
        self.formatted()?;
        // A name that is older than what it names would be a torn disk after a power cut, and be taken for a whole one.
        let written = File::open(&self.new).and_then(|file| file.sync_all());
        written.map_err(io_error("write", &self.new))?;
        fs::rename(&self.new, &self.image).map_err(io_error("make", &self.image))
    }
}

/// What is not finished leaves no program and no file.
impl Drop for Making {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
        // After the end it has another name.
        drop(fs::remove_file(&self.new));
    }
}

/// Mounts the file's file system at a directory of this mount namespace. What is mounted there already, stays.
///
/// The file is identified by its last parts, `holder`, which must be unique on the machine, for instance
/// `<lease>/disk.img`: what the kernel tells of a file's path lacks a mount that is gone.
///
/// # Errors
/// When the loop driver is missing, the file system is damaged, or somebody else has it mounted.
pub fn mount(image: &Path, holder: &Path, at: &Path) -> Result<(), DiskError> {
    if is_mount_point(at) {
        return Ok(());
    }
    await_release(image, RELEASE_POLLS_MAX, || is_held(holder))?;
    mount_new(image, at)
}

/// Mounts a file that nobody has ever mounted.
pub(super) fn mount_new(image: &Path, at: &Path) -> Result<(), DiskError> {
    let (device, bound) = attach_loop(image)?;
    rustix::mount::mount(device.as_str(), at, "ext4", MountFlags::NODEV | MountFlags::NOSUID, c"")
        .map_err(|error| io_error("mount a disk at", at)(error.into()))?;
    // From here on the mount keeps the device.
    drop(bound);
    // A database refuses a directory that is not empty. Whoever keeps something in it keeps it.
    drop(fs::remove_dir(at.join(LOST_AND_FOUND)));
    Ok(())
}

/// Whether a loop device still has a file whose path ends so. The kernel tells the file's path from its mount, which may be
/// gone with the process that took the device: what it tells then lacks the path of the mount, but never the last parts.
#[must_use]
pub fn is_held(holder: &Path) -> bool {
    held_files().any(|held| held.ends_with(holder))
}

/// Whether a loop device still has any file of a directory of that name.
#[must_use]
pub fn is_any_held(folder: &str) -> bool {
    held_files().any(|held| held.components().any(|part| part.as_os_str() == folder))
}

/// Unmounts everything that this mount namespace has mounted below a directory, and lets go of it even while it is used.
///
/// # Errors
/// When the kernel refuses, or more is mounted there than anything of ours mounts.
pub fn unmount_below(dir: &Path) -> Result<(), DiskError> {
    for _ in 0..MOUNTS_MAX {
        let Some(mount) = mounts().into_iter().rfind(|at| at != dir && at.starts_with(dir)) else {
            return Ok(());
        };
        rustix::mount::unmount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| io_error("unmount", &mount)(error.into()))?;
    }
    Err(DiskError::InUse { path: dir.to_owned() })
}

/// Whether something is mounted exactly there.
#[must_use]
pub fn is_mount_point(at: &Path) -> bool {
    let Ok(at) = fs::canonicalize(at) else { return false };
    mounts().contains(&at)
}

/// Every mount point of this mount namespace, in the order in which they were mounted.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let escaped = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(escaped))))
    });
    points.collect()
}

/// Takes back the kernel's octal escapes of spaces and line ends.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn held_files() -> impl Iterator<Item = PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices.filter_map(|device| {
        let held = fs::read(device.path().join("loop/backing_file")).ok()?;
        let end = held.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
        let path = held.get(..end).unwrap_or_default();
        // A file that was removed while it was used is told with this mark.
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
    })
}

/// Waits until the one who had the disk before has let go of it. That takes a moment after a container's end.
fn await_release(
    image: &Path,
    polls_max: u32,
    mut is_held: impl FnMut() -> bool,
) -> Result<(), DiskError> {
    for _ in 0..polls_max {
        if !is_held() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "the call blocks, and says so")]
        std::thread::sleep(RELEASE_POLL);
    }
    Err(DiskError::InUse { path: image.to_owned() })
}

/// Binds the file to a free loop device and returns the device with its path. It lets go of the file when its last
/// descriptor is closed and its last mount is gone.
fn attach_loop(image: &Path) -> Result<(String, OwnedFd), DiskError> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    let disk = options.open(image).map_err(io_error("open", image))?;
    let control = File::options().read(true).write(true).open("/dev/loop-control");
    let control = control.map_err(DiskError::Loop)?;
    for _ in 0..LOOP_TRIES {
        let number = device::free_number(control.as_fd()).map_err(DiskError::Loop)?;
        let path = format!("/dev/loop{number}");
        let opened = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let device = opened.map_err(|error| DiskError::Loop(error.into()))?;
        match device::configure(device.as_fd(), disk.as_fd()) {
            Ok(()) => return Ok((path, device)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(DiskError::Loop(error)),
        }
    }
    Err(DiskError::Loop(io::ErrorKind::ResourceBusy.into()))
}

fn io_error(act: &'static str, path: &Path) -> impl Fn(io::Error) -> DiskError + use<> {
    let path = path.to_owned();
    move |source| DiskError::Io { act, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is never let go of would be mounted twice, or hold the node up for ever.
    #[test]
    fn the_wait_for_the_disk_ends() {
        let held_for = |polls: u32| {
            let mut left = polls;
            await_release(Path::new("disk.img"), 3, move || {
                left = left.saturating_sub(1);
                left > 0
            })
        };
        assert!(held_for(0).is_ok());
        assert!(held_for(3).is_ok());
        let error = held_for(4).expect_err("held");
        assert_eq!(error.to_string(), "the disk disk.img is still in use");
    }

    /// A mount below a directory with a space in its name would never be found, and its disk never be let go of.
    #[test]
    fn escaped_names_are_read() {
        assert_eq!(unescape(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape(b"/a\\04"), b"/a\\04");
        assert_eq!(unescape(b"\\"), b"\\");
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
    }

    /// A disk that is copied from another would hold another size, be damaged, or have what a tenant wrote.
    #[test]
    fn a_copied_disk_is_as_good_as_a_formatted_one() {
        let (Ok(mkfs), true) = (find_mkfs(), rustix::process::geteuid().is_root()) else { return };
        let dir = tempfile::tempdir().expect("dir");
        let (at, templates) = (dir.path().join("at"), dir.path().join("templates"));
        fs::create_dir(&at).expect("mkdir");
        let owner = Owner::Later { templates: &templates };
        let image = |name: &str| dir.path().join(name);
        let used = |name: &str, mkfs: &Path| {
            let image = image(name);
            let mut making = begin(mkfs, &image, 40 << 20, owner).expect("begin").expect("new");
            mount_new(making.formatted().expect("formatted"), &at).expect("mount");
            making.finish().expect("finish");
            assert_eq!(fs::read_dir(&at).expect("list").count(), 0, "{name}");
            fs::write(at.join("secret"), name).expect("write");
            let full = fs::write(at.join("full"), vec![1; 48 << 20]).expect_err("too much");
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            unmount_below(dir.path()).expect("unmount");
            await_release(&image, RELEASE_POLLS_MAX, || is_held(&image)).expect("release");
            assert_eq!(fs::metadata(&image).expect("metadata").len(), 40 << 20);
        };
        used("first.img", &mkfs);
        // Nothing is formatted any more.
        for name in ["second.img", "third.img"] {
            used(name, Path::new("/bin/false"));
        }
        let failed = begin(Path::new("/bin/false"), &image("other"), 41 << 20, owner);
        let failed = failed.expect("begin").expect("new").finish().expect_err("another size");
        assert!(matches!(failed, DiskError::Mkfs { .. }), "{failed}");
        let left: Vec<_> = fs::read_dir(dir.path()).expect("list").flatten().collect();
        assert_eq!(left.len(), 5, "{left:?}");
    }

    /// A disk would be promised and not hold, be lost by a second mount, or stay behind on the machine.
    #[test]
    fn a_disk_holds_and_goes_away() {
        let (Ok(mkfs), true) = (find_mkfs(), rustix::process::geteuid().is_root()) else { return };
        let dir = tempfile::Builder::new().prefix("disk it").tempdir().expect("dir");
        let dir = dir.path().canonicalize().expect("path");
        let (image, at) = (dir.join("volume.img"), dir.join("at"));
        let folder = dir.file_name().expect("name").to_owned();
        let holder = Path::new(&folder).join("volume.img");
        fs::create_dir(&at).expect("mkdir");
        for _ in 0..2 {
            make(&mkfs, &image, 8 << 20, 77).expect("make");
            mount(&image, &holder, &at).expect("mount");
        }
        assert!(is_held(&holder));
        assert_eq!(fs::read_dir(&at).expect("list").count(), 0);
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&at).expect("metadata"));
        assert_eq!(owner, 77);
        let full = fs::write(at.join("full"), vec![1; 16 << 20]).expect_err("too much");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        unmount_below(&dir).expect("unmount");
        unmount_below(&dir).expect("again");
        await_release(&image, RELEASE_POLLS_MAX, || is_held(&holder)).expect("release");
        assert!(make(Path::new("/bin/false"), &dir.join("x"), 1 << 20, 0).is_err());
        assert!(!dir.join("x").exists());
    }
}
