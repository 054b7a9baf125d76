//! What the node puts on the market: the whole machine as one offer, or what a file says.
//!
//! The machine's numbers are read once at the start and are claims; images come from the runtime and are asked for again
//! when they are old; whether an offer is free says the store. A file is used whole or not at all, and read again when it
//! changes: what is sold by then stays sold.

mod file;
mod reload;
mod text;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nicompute_daemon::{ErrorChain, SharedClock};
use nicompute_host::inventory::Inventory;
use nicompute_host::runtime::{
    ImageName, ImagePattern, Limits, Runtime, RuntimeError, RuntimeKind as HostKind,
};
use nicompute_market::{
    Conditions, Gpu, Lease, LeaseNetwork, LimitsHeld, Machine, MicroUsd, Offer, OfferId,
    RuntimeKind, Share, UnixMillis, VolumesAllowed,
};
use nicompute_wire::node::{IMAGES_MAX, PORTS_MAX};
use tokio::sync::Mutex;

use crate::gpus::AbsentGpus;
use crate::ports::PortRange;
use crate::store::{Capacity, Store, StoreError};
use file::{Defined, Ground};
pub use file::{OFFERS_FILE_BYTES_MAX, OfferProblem, OffersError};
pub(crate) use reload::watch;

/// The offer of the whole machine, where no file says otherwise.
pub const OFFER_ID: &str = "machine";
/// How old the list of images may be.
const IMAGES_AGE_MAX: Duration = Duration::from_secs(5);
/// The machine itself, the node and the runtime keep this part of the memory, and at most the next number.
const MEMORY_KEPT_DIVISOR: u64 = 8;
const MEMORY_KEPT_BYTES_MAX: u64 = 4 << 30;
/// Of the free disk a tenant gets three quarters: images, logs and the store need room as well.
const DISK_OFFERED_QUARTERS: u64 = 3;
const THOUSANDTHS: u32 = 1000;

/// What the node gives beside its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facilities {
    /// Whether there is a tenants' network.
    pub(crate) network: LeaseNetwork,
    /// Ports of this machine through which leases may be reached.
    pub(crate) ports: Option<PortRange>,
    /// Patterns of images that are fetched.
    pub(crate) fetches: Vec<String>,
    /// Of the whole file system, free or not.
    pub(crate) disk_bytes: u64,
}

/// The node's offers.
#[derive(Debug)]
pub(crate) struct Offers {
    list: RwLock<Arc<Vec<Defined>>>,
    ground: Ground,
    disk_bytes_max: u64,
    ports: Option<PortRange>,
    kind: RuntimeKind,
    runtime: Arc<dyn Runtime>,
    /// Written by the watch over the GPUs.
    absent: AbsentGpus,
    clock: SharedClock,
    images: Mutex<Option<Images>>,
    /// What leases hold, and the version of the store that said so.
    held: std::sync::Mutex<Option<(u64, Arc<Held>)>>,
}

/// What somebody gets who leases an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sold {
    pub(crate) share: Share,
    pub(crate) price_per_hour: MicroUsd,
    pub(crate) conditions: Conditions,
    images: Option<Vec<String>>,
}

/// An image for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageChoice {
    /// It is there.
    Present(String),
    /// It may be fetched.
    Fetched(String),
    /// The offer does not have it.
    Unknown,
    /// The offer has none at all.
    None,
}

/// What leases hold.
#[derive(Debug, Default)]
struct Held {
    offers: BTreeSet<OfferId>,
    gpus: BTreeSet<String>,
    cores_milli: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

#[derive(Debug, Clone)]
struct Images {
    read_at: Duration,
    names: Vec<String>,
}

impl Offers {
    /// The whole machine as one offer.
    pub(crate) fn new(
        inventory: &Inventory,
        price_per_hour: MicroUsd,
        facilities: Facilities,
        runtime: Arc<dyn Runtime>,
        clock: SharedClock,
    ) -> Self {
        let machine = offered(inventory, &*runtime);
        let ground = Ground {
            disk_bytes: machine.disk_bytes,
            machine,
            classes: runtime.classes(),
            limits: runtime.limits(),
            network: facilities.network,
            ports_max: facilities.ports.map_or(0, ports_of_one_lease),
            fetches: facilities.fetches,
        };
        Self {
            disk_bytes_max: facilities.disk_bytes / 4 * DISK_OFFERED_QUARTERS,
            list: RwLock::new(Arc::new(vec![whole(&ground, price_per_hour)])),
            ports: facilities.ports,
            kind: market_kind(&*runtime),
            ground,
            runtime,
            absent: AbsentGpus::default(),
            clock,
            images: Mutex::new(None),
            held: std::sync::Mutex::new(None),
        }
    }

