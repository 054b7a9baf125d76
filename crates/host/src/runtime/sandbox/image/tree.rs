//! Layers laid over one another in a directory of ours. No name of a layer leads out of that directory: every path is resolved
//! by the kernel with the directory as its root, and what a layer replaces or removes is removed without following links.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::tar::{Archive, Entry, Kind};
use super::{LayerError, Limits};

const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;
const DEPTH_MAX: usize = 256;
/// Ids that a container has. What belongs to others belongs to nobody.
const IDS: u64 = 65_536;
const NOBODY: u32 = 65_534;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The directory that layers are laid into.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    limits: Limits,
    /// Whether files get the owners that the layers name, which only root can give.
    owners: Owners,
    entries: u64,
    bytes: u64,
    /// What the current layer has made, which its own whiteouts spare.
    made: HashSet<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owners {
    AsNamed,
    OneUser,
}

impl Tree {
    pub(super) fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())?;
        let is_root = rustix::process::geteuid().is_root();
        let owners = if is_root { Owners::AsNamed } else { Owners::OneUser };
        Ok(Self { root, limits, owners, entries: 0, bytes: 0, made: HashSet::new() })
    }

    /// Lays one layer over what is there.
    pub(super) fn lay(&mut self, layer: &mut dyn Read) -> Result<(), LayerError> {
        self.made.clear();
        let mut archive = Archive::new(layer);
        while let Some(entry) = archive.next()? {
            self.entries = self.entries.saturating_add(1);
            if self.entries > self.limits.entries {
                return Err(LayerError::TooMuch("entries"));
            }
            let shown = || String::from_utf8_lossy(&entry.path).into_owned();
            let path = plain(&entry.path).ok_or_else(|| LayerError::Path { path: shown() })?;
            if path.as_os_str().is_empty() {
                // The root itself, which is there.
                continue;
            }
            self.apply(&entry, &path, &mut archive).map_err(|error| error.at(shown))?;
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, path: &Path, body: &mut dyn Read) -> Result<(), LayerError> {
        let above = above(path);
        let Some(name) = path.file_name() else {
            return Err(LayerError::Path { path: path.display().to_string() });
        };
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.white_out(name.as_bytes(), hidden, above);
        }
        if entry.kind == Kind::Device {
            // A container has devices of its own there, whatever an image brings along.
            return if path.starts_with("dev") { Ok(()) } else { Err(LayerError::Device) };
        }
        let parent = self.dir(above)?;
        let same = entry.kind == Kind::Directory && is_dir(&parent, name)?;
        if !same {
            remove(&parent, name, DEPTH_MAX * 4)?;
        }
        match entry.kind {
            Kind::File => self.file(&parent, name, entry, body)?,
            Kind::Directory => {
                if !same {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
                }
                self.dress(&parent, name, entry)?;
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= PATH_BYTES_MAX {
                    return Err(LayerError::Link);
                }
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), &parent, name)?;
                self.own(&parent, name, entry)?;
            }
            Kind::HardLink => self.hard_link(&parent, name, entry)?,
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0)?;
                self.dress(&parent, name, entry)?;
            }
            Kind::Device | Kind::Other(_) => return Err(LayerError::Unknown),
        }
        for part in path.ancestors() {
            if !self.made.insert(part.to_owned()) {
                break;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        body: &mut dyn Read,
    ) -> Result<(), LayerError> {
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(LayerError::TooMuch("bytes"));
        }
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(made);
        io::copy(body, &mut file)?;
        let (uid, gid) = ids(entry);
        if self.owners == Owners::AsNamed {
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&file, self.mode(entry))?;
        rustix::fs::futimens(&file, &times(entry))?;
        Ok(())
    }

    /// A second name for a file that is there already, in this layer or one below.
    fn hard_link(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), LayerError> {
        let target = plain(&entry.link).ok_or(LayerError::Link)?;
        let Some(old_name) = target.file_name() else { return Err(LayerError::Link) };
        let old = self.open_dir(above(&target)).map_err(|_| LayerError::Link)?;
        rustix::fs::linkat(&old, old_name, parent, name, AtFlags::empty())
            .map_err(|_| LayerError::Link)
    }

    fn dress(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), LayerError> {
        self.own(parent, name, entry)?;
        rustix::fs::chmodat(parent, name, self.mode(entry), AtFlags::empty())?;
        Ok(())
    }

    fn own(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), LayerError> {
        let (uid, gid) = ids(entry);
        if self.owners == Owners::AsNamed {
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Without root, one user owns everything and must be able to read and to remove it.
    fn mode(&self, entry: &Entry) -> Mode {
        let raw = match (self.owners, entry.kind) {
            (Owners::AsNamed, _) => entry.mode,
            (Owners::OneUser, Kind::Directory) => (entry.mode & 0o777) | 0o700,
            (Owners::OneUser, _) => (entry.mode & 0o777) | 0o400,
        };
        Mode::from_raw_mode(raw)
    }

    /// Takes away what layers below have put there.
    fn white_out(&self, name: &[u8], hidden: &[u8], above: &Path) -> Result<(), LayerError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::Whiteout);
        }
        let parent = match self.open_dir(above) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            parent => parent?,
        };
        if name == OPAQUE {
            return self.remove_older(&parent, above, DEPTH_MAX);
        }
        // Marks of another union file system, which hide nothing.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(hidden);
        if self.made.contains(&above.join(hidden)) {
            return Ok(());
        }
        remove(&parent, hidden, DEPTH_MAX * 4)
    }

    /// Empties a directory of everything but what this layer has made.
    fn remove_older(&self, dir: &OwnedFd, path: &Path, depth: usize) -> Result<(), LayerError> {
        let depth = depth.checked_sub(1).ok_or(LayerError::TooMuch("folders in folders"))?;
        for name in names(dir)? {
            let inner = path.join(&name);
            if !self.made.contains(&inner) {
                remove(dir, &name, DEPTH_MAX * 4)?;
            } else if is_dir(dir, &name)? {
                self.remove_older(&open_below(dir, &name)?, &inner, depth)?;
            }
        }
        Ok(())
    }

    /// The directory at that path, through links that stay in the tree; made if need be.
    fn dir(&self, path: &Path) -> Result<OwnedFd, LayerError> {
        match self.open_dir(path) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
        let mut at = PathBuf::new();
        let mut opened = self.open_dir(Path::new(""))?;
        for name in path {
            at.push(name);
            opened = match self.open_dir(&at) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&opened, name, Mode::from_raw_mode(0o755))?;
                    self.open_dir(&at)?
                }
                there => there?,
            };
        }
        Ok(opened)
    }

    fn open_dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }
}

