//! Hears from the kernel that somebody removed the node's rules of the packet filter, or some of the machine's forward chain.
//!
//! What others do with tables of their own is no news: two nodes on one machine would wake each other.

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
/// Behind it, the family and what else the packet filter's messages begin with.
const FAMILY_BYTES: usize = 4;
const IPV4: u8 = 2;
/// The message of a rule that is gone.
const RULE: u16 = 8;
/// What of a message names the table, and for a rule the chain.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
/// What of an attribute's kind is flags.
const FLAGS: u16 = 0xc000;

/// Where the kernel tells of changes, in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Watch {
    socket: OwnedFd,
    /// The node's table.
    table: String,
}

impl Watch {
    pub(super) fn open(table: String) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::NETLINK;
        let socket = socket_with(family, SocketType::RAW, flags, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        Ok(Self { socket, table })
    }

    /// Ends when something that concerns the node was removed since the watch was opened.
    pub(super) async fn removal(self) -> io::Result<()> {
        #[expect(deprecated, reason = "an owned descriptor stays what it is")]
        let socket = AsyncFd::with_interest(self.socket, Interest::READABLE)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut ready = socket.readable().await?;
            let read = ready.try_io(|socket| {
                Ok(recv(socket, buffer.as_mut_slice(), RecvFlags::empty())
                    .map(|(length, _)| length)?)
            });
            match read {
                Ok(Ok(length))
                    if tells_of_removal(buffer.get(..length).unwrap_or_default(), &self.table) =>
                {
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

/// Whether one of the messages says that something of this table is gone, or a rule of the chain that all of the machine's
/// forwarded packets pass.
fn tells_of_removal(mut bytes: &[u8], table: &str) -> bool {
    while let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES) {
        let [a, b, c, d, low, high, ..] = *head else { return false };
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
        let kind = u16::from_ne_bytes([low, high]);
        if kind >> 8 == SUBSYSTEM && REMOVALS.contains(&(kind & 0xff)) {
            let body = body.get(..length.saturating_sub(HEAD_BYTES)).unwrap_or(body);
            let is_forward = kind & 0xff == RULE
                && body.first() == Some(&IPV4)
                && names(body, TABLE, "filter")
                && names(body, CHAIN, "FORWARD");
            if is_forward || names(body, TABLE, table) {
                return true;
            }
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

/// Whether the attribute of that kind, in the message behind its head, is this name.
fn names(body: &[u8], kind: u16, name: &str) -> bool {
    let mut rest = body.get(FAMILY_BYTES..).unwrap_or_default();
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = rest.get(4..length) else { return false };
        if u16::from_ne_bytes([c, d]) & !FLAGS == kind {
            return value.strip_suffix(&[0]).unwrap_or(value) == name.as_bytes();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "nicompute_0123";

    fn message(kind: u16, family: u8, attributes: &[(u16, &str)]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        for (kind, text) in attributes {
            body.extend(u16::try_from(text.len() + 5).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(text.bytes());
            body.resize((body.len() + 1).next_multiple_of(4), 0);
        }
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        [bytes, body].concat()
    }

    /// A removal that is overlooked leaves tenants without a network until the next look; one of somebody else's that is not
    /// makes two nodes wake each other for ever; lengths that lie must not hang it.
    #[test]
    fn removals_are_told_from_the_rest() {
        let (new_rule, gone_table, gone_rule, gone_element) = (0x0a06, 0x0a02, 0x0a08, 0x0a0e);
        let hears = |bytes: &[u8]| tells_of_removal(bytes, OURS);
        let gone = message(gone_table, 1, &[(TABLE, OURS), (4, "x")]);
        assert!(hears(&gone));
        let added = message(new_rule, 1, &[(TABLE, OURS)]);
        assert!(hears(&[added.clone(), gone.clone()].concat()));
        assert!(hears(&message(gone_rule, 2, &[(TABLE, "filter"), (CHAIN, "FORWARD")])));
        for kind in [new_rule, gone_element, 0x0102, 3] {
            assert!(!hears(&message(kind, 1, &[(TABLE, OURS)])), "{kind:x}");
        }
        for other in ["nicompute_012", "nicompute_01234", "filter", ""] {
            assert!(!hears(&message(gone_table, 1, &[(TABLE, other), (CHAIN, OURS)])), "{other}");
        }
        for (family, table, chain) in
            [(10, "filter", "FORWARD"), (2, "nat", "FORWARD"), (2, "filter", "DOCKER")]
        {
            assert!(!hears(&message(gone_rule, family, &[(TABLE, table), (CHAIN, chain)])));
        }
        for length in [0_u32, 15, u32::MAX] {
            let mut bytes = added.clone();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes.extend(&gone);
            assert!(!hears(&bytes), "{length}");
        }
        for length in [0_u16, 3, u16::MAX] {
            let mut bytes = message(gone_table, 1, &[(4, "x"), (TABLE, OURS)]);
            bytes[20..22].copy_from_slice(&length.to_ne_bytes());
            assert!(!hears(&bytes), "{length}");
        }
        assert!(!hears(&[]) && !hears(&[2; 15]));
    }
}
