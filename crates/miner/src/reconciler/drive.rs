//! One lease, from where it stands to where it should be: the next act is decided from the stored state alone, carried
//! out, and its outcome is stored as an event.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::{ErrorChain, Kind};
use nicompute_host::gateway::Route;
use nicompute_host::runtime::{ContainerSpec, Options, Presence, RuntimeError};
use nicompute_market::{EndReason, FailReason, Lease, LeaseEvent, LeaseId, LeaseState, UnixMillis};

use super::{DriveError, Places, Reconciler};
use crate::fuse::KillPoint;
use crate::store::{Applied, StoreError};

/// How long a new container's agent may take to report.
pub(crate) const AGENT_LIMIT: Duration = Duration::from_secs(15);
/// Between two looks whether it has.
const AGENT_POLL: Duration = Duration::from_millis(5);
/// How long preparation may be tried before the lease fails.
pub(crate) const PREPARE_MILLIS_MAX: u64 = 60_000;
/// Containers whose first process ends are started again so often; then the lease is lost.
pub(crate) const RESTARTS_MAX: u32 = 3;
/// A container that has run for so long since its last restart is given all its restarts again.
const RESTARTS_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Acts in one drive. A lease has eight states; more than this is a loop, which the next look takes up.
const ACTS_MAX: usize = 32;
const THOUSANDTHS: u32 = 1000;

/// What this process has done for the leases that are open. Losing it costs nothing: acts are repeated.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<LeaseId, Done>>);

#[derive(Debug, Default)]
struct Done {
    route: Option<Route>,
    restarts: u32,
    restarted_at: Duration,
}

/// What to do next for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Store(LeaseEvent),
    BringUp,
    KeepRunning,
    KeepPaused,
    TakeDown,
    Nothing,
}

