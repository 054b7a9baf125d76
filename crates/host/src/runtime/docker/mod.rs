//! The Docker Engine, or Podman behind the same socket, as a runtime.
//!
//! Everything that is made carries labels with the node, the lease and its generation, and a name that follows from the
//! lease, so that making it twice finds the first one. The engine's own exec is never used: the agent is the container's
//! first process and everything in it is its child. Images are never pruned and never built here; they are fetched where
//! the operator's policy lets them be, and removed again only by the node that fetched them.
//!
//! What the engine says of itself decides what is tried, and the trials at the start decide what is offered: a disk size,
//! GPUs, classes.

mod cache;
mod classes;
mod ending;
mod engine;
mod error;
mod facts;
mod files;
mod gpus;
mod image;
mod pull;
mod request;
mod trial;
mod turns;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ImageInspect};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
};
use tokio::sync::watch;

use nicompute_daemon::SharedClock;
use nicompute_market::{LeaseId, RuntimeClass};

use super::{
    ContainerSpec, ImageName, Limits, NotAnImage, Presence, PullProgress, Running, Runtime,
    RuntimeConfig, RuntimeError, RuntimeKind,
};
use crate::cdi;

use cache::Cache;
use classes::Classes;
use engine::{ACT, ASK, Engine, says_full, status};
use gpus::Gpus;
use request::{ImageFacts, Order};
use trial::{Laboratory, Trial};
use turns::Turns;

pub use self::classes::{ClassRefusal, ClassReport};
pub use self::error::DockerError;
pub use self::facts::{EngineFacts, Features, Maker};
pub use self::gpus::GpuWay;
pub use self::image::{DEVNET_REPOSITORY, ImageError};

/// Times that a container may vanish or appear under our hands before we give up.
const RACES_MAX: u32 = 5;
/// Most containers and images that are looked at.
const LISTED_MAX: usize = 10_000;
/// How long a restart lets processes end by themselves.
const GRACE_S: i32 = 5;
/// The most open files that the kernel lets a process have.
const KERNELS_FILES_MAX: &str = "/proc/sys/fs/nr_open";
/// Where an image's own search path for libraries stands.
const LIBRARY_VARIABLE: &str = "LD_LIBRARY_PATH=";

/// The engine of this machine.
#[derive(Debug)]
pub struct Docker {
    engine: Engine,
    config: RuntimeConfig,
    facts: EngineFacts,
    images_named: BTreeSet<ImageName>,
    disk_quota: bool,
    raises_limits: AtomicBool,
    classes: Classes,
    gpus: Gpus,
    cache: Mutex<Cache>,
    fetching: tokio::sync::Mutex<()>,
    turns: Turns,
}

// === impl Docker ===

impl Docker {
    /// Finds the engine, asks it who it is, and tries what it says it can do.
    ///
    /// # Errors
    /// Why there is none, with a remedy.
    pub async fn detect(config: RuntimeConfig, clock: SharedClock) -> Result<Self, DockerError> {
        let images_named = names(&config.images)?;
        let (engine, facts) = Engine::connect(config.docker_socket.as_deref(), &clock).await?;
        if !facts.has.seccomp {
            return Err(DockerError::NoFilter);
        }
        let raises_limits = !facts.has.user_namespaces || facts.shifted_root.is_some();
        let mut docker = Self {
            gpus: Gpus::untried(&facts),
            cache: Mutex::new(Cache::open(&config.state_dir)),
            fetching: tokio::sync::Mutex::new(()),
            turns: Turns::default(),
            classes: Classes::new(),
            disk_quota: false,
            raises_limits: AtomicBool::new(raises_limits),
            engine,
            config,
            facts,
            images_named,
        };
        docker.warn();
        docker.try_all().await?;
        docker.settle().await.map_err(DockerError::Trial)?;
        Ok(docker)
    }

    /// What the engine says about itself.
    #[must_use]
    pub const fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Every class with how it stands here.
    #[must_use]
    pub const fn class_reports(&self) -> &Classes {
        &self.classes
    }

    /// The ways to give GPUs to containers that work here.
    #[must_use]
    pub fn gpu_ways(&self) -> &[GpuWay] {
        &self.gpus.ways
    }

