//! The container's file tree, built by its first process in its own mount namespace.
//!
//! Where the image is the machine itself, the tree is a small one in memory into which the directories with programs are
//! bound, read-only. It is a list of what is shown, never of what is hidden: home directories, `/var`, `/srv`, most of `/etc`,
//! mounted disks and the node's own files are not in it. With root, the owners of those files are nobody to the container,
//! so that its root reads what everybody may read and nothing else.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::super::protocol::{
    Access, Image, InStep as _, Order, Profile, Remedy, Resolver, Step, VolumeOrder,
};
use super::disk::{DISK_VOLUMES, SIZED_VOLUMES, make_disk_dirs};
use super::is_host;
use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY, MountAttributes};

/// What of the machine's own root is shown.
const HOST_DIRS: [&str; 10] =
    ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt/conda", "nix", "gnu"];
/// What of the machine's own `/etc` programs need in order to run. Accounts, keys and settings of services are not in it.
const HOST_ETC: [&str; 34] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "OpenCL",
    "os-release",
    "perl",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "profile",
    "profile.d",
    "protocols",
    "python3",
    "rpc",
    "services",
    "shells",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "vulkan",
];
/// Files of `/etc` that are the container's own where the image is the machine.
const OWN_ETC: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"),
];
/// What of an unpacked image is replaced by our own.
const REPLACED: [&str; 8] = ["proc", "sys", "dev", "tmp", "run", "root", "home", ".nicompute"];
/// Devices that every program expects; none of them reaches hardware.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of `/proc` and `/sys` that tell about the machine.
const MASKED: [&str; 9] = [
    "proc/acpi",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/sysrq-trigger",
    "proc/timer_list",
    "sys/firmware",
];
/// Parts of `/proc` with switches.
const READ_ONLY: [&str; 4] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys"];
/// How many user namespaces may be made inside this one.
const USERNS_SWITCH: &str = "proc/sys/user/max_user_namespaces";
const NO_USERNS: &str = "forbid user namespaces";
/// Room for mount points only.
const SKELETON_BYTES: u64 = 1 << 20;
/// Group `tty` of every distribution.
const TTY_GID: u32 = 5;

pub(super) struct Tree<'a> {
    pub(super) order: &'a Order,
    pub(super) root: OwnedFd,
}

/// Builds the tree and makes it this process's root. The working directory is the one for mounting.
pub(super) fn enter(order: &Order) -> Step<()> {
    let skeleton = matches!((&order.image, &order.profile), (Image::Host, _) | (_, Profile::User));
    let tree = Tree {
        order,
        root: if skeleton {
            memory(SKELETON_BYTES, "755")?
        } else {
            clone_of("root").step("open the overlay")?
        },
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree.root, c"", CWD, c"new", flags)
        .step_or("mount the new root", Remedy::Userns)?;
    if skeleton {
        tree.bind_image()?;
        tree.bind_writable()?;
    } else {
        tree.make_usual_dirs().step("make the usual directories")?;
    }
    tree.bind_driver()?;
    tree.bind_ours()?;
    tree.mount_kernel()?;
    tree.mount_dev()?;
    tree.bind_gpus()?;
    tree.check_devices()?;
    tree.mask()?;
    tree.bind_wishes()?;
    tree.pivot()?;
    if skeleton || order.extras.root == Access::ReadOnly { tree.protect() } else { Ok(()) }
}

/// Something that the lease wished to have mounted.
enum Wish<'a> {
    Volume(&'a VolumeOrder),
    Memory(u64),
}

