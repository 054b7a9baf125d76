//! What the node puts on the market: the whole machine, as one offer.
//!
//! The machine's numbers are read once at the start and are claims; images come from the runtime and are asked for again
//! when they are old; whether the offer is free says the store.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nicompute_daemon::{ErrorChain, SharedClock};
use nicompute_host::inventory::Inventory;
use nicompute_host::runtime::{Runtime, RuntimeError, RuntimeKind as HostKind};
use nicompute_market::{Gpu, Machine, MicroUsd, Offer, OfferId, RuntimeKind, Share};
use nicompute_wire::node::IMAGES_MAX;
use tokio::sync::Mutex;

use crate::gpus::AbsentGpus;
use crate::store::{Capacity, Store, StoreError};

/// The only offer of a node.
pub const OFFER_ID: &str = "machine";
/// How old the list of images may be.
const IMAGES_AGE_MAX: Duration = Duration::from_secs(5);
/// The machine itself, the node and the runtime keep this part of the memory, and at most the next number.
const MEMORY_KEPT_DIVISOR: u64 = 8;
const MEMORY_KEPT_BYTES_MAX: u64 = 4 << 30;
/// Of the free disk a tenant gets three quarters: images, logs and the store need room as well.
const DISK_OFFERED_QUARTERS: u64 = 3;
const THOUSANDTHS: u32 = 1000;

/// The node's only offer.
#[derive(Debug)]
pub(crate) struct Offers {
    id: OfferId,
    machine: Machine,
    price_per_hour: MicroUsd,
    kind: RuntimeKind,
    runtime: Arc<dyn Runtime>,
    /// Written by the watch over the GPUs.
    absent: AbsentGpus,
    clock: SharedClock,
    images: Mutex<Option<Images>>,
    /// Whether a lease holds the machine, and the version of the store that said so.
    held: std::sync::Mutex<Option<(u64, bool)>>,
}

/// What somebody gets who leases an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sold {
    pub(crate) share: Share,
    pub(crate) price_per_hour: MicroUsd,
}

#[derive(Debug, Clone)]
struct Images {
    read_at: Duration,
    names: Vec<String>,
}

impl Offers {
    pub(crate) fn new(
        inventory: &Inventory,
        price_per_hour: MicroUsd,
        runtime: Arc<dyn Runtime>,
        clock: SharedClock,
    ) -> Self {
        Self {
            id: OFFER_ID.parse().expect("the constant is an offer id"),
            machine: offered(inventory, &*runtime),
            price_per_hour,
            kind: market_kind(&*runtime),
            runtime,
            absent: AbsentGpus::default(),
            clock,
            images: Mutex::new(None),
            held: std::sync::Mutex::new(None),
        }
    }

    /// What a lease of this offer is given, if there is such an offer.
    pub(crate) fn sold(&self, id: &OfferId) -> Option<Sold> {
        (*id == self.id).then(|| Sold { share: self.whole(), price_per_hour: self.price_per_hour })
    }

    /// All of the machine that is for rent.
    pub(crate) fn whole(&self) -> Share {
        Share {
            cores_milli: self.machine.cores.saturating_mul(THOUSANDTHS),
            memory_bytes: self.machine.memory_bytes,
            disk_bytes: self.machine.disk_bytes,
            gpus: self.machine.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        }
    }

    /// What all leases together may hold.
    pub(crate) fn capacity(&self) -> Capacity {
        Capacity {
            cores_milli: u64::from(self.machine.cores.saturating_mul(THOUSANDTHS)),
            memory_bytes: self.machine.memory_bytes,
        }
    }

    /// The GPUs that cannot be given to anybody now.
    pub(crate) const fn absent(&self) -> &AbsentGpus {
        &self.absent
    }

