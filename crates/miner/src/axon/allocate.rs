//! `/Allocate` on the leases of this node: what is asked is told apart in `order`, done here, and answered as 1.9.0 answers.
//!
//! A lease that is created is provisional: it ends by itself within [`PROVISIONAL_SECONDS`] unless it came up and its caller
//! still waited for the answer; its time is stored right after that. So neither a kill of this process nor a caller who went
//! away leaves a lease that nobody can enter. A kill in the moment between the two ends a lease in which nobody was yet. Whoever changes a lease signs with the hotkey that created it and shows its key.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::{CancellationToken, ErrorChain, OnError, SharedClock};
use nicompute_host::gateway::{PasswordHash, PasswordHashError};
use nicompute_market::{
    Conditions, FailReason, Hotkey, LEASE_MILLIS_MAX, Lease, LeaseId, LeaseKeys, LeaseOptions,
    LeaseState, LegacyAccess, OfferId, PROOF_LEASE_MILLIS_MAX, Purpose, UnixMillis,
};
use nicompute_wire::axon::{Access, Allocate, CallerKey, Requirement, SealError};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::order::{self, Change, ImageWish, Order, OrderError, Wish};
use super::{Door, password};
use crate::leases::{Created, Denied, Leases, Order as LeaseOrder, Owner};
use crate::offers::{ImageChoice, Sold};
use crate::store::StoreError;

/// How long a lease is held whose answer has not gone out. Longer than any caller waits for it.
pub(crate) const PROVISIONAL_SECONDS: u64 = 120;
/// What lasts no longer was never answered: a moment may pass until such a lease holds its offer and its time begins, and
/// no lease that was answered is as short.
const UNANSWERED_MILLIS_MAX: u64 = 2 * PROVISIONAL_SECONDS * MILLIS;
const _: () =
    assert!(UNANSWERED_MILLIS_MAX < PROOF_LEASE_MILLIS_MAX, "an answered test would be ended");
/// From a request's first byte to its answer. 1.9.0's own programs wait 60 s for a lease.
pub const ALLOCATE_LIMIT: Duration = Duration::from_secs(55);
/// What is kept of the caller's patience for the answer's way.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// Between two tries to store the time of a lease that was answered.
const KEEP_PAUSE: Duration = Duration::from_secs(1);
/// How long a lease that was given back may take to be gone before that is answered. It is on its way then in any case.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Offers that are tried for one request: whoever is slower than others so often comes again.
const OFFERS_TRIED_MAX: usize = 8;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
const MILLIS: u64 = 1000;

/// Owners whose lease is being created now.
#[derive(Debug, Default, Clone)]
pub(super) struct Creating(Arc<Mutex<BTreeSet<[u8; 32]>>>);

/// An owner's place among those, until it is dropped.
struct Place {
    creating: Creating,
    key: [u8; 32],
}

/// Who asks, and until when an answer is worth anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) hotkey: Hotkey,
    /// On the monotonic clock.
    pub(super) until: Duration,
}

/// What is answered, beside the port.
#[derive(Debug, Default)]
struct Told {
    is_so: bool,
    info: Option<String>,
    message: Option<String>,
}

/// A lease on its way to its caller.
struct Delivery {
    leases: Arc<Leases>,
    clock: SharedClock,
    /// What is tried, one offer after the other, each with how long it is to last in all.
    orders: Vec<(LeaseOrder, u64)>,
    /// On the monotonic clock.
    until: Duration,
}