impl Tree<'_> {
    /// Shows the image read-only in a tree that is ours.
    fn bind_image(&self) -> Step<()> {
        const STEP: &str = "show the image";
        let (base, names): (&Path, Vec<PathBuf>) = match &self.order.image {
            Image::Host => (Path::new("/"), HOST_DIRS.iter().map(PathBuf::from).collect()),
            Image::Directory(image) => {
                let entries = fs::read_dir(image).step(STEP)?;
                let names = entries.map(|entry| entry.map(|entry| entry.file_name().into()));
                (image, names.collect::<io::Result<_>>().step(STEP)?)
            }
        };
        let ours = |name: &Path| REPLACED.iter().any(|replaced| Path::new(replaced) == name);
        for name in names.iter().filter(|name| !ours(name)) {
            self.bind_entry(&base.join(name), name)
                .step_or(&format!("{STEP}, {}", name.display()), Remedy::Userns)?;
        }
        if is_host(self.order) { self.make_etc().step("make /etc") } else { Ok(()) }
    }

    /// An `/etc` of what programs need.
    fn make_etc(&self) -> io::Result<()> {
        for name in HOST_ETC {
            let path = Path::new("etc").join(name);
            self.bind_entry(&Path::new("/").join(&path), &path)?;
        }
        for (path, text) in OWN_ETC {
            let file =
                self.open(Path::new(path), OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)?;
            rustix::io::write(&file, text.as_bytes())?;
        }
        Ok(rustix::fs::symlinkat("/proc/self/mounts", &self.root, "etc/mtab")?)
    }

    fn bind_entry(&self, from: &Path, name: &Path) -> io::Result<()> {
        let kind = match fs::symlink_metadata(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata?.file_type(),
        };
        if kind.is_symlink() {
            if let Some(parent) = name.parent() {
                drop(self.dir(parent)?);
            }
            return Ok(rustix::fs::symlinkat(fs::read_link(from)?, &self.root, name)?);
        }
        // A file beside the directories of an image is not shown; one of `/etc` is.
        let shown = kind.is_dir() || (kind.is_file() && name.starts_with("etc"));
        if !shown {
            return Ok(());
        }
        let mount = match clone_all_of(from) {
            // What this user may not read, its container does without.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            mount => mount?,
        };
        let set = ATTR_RDONLY | ATTR_NODEV | ATTR_NOSUID;
        sys::mount_setattr(mount.as_fd(), MountAttributes { set, idmap: None, recursive: true })?;
        let target = if kind.is_dir() { FileType::Directory } else { FileType::RegularFile };
        self.attach(&mount, name, target)
    }

    /// The directories that the container may write: on the lease's disk, or in memory where there is none.
    fn bind_writable(&self) -> Step<()> {
        const STEP: &str = "mount the writable directories";
        let names: &[&str] = if is_host(self.order) {
            &["root", "home", "tmp", "var"]
        } else {
            &["root", "home", "tmp"]
        };
        if self.order.extras.root == Access::ReadOnly {
            for name in names {
                drop(self.dir(name).step(STEP)?);
            }
            return Ok(());
        }
        if matches!(self.order.profile, Profile::User) {
            let disk = memory(self.order.memory_bytes / 2, "755")?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&disk, c"", CWD, c"disk", flags).step(STEP)?;
            make_disk_dirs(Path::new("disk"), None).step(STEP)?;
        }
        for name in names {
            let mount = clone_of(Path::new("disk").join(name)).step(STEP)?;
            self.attach(&mount, name, FileType::Directory).step(STEP)?;
        }
        Ok(())
    }

    /// What every session expects and a small image may lack. A link in its place is the image's own choice.
    fn make_usual_dirs(&self) -> io::Result<()> {
        for (name, mode) in [("root", 0o700), ("tmp", 0o1777)] {
            match rustix::fs::mkdirat(&self.root, name, Mode::from_raw_mode(mode)) {
                Err(Errno::EXIST) => {}
                made => {
                    made?;
                    // What the mask took away from the mode is given back.
                    let mode = Mode::from_raw_mode(mode);
                    rustix::fs::chmodat(&self.root, name, mode, AtFlags::empty())?;
                }
            }
        }
        Ok(())
    }

    /// The agent, the gateway's directory, and the place for programs that are sent in.
    fn bind_ours(&self) -> Step<()> {
        const STEP: &str = "mount the agent";
        let root = matches!(self.order.profile, Profile::Root(_));
        let run_dir = if root { "run".into() } else { self.order.dir.join("run") };
        let run = clone_of(run_dir).step("open the gateway's directory")?;
        let agent = if root { Path::new("agent") } else { &self.order.agent };
        let agent = clone_of(agent).step_or(STEP, Remedy::Agent)?;
        for mount in [&run, &agent] {
            let set = ATTR_RDONLY | ATTR_NODEV | ATTR_NOSUID;
            let change = MountAttributes { set, idmap: None, recursive: false };
            sys::mount_setattr(mount.as_fd(), change).step(STEP)?;
        }
        self.attach(&run, ".nicompute/run", FileType::Directory).step(STEP)?;
        self.attach(&agent, ".nicompute/agent", FileType::RegularFile).step(STEP)?;
        let scratch = memory(self.order.memory_bytes / 2, "755")?;
        self.attach(&scratch, "run", FileType::Directory).step("mount /run")?;
        drop(self.dir("run/nicompute").step("make /run/nicompute")?);
        if self.order.extras.resolver == Resolver::Lease { self.bind_resolver() } else { Ok(()) }
    }

    /// Shows the lease's `resolv.conf` in the place of the image's, which is often a link to nowhere.
    fn bind_resolver(&self) -> Step<()> {
        const STEP: &str = "show resolv.conf";
        let etc = self.dir("etc").step_or(STEP, Remedy::Target)?;
        match rustix::fs::unlinkat(&etc, "resolv.conf", AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            unlinked => unlinked.step_or(STEP, Remedy::Target)?,
        }
        let view = clone_of("resolv.conf").step(STEP)?;
        self.attach(&view, "etc/resolv.conf", FileType::RegularFile).step(STEP)
    }

    /// What the lease asked for: its volumes and memory file systems, parents before children.
    fn bind_wishes(&self) -> Step<()> {
        const STEP: &str = "mount a volume";
        let extras = &self.order.extras;
        let volumes = extras.volumes.iter().map(|volume| (&volume.target, Wish::Volume(volume)));
        let memory_of = extras.tmpfs.iter().map(|tmpfs| (&tmpfs.target, Wish::Memory(tmpfs.bytes)));
        let mut wishes: Vec<(&String, Wish<'_>)> = volumes.chain(memory_of).collect();
        wishes.sort_by_key(|(target, _)| target.split('/').count());
        for (target, wish) in wishes {
            let mount = match wish {
                Wish::Volume(volume) => {
                    let mount = clone_of(self.volume_source(volume)).step(STEP)?;
                    let set = ATTR_NODEV | ATTR_NOSUID;
                    let change = MountAttributes { set, idmap: None, recursive: false };
                    sys::mount_setattr(mount.as_fd(), change).step(STEP)?;
                    mount
                }
                Wish::Memory(bytes) => memory(bytes, "1777")?,
            };
            let target = target.trim_start_matches('/');
            self.attach(&mount, target, FileType::Directory).step_or(STEP, Remedy::Target)?;
        }
        Ok(())
    }

    fn volume_source(&self, volume: &VolumeOrder) -> PathBuf {
        let folder = match (&self.order.profile, volume.bytes) {
            (Profile::User, _) => "../volumes",
            (Profile::Root(_), Some(_)) => SIZED_VOLUMES,
            (Profile::Root(_), None) => DISK_VOLUMES,
        };
        Path::new(folder).join(&volume.name)
    }

    fn mount_kernel(&self) -> Step<()> {
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = fresh("proc", &[], quiet).step_or("mount /proc", Remedy::HiddenProc)?;
        self.attach(&proc, "proc", FileType::Directory).step("mount /proc")?;
        // A user namespace inside this one would give its maker capabilities again, and with them most of the kernel's code
        // that has ever been broken into from a container.
        let switch = self.open(Path::new(USERNS_SWITCH), OFlags::WRONLY);
        rustix::io::write(switch.step(NO_USERNS)?, b"0").step(NO_USERNS)?;
        let quiet = quiet | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let sys = fresh("sysfs", &[], quiet).step_or("mount /sys", Remedy::HiddenProc)?;
        self.attach(&sys, "sys", FileType::Directory).step("mount /sys")
    }

    fn mount_dev(&self) -> Step<()> {
        const STEP: &str = "mount /dev";
        let dev = memory(SKELETON_BYTES, "755")?;
        self.attach(&dev, "dev", FileType::Directory).step(STEP)?;
        for device in DEVICES {
            let mount = clone_of(Path::new("/dev").join(device)).step(STEP)?;
            self.attach(&mount, format!("dev/{device}"), FileType::RegularFile).step(STEP)?;
        }
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let gid = TTY_GID.to_string();
        // The kernel counts the terminals of all containers together.
        let mut options = vec![("ptmxmode", "0666"), ("mode", "0620"), ("max", "256")];
        if matches!(self.order.profile, Profile::Root(_)) {
            options.push(("gid", &gid));
        }
        let pts = fresh("devpts", &options, quiet).step("mount /dev/pts")?;
        self.attach(&pts, "dev/pts", FileType::Directory).step(STEP)?;
        let shm = memory(self.order.extras.shm_bytes, "1777")?;
        self.attach(&shm, "dev/shm", FileType::Directory).step(STEP)?;
        let quiet = quiet | MountAttrFlags::MOUNT_ATTR_NODEV;
        let queues = fresh("mqueue", &[], quiet).step("mount /dev/mqueue")?;
        self.attach(&queues, "dev/mqueue", FileType::Directory).step(STEP)?;
        let dev = self.dir("dev").step(STEP)?;
        for (target, name) in [
            ("pts/ptmx", "ptmx"),
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
        ] {
            rustix::fs::symlinkat(target, &dev, name).step(STEP)?;
        }
        Ok(())
    }

    fn mask(&self) -> Step<()> {
        for path in MASKED {
            self.hide(Path::new(path)).step_or("mask /proc", Remedy::HiddenProc)?;
        }
        for path in READ_ONLY {
            self.make_read_only(path).step("protect /proc")?;
        }
        let shown =
            |path: &&Path| HOST_DIRS.iter().chain(&["etc"]).any(|dir| path.starts_with(dir));
        if is_host(self.order) {
            let masked = self.order.masked.iter().filter_map(|path| path.strip_prefix("/").ok());
            for path in masked.filter(shown) {
                self.hide(path).step("hide the node's own files")?;
            }
        }
        Ok(())
    }

    /// Covers a directory with an empty one and anything else with `/dev/null`.
    fn hide(&self, path: &Path) -> io::Result<()> {
        let target = match self.open(path, OFlags::PATH) {
            // What is not there, or is out of this root's reach, needs no cover.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            target => target?,
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode);
        let cover = if kind == FileType::Directory {
            let options = [("size", "4096"), ("mode", "555")];
            fresh("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_RDONLY)?
        } else {
            clone_of("/dev/null")?
        };
        attach_at(&cover, &target)
    }

    fn make_read_only(&self, path: &str) -> io::Result<()> {
        let target = match self.open(Path::new(path), OFlags::PATH) {
            Err(Errno::NOENT) => return Ok(()),
            target => target?,
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = open_tree(&target, c"", flags)?;
        let change = MountAttributes { set: ATTR_RDONLY, idmap: None, recursive: false };
        sys::mount_setattr(mount.as_fd(), change)?;
        attach_at(&mount, &target)
    }

    /// Makes the tree the root and lets go of the machine's.
    fn pivot(&self) -> Step<()> {
        const STEP: &str = "change the root";
        rustix::process::fchdir(&self.root).step(STEP)?;
        rustix::process::pivot_root(".", ".").step(STEP)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).step("let go of the old root")?;
        rustix::process::chdir("/").step(STEP)
    }

    fn protect(&self) -> Step<()> {
        let change = MountAttributes { set: ATTR_RDONLY, idmap: None, recursive: false };
        sys::mount_setattr(self.root.as_fd(), change).step("protect the root")
    }

    pub(super) fn attach(
        &self,
        mount: &OwnedFd,
        path: impl AsRef<Path>,
        kind: FileType,
    ) -> io::Result<()> {
        let path = path.as_ref();
        let target = if kind == FileType::Directory {
            self.dir(path)?
        } else {
            if let Some(parent) = path.parent() {
                drop(self.dir(parent)?);
            }
            // An image may have a pipe in this place, and opening that would wait for ever.
            drop(self.open(path, OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK)?);
            self.open(path, OFlags::PATH)?
        };
        attach_at(mount, &target)
    }

    /// The directory at that path, made with its parents if need be.
    fn dir(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        let mut at = PathBuf::new();
        let mut opened = self.open(Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
        for name in path.as_ref() {
            at.push(name);
            opened = match self.open(&at, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&opened, name, Mode::from_raw_mode(0o755))?;
                    self.open(&at, OFlags::PATH | OFlags::DIRECTORY)?
                }
                opened => opened?,
            };
        }
        Ok(opened)
    }

    /// Opens a path of the tree. A link on the way is refused: an image has none in the places that are ours, unless its
    /// author wants our mounts somewhere else.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mode = if flags.contains(OFlags::CREATE) { 0o644 } else { 0 };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
            resolve,
        )
    }
}

pub(super) fn attach_at(mount: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

/// A detached copy of what is mounted at a path.
pub(super) fn clone_of(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    clone_with(path.as_ref(), OpenTreeFlags::empty())
}

/// A detached copy of what is mounted at a path and everywhere below.
fn clone_all_of(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    clone_with(path.as_ref(), OpenTreeFlags::AT_RECURSIVE)
}

fn clone_with(path: &Path, extra: OpenTreeFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | extra;
    Ok(open_tree(CWD, path.as_os_str().as_bytes(), flags)?)
}

/// A file system in memory of at most that size.
fn memory(bytes: u64, mode: &str) -> Step<OwnedFd> {
    let size = bytes.to_string();
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fresh("tmpfs", &[("size", &size), ("mode", mode)], safe)
        .step_or("mount a file system in memory", Remedy::Userns)
}

fn fresh(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
