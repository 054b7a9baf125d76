//! Signed fixed point with 32 integer and 32 fraction bits, as the chain's epoch counts in.
//!
//! Owns the number alone: sums and differences saturate, a product rounds down, a quotient is cut off and is zero where the
//! divisor is. Never a float, so that every machine computes the same epoch.

/// Fraction bits.
const FRACTION: u32 = 32;
/// Fraction bits of the finer number in which the exponential is summed.
const EXP_FRACTION: u32 = 60;
/// ln 2 with [`EXP_FRACTION`] fraction bits.
const LN_2: i128 = 799_144_290_325_165_978;
/// Terms of the exponential's series: the remainder is below 2^-60 for an argument below ln 2.
const EXP_TERMS: i128 = 20;

/// A number of 32 integer bits, with its sign, and 32 fraction bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Fixed(i64);

impl Fixed {
    pub(crate) const ZERO: Self = Self(0);
    pub(crate) const ONE: Self = Self(1 << FRACTION);
    pub(crate) const HALF: Self = Self(1 << (FRACTION - 1));
    /// The largest proportion of the chain's storage, 65535, as a number.
    pub(crate) const U16_MAX: Self = Self(0xffff << FRACTION);

    /// A whole number.
    pub(crate) fn whole(value: u16) -> Self {
        Self(i64::from(value) << FRACTION)
    }

    /// `numerator / denominator` cut off at 32 fraction bits; zero where the denominator is.
    pub(crate) fn ratio(numerator: u128, denominator: u128) -> Self {
        let whole = numerator.checked_div(denominator).unwrap_or(0);
        let rest = numerator.checked_rem(denominator).unwrap_or(0);
        // The remainder may use all 128 bits; its quotient is built bit by bit.
        let mut bits = 0_u64;
        let mut rest = rest;
        for _ in 0..FRACTION {
            bits <<= 1;
            let carried = rest >= denominator.div_ceil(2) && rest > 0;
            if carried {
                // 2·rest ≥ denominator; subtracting first keeps it inside 128 bits.
                rest = rest.saturating_sub(denominator.saturating_sub(rest));
                bits |= 1;
            } else {
                rest <<= 1;
            }
        }
        let whole = i64::try_from(whole).unwrap_or(i64::MAX);
        let high = whole.checked_mul(1 << FRACTION).unwrap_or(i64::MAX);
        Self(high.saturating_add(i64::try_from(bits).unwrap_or(i64::MAX)))
    }

    /// A stored proportion: `value / 65535`.
    pub(crate) fn proportion(value: u16) -> Self {
        Self::whole(value).over(Self::U16_MAX)
    }

    /// The proportion as the chain stores it: the whole part of `65535·self`, within 0..=65535.
    pub(crate) fn to_proportion(self) -> u16 {
        let whole = self.times(Self::U16_MAX).0 >> FRACTION;
        u16::try_from(whole.clamp(0, i64::from(u16::MAX))).unwrap_or(u16::MAX)
    }

    /// The whole part of `self · amount`; zero for a negative number.
    pub(crate) fn share_of(self, amount: u64) -> u64 {
        let bits = u128::try_from(self.0).unwrap_or(0);
        // 63 bits times 64 bits fit into 127.
        u64::try_from((bits * u128::from(amount)) >> FRACTION).unwrap_or(u64::MAX)
    }

    /// Sum, held at the ends.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Difference, held at the ends.
    pub(crate) const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Product, rounded down, held at the ends.
    pub(crate) fn times(self, other: Self) -> Self {
        Self::saturate((i128::from(self.0) * i128::from(other.0)) >> FRACTION)
    }

    /// Quotient, cut off, held at the ends; zero where the divisor is.
    pub(crate) fn over(self, other: Self) -> Self {
        let wide = i128::from(self.0) << FRACTION;
        Self::saturate(wide.checked_div(i128::from(other.0)).unwrap_or(0))
    }

