//! Options of a node's SSH door and of the ports beside it.

use std::time::Duration;

use clap::Args;
use nicompute_miner::{PortRange, SessionLimits};

use crate::args::parse_span;

/// A proof holds one connection for so long, and is silent for most of it: a shorter limit would cost the provider its score.
const SESSION_MIN: Duration = Duration::from_secs(600);

/// How tenants come in.
#[derive(Debug, Clone, Args)]
pub(crate) struct SshArgs {
    /// The port of the SSH gateway; 0 takes a free one.
    #[arg(long = "ssh.port", default_value_t = 4444, value_name = "PORT")]
    pub(crate) port: u16,
    /// Sessions in which no byte goes either way end after this, such as 12h, at least 10m; never without it.
    #[arg(long = "ssh.idle", value_name = "SPAN", value_parser = session_span)]
    idle: Option<Duration>,
    /// Every session ends after this, such as 7d, at least 10m; with its lease without it.
    #[arg(long = "ssh.total", value_name = "SPAN", value_parser = session_span)]
    total: Option<Duration>,
    /// Ports of this machine through which tenants may have theirs reached, such as 20000-20099; tenants get none without
    /// it. Open them in the firewall.
    #[arg(long = "ports.range", value_name = "FROM-TO")]
    pub(crate) ports: Option<PortRange>,
}

impl SshArgs {
    /// How long sessions may last.
    pub(crate) const fn sessions(&self) -> SessionLimits {
        SessionLimits { idle: self.idle, total: self.total }
    }
}

fn session_span(text: &str) -> Result<Duration, SpanError> {
    let span = parse_span(text).map_err(|_| SpanError::Span)?;
    if span < SESSION_MIN { Err(SpanError::Short) } else { Ok(span) }
}

/// What is no limit for sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum SpanError {
    #[error("expected a whole number with s, m, h or d, such as 12h")]
    Span,
    #[error("is less than 10m, which a validator's proof takes; give 10m or more")]
    Short,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ssh: SshArgs,
    }

    fn read(words: &[&str]) -> Result<SshArgs, clap::Error> {
        let words = std::iter::once("miner").chain(words.iter().copied());
        Ok(Line::try_parse_from(words)?.ssh)
    }

    /// A limit that is lost or misread ends the sessions of tenants who were promised none, or lets them stay for ever.
    #[test]
    fn sessions_and_ports_are_read() {
        let none = read(&[]).unwrap();
        assert_eq!(
            (none.port, none.sessions(), none.ports),
            (4444, SessionLimits::default(), None)
        );
        let words = ["--ssh.idle", "10m", "--ssh.total", "7d", "--ports.range", "20000-20099"];
        let all = read(&words).unwrap();
        let limits = SessionLimits {
            idle: Some(Duration::from_secs(600)),
            total: Some(Duration::from_secs(7 * 86_400)),
        };
        assert_eq!(all.sessions(), limits);
        assert_eq!(all.ports.unwrap().count(), 100);
        for words in [
            ["--ssh.idle", "599s"],
            ["--ssh.idle", "0s"],
            ["--ssh.total", "forever"],
            ["--ports.range", "20000"],
            ["--ports.range", "20099-20000"],
        ] {
            assert!(read(&words).is_err(), "{words:?}");
        }
    }
}
