//! What fails beside a lease must not reach further than it has to.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use nicompute_host::net::{FakeNetwork, Wire};

use super::*;

/// A network whose programs can be missing. The machine's, not the process's.
#[derive(Debug, Clone, Default)]
pub(super) struct FlakyNetwork {
    inner: FakeNetwork,
    is_broken: Arc<AtomicBool>,
}

impl FlakyNetwork {
    pub(super) fn wires(&self) -> BTreeMap<LeaseId, u32> {
        self.inner.wires()
    }

    pub(super) fn mended(&self) -> u32 {
        self.inner.mended()
    }

    fn breaks(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
    }

    fn is_mended(&self) {
        self.is_broken.store(false, Ordering::SeqCst);
    }

    fn works(&self) -> Result<(), NetError> {
        match self.is_broken.load(Ordering::SeqCst) {
            true => Err(NetError::ProgramMissing { program: "ip" }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Network for FlakyNetwork {
    async fn attach(&self, lease: LeaseId, init_pid: u32) -> Result<Wire, NetError> {
        self.works()?;
        self.inner.attach(lease, init_pid).await
    }

    async fn detach(&self, lease: LeaseId) -> Result<(), NetError> {
        self.works()?;
        self.inner.detach(lease).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, NetError> {
        self.works()?;
        self.inner.leases().await
    }

    async fn mend(&self) -> Result<(), NetError> {
        self.works()?;
        self.inner.mend().await
    }

    async fn disturbed(&self) -> Result<(), NetError> {
        self.inner.disturbed().await
    }

    fn resolv_conf(&self) -> String {
        self.inner.resolv_conf()
    }
}

/// A machine whose network tools are gone must still end its leases: a tenant who does not pay any more would compute on.
#[tokio::test]
async fn a_network_that_fails_keeps_no_container_alive() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 60_000).await;
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Running);
    world.network.breaks();
    process.apply(1, LeaseEvent::EndAsked(EndReason::Released)).await;
    process.look().await;
    assert!(world.machine.containers().is_empty(), "its container is gone at once");
    assert!(!process.reconciler.places.lease_dir(terms(1).id).exists());
    assert_eq!(process.state(1).await, LeaseState::Ending(EndReason::Released), "its wire is not");
    world.network.is_mended();
    process.look().await;
    assert_eq!(process.state(1).await, LeaseState::Ended(EndReason::Released));

    process.ask(2, 60_000).await;
    process.look().await;
    world.network.breaks();
    process.apply(2, LeaseEvent::EndAsked(EndReason::Released)).await;
    process.look().await;
    assert_eq!(process.state(2).await, LeaseState::Ended(EndReason::Released), "it has no wire");
}

/// One thing on the machine that cannot be read or removed must not keep everything else that nobody pays for.
#[tokio::test]
async fn what_cannot_be_told_keeps_no_other_orphan() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    let stray = process.reconciler.places.lease_dir(LeaseId::from_random_bytes([77; 16]));
    std::fs::create_dir_all(&stray).unwrap();
    world.network.breaks();
    assert!(process.reconciler.sweep().await.is_err(), "it is said");
    assert!(!stray.exists());
}

/// A holder who asks for one restart must be given one, whatever fails after it: each further one would end his work again.
#[tokio::test]
async fn a_restart_is_carried_out_once() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(1, 3_600_000).await;
    process.look().await;
    let before = world.presence(terms(1).id);
    world.network.breaks();
    process.apply(1, LeaseEvent::RestartAsked).await;
    process.look().await;
    let after = world.presence(terms(1).id);
    assert_ne!(after, before);
    for _ in 0..3 {
        process.look().await;
        assert_eq!(world.presence(terms(1).id), after, "not again");
    }
    let lease = process.store().get(terms(1).id).await.unwrap().unwrap();
    assert_eq!((lease.state, lease.restart_asked), (LeaseState::Running, false));
    world.network.is_mended();
    process.look().await;
    assert_eq!(world.network.wires().get(&terms(1).id).copied(), after.init_pid());
}