/// Why something is answered with no.
#[derive(Debug, thiserror::Error)]
enum No {
    #[error("{0}")]
    Order(#[from] OrderError),
    #[error("the machine has less than device_requirement.{0}")]
    Missing(&'static str),
    #[error("the machine is leased, or still being cleared")]
    Occupied,
    #[error(
        "a lease of this key is here already; give it back first (timeline 0), or come with a new key"
    )]
    Twice,
    #[error("no lease of this key and this hotkey is here")]
    NotYours,
    #[error("timeline is shorter than the shortest lease of this node")]
    Short,
    #[error("this node is closed for maintenance, now or soon")]
    Closed,
    #[error("the lease was not ready in time, and is gone")]
    Late,
    #[error("the lease could not be prepared ({0})")]
    Failed(&'static str),
    #[error("the lease is over")]
    Over,
    #[error("this node cannot do it now")]
    Internal,
    #[error("{0}")]
    Denied(String),
}

impl Door {
    /// Does what is asked, or says why not.
    pub(super) async fn allocate(&self, asked: Allocate, asker: Asker) -> Allocate {
        let told = match self.obey(&asked, asker).await {
            Ok(told) => told,
            Err(no) => {
                tracing::debug!(caller = %asker.hotkey, checking = asked.checking, why = %no, "asked to allocate");
                Told { message: Some(no.to_string()), ..Told::default() }
            }
        };
        let mut output = Map::from_iter([("status".to_owned(), Value::Bool(told.is_so))]);
        output.extend(told.info.map(|info| ("info".to_owned(), Value::String(info))));
        output.extend(told.message.map(|words| ("message".to_owned(), Value::String(words))));
        output.insert("port".to_owned(), json!(self.ssh_port));
        let mut answered = Allocate { output, ..asked };
        answered.docker_requirement.insert("ssh_port".to_owned(), json!(self.ssh_port));
        answered
    }

    async fn obey(&self, asked: &Allocate, asker: Asker) -> Result<Told, No> {
        match order::read(asked)? {
            Order::Check(requirement) => self.free_offers(&requirement).await.map(|_| Told::yes()),
            Order::Mine(key) => {
                let lease = self.lease_of(&key, asker).await?;
                if lease.state == LeaseState::Running { Ok(Told::yes()) } else { Err(No::Over) }
            }
            Order::Create(wish) => self.create(*wish, asker).await,
            Order::Destroy(key) => self.destroy(&key, asker).await,
            Order::Change(key, change) => self.change(&key, change, asker).await,
        }
    }

    /// The offers that have all this and are free, at least one. A yes is a promise as long as nobody else comes first.
    async fn free_offers(&self, requirement: &Requirement) -> Result<Vec<OfferId>, No> {
        let mut no = match requirement.missing(self.offers.machine()) {
            Some(field) => return Err(No::Missing(field)),
            None => None,
        };
        let free = self.leases.free().await?;
        let mut fit = Vec::new();
        for (offer, machine) in self.offers.machines() {
            match requirement.missing(&machine) {
                Some(field) => no = no.or(Some(No::Missing(field))),
                None if free.contains(&offer) => fit.push(offer),
                None => no = Some(No::Occupied),
            }
        }
        if fit.is_empty() { Err(no.unwrap_or(No::Occupied)) } else { Ok(fit) }
    }

    /// The open lease that this hotkey created with this key.
    async fn lease_of(&self, key: &CallerKey, asker: Asker) -> Result<Lease, No> {
        let owner = Owner::Caller(&asker.hotkey, key.sha256());
        self.leases.find(owner).await?.ok_or(No::NotYours)
    }

    async fn create(&self, wish: Wish, asker: Asker) -> Result<Told, No> {
        let place = self.creating.place(*wish.key.sha256()).ok_or(No::Twice)?;
        match self.lease_of(&wish.key, asker).await {
            Err(No::NotYours) => {}
            Ok(_) => return Err(No::Twice),
            Err(no) => return Err(no),
        }
        let fit = self.free_offers(&wish.requirement).await?;
        let (legacy, info) = self.secrets(&wish.key).await?;
        let (mut orders, mut no) = (Vec::new(), None);
        for offer in fit.into_iter().take(OFFERS_TRIED_MAX) {
            match self.order(offer, &wish, &legacy, asker.hotkey).await {
                Ok(order) => orders.push(order),
                Err(refused) => no = no.or(Some(refused)),
            }
        }
        if orders.is_empty() {
            return Err(no.unwrap_or(No::Occupied));
        }
        let delivery = Delivery {
            leases: Arc::clone(&self.leases),
            clock: Arc::clone(&self.clock),
            orders,
            until: asker.until.saturating_sub(ANSWER_TIME),
        };
        let ((give, take), stop) = (oneshot::channel(), self.tasks.token().clone());
        self.tasks.spawn("lease of the v1.9.0 door", OnError::Log, async move {
            // Kept until the lease is answered or gone.
            let _place = place;
            delivery.run(stop, give).await;
            Ok(())
        });
        let full_seconds = take.await.map_err(|_| No::Internal)??;
        let asked_seconds = wish.days.saturating_mul(SECONDS_PER_DAY);
        let is_cut = wish.purpose == Purpose::Rental && full_seconds < asked_seconds;
        let message = is_cut.then(|| format!("the lease ends after {}", shown(full_seconds)));
        Ok(Told { is_so: true, info: Some(info), message })
    }

