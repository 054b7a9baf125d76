//! The one way to change a lease, for every door: the node API, the v1.9.0 axon door, the node's own watches.
//!
//! Each act stores what is wanted and wakes the reconciler, which makes the machine equal to it: when an act returns, it
//! outlives the process, and its effect follows within moments. Nothing here touches the machine. Doors check first who is
//! asking (signature, permit, lists) and then come here with an [`Owner`]; whose lease it is, is checked here.
//!
//! Usage by a door:
//! - `create(Order)` answers at once with the lease as stored: `reserved`, or `requested` while it waits for a proof to end.
//!   The same order again is the same lease. Whoever must know that the lease can be entered waits with `settled`.
//! - `find(Owner)` is the newest open lease of an owner, `get(id, Owner)` a certain one.
//! - `extend`, `pause`, `resume`, `restart`, `change_keys`, `release` change it; doing one twice is doing it once.
//! - `is_free(offer)` says whether an order would be given now.
//! - `end` and `degrade` are the node's own: a GPU that is gone, with its evidence.

mod denied;
mod order;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use nicompute_daemon::SharedClock;
use nicompute_market::{
    EndReason, FailReason, Hotkey, KeySlot, Lease, LeaseEvent, LeaseId, LeaseKeys, LeaseState,
    OfferId, UnixMillis,
};

use crate::offers::Offers;
use crate::store::{Applied, Asked, Change, Holding, Store, StoreError};
pub use denied::Denied;
pub use order::Order;
pub(crate) use order::host_options;
pub(crate) use queue::{Stakes, WAITING_MAX, wait_millis_max};

/// How often a change is tried again because something else changed the lease in between.
const TRIES_MAX: u32 = 8;

/// The leases of a node. Cheap to share; one per process.
#[derive(Debug)]
pub struct Leases {
    store: Arc<Store>,
    offers: Arc<Offers>,
    stakes: Arc<dyn Stakes>,
    clock: SharedClock,
    changes_max: u64,
}

/// On whose behalf a lease is looked at or changed.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// The hotkey that asked for it.
    Holder(&'a Hotkey),
    /// The hotkey that asked for it through the v1.9.0 door, with the RSA key that it came with (SHA-256 of its DER). Both:
    /// the key travels in plain text, so that others may show it, or order with it, too.
    Caller(&'a Hotkey, &'a [u8; 32]),
}

/// What became of an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// Stored now.
    New(Lease),
    /// It was given before, in the same words; as it stands now.
    Same(Lease),
}

/// What became of a lease that asks for its offer.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is returned")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// The offer is held for it.
    Held(Lease),
    /// Others are before it.
    Waits,
    /// It has failed as occupied.
    Failed,
    /// It has failed, for other leases have the ports that it would need.
    NoPorts,
    /// Somebody else changed it meanwhile.
    Changed,
}

// === impl Leases ===

impl Leases {
    /// Leases may be changed so many times each.
    pub(crate) fn new(
        store: Arc<Store>,
        offers: Arc<Offers>,
        stakes: Arc<dyn Stakes>,
        clock: SharedClock,
        changes_max: u64,
    ) -> Self {
        Self { store, offers, stakes, clock, changes_max }
    }

