//! What a provider puts on the market.

use std::fmt;
use std::str::FromStr;

use crate::{
    LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, LeaseNetwork, Machine, MicroUsd, OfferId, RuntimeClass,
    UnixMillis,
};

/// How a provider runs what a tenant brings, and so how strong the walls are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuntimeKind {
    /// A Docker-compatible engine.
    Docker,
    /// The embedded runtime with root's help: limits are enforced.
    SandboxRoot,
    /// The embedded runtime of a plain user: separated, without limits.
    SandboxUser,
}

impl RuntimeKind {
    /// Every kind, for enumerations in tests and help texts.
    pub const ALL: [Self; 3] = [Self::Docker, Self::SandboxRoot, Self::SandboxUser];

    /// The stable text of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::SandboxRoot => "sandbox",
            Self::SandboxUser => "sandbox-user",
        }
    }

    /// Whether a tenant can be held to what was leased.
    #[must_use]
    pub const fn limits_enforced(self) -> bool {
        match self {
            Self::Docker | Self::SandboxRoot => true,
            Self::SandboxUser => false,
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RuntimeKind {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownRuntime)
    }
}

/// A runtime name that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown runtime, expected docker, sandbox or sandbox-user")]
pub struct UnknownRuntime;

/// One thing that can be leased as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name with this provider.
    pub id: OfferId,
    /// What the provider says the tenant gets.
    pub machine: Machine,
    /// The asking price of the whole offer.
    pub price_per_hour: MicroUsd,
    /// Images that start without a download, the first one by default.
    pub images: Vec<String>,
    /// How tenants are run.
    pub runtime: RuntimeKind,
    /// Whether nobody holds it now.
    pub available: bool,
    /// What a lease of it may ask for.
    pub conditions: Conditions,
}

/// What a lease of an offer may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// The shortest rental. Proofs are as short as they like.
    pub duration_millis_min: u64,
    /// The longest rental.
    pub duration_millis_max: u64,
    /// What may run its processes, the first one by default; never empty.
    pub classes: Vec<RuntimeClass>,
    /// Patterns of the images that are fetched for a rental.
    pub fetches: Vec<String>,
    /// Whether it may have volumes.
    pub volumes: VolumesAllowed,
    /// Ports that may be reached through the node.
    pub ports_max: u16,
    /// Whether its processes may reach the outside.
    pub network: LeaseNetwork,
    /// When it is closed: no lease lasts into one of these.
    pub maintenance: Vec<Window>,
    /// Which of the leased amounts a tenant is held to.
    pub limits: LimitsHeld,
    /// What each of its GPUs costs for an hour, where that is how its price is made.
    pub price_per_gpu_hour: Option<MicroUsd>,
}

/// Whether a lease may have volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumesAllowed {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// Which of the leased amounts a tenant is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitsHeld {
    /// Processor, memory, processes and disk.
    All,
    /// Processor, memory and processes; the disk is shared with the machine.
    AllButDisk,
    /// Nothing.
    Nothing,
}

/// A time in which an offer is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Its begin.
    pub from: UnixMillis,
    /// Its end.
    pub until: UnixMillis,
}

impl Default for Conditions {
    /// What an offer of a version that names no conditions takes.
    fn default() -> Self {
        Self {
            duration_millis_min: LEASE_MILLIS_MIN,
            duration_millis_max: LEASE_MILLIS_MAX,
            classes: vec![RuntimeClass::Standard],
            fetches: Vec::new(),
            volumes: VolumesAllowed::No,
            ports_max: 0,
            network: LeaseNetwork::None,
            maintenance: Vec::new(),
            limits: LimitsHeld::All,
            price_per_gpu_hour: None,
        }
    }
}

impl Conditions {
    /// The latest end that a lease may have which begins now or runs: the begin of the next maintenance. In the middle of
    /// one that is now.
    #[must_use]
    pub fn latest_end(&self, now: UnixMillis) -> Option<UnixMillis> {
        let coming = self.maintenance.iter().filter(|window| window.until > now);
        coming.map(|window| window.from.max(now)).min()
    }
}

impl LimitsHeld {
    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "enforced",
            Self::AllButDisk => "enforced but disk",
            Self::Nothing => "not enforced",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease that lasts into a maintenance would be cut off by it, or keep the operator from it.
    #[test]
    fn maintenance_bounds_leases() {
        let window = |from, until| Window { from: UnixMillis(from), until: UnixMillis(until) };
        let conditions = Conditions {
            maintenance: vec![window(500, 600), window(100, 200)],
            ..Conditions::default()
        };
        let latest = |now| conditions.latest_end(UnixMillis(now)).map(UnixMillis::get);
        assert_eq!(latest(50), Some(100));
        assert_eq!(latest(150), Some(150), "closed now");
        assert_eq!((latest(200), latest(600)), (Some(500), None));
    }
}