    /// e to the power of this number, held at the largest number.
    pub(crate) fn exp(self) -> Self {
        let wide = i128::from(self.0) << (EXP_FRACTION - FRACTION);
        let power = wide.div_euclid(LN_2);
        let rest = wide.rem_euclid(LN_2);
        let one = 1_i128 << EXP_FRACTION;
        let (mut sum, mut term) = (one, one);
        for k in 1..=EXP_TERMS {
            term = ((term * rest) >> EXP_FRACTION) / k;
            sum += term;
        }
        // 2^31 is out of range already, and below 2^-33 nothing is left.
        let power = power.clamp(-64, 32);
        let shift = i128::from(EXP_FRACTION - FRACTION) - power;
        let bits = match u32::try_from(shift) {
            Ok(right) => sum.checked_shr(right).unwrap_or(0),
            Err(_) => sum.checked_shl(u32::try_from(-shift).unwrap_or(0)).unwrap_or(i128::MAX),
        };
        Self::saturate(bits)
    }

    /// The sum of many.
    pub(crate) fn sum(values: impl IntoIterator<Item = Self>) -> Self {
        values.into_iter().fold(Self::ZERO, Self::plus)
    }

    fn saturate(bits: i128) -> Self {
        let held = bits.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        Self(i64::try_from(held).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(value: i64) -> Fixed {
        Fixed(value)
    }

    /// A product or quotient that rounds otherwise would give other dividends than the chain's.
    #[test]
    fn rounds_as_the_chain_does() {
        let third = Fixed::ONE.over(Fixed::whole(3));
        assert_eq!(third, bits(1_431_655_765));
        assert_eq!(third.times(Fixed::whole(3)), bits(4_294_967_295));
        assert_eq!(bits(-1).times(Fixed::HALF), bits(-1), "a product rounds down");
        assert_eq!(bits(-1).over(Fixed::whole(2)), bits(0), "a quotient is cut off");
        assert_eq!(Fixed::ONE.over(Fixed::ZERO), Fixed::ZERO);
        assert_eq!(Fixed::HALF.to_proportion(), 32_767);
        assert_eq!(Fixed::whole(2).to_proportion(), u16::MAX);
        assert_eq!(bits(-5).to_proportion(), 0);
        assert_eq!(Fixed::ONE.share_of(u64::MAX), u64::MAX);
    }

    /// A wrong exponential would move every bond of a subnet with liquid alpha.
    #[test]
    fn exponential_is_exact_to_the_last_bits() {
        // 2^32·e, 2^32·e^-5, 2^32·e^5, cut off.
        for (x, expected) in
            [(1, 11_674_931_554_i64), (-5, 28_939_261), (5, 637_429_664_641), (0, 1 << 32)]
        {
            let got = bits(x << 32).exp().0;
            assert!((got - expected).abs() <= 64, "e^{x} is {got}, expected {expected}");
        }
        assert_eq!(bits(i64::MAX).exp(), bits(i64::MAX));
        assert_eq!(bits(i64::MIN).exp(), Fixed::ZERO);
    }

    proptest! {
        /// A ratio that overflows would let a large stake take the epoch down.
        #[test]
        fn ratio_equals_wide_division(a in any::<u64>(), b in 1..u64::MAX) {
            let expected = (u128::from(a) << 32) / u128::from(b);
            let expected = i64::try_from(expected).unwrap_or(i64::MAX);
            prop_assert_eq!(Fixed::ratio(u128::from(a), u128::from(b)).0, expected);
        }

        /// An arithmetic panic in the epoch would stop the chain.
        #[test]
        fn nothing_panics(a in any::<i64>(), b in any::<i64>(), c in any::<u64>()) {
            let (x, y) = (bits(a), bits(b));
            for value in [x.plus(y), x.minus(y), x.times(y), x.over(y), x.exp()] {
                prop_assert!(value.times(Fixed::ZERO) == Fixed::ZERO);
                prop_assert!(value <= Fixed::ONE || value.share_of(c) >= c);
                prop_assert!(value > Fixed::ZERO || value.to_proportion() == 0);
            }
        }
    }
}
