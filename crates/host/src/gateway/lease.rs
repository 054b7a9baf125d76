//! The open routes: who may enter which lease, which agent serves it, and who is inside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::CancellationToken;
use nicompute_market::LeaseId;
use nicompute_market::ssh_key::SshKey;
use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;
use tokio::sync::{Semaphore, broadcast, watch};

use super::attempts::{Allowance, Attempts, Pace};
use super::door::{Door, Memory};
use super::link::Link;
use super::password::{Comparing, PasswordHash};
use super::publish::Ports;
use super::route::{AgentForwarding, Route, RouteError};
use super::{Limits, Shared};

/// Keys of one lease.
const KEYS_MAX: usize = 64;
/// The user name that stands for whichever lease the key opens.
const ANY_LEASE: &str = "root";
/// Keys of one lease that others have or had as well. With more of them `root` does not stand for the lease.
const SHARED_KEYS_MAX: usize = 256;
/// Notices that a terminal has not shown yet; older ones give way.
const NOTICES_MAX: usize = 8;

/// All open routes.
#[derive(Debug, Default)]
pub(super) struct Leases {
    open: Mutex<BTreeMap<LeaseId, Arc<Lease>>>,
    attempts: Attempts,
    comparing: Comparing,
    /// Sessions in all leases together.
    inside: Arc<AtomicUsize>,
}

/// One open route.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    user: String,
    socket_dir: PathBuf,
    access: Mutex<Access>,
    memory: Memory,
    sessions: Mutex<Sessions>,
    inside: Arc<AtomicUsize>,
    agent: watch::Sender<Option<Arc<Link>>>,
    notices: broadcast::Sender<Arc<str>>,
    /// Bytes that clients may have on their way into this lease.
    pub(super) upload_room: Arc<Semaphore>,
    /// Channels that may be open into this lease.
    pub(super) channel_room: Arc<Semaphore>,
    /// Its published ports.
    pub(super) ports: Ports,
    /// Cancelled when the route is closed.
    pub(super) closed: CancellationToken,
}

#[derive(Debug)]
struct Access {
    keys: Vec<KeyData>,
    password: Option<PasswordHash>,
    /// Who rents it.
    holder: Option<[u8; 32]>,
    /// Keys that a lease of another holder has had while this one was open.
    shared_keys: Vec<KeyData>,
    /// Whether a key has opened the lease; its password is off from then on.
    key_used: bool,
    /// Whether that is to be remembered for gateways that start later, and has not been.
    is_unremembered: bool,
    password_pace: Pace,
    crowd_pace: Pace,
    init_pid: Option<u32>,
    agent_forwarding: AgentForwarding,
    greeting: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Sessions {
    next: u64,
    open: BTreeMap<u64, (Credential, CancellationToken)>,
}

/// By what somebody came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Key(KeyData),
    Password(PasswordHash),
}

/// How many may be inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// In one lease.
    pub(super) per_lease: usize,
    /// In one lease, however full the gateway is.
    pub(super) reserved: usize,
    /// In all leases together.
    pub(super) total: usize,
}

/// A place among a lease's sessions; given back when it is dropped.
#[derive(Debug)]
pub(super) struct SessionPlace {
    lease: Arc<Lease>,
    number: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    pub(super) fn get(&self, lease: LeaseId) -> Option<Arc<Lease>> {
        lock(&self.open).get(&lease).cloned()
    }

    /// The one lease that the user name and the key open together.
    pub(super) fn authorize(&self, user: &str, key: &PublicKey) -> Option<Arc<Lease>> {
        let named = self.called(user).into_iter();
        only(named.filter(|lease| lease.is_opened_by(user, key.key_data())))
    }

    /// The leases that the user name stands for.
    fn called(&self, user: &str) -> Vec<Arc<Lease>> {
        lock(&self.open).values().filter(|lease| lease.is_called(user)).cloned().collect()
    }

    /// Whether a password may be tried under the user name.
    pub(super) fn takes_password(&self, user: &str) -> bool {
        self.called(user).iter().any(|lease| lease.password().is_some())
    }

