//! One lease, from where it stands to where it should be: the next act is decided from the stored state alone, carried
//! out, and its outcome is stored as an event.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::{ErrorChain, Kind};
use nicompute_host::gateway::{AgentForwarding, PasswordHash, Route};
use nicompute_host::runtime::{ContainerSpec, Presence, RuntimeError};
use nicompute_market::{EndReason, FailReason, Lease, LeaseEvent, LeaseId, LeaseState, UnixMillis};

use super::greeting::greeting;
use super::pulls::Fetch;
use super::wire::is_wired;
use super::{DriveError, Places, Reconciler};
use crate::fuse::KillPoint;
use crate::leases::{Grant, host_options};
use crate::store::{Applied, Change, StoreError};

/// How long a new container's agent may take to report.
pub(crate) const AGENT_LIMIT: Duration = Duration::from_secs(15);
/// Between two looks whether it has.
const AGENT_POLL: Duration = Duration::from_millis(5);
/// How long preparation may be tried before the lease fails.
pub(crate) const PREPARE_MILLIS_MAX: u64 = 60_000;
/// How long after a lease was asked for its image may still be on its way.
pub(crate) const PULL_MILLIS_MAX: u64 = 30 * 60_000;
/// Containers whose first process ends are started again so often at once; then after a pause each time. Whoever made it
/// end, an engine that fails or the tenant, the lease goes on.
pub(crate) const RESTARTS_MAX: u32 = 3;
/// That pause.
pub(crate) const RESTART_PAUSE: Duration = Duration::from_secs(60);
/// A container that has run for so long since its last restart is given all its restarts again.
const RESTARTS_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Acts in one drive. A lease has eight states; more than this is a loop, which the next look takes up.
const ACTS_MAX: usize = 32;
/// Milliseconds in a minute, for what people read.
const MINUTE_MILLIS: u64 = 60_000;

/// What this process has done for the leases that are open. Losing it costs nothing: acts are repeated.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<LeaseId, Done>>);

#[derive(Debug, Default)]
struct Done {
    route: Option<Route>,
    /// Since when its preparation is tried: by this process, and with its image there.
    prepared_since: Option<UnixMillis>,
    restarts: u32,
    restarted_at: Duration,
    /// The first process whose network is wired.
    wired: Option<u32>,
}

/// What to do next for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Store(LeaseEvent),
    Reserve,
    BringUp,
    Warn(u64),
    Restart,
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

    /// Remembers whose network is wired, and gives whether that is news.
    pub(super) fn set_wired(&self, lease: LeaseId, init_pid: u32) -> bool {
        self.lock().entry(lease).or_default().wired.replace(init_pid) != Some(init_pid)
    }

    pub(super) fn is_wired(&self, lease: LeaseId, init_pid: u32) -> bool {
        self.lock().get(&lease).is_some_and(|done| done.wired == Some(init_pid))
    }

    /// Since when a lease's preparation is tried: not from its request, since it may have waited for its turn, and an
    /// engine that comes up after the machine needs its time as well.
    fn prepared_since(&self, lease: LeaseId, now: UnixMillis) -> UnixMillis {
        *self.lock().entry(lease).or_default().prepared_since.get_or_insert(now)
    }

    /// Its image is on its way, or there, so that the time begins now.
    fn prepares_anew(&self, lease: LeaseId, now: UnixMillis) {
        self.lock().entry(lease).or_default().prepared_since = Some(now);
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
        let pause = if done.restarts < RESTARTS_MAX { Duration::ZERO } else { RESTART_PAUSE };
        if now.saturating_sub(done.restarted_at) < pause {
            return false;
        }
        done.restarts = done.restarts.saturating_add(1);
        done.restarted_at = now;
        true
    }
}

// === impl Reconciler ===

