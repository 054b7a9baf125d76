//! Looking at a running market from outside, as anybody could: through the chain and the public API.

use std::time::Duration;

use nicompute_client::MarketClient;
use nicompute_market::Hotkey;
use nicompute_wire::market_api::{MarketStatusView, ProviderView};

use crate::exit::{Exit, Failure};

/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Asks again and again until there is an answer, within a limit. Errors of a single question are remembered and shown when
/// the time is over; they do not end the wait, since a daemon may still be coming up.
pub(crate) async fn until<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let mut last = None;
    let wait = async {
        loop {
            match ask().await {
                Ok(Some(value)) => return value,
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(limit, wait).await {
        Ok(value) => Ok(value),
        Err(_) => {
            let failure =
                Failure::new(Exit::Deadline, format!("{what}: not within {} s", limit.as_secs()));
            Err(match last {
                Some(error) => failure.because(error).into(),
                None => failure.into(),
            })
        }
    }
}

/// The provider's line in the validator's public status.
pub(crate) async fn provider(
    api: &MarketClient,
    hotkey: Hotkey,
) -> anyhow::Result<Option<ProviderView>> {
    let status: MarketStatusView = api.status().await?;
    Ok(status.providers.into_iter().find(|provider| provider.hotkey == hotkey))
}
