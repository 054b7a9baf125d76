//! A file's attributes as the protocol carries them, and the line that `ls -l` shows.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use super::packet::{Reader, Writer};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;
/// The most extended pairs that are skipped; nobody sends any.
const EXTENDED_MAX: u32 = 64;

/// What a client wants changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Access and modification, in seconds.
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let flags = reader.u32()?;
        let mut read = Self::default();
        if flags & SIZE != 0 {
            read.size = Some(reader.u64()?);
        }
        if flags & OWNER != 0 {
            read.owner = Some((reader.u32()?, reader.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            read.permissions = Some(reader.u32()? & 0o7777);
        }
        if flags & TIMES != 0 {
            read.times = Some((reader.u32()?, reader.u32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..reader.u32()?.min(EXTENDED_MAX) {
                reader.bytes()?;
                reader.bytes()?;
            }
        }
        Some(read)
    }
}

/// Writes what is known of a file.
pub(super) fn write_metadata(meta: &Metadata, out: &mut Writer) {
    out.u32(SIZE | OWNER | PERMISSIONS | TIMES);
    out.u64(meta.size());
    out.u32(meta.uid());
    out.u32(meta.gid());
    out.u32(meta.mode());
    out.u32(seconds(meta.atime()));
    out.u32(seconds(meta.mtime()));
}

/// Writes that nothing is known.
pub(super) fn write_nothing(out: &mut Writer) {
    out.u32(0);
}

fn seconds(since_epoch: i64) -> u32 {
    u32::try_from(since_epoch.max(0)).unwrap_or(u32::MAX)
}

/// The line of a long listing.
pub(super) fn long_line(name: &OsStr, meta: &Metadata) -> Vec<u8> {
    let head = format!(
        "{} {:>4} {:<8} {:<8} {:>8} {} ",
        mode_text(meta.mode()),
        meta.nlink(),
        meta.uid(),
        meta.gid(),
        meta.size(),
        date_text(meta.mtime()),
    );
    let mut line = head.into_bytes();
    line.extend_from_slice(name.as_bytes());
    line
}

fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let special = |plain: char, with: char, without: char, bit: u32, exec: u32| match (
        mode & bit != 0,
        mode & exec != 0,
    ) {
        (false, false) => '-',
        (false, true) => plain,
        (true, true) => with,
        (true, false) => without,
    };
    let rw = |shift: u32| {
        let bits = mode >> shift;
        [if bits & 4 != 0 { 'r' } else { '-' }, if bits & 2 != 0 { 'w' } else { '-' }]
    };
    let mut text = String::from(kind);
    text.extend(rw(6));
    text.push(special('x', 's', 'S', 0o4000, 0o100));
    text.extend(rw(3));
    text.push(special('x', 's', 'S', 0o2000, 0o010));
    text.extend(rw(0));
    text.push(special('x', 't', 'T', 0o1000, 0o001));
    text
}

/// Month, day and year in UTC; the days of the Gregorian calendar counted from a March.
fn date_text(seconds: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + era * 400 + i64::from(month >= 10);
    let name = usize::try_from(month).ok().and_then(|month| MONTHS.get(month)).unwrap_or(&"???");
    format!("{name} {day:>2} {year:>5}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listing with wrong dates or modes is what a renter decides by when he deletes.
    #[test]
    fn listings_read_as_ls_writes_them() {
        assert_eq!(date_text(0), "Jan  1  1970");
        assert_eq!(date_text(951_782_400), "Feb 29  2000");
        assert_eq!(date_text(1_795_305_600), "Nov 22  2026");
        assert_eq!(mode_text(0o100_644), "-rw-r--r--");
        assert_eq!(mode_text(0o041_777), "drwxrwxrwt");
        assert_eq!(mode_text(0o104_755), "-rwsr-xr-x");
    }
}
