//! What each request does to the files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps};

use super::attributes::{Attributes, long_line, write_metadata, write_nothing};
use super::packet::{DATA_LEN_MAX, PACKET_LEN_MAX, Reader, Writer};

/// Files and folders open at once in one session.
const HANDLES_MAX: usize = 1024;
/// A folder's entries are sent in replies of about this many bytes.
const LISTING_LEN: usize = 64 * 1024;
/// The version of the protocol.
const VERSION: u32 = 3;

const EXTENSIONS: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
];

/// Why a request has no other answer than a status.
#[derive(Debug)]
enum Refusal {
    End,
    Io(io::Error),
    BadMessage,
    Unsupported,
    NoHandle,
    TooMany,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Refusal {
    fn status(&self) -> (u32, String) {
        match self {
            Self::End => (1, "End of file".to_owned()),
            Self::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => (2, "No such file".to_owned()),
                io::ErrorKind::PermissionDenied => (3, "Permission denied".to_owned()),
                _ => (4, error.to_string()),
            },
            Self::BadMessage => (5, "Bad message".to_owned()),
            Self::Unsupported => (8, "Operation unsupported".to_owned()),
            Self::NoHandle => (4, "No such handle".to_owned()),
            Self::TooMany => (4, "Too many open files in this session".to_owned()),
        }
    }
}

type Answer = Result<(), Refusal>;

#[derive(Debug)]
enum Open {
    File(File),
    Folder { path: PathBuf, entries: ReadDir },
}

/// The open files of one session.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: BTreeMap<u32, Open>,
    next: u32,
}

impl Files {
    /// Answers one request into `out`.
    pub(super) fn answer(&mut self, kind: u8, request: &mut Reader<'_>, out: &mut Writer) {
        let Some(id) = request.u32() else {
            return write_status(0, &Err(Refusal::BadMessage), out);
        };
        if kind == request::INIT {
            return greet(out);
        }
        // Replies that carry more than a status are begun by the operation; an error begins anew.
        out.begin(reply::STATUS, id);
        match self.perform(kind, id, request, out) {
            Ok(true) => {}
            Ok(false) => write_status(id, &Ok(()), out),
            Err(refusal) => write_status(id, &Err(refusal), out),
        }
    }

    /// `true` when the reply is written, `false` when it is a plain success.
    fn perform(
        &mut self,
        kind: u8,
        id: u32,
        request: &mut Reader<'_>,
        out: &mut Writer,
    ) -> Result<bool, Refusal> {
        match kind {
            request::OPEN => self.open_file(id, request, out)?,
            request::OPENDIR => self.open_folder(id, request, out)?,
            request::READ => self.read(id, request, out)?,
            request::READDIR => self.list(id, request, out)?,
            request::STAT => stat(id, &fs::metadata(path(request)?)?, out),
            request::LSTAT => stat(id, &fs::symlink_metadata(path(request)?)?, out),
            request::FSTAT => stat(id, &self.file(request)?.metadata()?, out),
            request::REALPATH => real_path(id, &path(request)?, out),
            request::READLINK => {
                name(id, fs::read_link(path(request)?)?.as_os_str().as_bytes(), out);
            }
            request::EXTENDED => return self.extended(id, request, out),
            _ => return self.change(kind, request).map(|()| false),
        }
        Ok(true)
    }

