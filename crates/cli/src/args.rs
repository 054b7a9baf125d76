//! Options that several commands share, with the original's names.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nicompute_chain::{Chain, ConnectError, Limits, NodeUrl};
use nicompute_daemon::{Kind, LogFormat, SharedClock, Tasks};
use nicompute_keys::Keypair;
use nicompute_keys::wallet::WalletPath;
use nicompute_market::Hotkey;

use crate::exit::{Exit, Failure};

/// Which chain.
#[derive(Debug, Clone, Args)]
pub(crate) struct SubtensorArgs {
    /// `finney`, `test`, `local`, `archive`, HOST:PORT, or a ws:// or wss:// address; several as a list, the preferred one
    /// first.
    #[arg(
        long = "subtensor.network",
        default_value = "finney",
        value_delimiter = ',',
        value_name = "NETWORK"
    )]
    pub(crate) networks: Vec<String>,
    /// Addresses that are used instead of the network's own.
    #[arg(long = "subtensor.chain_endpoint", value_delimiter = ',', value_name = "URL")]
    pub(crate) endpoints: Vec<String>,
    /// The subnet's number: 27 on finney, 15 on the test network.
    #[arg(long, default_value_t = 27)]
    pub(crate) netuid: u16,
}

impl SubtensorArgs {
    /// Where the chain may be, the preferred place first.
    fn targets(&self) -> &[String] {
        if self.endpoints.is_empty() { &self.networks } else { &self.endpoints }
    }

    /// Whether the chain is one of this machine: `local`, or addresses with a loopback IP.
    pub(crate) fn is_on_loopback(&self) -> bool {
        let is_here = |target: &String| {
            let host = target.strip_prefix("ws://").and_then(|rest| rest.rsplit_once(':'));
            let ip = host.and_then(|(host, _)| host.parse::<std::net::IpAddr>().ok());
            target == "local" || ip.is_some_and(|ip| ip.is_loopback())
        };
        self.targets().iter().all(is_here)
    }

    /// Connects to the chain.
    pub(crate) async fn connect(
        &self,
        clock: &SharedClock,
        tasks: &Tasks,
    ) -> anyhow::Result<Chain> {
        let shown = self.targets().join(", ");
        let chain = self.connect_to_one(clock, tasks).await;
        Ok(chain.map_err(|error| {
            let exit =
                if error.kind() == Kind::Elsewhere { Exit::Unavailable } else { Exit::Config };
            let hint = error.remedy().unwrap_or("name a chain with --subtensor.network");
            Failure::new(exit, format!("no chain at {shown}")).hint(hint).because(error)
        })?)
    }

    async fn connect_to_one(
        &self,
        clock: &SharedClock,
        tasks: &Tasks,
    ) -> Result<Chain, ConnectError> {
        let urls: Result<Vec<NodeUrl>, _> =
            self.targets().iter().map(|target| target.parse()).collect();
        Chain::connect_any(&urls?, Limits::STANDARD, SharedClock::clone(clock), tasks).await
    }
}

/// Whose keys.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeyArgs {
    /// Name of the wallet.
    #[arg(
        long = "wallet.name",
        alias = "wallet-name",
        alias = "wallet_name",
        alias = "name",
        short = 'w',
        default_value = "default",
        value_name = "NAME"
    )]
    pub(crate) name: String,
    /// Name of the hotkey in the wallet.
    #[arg(
        long = "wallet.hotkey",
        alias = "wallet-hotkey",
        alias = "wallet_hotkey",
        alias = "hotkey",
        short = 'H',
        default_value = "default",
        value_name = "NAME"
    )]
    pub(crate) hotkey: String,
    /// The folder with the wallets [default: ~/.bittensor/wallets].
    #[arg(
        long = "wallet.path",
        alias = "wallet-path",
        alias = "wallet_path",
        short = 'p',
        value_name = "DIR"
    )]
    pub(crate) path: Option<PathBuf>,
}

impl KeyArgs {
    /// The hotkey that a daemon signs with.
    pub(crate) fn load_hotkey(&self) -> anyhow::Result<Keypair> {
        let wallet = WalletPath::new(&self.root()?, &self.name)?;
        Ok(wallet.load_hotkey(&self.hotkey).map_err(|error| {
            let hint = error.hint().unwrap_or("nicompute wallet new-hotkey makes one");
            let what = format!("the hotkey {}/{} cannot be used", self.name, self.hotkey);
            Failure::new(Exit::Config, what).hint(hint).because(error)
        })?)
    }

