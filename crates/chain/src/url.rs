//! Which node to talk to: the names of the known networks, or a WebSocket URL.

use std::fmt;
use std::str::FromStr;

/// The public entry of the main network.
const FINNEY: &str = "wss://entrypoint-finney.opentensor.ai:443";
/// The public entry of the test network.
const TEST: &str = "wss://test.finney.opentensor.ai:443";
/// A node on this machine.
const LOCAL: &str = "ws://127.0.0.1:9944";
/// The longest URL; it stands in logs and errors.
const URL_LEN_MAX: usize = 512;

/// A node's WebSocket URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeUrl(String);

/// Why a text names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNodeUrlError {
    /// Neither a known network nor a URL.
    #[error("{0:?} is no network: use local, finney, test, or a URL such as ws://127.0.0.1:9944")]
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

impl NodeUrl {
    /// The URL's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeUrl {
    type Err = ParseNodeUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > URL_LEN_MAX {
            return Err(ParseNodeUrlError::Length);
        }
        match text {
            "local" => return Ok(Self(LOCAL.to_owned())),
            "finney" => return Ok(Self(FINNEY.to_owned())),
            "test" => return Ok(Self(TEST.to_owned())),
            _ => {}
        }
        let (protocol, rest) =
            text.split_once("://").ok_or_else(|| ParseNodeUrlError::Name(text.to_owned()))?;
        if protocol != "ws" && protocol != "wss" {
            return Err(ParseNodeUrlError::Protocol(text.to_owned()));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !is_authority(authority) || !rest.chars().all(|c| c.is_ascii_graphic()) {
            return Err(ParseNodeUrlError::Host(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `host`, `host:port` or `[v6]:port`.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
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
            ("ws://127.0.0.1:1234", "ws://127.0.0.1:1234"),
            ("wss://node.example/path?x=1", "wss://node.example/path?x=1"),
            ("ws://[::1]:9944", "ws://[::1]:9944"),
        ] {
            assert_eq!(text.parse::<NodeUrl>().map(|url| url.0), Ok(url.to_owned()));
        }
    }

    /// A mistyped endpoint must be named as such at once, not after a connection time-out.
    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let error = |text: &str| text.parse::<NodeUrl>().unwrap_err();
        assert!(matches!(error(""), ParseNodeUrlError::Name(_)));
        assert!(matches!(error("mainnet"), ParseNodeUrlError::Name(_)));
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
        ] {
            assert!(matches!(error(bad), ParseNodeUrlError::Host(_)), "{bad}");
        }
        assert_eq!(error(&"w".repeat(513)), ParseNodeUrlError::Length);
    }
}