/// A path of an archive as a relative one of plain names; it is empty for the root itself.
fn plain(path: &[u8]) -> Option<PathBuf> {
    if path.len() >= PATH_BYTES_MAX || path.contains(&0) {
        return None;
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let mut plain = PathBuf::new();
    for (depth, part) in parts.enumerate() {
        if part == b".." || part.len() > NAME_BYTES_MAX || depth >= DEPTH_MAX {
            return None;
        }
        plain.push(OsStr::from_bytes(part));
    }
    Some(plain)
}

fn above(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

fn ids(entry: &Entry) -> (Uid, Gid) {
    let known = |id: u64| u32::try_from(id).ok().filter(|_| id < IDS).unwrap_or(NOBODY);
    (Uid::from_raw(known(entry.uid)), Gid::from_raw(known(entry.gid)))
}

const fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.modified_s, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn is_dir(parent: &OwnedFd, name: &OsStr) -> Result<bool, LayerError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        stat => Ok(FileType::from_raw_mode(stat?.st_mode) == FileType::Directory),
    }
}

fn open_below(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn names(dir: &OwnedFd) -> Result<Vec<std::ffi::OsString>, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(dir.as_fd(), ".", flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&readable)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            found.push(std::os::unix::ffi::OsStringExt::from_vec(name));
        }
    }
    Ok(found)
}

/// Removes whatever has that name, with everything below, and follows no link.
fn remove(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), LayerError> {
    let depth = depth.checked_sub(1).ok_or(LayerError::TooMuch("folders in folders"))?;
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = open_below(parent, name)?;
    for inner in names(&dir)? {
        remove(&dir, &inner, depth)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
