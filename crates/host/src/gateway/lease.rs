//! The open routes: who may enter which lease, which agent serves it, and who is inside.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nicompute_daemon::CancellationToken;
use nicompute_market::LeaseId;
use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;
use tokio::sync::{Semaphore, watch};

use super::door::Door;
use super::link::Link;
use super::{Limits, Route, RouteError, Shared};

/// Keys of one lease.
const KEYS_MAX: usize = 64;
/// The user name that stands for whichever lease the key opens.
const ANY_LEASE: &str = "root";

/// All open routes.
#[derive(Debug, Default)]
pub(super) struct Leases {
    open: Mutex<BTreeMap<LeaseId, Arc<Lease>>>,
}

/// One open route.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    user: String,
    socket_dir: PathBuf,
    access: Mutex<Access>,
    sessions: Mutex<Sessions>,
    agent: watch::Sender<Option<Arc<Link>>>,
    /// Bytes that clients may have on their way into this lease.
    pub(super) upload_room: Arc<Semaphore>,
    /// Channels that may be open into this lease.
    pub(super) channel_room: Arc<Semaphore>,
    /// Cancelled when the route is closed.
    pub(super) closed: CancellationToken,
}

#[derive(Debug)]
struct Access {
    keys: Vec<KeyData>,
    init_pid: Option<u32>,
}

#[derive(Debug, Default)]
struct Sessions {
    next: u64,
    open: BTreeMap<u64, (KeyData, CancellationToken)>,
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
        let open = lock(&self.open);
        let mut fitting = open.values().filter(|lease| lease.admits(user, key.key_data()));
        let lease = fitting.next()?;
        fitting.next().is_none().then(|| Arc::clone(lease))
    }

    pub(super) fn open(&self, shared: &Arc<Shared>, route: &Route) -> Result<(), RouteError> {
        let keys = parse_keys(&route.keys)?;
        let mut open = lock(&self.open);
        if let Some(lease) = open.get(&route.lease) {
            if lease.socket_dir == route.socket_dir {
                lease.replace(keys, route.init_pid);
                return Ok(());
            }
            // The container was made anew elsewhere: the old door leads nowhere.
            lease.close();
            open.remove(&route.lease);
        }
        let door = Door::make(&route.socket_dir)
            .map_err(|source| RouteError::Socket { dir: route.socket_dir.clone(), source })?;
        let closed = shared.tasks.token().child_token();
        let access = Access { keys, init_pid: route.init_pid };
        let lease = Arc::new(Lease::new(route, access, &shared.limits, closed));
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

impl Lease {
    fn new(route: &Route, access: Access, limits: &Limits, closed: CancellationToken) -> Self {
        Self {
            id: route.lease,
            user: route.lease.short(),
            socket_dir: route.socket_dir.clone(),
            access: Mutex::new(access),
            sessions: Mutex::new(Sessions::default()),
            agent: watch::Sender::new(None),
            upload_room: Arc::new(Semaphore::new(limits.upload_per_lease)),
            channel_room: Arc::new(Semaphore::new(limits.channels_per_lease)),
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

    /// Whether a process may speak as the agent.
    pub(super) fn accepts_peer(&self, pid: Option<u32>) -> bool {
        lock(&self.access).init_pid.is_none_or(|init| Some(init) == pid)
    }

    /// A new agent connection takes the place of the old one, which is cut off: an agent has one connection, so the old
    /// one is a leftover.
    pub(super) fn set_agent(&self, link: Arc<Link>) {
        // Checked again under the change itself: the route may have got another process since the connection was made.
        if self.accepts_peer(link.pid())
            && let Some(old) = self.agent.send_replace(Some(link))
        {
            old.cut();
        }
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

    /// A place for one more session; `None` when the lease has all it may have, or the key is no longer its.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: &PublicKey,
        session: CancellationToken,
        max: usize,
    ) -> Option<SessionPlace> {
        let mut sessions = lock(&self.sessions);
        let listed = lock(&self.access).keys.contains(key.key_data());
        if sessions.open.len() >= max || !listed || self.closed.is_cancelled() {
            return None;
        }
        let number = sessions.next;
        sessions.next += 1;
        sessions.open.insert(number, (key.key_data().clone(), session));
        drop(sessions);
        Some(SessionPlace { lease: Arc::clone(self), number })
    }

    fn admits(&self, user: &str, key: &KeyData) -> bool {
        (user == self.user || user == ANY_LEASE) && lock(&self.access).keys.contains(key)
    }

    fn replace(&self, keys: Vec<KeyData>, init_pid: Option<u32>) {
        for (key, session) in lock(&self.sessions).open.values() {
            if !keys.contains(key) {
                session.cancel();
            }
        }
        *lock(&self.access) = Access { keys, init_pid };
        if let Some(agent) = self.agent().filter(|agent| !self.accepts_peer(agent.pid())) {
            agent.cut();
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
    }
}

fn parse_keys(keys: &[String]) -> Result<Vec<KeyData>, RouteError> {
    if keys.len() > KEYS_MAX {
        return Err(RouteError::TooManyKeys { max: KEYS_MAX });
    }
    keys.iter()
        .enumerate()
        .map(|(index, text)| {
            PublicKey::from_openssh(text.trim())
                .map(|key| key.key_data().clone())
                .map_err(|source| RouteError::Key { index, source })
        })
        .collect()
}
