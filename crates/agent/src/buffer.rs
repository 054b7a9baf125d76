//! A queue of bytes that is filled at one end and taken from the other.

/// Taken bytes are moved out of the way only when they are this many, so that moving stays cheap.
const COMPACT_FROM: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// What waits.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where more is appended.
    pub(crate) const fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Forgets the first `count` waiting bytes.
    pub(crate) fn take(&mut self, count: usize) {
        self.start = self.bytes.len().min(self.start + count);
        if self.start == self.bytes.len() {
            self.clear();
        } else if self.start >= COMPACT_FROM && self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        // An idle container must not keep the memory of its busiest moment.
        if self.bytes.capacity() > COMPACT_FROM {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes lost, doubled or reordered here are a corrupted upload.
    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut buffer = Buffer::default();
        let mut expected = 0_u8;
        for round in 0..200_usize {
            let at = buffer.len();
            let next = expected.wrapping_add(u8::try_from(at % 256).expect("small"));
            let bytes: Vec<u8> = (0..1000)
                .scan(next, |n, _: i32| {
                    let now = *n;
                    *n = n.wrapping_add(1);
                    Some(now)
                })
                .collect();
            buffer.tail().extend_from_slice(&bytes);
            let count = (round * 37) % (buffer.len() + 1);
            for byte in &buffer.waiting()[..count] {
                assert_eq!(*byte, expected);
                expected = expected.wrapping_add(1);
            }
            buffer.take(count);
        }
        buffer.take(buffer.len());
        assert!(buffer.is_empty());
    }
}
