//! A runtime in memory that keeps the promises of the trait: what other rooms' tests run against.
//!
//! The machine is apart from the runtime, as in life: a node that is killed and started again makes a new `FakeRuntime`
//! over the same `FakeMachine` and finds its containers there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use nicompute_market::LeaseId;
use tokio::sync::watch;

use super::{
    ContainerSpec, Limits, Presence, PullProgress, Running, Runtime, RuntimeConfig, RuntimeError,
    RuntimeKind,
};

/// The only image of a fake machine until a test names others.
const IMAGE: &str = "fake";
/// The first process id that is handed out; visibly no real one in a failed test's output.
const FIRST_PID: u32 = 1_000_000;

/// A machine without processes. Cheap to clone; clones are the same machine.
#[derive(Debug, Clone, Default)]
pub struct FakeMachine(Arc<Mutex<Machine>>);

#[derive(Debug, Default)]
struct Machine {
    containers: BTreeMap<(String, LeaseId), Container>,
    images: Vec<String>,
    registry: Vec<String>,
    without_gpus: bool,
    pids_given: u32,
    failures_left: u32,
}

#[derive(Debug, Clone)]
struct Container {
    spec: ContainerSpec,
    state: Presence,
}

/// One node's runtime on a fake machine.
#[derive(Debug, Clone)]
pub struct FakeRuntime {
    machine: FakeMachine,
    config: Arc<RuntimeConfig>,
}

// === impl FakeMachine ===

impl FakeMachine {
    /// A machine with the image `fake`.
    #[must_use]
    pub fn new() -> Self {
        let machine = Self::default();
        machine.lock().images.push(IMAGE.to_owned());
        machine
    }

    /// Replaces the images.
    pub fn set_images(&self, images: &[&str]) {
        self.lock().images = images.iter().map(|image| (*image).to_owned()).collect();
    }

    /// Names the images that can be fetched onto the machine.
    pub fn set_registry(&self, images: &[&str]) {
        self.lock().registry = images.iter().map(|image| (*image).to_owned()).collect();
    }

    /// Makes the machine's runtimes give no GPUs to containers, as the sandbox does.
    pub fn give_no_gpus(&self) {
        self.lock().without_gpus = true;
    }

    /// Makes the next `count` acts fail before they change anything.
    pub fn fail_next(&self, count: u32) {
        self.lock().failures_left = count;
    }

    /// Ends the first process of every container of the lease, as a crash of the agent would.
    pub fn crash(&self, lease: LeaseId) {
        for ((_, of), container) in &mut self.lock().containers {
            if *of == lease {
                container.state = Presence::Exited;
            }
        }
    }

    /// Removes the lease's containers behind the node's back, with their disks.
    pub fn forget(&self, lease: LeaseId) {
        self.lock().containers.retain(|(_, of), _| *of != lease);
    }

    /// Every container on the machine, of all nodes.
    #[must_use]
    pub fn containers(&self) -> Vec<(LeaseId, Presence)> {
        self.lock().containers.iter().map(|((_, lease), c)| (*lease, c.state)).collect()
    }

