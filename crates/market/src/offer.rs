//! What a provider puts on the market.

use std::fmt;
use std::str::FromStr;

use crate::{Machine, MicroUsd, OfferId};

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
}
