//! What can go wrong with the tenants' network, by who can do something about it.

use std::io;
use std::path::PathBuf;

use nicompute_daemon::Kind;

use super::Cidr;

/// Why the network was not laid or not removed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Only root may make links and rules.
    #[error("the tenants' network needs root")]
    NotRoot,
    /// A program of the machine is missing.
    #[error("{program} is not installed")]
    ProgramMissing {
        /// The program.
        program: &'static str,
    },
    /// A setting is unusable.
    #[error("{field} {rule}")]
    BadSetting {
        /// The setting.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The machine forwards no packets, and the operator did not allow us to change that.
    #[error("this machine forwards no packets")]
    ForwardingOff,
    /// The subnet is used by somebody else on this machine.
    #[error("subnet {subnet} overlaps {used}, which this machine uses already")]
    SubnetTaken {
        /// The subnet that is wanted.
        subnet: Cidr,
        /// What the machine's addresses or routes say.
        used: Cidr,
    },
    /// Everything that could be a subnet is used.
    #[error("every range of private addresses overlaps a route of this machine")]
    NoSubnet,
    /// Every address of the subnet is given away.
    #[error("subnet {subnet} has no free address")]
    Full {
        /// The subnet.
        subnet: Cidr,
    },
    /// The machine's packet filter drops what it forwards and cannot be told to let tenants' packets pass.
    #[error("the machine's packet filter drops everything that is forwarded, and {why}")]
    Filtered {
        /// Why it cannot be told.
        why: &'static str,
    },
    /// The machine knows the routes of the whole world: its own networks cannot be told from the rest.
    #[error("this machine has routes to {count} networks; at most {max} can be kept from tenants")]
    ManyRoutes {
        /// How many.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// The process is gone.
    #[error("process {pid} is gone")]
    NoProcess {
        /// The process.
        pid: u32,
    },
    /// The process has no network of its own: laying the wire there would change the machine's.
    #[error("process {pid} has no network namespace of its own")]
    NotIsolated {
        /// The process.
        pid: u32,
    },
    /// A program refused.
    #[error("{program} could not {act}: {detail}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it was asked to do, as a verb.
        act: &'static str,
        /// What it said.
        detail: String,
    },
    /// A program took longer than anything healthy takes.
    #[error("{program} took longer than {limit_s} s to {act}")]
    Timeout {
        /// The program.
        program: &'static str,
        /// What it was asked to do, as a verb.
        act: &'static str,
        /// The limit.
        limit_s: u64,
    },
    /// The machine refused.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// The act, as a verb.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The thread that works on the network ended without an answer.
    #[error("the work on the network was cut off")]
    CutOff,
}

impl NetError {
    /// Who can do something about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::NotRoot
            | Self::ProgramMissing { .. }
            | Self::BadSetting { .. }
            | Self::ForwardingOff
            | Self::SubnetTaken { .. }
            | Self::NoSubnet
            | Self::ManyRoutes { .. }
            | Self::Filtered { .. } => Kind::Caller,
            Self::Full { .. }
            | Self::NoProcess { .. }
            | Self::NotIsolated { .. }
            | Self::Program { .. }
            | Self::Timeout { .. }
            | Self::Io { .. }
            | Self::CutOff => Kind::Elsewhere,
        }
    }

    /// What an operator can do about it, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotRoot => Some("run the node as root, or offer leases without a network"),
            Self::ProgramMissing { program: "nft" } => Some("apt-get install nftables"),
            Self::ProgramMissing { program: "iptables" } => Some("apt-get install iptables"),
            Self::ProgramMissing { .. } => Some("apt-get install iproute2"),
            Self::ForwardingOff => {
                Some("sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d")
            }
            Self::SubnetTaken { .. } | Self::NoSubnet => {
                Some("name a subnet of private addresses that nothing on this machine uses")
            }
            Self::Full { .. } => Some("name a larger subnet"),
            Self::ManyRoutes { .. } => {
                Some("leave the routes of the internet to a router, and keep a default route here")
            }
            Self::Filtered { .. } => Some(
                "let the tenants' subnet pass in the forward chain, or install iptables so that the node can",
            ),
            Self::Program { program: "nft", .. } => Some(
                "the kernel needs nf_tables with inet tables, NAT, connection tracking and ct count",
            ),
            Self::BadSetting { .. }
            | Self::NoProcess { .. }
            | Self::NotIsolated { .. }
            | Self::Program { .. }
            | Self::Timeout { .. }
            | Self::Io { .. }
            | Self::CutOff => None,
        }
    }
}