    /// Counts with the leases that were open when the free disk was read: what they wrote is missing from it. More than the
    /// disk can hold it never gets.
    pub(crate) fn begin_with(&mut self, open: &[Lease]) {
        let free = self.ground.machine.disk_bytes;
        let disks = open.iter().map(|lease| lease.terms.share.disk_bytes);
        let all = disks.fold(free, u64::saturating_add);
        self.ground.disk_bytes = all.min(self.disk_bytes_max).max(free);
    }

    /// Offers what a file says from now on. Where it is wrong, what was offered before stays offered.
    pub(crate) fn load(&self, path: &Path) -> Result<usize, OffersError> {
        let defined = file::read(path, &self.ground)?;
        let count = defined.len();
        self.replace(defined);
        Ok(count)
    }

    /// Offers nothing until a file is loaded.
    pub(crate) fn clear(&self) {
        self.replace(Vec::new());
    }

    /// What a lease of this offer is given, if there is such an offer.
    pub(crate) fn sold(&self, id: &OfferId) -> Option<Sold> {
        self.list().iter().find(|offer| offer.id == *id).map(|offer| Sold {
            share: offer.share.clone(),
            price_per_hour: offer.price_per_hour,
            conditions: offer.conditions.clone(),
            images: offer.images.clone(),
        })
    }

    /// What there is to lease, for a caller that names no offer.
    pub(crate) fn machines(&self) -> Vec<(OfferId, Machine)> {
        let one = |offer: &Defined| (offer.id.clone(), offer.machine.clone());
        self.list().iter().map(one).collect()
    }

    /// All of the machine that is for rent.
    pub(crate) fn whole(&self) -> Share {
        share_of(&self.ground.machine)
    }

    /// What all leases together may hold.
    pub(crate) fn capacity(&self) -> Capacity {
        let whole = self.whole();
        let cores_milli = u64::from(whole.cores_milli);
        let (disk_bytes, ports) = (self.ground.disk_bytes, self.ports);
        Capacity { cores_milli, memory_bytes: whole.memory_bytes, disk_bytes, ports }
    }

    /// The GPUs that cannot be given to anybody now.
    pub(crate) const fn absent(&self) -> &AbsentGpus {
        &self.absent
    }

    pub(crate) const fn machine(&self) -> &Machine {
        &self.ground.machine
    }

    pub(crate) const fn kind(&self) -> RuntimeKind {
        self.kind
    }

    /// Whether an image is on this machine now.
    pub(crate) async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        Ok(self.images().await?.iter().any(|known| known == image))
    }

    /// Asks the runtime for its images at the next question, such as after a fetch.
    pub(crate) async fn forget_images(&self) {
        *self.images.lock().await = None;
    }

    /// The image that a lease of an offer is given.
    pub(crate) async fn choose_image(
        &self,
        sold: &Sold,
        asked: Option<String>,
    ) -> Result<ImageChoice, RuntimeError> {
        let present = allowed(self.images().await?, sold.images.as_deref());
        Ok(match asked {
            Some(image) if present.contains(&image) => ImageChoice::Present(image),
            Some(image) if is_fetched(&image, &sold.conditions.fetches) => {
                ImageChoice::Fetched(image)
            }
            Some(_) => ImageChoice::Unknown,
            None => present.into_iter().next().map_or(ImageChoice::None, ImageChoice::Present),
        })
    }

    /// The offers as they stand now. A runtime that never listed its images has only what can be fetched.
    pub(crate) async fn current(&self, store: &Store) -> Result<Vec<Offer>, StoreError> {
        let images = self.images().await.unwrap_or_else(|error| {
            tracing::warn!(error = %ErrorChain(&error), "the runtime does not list its images");
            Vec::new()
        });
        let held = self.held(store).await?;
        let now = UnixMillis(self.clock.unix_ms());
        let list = self.list();
        Ok(list
            .iter()
            .map(|offer| {
                let images = allowed(images.clone(), offer.images.as_deref());
                let has_image = !images.is_empty() || !offer.conditions.fetches.is_empty();
                let is_whole = self.absent.first_of(offer.share.gpus.iter()).is_none();
                let is_open = offer.conditions.latest_end(now).is_none_or(|end| end > now);
                Offer {
                    id: offer.id.clone(),
                    machine: offer.machine.clone(),
                    price_per_hour: offer.price_per_hour,
                    available: has_image
                        && is_whole
                        && is_open
                        && held.leaves(offer, self.capacity()),
                    images,
                    runtime: self.kind,
                    conditions: offer.conditions.clone(),
                }
            })
            .collect())
    }

