//! The disk under the state directory: how much is free, and how fast it is past the kernel's cache.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nicompute_daemon::{Clock as _, SystemClock};
use rustix::fs::{Mode, OFlags};

use super::finding::Finding;

/// Free space below which images and tenants do not fit.
const FREE_BYTES_LOW: u64 = 100 << 30;
const FREE_BYTES_MIN: u64 = 10 << 30;
/// What is written and read back at most, and how long.
const TEST_BYTES: u64 = 256 << 20;
const TEST_LIMIT: Duration = Duration::from_secs(5);
/// One write. A multiple of every block size.
const BLOCK_LEN: usize = 4 << 20;
/// Addresses that direct writes are taken from.
const ALIGNMENT: usize = 4_096;
/// A disk below this holds up every image and every checkpoint of a tenant.
const SLOW_BYTES_PER_SECOND: u64 = 200 << 20;

/// What a run over the disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Speed {
    write_bytes_per_second: u64,
    read_bytes_per_second: u64,
    is_direct: bool,
}

pub(super) async fn findings(state_dir: &Path) -> Vec<Finding> {
    let dir = existing(state_dir);
    let mut findings = vec![free(&dir), permissions(state_dir)];
    let tried = tokio::task::spawn_blocking(move || measure(&dir)).await;
    findings.push(match tried {
        Ok(Ok(speed)) => of_speed(speed),
        Ok(Err(error)) => {
            Finding::error("disk.speed", format!("the disk cannot be written: {error}"))
                .remedy("choose another folder with --state-dir, or mend the file system")
        }
        Err(_) => Finding::error("disk.speed", "the test of the disk broke off"),
    });
    findings
}

/// The folder itself, or the nearest one above it that exists.
fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or_else(|| Path::new("/")).to_owned()
}

fn free(dir: &Path) -> Finding {
    const CHECK: &str = "disk.free";
    let Ok(stat) = rustix::fs::statvfs(dir) else {
        return Finding::error(CHECK, format!("{} has no file system that tells", dir.display()));
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let what = format!("{} GiB free under {}", free >> 30, dir.display());
    let remedy = "free some, or move --state-dir to a larger disk";
    match free {
        _ if free < FREE_BYTES_MIN => Finding::error(CHECK, what).remedy(remedy),
        _ if free < FREE_BYTES_LOW => Finding::warning(CHECK, what).remedy(remedy),
        _ => Finding::ok(CHECK, what),
    }
}

fn permissions(dir: &Path) -> Finding {
    use std::os::unix::fs::MetadataExt as _;
    const CHECK: &str = "disk.state";
    let Ok(meta) = fs::metadata(dir) else {
        return Finding::ok(CHECK, format!("{} will be made", dir.display()));
    };
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Finding::error(CHECK, format!("{} belongs to another user", dir.display()))
            .remedy("start the node as that user, or give it another --state-dir");
    }
    if meta.mode() & 0o077 != 0 {
        return Finding::warning(CHECK, format!("{} is open to other users", dir.display()))
            .remedy(format!("chmod 700 {}", dir.display()));
    }
    Finding::ok(CHECK, format!("{} is private", dir.display()))
}

fn of_speed(speed: Speed) -> Finding {
    const CHECK: &str = "disk.speed";
    let Speed { write_bytes_per_second: write, read_bytes_per_second: read, is_direct } = speed;
    let how = if is_direct { "past the cache" } else { "through the cache, which flatters" };
    let what = format!("{} MiB/s written, {} MiB/s read, {how}", write >> 20, read >> 20);
    if write.min(read) < SLOW_BYTES_PER_SECOND {
        return Finding::warning(CHECK, what)
            .remedy("put --state-dir and the engine's data on an SSD");
    }
    Finding::ok(CHECK, what)
}

/// Writes a file without a name and reads it back: it is gone when this ends, however it ends.
fn measure(dir: &Path) -> std::io::Result<Speed> {
    let (file, is_direct) = nameless(dir)?;
    let clock = SystemClock::new();
    let mut memory = vec![0x5a_u8; BLOCK_LEN + ALIGNMENT];
    let block = aligned(&mut memory);
    let begun = clock.monotonic();
    let mut written = 0_u64;
    while written < TEST_BYTES && clock.monotonic().saturating_sub(begun) < TEST_LIMIT {
        let count = rustix::io::pwrite(file.as_fd(), block, written)?;
        if count == 0 {
            break;
        }
        written = written.saturating_add(u64::try_from(count).unwrap_or(0));
    }
    rustix::fs::fdatasync(file.as_fd())?;
    let write = per_second(written, clock.monotonic().saturating_sub(begun));
    let begun = clock.monotonic();
    let mut done = 0_u64;
    while done < written && clock.monotonic().saturating_sub(begun) < TEST_LIMIT {
        let count = rustix::io::pread(file.as_fd(), &mut *block, done)?;
        if count == 0 {
            break;
        }
        done = done.saturating_add(u64::try_from(count).unwrap_or(0));
    }
    let read = per_second(done, clock.monotonic().saturating_sub(begun));
    Ok(Speed { write_bytes_per_second: write, read_bytes_per_second: read, is_direct })
}

fn nameless(dir: &Path) -> std::io::Result<(File, bool)> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = |fd: OwnedFd| File::from(fd);
    if let Ok(fd) = rustix::fs::open(dir, flags | OFlags::DIRECT, mode) {
        return Ok((file(fd), true));
    }
    // Memory file systems take no direct writes.
    Ok((file(rustix::fs::open(dir, flags, mode)?), false))
}

/// The part of a buffer that begins where direct writes may begin.
fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let offset = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    &mut memory[offset..offset + BLOCK_LEN]
}

fn per_second(bytes: u64, span: Duration) -> u64 {
    let nanos = span.as_nanos().max(1);
    let rate = u128::from(bytes).saturating_mul(1_000_000_000) / nanos;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    /// A test that fills the disk, or leaves its file, does harm where it should help.
    #[test]
    fn the_disk_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let speed = measure(dir.path()).unwrap();
        assert!(speed.write_bytes_per_second > 0 && speed.read_bytes_per_second > 0, "{speed:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(per_second(100, Duration::from_secs(2)), 50);
        assert_eq!(existing(&dir.path().join("none/at/all")), dir.path());
    }

    /// A state directory that others can read shows every lease and key.
    #[test]
    fn the_state_directory_must_be_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let set = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        assert_eq!(permissions(dir.path()).level, Level::Ok);
        set(0o755);
        assert_eq!(permissions(dir.path()).level, Level::Warning);
        assert_eq!(permissions(&dir.path().join("none")).level, Level::Ok);
        let slow =
            Speed { write_bytes_per_second: 1, read_bytes_per_second: 1 << 40, is_direct: true };
        assert_eq!(of_speed(slow).level, Level::Warning);
    }
}