    /// The one lease that the user name and the password open together, as long as the address may try.
    pub(super) async fn authorize_password(
        &self,
        user: &str,
        password: &str,
        address: IpAddr,
        now: Duration,
    ) -> Option<(Arc<Lease>, Credential)> {
        let named = self.called(user).into_iter();
        let locked: Vec<_> = named.filter_map(|lease| Some((lease.password()?, lease))).collect();
        if locked.is_empty() {
            return None;
        }
        let allowance = self.attempts.take(address, now);
        let (hashes, leases): (Vec<_>, Vec<_>) =
            locked.into_iter().filter(|(_, lease)| lease.may_be_tried(allowance, now)).unzip();
        if hashes.is_empty() {
            return None;
        }
        let fits = self.comparing.fits(hashes.clone(), password).await?;
        let tried = leases.into_iter().zip(hashes).zip(fits);
        let fitting: Vec<_> = tried.filter_map(|(tried, fits)| fits.then_some(tried)).collect();
        match <[_; 1]>::try_from(fitting) {
            Ok([(lease, hash)]) => {
                self.attempts.forgive(address);
                Some((lease, Credential::Password(hash)))
            }
            Err(_) => None,
        }
    }

    /// Sessions in all leases together.
    pub(super) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    /// Channels that are open into all leases together, where each may have so many.
    pub(super) fn channels(&self, per_lease: usize) -> usize {
        let open = lock(&self.open);
        let used = open.values().map(|lease| lease.channel_room.available_permits());
        used.map(|free| per_lease.saturating_sub(free)).sum()
    }

    pub(super) fn open(&self, shared: &Arc<Shared>, route: &Route) -> Result<(), RouteError> {
        let mut access = Access::of(route)?;
        let mut open = lock(&self.open);
        for (_, other) in open.iter().filter(|(id, _)| **id != route.lease) {
            access.share_keys(&mut lock(&other.access));
        }
        if let Some(lease) = open.get(&route.lease) {
            if lease.socket_dir == route.socket_dir {
                lease.replace(access);
                return Ok(());
            }
            access.note_shared(&lock(&lease.access).shared_keys);
            // The container was made anew elsewhere: the old door leads nowhere.
            lease.close();
            open.remove(&route.lease);
        }
        let failed = |source| RouteError::Socket { dir: route.socket_dir.clone(), source };
        let door = Door::make(&route.socket_dir).map_err(failed)?;
        let mark = access.password.as_ref().map(PasswordHash::mark);
        access.key_used = mark.is_some() && door.password_off() == mark;
        let memory = door.memory().map_err(failed)?;
        let closed = shared.tasks.token().child_token();
        let inside = Arc::clone(&self.inside);
        let lease = Arc::new(Lease::new(route, (access, memory), &shared.limits, inside, closed));
        door.serve(Arc::clone(shared), Arc::clone(&lease));
        open.insert(route.lease, lease);
        Ok(())
    }

    pub(super) fn close(&self, lease: LeaseId) {
        if let Some(lease) = lock(&self.open).remove(&lease) {
            lease.close();
        }
    }
}

fn only(mut leases: impl Iterator<Item = Arc<Lease>>) -> Option<Arc<Lease>> {
    let lease = leases.next()?;
    leases.next().is_none().then_some(lease)
}

impl Access {
    fn of(route: &Route) -> Result<Self, RouteError> {
        Ok(Self {
            keys: parse_keys(&route.keys)?,
            password: route.password.clone(),
            holder: route.holder,
            shared_keys: Vec::new(),
            key_used: false,
            is_unremembered: false,
            password_pace: Pace::default(),
            crowd_pace: Pace::default(),
            init_pid: route.init_pid,
            agent_forwarding: route.agent_forwarding,
            greeting: route.greeting.as_deref().map(Arc::from),
        })
    }

    /// Takes note, on both sides, of keys that both leases have and that are in doubt for that.
    fn share_keys(&mut self, other: &mut Self) {
        if self.holder.is_some() && self.holder == other.holder {
            return;
        }
        let common: Vec<_> =
            self.keys.iter().filter(|key| other.keys.contains(key)).cloned().collect();
        // Leases of the v1.9.0 door have no other name than `root`; those without a password must not take it from them.
        let (mine, theirs) = (self.password.is_some(), other.password.is_some());
        if !mine || theirs {
            self.note_shared(&common);
        }
        if !theirs || mine {
            other.note_shared(&common);
        }
    }

