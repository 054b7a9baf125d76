//! The loop that makes the machine equal to what is stored.
//!
//! It takes no input: woken by a write to the store, by time, or by a lease's end, it reads the open leases and drives
//! each to where it should be, several at once and never one twice at once. It also sweeps what lies on the machine and
//! belongs to no open lease. Every effect may be repeated; a lease whose effects fail is tried again, later each time.

mod drive;
mod greeting;
mod ports;
mod pulls;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use nicompute_daemon::{Backoff, CancellationToken, ErrorChain, OnError, SharedClock, Tasks};
use nicompute_host::net::{NetError, Network};
use nicompute_host::runtime::{Runtime, RuntimeError};
use nicompute_market::{Lease, LeaseId, LeaseState, UnixMillis};

use tokio::sync::{Mutex, mpsc};

use crate::leases::{Leases, wait_millis_max};
use crate::offers::Offers;
use crate::ports::PortBoard;
use crate::routes::{RouteRefused, Routes};
use crate::store::{LEASES_KEPT_MAX, Store, StoreError};
use drive::AGENT_LIMIT;
pub(crate) use drive::Memory;
pub(crate) use pulls::Pulls;

/// How often everything is compared when nothing asks for it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Leases whose effects run at the same time.
const DRIVES_MAX: usize = 8;
/// Orphans that are removed at the same time.
const REMOVALS_MAX: usize = 4;
/// How long a stopping node waits for effects that are under way. The next start repeats what was cut off.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Between tries of effects that fail.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(10),
    tries_max: u32::MAX,
};

/// What the reconciler works on. Shared with nobody who changes the machine.
#[derive(Debug)]
pub(crate) struct Reconciler {
    pub(crate) store: Arc<Store>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) routes: Arc<dyn Routes>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) offers: Arc<Offers>,
    pub(crate) pulls: Pulls,
    /// Which ports of leases are reached.
    pub(crate) ports: Arc<PortBoard>,
    pub(crate) clock: SharedClock,
    pub(crate) places: Places,
    pub(crate) memory: Memory,
    /// Held by the sweep that is under way.
    pub(crate) sweeping: Arc<Mutex<()>>,
}

/// Where things lie on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) state_dir: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) masked_host_paths: Vec<PathBuf>,
}

