//! What the node asks of the chain: who may take leases, whether it is registered itself, and to announce its address.
//!
//! The chain may be gone for hours. What was known last is used for a while; leases that run go on in any case.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nicompute_daemon::{BoxError, ErrorChain, Kind, SharedClock};
use nicompute_market::{Coldkey, Hotkey, Rao};
use tokio::sync::watch;

use crate::leases::Stakes;

/// How often the subnet is read when nothing asks for it. A block of the real chain takes this long.
const READ_EVERY: Duration = Duration::from_secs(12);
/// A hotkey that is not known as a validator makes the node look again, but not more often than this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How long a request waits for the chain's answer about its sender.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long the last known validators count when the chain is gone.
pub const PERMITS_AGE_MAX: Duration = Duration::from_secs(3600);

/// The subnet, as far as a provider's node is concerned with it.
#[async_trait]
pub trait Subnet: Send + Sync + fmt::Debug + 'static {
    /// Everybody who is registered.
    ///
    /// # Errors
    /// When the chain gives no answer.
    async fn members(&self) -> Result<Vec<Member>, SubnetError>;

    /// Announces where this node is reached.
    ///
    /// # Errors
    /// When the chain does not take it.
    async fn announce(&self, at: SocketAddr) -> Result<(), SubnetError>;
}

/// One neuron of the subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub hotkey: Hotkey,
    /// Who owns it.
    pub coldkey: Coldkey,
    /// Its stake weight.
    pub stake: Rao,
    /// Where it says that it is reached.
    pub endpoint: Option<SocketAddr>,
    /// Whether it may act as a validator.
    pub validator_permit: bool,
}

/// The chain did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
#[error("the chain did not do what the node asked of it")]
pub struct SubnetError {
    /// Whether asking again can help.
    pub kind: Kind,
    /// What a person can do about it.
    pub remedy: Option<&'static str>,
    /// The cause.
    #[source]
    pub source: BoxError,
}

/// The chain gave no answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", READ_LIMIT.as_secs())]
struct NoAnswer;

/// What is known about a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit {
    /// It has a validator permit.
    Yes,
    /// It has none.
    No,
    /// The chain has been gone for too long to tell.
    Unknown,
}

/// What is known about a hotkey that may be on the subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is registered.
    Member(KnownMember),
    /// It is not.
    Stranger,
    /// The chain has been gone for too long to tell.
    Unknown,
}

/// What is remembered of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownMember {
    pub(crate) coldkey: Coldkey,
    pub(crate) stake: Rao,
    pub(crate) permit: bool,
}

/// How this node itself stands on the subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not registered.
    Stranger,
    /// Registered, with what it announced.
    Member(Option<SocketAddr>),
}

/// The last known members of the subnet.
#[derive(Debug)]
pub(crate) struct Permits {
    subnet: Box<dyn Subnet>,
    me: Hotkey,
    clock: SharedClock,
    known: Mutex<Members>,
    /// One reader at a time; the others use what it found.
    reading: tokio::sync::Mutex<()>,
    /// What the chain says about our address, once it is right.
    announced: watch::Sender<Option<SocketAddr>>,
}

#[derive(Debug, Default)]
struct Members {
    tried_at: Option<Duration>,
    read_at: Option<Duration>,
    members: BTreeMap<Hotkey, KnownMember>,
}

// === impl Permits ===

impl Permits {
    pub(crate) fn new(subnet: Box<dyn Subnet>, me: Hotkey, clock: SharedClock) -> Self {
        let (known, reading) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { subnet, me, clock, known, reading, announced: watch::Sender::new(None) }
    }

    /// Whether this hotkey may take leases.
    pub(crate) async fn of(&self, hotkey: &Hotkey) -> Permit {
        let known = self.recall(hotkey);
        if known == Permit::Yes || !self.may_try() {
            return known;
        }
        self.look_again().await;
        self.recall(hotkey)
    }

