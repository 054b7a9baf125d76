//! Which ids of this machine a container's users have. No two leases of one node share theirs, so that what the kernel counts
//! by user (watches, message queues, keys) is counted by lease.
//!
//! A lease keeps its ids for life, since the files on its disk belong to them: they are written down before anything is made.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nicompute_market::LeaseId;

/// The file of a lease's directory that names its first id.
pub(super) const FILE: &str = "sandbox.ids";
const FILE_NEW: &str = "sandbox.ids.new";
/// Ids of one container.
pub(super) const IDS: u32 = 65_536;
/// Ids of this machine from which containers get theirs: above those that container managers take, below 2^31.
const FIRST: u32 = 1_000_000_000;
/// How many containers' ids fit.
const SLOTS: u32 = 17_000;
/// A number of ten digits and a line end.
const FILE_BYTES_MAX: u64 = 16;

/// The first id of the lease's container: the one it has, or a new one that no other lease beside it has.
pub(super) fn claim(dir: &Path, lease: LeaseId) -> io::Result<u32> {
    if let Some(first) = read(dir)? {
        return Ok(first);
    }
    // Held until the choice is written down: another helper's choice comes before or after all of it.
    let _turn = lock_beside(dir)?;
    let bytes = lease.as_bytes();
    let drawn = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % SLOTS;
    let first = free(&taken_beside(dir)?, drawn)
        .ok_or_else(|| io::Error::other("every id of this machine belongs to some lease"))?;
    let new = dir.join(FILE_NEW);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{first}")?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    Ok(first)
}

fn free(taken: &HashSet<u32>, drawn: u32) -> Option<u32> {
    let slots = (drawn..SLOTS).chain(0..drawn);
    slots.map(|slot| FIRST + slot * IDS).find(|first| !taken.contains(first))
}

fn lock_beside(dir: &Path) -> io::Result<Option<fs::File>> {
    let Some(leases) = dir.parent() else { return Ok(None) };
    // The folder itself is locked: a file for it would lie among the leases.
    let folder = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let file = fs::OpenOptions::new().read(true).custom_flags(folder).open(leases)?;
    file.lock()?;
    Ok(Some(file))
}

fn taken_beside(dir: &Path) -> io::Result<HashSet<u32>> {
    let mut taken = HashSet::new();
    let Some(leases) = dir.parent() else { return Ok(taken) };
    for entry in fs::read_dir(leases)? {
        // A damaged file of another lease is that lease's trouble.
        taken.extend(read(&entry?.path()).ok().flatten());
    }
    Ok(taken)
}

fn read(dir: &Path) -> io::Result<Option<u32>> {
    let file = match fs::File::open(dir.join(FILE)) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        file => file?,
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let first: u32 = text.trim().parse().map_err(io::Error::other)?;
    let fits =
        first >= FIRST && (first - FIRST).is_multiple_of(IDS) && (first - FIRST) / IDS < SLOTS;
    if fits { Ok(Some(first)) } else { Err(io::Error::other("not the first id of a container")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tenants would share what the kernel counts by user, and one could use it up for the other.
    #[test]
    fn no_two_leases_share_ids() {
        let leases = tempfile::tempdir().expect("dir");
        let mut seen = HashSet::new();
        for number in 0..50_u8 {
            let lease = LeaseId::from_random_bytes([number % 3; 16]);
            let dir = leases.path().join(number.to_string());
            fs::create_dir(&dir).expect("mkdir");
            let first = claim(&dir, lease).expect("claim");
            assert!(seen.insert(first), "{first} twice");
            assert_eq!(claim(&dir, lease).expect("again"), first, "for life");
        }
        let end = u64::from(FIRST) + u64::from(SLOTS) * u64::from(IDS);
        assert!(end < 1 << 31, "some programs read ids as signed numbers");
    }

    /// Two tenants whose containers are made at the same moment would share their users.
    #[test]
    fn claims_at_the_same_moment_differ() {
        let leases = tempfile::tempdir().expect("dir");
        let lease = LeaseId::from_random_bytes([7; 16]);
        let begin = std::sync::Barrier::new(16);
        let claimed: HashSet<u32> = std::thread::scope(|scope| {
            let claims = (0..16).map(|number| {
                let dir = leases.path().join(number.to_string());
                fs::create_dir(&dir).expect("mkdir");
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    claim(&dir, lease).expect("claim")
                })
            });
            let claims: Vec<_> = claims.collect();
            claims.into_iter().map(|claim| claim.join().expect("thread")).collect()
        });
        assert_eq!(claimed.len(), 16, "{claimed:?}");
        let all: HashSet<u32> = (0..SLOTS).map(|slot| FIRST + slot * IDS).collect();
        assert_eq!(free(&all, 5), None, "shared in silence");
    }

    /// A damaged file would give a container the machine's own users.
    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let lease = LeaseId::from_random_bytes([1; 16]);
        for text in ["", "0", "x", "1000000001", "4294967296", "-1"] {
            fs::write(dir.path().join(FILE), text).expect("write");
            assert!(claim(dir.path(), lease).is_err(), "{text:?}");
        }
    }
}