/// Why a lease is not yet where it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the runtime failed")]
    Runtime(#[from] RuntimeError),
    #[error("the network failed")]
    Network(#[from] NetError),
    #[error("this node gives its leases no network")]
    NoNetwork,
    #[error("the image did not come")]
    Image(#[source] RuntimeError),
    #[error("the image did not come within {} min", drive::PULL_MILLIS_MAX / 60_000)]
    LateImage,
    #[error("the gateway failed")]
    Route(#[from] RouteRefused),
    #[error("cannot make {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the work on the lease was cut off")]
    CutOff,
    #[error("the container ends again and again; it is started again in a while")]
    KeepsEnding,
    #[error("the lease's agent did not report within {} s", AGENT_LIMIT.as_secs())]
    NoAgent,
}

/// How a drive ended. Sent when it is dropped, so that a drive that panics is reported like any other.
#[derive(Debug)]
struct Report {
    id: LeaseId,
    outcome: Outcome,
    to: mpsc::Sender<(LeaseId, Outcome)>,
}

#[derive(Debug)]
struct Outcome {
    /// The generation of the lease that was read last.
    generation: Option<u64>,
    result: Result<(), DriveError>,
}

/// What the loop knows between two looks.
#[derive(Debug, Default)]
struct Agenda {
    /// To be driven as soon as there is room.
    due: BTreeSet<LeaseId>,
    /// Being driven.
    busy: BTreeSet<LeaseId>,
    /// What failed.
    failed: BTreeMap<LeaseId, Failed>,
    /// When each open lease is due by the clock: its end, a warning before it, the end of its wait.
    ends: BTreeMap<LeaseId, UnixMillis>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    times: u32,
    /// The generation that was worked on, if it came to that; another one is tried at once.
    generation: Option<u64>,
    /// On the monotonic clock.
    again_at: Duration,
}

// === impl Reconciler ===

impl Reconciler {
    /// Runs until it is told to stop. The first look comes at once: it adopts what runs and sweeps what should not.
    ///
    /// Drives are tasks of their own: one that waits for the store must not wait for this loop, which waits for the store.
    pub(crate) async fn run(self: Arc<Self>, tasks: Tasks, stop: CancellationToken) {
        let (this, halt) = (Arc::clone(&self), stop.clone());
        tasks.spawn("rules of the network", OnError::Log, async move {
            this.keep_rules(&halt).await;
            Ok(())
        });
        let mut changes = self.store.changes();
        let mut agenda = Agenda::default();
        // As many reports as drives: there is always room for one.
        let (report, mut reports) = mpsc::channel(DRIVES_MAX);
        let (mut look, mut next_sweep) = (true, Duration::ZERO);
        while !stop.is_cancelled() {
            let now = self.clock.monotonic();
            if now >= next_sweep {
                next_sweep = now.saturating_add(LOOK_EVERY);
                look = true;
                self.start_sweep(&tasks, stop.clone());
            }
            if look {
                look = !self.look(&mut agenda, now).await;
            }
            for id in agenda.start() {
                self.start_drive(&tasks, id, report.clone());
            }
            // The time may have moved while the store was read.
            let now = self.clock.monotonic();
            let wake = agenda.next_wake(self.unix_now(), now).min(next_sweep.saturating_sub(now));
            let wake = if look { wake.min(BACKOFF.first) } else { wake };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // The loop holds the store, so the channel is open.
                _ = changes.changed() => look = true,
                Some((id, outcome)) = reports.recv() => {
                    self.driven(&mut agenda, id, outcome);
                }
                () = self.pulls.moved() => look = true,
                () = self.clock.sleep(wake) => look = true,
            }
        }
        drop(report);
        let rest = async { while reports.recv().await.is_some() {} };
        tokio::select! {
            () = rest => {}
            () = self.clock.sleep(STOP_LIMIT) => {
                tracing::warn!("effects were cut off; the next start repeats them");
            }
        }
    }

    /// Removes what lies on the machine and belongs to no open lease, and puts the network right. Gives the number of things
    /// removed. Whatever of this fails, the rest is done.
    pub(crate) async fn sweep(&self) -> Result<usize, DriveError> {
        // Whatever the runtime says: rules that somebody removed must not wait for an engine that is down.
        let mended = self.mend_network().await;
        let removed = self.sweep_orphans().await?;
        mended?;
        Ok(removed)
    }

    async fn sweep_orphans(&self) -> Result<usize, DriveError> {
        // In this order: what is found now belongs to a lease that was stored before it.
        let listed = self.runtime.list().await.map_err(DriveError::from);
        let dirs = drive::lease_dirs(&self.places).await;
        let wired = self.wired().await.map_err(DriveError::from);
        let open = self.store.open_leases().await?;
        let found = [listed.as_ref(), dirs.as_ref(), wired.as_ref()].into_iter().flatten();
        let mut orphans: BTreeSet<LeaseId> = found.flatten().copied().collect();
        for lease in &open {
            orphans.remove(&lease.terms.id);
        }
        let wires = wired.as_deref().unwrap_or_default();
        let removals = orphans.into_iter().map(|id| {
            let wire = wires.iter().find(|wire| **wire == id).copied();
            self.remove_orphan(id, wire)
        });
        let outcomes = stream::iter(removals).buffer_unordered(REMOVALS_MAX);
        let removed = outcomes.filter(|is_gone| std::future::ready(*is_gone)).count().await;
        for found in [listed, dirs, wired] {
            found?;
        }
        Ok(removed)
    }

    /// Gives whether nothing is left of it.
    async fn remove_orphan(&self, id: LeaseId, wire: Option<LeaseId>) -> bool {
        tracing::info!(lease = %id, "removing what belongs to no open lease");
        let removed = self.remove(id).await;
        let unwired = match wire {
            Some(id) => self.unwire(id).await,
            None => Ok(()),
        };
        removed
            .and(unwired)
            .inspect_err(|error| {
                let error = ErrorChain(error);
                tracing::error!(lease = %id, %error, "cannot remove what belongs to no lease");
            })
            .is_ok()
    }

    pub(crate) fn unix_now(&self) -> UnixMillis {
        UnixMillis(self.clock.unix_ms())
    }

    fn start_drive(
        self: &Arc<Self>,
        tasks: &Tasks,
        id: LeaseId,
        to: mpsc::Sender<(LeaseId, Outcome)>,
    ) {
        let this = Arc::clone(self);
        tasks.spawn("lease", OnError::Log, async move {
            let mut report = Report { id, outcome: Outcome::cut_off(None), to };
            let outcome = &mut report.outcome;
            outcome.result = this.drive(id, &mut outcome.generation).await;
            Ok(())
        });
    }

    /// Sweeps in a task of its own, unless one is at it: what cannot be removed, or slowly, keeps no lease waiting.
    fn start_sweep(self: &Arc<Self>, tasks: &Tasks, stop: CancellationToken) {
        let Ok(turn) = Arc::clone(&self.sweeping).try_lock_owned() else { return };
        let this = Arc::clone(self);
        tasks.spawn("sweep", OnError::Log, async move {
            let _turn = turn;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = this.sweep_and_forget() => {}
            }
            Ok(())
        });
    }

    async fn sweep_and_forget(&self) {
        if let Err(error) = self.sweep().await {
            tracing::error!(error = %ErrorChain(&error), "cannot look for what belongs to no lease");
        }
        match self.store.forget_finished(LEASES_KEPT_MAX).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot the oldest finished leases"),
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "cannot forget old leases");
            }
        }
    }

    /// Puts every open lease on the agenda. Gives whether the store could be read.
    async fn look(&self, agenda: &mut Agenda, now: Duration) -> bool {
        match self.store.open_leases().await {
            Ok(open) => {
                agenda.set(&open, now);
                let is_prepared = |lease: &&Lease| lease.state == LeaseState::Preparing;
                let images =
                    open.iter().filter(is_prepared).map(|lease| lease.terms.image.as_str());
                self.pulls.keep_only(&images.collect());
                true
            }
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "cannot read the open leases");
                false
            }
        }
    }

    fn driven(&self, agenda: &mut Agenda, id: LeaseId, outcome: Outcome) {
        agenda.busy.remove(&id);
        let Err(error) = outcome.result else {
            agenda.failed.remove(&id);
            return;
        };
        tracing::warn!(lease = %id, error = %ErrorChain(&error), "a lease is not yet where it should be");
        let times = agenda.failed.get(&id).map_or(1, |failed| failed.times.saturating_add(1));
        let again_at = self.clock.monotonic().saturating_add(BACKOFF.delay(times));
        // What changed while it failed was not tried yet.
        let generation = outcome.generation;
        agenda.failed.insert(id, Failed { times, generation, again_at });
    }
}