    fn note_shared(&mut self, keys: &[KeyData]) {
        for key in keys {
            // One more than counts: so it shows that there were too many.
            if self.shared_keys.len() <= SHARED_KEYS_MAX && !self.shared_keys.contains(key) {
                self.shared_keys.push(key.clone());
            }
        }
    }

    /// Whether the key belongs to this lease and to no other holder's.
    fn owns(&self, key: &KeyData) -> bool {
        self.shared_keys.len() <= SHARED_KEYS_MAX && !self.shared_keys.contains(key)
    }

    fn accepts_peer(&self, pid: Option<u32>) -> bool {
        self.init_pid.is_none_or(|init| Some(init) == pid)
    }

    fn admits(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Key(key) => self.keys.contains(key),
            Credential::Password(hash) => self.password.as_ref() == Some(hash),
        }
    }
}

impl Lease {
    fn new(
        route: &Route,
        (access, memory): (Access, Memory),
        limits: &Limits,
        inside: Arc<AtomicUsize>,
        closed: CancellationToken,
    ) -> Self {
        Self {
            id: route.lease,
            user: route.lease.short(),
            socket_dir: route.socket_dir.clone(),
            access: Mutex::new(access),
            memory,
            sessions: Mutex::new(Sessions::default()),
            inside,
            agent: watch::Sender::new(None),
            notices: broadcast::Sender::new(NOTICES_MAX),
            upload_room: Arc::new(Semaphore::new(limits.upload_per_lease)),
            channel_room: Arc::new(Semaphore::new(limits.channels_per_lease)),
            ports: Ports::new(limits.published_connections_per_lease),
            closed,
        }
    }

    /// The agent that serves it now.
    pub(super) fn agent(&self) -> Option<Arc<Link>> {
        self.agent.borrow().clone()
    }

    /// Waits for an agent to be there.
    pub(super) async fn wait_agent(&self) -> Option<Arc<Link>> {
        let mut agent = self.agent.subscribe();
        agent.wait_for(Option::is_some).await.ok().and_then(|agent| agent.clone())
    }

    /// Whether clients may lend their keys.
    pub(super) fn agent_forwarding(&self) -> AgentForwarding {
        lock(&self.access).agent_forwarding
    }

    /// What a login shell shows first.
    pub(super) fn greeting(&self) -> Option<Arc<str>> {
        lock(&self.access).greeting.clone()
    }

    /// Shows a text on every open terminal.
    pub(super) fn notify(&self, text: &str) {
        // Nobody listening is nobody to tell.
        drop(self.notices.send(text.into()));
    }

    /// Notices from now on.
    pub(super) fn notices(&self) -> broadcast::Receiver<Arc<str>> {
        self.notices.subscribe()
    }

    /// Whether the password is still a way in.
    pub(super) fn password(&self) -> Option<PasswordHash> {
        let access = lock(&self.access);
        access.password.clone().filter(|_| !access.key_used)
    }

    /// Whether a process may speak as the agent.
    pub(super) fn accepts_peer(&self, pid: Option<u32>) -> bool {
        lock(&self.access).accepts_peer(pid)
    }

    /// A new agent connection takes the place of the old one, which is cut off: an agent has one connection, so the old
    /// one is a leftover.
    ///
    /// `false` where the route has got another process since the connection was made.
    pub(super) fn set_agent(&self, link: &Arc<Link>) -> bool {
        // The route changes under the same lock, and whoever changes it sees the new link or is seen by it.
        let access = lock(&self.access);
        if !access.accepts_peer(link.pid()) {
            return false;
        }
        let old = self.agent.send_replace(Some(Arc::clone(link)));
        drop(access);
        if let Some(old) = old {
            old.cut();
        }
        true
    }

    /// The connection is over.
    pub(super) fn unset_agent(&self, link: &Arc<Link>) {
        self.agent.send_if_modified(|agent| {
            let same = agent.as_ref().is_some_and(|agent| Arc::ptr_eq(agent, link));
            if same {
                *agent = None;
            }
            same
        });
    }

