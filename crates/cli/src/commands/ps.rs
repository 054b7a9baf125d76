//! `nicompute ps`: your leases.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use nicompute_wire::market_api::RentalView;
use nicompute_wire::node::PublishedPortView;

use crate::market_args::{MarketArgs, block_on, dollars, failed, print};
use crate::text::plain;

/// Characters of what a provider says that are shown.
const DETAIL_CHARS_MAX: usize = 1_000;
/// Characters of an address.
const HOST_CHARS_MAX: usize = 64;

/// Options of `nicompute ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// Those that are over, too.
    #[arg(long)]
    all: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Lists the caller's leases, newest first.
pub(crate) fn run(args: &PsArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let api = args.market.client()?;
    let mut view = block_on(api.leases())?.map_err(failed)?;
    if !args.all {
        view.leases.retain(|lease| !matches!(&*lease.state, "ended" | "failed"));
    }
    print(out, args.json.then_some(&view), || table(&view.leases))
}

fn table(leases: &[RentalView]) -> String {
    let mut text = format!("{:<36} {:<22} {:>10}  {}\n", "LEASE", "STATE", "$/HOUR", "ENTER");
    for lease in leases {
        let reason =
            lease.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let enter = lease.ssh.as_ref().map_or_else(
            || "-".to_owned(),
            |ssh| format!("{}@{} port {}", ssh.user, ssh.host, ssh.port),
        );
        let state = format!("{}{reason}", lease.state);
        let price = dollars(lease.price_micro_usd_per_hour);
        let written = writeln!(text, "{:<36} {state:<22} {price:>10}  {enter}", lease.id);
        debug_assert!(written.is_ok(), "writing into a string cannot fail");
        text.push_str(&ports(lease));
    }
    text
}

/// A lease for people, whole.
pub(crate) fn whole(lease: &RentalView) -> String {
    let mut text = table(std::slice::from_ref(lease));
    if let Some(detail) = &lease.detail {
        let written = writeln!(text, "  {}", plain(detail, DETAIL_CHARS_MAX));
        debug_assert!(written.is_ok(), "writing into a string cannot fail");
    }
    text
}

/// A line for each port that others reach.
pub(crate) fn ports(lease: &RentalView) -> String {
    let line = |port: &PublishedPortView| {
        let host = plain(&port.host, HOST_CHARS_MAX);
        let at = if host.contains(':') { format!("[{host}]") } else { host };
        let problem = port.problem.as_deref().map(|problem| plain(problem, DETAIL_CHARS_MAX));
        let problem = problem.map(|problem| format!(", not now: {problem}")).unwrap_or_default();
        format!("  port {} is reached at {at}:{}{problem}\n", port.container_port, port.port)
    };
    lease.ports.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use nicompute_market::{Hotkey, LeaseId};

    use super::*;

    /// A renter who does not see where his port is reached has none, and a provider's words must not move his cursor.
    #[test]
    fn ports_are_shown() {
        let port = |host: &str, problem: Option<&str>| PublishedPortView {
            container_port: 80,
            host: host.to_owned(),
            port: 20001,
            problem: problem.map(str::to_owned),
        };
        let lease = RentalView {
            id: LeaseId::from_random_bytes([5; 16]),
            provider: Hotkey::from_bytes([1; 32]),
            offer: "machine".parse().unwrap(),
            state: "running".to_owned(),
            reason: None,
            requested_at_unix_ms: 1,
            expires_at_unix_ms: 2,
            price_micro_usd_per_hour: 3,
            detail: Some("gone\u{1b}[2J".to_owned()),
            ssh: None,
            ports: vec![port("203.0.113.7", None), port("2001:db8::1", Some("taken\u{1b}[2J"))],
        };
        let shown = "  port 80 is reached at 203.0.113.7:20001\n  \
                     port 80 is reached at [2001:db8::1]:20001, not now: taken [2J\n";
        assert_eq!(ports(&lease), shown);
        assert!(table(std::slice::from_ref(&lease)).ends_with(shown));
        assert!(whole(&lease).ends_with("  gone [2J\n"));
    }
}
