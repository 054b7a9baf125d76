//! Logs on standard error: one line an event, text for people or JSON for collectors.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging for this process. `filter` is a `tracing` directive such as `info,nicompute_miner=debug`.
///
/// # Errors
/// When the filter does not parse, or when logging was started already.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), crate::BoxError> {
    let filter = EnvFilter::try_new(filter)?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
}