    fn replace(&self, defined: Vec<Defined>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(defined);
    }

    fn list(&self) -> Arc<Vec<Defined>> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The images that can be leased now. A runtime that does not answer has the images that it had before.
    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
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

    /// What leases hold. The store is asked again when it was written since.
    async fn held(&self, store: &Store) -> Result<Arc<Held>, StoreError> {
        // Before the question: an answer that is newer than its version is asked for once more, never the other way.
        let version = store.version();
        let known = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, held)) = known.filter(|(at, _)| *at == version) {
            return Ok(held);
        }
        let held = Arc::new(Held::by(&store.open_leases().await?));
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((version, Arc::clone(&held)));
        Ok(held)
    }
}

// === impl Held ===

impl Held {
    fn by(open: &[Lease]) -> Self {
        let mut held = Self::default();
        for lease in open.iter().filter(|lease| lease.state.holds_offer()) {
            let share = &lease.terms.share;
            held.offers.insert(lease.terms.offer.clone());
            held.gpus.extend(share.gpus.iter().cloned());
            held.cores_milli = held.cores_milli.saturating_add(u64::from(share.cores_milli));
            held.memory_bytes = held.memory_bytes.saturating_add(share.memory_bytes);
            held.disk_bytes = held.disk_bytes.saturating_add(share.disk_bytes);
        }
        held
    }

    /// Whether an offer can be leased beside what is held.
    fn leaves(&self, offer: &Defined, capacity: Capacity) -> bool {
        let share = &offer.share;
        let cores = self.cores_milli.saturating_add(u64::from(share.cores_milli));
        let memory = self.memory_bytes.saturating_add(share.memory_bytes);
        let disk = self.disk_bytes.saturating_add(share.disk_bytes);
        !self.offers.contains(&offer.id)
            && !share.gpus.iter().any(|gpu| self.gpus.contains(gpu))
            && cores <= capacity.cores_milli
            && memory <= capacity.memory_bytes
            && disk <= capacity.disk_bytes
    }
}

/// The images that an offer has of those that are there.
fn allowed(mut present: Vec<String>, patterns: Option<&[String]>) -> Vec<String> {
    if let Some(patterns) = patterns {
        present.retain(|image| patterns.iter().any(|pattern| matches(pattern, image)));
    }
    present
}

fn is_fetched(image: &str, patterns: &[String]) -> bool {
    image.parse::<ImageName>().is_ok() && patterns.iter().any(|pattern| matches(pattern, image))
}

/// Whether a pattern is the image's name, or covers it.
fn matches(pattern: &str, image: &str) -> bool {
    let covers = || {
        let (pattern, image) = (pattern.parse::<ImagePattern>(), image.parse::<ImageName>());
        pattern.is_ok_and(|pattern| image.is_ok_and(|image| pattern.covers(&image)))
    };
    pattern == image || covers()
}

/// How many ports one lease may have of those that there are.
fn ports_of_one_lease(ports: PortRange) -> u16 {
    u16::try_from(ports.count().min(PORTS_MAX)).unwrap_or(u16::MAX)
}

fn share_of(machine: &Machine) -> Share {
    Share {
        cores_milli: machine.cores.saturating_mul(THOUSANDTHS),
        memory_bytes: machine.memory_bytes,
        disk_bytes: machine.disk_bytes,
        gpus: machine.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
    }
}

/// The offer of a node without a file.
fn whole(ground: &Ground, price_per_hour: MicroUsd) -> Defined {
    Defined {
        id: OFFER_ID.parse().expect("the constant is an offer id"),
        share: share_of(&ground.machine),
        machine: ground.machine.clone(),
        price_per_hour,
        conditions: Conditions {
            classes: ground.classes.clone(),
            volumes: VolumesAllowed::Yes,
            ports_max: ground.ports_max,
            fetches: ground.fetches.clone(),
            network: ground.network,
            limits: match ground.limits {
                Limits::All => LimitsHeld::All,
                Limits::AllButDisk => LimitsHeld::AllButDisk,
                Limits::Nothing => LimitsHeld::Nothing,
            },
            ..Conditions::default()
        },
        images: None,
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
            let facilities = Facilities {
                network: LeaseNetwork::None,
                ports: None,
                fetches: Vec::new(),
                disk_bytes: 1 << 30,
            };
            let clock = ManualClock::at_unix_ms(1);
            let offers = Offers::new(&inventory, MicroUsd(1), facilities, runtime, clock);
            offers.machine().clone()
        };
        let with = offered();
        assert_eq!(with.gpus.len(), 1);
        machine.give_no_gpus();
        assert_eq!(offered(), Machine { gpus: Vec::new(), ..with });
    }
}