    /// Makes the local market's image from this machine's static busybox, without a network, allows containers to be
    /// made from it, and returns its name. Making it again finds the first one.
    ///
    /// # Errors
    /// When there is no static busybox, or the engine refuses the image.
    pub async fn build_devnet_image(&mut self) -> Result<String, ImageError> {
        let name = image::build(&self.engine.client).await?;
        if let Ok(parsed) = name.parse() {
            self.images_named.insert(parsed);
        }
        Ok(name)
    }

    fn warn(&self) {
        if !self.facts.has.live_restore {
            tracing::info!("a restart of the engine ends containers; live-restore would keep them");
        }
        if self.facts.has.limits && !self.facts.has.swap_limit {
            tracing::warn!("this kernel does not count swap: tenants may use the machine's swap");
        }
    }

    /// Tries what the engine says it can do; what does not work is taken out.
    async fn try_all(&mut self) -> Result<(), DockerError> {
        let has_trials = self.config.trial_agent.is_some()
            || self.facts.has.disk_quota
            || !self.gpus.ways.is_empty();
        let mut image = String::new();
        if has_trials {
            let building = image::build_trial(&self.engine.client);
            image = building.await.map_err(DockerError::TrialImage)?;
        }
        let lab = Laboratory { engine: &self.engine, config: &self.config, image };
        lab.sweep().await.map_err(DockerError::Trial)?;
        let disk_quota = self.facts.has.disk_quota
            && works(&lab, "disk quota", Trial { with_disk_limit: true, ..Trial::default() }).await;
        let mut ways = Vec::new();
        for way in self.gpus.ways.iter().copied() {
            let Ok(gpus) = self.gpus.trial(way) else { continue };
            let runtime = classes::runtime_of(RuntimeClass::Standard, &self.facts);
            let trial = Trial { runtime, gpus, with_disk_limit: false };
            match lab.start(trial).await {
                Ok(()) => ways.push(way),
                Err(error) => {
                    let error = nicompute_daemon::ErrorChain(&error);
                    tracing::warn!(?way, %error, "a way to give GPUs does not work");
                }
            }
        }
        let mut classes = Classes::new();
        for class in RuntimeClass::ALL {
            classes.insert(class, self.try_class(&lab, class).await?);
        }
        (self.disk_quota, self.gpus.ways, self.classes) = (disk_quota, ways, classes);
        Ok(())
    }

    async fn try_class(
        &self,
        lab: &Laboratory<'_>,
        class: RuntimeClass,
    ) -> Result<ClassReport, DockerError> {
        let wanted = &self.config.classes;
        let runtime = classes::runtime_of(class, &self.facts);
        let mut refusal = classes::refusal_of(class, &self.facts);
        if !wanted.is_empty() && !wanted.contains(&class) {
            let what = format!("this node does not offer the class {class}");
            let remedy = "ask for another class";
            refusal = Some(ClassRefusal { what, remedy });
            return Ok(ClassReport { runtime, refusal });
        }
        if refusal.is_none() && self.config.trial_agent.is_some() {
            let trial = Trial { runtime: runtime.clone(), ..Trial::default() };
            refusal = match lab.start(trial).await {
                Ok(()) => None,
                Err(error) => Some(classes::tried(class, &error)),
            };
        } else if refusal.is_none() && class != RuntimeClass::Standard {
            let what =
                format!("the class {class} was not tried, since there is no agent to try it with");
            refusal = Some(ClassRefusal { what, remedy: "start the node with its agent" });
        }
        match refusal {
            Some(refusal) if class == RuntimeClass::Standard || wanted.contains(&class) => {
                Err(DockerError::Class { class, refusal })
            }
            refusal => Ok(ClassReport { runtime, refusal }),
        }
    }

    /// Whether the operator lets tenants use the image. The engine has others, and what is in them is nobody's business.
    fn may_use(&self, image: &ImageName) -> bool {
        self.images_named.contains(image)
            || self.config.image_policy.allow.iter().any(|pattern| pattern.covers(image))
    }

    fn parse(&self, image: &str) -> Result<ImageName, RuntimeError> {
        image.parse().map_err(|NotAnImage| pull::refused(image, "is not an image's name"))
    }

