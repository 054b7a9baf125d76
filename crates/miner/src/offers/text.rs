//! Amounts and times as people write them.

use nicompute_market::UnixMillis;
use toml::value::{Datetime, Offset};

/// Bytes such as `64 GiB`, `500MB` or `1048576`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Milliseconds such as `90m`, `12h` or `31d`.
pub(super) fn millis(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A moment with date, time and zone.
pub(super) fn moment(text: &Datetime) -> Option<UnixMillis> {
    let (date, time, offset) = (text.date?, text.time?, text.offset?);
    let minutes_east = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_1970(date.year.into(), date.month.into(), date.day.into());
    let in_day =
        i64::from(time.hour) * 3_600 + i64::from(time.minute) * 60 + i64::from(time.second);
    let seconds = days * 86_400 + in_day - minutes_east * 60;
    u64::try_from(seconds).ok()?.checked_mul(1_000).map(UnixMillis)
}

/// Days of the Gregorian calendar, counted by years that begin in March so that the leap day is the last one.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let in_era = year.rem_euclid(400);
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = in_era * 365 + in_era / 4 - in_era / 100 + day_of_year;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An amount that is read wrongly is sold wrongly.
    #[test]
    fn amounts_have_units() {
        assert_eq!(bytes("64 GiB"), Some(64 << 30));
        assert_eq!((bytes("500MB"), bytes("7")), (Some(500_000_000), Some(7)));
        for bad in ["", "GiB", "1.5 GiB", "-1", "1 gib", "99999999999 TiB", "1 GiB x"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!((millis("90m"), millis("31d")), (Some(5_400_000), Some(2_678_400_000)));
        for bad in ["", "90", "m", "1.5h", "-1h", "99999999999999999d"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }

    /// A maintenance that begins an hour off finds tenants on the machine.
    #[test]
    fn moments_are_read_in_their_zone() {
        let read = |text: &str| moment(&text.parse().unwrap()).map(UnixMillis::get);
        assert_eq!(read("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2024-02-29T12:00:00Z"), Some(1_709_208_000_000));
        assert_eq!(read("2024-02-29T12:00:00+02:00"), Some(1_709_200_800_000));
        assert_eq!(read("2100-03-01T00:00:00Z"), Some(4_107_542_400_000));
        assert_eq!(read("2024-02-29T12:00:00"), None, "without a zone");
        assert_eq!(read("2024-02-29"), None);
        assert_eq!(read("1969-12-31T23:59:59Z"), None);
    }
}
