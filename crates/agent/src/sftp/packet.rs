//! The bytes of requests and replies.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// The longest request that is read, and the longest reply that is written. OpenSSH has the same limit.
pub(super) const PACKET_LEN_MAX: usize = 256 * 1024;
/// The most data in one read or write.
pub(super) const DATA_LEN_MAX: usize = PACKET_LEN_MAX - 1024;

/// Takes a request apart. Everything is `None` when the packet is too short.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(packet: &'a [u8]) -> Self {
        Self { rest: packet }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }

    /// A path as the client wrote it; an empty one is the starting folder.
    pub(super) fn path(&mut self) -> Option<PathBuf> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) {
            return None;
        }
        Some(PathBuf::from(if bytes.is_empty() {
            OsStr::new(".")
        } else {
            OsStr::from_bytes(bytes)
        }))
    }
}

/// Puts a reply together, its length first.
#[derive(Debug, Default)]
pub(super) struct Writer {
    packet: Vec<u8>,
}

impl Writer {
    /// Begins a reply; what was there is forgotten.
    pub(super) fn begin(&mut self, kind: u8, id: u32) {
        self.packet.clear();
        self.packet.extend_from_slice(&[0; 4]);
        self.u8(kind);
        self.u32(id);
    }

    /// Begins the reply to the greeting, which has no number.
    pub(super) fn begin_version(&mut self, kind: u8, version: u32) {
        self.begin(kind, version);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.packet.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.packet.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.packet.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.packet.extend_from_slice(bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.packet.len()
    }

    /// Overwrites a number that was not known when its place was written.
    pub(super) fn patch_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.packet.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Room for data of up to `len` bytes with its length before it; `fill` says how many it filled.
    pub(super) fn data<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let at = self.packet.len();
        self.packet.resize(at + 4 + len, 0);
        let count = fill(&mut self.packet[at + 4..])?;
        self.packet.truncate(at + 4 + count);
        self.patch_u32(at, u32::try_from(count).unwrap_or(u32::MAX));
        Ok(count)
    }

    /// The whole packet.
    pub(super) fn finish(&mut self) -> &[u8] {
        let len = self.packet.len().saturating_sub(4);
        self.patch_u32(0, u32::try_from(len).unwrap_or(u32::MAX));
        &self.packet
    }
}
