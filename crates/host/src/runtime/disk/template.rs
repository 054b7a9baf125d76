//! Formatted disks that were never mounted, one for each size, to be copied: making a file system takes longer than copying
//! the little that it writes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Sizes that are kept. A node has few offers, and a template a few megabytes at most.
const TEMPLATES_MAX: usize = 8;
/// What a template that is being written is called.
const NEW: &str = "new-";
/// What a whole one is called, before its size; another way of formatting needs another name.
const WHOLE: &str = "ext4-1-";
const COPY_LEN_MAX: u64 = 1 << 20;

/// The place of one template.
#[derive(Debug)]
pub(super) struct Template {
    folder: PathBuf,
    bytes: u64,
}

impl Template {
    pub(super) fn new(folder: &Path, bytes: u64) -> Self {
        Self { folder: folder.to_owned(), bytes }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{WHOLE}{}", self.bytes))
    }

    /// Copies the template, where there is one.
    pub(super) fn copy_to(&self, file: &File) -> io::Result<()> {
        let mut options = File::options();
        let template = options.read(true).custom_flags(libc::O_NOFOLLOW).open(self.path())?;
        let data = template.metadata()?;
        if !data.is_file() || data.len() != self.bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        copy(&template, file, self.bytes)
    }

    /// Keeps a copy of a formatted disk.
    pub(super) fn keep(&self, formatted: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.make_room()?;
        let new = self.folder.join(format!("{NEW}{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&new)?;
        copy(&File::open(formatted)?, &file, self.bytes)?;
        file.sync_all()?;
        fs::rename(new, self.path())
    }

    /// Removes what was left half-written, and the oldest of too many.
    fn make_room(&self) -> io::Result<()> {
        let mut whole = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(NEW) {
                fs::remove_file(entry.path())?;
            } else {
                whole.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        whole.sort();
        let surplus = (whole.len() + 1).saturating_sub(TEMPLATES_MAX);
        whole.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

/// Copies what is in a file with holes, and the holes as such.
fn copy(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(bytes)?;
    let mut at = 0;
    while at < bytes {
        let start = match seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(()),
            start => start?,
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        let (mut read, mut written) = (start, start);
        while read < end {
            let len = usize::try_from((end - read).min(COPY_LEN_MAX)).map_err(io::Error::other)?;
            if copy_file_range(from, Some(&mut read), to, Some(&mut written), len)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    /// A copy would lack a part of the file system, or take the whole size on the provider's disk.
    #[test]
    fn holes_stay_holes() {
        let dir = tempfile::tempdir().expect("dir");
        let formatted = dir.path().join("formatted");
        let file = File::create_new(&formatted).expect("make");
        let bytes = 64_u64 << 20;
        file.set_len(bytes).expect("size");
        for at in [0, 5 << 20, bytes - 4_096] {
            file.write_all_at(&[7; 4_096], at).expect("write");
        }
        let template = Template::new(&dir.path().join("templates"), bytes);
        let copied = dir.path().join("copied");
        let copy = File::create_new(&copied).expect("make");
        assert!(template.copy_to(&copy).is_err(), "there is none yet");
        template.keep(&formatted).expect("keep");
        template.copy_to(&copy).expect("copy");
        assert_eq!(fs::read(&copied).expect("read"), fs::read(&formatted).expect("read"));
        let taken = fs::metadata(&copied).expect("metadata").blocks() * 512;
        assert!(taken < 1 << 20, "{taken}");
    }

    /// Templates of many sizes would fill the provider's disk, or what a killed node left half-written be copied.
    #[test]
    fn there_are_few_templates() {
        let dir = tempfile::tempdir().expect("dir");
        let (formatted, folder) = (dir.path().join("formatted"), dir.path().join("templates"));
        fs::create_dir(&folder).expect("mkdir");
        fs::write(folder.join(format!("{NEW}1")), "half").expect("write");
        for bytes in 1..=20_u64 {
            fs::write(&formatted, vec![7; usize::try_from(bytes).expect("small")]).expect("write");
            Template::new(&folder, bytes).keep(&formatted).expect("keep");
        }
        assert_eq!(fs::read_dir(&folder).expect("list").count(), TEMPLATES_MAX);
        // One whose size is not its name's is no template.
        fs::write(folder.join(format!("{WHOLE}99")), "short").expect("write");
        let copied = File::create_new(dir.path().join("copied")).expect("make");
        assert!(Template::new(&folder, 99).copy_to(&copied).is_err());
    }
}