    /// Stores an order and holds its offer, or lets it wait where the offer is free again soon.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn create(&self, order: Order) -> Result<Created, Denied> {
        let (keys, words) = order.read()?;
        // First: an order whose answer was lost comes again, and what is offered may have changed meanwhile.
        match self.store.known(order.id, words).await? {
            Some(Asked::Same(lease)) => return Ok(Created::Same(lease)),
            Some(Asked::OtherWords) => return Err(Denied::OtherWords),
            Some(Asked::New(_) | Asked::Occupied) | None => {}
        }
        let lease = order.check(keys, &self.offers, self.now()).await?;
        match self.store.ask(&lease, words, WAITING_MAX).await? {
            Asked::New(lease) => self.first_grant(lease).await.map(Created::New),
            Asked::Same(lease) => Ok(Created::Same(lease)),
            Asked::OtherWords => Err(Denied::OtherWords),
            Asked::Occupied => Err(Denied::Occupied),
        }
    }

    /// A lease of this owner.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn get(&self, id: LeaseId, owner: Owner<'_>) -> Result<Lease, Denied> {
        let lease = self.store.get(id).await?;
        lease.filter(|lease| owner.owns(lease)).ok_or(Denied::NoSuchLease)
    }

    /// The newest lease of this owner that is not over.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn find(&self, owner: Owner<'_>) -> Result<Option<Lease>, Denied> {
        let found = match owner {
            Owner::Caller(holder, key) => self.store.of_caller(holder, key).await?,
            Owner::Holder(_) => {
                self.store.open_leases().await?.into_iter().rev().find(|lease| owner.owns(lease))
            }
        };
        Ok(found.filter(|lease| !lease.state.is_final()))
    }

    /// Whether an order for this offer would be given now, without a wait.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn is_free(&self, offer: &OfferId) -> Result<bool, Denied> {
        Ok(self.free().await?.contains(offer))
    }

    /// The offers of which that is so: whatever is listed as available.
    pub(crate) async fn free(&self) -> Result<BTreeSet<OfferId>, Denied> {
        let offers = self.offers.current(&self.store).await?;
        Ok(offers.into_iter().filter(|offer| offer.available).map(|offer| offer.id).collect())
    }

    /// Waits until a lease is on its way up no more: it can be entered, or it is over. The caller bounds the wait.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn settled(&self, id: LeaseId, owner: Owner<'_>) -> Result<Lease, Denied> {
        let mut changes = self.store.changes();
        loop {
            let lease = self.get(id, owner).await?;
            match lease.state {
                LeaseState::Requested | LeaseState::Reserved | LeaseState::Preparing => {}
                LeaseState::Running
                | LeaseState::Paused
                | LeaseState::Ending(_)
                | LeaseState::Ended(_)
                | LeaseState::Failed(_) => return Ok(lease),
            }
            // This holds the store, so the channel is open.
            drop(changes.changed().await);
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn release(&self, id: LeaseId, owner: Owner<'_>) -> Result<Lease, Denied> {
        let released = LeaseEvent::EndAsked(EndReason::Released);
        self.change(id, owner, |_, _| Ok(released.into())).await
    }

    /// Freezes it.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn pause(&self, id: LeaseId, owner: Owner<'_>) -> Result<Lease, Denied> {
        self.change(id, owner, |_, _| Ok(LeaseEvent::PauseAsked.into())).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn resume(&self, id: LeaseId, owner: Owner<'_>) -> Result<Lease, Denied> {
        self.change(id, owner, |_, _| Ok(LeaseEvent::ResumeAsked.into())).await
    }

    /// Ends its processes and starts it anew on the disk that it has.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn restart(&self, id: LeaseId, owner: Owner<'_>) -> Result<Lease, Denied> {
        self.change(id, owner, |_, _| Ok(LeaseEvent::RestartAsked.into())).await
    }

    /// Moves its end to so many seconds from now, never back.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn extend(
        &self,
        id: LeaseId,
        owner: Owner<'_>,
        duration_seconds: u64,
    ) -> Result<Lease, Denied> {
        self.change(id, owner, |lease, now| {
            let until = order::new_end(&self.offers, lease, duration_seconds, now)?;
            Ok(LeaseEvent::Extended(until).into())
        })
        .await
    }

    /// Gives a lease the end that was agreed when it was asked for, whatever its offer asks by now.
    pub(crate) async fn keep_until(
        &self,
        id: LeaseId,
        owner: Owner<'_>,
        until: UnixMillis,
    ) -> Result<Lease, Denied> {
        self.change(id, owner, |_, _| Ok(LeaseEvent::Extended(until).into())).await
    }

    /// Replaces the keys of one slot; sessions of the other slot's keys go on.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn change_keys(
        &self,
        id: LeaseId,
        owner: Owner<'_>,
        slot: KeySlot,
        texts: &[String],
    ) -> Result<Lease, Denied> {
        let keys = order::keys(slot, texts)?;
        self.change(id, owner, |lease, _| {
            let mut all: LeaseKeys = lease.terms.keys.clone();
            match slot {
                KeySlot::User => all.user.clone_from(&keys),
                KeySlot::Terminal => all.terminal = keys.first().cloned(),
            }
            Ok(Change::keys(all))
        })
        .await
    }

    /// Ends a lease for a reason of the node's own, with what shows it. A lease that is over stays as it is.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn end(
        &self,
        id: LeaseId,
        reason: EndReason,
        evidence: &str,
    ) -> Result<Lease, Denied> {
        let ended = || Change::from(LeaseEvent::EndAsked(reason)).because(evidence);
        self.change_own(id, |lease| match lease.state {
            // The first reason stands, and so does its evidence.
            LeaseState::Ending(_) | LeaseState::Ended(_) | LeaseState::Failed(_) => {
                LeaseEvent::EndAsked(reason).into()
            }
            _ => ended(),
        })
        .await
    }

    /// Which lease holds a GPU.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn holding_gpu(&self, uuid: &str) -> Result<Option<LeaseId>, Denied> {
        Ok(self.store.holder_of_gpu(uuid).await?)
    }

    /// The leases that hold GPUs and are not over, with the GPUs.
    pub(crate) async fn with_gpus(&self) -> Result<Vec<(LeaseId, Vec<String>)>, Denied> {
        let is_watched = |lease: &Lease| {
            let ends = matches!(lease.state, LeaseState::Ending(_));
            lease.state.holds_offer() && !ends && !lease.terms.share.gpus.is_empty()
        };
        let open = self.store.open_leases().await?.into_iter().filter(is_watched);
        Ok(open.map(|lease| (lease.terms.id, lease.terms.share.gpus)).collect())
    }

    /// Says of a lease that runs what is not as it was sold any more. Saying it again changes nothing.
    ///
    /// # Errors
    /// See [`Denied`]; nothing has changed then.
    pub async fn degrade(&self, id: LeaseId, evidence: &str) -> Result<Lease, Denied> {
        self.change_own(id, |_| Change::from(LeaseEvent::Degraded).because(evidence)).await
    }

    /// Holds the offer for a lease that asks for it, if it is its turn. The reconciler asks again when something changed.
    pub(crate) async fn grant(&self, lease: &Lease) -> Result<Grant, StoreError> {
        let (offer, now) = (&lease.terms.offer, self.now());
        let waiting = self.store.waiting(offer, now).await?;
        // The request and the reconciler both ask; the other one was faster.
        if waiting.iter().all(|other| other.id != lease.terms.id) {
            return Ok(Grant::Changed);
        }
        // What is offered may have changed since it was asked for.
        if let Err(denied) = order::still_fits(&self.offers, lease, now) {
            return self.fail(lease, Grant::Failed, Some(denied)).await;
        }
        let is_next = queue::first(&waiting, &*self.stakes) == Some(lease.terms.id);
        if is_next {
            // Its time begins now where it had to wait; at once it is the time that it has.
            let event = match now.millis_since(lease.requested_at) {
                0 => LeaseEvent::Reserved,
                _ => LeaseEvent::Granted(now.saturating_add_millis(lease.duration_millis())),
            };
            match self.store.hold(lease, event, self.offers.capacity(), now).await? {
                Applied::Stored(held) => return Ok(Grant::Held(held)),
                Applied::Refused(_) | Applied::Superseded => return Ok(Grant::Changed),
                Applied::Occupied => {}
                // Those who have them may keep them for a month, and others wait behind it.
                Applied::NoPorts => {
                    return self.fail(lease, Grant::NoPorts, Some(Denied::NoPorts)).await;
                }
            }
        }
        let held = self.store.holder_of(offer).await?;
        let is_worth_it = held.map_or(waiting.len() > 1, |held| held.is_short());
        let waited = now.millis_since(lease.requested_at);
        if is_worth_it && waited < wait_millis_max(lease.terms.purpose) {
            if let Some(held) = held.filter(|held| is_next && queue::makes_room(held, lease, now)) {
                self.preempt(&held, now).await?;
            }
            return Ok(Grant::Waits);
        }
        self.fail(lease, Grant::Failed, None).await
    }

    /// Ends a proof that had its time. A holder that changed it meanwhile is seen at the next look.
    async fn preempt(&self, held: &Holding, now: UnixMillis) -> Result<(), StoreError> {
        let Some(proof) = self.store.get(held.lease).await? else { return Ok(()) };
        let ended = Change::from(LeaseEvent::EndAsked(EndReason::Preempted));
        tracing::info!(lease = %held.lease, "a proof makes room for a renter");
        let ended = ended.because("a renter was waiting, and the proof had its sure time");
        self.store.apply(&proof, ended, now).await.map(drop)
    }

    /// Ends a lease that is given nothing, with a reason where it is not that the offer is taken. Whoever waited for a proof in
    /// vain is remembered.
    async fn fail(
        &self,
        lease: &Lease,
        outcome: Grant,
        why: Option<Denied>,
    ) -> Result<Grant, StoreError> {
        let now = self.now();
        let came_in_vain = why.is_none() && now > lease.requested_at;
        let failed = Change::from(LeaseEvent::PrepareFailed(FailReason::Occupied));
        let failed = match why {
            Some(why) => failed.because(why.to_string()),
            None => failed,
        };
        match self.store.apply(lease, failed, now).await? {
            Applied::Stored(_) => {
                if came_in_vain {
                    self.store.turn_away(lease, now).await?;
                }
                Ok(outcome)
            }
            Applied::Refused(_) | Applied::Superseded | Applied::Occupied | Applied::NoPorts => {
                Ok(Grant::Changed)
            }
        }
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.unix_ms())
    }

    /// The first try for a lease that was just stored; where the process dies before it, the reconciler does the same.
    async fn first_grant(&self, lease: Lease) -> Result<Lease, Denied> {
        match self.grant(&lease).await? {
            Grant::Held(lease) => Ok(lease),
            Grant::Failed => Err(Denied::Occupied),
            Grant::NoPorts => Err(Denied::NoPorts),
            // The reconciler may have held it meanwhile.
            Grant::Waits | Grant::Changed => {
                let lease = self.store.get(lease.terms.id).await?.ok_or(Denied::NoSuchLease)?;
                match lease.state {
                    LeaseState::Failed(FailReason::Occupied) => Err(Denied::Occupied),
                    _ => Ok(lease),
                }
            }
        }
    }

    async fn change(
        &self,
        id: LeaseId,
        owner: Owner<'_>,
        change: impl Fn(&Lease, UnixMillis) -> Result<Change, Denied>,
    ) -> Result<Lease, Denied> {
        for _ in 0..TRIES_MAX {
            let lease = self.get(id, owner).await?;
            let now = self.now();
            let change = change(&lease, now)?;
            // It can always be given back.
            if lease.generation >= self.changes_max && !change.ends() {
                return Err(Denied::Spent);
            }
            match self.store.apply(&lease, change, now).await? {
                Applied::Stored(lease) => return Ok(lease),
                Applied::Refused(refusal) => return Err(refusal.into()),
                Applied::Superseded | Applied::Occupied | Applied::NoPorts => {}
            }
        }
        Err(Denied::Changing)
    }

    async fn change_own(
        &self,
        id: LeaseId,
        change: impl Fn(&Lease) -> Change,
    ) -> Result<Lease, Denied> {
        for _ in 0..TRIES_MAX {
            let lease = self.store.get(id).await?.ok_or(Denied::NoSuchLease)?;
            match self.store.apply(&lease, change(&lease), self.now()).await? {
                Applied::Stored(lease) => return Ok(lease),
                Applied::Refused(refusal) => return Err(refusal.into()),
                Applied::Superseded | Applied::Occupied | Applied::NoPorts => {}
            }
        }
        Err(Denied::Changing)
    }
}

// === impl Owner ===

impl Owner<'_> {
    fn owns(&self, lease: &Lease) -> bool {
        match self {
            Self::Holder(holder) => lease.terms.holder == **holder,
            Self::Caller(holder, key) => {
                let legacy = lease.terms.legacy.as_ref();
                lease.terms.holder == **holder
                    && legacy.is_some_and(|legacy| legacy.owner_key_sha256 == **key)
            }
        }
    }
}