// === impl Outcome ===

impl Outcome {
    fn cut_off(generation: Option<u64>) -> Self {
        Self { generation, result: Err(DriveError::CutOff) }
    }
}

// === impl Report ===

impl Drop for Report {
    fn drop(&mut self) {
        let cut_off = Outcome::cut_off(self.outcome.generation);
        let outcome = std::mem::replace(&mut self.outcome, cut_off);
        // Fails only when the loop is over and nobody asks.
        drop(self.to.try_send((self.id, outcome)));
    }
}

// === impl Agenda ===

impl Agenda {
    fn set(&mut self, open: &[Lease], now: Duration) {
        self.failed.retain(|id, _| open.iter().any(|lease| lease.terms.id == *id));
        let waits = |lease: &&Lease| {
            self.failed.get(&lease.terms.id).is_some_and(|failed| {
                let is_same = failed.generation.is_none_or(|worked| worked == lease.generation);
                failed.again_at > now && is_same
            })
        };
        self.due = open.iter().filter(|lease| !waits(lease)).map(|lease| lease.terms.id).collect();
        let ends = open.iter().filter(|lease| !matches!(lease.state, LeaseState::Ending(_)));
        self.ends = ends.map(|lease| (lease.terms.id, next_at(lease))).collect();
    }

    /// What is to be driven now.
    fn start(&mut self) -> Vec<LeaseId> {
        let room = DRIVES_MAX.saturating_sub(self.busy.len());
        let ready: Vec<_> = self.due.difference(&self.busy).take(room).copied().collect();
        for id in &ready {
            self.due.remove(id);
            self.busy.insert(*id);
        }
        ready
    }

    /// How long nothing needs to be looked at.
    fn next_wake(&self, unix_now: UnixMillis, now: Duration) -> Duration {
        let idle = |id: &LeaseId| !self.busy.contains(id) && !self.due.contains(id);
        let retries = self.failed.iter().filter(|(id, _)| idle(id));
        let retry = retries.map(|(_, failed)| failed.again_at.saturating_sub(now)).min();
        // One that failed is tried again at its own time.
        let ends = self.ends.iter().filter(|(id, _)| idle(id) && !self.failed.contains_key(id));
        let end = ends.map(|(_, end)| Duration::from_millis(end.millis_since(unix_now))).min();
        [retry, end].into_iter().flatten().min().unwrap_or(LOOK_EVERY)
    }
}

/// When a lease is due by the clock.
fn next_at(lease: &Lease) -> UnixMillis {
    if lease.state == LeaseState::Requested {
        return lease.requested_at.saturating_add_millis(wait_millis_max(lease.terms.purpose));
    }
    lease.next_warning_at().into_iter().fold(lease.expires_at, UnixMillis::min)
}