    /// The requests whose answer is a status.
    fn change(&mut self, kind: u8, request: &mut Reader<'_>) -> Answer {
        match kind {
            request::CLOSE => {
                let handle = handle(request)?;
                self.open.remove(&handle).map(drop).ok_or(Refusal::NoHandle)
            }
            request::WRITE => {
                let file = self.file(request)?;
                let offset = request.u64().ok_or(Refusal::BadMessage)?;
                let data = request.bytes().ok_or(Refusal::BadMessage)?;
                Ok(file.write_all_at(data, offset)?)
            }
            request::SETSTAT => set_path(&path(request)?, attributes(request)?, AtFlags::empty()),
            request::FSETSTAT => set_file(self.file(request)?, attributes(request)?),
            request::REMOVE => Ok(fs::remove_file(path(request)?)?),
            request::MKDIR => {
                let path = path(request)?;
                let mode = attributes(request)?.permissions.unwrap_or(0o777);
                Ok(fs::DirBuilder::new().mode(mode).create(path)?)
            }
            request::RMDIR => Ok(fs::remove_dir(path(request)?)?),
            request::RENAME => rename_fresh(&path(request)?, &path(request)?),
            // OpenSSH has the two paths the other way round than the draft, and every client follows it.
            request::SYMLINK => {
                let (target, link) = (path(request)?, path(request)?);
                Ok(std::os::unix::fs::symlink(target, link)?)
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn extended(
        &mut self,
        id: u32,
        request: &mut Reader<'_>,
        out: &mut Writer,
    ) -> Result<bool, Refusal> {
        match request.bytes().ok_or(Refusal::BadMessage)? {
            b"posix-rename@openssh.com" => fs::rename(path(request)?, path(request)?)?,
            b"hardlink@openssh.com" => fs::hard_link(path(request)?, path(request)?)?,
            b"fsync@openssh.com" => self.file(request)?.sync_all()?,
            b"lsetstat@openssh.com" => {
                set_path(&path(request)?, attributes(request)?, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            b"copy-data" => self.copy(request)?,
            b"limits@openssh.com" => {
                limits(id, out);
                return Ok(true);
            }
            b"expand-path@openssh.com" => {
                real_path(id, &expand(&path(request)?), out);
                return Ok(true);
            }
            b"statvfs@openssh.com" => {
                file_system(id, &rustix::fs::statvfs(path(request)?)?, out);
                return Ok(true);
            }
            b"fstatvfs@openssh.com" => {
                file_system(id, &rustix::fs::fstatvfs(self.file(request)?)?, out);
                return Ok(true);
            }
            _ => return Err(Refusal::Unsupported),
        }
        Ok(false)
    }

    fn file(&self, request: &mut Reader<'_>) -> Result<&File, Refusal> {
        match self.open.get(&handle(request)?) {
            Some(Open::File(file)) => Ok(file),
            Some(Open::Folder { .. }) | None => Err(Refusal::NoHandle),
        }
    }

    fn insert(&mut self, id: u32, open: Open, out: &mut Writer) -> Answer {
        if self.open.len() >= HANDLES_MAX {
            return Err(Refusal::TooMany);
        }
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, open);
        out.begin(reply::HANDLE, id);
        out.bytes(&self.next.to_be_bytes());
        Ok(())
    }

    fn open_file(&mut self, id: u32, request: &mut Reader<'_>, out: &mut Writer) -> Answer {
        let path = path(request)?;
        let flags = request.u32().ok_or(Refusal::BadMessage)?;
        let mode = attributes(request)?.permissions.unwrap_or(0o666);
        let has = |flag: u32| flags & flag != 0;
        let mut options = OpenOptions::new();
        options.read(has(1)).write(has(2)).mode(mode);
        let mut custom = libc::O_NOCTTY;
        for (flag, os) in
            [(4, libc::O_APPEND), (8, libc::O_CREAT), (16, libc::O_TRUNC), (32, libc::O_EXCL)]
        {
            if has(flag) {
                custom |= os;
            }
        }
        let file = options.custom_flags(custom).open(path)?;
        self.insert(id, Open::File(file), out)
    }

    fn open_folder(&mut self, id: u32, request: &mut Reader<'_>, out: &mut Writer) -> Answer {
        let path = path(request)?;
        let entries = fs::read_dir(&path)?;
        self.insert(id, Open::Folder { path, entries }, out)
    }

    fn read(&self, id: u32, request: &mut Reader<'_>, out: &mut Writer) -> Answer {
        let file = self.file(request)?;
        let offset = request.u64().ok_or(Refusal::BadMessage)?;
        let len = request.u32().ok_or(Refusal::BadMessage)?;
        let len = usize::try_from(len).unwrap_or(DATA_LEN_MAX).min(DATA_LEN_MAX);
        out.begin(reply::DATA, id);
        match out.data(len, |room| file.read_at(room, offset))? {
            0 if len > 0 => Err(Refusal::End),
            _ => Ok(()),
        }
    }

    fn list(&mut self, id: u32, request: &mut Reader<'_>, out: &mut Writer) -> Answer {
        let Some(Open::Folder { path, entries }) = self.open.get_mut(&handle(request)?) else {
            return Err(Refusal::NoHandle);
        };
        out.begin(reply::NAME, id);
        let count_at = out.len();
        out.u32(0);
        let mut count = 0;
        while out.len() < LISTING_LEN {
            let Some(entry) = entries.next() else { break };
            let name = entry?.file_name();
            out.bytes(name.as_bytes());
            // An entry that vanished since is listed by its name alone.
            if let Ok(meta) = fs::symlink_metadata(path.join(&name)) {
                out.bytes(&long_line(&name, &meta));
                write_metadata(&meta, out);
            } else {
                out.bytes(name.as_bytes());
                write_nothing(out);
            }
            count += 1;
        }
        out.patch_u32(count_at, count);
        if count == 0 { Err(Refusal::End) } else { Ok(()) }
    }

    fn copy(&self, request: &mut Reader<'_>) -> Answer {
        let from = self.file(request)?;
        let mut at = request.u64().ok_or(Refusal::BadMessage)?;
        let len = request.u64().ok_or(Refusal::BadMessage)?;
        let to = self.file(request)?;
        let mut to_at = request.u64().ok_or(Refusal::BadMessage)?;
        // A length of zero means up to the end.
        let mut left = if len == 0 { u64::MAX } else { len };
        let mut piece = vec![0; DATA_LEN_MAX];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let count = from.read_at(&mut piece[..want], at)?;
            if count == 0 {
                break;
            }
            to.write_all_at(&piece[..count], to_at)?;
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            at = at.saturating_add(count);
            to_at = to_at.saturating_add(count);
            left -= count;
        }
        Ok(())
    }
}

fn path(request: &mut Reader<'_>) -> Result<PathBuf, Refusal> {
    request.path().ok_or(Refusal::BadMessage)
}

fn attributes(request: &mut Reader<'_>) -> Result<Attributes, Refusal> {
    Attributes::read(request).ok_or(Refusal::BadMessage)
}

fn handle(request: &mut Reader<'_>) -> Result<u32, Refusal> {
    let bytes = request.bytes().ok_or(Refusal::BadMessage)?;
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| Refusal::NoHandle)
}

fn write_status(id: u32, answer: &Answer, out: &mut Writer) {
    let (code, text) = match answer {
        Ok(()) => (0, "Success".to_owned()),
        Err(refusal) => refusal.status(),
    };
    out.begin(reply::STATUS, id);
    out.u32(code);
    out.bytes(text.as_bytes());
    out.bytes(b"en");
}

fn greet(out: &mut Writer) {
    out.begin_version(reply::VERSION, VERSION);
    for (name, value) in EXTENSIONS {
        out.bytes(name.as_bytes());
        out.bytes(value.as_bytes());
    }
}

fn stat(id: u32, meta: &fs::Metadata, out: &mut Writer) {
    out.begin(reply::ATTRS, id);
    write_metadata(meta, out);
}

fn name(id: u32, bytes: &[u8], out: &mut Writer) {
    out.begin(reply::NAME, id);
    out.u32(1);
    out.bytes(bytes);
    out.bytes(bytes);
    write_nothing(out);
}

fn limits(id: u32, out: &mut Writer) {
    let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    out.begin(reply::EXTENDED, id);
    for value in [PACKET_LEN_MAX, DATA_LEN_MAX, DATA_LEN_MAX, HANDLES_MAX] {
        out.u64(number(value));
    }
}

fn file_system(id: u32, stat: &rustix::fs::StatVfs, out: &mut Writer) {
    const READ_ONLY: u64 = 1;
    const NO_SETUID: u64 = 2;
    out.begin(reply::EXTENDED, id);
    for value in [
        stat.f_bsize,
        stat.f_frsize,
        stat.f_blocks,
        stat.f_bfree,
        stat.f_bavail,
        stat.f_files,
        stat.f_ffree,
        stat.f_favail,
        stat.f_fsid,
    ] {
        out.u64(value);
    }
    let flags = stat.f_flag;
    let mut shown = 0;
    if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        shown |= READ_ONLY;
    }
    if flags.contains(rustix::fs::StatVfsMountFlags::NOSUID) {
        shown |= NO_SETUID;
    }
    out.u64(shown);
    out.u64(stat.f_namemax);
}

/// The absolute form of a path whose last part need not exist.
fn real_path(id: u32, path: &Path, out: &mut Writer) {
    let whole = fs::canonicalize(path).ok();
    let by_parent = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or_else(|| Path::new("."))).ok()?;
        Some(parent.join(path.file_name()?))
    };
    let shown = whole.or_else(by_parent).or_else(|| std::path::absolute(path).ok());
    name(id, shown.as_deref().unwrap_or(path).as_os_str().as_bytes(), out);
}