impl Reconciler {
    /// Drives a lease until the machine is as it should be for it, and notes the generation that it worked on last.
    pub(crate) async fn drive(
        &self,
        id: LeaseId,
        generation: &mut Option<u64>,
    ) -> Result<(), DriveError> {
        for _ in 0..ACTS_MAX {
            let Some(lease) = self.store.get(id).await? else { return Ok(()) };
            *generation = Some(lease.generation);
            let change: Option<Change> = match next_act(&lease, self.unix_now()) {
                Act::Nothing => return Ok(()),
                Act::Store(event) => Some(event.into()),
                Act::Reserve => match self.leases.grant(&lease).await? {
                    // It is read again.
                    Grant::Held(_) | Grant::Changed | Grant::Failed | Grant::NoPorts => continue,
                    Grant::Waits => return Ok(()),
                },
                Act::BringUp => self.bring_up(&lease).await?,
                Act::Warn(left) => {
                    self.warn(&lease, left);
                    Some(LeaseEvent::ExpiryWarned(left).into())
                }
                Act::Restart => match self.restart(&lease).await? {
                    Some(change) => Some(change),
                    None => continue,
                },
                Act::KeepRunning => self.keep_running(&lease).await?,
                Act::KeepPaused => self.keep_paused(&lease).await?,
                Act::TakeDown => {
                    self.take_down(&lease).await?;
                    self.store.fuse().reached(KillPoint::Removed).await;
                    Some(LeaseEvent::Swept.into())
                }
            };
            let Some(change) = change else { return Ok(()) };
            self.settle(&lease, change).await?;
        }
        tracing::error!(lease = %id, "a lease changes without end");
        Ok(())
    }

    /// Removes everything that belongs to a lease: way in, container, data, way out. A network that fails keeps no
    /// container alive.
    async fn take_down(&self, lease: &Lease) -> Result<(), DriveError> {
        let id = lease.terms.id;
        let removed = self.remove(id).await;
        let unwired = if is_wired(lease) { self.unwire(id).await } else { Ok(()) };
        removed.and(unwired)
    }

