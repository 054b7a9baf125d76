//! Names and labels by which a node finds what it made. They are numbers and digests: no word of an operator or of a tenant
//! reaches a program's input.

use std::fmt;
use std::net::Ipv4Addr;

use nicompute_market::LeaseId;
use sha2::{Digest as _, Sha256};

/// The first word of every label.
const WORD: &str = "nicompute";
/// Hex digits of the node in labels.
const LABEL_DIGITS: usize = 16;
/// Hex digits of the node in names of links, which have 15 bytes.
const LINK_DIGITS: usize = 6;

/// A node, as its rules and links name it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Node(String);

/// What a finished wire's label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) lease: LeaseId,
    pub(super) address: Ipv4Addr,
    /// The mark of the lease's connections, so that the next tenant of the address is not taken for this one.
    pub(super) mark: u32,
    /// The network namespace at the other end. The link goes when it goes, so its number cannot come to mean another.
    pub(super) namespace: u64,
}

impl Node {
    pub(super) fn new(node_id: &str) -> Self {
        let mut digits = hex::encode(Sha256::digest(node_id.as_bytes()));
        digits.truncate(LABEL_DIGITS);
        Self(digits)
    }

    /// A number that is the node's own, to begin a search with.
    pub(super) fn number(&self) -> u32 {
        u32::from_str_radix(&self.0[..8], 16).unwrap_or_default()
    }

    /// The packet filter's table.
    pub(super) fn table(&self) -> String {
        format!("{WORD}_{}", self.0)
    }

    /// The comment at rules in tables of others.
    pub(super) fn comment(&self) -> String {
        format!("{WORD}:{}", self.0)
    }

    /// How the names of all its links begin.
    pub(super) fn prefix(&self) -> String {
        format!("n{}-", &self.0[..LINK_DIGITS])
    }

    /// The name of the link of a place in the subnet.
    pub(super) fn link(&self, place: u32) -> String {
        format!("{}{place:x}", self.prefix())
    }

    /// Whether a name is one of `link`.
    pub(super) fn is_link(&self, name: &str) -> bool {
        let place = name.strip_prefix(&self.prefix());
        place
            .and_then(|place| u32::from_str_radix(place, 16).ok())
            .is_some_and(|place| self.link(place) == name)
    }

    pub(super) fn label(&self, label: &Label) -> String {
        let Label { lease, address, mark, namespace } = label;
        format!("{WORD} {} {lease} {address} {mark:08x} {namespace}", self.0)
    }

    /// Reads what `label` wrote; anything else is not this node's.
    pub(super) fn parse_label(&self, text: &str) -> Option<Label> {
        let mut words = text.split(' ');
        if words.next()? != WORD || words.next()? != self.0 {
            return None;
        }
        let lease = words.next()?.parse().ok()?;
        let address = words.next()?.parse().ok()?;
        let mark = u32::from_str_radix(words.next()?, 16).ok()?;
        let label = Label { lease, address, mark, namespace: words.next()?.parse().ok()? };
        (self.label(&label) == text).then_some(label)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hardware address of the tenant's end, or of ours: private ones that follow from the address.
pub(super) fn hardware(address: Ipv4Addr, end: End) -> String {
    let [a, b, c, d] = address.octets();
    let end = match end {
        End::Machine => 0x01,
        End::Tenant => 0x02,
    };
    format!("02:{end:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Which end of a wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Machine,
    Tenant,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        let lease = LeaseId::from_random_bytes([7; 16]);
        Label { lease, address: Ipv4Addr::new(10, 1, 2, 3), mark: 0xab, namespace: 4_026_531_840 }
    }

    /// A label that is not read back leaves its link on the machine for ever.
    #[test]
    fn labels_round_trip() {
        let node = Node::new("5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX");
        let text = node.label(&label());
        assert_eq!(node.parse_label(&text), Some(label()));
        assert!(text.len() < 256, "longer than the kernel keeps");
        assert_eq!(Node::new("another").parse_label(&text), None);
        for bad in
            [text.replace(' ', "  "), format!("{text} 1"), text[1..].to_owned(), String::new()]
        {
            assert_eq!(node.parse_label(&bad), None, "{bad}");
        }
    }

    /// A name that is too long cannot be made; one that is taken for ours would be removed.
    #[test]
    fn names_of_links_are_ours_alone() {
        let node = Node::new("node\"; flush ruleset");
        assert!(node.link(0x00ff_ffff).len() <= 15 && node.is_link(&node.link(77)));
        let prefix = node.prefix();
        for other in ["eth0", "docker0", &prefix, &format!("{prefix}g"), &format!("{prefix}01")] {
            assert!(!node.is_link(other), "{other}");
        }
        assert!(node.table().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        assert_ne!(hardware(label().address, End::Machine), hardware(label().address, End::Tenant));
    }
}
