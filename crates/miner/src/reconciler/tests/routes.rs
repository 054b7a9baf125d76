//! Ways into leases that only remember, and ports that somebody else may have.

use nicompute_daemon::Kind;
use nicompute_host::gateway::Route;
use nicompute_market::PublishedPort;

use super::*;
use crate::routes::PortRefused;

/// Routes of one process: they die with it, and so do its listeners.
#[derive(Debug, Default)]
pub(super) struct FakeRoutes {
    pub(super) open: std::sync::Mutex<BTreeMap<LeaseId, Route>>,
    pub(super) refuses_keys: bool,
    pub(super) notices: std::sync::Mutex<Vec<String>>,
    pub(super) published: std::sync::Mutex<BTreeMap<u16, (LeaseId, u16)>>,
    /// Ports at which another program of the machine listens.
    pub(super) taken: std::sync::Mutex<BTreeSet<u16>>,
}

impl FakeRoutes {
    pub(super) fn open_now(&self) -> BTreeMap<LeaseId, Route> {
        self.open.lock().unwrap().clone()
    }

    /// The ports through which a lease is reached.
    pub(super) fn published(&self, lease: LeaseId) -> Vec<PublishedPort> {
        let all = self.published.lock().unwrap();
        let own = all.iter().filter(|(_, (of, _))| *of == lease);
        let port = |(port, (_, inside)): (&u16, &(LeaseId, u16))| PublishedPort {
            container_port: *inside,
            port: *port,
        };
        let mut ports: Vec<_> = own.map(port).collect();
        ports.sort_unstable();
        ports
    }
}

impl Routes for FakeRoutes {
    fn open(&self, route: &Route) -> Result<(), RouteRefused> {
        if self.refuses_keys {
            return Err(RouteRefused { kind: Kind::Caller, source: "no key".into() });
        }
        self.open.lock().unwrap().insert(route.lease, route.clone());
        Ok(())
    }

    fn close(&self, lease: LeaseId) {
        self.open.lock().unwrap().remove(&lease);
        self.published.lock().unwrap().retain(|_, (of, _)| *of != lease);
    }

    fn connected(&self, lease: LeaseId) -> bool {
        self.open.lock().unwrap().contains_key(&lease)
    }

    fn publish(&self, lease: LeaseId, port: PublishedPort) -> Result<(), PortRefused> {
        assert!(self.connected(lease), "a port of a lease without a route");
        if self.taken.lock().unwrap().contains(&port.port) {
            let source = "in use".into();
            return Err(PortRefused { shown: "taken", other_port_may_do: true, source });
        }
        let place = (lease, port.container_port);
        let before = self.published.lock().unwrap().insert(port.port, place);
        assert!(before.is_none_or(|before| before == place), "a port leads into two leases");
        Ok(())
    }

    fn notice(&self, _: LeaseId, text: &str) {
        self.notices.lock().unwrap().push(text.to_owned());
    }

    fn port(&self) -> u16 {
        4444
    }

    fn host_key(&self) -> String {
        String::new()
    }
}