/// `~` and `~/…` are the home; other users' homes are not looked up.
fn expand(path: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(rest) => {
            let home = std::env::var_os("HOME").unwrap_or_else(|| OsString::from("/"));
            let mut joined = home.into_vec();
            joined.push(b'/');
            joined.extend_from_slice(rest.as_os_str().as_bytes());
            PathBuf::from(OsString::from_vec(joined))
        }
        Err(_) => path.to_path_buf(),
    }
}

/// Renames only to a name that is free, as the protocol's own rename does.
fn rename_fresh(from: &Path, to: &Path) -> Answer {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(Refusal::Io(io::ErrorKind::AlreadyExists.into()));
            }
            Ok(fs::rename(from, to)?)
        }
        done => Ok(done?),
    }
}

fn set_path(path: &Path, wanted: Attributes, flags: AtFlags) -> Answer {
    let follows = flags.is_empty();
    if let Some(size) = wanted.size {
        OpenOptions::new().write(true).open(path)?.set_len(size)?;
    }
    if let (Some(mode), true) = (wanted.permissions, follows) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    if let Some(times) = wanted.times {
        rustix::fs::utimensat(CWD, path, &timestamps(times), flags)?;
    }
    if let Some((user, group)) = wanted.owner {
        if follows {
            std::os::unix::fs::chown(path, Some(user), Some(group))?;
        } else {
            std::os::unix::fs::lchown(path, Some(user), Some(group))?;
        }
    }
    Ok(())
}

