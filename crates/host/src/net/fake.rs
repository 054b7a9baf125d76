//! A network in memory, for tests of others.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use nicompute_market::LeaseId;

use super::{NetError, Network, Wire};

/// Wires that only remember whom they lead to. Clones are the same network, as a machine's is for every process.
#[derive(Debug, Clone, Default)]
pub struct FakeNetwork(Arc<Mutex<BTreeMap<LeaseId, u32>>>, Arc<AtomicU32>);

impl FakeNetwork {
    /// Every lease that is wired, with the process that it was wired for.
    #[must_use]
    pub fn wires(&self) -> BTreeMap<LeaseId, u32> {
        self.with(|wires| wires.clone())
    }

    /// How often its rules were put right.
    #[must_use]
    pub fn mended(&self) -> u32 {
        self.1.load(Ordering::Relaxed)
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<LeaseId, u32>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, lease: LeaseId, init_pid: u32) -> Result<Wire, NetError> {
        self.with(|wires| wires.insert(lease, init_pid));
        Ok(Wire {
            lease,
            address: Ipv4Addr::new(10, 0, 0, 2),
            link: "fake".to_owned(),
            sent_bytes: 0,
            received_bytes: 0,
        })
    }

    async fn detach(&self, lease: LeaseId) -> Result<(), NetError> {
        self.with(|wires| wires.remove(&lease));
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, NetError> {
        Ok(self.wires().into_keys().collect())
    }

    async fn mend(&self) -> Result<(), NetError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn disturbed(&self) -> Result<(), NetError> {
        std::future::pending().await
    }

    fn resolv_conf(&self) -> String {
        "nameserver 192.0.2.53\n".to_owned()
    }
}
