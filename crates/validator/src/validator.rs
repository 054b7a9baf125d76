//! The validator's start.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nicompute_chain::{Chain, Head};
use nicompute_client::{NodeDialer, TransportError};
use nicompute_daemon::{ErrorChain, Kind, SharedClock, Tasks};
use nicompute_market::{Hotkey, Netuid, UnixMillis};
use tokio::sync::{Semaphore, watch};

use crate::asking::Asking;
use crate::board::Board;
use crate::catalogue::CatalogueOrigin;
use crate::chain_view::ChainView;
use crate::config::ValidatorConfig;
use crate::context::{Context, Nudges, TRANSCRIPTS_DIR};
use crate::handle::Handle;
use crate::loops;
use crate::session::{ProofDoor, SshDoor};
use crate::store::{CatalogueStanding, DirLock, DirLockError, Store, StoreError};

/// How long a slot or a permit that is not there yet is waited for: both come with the first blocks of a young chain.
const REGISTERED_PATIENCE: Duration = Duration::from_secs(15);
/// The pause between two looks.
const REGISTERED_PAUSE: Duration = Duration::from_millis(500);

/// A running validator; dropping it changes nothing, the tasks belong to their owner.
#[derive(Debug)]
pub struct Validator {
    ctx: Arc<Context>,
}

/// Why a validator does not start. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    Dir(#[from] DirLockError),
    /// The folder of transcripts cannot be made.
    #[error("the folder {} cannot be made", dir.display())]
    Transcripts {
        /// The folder.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// The HTTP client cannot be made.
    #[error("the client of the providers cannot be made")]
    Client(#[from] TransportError),
    /// The hotkey has no slot.
    #[error("hotkey {hotkey} is not registered on subnet {netuid}")]
    NotRegistered {
        /// The hotkey.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// The hotkey may not validate.
    #[error("hotkey {hotkey} has no validator permit on subnet {netuid}")]
    NoPermit {
        /// The hotkey.
        hotkey: Hotkey,
        /// The subnet.
        netuid: Netuid,
    },
    /// A share above the whole.
    #[error("a burn share of {0} millionths is more than everything")]
    BurnShare(u32),
    /// An older signed catalogue than the one that was used before.
    #[error("the catalogue has version {given}, version {used} of the same signer was used before")]
    CatalogueOlder {
        /// The version that was used.
        used: u64,
        /// The version that was given.
        given: u64,
    },
    /// Two signed catalogues with one version.
    #[error("another catalogue of version {0} and the same signer was used before")]
    CatalogueChanged(u64),
}

impl StartError {
    /// Who can do something about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Client(_) => Kind::Bug,
            Self::Dir(_)
            | Self::Transcripts { .. }
            | Self::Store(_)
            | Self::NotRegistered { .. }
            | Self::NoPermit { .. }
            | Self::BurnShare(_)
            | Self::CatalogueOlder { .. }
            | Self::CatalogueChanged(_) => Kind::Caller,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Dir(DirLockError::InUse(_)) => {
                "stop the other process, or give this one a state directory of its own"
            }
            Self::Dir(DirLockError::Io { .. }) | Self::Transcripts { .. } => {
                "check that the directory exists and that this user may write to it"
            }
            Self::Store(StoreError::OtherOwner { .. }) => {
                "give each hotkey and subnet a state directory of its own"
            }
            Self::Store(_) => "check the disk; a store of a newer version needs that version",
            Self::NotRegistered { .. } => {
                "register the hotkey on the subnet first: nicompute register"
            }
            Self::BurnShare(_) => "one million is everything",
            Self::CatalogueOlder { .. } => "get the signer's newest catalogue",
            Self::CatalogueChanged(_) => "ask the signer for a catalogue with a version of its own",
            Self::NoPermit { .. } => {
                "stake enough on the hotkey to be among the subnet's validators, and wait an epoch"
            }
            Self::Client(_) => return None,
        })
    }
}