    /// What is known about this hotkey, after another look where it is not known as a member.
    pub(crate) async fn member(&self, hotkey: &Hotkey) -> Known {
        let known = self.recall_member(hotkey);
        if matches!(known, Known::Member(_)) || !self.may_try() {
            return known;
        }
        self.look_again().await;
        self.recall_member(hotkey)
    }

    async fn look_again(&self) {
        let reading = self.reading.lock().await;
        if self.may_try()
            && let Err(error) = self.refresh_soon().await
        {
            tracing::warn!(error = %ErrorChain(&error), "cannot look for a new member");
        }
        drop(reading);
    }

    /// Reads the subnet, gives up after a while, and says how this node stands on it.
    pub(crate) async fn refresh_soon(&self) -> Result<Standing, SubnetError> {
        self.lock().tried_at = Some(self.clock.monotonic());
        tokio::select! {
            biased;
            read = self.refresh() => read,
            () = self.clock.sleep(READ_LIMIT) => Err(SubnetError {
                kind: Kind::Elsewhere,
                remedy: Some("check that the chain's node runs and that its address is right"),
                source: NoAnswer.into(),
            }),
        }
    }

    /// Watches the subnet and keeps the announced address right. Ends when it is dropped.
    pub(crate) async fn watch(&self, address: SocketAddr) {
        loop {
            if let Err(error) = self.look_after(address).await {
                tracing::warn!(error = %ErrorChain(&error), "cannot look after the node's entry on chain");
            }
            self.clock.sleep(READ_EVERY).await;
        }
    }

    /// What the chain says about our address, once it is right.
    pub(crate) fn announced(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.announced.subscribe()
    }

    async fn look_after(&self, address: SocketAddr) -> Result<(), SubnetError> {
        match self.refresh().await? {
            Standing::Stranger => {
                tracing::error!(
                    hotkey = %self.me,
                    "this hotkey is not registered on the subnet any more; register it again"
                );
                return Ok(());
            }
            Standing::Member(Some(announced)) if announced == address => {}
            Standing::Member(before) => {
                self.subnet.announce(address).await?;
                tracing::info!(?before, now = %address, "announced the node's address on chain");
            }
        }
        self.announced.send_if_modified(|known| known.replace(address) != Some(address));
        Ok(())
    }

    async fn refresh(&self) -> Result<Standing, SubnetError> {
        let members = self.subnet.members().await?;
        let mut known = self.lock();
        known.read_at = Some(self.clock.monotonic());
        known.members = members.iter().map(|member| (member.hotkey, member.into())).collect();
        drop(known);
        let me = members.iter().find(|member| member.hotkey == self.me);
        Ok(me.map_or(Standing::Stranger, |member| Standing::Member(member.endpoint)))
    }

    fn recall(&self, hotkey: &Hotkey) -> Permit {
        match self.recall_member(hotkey) {
            Known::Member(member) if member.permit => Permit::Yes,
            Known::Member(_) | Known::Stranger => Permit::No,
            Known::Unknown => Permit::Unknown,
        }
    }

    /// What is known about this hotkey without another look.
    pub(crate) fn recall_member(&self, hotkey: &Hotkey) -> Known {
        let known = self.lock();
        match known.read_at {
            Some(at) if self.clock.monotonic().saturating_sub(at) <= PERMITS_AGE_MAX => {
                known.members.get(hotkey).map_or(Known::Stranger, |member| Known::Member(*member))
            }
            _ => Known::Unknown,
        }
    }

    fn may_try(&self) -> bool {
        let tried_at = self.lock().tried_at;
        tried_at.is_none_or(|at| self.clock.monotonic().saturating_sub(at) >= LOOK_AGAIN_AFTER)
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stakes for Permits {
    fn stake_of(&self, hotkey: &Hotkey) -> Rao {
        match self.recall_member(hotkey) {
            Known::Member(member) => member.stake,
            Known::Stranger | Known::Unknown => Rao(0),
        }
    }
}

// === impl KnownMember ===

impl From<&Member> for KnownMember {
    fn from(member: &Member) -> Self {
        Self { coldkey: member.coldkey, stake: member.stake, permit: member.validator_permit }
    }
}