fn set_file(file: &File, wanted: Attributes) -> Answer {
    if let Some(size) = wanted.size {
        file.set_len(size)?;
    }
    if let Some(mode) = wanted.permissions {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    if let Some(times) = wanted.times {
        rustix::fs::futimens(file, &timestamps(times))?;
    }
    if let Some((user, group)) = wanted.owner {
        std::os::unix::fs::fchown(file, Some(user), Some(group))?;
    }
    Ok(())
}

fn timestamps((access, modified): (u32, u32)) -> Timestamps {
    let at = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    Timestamps { last_access: at(access), last_modification: at(modified) }
}

pub(super) mod request {
    pub(in crate::sftp) const INIT: u8 = 1;
    pub(in crate::sftp) const OPEN: u8 = 3;
    pub(in crate::sftp) const CLOSE: u8 = 4;
    pub(in crate::sftp) const READ: u8 = 5;
    pub(in crate::sftp) const WRITE: u8 = 6;
    pub(in crate::sftp) const LSTAT: u8 = 7;
    pub(in crate::sftp) const FSTAT: u8 = 8;
    pub(in crate::sftp) const SETSTAT: u8 = 9;
    pub(in crate::sftp) const FSETSTAT: u8 = 10;
    pub(in crate::sftp) const OPENDIR: u8 = 11;
    pub(in crate::sftp) const READDIR: u8 = 12;
    pub(in crate::sftp) const REMOVE: u8 = 13;
    pub(in crate::sftp) const MKDIR: u8 = 14;
    pub(in crate::sftp) const RMDIR: u8 = 15;
    pub(in crate::sftp) const REALPATH: u8 = 16;
    pub(in crate::sftp) const STAT: u8 = 17;
    pub(in crate::sftp) const RENAME: u8 = 18;
    pub(in crate::sftp) const READLINK: u8 = 19;
    pub(in crate::sftp) const SYMLINK: u8 = 20;
    pub(in crate::sftp) const EXTENDED: u8 = 200;
}

pub(super) mod reply {
    pub(in crate::sftp) const VERSION: u8 = 2;
    pub(in crate::sftp) const STATUS: u8 = 101;
    pub(in crate::sftp) const HANDLE: u8 = 102;
    pub(in crate::sftp) const DATA: u8 = 103;
    pub(in crate::sftp) const NAME: u8 = 104;
    pub(in crate::sftp) const ATTRS: u8 = 105;
    pub(in crate::sftp) const EXTENDED: u8 = 201;
}