// === impl Memory ===

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Done>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_route(&self, route: &Route) -> bool {
        self.lock().get(&route.lease).is_some_and(|done| done.route.as_ref() == Some(route))
    }

    fn set_route(&self, route: Route) {
        let lease = route.lease;
        self.lock().entry(lease).or_default().route = Some(route);
    }

    fn forget(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }

    /// Whether the container may be started once more.
    fn may_restart(&self, lease: LeaseId, now: Duration) -> bool {
        let mut all = self.lock();
        let done = all.entry(lease).or_default();
        if now.saturating_sub(done.restarted_at) >= RESTARTS_FORGOTTEN_AFTER {
            done.restarts = 0;
        }
        if done.restarts >= RESTARTS_MAX {
            return false;
        }
        done.restarts = done.restarts.saturating_add(1);
        done.restarted_at = now;
        true
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// Drives a lease until the machine is as it should be for it.
    pub(crate) async fn drive(&self, id: LeaseId) -> Result<(), DriveError> {
        for _ in 0..ACTS_MAX {
            let Some(lease) = self.store.get(id).await? else { return Ok(()) };
            let event = match next_act(&lease, self.unix_now()) {
                Act::Nothing => return Ok(()),
                Act::Store(event) => Some(event),
                Act::BringUp => Some(self.bring_up(&lease).await?),
                Act::KeepRunning => self.keep_running(&lease).await?,
                Act::KeepPaused => self.keep_paused(&lease).await?,
                Act::TakeDown => {
                    self.take_down(id).await?;
                    self.store.fuse().reached(KillPoint::Removed).await;
                    Some(LeaseEvent::Swept)
                }
            };
            let Some(event) = event else { return Ok(()) };
            self.settle(&lease, event).await?;
        }
        tracing::error!(lease = %id, "a lease changes without end");
        Ok(())
    }

    /// Removes everything that belongs to a lease: way in, container, data.
    pub(super) async fn take_down(&self, id: LeaseId) -> Result<(), DriveError> {
        self.routes.close(id);
        self.memory.forget(id);
        self.runtime.remove(id).await?;
        let path = self.places.lease_dir(id);
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(DriveError::Directory { path, source })
            }
            _ => Ok(()),
        }
    }

    async fn settle(&self, lease: &Lease, event: LeaseEvent) -> Result<(), StoreError> {
        let now = self.unix_now();
        match self.store.apply(lease, event, now).await? {
            Applied::Stored(after) => {
                if after.state != lease.state {
                    tracing::info!(lease = %lease.terms.id, state = %after.state, "lease");
                }
            }
            // Somebody was faster; the lease is read again.
            Applied::Superseded => {}
            Applied::Occupied => {
                let failed = LeaseEvent::PrepareFailed(FailReason::Occupied);
                drop(self.store.apply(lease, failed, now).await?);
            }
            Applied::Refused(refusal) => {
                tracing::error!(lease = %lease.terms.id, %refusal, "an act did not fit its lease");
            }
        }
        Ok(())
    }

    /// Makes container and route, or cleans up after what cannot be made.
    async fn bring_up(&self, lease: &Lease) -> Result<LeaseEvent, DriveError> {
        let Err(error) = self.try_bring_up(lease).await else { return Ok(LeaseEvent::Prepared) };
        let waited_ms = self.unix_now().millis_since(lease.requested_at);
        if !error.is_for_good() && waited_ms < PREPARE_MILLIS_MAX {
            return Err(error);
        }
        let id = lease.terms.id;
        tracing::warn!(lease = %id, error = %ErrorChain(&error), "a lease cannot be prepared");
        // The offer is free again only when nothing of the failed lease is left.
        self.take_down(id).await?;
        Ok(LeaseEvent::PrepareFailed(error.fail_reason()))
    }

    async fn try_bring_up(&self, lease: &Lease) -> Result<(), DriveError> {
        let id = lease.terms.id;
        self.make_dir(id).await?;
        // The socket is there before the agent looks for it; whose it is, is known when the container runs.
        self.open_route(lease, None)?;
        let running = self.runtime.ensure(&self.spec(lease)).await?;
        self.store.fuse().reached(KillPoint::ContainerUp).await;
        self.open_route(lease, Some(running.init_pid))?;
        self.agent_reports(lease).await
    }

    /// Waits for the agent, unless the lease is changed meanwhile: then there may be nothing to wait for.
    async fn agent_reports(&self, lease: &Lease) -> Result<(), DriveError> {
        let id = lease.terms.id;
        let mut changes = self.store.changes();
        let mut polls_left = AGENT_LIMIT.as_millis() / AGENT_POLL.as_millis();
        while !self.routes.connected(id) {
            polls_left = polls_left.checked_sub(1).ok_or(DriveError::NoAgent)?;
            tokio::select! {
                () = self.clock.sleep(AGENT_POLL) => {}
                // The store lives as long as this loop.
                _ = changes.changed() => {
                    let now = self.store.get(id).await?;
                    if now.is_none_or(|now| now.generation != lease.generation) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn keep_running(&self, lease: &Lease) -> Result<Option<LeaseEvent>, DriveError> {
        let id = lease.terms.id;
        match self.runtime.inspect(id).await? {
            Presence::Running { init_pid } => self.open_route(lease, Some(init_pid))?,
            Presence::Paused { init_pid } => {
                self.runtime.resume(id).await?;
                self.open_route(lease, Some(init_pid))?;
            }
            Presence::Exited => return self.start_again(lease).await,
            Presence::Absent => return Ok(Some(LeaseEvent::EndAsked(EndReason::Lost))),
        }
        Ok(None)
    }

    async fn keep_paused(&self, lease: &Lease) -> Result<Option<LeaseEvent>, DriveError> {
        let id = lease.terms.id;
        match self.runtime.inspect(id).await? {
            Presence::Running { init_pid } => {
                self.open_route(lease, Some(init_pid))?;
                self.runtime.pause(id).await?;
            }
            Presence::Paused { init_pid } => self.open_route(lease, Some(init_pid))?,
            Presence::Exited => {
                if let Some(lost) = self.start_again(lease).await? {
                    return Ok(Some(lost));
                }
                self.runtime.pause(id).await?;
            }
            Presence::Absent => return Ok(Some(LeaseEvent::EndAsked(EndReason::Lost))),
        }
        Ok(None)
    }

    /// Starts a container whose first process has ended, with the disk that it left.
    async fn start_again(&self, lease: &Lease) -> Result<Option<LeaseEvent>, DriveError> {
        if !self.memory.may_restart(lease.terms.id, self.clock.monotonic()) {
            return Ok(Some(LeaseEvent::EndAsked(EndReason::Lost)));
        }
        tracing::warn!(lease = %lease.terms.id, "a container ended by itself and is started again");
        let running = self.runtime.ensure(&self.spec(lease)).await?;
        self.open_route(lease, Some(running.init_pid))?;
        Ok(None)
    }

    fn open_route(&self, lease: &Lease, init_pid: Option<u32>) -> Result<(), DriveError> {
        let terms = &lease.terms;
        let socket_dir = self.places.lease_dir(terms.id).join("run");
        let route = Route { lease: terms.id, keys: terms.ssh_keys.clone(), socket_dir, init_pid };
        if !self.memory.has_route(&route) {
            self.routes.open(&route)?;
            self.memory.set_route(route);
        }
        Ok(())
    }

    async fn make_dir(&self, id: LeaseId) -> Result<(), DriveError> {
        let path = self.places.lease_dir(id);
        tokio::fs::create_dir_all(&path)
            .await
            .map_err(|source| DriveError::Directory { path, source })
    }

    fn spec(&self, lease: &Lease) -> ContainerSpec {
        let machine = self.offers.machine();
        ContainerSpec {
            lease: lease.terms.id,
            generation: lease.generation,
            cores_milli: machine.cores.saturating_mul(THOUSANDTHS),
            memory_bytes: machine.memory_bytes,
            disk_bytes: machine.disk_bytes,
            gpus: machine.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
            image: lease.terms.image.clone(),
            dir: self.places.lease_dir(lease.terms.id),
            agent: self.places.agent.clone(),
            masked_host_paths: self.places.masked_host_paths.clone(),
            options: Options::default(),
        }
    }
}

/// The directories of leases that lie on this machine.
pub(super) async fn lease_dirs(places: &Places) -> Result<Vec<LeaseId>, DriveError> {
    let path = places.leases_dir();
    let failed = |source| DriveError::Directory { path: path.clone(), source };
    let mut entries = match tokio::fs::read_dir(&path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        // Only names that we write: whatever else lies there is not ours to remove.
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.parse::<LeaseId>().ok());
        found.extend(id.filter(|id| name.to_str() == Some(&id.to_string())));
    }
    Ok(found)
}

/// The whole decision, from what is stored and the time alone.
fn next_act(lease: &Lease, now: UnixMillis) -> Act {
    match lease.state {
        LeaseState::Ended(_) | LeaseState::Failed(_) => Act::Nothing,
        LeaseState::Ending(_) => Act::TakeDown,
        LeaseState::Requested
        | LeaseState::Reserved
        | LeaseState::Preparing
        | LeaseState::Running
        | LeaseState::Paused
            if lease.is_expired(now) =>
        {
            Act::Store(LeaseEvent::EndAsked(EndReason::Expired))
        }
        LeaseState::Requested => Act::Store(LeaseEvent::Reserved),
        LeaseState::Reserved => Act::Store(LeaseEvent::PrepareBegan),
        LeaseState::Preparing => Act::BringUp,
        LeaseState::Running => Act::KeepRunning,
        LeaseState::Paused => Act::KeepPaused,
    }
}

// === impl DriveError ===

impl DriveError {
    /// Whether trying again cannot help.
    fn is_for_good(&self) -> bool {
        match self {
            Self::Runtime(error) => error.kind() == Kind::Caller,
            Self::Route(error) => error.kind == Kind::Caller,
            Self::Store(_) | Self::Directory { .. } | Self::NoAgent | Self::CutOff => false,
        }
    }

    const fn fail_reason(&self) -> FailReason {
        match self {
            Self::Runtime(RuntimeError::ImageMissing { .. }) => FailReason::Image,
            Self::Runtime(_)
            | Self::Route(_)
            | Self::Store(_)
            | Self::Directory { .. }
            | Self::NoAgent
            | Self::CutOff => FailReason::Runtime,
        }
    }
}

// === impl Places ===

impl Places {
    fn leases_dir(&self) -> PathBuf {
        self.state_dir.join("leases")
    }

    /// Where everything of one lease lies.
    pub(crate) fn lease_dir(&self, lease: LeaseId) -> PathBuf {
        self.leases_dir().join(lease.to_string())
    }
}