impl Validator {
    /// Starts the validator. While the chain cannot be reached it waits and goes on trying.
    ///
    /// # Errors
    /// When the directory or the store cannot be used, or the chain says that this hotkey is no validator here.
    pub async fn start(
        config: ValidatorConfig,
        chain: Chain,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<(Self, Handle), StartError> {
        Self::start_through(config, chain, Arc::new(SshDoor), clock, tasks).await
    }

    /// The same with another way into leases than SSH.
    ///
    /// # Errors
    /// As [`Validator::start`].
    #[doc(hidden)]
    pub async fn start_through(
        config: ValidatorConfig,
        chain: Chain,
        door: Arc<dyn ProofDoor>,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<(Self, Handle), StartError> {
        check_burn_share(&config)?;
        let lock = DirLock::take(&config.state_dir)?;
        check_registered(&config, &chain, &clock).await?;
        let heads = chain.subscribe_heads();
        let parts = Parts { chain: Some(chain), heads, view: None, door };
        Self::open(config, lock, parts, clock, tasks).await
    }

    /// Starts a validator on a subnet that does not change, over a door of the caller's choice: for tests of everything
    /// but the chain and SSH.
    ///
    /// # Errors
    /// When the directory or the store cannot be used.
    #[doc(hidden)]
    pub async fn start_still(
        config: ValidatorConfig,
        subnet: StillSubnet,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<(Self, Handle), StartError> {
        check_burn_share(&config)?;
        let lock = DirLock::take(&config.state_dir)?;
        let StillSubnet { metagraph, rules, finalized, owner, door } = subnet;
        let me = config.hotkey.hotkey();
        let view = ChainView::new(&metagraph, finalized, rules, owner, &me);
        let heads = watch::Sender::new(finalized).subscribe();
        let parts = Parts { chain: None, heads, view: Some(Arc::new(view)), door };
        Self::open(config, lock, parts, clock, tasks).await
    }

    async fn open(
        config: ValidatorConfig,
        lock: DirLock,
        parts: Parts,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<(Self, Handle), StartError> {
        let ctx = Arc::new(context(config, lock, parts, clock, tasks).await?);
        loops::start(&ctx);
        let handle = Handle::new(Arc::clone(&ctx));
        Ok((Self { ctx }, handle))
    }

    /// Closes the store after the tasks have ended, so that nothing is left to be recovered.
    pub async fn close(self) {
        self.ctx.store.close().await;
    }
}

/// A subnet that does not change.
#[doc(hidden)]
#[derive(Debug)]
pub struct StillSubnet {
    /// Everybody on it.
    pub metagraph: nicompute_chain::Metagraph,
    /// Its rules.
    pub rules: nicompute_chain::Hyperparameters,
    /// The finalised block.
    pub finalized: Head,
    /// Its owner.
    pub owner: Option<Hotkey>,
    /// The way into leases.
    pub door: Arc<dyn ProofDoor>,
}

/// What differs between the product and a test.
pub(crate) struct Parts {
    pub(crate) chain: Option<Chain>,
    pub(crate) heads: watch::Receiver<Head>,
    pub(crate) view: Option<Arc<ChainView>>,
    pub(crate) door: Arc<dyn ProofDoor>,
}

/// What the loops and the handle share, with nothing running yet.
pub(crate) async fn context(
    config: ValidatorConfig,
    lock: DirLock,
    parts: Parts,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<Context, StartError> {
    let dir = config.state_dir.join(TRANSCRIPTS_DIR);
    fs::create_dir_all(&dir).map_err(|source| StartError::Transcripts { dir, source })?;
    let (hotkey, netuid) = (config.hotkey.hotkey(), config.netuid);
    let store = Store::open(&config.state_dir, lock, &hotkey, netuid).await?;
    if let Some(origin) = &config.catalogue_origin {
        check_catalogue(&store, origin, config.catalogue.version).await?;
    }
    let dialer = NodeDialer::new(config.hotkey.clone(), SharedClock::clone(&clock))?;
    let sessions = Arc::new(Semaphore::new(config.policies.sessions_max));
    let started_at = UnixMillis(clock.unix_ms());
    Ok(Context {
        config,
        clock,
        tasks,
        store,
        dialer,
        door: parts.door,
        chain: parts.chain,
        heads: parts.heads,
        view: watch::Sender::new(parts.view),
        board: Board::default(),
        asking: Asking::default(),
        started_at,
        sessions,
        nudges: Nudges::default(),
        commits_seen_at: AtomicU64::new(0),
        statuses: Mutex::default(),
    })
}

const fn check_burn_share(config: &ValidatorConfig) -> Result<(), StartError> {
    match config.policies.burn_share_ppm {
        0..=1_000_000 => Ok(()),
        share => Err(StartError::BurnShare(share)),
    }
}

/// Refuses a signed catalogue that is put back.
async fn check_catalogue(
    store: &Store,
    origin: &CatalogueOrigin,
    given: u64,
) -> Result<(), StartError> {
    match store.accept_catalogue(origin, given).await? {
        CatalogueStanding::Accepted => Ok(()),
        CatalogueStanding::Older { used } => Err(StartError::CatalogueOlder { used, given }),
        CatalogueStanding::Changed => Err(StartError::CatalogueChanged(given)),
    }
}

/// Refuses a hotkey that the chain does not know as a validator. A chain that does not answer refuses nobody.
async fn check_registered(
    config: &ValidatorConfig,
    chain: &Chain,
    clock: &SharedClock,
) -> Result<(), StartError> {
    let (hotkey, netuid) = (config.hotkey.hotkey(), config.netuid);
    let until = clock.monotonic().saturating_add(REGISTERED_PATIENCE);
    loop {
        let refused = match chain.metagraph(netuid).await {
            Err(error) => {
                let error = ErrorChain(&error).to_string();
                tracing::warn!(error, "the chain does not answer; the validator goes on trying");
                return Ok(());
            }
            Ok(metagraph) => match metagraph.neuron(&hotkey) {
                Some(neuron) if neuron.validator_permit => return Ok(()),
                Some(_) => StartError::NoPermit { hotkey, netuid },
                None => StartError::NotRegistered { hotkey, netuid },
            },
        };
        if clock.monotonic() >= until {
            return Err(refused);
        }
        clock.sleep(REGISTERED_PAUSE).await;
    }
}
