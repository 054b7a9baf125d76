//! Amounts as people write them: decimal coins, exactly.

use nicompute_market::Rao;

/// Rao of one coin.
const RAO_PER_COIN: u64 = 1_000_000_000;
/// Digits behind the point.
const DIGITS: usize = 9;

/// Reads decimal coins such as `1.5`. No sign, no exponent, and no more digits than there are rao.
pub(crate) fn parse_coins(text: &str) -> Result<Rao, String> {
    const WANTED: &str =
        "expected coins such as 12 or 0.75, with at most nine digits behind the point";
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_part = text.contains('.');
    let part_fits = if has_part { (1..=DIGITS).contains(&part.len()) } else { part.is_empty() };
    if whole.is_empty() || !digits(whole) || !digits(part) || !part_fits {
        return Err(WANTED.to_owned());
    }
    let too_much = || "more coins than there can be".to_owned();
    let whole: u64 = whole.parse().map_err(|_| too_much())?;
    let part: u64 = format!("{part:0<DIGITS$}").parse().map_err(|_| WANTED.to_owned())?;
    let rao = whole.checked_mul(RAO_PER_COIN).and_then(|rao| rao.checked_add(part));
    rao.map(Rao).ok_or_else(too_much)
}

/// An amount that is not nothing.
pub(crate) fn parse_amount(text: &str) -> Result<Rao, String> {
    match parse_coins(text)? {
        Rao(0) => Err("expected more than nothing".to_owned()),
        amount => Ok(amount),
    }
}

/// Rao as decimal coins, with no more digits than needed.
pub(crate) fn coins(amount: Rao) -> String {
    let (whole, part) = (amount.get() / RAO_PER_COIN, amount.get() % RAO_PER_COIN);
    let text = format!("{whole}.{part:0DIGITS$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An amount that is read wrongly is money lost: the digits are the rao, or there is an error.
    #[test]
    fn coins_are_exact() {
        for (text, rao) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("0.000000001", 1),
            ("1.5", 1_500_000_000),
            ("00012.750", 12_750_000_000),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(parse_coins(text), Ok(Rao(rao)), "{text}");
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e9",
            "1,5",
            "1_000",
            " 1",
            "1 ",
            "0x1",
            "1.0000000001",
            "1.2.3",
            "NaN",
            "inf",
            "\u{661}",
            "18446744073.709551616",
            "99999999999999999999",
        ] {
            assert!(parse_coins(bad).is_err(), "{bad:?}");
        }
        assert!(parse_amount("0").is_err() && parse_amount("0.0").is_err());
        assert_eq!(coins(Rao(0)), "0");
        assert_eq!(coins(Rao(1_500_000_000)), "1.5");
        assert_eq!(coins(Rao(10)), "0.00000001");
    }

    proptest! {
        /// What is shown and typed again must be the same amount.
        #[test]
        fn shown_coins_are_read_back(rao in any::<u64>()) {
            prop_assert_eq!(parse_coins(&coins(Rao(rao))), Ok(Rao(rao)));
        }
    }
}