    /// All of it but the way out.
    pub(super) async fn remove(&self, id: LeaseId) -> Result<(), DriveError> {
        self.routes.close(id);
        self.memory.forget(id);
        self.ports.forget(id);
        self.runtime.remove(id).await?;
        let path = self.places.lease_dir(id);
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(DriveError::Directory { path, source })
            }
            _ => Ok(()),
        }
    }

    async fn settle(&self, lease: &Lease, change: Change) -> Result<(), StoreError> {
        match self.store.apply(lease, change, self.unix_now()).await? {
            Applied::Stored(after) => {
                if after.state != lease.state {
                    tracing::info!(lease = %lease.terms.id, state = %after.state, "lease");
                }
            }
            // Somebody was faster; the lease is read again. Only a grant can find its offer taken.
            Applied::Superseded | Applied::Occupied | Applied::NoPorts => {}
            Applied::Refused(refusal) => {
                tracing::error!(lease = %lease.terms.id, %refusal, "an act did not fit its lease");
            }
        }
        Ok(())
    }

    /// Makes container and route, or cleans up after what cannot be made. Nothing is to be stored while an image comes.
    async fn bring_up(&self, lease: &Lease) -> Result<Option<Change>, DriveError> {
        let since = self.memory.prepared_since(lease.terms.id, self.unix_now());
        let error = match self.image_is_there(lease).await {
            Ok(None) => match self.try_bring_up(lease).await {
                Ok(()) => return Ok(Some(LeaseEvent::Prepared.into())),
                Err(error) => error,
            },
            Ok(Some(told)) => {
                self.memory.prepares_anew(lease.terms.id, self.unix_now());
                let is_news = lease.detail.as_ref() != Some(&told);
                let progressed = || Change::from(LeaseEvent::Progressed).because(told);
                return Ok(is_news.then(progressed));
            }
            Err(error) => error,
        };
        if !error.is_for_good() && self.unix_now().millis_since(since) < PREPARE_MILLIS_MAX {
            return Err(error);
        }
        let id = lease.terms.id;
        tracing::warn!(lease = %id, error = %ErrorChain(&error), "a lease cannot be prepared");
        // The offer is free again only when nothing of the failed lease is left.
        self.take_down(lease).await?;
        let failed = Change::from(LeaseEvent::PrepareFailed(error.fail_reason()));
        Ok(Some(match error.shown() {
            Some(why) => failed.because(why),
            None => failed,
        }))
    }

    /// Nothing when the image is on this machine; otherwise how far it is.
    async fn image_is_there(&self, lease: &Lease) -> Result<Option<String>, DriveError> {
        let (id, image) = (lease.terms.id, &lease.terms.image);
        // A runtime that does not list its images may still start one. A container that is there has its image.
        let mut is_there = self.offers.has_image(image).await.unwrap_or(true);
        if !is_there {
            // It may have come since the list was read.
            self.offers.forget_images().await;
            is_there = self.offers.has_image(image).await.unwrap_or(true);
        }
        if is_there || self.runtime.inspect(id).await? != Presence::Absent {
            return Ok(None);
        }
        if self.unix_now().millis_since(lease.requested_at) >= PULL_MILLIS_MAX {
            return Err(DriveError::LateImage);
        }
        match self.pulls.look(&self.runtime, image) {
            Fetch::UnderWay(told) => Ok(Some(told)),
            Fetch::Over(Ok(())) => {
                self.offers.forget_images().await;
                Ok(None)
            }
            Fetch::Over(Err(error)) => Err(DriveError::Image(error)),
        }
    }

    /// Ends the container's processes and starts it anew. One that is gone with its disk has lost its lease; a runtime that
    /// cannot restart leaves it as it is. One that was restarted is stored as such before anything else is tried: what
    /// fails after it must not end the processes a second time.
    async fn restart(&self, lease: &Lease) -> Result<Option<Change>, DriveError> {
        let id = lease.terms.id;
        let restarted = match self.runtime.inspect(id).await? {
            Presence::Absent => return Ok(Some(LeaseEvent::EndAsked(EndReason::Lost).into())),
            Presence::Exited => self.runtime.ensure(&self.spec(lease)).await,
            Presence::Running { .. } | Presence::Paused { .. } => {
                self.runtime.restart(&self.spec(lease)).await
            }
        };
        let running = match restarted {
            Ok(running) => running,
            Err(error) if error.kind() == Kind::Caller => {
                tracing::warn!(lease = %id, error = %ErrorChain(&error), "a lease cannot be restarted");
                let refused = Change::from(LeaseEvent::RestartRefused).because(error.to_string());
                return Ok(Some(refused));
            }
            Err(error) => return Err(error.into()),
        };
        self.store.fuse().reached(KillPoint::ContainerUp).await;
        self.settle(lease, LeaseEvent::Restarted.into()).await?;
        let Some(lease) = self.store.get(id).await? else { return Ok(None) };
        if matches!(lease.state, LeaseState::Running | LeaseState::Paused) {
            self.keep_ways(&lease, running.init_pid).await?;
            self.agent_reports(&lease).await?;
        }
        Ok(None)
    }

    /// Tells whoever is in the lease how long it has.
    fn warn(&self, lease: &Lease, left: u64) {
        let minutes = left / MINUTE_MILLIS;
        let what = if minutes == 1 { "1 minute".to_owned() } else { format!("{minutes} minutes") };
        let text = format!("this lease ends in less than {what}; what is on it is removed then");
        tracing::info!(lease = %lease.terms.id, minutes, "a lease ends soon");
        self.routes.notice(lease.terms.id, &text);
    }

    async fn try_bring_up(&self, lease: &Lease) -> Result<(), DriveError> {
        let id = lease.terms.id;
        self.make_dir(id).await?;
        self.before_container(lease).await?;
        // The socket is there before the agent looks for it; whose it is, is known when the container runs.
        self.open_route(lease, None)?;
        let running = self.runtime.ensure(&self.spec(lease)).await?;
        self.store.fuse().reached(KillPoint::ContainerUp).await;
        self.wire(lease, running.init_pid).await?;
        self.open_route(lease, Some(running.init_pid))?;
        self.agent_reports(lease).await?;
        Ok(self.publish(lease).await?)
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

    async fn keep_running(&self, lease: &Lease) -> Result<Option<Change>, DriveError> {
        let id = lease.terms.id;
        match self.runtime.inspect(id).await? {
            Presence::Running { init_pid } => self.keep_ways(lease, init_pid).await?,
            Presence::Paused { init_pid } => {
                self.runtime.resume(id).await?;
                self.keep_ways(lease, init_pid).await?;
            }
            Presence::Exited => self.start_again(lease).await?,
            Presence::Absent => return Ok(Some(LeaseEvent::EndAsked(EndReason::Lost).into())),
        }
        Ok(None)
    }

    async fn keep_paused(&self, lease: &Lease) -> Result<Option<Change>, DriveError> {
        let id = lease.terms.id;
        match self.runtime.inspect(id).await? {
            Presence::Running { init_pid } => {
                self.keep_ways(lease, init_pid).await?;
                self.runtime.pause(id).await?;
            }
            Presence::Paused { init_pid } => self.keep_ways(lease, init_pid).await?,
            Presence::Exited => {
                self.start_again(lease).await?;
                self.runtime.pause(id).await?;
            }
            Presence::Absent => return Ok(Some(LeaseEvent::EndAsked(EndReason::Lost).into())),
        }
        Ok(None)
    }

    /// Starts a container whose first process has ended, with the disk that it left.
    async fn start_again(&self, lease: &Lease) -> Result<(), DriveError> {
        if !self.memory.may_restart(lease.terms.id, self.clock.monotonic()) {
            return Err(DriveError::KeepsEnding);
        }
        tracing::warn!(lease = %lease.terms.id, "a container ended by itself and is started again");
        let running = self.runtime.ensure(&self.spec(lease)).await?;
        self.wire(lease, running.init_pid).await?;
        self.open_route(lease, Some(running.init_pid))
    }

    /// The way in and the way out of a container that runs. A network that fails keeps nobody out.
    async fn keep_ways(&self, lease: &Lease, init_pid: u32) -> Result<(), DriveError> {
        self.open_route(lease, Some(init_pid))?;
        self.publish(lease).await?;
        self.keep_wired(lease, init_pid).await
    }

    fn open_route(&self, lease: &Lease, init_pid: Option<u32>) -> Result<(), DriveError> {
        let terms = &lease.terms;
        let socket_dir = self.places.lease_dir(terms.id).join("run");
        let password = terms.legacy.as_ref().and_then(|legacy| {
            let hash = PasswordHash::parse(&legacy.password_hash);
            hash.inspect_err(|error| tracing::warn!(lease = %terms.id, %error, "no password login"))
                .ok()
        });
        let greeting = Some(greeting(lease));
        let plain = Route::new(terms.id, terms.keys.all(), socket_dir);
        // The hotkey that asked says nothing: a market rents for many.
        let holder = terms.legacy.as_ref().map(|legacy| legacy.owner_key_sha256);
        let agent_forwarding =
            if terms.options.agent_forwarding { AgentForwarding::On } else { AgentForwarding::Off };
        let route = Route { init_pid, password, holder, agent_forwarding, greeting, ..plain };
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
        let share = &lease.terms.share;
        ContainerSpec {
            lease: lease.terms.id,
            generation: lease.generation,
            cores_milli: share.cores_milli,
            memory_bytes: share.memory_bytes,
            disk_bytes: share.disk_bytes,
            gpus: share.gpus.clone(),
            image: lease.terms.image.clone(),
            dir: self.places.lease_dir(lease.terms.id),
            agent: self.places.agent.clone(),
            masked_host_paths: self.places.masked_host_paths.clone(),
            options: host_options(&lease.terms.options),
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
        LeaseState::Requested => Act::Reserve,
        LeaseState::Reserved | LeaseState::Preparing | LeaseState::Running | LeaseState::Paused
            if lease.is_expired(now) =>
        {
            Act::Store(LeaseEvent::EndAsked(EndReason::Expired))
        }
        LeaseState::Reserved => Act::Store(LeaseEvent::PrepareBegan),
        LeaseState::Preparing => Act::BringUp,
        LeaseState::Running | LeaseState::Paused if lease.restart_asked => Act::Restart,
        LeaseState::Running | LeaseState::Paused if lease.warning_due(now).is_some() => {
            lease.warning_due(now).map_or(Act::Nothing, Act::Warn)
        }
        LeaseState::Running => Act::KeepRunning,
        LeaseState::Paused => Act::KeepPaused,
    }
}

// === impl DriveError ===

impl DriveError {
    /// Whether trying again cannot help.
    fn is_for_good(&self) -> bool {
        match self {
            Self::Runtime(error) | Self::Image(error) => error.kind() == Kind::Caller,
            Self::LateImage => true,
            Self::Route(error) => error.kind == Kind::Caller,
            Self::Network(error) => error.kind() == Kind::Caller,
            Self::NoNetwork => true,
            Self::Store(_)
            | Self::Directory { .. }
            | Self::NoAgent
            | Self::KeepsEnding
            | Self::CutOff => false,
        }
    }

    const fn fail_reason(&self) -> FailReason {
        match self {
            Self::Runtime(RuntimeError::ImageMissing { .. }) | Self::Image(_) | Self::LateImage => {
                FailReason::Image
            }
            Self::Runtime(_)
            | Self::Network(_)
            | Self::NoNetwork
            | Self::Route(_)
            | Self::Store(_)
            | Self::Directory { .. }
            | Self::NoAgent
            | Self::KeepsEnding
            | Self::CutOff => FailReason::Runtime,
        }
    }

    /// What the lease's holder is told about it. What only the operator can do something about stands in the log alone.
    fn shown(&self) -> Option<String> {
        match self {
            Self::Runtime(error) | Self::Image(error) if error.kind() == Kind::Caller => {
                Some(error.to_string())
            }
            Self::Image(_) => Some("the image could not be fetched".to_owned()),
            Self::NoAgent | Self::NoNetwork | Self::LateImage => Some(self.to_string()),
            Self::Runtime(_)
            | Self::Network(_)
            | Self::Route(_)
            | Self::Store(_)
            | Self::Directory { .. }
            | Self::KeepsEnding
            | Self::CutOff => None,
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
