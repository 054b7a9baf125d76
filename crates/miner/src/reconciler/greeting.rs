//! What a renter reads when he logs in: what the lease has and when it ends.

use nicompute_market::{Lease, UnixMillis};

const GIB: u64 = 1 << 30;
const DAY_SECONDS: u64 = 86_400;

/// Two lines.
pub(super) fn greeting(lease: &Lease) -> String {
    let share = &lease.terms.share;
    let gpus = match share.gpus.len() {
        0 => "no GPU".to_owned(),
        1 => "1 GPU".to_owned(),
        count => format!("{count} GPUs"),
    };
    format!(
        "lease {}: {gpus}, {} cores, {} GiB of memory, {} GiB of disk\nIt ends at {} UTC; what is here is removed then.",
        lease.terms.id.short(),
        share.cores_milli / 1000,
        share.memory_bytes / GIB,
        share.disk_bytes / GIB,
        date_and_minute(lease.expires_at),
    )
}

/// `2026-11-22 21:30`, in the calendar that everybody has.
fn date_and_minute(at: UnixMillis) -> String {
    let seconds = at.0 / 1000;
    let (mut days, second) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let mut year = 1970_u64;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // Four centuries have the same number of days each time: a far date is no long loop.
    let era_days = 146_097;
    year += days / era_days * 400;
    days %= era_days;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02}", days + 1, second / 3600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A renter who is told another end than the lease's loses his work or his money.
    #[test]
    fn ends_are_told_in_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_709_251_199, "2024-02-29 23:59"),
            (1_795_382_940, "2026-11-22 21:29"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(date_and_minute(UnixMillis(seconds * 1000)), text);
        }
        assert!(date_and_minute(UnixMillis(u64::MAX)).len() > 16, "the last moment ends too");
    }
}