    /// The order for one offer, with how long it is to last in all.
    async fn order(
        &self,
        offer: OfferId,
        wish: &Wish,
        legacy: &LegacyAccess,
        holder: Hotkey,
    ) -> Result<(LeaseOrder, u64), No> {
        let sold = self.offers.sold(&offer).ok_or(No::Occupied)?;
        let full_seconds = lasts_seconds(wish, &sold.conditions, self.unix_now())?;
        let image = self.image(&sold, wish.image.clone()).await?;
        let order = LeaseOrder {
            id: draw_id()?,
            offer,
            purpose: wish.purpose,
            holder,
            keys: LeaseKeys::of_user(wish.ssh_key.iter().cloned().collect()),
            image,
            duration_seconds: PROVISIONAL_SECONDS,
            full_seconds: Some(full_seconds),
            // What the offer gives: callers of this door cannot choose.
            options: LeaseOptions {
                class: sold.conditions.classes.first().copied().unwrap_or_default(),
                network: sold.conditions.network,
                ..LeaseOptions::default()
            },
            legacy: Some(legacy.clone()),
        };
        Ok((order, full_seconds))
    }

    /// The password, as it is stored and as it is answered. It is nowhere else.
    async fn secrets(&self, key: &CallerKey) -> Result<(LegacyAccess, String), No> {
        let (key, port) = (key.clone(), self.ssh_port);
        let made = tokio::task::spawn_blocking(move || {
            let password = password::draw().map_err(|_| No::Internal)?;
            let hash = PasswordHash::new(&password)?;
            let info = key.seal(&Access { password, port })?;
            let (owner_key_sha256, password_hash) = (*key.sha256(), hash.to_text());
            Ok((LegacyAccess { owner_key_sha256, password_hash }, info))
        });
        made.await.map_err(|_| No::Internal)?
    }

    /// The image of a lease: the one that was named, or the one that was hinted at where the offer has it here.
    async fn image(&self, sold: &Sold, wish: ImageWish) -> Result<Option<String>, No> {
        let name = match wish {
            ImageWish::Named(name) => return Ok(Some(name)),
            ImageWish::Hinted(name) if name.is_empty() => return Ok(None),
            ImageWish::Hinted(name) => name,
        };
        match self.offers.choose_image(sold, Some(name)).await.map_err(Denied::from)? {
            ImageChoice::Present(name) => Ok(Some(name)),
            ImageChoice::Fetched(_) | ImageChoice::Unknown | ImageChoice::None => Ok(None),
        }
    }

    fn unix_now(&self) -> UnixMillis {
        UnixMillis(self.clock.unix_ms())
    }

    async fn destroy(&self, key: &CallerKey, asker: Asker) -> Result<Told, No> {
        let lease = self.lease_of(key, asker).await?;
        let owner = Owner::Caller(&asker.hotkey, key.sha256());
        self.leases.release(lease.terms.id, owner).await?;
        let limit = asker.until.saturating_sub(ANSWER_TIME).saturating_sub(self.clock.monotonic());
        tokio::select! {
            biased;
            ended = self.until(lease.terms.id, owner, |lease| lease.state.is_final()) => drop(ended?),
            // What is stored will come true; the caller need not wait for it.
            () = self.clock.sleep(limit.min(END_LIMIT)) => {}
        }
        Ok(Told::yes())
    }

