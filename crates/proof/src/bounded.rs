//! Sequences that end at their limit while they are decoded.
//!
//! A byte of an encoding can stand for dozens of bytes of memory: a walk's opening that holds nothing takes three, and
//! its value twenty times as many. So each sequence in a frame or a transcript has the longest length that any session
//! needs, and is refused by its announced length, before anything of it is kept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A sequence of at most so many elements.
pub(crate) fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Between::<T, 0, MAX>(PhantomData))
}

/// A sequence of exactly so many elements.
pub(crate) fn exactly<'de, D, T, const COUNT: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Between::<T, COUNT, COUNT>(PhantomData))
}

struct Between<T, const MIN: usize, const MAX: usize>(PhantomData<fn() -> T>);

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Visitor<'de>
    for Between<T, MIN, MAX>
{
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MIN} to {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
        let announced = sequence.size_hint().unwrap_or(MIN);
        if !(MIN..=MAX).contains(&announced) {
            return Err(A::Error::invalid_length(announced, &self));
        }
        let mut elements = Vec::with_capacity(announced);
        while let Some(element) = sequence.next_element()? {
            if elements.len() >= MAX {
                return Err(A::Error::invalid_length(elements.len(), &self));
            }
            elements.push(element);
        }
        if elements.len() < MIN {
            return Err(A::Error::invalid_length(elements.len(), &self));
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Limited {
        #[serde(deserialize_with = "at_most::<_, _, 3>")]
        few: Vec<u8>,
        #[serde(deserialize_with = "exactly::<_, _, 2>")]
        two: Vec<u8>,
    }

    /// A limit that is off by one refuses an honest machine, or is none.
    #[test]
    fn limits_hold_at_the_limit() {
        let decode = |bytes: &[u8]| {
            postcard::from_bytes::<Limited>(bytes).map(|limited| (limited.few, limited.two))
        };
        assert_eq!(decode(&[3, 7, 8, 9, 2, 1, 2]), Ok((vec![7, 8, 9], vec![1, 2])));
        assert_eq!(decode(&[0, 2, 1, 2]), Ok((vec![], vec![1, 2])));
        assert!(decode(&[4, 7, 8, 9, 9, 2, 1, 2]).is_err());
        assert!(decode(&[0, 1, 1]).is_err());
        assert!(decode(&[0, 3, 1, 2, 3]).is_err());
        // Announced and not there.
        assert!(decode(&[3, 7]).is_err());
    }
}