    /// Refuses what this engine cannot do before anything is made.
    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        spec.check()?;
        if !cdi::are_uuids(&spec.gpus) {
            let rule = "must be different GPUs by their UUIDs";
            return Err(RuntimeError::InvalidSpec { lease: spec.lease, field: "gpus", rule });
        }
        let class = spec.options.class;
        let report = self.classes.get(&class);
        if report.is_none_or(|report| report.refusal.is_some()) {
            return Err(classes::refuse(class, report));
        }
        if !spec.gpus.is_empty() && class != RuntimeClass::Standard {
            return Err(RuntimeError::Unsupported {
                what: format!("the class {class} gives no GPUs"),
                remedy: "ask for the class standard, or for no GPUs",
            });
        }
        Ok(())
    }

    /// The lease's container, if there is one and it is this node's.
    async fn find(&self, lease: LeaseId) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let name = request::name(lease);
        let inspection = self.engine.client.inspect_container(&name, None);
        let found = match self.engine.within("inspecting a container", ASK, inspection).await {
            Err(error) if status(&error) == Some(404) => return Ok(None),
            found => found?,
        };
        if label(&found, request::LABEL_NODE) != Some(&self.config.node_id) {
            return Err(RuntimeError::Foreign { name });
        }
        Ok(Some(found))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let name = self.parse(&spec.image)?;
        let missing = || RuntimeError::ImageMissing { image: spec.image.clone() };
        if !self.may_use(&name) {
            return Err(missing());
        }
        let image = self.look_at(&name).await?.ok_or_else(missing)?;
        let image_facts = image_facts(&image);
        request::check_volumes(&image_facts).map_err(|why| pull::refused(&spec.image, why))?;
        let class = self.classes.get(&spec.options.class);
        let order = Order {
            node: &self.config.node_id,
            spec,
            image: name.to_string(),
            image_facts: &image_facts,
            runtime: class.and_then(|report| report.runtime.clone()),
            gpus: self.gpus.request(&spec.gpus)?,
            disk_limit: self.disk_quota.then(|| spec.own_disk_bytes()),
            files_max: self.raises_limits.load(Ordering::Relaxed).then(files_max),
        };
        request::check_parts(&order).map_err(|why| pull::refused(&spec.image, why))?;
        let body = request::create_body(order);
        let options =
            CreateContainerOptionsBuilder::default().name(&request::name(spec.lease)).build();
        let creation = self.engine.client.create_container(Some(options), body);
        match self.engine.within("creating a container", ACT, creation).await {
            Ok(created) => {
                for warning in created.warnings {
                    tracing::warn!(lease = %spec.lease, warning, "the engine warns about a container");
                }
                self.touch(&name)
            }
            Err(error) if status(&error) == Some(404) => Err(missing()),
            Err(error) => Err(translated(error, "creating a container")),
        }
    }

    async fn ensure_alone(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        self.check(spec)?;
        for _ in 0..RACES_MAX {
            let Some(found) = self.find(spec.lease).await? else {
                request::check_new(spec, self.limits())?;
                self.prepare(spec).await?;
                match self.create(spec).await {
                    // Someone made it in between: look again.
                    Err(error) if status(&error) == Some(409) => {}
                    created => created?,
                }
                continue;
            };
            not_superseded(spec, &found)?;
            if let Some(init_pid) = presence(&found).init_pid() {
                self.hold_to_share(spec, &found).await?;
                return Ok(Running { init_pid });
            }
            if is_half_removed(&found) {
                ending::remove(&self.engine, &request::name(spec.lease), &found).await?;
                continue;
            }
            match self.start(spec, &found).await {
                // It was taken away again, and is made without them.
                Err(error)
                    if is_about_limits(&error)
                        && self.raises_limits.swap(false, Ordering::Relaxed) =>
                {
                    tracing::warn!(%error, "the engine may not raise limits of open files and pinned memory; give it CAP_SYS_RESOURCE");
                }
                started => started?,
            }
        }
        // The loop ends here when each start was followed by an early end of the agent.
        match self.inspect(spec.lease).await?.init_pid() {
            Some(init_pid) => Ok(Running { init_pid }),
            None => Err(RuntimeError::NotRunning { lease: spec.lease }),
        }
    }

    /// Starts a container and looks whether it is what was ordered. One that never ran and cannot be started does not stay
    /// behind as if it could; one that has run keeps its disk, whatever stands in the way this time.
    async fn start(
        &self,
        spec: &ContainerSpec,
        found: &ContainerInspectResponse,
    ) -> Result<(), RuntimeError> {
        let opened = self.prepare(spec).await?;
        self.hold_to_share(spec, found).await?;
        let name = request::name(spec.lease);
        let starting = self.engine.client.start_container(&name, None);
        let started = self.engine.within("starting a container", ACT, starting).await;
        let error = match started {
            Ok(()) => match self.find(spec.lease).await?.as_ref().map(presence) {
                Some(Presence::Running { init_pid }) => {
                    match files::are_seen(init_pid, &opened)
                        .and_then(|()| gpus::check_given(init_pid, spec, Path::new("/dev")))
                    {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                _ => return Ok(()),
            },
            Err(error) => translated(error, "starting a container"),
        };
        if has_run(found) {
            ending::stop(&self.engine, &name, found, 0).await?;
        } else {
            ending::remove(&self.engine, &name, found).await?;
        }
        Err(error)
    }

    /// Gives a container back its own share of the processors, where a node was killed that had given it all of them to end.
    async fn hold_to_share(
        &self,
        spec: &ContainerSpec,
        found: &ContainerInspectResponse,
    ) -> Result<(), RuntimeError> {
        let share = request::nano_cpus(spec);
        let has = found.host_config.as_ref().and_then(|host| host.nano_cpus);
        // An engine that counts in another unit tells of none.
        if has.is_none_or(|has| has == 0 || has == share) {
            return Ok(());
        }
        ending::give_cores(&self.engine, &request::name(spec.lease), share).await
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Vec<files::Opened>, RuntimeError> {
        let (state, owner) = (self.config.state_dir.clone(), self.facts.shifted_root);
        let spec = spec.clone();
        blocking("preparing a lease's directory", move || files::prepare(&state, &spec, owner))
            .await
    }

    fn node_label(&self) -> String {
        format!("{}={}", request::LABEL_NODE, self.config.node_id)
    }
}

#[async_trait]
impl Runtime for Docker {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    fn limits(&self) -> Limits {
        match (self.facts.has.limits, self.disk_quota) {
            (false, _) => Limits::Nothing,
            (true, false) => Limits::AllButDisk,
            (true, true) => Limits::All,
        }
    }

    fn gives_gpus(&self) -> bool {
        !self.gpus.ways.is_empty()
    }

    fn user_namespaces(&self) -> bool {
        self.facts.has.user_namespaces
    }

    fn classes(&self) -> Vec<RuntimeClass> {
        let works = self.classes.iter().filter(|(_, report)| report.refusal.is_none());
        works.map(|(class, _)| *class).collect()
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        let options = ListImagesOptionsBuilder::default().all(false).digests(true).build();
        let listing = self.engine.client.list_images(Some(options));
        let images = self.engine.within("listing images", ASK, listing).await?;
        let texts = images
            .into_iter()
            .take(LISTED_MAX)
            .flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests));
        let names = texts.filter_map(|text| text.parse::<ImageName>().ok());
        let allowed: BTreeSet<String> =
            names.filter(|name| self.may_use(name)).map(|name| name.to_string()).collect();
        Ok(allowed.into_iter().collect())
    }

    async fn ensure(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        let _turn = self.turns.of(spec.lease).await;
        self.ensure_alone(spec).await
    }

    async fn restart(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        self.check(spec)?;
        let lease = spec.lease;
        let _turn = self.turns.of(lease).await;
        let Some(found) = self.find(lease).await? else {
            return Err(RuntimeError::NotRunning { lease });
        };
        not_superseded(spec, &found)?;
        // What stands in the way of its start is found while the tenant's processes live.
        drop(self.prepare(spec).await?);
        if let Presence::Paused { .. } = presence(&found) {
            self.resume(lease).await?;
        }
        if presence(&found).init_pid().is_some() {
            ending::stop(&self.engine, &request::name(lease), &found, GRACE_S).await?;
        }
        self.ensure_alone(spec).await
    }

    async fn pull(
        &self,
        image: &str,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        Box::pin(self.fetch(image, progress)).await
    }

    async fn digest(&self, image: &str) -> Result<Option<String>, RuntimeError> {
        let name = self.parse(image)?;
        let missing = || RuntimeError::ImageMissing { image: image.to_owned() };
        let found = self.look_at(&name).await?.ok_or_else(missing)?;
        let texts = found.repo_digests.unwrap_or_default();
        let same = texts.iter().filter_map(|text| text.parse::<ImageName>().ok());
        let mut same = same.filter(|other| other.repository() == name.repository());
        Ok(same.find_map(|other| other.digest().map(str::to_owned)))
    }

    async fn inspect(&self, lease: LeaseId) -> Result<Presence, RuntimeError> {
        Ok(self.find(lease).await?.as_ref().map_or(Presence::Absent, presence))
    }

    async fn pause(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        match self.inspect(lease).await? {
            Presence::Paused { .. } => Ok(()),
            Presence::Running { .. } => {
                let name = request::name(lease);
                let pausing = self.engine.client.pause_container(&name);
                self.engine.within("pausing a container", ACT, pausing).await
            }
            Presence::Absent | Presence::Exited => Err(RuntimeError::NotRunning { lease }),
        }
    }

    async fn resume(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        match self.inspect(lease).await? {
            Presence::Running { .. } => Ok(()),
            Presence::Paused { .. } => {
                let name = request::name(lease);
                let resuming = self.engine.client.unpause_container(&name);
                self.engine.within("resuming a container", ACT, resuming).await
            }
            Presence::Absent | Presence::Exited => Err(RuntimeError::NotRunning { lease }),
        }
    }

    async fn remove(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let _turn = self.turns.of(lease).await;
        if let Some(found) = self.find(lease).await? {
            ending::remove(&self.engine, &request::name(lease), &found).await?;
        }
        let label = format!("{}={lease}", request::LABEL_LEASE);
        for (name, labels) in ending::volumes(&self.engine, label).await? {
            if labels.get(request::LABEL_NODE) == Some(&self.config.node_id) {
                ending::remove_volume(&self.engine, &name).await?;
            }
        }
        let dir = self.config.lease_dir(lease);
        blocking("removing a lease's directory", move || files::remove(&dir)).await
    }

    async fn list(&self) -> Result<Vec<LeaseId>, RuntimeError> {
        let filters = HashMap::from([("label", vec![self.node_label()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listing = self.engine.client.list_containers(Some(options));
        let found = self.engine.within("listing containers", ASK, listing).await?;
        let volumes = ending::volumes(&self.engine, self.node_label()).await?;
        let lease =
            |labels: HashMap<String, String>| labels.get(request::LABEL_LEASE)?.parse().ok();
        let containers = found.into_iter().take(LISTED_MAX).filter_map(|found| found.labels);
        let leases: BTreeSet<LeaseId> =
            containers.chain(volumes.into_values()).filter_map(lease).collect();
        Ok(leases.into_iter().collect())
    }
}

async fn works(lab: &Laboratory<'_>, what: &str, trial: Trial) -> bool {
    match lab.make(trial).await {
        Ok(()) => true,
        Err(error) => {
            let error = nicompute_daemon::ErrorChain(&error);
            tracing::warn!(what, %error, "the engine does not do what its storage driver could");
            false
        }
    }
}

fn names(texts: &[String]) -> Result<BTreeSet<ImageName>, DockerError> {
    let parsed = texts.iter().map(|text| {
        text.parse().map_err(|NotAnImage| DockerError::ImageName { name: text.clone() })
    });
    parsed.collect()
}

/// Work on files away from the threads that serve everybody.
async fn blocking<T: Send + 'static>(
    act: &'static str,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(RuntimeError::Step {
            step: act.to_owned(),
            remedy: None,
            source: std::io::Error::other(error),
        }),
    }
}

