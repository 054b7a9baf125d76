//! How the renter's commands find their market and their own files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nicompute_client::{ApiBase, MarketClient, MarketError, Refusal};
use nicompute_daemon::{Kind, Secret};
use nicompute_market::LeaseId;
use nicompute_wire::market_api::RentalView;

use crate::args;
use crate::exit::{Exit, Failure};
use crate::text::escaped;

/// The longest single question to the market's API; a lease may take this long to come up.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Which market, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct MarketArgs {
    /// The market's API.
    #[arg(
        long,
        env = "NICOMPUTE_API",
        default_value = "http://127.0.0.1:8092",
        value_name = "URL"
    )]
    api: ApiBase,
    /// A file with the API key; the variable NICOMPUTE_API_KEY otherwise.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The folder with the keys of your leases [default: ~/.nicompute].
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

impl MarketArgs {
    /// The client.
    pub(crate) fn client(&self) -> anyhow::Result<MarketClient> {
        let key = match &self.api_key_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
                let what = format!("cannot read --api-key-file {}", file.display());
                Failure::new(Exit::Config, what).because(error).hint("name a file with an API key")
            })?),
            // Never an option: everybody on the machine can read command lines.
            None => std::env::var_os("NICOMPUTE_API_KEY").and_then(|key| key.into_string().ok()),
        };
        let key = key.map(|key| Secret::new(key.trim().to_owned()));
        Ok(MarketClient::new(self.api.clone(), key, CALL_MAX)?)
    }

    /// The folder with the files of one lease.
    pub(crate) fn lease_folder(&self, lease: LeaseId) -> anyhow::Result<PathBuf> {
        let home = match &self.home {
            Some(home) => home.clone(),
            None => args::home()?.join(".nicompute"),
        };
        Ok(home.join("leases").join(lease.to_string()))
    }
}

/// Runs the work of a command on a small runtime of its own.
pub(crate) fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

/// A failure of the market as an exit code with the market's own hint.
pub(crate) fn failed(error: MarketError) -> anyhow::Error {
    let exit = match (&error, error.kind()) {
        (MarketError::Refused(refusal), _) => exit_of(refusal),
        (_, Kind::Elsewhere) => Exit::Unavailable,
        (_, Kind::Caller) => Exit::Usage,
        (_, Kind::Bug) => Exit::Failed,
    };
    let hint = error.hint();
    let failure = Failure::new(exit, "the market did not do it").because(error);
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

const fn exit_of(refusal: &Refusal) -> Exit {
    match refusal.status {
        401 | 403 => Exit::NotAllowed,
        404 => Exit::NotFound,
        408 | 504 => Exit::Deadline,
        429 | 500..=599 => Exit::Unavailable,
        _ => Exit::Refused,
    }
}

/// The caller's lease whose id begins with this text.
pub(crate) async fn find(api: &MarketClient, text: &str) -> anyhow::Result<RentalView> {
    if let Ok(id) = text.parse::<LeaseId>() {
        return api.lease(id).await.map_err(failed);
    }
    let leases = api.leases().await.map_err(failed)?.leases;
    let named = leases.into_iter().filter(|lease| lease.id.to_string().starts_with(text));
    let mut named: Vec<RentalView> = named.collect();
    let hint = "nicompute ps lists your leases";
    match (named.pop(), named.len()) {
        (Some(lease), 0) => Ok(lease),
        (None, _) => {
            Err(Failure::new(Exit::NotFound, format!("no lease of yours begins with {text}"))
                .hint(hint)
                .into())
        }
        (Some(_), _) => {
            let what = format!("more than one of your leases begins with {text}");
            Err(Failure::new(Exit::Usage, what).hint(hint).into())
        }
    }
}

/// A view as JSON or as text.
pub(crate) fn print<T: serde::Serialize>(
    out: &mut dyn std::io::Write,
    json: Option<&T>,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match json {
        Some(value) => writeln!(out, "{}", escaped(&serde_json::to_string_pretty(value)?))?,
        None => write!(out, "{}", text())?,
    }
    Ok(())
}

/// Dollars an hour for people.
pub(crate) fn dollars(micro_usd: u64) -> String {
    format!("{}.{:04}", micro_usd / 1_000_000, micro_usd % 1_000_000 / 100)
}

/// The file that remembers with which key a lease is entered.
pub(crate) fn key_pointer(folder: &Path) -> PathBuf {
    folder.join("key")
}

/// The SSH key of a lease, as `rent` noted it.
pub(crate) fn key_of(folder: &Path) -> anyhow::Result<PathBuf> {
    let pointer = key_pointer(folder);
    let text = std::fs::read_to_string(&pointer).map_err(|error| {
        let what = format!("no key of this lease is known here ({})", pointer.display());
        Failure::new(Exit::Config, what).because(error).hint("name it: --ssh-key FILE")
    })?;
    Ok(PathBuf::from(text.trim_end_matches('\n')))
}

/// Reads one public key next to a secret one: `FILE.pub`.
pub(crate) fn public_half(secret: &Path) -> anyhow::Result<String> {
    let mut file = secret.as_os_str().to_owned();
    file.push(".pub");
    let file = PathBuf::from(file);
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("read the public half {}", file.display()))?;
    Ok(text.trim().to_owned())
}
