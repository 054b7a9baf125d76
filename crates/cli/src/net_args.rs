//! Options of the tenants' network.

use std::net::IpAddr;

use clap::Args;
use nicompute_host::net::{CONNECTIONS_MAX, Cidr, Fabric, Forwarding, NetConfig, PUBLIC_RESOLVERS};
use nicompute_market::Hotkey;

use crate::exit::{Exit, Failure};

const BITS_PER_MEGABIT: u64 = 1_000_000;

/// What tenants reach. Without `--net` they have no network at all, and enter and leave through SSH alone.
#[derive(Debug, Clone, Args)]
pub(crate) struct NetArgs {
    /// Let tenants reach the public internet, and neither this machine, its networks nor each other. Needs root.
    #[arg(long)]
    net: bool,
    /// Where tenants' addresses come from: private addresses that nothing else here uses. One is chosen without it.
    #[arg(long = "net.subnet", value_name = "CIDR", requires = "net")]
    subnet: Option<Cidr>,
    /// More addresses that tenants must not reach. Give it once for each range.
    #[arg(long = "net.deny", value_name = "CIDR", requires = "net")]
    deny: Vec<Cidr>,
    /// A resolver for tenants, wherever it is; public ones without it. Give it up to three times.
    #[arg(long = "net.dns", value_name = "IP", requires = "net")]
    dns: Vec<IpAddr>,
    /// The most that each lease may send, in megabits a second.
    #[arg(long = "net.limit", value_name = "MBIT", requires = "net")]
    limit: Option<u32>,
    /// Connections of each lease at the same time.
    #[arg(long = "net.connections", value_name = "COUNT", requires = "net", default_value_t = CONNECTIONS_MAX)]
    connections: u32,
    /// Turn packet forwarding on where this machine does not forward; it stays on.
    #[arg(long = "net.forwarding", requires = "net")]
    forwarding: bool,
}

impl NetArgs {
    /// The network, where tenants get one.
    pub(crate) async fn open(&self, node: Hotkey) -> anyhow::Result<Option<Fabric>> {
        if !self.net {
            return Ok(None);
        }
        let mut config = NetConfig::new(&node.to_string());
        config.subnet = self.subnet;
        config.deny.clone_from(&self.deny);
        config.dns = if self.dns.is_empty() { PUBLIC_RESOLVERS.into() } else { self.dns.clone() };
        config.egress_bits_per_second =
            self.limit.map(|limit| u64::from(limit).saturating_mul(BITS_PER_MEGABIT));
        config.connections_max = self.connections;
        config.forwarding = if self.forwarding { Forwarding::TurnOn } else { Forwarding::MustBeOn };
        Fabric::open(config).await.map(Some).map_err(|error| {
            let remedy = error.remedy();
            let failure =
                Failure::new(Exit::Config, "tenants cannot be given a network").because(error);
            match remedy {
                Some(remedy) => failure.hint(remedy),
                None => failure,
            }
            .into()
        })
    }
}