/// Open files of one process; no limit may be above the kernel's.
fn files_max() -> u64 {
    let text = std::fs::read_to_string(KERNELS_FILES_MAX).unwrap_or_default();
    text.trim().parse().map_or(request::FILES_MAX, |max| request::FILES_MAX.min(max))
}

fn image_facts(image: &ImageInspect) -> ImageFacts {
    let config = image.config.as_ref();
    let variables = config.and_then(|config| config.env.as_deref()).unwrap_or_default();
    let path = variables.iter().find_map(|entry| entry.strip_prefix(LIBRARY_VARIABLE));
    ImageFacts {
        volumes: config.and_then(|config| config.volumes.clone()).unwrap_or_default(),
        library_path: path.map(str::to_owned),
    }
}

/// Whether the engine lacks the right to raise a container's limits above its own.
fn is_about_limits(error: &RuntimeError) -> bool {
    engine::says(error, "rlimit")
}

/// What an operator can do something about, told apart from the rest.
fn translated(error: RuntimeError, act: &'static str) -> RuntimeError {
    if says_full(&error) {
        RuntimeError::NoSpace { act }
    } else if gpus::is_refusal(&error) {
        gpus::no_way()
    } else {
        error
    }
}

fn not_superseded(
    spec: &ContainerSpec,
    found: &ContainerInspectResponse,
) -> Result<(), RuntimeError> {
    let current = generation(found);
    if spec.generation >= current {
        return Ok(());
    }
    Err(RuntimeError::Superseded { lease: spec.lease, asked: spec.generation, current })
}