    /// The spec that the lease's container was made from.
    #[must_use]
    pub fn spec_of(&self, lease: LeaseId) -> Option<ContainerSpec> {
        self.lock()
            .containers
            .iter()
            .find(|((_, of), _)| *of == lease)
            .map(|(_, container)| container.spec.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl FakeRuntime ===

impl FakeRuntime {
    /// The node's runtime on that machine.
    #[must_use]
    pub fn new(config: RuntimeConfig, machine: FakeMachine) -> Self {
        Self { machine, config: Arc::new(config) }
    }

    /// The machine, with the next act's failure taken into account.
    fn act(&self) -> Result<MutexGuard<'_, Machine>, RuntimeError> {
        let mut machine = self.machine.lock();
        if let Some(left) = machine.failures_left.checked_sub(1) {
            machine.failures_left = left;
            return Err(RuntimeError::Injected);
        }
        Ok(machine)
    }

    fn key(&self, lease: LeaseId) -> (String, LeaseId) {
        (self.config.node_id.clone(), lease)
    }

    fn change(&self, lease: LeaseId, to: impl FnOnce(u32) -> Presence) -> Result<(), RuntimeError> {
        let mut machine = self.act()?;
        let container = machine.containers.get_mut(&self.key(lease));
        let Some((container, init_pid)) = container.and_then(|container| {
            let init_pid = container.state.init_pid()?;
            Some((container, init_pid))
        }) else {
            return Err(RuntimeError::NotRunning { lease });
        };
        container.state = to(init_pid);
        Ok(())
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Fake
    }

    fn limits(&self) -> Limits {
        Limits::All
    }

    fn gives_gpus(&self) -> bool {
        !self.machine.lock().without_gpus
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        Ok(self.act()?.images.clone())
    }

    async fn ensure(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        spec.check()?;
        let mut machine = self.act()?;
        if machine.without_gpus && !spec.gpus.is_empty() {
            return Err(RuntimeError::Unsupported {
                what: "the fake machine gives no GPUs to containers".to_owned(),
                remedy: "ask for none",
            });
        }
        let key = self.key(spec.lease);
        if let Some(container) = machine.containers.get(&key) {
            let current = container.spec.generation;
            if spec.generation < current {
                let (lease, asked) = (spec.lease, spec.generation);
                return Err(RuntimeError::Superseded { lease, asked, current });
            }
            if let Some(init_pid) = container.state.init_pid() {
                return Ok(Running { init_pid });
            }
        }
        if !machine.images.contains(&spec.image) {
            return Err(RuntimeError::ImageMissing { image: spec.image.clone() });
        }
        let init_pid = FIRST_PID.saturating_add(machine.pids_given);
        machine.pids_given = machine.pids_given.saturating_add(1);
        let state = Presence::Running { init_pid };
        machine.containers.insert(key, Container { spec: spec.clone(), state });
        Ok(Running { init_pid })
    }

    async fn restart(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        spec.check()?;
        let mut machine = self.act()?;
        let init_pid = FIRST_PID.saturating_add(machine.pids_given);
        let Some(container) = machine.containers.get_mut(&self.key(spec.lease)) else {
            return Err(RuntimeError::NotRunning { lease: spec.lease });
        };
        let current = container.spec.generation;
        if spec.generation < current {
            let (lease, asked) = (spec.lease, spec.generation);
            return Err(RuntimeError::Superseded { lease, asked, current });
        }
        container.state = Presence::Running { init_pid };
        machine.pids_given = machine.pids_given.saturating_add(1);
        Ok(Running { init_pid })
    }

    async fn pull(
        &self,
        image: &str,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        let mut machine = self.act()?;
        if !machine.registry.iter().any(|known| known == image) {
            return Err(RuntimeError::ImageMissing { image: image.to_owned() });
        }
        if !machine.images.iter().any(|known| known == image) {
            machine.images.push(image.to_owned());
        }
        progress.send_replace(PullProgress { bytes_done: 1, bytes_total: 1 });
        Ok(())
    }

    async fn inspect(&self, lease: LeaseId) -> Result<Presence, RuntimeError> {
        let machine = self.act()?;
        Ok(machine.containers.get(&self.key(lease)).map_or(Presence::Absent, |c| c.state))
    }

    async fn pause(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        self.change(lease, |init_pid| Presence::Paused { init_pid })
    }

    async fn resume(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        self.change(lease, |init_pid| Presence::Running { init_pid })
    }

    async fn remove(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let removed = self.act()?.containers.remove(&self.key(lease));
        let dir = self.config.lease_dir(lease);
        match std::fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RuntimeError::Io { act: "remove", path: dir, source })
            }
            _ => {
                tracing::debug!(%lease, existed = removed.is_some(), "removed a fake container");
                Ok(())
            }
        }
    }

    async fn list(&self) -> Result<Vec<LeaseId>, RuntimeError> {
        let machine = self.act()?;
        let ours = |(node, _): &&(String, LeaseId)| *node == self.config.node_id;
        Ok(machine.containers.keys().filter(ours).map(|(_, lease)| *lease).collect())
    }
}
