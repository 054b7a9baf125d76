//! A lease's directory on this machine: the gateway's folder, volumes, and the file that resolves names.
//!
//! Nothing in it is reached through a link: each step from the state directory on is opened for itself, so that whoever
//! puts a link in the place of a folder stops the lease and leads nobody anywhere. What was opened is compared with what
//! the container sees once it runs, since an engine takes paths and not descriptors.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MountFlags;

use super::super::{ContainerSpec, Network, RuntimeError, Volume, disk};

/// Folders of a lease; the container cannot name others of them than the ones that it is given.
const RUN: &str = "run";
const VOLUMES: &str = "volumes";
const RESOLV_CONF: &str = "resolv.conf";
/// The gateway's folder: passed through by anyone who is inside the mount.
const RUN_MODE: Mode = Mode::from_raw_mode(0o711);
const VOLUME_MODE: Mode = Mode::from_raw_mode(0o755);
const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The gateway's folder of a lease.
pub(super) fn run_dir(dir: &Path) -> PathBuf {
    dir.join(RUN)
}

/// What resolves names for a lease.
pub(super) fn resolv_conf(dir: &Path) -> PathBuf {
    dir.join(RESOLV_CONF)
}

/// A volume of a lease.
pub(super) fn volume_dir(dir: &Path, name: &str) -> PathBuf {
    dir.join(VOLUMES).join(name)
}

/// One volume as it was opened here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    target: String,
    place: PathBuf,
    id: (u64, u64),
}

/// Makes what the container needs of its lease's directory, and opens its volumes. Repeating it changes nothing. Blocks.
pub(super) fn prepare(
    state: &Path,
    spec: &ContainerSpec,
    owner: Option<(u32, u32)>,
) -> Result<Vec<Opened>, RuntimeError> {
    fs::create_dir_all(&spec.dir).map_err(io_error("make", &spec.dir))?;
    let dir = open_below(state, &spec.dir)?;
    let run = run_dir(&spec.dir);
    make_dir(&dir, RUN, RUN_MODE).map_err(io_error("make", &run))?;
    if spec.options.network == Network::Egress {
        let path = resolv_conf(&spec.dir);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&dir, RESOLV_CONF, flags, Mode::empty());
        found.map_err(|error| io_error("open", &path)(error.into()))?;
    }
    if spec.options.volumes.is_empty() {
        return Ok(Vec::new());
    }
    let folder = spec.dir.join(VOLUMES);
    let volumes = make_dir(&dir, VOLUMES, Mode::from_raw_mode(0o700));
    let volumes = volumes.map_err(io_error("make", &folder))?;
    let each = spec.options.volumes.iter();
    each.map(|volume| open_volume(spec, &volumes, volume, owner)).collect()
}

fn open_volume(
    spec: &ContainerSpec,
    volumes: &OwnedFd,
    volume: &Volume,
    owner: Option<(u32, u32)>,
) -> Result<Opened, RuntimeError> {
    let place = volume_dir(&spec.dir, &volume.name);
    let failed = |error: io::Error| io_error("open", &place)(error);
    let was_there =
        rustix::fs::statat(volumes, &volume.name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    drop(make_dir(volumes, &volume.name, VOLUME_MODE).map_err(failed)?);
    match volume.bytes {
        Some(bytes) => mount_sized(spec, volume, bytes, owner)?,
        None => mount_plain(volumes, volume, &place).map_err(failed)?,
    }
    let opened = rustix::fs::openat(volumes, &volume.name, DIR, Mode::empty());
    let opened = opened.map_err(|error| failed(error.into()))?;
    if let (Some((user, group)), Err(_)) = (owner, was_there) {
        let (user, group) =
            (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(group));
        rustix::fs::fchown(&opened, Some(user), Some(group))
            .map_err(|error| failed(error.into()))?;
    }
    let stat = rustix::fs::fstat(&opened).map_err(|error| failed(error.into()))?;
    Ok(Opened { target: volume.target.clone(), place, id: (stat.st_dev, stat.st_ino) })
}

/// A volume without a size is a part of the machine's disk, in which no device and no borrowed right means anything. An
/// engine has no words for that; a mount of the folder over itself does. It needs root; where the engine is another user's,
/// so are its tenants, and have neither.
fn mount_plain(volumes: &OwnedFd, volume: &Volume, place: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() || disk::is_mount_point(place) {
        return Ok(());
    }
    let open = || rustix::fs::openat(volumes, &volume.name, DIR, Mode::empty());
    // By their descriptors, so that no path is walked a second time.
    let at = |opened: &OwnedFd| format!("/proc/self/fd/{}", opened.as_raw_fd());
    let below = open()?;
    rustix::mount::mount_bind(at(&below), at(&below))?;
    let above = open()?;
    let flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID;
    Ok(rustix::mount::mount_remount(at(&above), flags, c"")?)
}

/// A volume of a size is a file system of its own.
fn mount_sized(
    spec: &ContainerSpec,
    volume: &Volume,
    bytes: u64,
    owner: Option<(u32, u32)>,
) -> Result<(), RuntimeError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RuntimeError::Unsupported {
            what: "volumes of a size need root on this machine".to_owned(),
            remedy: "run the node as root, or ask for volumes without a size",
        });
    }
    let failed = |error: disk::DiskError| {
        if is_full(&error) {
            return RuntimeError::NoSpace { act: "making a volume" };
        }
        let remedy = Some(error.remedy());
        let step = format!("make the volume {:?}", volume.name);
        RuntimeError::Step { step, remedy, source: io::Error::other(error) }
    };
    let name = format!("{}.img", volume.name);
    let image = spec.dir.join(VOLUMES).join(&name);
    let holder = Path::new(&spec.lease.to_string()).join(VOLUMES).join(&name);
    let mkfs = disk::find_mkfs().map_err(failed)?;
    disk::make(&mkfs, &image, bytes, owner.map_or(0, |(user, _)| user)).map_err(failed)?;
    disk::mount(&image, &holder, &volume_dir(&spec.dir, &volume.name)).map_err(failed)
}

