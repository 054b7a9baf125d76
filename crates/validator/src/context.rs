//! What the loops and the handle share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use nicompute_chain::{Chain, Head};
use nicompute_client::NodeDialer;
use nicompute_daemon::{SharedClock, Tasks};
use nicompute_market::{BlockNumber, UnixMillis};
use tokio::sync::{Notify, Semaphore, watch};

use crate::asking::Asking;
use crate::board::Board;
use crate::chain_view::ChainView;
use crate::config::ValidatorConfig;
use crate::loops::LoopStatus;
use crate::session::ProofDoor;
use crate::store::Store;

/// The folder of transcripts in the state directory.
pub(crate) const TRANSCRIPTS_DIR: &str = "transcripts";

/// Shared by the loops and the handle.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: ValidatorConfig,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) store: Store,
    pub(crate) dialer: NodeDialer,
    pub(crate) door: Arc<dyn ProofDoor>,
    /// The chain; nothing in tests that inject what it shows.
    pub(crate) chain: Option<Chain>,
    pub(crate) heads: watch::Receiver<Head>,
    pub(crate) view: watch::Sender<Option<Arc<ChainView>>>,
    pub(crate) board: Board,
    pub(crate) asking: Asking,
    /// When this process started, on its own clock.
    pub(crate) started_at: UnixMillis,
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) nudges: Nudges,
    /// The head at which commits were last looked after.
    pub(crate) commits_seen_at: AtomicU64,
    pub(crate) statuses: Mutex<BTreeMap<&'static str, LoopStatus>>,
}

/// Wake a loop before its timer does.
#[derive(Debug, Default)]
pub(crate) struct Nudges {
    pub(crate) discover: Notify,
    pub(crate) prove: Notify,
    pub(crate) weights: Notify,
    pub(crate) rentals: Notify,
}

impl Context {
    pub(crate) fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.unix_ms())
    }

    /// The newest block that this process has seen: never older than the last reading.
    pub(crate) fn head(&self) -> BlockNumber {
        let followed = self.heads.borrow().number;
        let read = self.view.borrow().as_ref().map_or(BlockNumber(0), |view| view.block);
        // A chain that began anew counts from its own beginning.
        if self.chain.is_some() && followed.get() > 0 { followed } else { read }
    }

    pub(crate) fn view(&self) -> Option<Arc<ChainView>> {
        self.view.borrow().clone()
    }

    pub(crate) fn transcripts_dir(&self) -> PathBuf {
        self.config.state_dir.join(TRANSCRIPTS_DIR)
    }

    pub(crate) fn set_status(&self, name: &'static str, status: LoopStatus) {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).insert(name, status);
    }

    pub(crate) fn status(&self, name: &'static str) -> LoopStatus {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.get(name).cloned().unwrap_or_default()
    }
}