    async fn change(&self, key: &CallerKey, change: Change, asker: Asker) -> Result<Told, No> {
        let lease = self.lease_of(key, asker).await?;
        let (id, owner) = (lease.terms.id, Owner::Caller(&asker.hotkey, key.sha256()));
        match change {
            Change::Key(slot, key) => drop(self.leases.change_keys(id, owner, slot, &[key]).await?),
            Change::Pause => drop(self.leases.pause(id, owner).await?),
            Change::Resume => drop(self.leases.resume(id, owner).await?),
            Change::Restart => {
                self.leases.restart(id, owner).await?;
                let limit = asker.until.saturating_sub(ANSWER_TIME);
                let limit = limit.saturating_sub(self.clock.monotonic());
                let again = |lease: &Lease| !lease.restart_asked || lease.state.is_final();
                let after = tokio::select! {
                    biased;
                    after = self.until(id, owner, again) => after?,
                    () = self.clock.sleep(limit) => return Err(No::Late),
                };
                if after.state.is_final() {
                    return Err(No::Over);
                }
            }
        }
        Ok(Told::yes())
    }

    /// Waits until a lease is as it should be. The caller bounds the wait.
    async fn until(
        &self,
        id: LeaseId,
        owner: Owner<'_>,
        is_so: impl Fn(&Lease) -> bool,
    ) -> Result<Lease, No> {
        let mut changes = self.store.changes();
        loop {
            let lease = self.leases.get(id, owner).await?;
            if is_so(&lease) {
                return Ok(lease);
            }
            // The door holds the store, so the channel is open.
            drop(changes.changed().await);
        }
    }

    /// Ends what a process before this one stored and did not answer.
    pub(super) async fn end_unanswered(&self) -> Result<(), StoreError> {
        for lease in self.store.open_leases().await? {
            let lasts = lease.expires_at.millis_since(lease.requested_at);
            if lease.terms.legacy.is_none() || lasts > UNANSWERED_MILLIS_MAX {
                continue;
            }
            let (id, holder) = (lease.terms.id, lease.terms.holder);
            tracing::info!(lease = %id, "ending a lease whose answer never went out");
            if let Err(error) = self.leases.release(id, Owner::Holder(&holder)).await {
                tracing::error!(lease = %id, error = %ErrorChain(&error), "it ends by itself");
            }
        }
        Ok(())
    }
}

// === impl Creating ===

impl Creating {
    /// A place, unless this owner has one.
    fn place(&self, key: [u8; 32]) -> Option<Place> {
        let is_new = self.lock().insert(key);
        is_new.then(|| Place { creating: self.clone(), key })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<[u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.creating.lock().remove(&self.key);
    }
}

/// How long a lease lasts: as many days as were asked for and the offer gives, or minutes where it is a test.
fn lasts_seconds(wish: &Wish, conditions: &Conditions, now: UnixMillis) -> Result<u64, No> {
    let (shortest, longest) = match wish.purpose {
        Purpose::Proof => (0, PROOF_LEASE_MILLIS_MAX),
        Purpose::Rental => {
            (conditions.duration_millis_min, conditions.duration_millis_max.min(LEASE_MILLIS_MAX))
        }
    };
    let asked = wish.days.saturating_mul(SECONDS_PER_DAY).saturating_mul(MILLIS);
    if asked < shortest {
        return Err(No::Short);
    }
    let open = conditions.latest_end(now).map_or(u64::MAX, |end| end.millis_since(now));
    // A shorter one would be taken for one that was never answered.
    if open < shortest || open <= UNANSWERED_MILLIS_MAX {
        return Err(No::Closed);
    }
    Ok(asked.min(longest).min(open) / MILLIS)
}

/// A time as people say it.
fn shown(seconds: u64) -> String {
    match seconds / SECONDS_PER_DAY {
        0 => format!("{} minutes", seconds / 60),
        days => format!("{days} days"),
    }
}

fn draw_id() -> Result<LeaseId, No> {
    let mut drawn = [0; 16];
    getrandom::fill(&mut drawn).map_err(|_| No::Internal)?;
    Ok(LeaseId::from_random_bytes(drawn))
}

/// Gives a lease that was answered the time that was answered. What the store refuses now is asked again as long as the
/// lease is there without it.
async fn keep(leases: &Leases, clock: &SharedClock, lease: &Lease, full_seconds: u64) {
    let (id, owner) = (lease.terms.id, Owner::Holder(&lease.terms.holder));
    // Counted from the request, which is what a proof's longest time is counted from.
    let until = lease.requested_at.saturating_add_millis(full_seconds.saturating_mul(MILLIS));
    for _ in 0..PROVISIONAL_SECONDS {
        match leases.keep_until(id, owner, until).await {
            Ok(_) => return,
            // It changed again and again while it was asked.
            Err(Denied::Changing) => {}
            Err(Denied::Store(error)) => {
                tracing::error!(lease = %id, error = %ErrorChain(&error), "cannot store how long a lease lasts");
            }
            Err(denied) => {
                tracing::warn!(lease = %id, %denied, "an answered lease was not prolonged");
                return;
            }
        }
        clock.sleep(KEEP_PAUSE).await;
    }
}

// === impl Delivery ===

impl Delivery {
    /// Brings a lease up and says so; takes it back where it does not come up or nobody hears it. Where somebody else was
    /// faster the next offer is tried. A task of its own: the request may end at any moment.
    async fn run(mut self, stop: CancellationToken, mut give: oneshot::Sender<Result<u64, No>>) {
        let mut orders = std::mem::take(&mut self.orders).into_iter().peekable();
        while let Some((order, full_seconds)) = orders.next() {
            let (id, holder) = (order.id, order.holder);
            let limit = self.until.saturating_sub(self.clock.monotonic());
            let outcome = tokio::select! {
                biased;
                up = self.up(order) => up,
                () = self.clock.sleep(limit) => Err(No::Late),
                () = give.closed() => Err(No::Late),
                () = stop.cancelled() => Err(No::Late),
            };
            if matches!(outcome, Err(No::Occupied)) && orders.peek().is_some() {
                self.take_back(id, holder).await;
                continue;
            }
            let (answer, up) = match outcome {
                Ok(lease) => (Ok(full_seconds), Some(lease)),
                Err(no) => (Err(no), None),
            };
            if give.send(answer).is_ok()
                && let Some(lease) = up
            {
                tracing::info!(lease = %id, caller = %holder, "a lease went out through the v1.9.0 door");
                keep(&self.leases, &self.clock, &lease, full_seconds).await;
            } else {
                self.take_back(id, holder).await;
            }
            return;
        }
    }

