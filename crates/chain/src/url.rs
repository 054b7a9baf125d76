//! Which node to talk to: the names of the known networks, `HOST:PORT`, or a WebSocket URL.
//!
//! As in the SDK: `finney`, `test`, `archive` and `local` are names; the hosts of the public entries stand for those names
//! whatever their port or protocol, since they speak TLS only; any other `HOST:PORT` means `ws://HOST:PORT`. Whoever wants
//! TLS writes `wss://`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The public entry of the main network.
const FINNEY: &str = "wss://entrypoint-finney.opentensor.ai:443";
/// The public entry of the test network.
const TEST: &str = "wss://test.finney.opentensor.ai:443";
/// The main network's archive.
const ARCHIVE: &str = "wss://archive.chain.opentensor.ai:443";
/// A node on this machine.
const LOCAL: &str = "ws://127.0.0.1:9944";
/// The first block of the main network.
const FINNEY_GENESIS: &str = "2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";
/// The first block of the test network.
const TEST_GENESIS: &str = "8f9cf856bf558a14440e75569c9e58594757048d7b3a84b5d25f6bd978263105";
/// The longest URL; it stands in logs and errors.
const URL_LEN_MAX: usize = 512;

/// A node's WebSocket URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeUrl(Cow<'static, str>);

/// Why a text names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNodeUrlError {
    /// Neither a known network nor a URL.
    #[error(
        "{0:?} is no network: use local, finney, test, archive, HOST:PORT, or a URL such as \
         ws://127.0.0.1:9944"
    )]
    Name(String),
    /// A URL of another protocol.
    #[error("{0:?} is not a WebSocket URL: it begins with ws:// or wss://")]
    Protocol(String),
    /// A URL without a host, with a bad port or with characters that no URL has.
    #[error("{0:?} is not a URL of a host: use ws://HOST:PORT or wss://HOST:PORT")]
    Host(String),
    /// A text that is longer than any URL.
    #[error("a node's URL has at most {URL_LEN_MAX} characters")]
    Length,
}

// === impl NodeUrl ===

impl NodeUrl {
    /// A node on this machine.
    pub const LOCAL: Self = Self(Cow::Borrowed(LOCAL));
    /// The public entry of the main network.
    pub const FINNEY: Self = Self(Cow::Borrowed(FINNEY));
    /// The public entry of the test network.
    pub const TEST: Self = Self(Cow::Borrowed(TEST));
    /// The main network's archive, which keeps the state of every block.
    pub const ARCHIVE: Self = Self(Cow::Borrowed(ARCHIVE));

    /// The URL's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first block of the chain that this URL is known for; none for a node of anybody's.
    #[must_use]
    pub fn genesis(&self) -> Option<[u8; 32]> {
        let text = match self.as_str() {
            FINNEY | ARCHIVE => FINNEY_GENESIS,
            TEST => TEST_GENESIS,
            _ => return None,
        };
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(hash)
    }

    /// The public entry that a host belongs to.
    fn public(host: &str) -> Option<Self> {
        let entries = [Self::FINNEY, Self::TEST, Self::ARCHIVE];
        entries.into_iter().find(|entry| authority(entry.as_str()).0 == host)
    }
}

/// Whether this is the first block of a network on which anybody can reach anybody: the main or the test network.
pub(crate) fn is_public_genesis(genesis: &[u8; 32]) -> bool {
    let text = hex::encode(genesis);
    text == FINNEY_GENESIS || text == TEST_GENESIS
}