fn presence(container: &ContainerInspectResponse) -> Presence {
    let Some(state) = &container.state else { return Presence::Exited };
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    match pid {
        Some(init_pid) if state.paused == Some(true) => Presence::Paused { init_pid },
        Some(init_pid) if state.running == Some(true) => Presence::Running { init_pid },
        _ => Presence::Exited,
    }
}

/// Whether an engine was killed in the middle of removing it: it can never be started again.
fn is_half_removed(container: &ContainerInspectResponse) -> bool {
    let state = container.state.as_ref();
    state.is_some_and(|state| {
        state.dead == Some(true)
            || matches!(
                state.status,
                Some(ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING)
            )
    })
}

/// Whether it has ever run, so that its disk may hold something of a tenant's.
fn has_run(container: &ContainerInspectResponse) -> bool {
    let started = container.state.as_ref().and_then(|state| state.started_at.as_deref());
    // An engine's way of saying never.
    started.is_some_and(|at| !at.is_empty() && !at.starts_with("0001-"))
}

fn label<'a>(container: &'a ContainerInspectResponse, name: &str) -> Option<&'a String> {
    container.config.as_ref()?.labels.as_ref()?.get(name)
}

fn generation(container: &ContainerInspectResponse) -> u64 {
    label(container, request::LABEL_GENERATION).and_then(|label| label.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerState, ImageConfig};

    use super::*;

    fn container(state: ContainerState) -> ContainerInspectResponse {
        ContainerInspectResponse { state: Some(state), ..ContainerInspectResponse::default() }
    }

    /// A tenant's disk would be thrown away because one start failed.
    #[test]
    fn what_has_run_is_kept() {
        let at = |text: &str| {
            has_run(&container(ContainerState {
                started_at: Some(text.to_owned()),
                ..ContainerState::default()
            }))
        };
        assert!(!at("0001-01-01T00:00:00Z"));
        assert!(!at(""));
        assert!(at("2026-11-22T20:00:00.1Z"));
        assert!(!has_run(&ContainerInspectResponse::default()));
    }

    /// A container that the engine half removed would be started again and again, or a running one be taken for it.
    #[test]
    fn states_are_told_apart() {
        let state = |pid, running, paused| ContainerState {
            pid: Some(pid),
            running: Some(running),
            paused: Some(paused),
            ..ContainerState::default()
        };
        let running = container(state(7, true, false));
        assert_eq!(presence(&running), Presence::Running { init_pid: 7 });
        assert_eq!(presence(&container(state(7, true, true))), Presence::Paused { init_pid: 7 });
        assert_eq!(presence(&container(state(0, true, false))), Presence::Exited);
        assert_eq!(presence(&container(state(-1, true, false))), Presence::Exited);
        assert!(!is_half_removed(&running));
        let dead = ContainerState { dead: Some(true), ..state(0, false, false) };
        assert!(is_half_removed(&container(dead)));
    }

    /// The driver's libraries would hide the image's own, or its volumes go without label and limit.
    #[test]
    fn an_images_own_words_are_read() {
        let image = ImageInspect {
            config: Some(ImageConfig {
                env: Some(vec!["PATH=/bin".to_owned(), "LD_LIBRARY_PATH=/opt/lib".to_owned()]),
                volumes: Some(vec!["/data".to_owned()]),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        };
        let facts = image_facts(&image);
        assert_eq!(facts.library_path.as_deref(), Some("/opt/lib"));
        assert_eq!(facts.volumes, ["/data"]);
        assert_eq!(image_facts(&ImageInspect::default()), ImageFacts::default());
    }
}