fn is_full(error: &disk::DiskError) -> bool {
    match error {
        disk::DiskError::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
        disk::DiskError::Mkfs { said } => said.contains("No space left"),
        _ => false,
    }
}

/// Whether the container sees the very folders that were opened for it. A container whose files cannot be looked at from
/// here, such as a virtual machine's, is taken at the engine's word.
pub(super) fn are_seen(init_pid: u32, opened: &[Opened]) -> Result<(), RuntimeError> {
    for volume in opened {
        let Some(seen) = id_inside(init_pid, &volume.target) else { continue };
        if seen != volume.id {
            let text = "another folder was in its place when the container was started";
            return Err(io_error("mount", &volume.place)(io::Error::other(text)));
        }
    }
    Ok(())
}

fn id_inside(init_pid: u32, target: &str) -> Option<(u64, u64)> {
    let inside = open_inside(init_pid, target)?;
    let stat = rustix::fs::fstat(&inside).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Opens a path of a container, with the container's root as the root of every link on the way.
pub(super) fn open_inside(init_pid: u32, target: &str) -> Option<OwnedFd> {
    let root = rustix::fs::open(
        format!("/proc/{init_pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root.ok()?, target, flags, Mode::empty(), within).ok()
}

/// Removes a lease's directory with its volumes. What is not there is removed. Blocks.
pub(super) fn remove(dir: &Path) -> Result<(), RuntimeError> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", dir)(error)),
        Ok(found) if !found.is_dir() => {
            return fs::remove_file(dir).map_err(io_error("remove", dir));
        }
        Ok(_) => {}
    }
    // A mount that stays would be emptied instead of let go of.
    let real = fs::canonicalize(dir).map_err(io_error("look at", dir))?;
    disk::unmount_below(&real).map_err(|error| {
        let remedy = Some(error.remedy());
        let step = "let go of the lease's volumes".to_owned();
        RuntimeError::Step { step, remedy, source: io::Error::other(error) }
    })?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Opens a folder step by step from one above it that is ours.
fn open_below(above: &Path, dir: &Path) -> Result<OwnedFd, RuntimeError> {
    let failed = io_error("open", dir);
    let rest = dir.strip_prefix(above).unwrap_or(dir);
    let base = if rest == dir { Path::new("/") } else { above };
    let follow = DIR.difference(OFlags::NOFOLLOW);
    let open = rustix::fs::open(base, follow, Mode::empty());
    let mut at = open.map_err(|error| failed(error.into()))?;
    for part in rest.components() {
        match part {
            Component::Normal(name) => {
                let next = rustix::fs::openat(at.as_fd(), name, DIR, Mode::empty());
                at = next.map_err(|error| failed(error.into()))?;
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(failed(io::ErrorKind::InvalidInput.into()));
            }
        }
    }
    Ok(at)
}

fn make_dir(parent: &OwnedFd, name: &str, mode: Mode) -> io::Result<OwnedFd> {
    let fresh = match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) => true,
        Err(rustix::io::Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let made = rustix::fs::openat(parent, name, DIR, Mode::empty())?;
    if fresh {
        // The mask of this process must not shut a container's root out.
        rustix::fs::fchmod(&made, mode)?;
    }
    Ok(made)
}

fn io_error(act: &'static str, path: &Path) -> impl Fn(io::Error) -> RuntimeError + use<> {
    let path = path.to_owned();
    move |source| {
        if source.kind() == io::ErrorKind::StorageFull {
            return RuntimeError::NoSpace { act: "making a lease's directory" };
        }
        RuntimeError::Io { act, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nicompute_market::LeaseId;

    use super::super::super::Options;
    use super::*;

    fn spec(state: &Path, bytes: Option<u64>) -> ContainerSpec {
        let lease = LeaseId::from_random_bytes([3; 16]);
        let volume = Volume { name: "data".to_owned(), target: "/data".to_owned(), bytes };
        ContainerSpec {
            lease,
            generation: 1,
            cores_milli: 1,
            memory_bytes: 64 << 20,
            disk_bytes: 64 << 20,
            gpus: Vec::new(),
            image: "x".to_owned(),
            dir: state.join("leases").join(lease.to_string()),
            agent: "/agent".into(),
            masked_host_paths: Vec::new(),
            options: Options { volumes: vec![volume], ..Options::default() },
        }
    }

    /// A folder that somebody replaced by a link would be mounted into a container with all that the link leads to.
    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("dir");
        let state = dir.path().canonicalize().expect("path");
        let elsewhere = state.join("elsewhere");
        fs::create_dir(&elsewhere).expect("mkdir");
        fs::write(elsewhere.join("secret"), "x").expect("write");
        let spec = spec(&state, None);
        let opened = prepare(&state, &spec, None).expect("prepare");
        assert_eq!(prepare(&state, &spec, None).expect("again"), opened);
        let mode = fs::metadata(run_dir(&spec.dir)).expect("run").permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
        let data = volume_dir(&spec.dir, "data");
        for place in [data, spec.dir.join(VOLUMES), run_dir(&spec.dir), spec.dir.clone()] {
            disk::unmount_below(&state).expect("unmount");
            fs::remove_dir_all(&place).expect("rmdir");
            symlink(&elsewhere, &place).expect("link");
            let error = prepare(&state, &spec, None).expect_err("a link");
            assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
            remove(&spec.dir).expect("remove");
            assert!(elsewhere.join("secret").exists(), "{}", place.display());
            prepare(&state, &spec, None).expect("prepare anew");
        }
        let hidden = run_dir(&spec.dir).join("out");
        symlink(&elsewhere, &hidden).expect("link");
        remove(&spec.dir).expect("remove");
        remove(&spec.dir).expect("remove nothing");
        assert!(elsewhere.join("secret").exists());
    }

    /// A folder that was swapped between our look and the engine's would go unnoticed.
    #[test]
    fn a_swapped_folder_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let state = dir.path().canonicalize().expect("path");
        let here = std::process::id();
        let stat = rustix::fs::stat(&state).expect("stat");
        let target = state.display().to_string();
        let right = Opened { target, place: state, id: (stat.st_dev, stat.st_ino) };
        are_seen(here, std::slice::from_ref(&right)).expect("the same folder");
        let wrong = Opened { id: (stat.st_dev, stat.st_ino ^ 1), ..right };
        are_seen(here, std::slice::from_ref(&wrong)).expect_err("another folder");
        are_seen(here, &[Opened { target: "/no/such".to_owned(), ..wrong }]).expect("not visible");
    }

    /// A container would be started whose names lead to the provider's own resolver.
    #[test]
    fn names_need_their_file() {
        let dir = tempfile::tempdir().expect("dir");
        let state = dir.path().canonicalize().expect("path");
        let mut spec = spec(&state, None);
        spec.options.network = Network::Egress;
        let error = prepare(&state, &spec, None).expect_err("no resolv.conf");
        assert!(error.to_string().contains("resolv.conf"), "{error}");
        fs::write(resolv_conf(&spec.dir), "nameserver 192.0.2.1\n").expect("write");
        prepare(&state, &spec, None).expect("prepare");
        fs::remove_file(resolv_conf(&spec.dir)).expect("remove");
        symlink("/etc/resolv.conf", resolv_conf(&spec.dir)).expect("link");
        prepare(&state, &spec, None).expect_err("a link");
        remove(&spec.dir).expect("remove");
    }
}