impl FromStr for NodeUrl {
    type Err = ParseNodeUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > URL_LEN_MAX {
            return Err(ParseNodeUrlError::Length);
        }
        match text {
            "local" => return Ok(Self::LOCAL),
            "finney" => return Ok(Self::FINNEY),
            "test" => return Ok(Self::TEST),
            "archive" => return Ok(Self::ARCHIVE),
            _ => {}
        }
        let (protocol, rest) = match text.split_once("://") {
            Some(parts) => parts,
            // A bare word is more likely a mistyped name than a host.
            None if authority(text).1.is_none() => {
                return Err(ParseNodeUrlError::Name(text.to_owned()));
            }
            None => ("ws", text),
        };
        if protocol != "ws" && protocol != "wss" {
            return Err(ParseNodeUrlError::Protocol(text.to_owned()));
        }
        let named = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !is_authority(named) || !rest.chars().all(|c| c.is_ascii_graphic()) {
            return Err(ParseNodeUrlError::Host(text.to_owned()));
        }
        if let Some(public) = Self::public(authority(named).0) {
            return Ok(public);
        }
        Ok(Self(Cow::Owned(format!("{protocol}://{rest}"))))
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The host and the port, if there is one, of a URL or of the part of one that names them.
fn authority(text: &str) -> (&str, Option<&str>) {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// `host`, `host:port` or `[v6]:port`.
fn is_authority(text: &str) -> bool {
    let (host, port) = authority(text);
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match inner {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(plain)
        }
    };
    host_fits && port_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network's name that leads elsewhere would send signed extrinsics to the wrong chain.
    #[test]
    fn known_networks_and_urls() {
        for (text, url) in [
            ("local", LOCAL),
            ("finney", FINNEY),
            ("test", TEST),
            ("archive", ARCHIVE),
            ("ws://127.0.0.1:1234", "ws://127.0.0.1:1234"),
            ("wss://node.example/path?x=1", "wss://node.example/path?x=1"),
            ("ws://[::1]:9944", "ws://[::1]:9944"),
            ("127.0.0.1:9944", LOCAL),
            ("[::1]:9944", "ws://[::1]:9944"),
            ("node.example:9944", "ws://node.example:9944"),
            ("localhost:9944", "ws://localhost:9944"),
            ("entrypoint-finney.opentensor.ai:443", FINNEY),
            ("ws://entrypoint-finney.opentensor.ai:9944", FINNEY),
            ("wss://test.finney.opentensor.ai:443", TEST),
            ("archive.chain.opentensor.ai:443", ARCHIVE),
        ] {
            assert_eq!(text.parse::<NodeUrl>().map(|url| url.0.into_owned()), Ok(url.to_owned()));
        }
    }

    /// A node that calls itself the main network must be found out by its first block.
    #[test]
    fn known_networks_have_known_first_blocks() {
        let genesis = |text: &str| text.parse::<NodeUrl>().unwrap().genesis();
        assert_eq!(genesis("finney"), genesis("archive"));
        assert!(genesis("finney").is_some_and(|hash| is_public_genesis(&hash)));
        assert!(genesis("test").is_some_and(|hash| is_public_genesis(&hash)));
        assert_ne!(genesis("finney"), genesis("test"));
        assert_eq!(genesis("local"), None);
        assert!(!is_public_genesis(&[0; 32]));
    }

    /// A mistyped endpoint must be named as such at once, not after a connection time-out.
    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let error = |text: &str| text.parse::<NodeUrl>().unwrap_err();
        assert!(matches!(error(""), ParseNodeUrlError::Name(_)));
        assert!(matches!(error("mainnet"), ParseNodeUrlError::Name(_)));
        assert!(matches!(error("node.example"), ParseNodeUrlError::Name(_)));
        assert!(matches!(error("http://127.0.0.1:9944"), ParseNodeUrlError::Protocol(_)));
        for bad in [
            "ws://",
            "ws://:9944",
            "ws://host:0",
            "ws://host:65536",
            "ws://host:x",
            "ws://ho st",
            "ws://user@host",
            "ws://[::1",
            "ws://host/a b",
            "ws://hö.st",
            ":9944",
            "host:0",
            "ho st:1",
        ] {
            assert!(matches!(error(bad), ParseNodeUrlError::Host(_)), "{bad}");
        }
        assert_eq!(error(&"w".repeat(513)), ParseNodeUrlError::Length);
    }
}
