//! Room for unpacked images: those that nobody needs go, the longest unused first, until the others keep to their limit.
//!
//! An image is first renamed to what a half-unpacked one is called, so that no node that is killed meanwhile leaves half an
//! image under a whole one's name: the next start removes it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ENTRIES_MAX, ImageError, NEW, WHOLE};

/// The file of an image whose time tells when it was used last.
const USED: &str = "used";
/// The file that tells what the image takes, so that it is counted once.
const BYTES: &str = "bytes";
/// Images of one store that are looked at.
const IMAGES_MAX: usize = 10_000;

/// What unpacked images may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Room {
    /// All of them together.
    pub(in super::super) bytes_max: u64,
    /// What must stay free on their disk.
    pub(in super::super) free_bytes_min: u64,
}

struct Stored {
    dir: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Notes that the image was used now. Where that cannot be written, it only goes earlier.
pub(super) fn mark_used(dir: &Path) {
    drop(File::create(dir.join(USED)));
}

/// Removes images until the rest has its room, and returns those that were removed. Those that are needed stay, however
/// much they take.
pub(in super::super) fn make_room(
    store: &Path,
    needed: &HashSet<PathBuf>,
    room: Room,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut images = stored(store)?;
    images.sort_by(|a, b| (a.used, &a.dir).cmp(&(b.used, &b.dir)));
    let mut bytes = images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.bytes));
    let mut removed = Vec::new();
    for image in images.into_iter().filter(|image| !needed.contains(&image.dir)) {
        if bytes <= room.bytes_max && free_bytes(store)? >= room.free_bytes_min {
            break;
        }
        remove(store, &image.dir)?;
        bytes = bytes.saturating_sub(image.bytes);
        removed.push(image.dir);
    }
    Ok(removed)
}

fn remove(store: &Path, dir: &Path) -> Result<(), ImageError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let doomed = store.join(format!("{NEW}gone-{name}"));
    fs::rename(dir, &doomed).map_err(failed("rename", dir))?;
    fs::remove_dir_all(&doomed).map_err(failed("remove", &doomed))
}

fn stored(store: &Path) -> Result<Vec<Stored>, ImageError> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", store))?,
    };
    let mut images = Vec::new();
    for entry in entries.take(IMAGES_MAX) {
        let entry = entry.map_err(failed("read", store))?;
        if entry.file_name().to_string_lossy().starts_with(WHOLE) {
            let dir = entry.path();
            let looked = look(&dir).map_err(failed("look at", &dir))?;
            images.push(Stored { dir, bytes: looked.0, used: looked.1 });
        }
    }
    Ok(images)
}

/// What the image takes, and when it was used last.
fn look(dir: &Path) -> io::Result<(u64, SystemTime)> {
    let time = |path: &Path| fs::symlink_metadata(path)?.modified();
    let used = time(&dir.join(USED)).or_else(|_| time(dir))?;
    let file = dir.join(BYTES);
    let known = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(bytes) = known {
        return Ok((bytes, used));
    }
    let bytes = count(dir)?;
    // Counted again where it cannot be written, or was torn.
    drop(fs::write(&file, bytes.to_string()));
    Ok((bytes, used))
}

/// Bytes on the disk, without following a link.
fn count(dir: &Path) -> io::Result<u64> {
    let (mut bytes, mut left, mut entries) = (0_u64, vec![dir.to_owned()], 0_u64);
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder)? {
            entries += 1;
            if entries > ENTRIES_MAX.saturating_mul(2) {
                return Ok(bytes);
            }
            let entry = entry?;
            let data = entry.metadata()?;
            bytes = bytes.saturating_add(data.blocks().saturating_mul(512));
            if data.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

fn free_bytes(store: &Path) -> Result<u64, ImageError> {
    let disk = rustix::fs::statvfs(store).map_err(io::Error::from).map_err(failed("ask", store))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn failed(act: &'static str, path: &Path) -> impl Fn(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::Store { act, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A store of images of one mebibyte each, the first used the longest time ago.
    fn store(names: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let store = tempfile::tempdir().expect("dir");
        let mut dirs = Vec::new();
        for (age, name) in (0_u64..).zip(names) {
            let dir = store.path().join(format!("{WHOLE}{name}"));
            fs::create_dir_all(dir.join("rootfs/bin")).expect("mkdir");
            fs::write(dir.join("rootfs/bin/file"), vec![1; 1 << 20]).expect("write");
            mark_used(&dir);
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + age);
            let file = File::options().write(true).open(dir.join(USED)).expect("open");
            file.set_modified(used).expect("time");
            dirs.push(dir);
        }
        (store, dirs)
    }

    fn names(dirs: &[PathBuf]) -> Vec<String> {
        dirs.iter()
            .map(|dir| dir.to_string_lossy().rsplit('-').next().unwrap().to_owned())
            .collect()
    }

    /// Images of former configurations would fill the provider's disk for ever, or one in use be taken from its tenant.
    #[test]
    fn the_longest_unused_goes_first_and_nothing_that_is_needed() {
        let (store, dirs) = store(&["a", "b", "c", "d"]);
        let needed = HashSet::from([dirs[0].clone(), dirs[2].clone()]);
        let room = |mib: u64| Room { bytes_max: mib * MIB + MIB / 2, free_bytes_min: 0 };
        let made = |mib| names(&make_room(store.path(), &needed, room(mib)).expect("room"));
        assert_eq!(made(4), [""; 0], "there is room");
        assert_eq!(made(3), ["b"]);
        assert_eq!(made(3), [""; 0]);
        assert_eq!(made(0), ["d"], "the others are needed");
        assert!(dirs[0].join("rootfs/bin/file").exists() && dirs[2].join("rootfs").exists());
        assert_eq!(fs::read_dir(store.path()).expect("list").count(), 2, "nothing else is left");
        let nowhere = make_room(&store.path().join("none"), &needed, room(0)).expect("no store");
        assert_eq!(names(&nowhere), [""; 0]);
    }

    /// A disk that others have filled would keep images that nobody needs.
    #[test]
    fn room_is_made_when_the_disk_is_full() {
        let (store, dirs) = store(&["a", "b"]);
        let needed = HashSet::from([dirs[1].clone()]);
        let full = Room { bytes_max: u64::MAX, free_bytes_min: u64::MAX };
        assert_eq!(names(&make_room(store.path(), &needed, full).expect("room")), ["a"]);
    }

    /// A node killed while it removes an image would offer the half that is left.
    #[test]
    fn what_was_half_removed_is_swept() {
        let (store, dirs) = store(&["a"]);
        let doomed = store.path().join(format!("{NEW}gone-{WHOLE}a"));
        fs::rename(&dirs[0], &doomed).expect("rename");
        super::super::sweep(store.path()).expect("sweep");
        assert_eq!(fs::read_dir(store.path()).expect("list").count(), 0);
    }

    /// A link in an image would make the machine's own files count as the image's.
    #[test]
    fn links_are_not_followed() {
        let (_store, dirs) = store(&["a"]);
        std::os::unix::fs::symlink("/", dirs[0].join("rootfs/all")).expect("link");
        let bytes = look(&dirs[0]).expect("look").0;
        assert!((MIB..2 * MIB).contains(&bytes), "{bytes}");
        fs::write(dirs[0].join(BYTES), "not a number").expect("write");
        assert_eq!(look(&dirs[0]).expect("look").0 / MIB, 1, "counted again");
    }
}