    /// A place for one more session; `None` when there is no room, or what opened the lease no longer does.
    pub(super) fn enter(
        self: &Arc<Self>,
        credential: Credential,
        session: CancellationToken,
        room: Room,
    ) -> Option<SessionPlace> {
        let mut sessions = lock(&self.sessions);
        let mut access = lock(&self.access);
        let count = sessions.open.len();
        let fits = count < room.per_lease
            && (count < room.reserved || self.inside.load(Ordering::Relaxed) < room.total);
        if !fits || !access.admits(&credential) || self.closed.is_cancelled() {
            return None;
        }
        if matches!(credential, Credential::Key(_)) && !access.key_used {
            access.key_used = true;
            access.is_unremembered = true;
        }
        drop(access);
        let number = sessions.next;
        sessions.next += 1;
        sessions.open.insert(number, (credential, session));
        drop(sessions);
        self.inside.fetch_add(1, Ordering::Relaxed);
        Some(SessionPlace { lease: Arc::clone(self), number })
    }

    /// A gateway that starts again must not take the password again. Waits for the disk, and nobody else with it.
    pub(super) async fn remember_password_off(self: &Arc<Self>) {
        let mark = {
            let mut access = lock(&self.access);
            if !std::mem::take(&mut access.is_unremembered) {
                return;
            }
            access.password.as_ref().map(PasswordHash::mark)
        };
        let (Some(mark), lease) = (mark, Arc::clone(self)) else { return };
        let work = move || {
            if let Err(error) = lease.memory.switch_password_off(&mark) {
                tracing::warn!(lease = %lease.id, %error, "the password is off until the next start only");
            }
        };
        // It cannot panic, and is done whether or not somebody waits.
        drop(tokio::task::spawn_blocking(work).await);
    }

    fn is_called(&self, user: &str) -> bool {
        user == self.user || user == ANY_LEASE
    }

    fn is_opened_by(&self, user: &str, key: &KeyData) -> bool {
        let access = lock(&self.access);
        access.keys.contains(key) && (user != ANY_LEASE || access.owns(key))
    }

    fn may_be_tried(&self, allowance: Allowance, now: Duration) -> bool {
        match allowance {
            Allowance::None => false,
            Allowance::First => lock(&self.access).crowd_pace.take_for_crowd(now),
            Allowance::Shared => lock(&self.access).password_pace.take_for_lease(now),
        }
    }

    fn replace(&self, mut access: Access) {
        {
            let sessions = lock(&self.sessions);
            let mut current = lock(&self.access);
            if current.password == access.password {
                access.key_used = current.key_used;
                access.is_unremembered = current.is_unremembered;
                access.password_pace = current.password_pace;
                access.crowd_pace = current.crowd_pace;
            }
            access.note_shared(&std::mem::take(&mut current.shared_keys));
            for (credential, session) in sessions.open.values() {
                if !access.admits(credential) {
                    session.cancel();
                }
            }
            *current = access;
            if let Some(agent) = self.agent().filter(|agent| !current.accepts_peer(agent.pid())) {
                agent.cut();
            }
        }
    }

    fn close(&self) {
        self.closed.cancel();
        for (_, session) in lock(&self.sessions).open.values() {
            session.cancel();
        }
        if let Some(agent) = self.agent.send_replace(None) {
            agent.cut();
        }
    }
}

impl SessionPlace {
    pub(super) const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        lock(&self.lease.sessions).open.remove(&self.number);
        self.lease.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

fn parse_keys(keys: &[String]) -> Result<Vec<KeyData>, RouteError> {
    if keys.len() > KEYS_MAX {
        return Err(RouteError::TooManyKeys { max: KEYS_MAX });
    }
    keys.iter().enumerate().map(|(index, text)| parse_key(index, text)).collect()
}

fn parse_key(index: usize, text: &str) -> Result<KeyData, RouteError> {
    let key: SshKey = text.parse().map_err(|source| RouteError::Key { index, source })?;
    PublicKey::from_openssh(key.as_str())
        .map(|key| key.key_data().clone())
        .map_err(|source| RouteError::KeyValue { index, source })
}
