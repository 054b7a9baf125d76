//! Bringing a validator up: store, identity, loops.

use nicompute_chain::{Chain, ReadError};
use nicompute_client::{NodeDialer, TransportError};
use nicompute_daemon::{BoxError, ErrorChain, Kind, OnError, SharedClock, Tasks};
use nicompute_market::{Hotkey, Netuid};

use crate::config::ValidatorConfig;
use crate::handle::Handle;
use crate::loops;
use crate::state::{Parts, Shared, View};
use crate::store::{Store, StoreError};

/// Starts validators.
#[derive(Debug)]
pub struct Validator;

/// Why a validator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be used.
    #[error("the validator's store cannot be used")]
    Store(#[from] StoreError),
    /// The HTTP library cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] TransportError),
    /// The hotkey has no slot on the subnet.
    #[error("the hotkey {hotkey} is not registered on subnet {netuid}")]
    NotRegistered {
        /// The key.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// The chain answered, and the answer cannot be used.
    #[error("the subnet cannot be read")]
    Chain(#[source] ReadError),
    /// A share above the whole.
    #[error("--burn-share-ppm {0} is more than one million")]
    BurnShare(u32),
}

impl StartError {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => Some(error.remedy()),
            Self::NotRegistered { .. } => Some("take a slot first: nicompute register"),
            Self::Chain(error) => error.remedy(),
            Self::BurnShare(_) => Some("one million is everything"),
            Self::Http(_) => None,
        }
    }
}

impl Validator {
    /// Opens the store, checks the hotkey's slot and starts the loops. A chain that is gone does not stop the start: the loops
    /// go on asking.
    ///
    /// # Errors
    /// When the state folder, the configuration or the hotkey cannot be used.
    pub async fn start(
        config: ValidatorConfig,
        chain: Chain,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<Handle, StartError> {
        if config.burn_share_ppm > 1_000_000 {
            return Err(StartError::BurnShare(config.burn_share_ppm));
        }
        let hotkey = config.hotkey.hotkey();
        let store = Store::open(&config.state_dir, &hotkey).await?;
        let own_uid = match chain.uid_of(config.netuid, &hotkey).await {
            Ok(Some(uid)) => Some(uid),
            Ok(None) => return Err(StartError::NotRegistered { hotkey, netuid: config.netuid }),
            Err(error) if error.kind() == Kind::Elsewhere => {
                tracing::warn!(error = %ErrorChain(&error), "the chain is gone at the start");
                None
            }
            Err(error) => return Err(StartError::Chain(error)),
        };
        let view = View {
            own_uid,
            evidence: store.latest_evidence().await?,
            weights: store.last_weights().await?,
            ..View::default()
        };
        let dialer = NodeDialer::new(config.hotkey.clone(), SharedClock::clone(&clock))?;
        let shared = Shared::new(Parts { config, store, chain, dialer, clock, view });
        loops::start(&shared, &tasks);
        Ok(Handle::new(shared))
    }
}

/// Starts one loop that works until the tasks are told to stop. A round that fails is logged by itself and does not end it.
pub(crate) fn spawn<F, Fut>(tasks: &Tasks, name: &'static str, round: F)
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let stop = tasks.token().clone();
    tasks.spawn(name, OnError::Stop, async move {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok::<(), BoxError>(()),
                () = round() => {}
            }
        }
    });
}