    /// The hotkey's address, which is all that a coldkey's transaction needs: of the hotkey itself, or of its public file
    /// where the secret is encrypted or lies on another machine.
    pub(crate) fn hotkey_address(&self) -> anyhow::Result<Hotkey> {
        let wallet = WalletPath::new(&self.root()?, &self.name)?;
        let error = match wallet.load_hotkey(&self.hotkey) {
            Ok(pair) => return Ok(pair.hotkey()),
            Err(error) => error,
        };
        wallet.load_hotkeypub(&self.hotkey).map_err(|_| {
            let what = format!("the address of hotkey {}/{} is not known", self.name, self.hotkey);
            let hint = "name it with --hotkey-ss58, or copy the hotkey's public file (its name ends in pub.txt) here: \
                        a new hotkey would be another neuron";
            Failure::new(Exit::Config, what).hint(hint).because(error).into()
        })
    }

    /// The folder with the wallets.
    pub(crate) fn root(&self) -> anyhow::Result<PathBuf> {
        match &self.path {
            Some(path) => Ok(path.clone()),
            None => Ok(home()?.join(".bittensor/wallets")),
        }
    }
}

/// What every daemon takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonArgs {
    /// The folder with what this daemon must remember.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// What is logged, as a filter such as `info,nicompute_miner=debug`.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// One JSON object a line instead of text.
    #[arg(long)]
    pub(crate) log_json: bool,
    #[command(flatten)]
    pub(crate) loudness: LoudnessArgs,
    /// Stop when standard input ends: for a parent process that must not leave children behind.
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// The original's flags for how much is logged; `--log` says it in more detail.
#[derive(Debug, Clone, Args)]
#[group(multiple = false, conflicts_with = "log")]
#[expect(clippy::struct_excessive_bools, reason = "flags of which at most one is given")]
pub(crate) struct LoudnessArgs {
    /// Log the steps, too: the same as --log debug.
    #[arg(long = "logging.debug")]
    debug: bool,
    /// Log everything: the same as --log trace.
    #[arg(long = "logging.trace")]
    trace: bool,
    /// The same as --log info.
    #[arg(long = "logging.info")]
    info: bool,
}

impl DaemonArgs {
    /// What is logged.
    pub(crate) fn filter(&self) -> &str {
        // What the libraries below say about each frame helps nobody with their node.
        match self.loudness {
            LoudnessArgs { trace: true, .. } => "trace,hyper=info,h2=info,rustls=info,soketto=info",
            LoudnessArgs { debug: true, .. } => "debug,hyper=info,h2=info,rustls=info,soketto=info",
            LoudnessArgs { info: true, .. } => "info",
            LoudnessArgs { .. } => &self.log,
        }
    }

    /// The state folder, by default `~/.nicompute/<daemon>`.
    pub(crate) fn folder(&self, daemon: &str) -> anyhow::Result<PathBuf> {
        match &self.state_dir {
            Some(path) => Ok(path.clone()),
            None => Ok(home()?.join(".nicompute").join(daemon)),
        }
    }

    pub(crate) const fn log_format(&self) -> LogFormat {
        if self.log_json { LogFormat::Json } else { LogFormat::Text }
    }
}

/// The caller's home folder.
pub(crate) fn home() -> anyhow::Result<PathBuf> {
    let missing = || Failure::new(Exit::Config, "the home folder is unknown").hint("set HOME");
    Ok(std::env::home_dir().ok_or_else(missing)?)
}

/// Reads a span such as `250ms`, `12s`, `90m`, `6h` or `2d`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "expected a whole number with ms, s, m, h or d, such as 90m";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| WANTED.to_owned())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WANTED.to_owned()),
    };
    let millis = number.checked_mul(unit_ms).ok_or_else(|| "too long".to_owned())?;
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A local market's node on a public chain would show the machine's own files to strangers.
    #[test]
    fn loopback_chains() {
        let on = |endpoint: &str| {
            let endpoints = endpoint.split(',').map(str::to_owned).collect();
            let networks = vec!["finney".to_owned()];
            SubtensorArgs { networks, endpoints, netuid: 27 }.is_on_loopback()
        };
        assert!(on("ws://127.0.0.1:9944") && on("local") && on("local,ws://127.0.0.2:9944"));
        assert!(!on("local,finney"));
        for other in
            ["finney", "wss://127.0.0.1.example.org:443", "ws://10.0.0.1:9944", "ws://127.0.0.1"]
        {
            assert!(!on(other), "{other}");
        }
    }

    /// A misread unit rents for days instead of minutes.
    #[test]
    fn spans() {
        assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_span("90m"), Ok(Duration::from_secs(5_400)));
        for bad in
            ["", "90", "m", "1.5h", "-1s", "1w", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }
}
