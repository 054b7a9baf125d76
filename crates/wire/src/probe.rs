//! `POST /v1/probe`: a node tries the asker's own ports, so that a provider learns whether others reach them.
//!
//! The node dials the address that the request came from and no other; the request has no field for one.

use serde::{Deserialize, Serialize};

/// Ports of one request.
pub const PROBE_PORTS_MAX: usize = 4;

/// `POST /v1/probe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// TCP ports of the asker, at most [`PROBE_PORTS_MAX`], none twice.
    pub ports: Vec<u16>,
}

/// What the node found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeView {
    /// The address that the request came from, which is the one that was dialled.
    pub address: String,
    /// The node's clock.
    pub now_unix_ms: u64,
    /// The ports, in the order of the request.
    pub ports: Vec<PortView>,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    /// Its number.
    pub port: u16,
    /// `open`: somebody took the connection. `closed`: it was refused. `silent`: nobody answered in time, as behind a
    /// firewall. A later version may know more.
    pub state: String,
}

/// The states that this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// Somebody took the connection.
    Open,
    /// It was refused.
    Closed,
    /// Nobody answered in time.
    Silent,
}

impl PortState {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Silent => "silent",
        }
    }
}

impl ProbeRequest {
    /// Whether the request keeps its own rules.
    ///
    /// # Errors
    /// The rule that it breaks, for whoever wrote it.
    pub fn check(&self) -> Result<(), BadProbe> {
        if self.ports.is_empty() || self.ports.len() > PROBE_PORTS_MAX {
            return Err(BadProbe::Count);
        }
        if self.ports.contains(&0) {
            return Err(BadProbe::Zero);
        }
        let mut sorted = self.ports.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() == self.ports.len() { Ok(()) } else { Err(BadProbe::Twice) }
    }
}

/// A request that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProbe {
    /// None, or too many.
    #[error("field ports has not 1 to {PROBE_PORTS_MAX} ports")]
    Count,
    /// Port 0 is none.
    #[error("field ports has port 0")]
    Zero,
    /// One port more than once.
    #[error("field ports has a port twice")]
    Twice,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that asks for a whole range would make every node a port scanner.
    #[test]
    fn few_ports_each_once() {
        let check = |ports: &[u16]| ProbeRequest { ports: ports.to_vec() }.check();
        assert_eq!(check(&[1, 2, 3, 65_535]), Ok(()));
        assert_eq!(check(&[]), Err(BadProbe::Count));
        assert_eq!(check(&[1, 2, 3, 4, 5]), Err(BadProbe::Count));
        assert_eq!(check(&[0]), Err(BadProbe::Zero));
        assert_eq!(check(&[7, 8, 7]), Err(BadProbe::Twice));
        let named = r#"{"ports": [1], "address": "10.0.0.1"}"#;
        assert!(serde_json::from_str::<ProbeRequest>(named).is_err(), "no address can be named");
    }
}