    pub(crate) const fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) const fn kind(&self) -> RuntimeKind {
        self.kind
    }

    /// The images that can be leased now. A runtime that does not answer has the images that it had before.
    pub(crate) async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        let mut known = self.images.lock().await;
        let now = self.clock.monotonic();
        if let Some(images) = &*known
            && now.saturating_sub(images.read_at) < IMAGES_AGE_MAX
        {
            return Ok(images.names.clone());
        }
        match (self.runtime.images().await, &*known) {
            (Ok(mut names), _) => {
                names.truncate(IMAGES_MAX);
                *known = Some(Images { read_at: now, names: names.clone() });
                Ok(names)
            }
            (Err(error), Some(images)) => {
                tracing::warn!(error = %ErrorChain(&error), "the runtime does not list its images");
                Ok(images.names.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The offer as it stands now. A runtime that never listed its images has nothing to offer.
    pub(crate) async fn current(&self, store: &Store) -> Result<Offer, StoreError> {
        let images = self.images().await.unwrap_or_else(|error| {
            tracing::warn!(error = %ErrorChain(&error), "the runtime does not list its images");
            Vec::new()
        });
        let held = self.is_held(store).await?;
        let is_whole =
            self.absent.first_of(self.machine.gpus.iter().map(|gpu| &gpu.uuid)).is_none();
        Ok(Offer {
            id: self.id.clone(),
            machine: self.machine.clone(),
            price_per_hour: self.price_per_hour,
            available: !held && is_whole && !images.is_empty(),
            images,
            runtime: self.kind,
        })
    }

    /// Whether a lease holds the machine. The store is asked again when it was written since.
    async fn is_held(&self, store: &Store) -> Result<bool, StoreError> {
        // Before the question: an answer that is newer than its version is asked for once more, never the other way.
        let version = store.version();
        let known = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, held)) = known.filter(|(at, _)| *at == version) {
            return Ok(held);
        }
        let held = store.holder_of(&self.id).await?.is_some();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, held));
        Ok(held)
    }
}

/// What a tenant gets of the machine. GPUs that the runtime cannot give to a container are not for rent.
fn offered(inventory: &Inventory, runtime: &dyn Runtime) -> Machine {
    let kept = (inventory.memory_bytes / MEMORY_KEPT_DIVISOR).min(MEMORY_KEPT_BYTES_MAX);
    let gpus = inventory.gpus.iter().filter(|_| runtime.gives_gpus()).map(|gpu| Gpu {
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        memory_bytes: gpu.memory_bytes,
    });
    Machine {
        cpu_model: inventory.cpu_model.clone(),
        cores: inventory.cores,
        memory_bytes: inventory.memory_bytes.saturating_sub(kept),
        disk_bytes: inventory.disk_free_bytes / 4 * DISK_OFFERED_QUARTERS,
        gpus: gpus.collect(),
    }
}

/// What renters are told about the runtime. A fake one stands for the runtime with the same walls.
fn market_kind(runtime: &dyn Runtime) -> RuntimeKind {
    match runtime.kind() {
        HostKind::Docker => RuntimeKind::Docker,
        HostKind::SandboxRoot => RuntimeKind::SandboxRoot,
        HostKind::SandboxUser => RuntimeKind::SandboxUser,
        HostKind::Fake if runtime.limits_enforced() => RuntimeKind::SandboxRoot,
        HostKind::Fake => RuntimeKind::SandboxUser,
    }
}

#[cfg(test)]
mod tests {
    use nicompute_daemon::ManualClock;
    use nicompute_host::inventory::{Gpu as HostGpu, GpuShare};
    use nicompute_host::runtime::{
        FakeMachine, FakeRuntime, ImagePolicy, RuntimeConfig, SandboxProgram,
    };

    use super::*;

    /// Every lease of a machine with GPUs would fail where the runtime cannot give them to a container.
    #[test]
    fn gpus_are_offered_where_the_runtime_gives_them() {
        let gpu = HostGpu {
            uuid: "GPU-1".to_owned(),
            name: "test".to_owned(),
            memory_bytes: 1 << 30,
            compute_capability: None,
            share: GpuShare::Whole,
        };
        let inventory = Inventory {
            cpu_model: "test".to_owned(),
            cores: 2,
            memory_bytes: 1 << 30,
            memory_free_bytes: 1 << 30,
            disk_free_bytes: 1 << 30,
            gpus: vec![gpu],
            gpu_driver: None,
            notes: Vec::new(),
        };
        let machine = FakeMachine::new();
        let offered = || {
            let config = RuntimeConfig {
                node_id: "node".to_owned(),
                state_dir: "/none".into(),
                rootfs: None,
                sandbox_program: SandboxProgram { path: "/none".into(), args: Vec::new() },
                docker_socket: None,
                images: Vec::new(),
                image_policy: ImagePolicy::default(),
                trial_agent: None,
                classes: Vec::new(),
            };
            let runtime = Arc::new(FakeRuntime::new(config, machine.clone()));
            let offers = Offers::new(&inventory, MicroUsd(1), runtime, ManualClock::at_unix_ms(1));
            offers.machine().clone()
        };
        let with = offered();
        assert_eq!(with.gpus.len(), 1);
        machine.give_no_gpus();
        assert_eq!(offered(), Machine { gpus: Vec::new(), ..with });
    }
}
