//! Ways in which bytes come to harm, from a seed.

use nicompute_proof::mix64;

/// A small generator, so that a failure repeats.
pub(crate) struct Random(pub(crate) u64);

/// What was done to some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Harm {
    Flipped,
    Truncated,
    Extended,
    Removed,
    Duplicated,
    Reordered,
    Overwritten,
}

impl Harm {
    pub(crate) const ALL: [Self; 7] = [
        Self::Flipped,
        Self::Truncated,
        Self::Extended,
        Self::Removed,
        Self::Duplicated,
        Self::Reordered,
        Self::Overwritten,
    ];

    /// Does it; the bytes may come out as they were.
    pub(crate) fn on(self, bytes: &mut Vec<u8>, random: &mut Random) {
        let len = bytes.len();
        let at = random.below(len);
        let run = 1 + random.below((len - at).min(64));
        match self {
            Self::Flipped => bytes[at] ^= 1 << random.below(8),
            Self::Truncated => bytes.truncate(at),
            Self::Extended => bytes.extend((0..run).map(|_| random.byte())),
            Self::Removed => drop(bytes.drain(at..at + run)),
            Self::Duplicated => {
                let copy = bytes[at..at + run].to_vec();
                bytes.splice(at..at, copy);
            }
            Self::Reordered => bytes[at..at + run].reverse(),
            Self::Overwritten => bytes[at..at + run].fill(random.byte()),
        }
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix64(self.0)
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.next() % end).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}