    async fn take_back(&self, id: LeaseId, holder: Hotkey) {
        match self.leases.release(id, Owner::Holder(&holder)).await {
            // Where it was never stored there is nothing to take back.
            Ok(_) | Err(Denied::NoSuchLease) => {}
            Err(error) => {
                tracing::error!(lease = %id, error = %ErrorChain(&error), "cannot take a lease back; it ends by itself");
            }
        }
    }

    async fn up(&self, order: LeaseOrder) -> Result<Lease, No> {
        let (id, holder) = (order.id, order.holder);
        let owner = Owner::Holder(&holder);
        let (Created::New(lease) | Created::Same(lease)) = self.leases.create(order).await?;
        // Somebody was faster: callers of this door come again, they do not stand in line.
        if lease.state == LeaseState::Requested {
            return Err(No::Occupied);
        }
        let lease = self.leases.settled(id, owner).await?;
        match lease.state {
            LeaseState::Running => Ok(lease),
            LeaseState::Failed(FailReason::Occupied) => Err(No::Occupied),
            other => Err(No::Failed(other.reason().unwrap_or_else(|| other.name()))),
        }
    }
}

// === impl Told ===

impl Told {
    fn yes() -> Self {
        Self { is_so: true, ..Self::default() }
    }
}

// === impl No ===

impl From<Denied> for No {
    fn from(denied: Denied) -> Self {
        match denied {
            // An offer that went, or whose GPU did, is none that is free.
            Denied::Occupied | Denied::GpuMissing(_) | Denied::NoSuchOffer(_) => Self::Occupied,
            Denied::NoSuchLease => Self::NotYours,
            Denied::Store(_) | Denied::Runtime(_) => {
                tracing::error!(error = %ErrorChain(&denied), "an order of the v1.9.0 door failed");
                Self::Internal
            }
            other => Self::Denied(other.to_string()),
        }
    }
}

impl From<PasswordHashError> for No {
    fn from(error: PasswordHashError) -> Self {
        tracing::error!(%error, "no password can be made");
        Self::Internal
    }
}

impl From<SealError> for No {
    fn from(error: SealError) -> Self {
        tracing::error!(%error, "an answer cannot be sealed");
        Self::Internal
    }
}
