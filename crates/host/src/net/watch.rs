//! Hears from the kernel that somebody removed rules of the packet filter.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's group of changes to the packet filter, as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// The packet filter's messages have this in their upper byte.
const SUBSYSTEM: u16 = 10;
/// Table, chain, rule and set that are gone. Elements come and go with every wire.
const REMOVALS: [u16; 4] = [2, 5, 8, 11];
/// What is read at once; what does not fit is read at the next time.
const BUFFER_BYTES: usize = 64 << 10;
/// Length and type of a message.
const HEAD_BYTES: usize = 16;

/// Where the kernel tells of changes, in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

impl Watch {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::NETLINK;
        let socket = socket_with(family, SocketType::RAW, flags, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Self(socket))
    }

    /// Ends when something was removed, whosever it is, since the watch was opened.
    pub(super) async fn removal(self) -> io::Result<()> {
        #[expect(deprecated, reason = "an owned descriptor stays what it is")]
        let socket = AsyncFd::with_interest(self.0, Interest::READABLE)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut ready = socket.readable().await?;
            let read = ready.try_io(|socket| {
                Ok(recv(socket, buffer.as_mut_slice(), RecvFlags::empty())
                    .map(|(length, _)| length)?)
            });
            match read {
                Ok(Ok(length)) if tells_of_removal(buffer.get(..length).unwrap_or_default()) => {
                    return Ok(());
                }
                // More than the kernel could tell: whatever it was.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }
}

/// Whether one of the messages says that something is gone.
fn tells_of_removal(mut bytes: &[u8]) -> bool {
    while let Some((head, _)) = bytes.split_at_checked(HEAD_BYTES) {
        let [a, b, c, d, low, high, ..] = *head else { return false };
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
        let kind = u16::from_ne_bytes([low, high]);
        if kind >> 8 == SUBSYSTEM && REMOVALS.contains(&(kind & 0xff)) {
            return true;
        }
        if length < HEAD_BYTES {
            return false;
        }
        // Messages begin at multiples of four.
        let Some(rest) = bytes.get(length.next_multiple_of(4)..) else { return false };
        bytes = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, length: u32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(usize::try_from(length).unwrap().next_multiple_of(4).max(16), 0);
        bytes
    }

    /// A removal that is overlooked leaves tenants without a network until the next look; lengths that lie must not hang it.
    #[test]
    fn removals_are_told_from_the_rest() {
        let (new_rule, gone_table, gone_element) = (0x0a06, 0x0a02, 0x0a0e);
        assert!(tells_of_removal(&message(gone_table, 20)));
        assert!(tells_of_removal(&[message(new_rule, 33), message(gone_table, 20)].concat()));
        for kind in [new_rule, gone_element, 0x0102, 3] {
            assert!(!tells_of_removal(&message(kind, 24)), "{kind:x}");
        }
        for length in [0, 15, u32::MAX] {
            let mut bytes = message(new_rule, 16);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes.extend(message(gone_table, 20));
            assert!(!tells_of_removal(&bytes), "{length}");
        }
        assert!(!tells_of_removal(&[]) && !tells_of_removal(&[2; 15]));
    }
}
