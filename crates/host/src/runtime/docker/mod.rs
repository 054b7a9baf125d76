//! The Docker Engine, or Podman behind the same socket, as a runtime.
//!
//! Everything that is made carries labels with the node, the lease and its generation, and a name that follows from the
//! lease, so that making it twice finds the first one. The engine's own exec is never used: the agent is the container's
//! first process and everything in it is its child. Images are never pulled or pruned here.

mod image;
mod request;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error as EngineError;
use bollard::models::{ContainerInspectResponse, ContainerUpdateBody, SystemInfo};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder,
};

use nicompute_daemon::SharedClock;
use nicompute_market::LeaseId;

use super::{
    ContainerSpec, Limits, Presence, Running, Runtime, RuntimeConfig, RuntimeError, RuntimeKind,
};

pub use self::image::{DEVNET_REPOSITORY, ImageError};

/// Where engines listen.
const SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock"];
/// Longest time for one call; making a container takes a quarter of a second on an idle machine.
const CALL_LIMIT_S: u64 = 60;
/// Longest time for an engine to say who it is.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a removal that another client has begun.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);
/// Times that a container may vanish or appear under our hands before we give up.
const RACES_MAX: u32 = 3;
/// Most containers and images that are looked at.
const LISTED_MAX: usize = 10_000;

/// The engine of this machine.
#[derive(Debug)]
pub struct Docker {
    engine: bollard::Docker,
    config: RuntimeConfig,
    clock: SharedClock,
    facts: EngineFacts,
    disk_quota: AtomicBool,
}

/// What the engine says about itself that an operator should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its version.
    pub version: String,
    /// How it stores layers.
    pub storage_driver: String,
    /// Whether containers outlive a restart of the engine.
    pub live_restore: bool,
    /// The names of its runtimes, sorted.
    pub runtimes: Vec<String>,
    /// Whether it can hold a container to a disk size, as far as it tells.
    pub disk_quota: bool,
}

/// Why the engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket was found.
    #[error("no engine listens at any of {}", tried.join(", "))]
    NoSocket {
        /// Where we looked.
        tried: Vec<String>,
    },
    /// The socket belongs to others.
    #[error("this user may not use {}", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The engine did not answer, or not as an engine does.
    #[error("the engine at {} does not answer as it should", path.display())]
    Engine {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: EngineError,
    },
    /// The engine said nothing at all.
    #[error("the engine at {} does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
}

impl DockerError {
    /// What an operator can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoSocket { .. } => {
                "install and start Docker (apt-get install docker.io), or use --runtime sandbox"
            }
            Self::NotAllowed { .. } => {
                "add this user to the group docker and log in again, or use --runtime sandbox"
            }
            Self::Engine { .. } | Self::Silent { .. } => {
                "check the engine with `docker info`, or use --runtime sandbox"
            }
        }
    }
}

// === impl Docker ===

impl Docker {
    /// Finds the engine and asks it who it is.
    ///
    /// # Errors
    /// Why there is none, with a remedy.
    pub async fn detect(
        mut config: RuntimeConfig,
        clock: SharedClock,
    ) -> Result<Self, DockerError> {
        config.images = config.images.into_iter().map(with_tag).collect();
        let path = find_socket(config.docker_socket.as_deref())?;
        let failed = |source| DockerError::Engine { path: path.clone(), source };
        let engine = bollard::Docker::connect_with_unix(
            &path.to_string_lossy(),
            CALL_LIMIT_S,
            API_DEFAULT_VERSION,
        )
        .map_err(failed)?;
        let hello = async {
            let engine = engine.negotiate_version().await?;
            let info = engine.info().await?;
            Ok::<_, EngineError>((engine, info))
        };
        let (engine, info) = tokio::select! {
            answered = hello => answered.map_err(failed)?,
            () = clock.sleep(HELLO_LIMIT) => return Err(DockerError::Silent { path }),
        };
        let facts = EngineFacts::of(&info);
        let disk_quota = AtomicBool::new(facts.disk_quota);
        Ok(Self { engine, config, clock, facts, disk_quota })
    }

    /// What the engine says about itself.
    #[must_use]
    pub const fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Makes the local market's image from this machine's static busybox, without a network, allows containers to be
    /// made from it, and returns its name. Making it again finds the first one.
    ///
    /// # Errors
    /// When there is no static busybox, or the engine refuses the image.
    pub async fn build_devnet_image(&mut self) -> Result<String, ImageError> {
        let name = image::build(&self.engine).await?;
        if !self.allows(&name) {
            self.config.images.push(name.clone());
        }
        Ok(name)
    }

    /// Whether the operator lets tenants use the image. The engine has others, and what is in them is nobody's business.
    fn allows(&self, image: &str) -> bool {
        self.config.images.iter().any(|allowed| allowed == image)
    }

    /// The lease's container, if there is one and it is this node's.
    async fn find(&self, lease: LeaseId) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let name = request::name(lease);
        let found = match self.engine.inspect_container(&name, None).await {
            Err(error) if status(&error) == Some(404) => return Ok(None),
            found => found.map_err(engine_error("inspecting a container"))?,
        };
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        if labels.and_then(|labels| labels.get(request::LABEL_NODE)) != Some(&self.config.node_id) {
            return Err(RuntimeError::Foreign { name });
        }
        Ok(Some(found))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        if !self.allows(&spec.image) {
            return Err(RuntimeError::ImageMissing { image: spec.image.clone() });
        }
        let limit = self.disk_quota.load(Ordering::Relaxed).then_some(spec.disk_bytes);
        match self.try_create(spec, limit).await {
            Err(error) if limit.is_some() && says(&error, "storage-opt") => {
                tracing::warn!(error = %error, "the engine cannot limit a container's disk");
                self.disk_quota.store(false, Ordering::Relaxed);
                self.try_create(spec, None).await.map_err(|error| create_error(spec, error))
            }
            created => created.map_err(|error| create_error(spec, error)),
        }
    }

    async fn try_create(
        &self,
        spec: &ContainerSpec,
        disk_limit: Option<u64>,
    ) -> Result<(), EngineError> {
        let options =
            CreateContainerOptionsBuilder::default().name(&request::name(spec.lease)).build();
        let body = request::create_body(&self.config.node_id, spec, disk_limit);
        let created = self.engine.create_container(Some(options), body).await?;
        for warning in created.warnings {
            tracing::warn!(lease = %spec.lease, warning, "the engine warns about a container");
        }
        Ok(())
    }

    async fn start(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let Err(error) = self.engine.start_container(&request::name(lease), None).await else {
            return Ok(());
        };
        // What cannot be started must not stay behind as if it could.
        self.remove_container(lease).await?;
        Err(
            if says(&error, "could not select device driver")
                || says(&error, "nvidia-container-cli")
            {
                RuntimeError::Unsupported {
                    what: "the engine cannot give GPUs to containers".to_owned(),
                    remedy: "install the NVIDIA container toolkit and run `nvidia-ctk runtime configure`",
                }
            } else {
                engine_error("starting a container")(error)
            },
        )
    }

    /// Lets a container that is about to be killed have every processor. Thousands of processes that share a small part of
    /// one need minutes to notice that they were killed, and the engine gives up after ten seconds.
    async fn unthrottle(&self, name: &str) {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let nano_cpus = i64::try_from(all).unwrap_or(1).saturating_mul(1_000_000_000);
        let update = ContainerUpdateBody { nano_cpus: Some(nano_cpus), ..Default::default() };
        if let Err(error) = self.engine.update_container(name, update).await {
            tracing::debug!(name, %error, "the container's processor limit stays");
        }
    }

    /// Removes the container with its volumes and waits until it is gone.
    async fn remove_container(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let name = request::name(lease);
        self.unthrottle(&name).await;
        let start = self.clock.monotonic();
        loop {
            match self.engine.remove_container(&name, Some(options.clone())).await {
                Ok(()) => return Ok(()),
                Err(error) if status(&error) == Some(404) => return Ok(()),
                // Another client's removal is under way.
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(engine_error("removing a container")(error)),
            }
            if self.clock.monotonic().saturating_sub(start) > REMOVE_LIMIT {
                let limit_s = REMOVE_LIMIT.as_secs();
                return Err(RuntimeError::Timeout { act: "removing a container", limit_s });
            }
            self.clock.sleep(POLL).await;
        }
    }
}

#[async_trait]
impl Runtime for Docker {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    fn limits(&self) -> Limits {
        let disk = self.disk_quota.load(Ordering::Relaxed);
        if disk { Limits::All } else { Limits::AllButDisk }
    }

    fn gives_gpus(&self) -> bool {
        true
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        let options = ListImagesOptionsBuilder::default().all(false).build();
        let images = self.engine.list_images(Some(options)).await;
        let images = images.map_err(engine_error("listing images"))?;
        let tags = images.into_iter().take(LISTED_MAX).flat_map(|image| image.repo_tags);
        let mut names: Vec<String> = tags.filter(|tag| self.allows(tag)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn ensure(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        spec.check()?;
        spec.only_a_share(self.kind())?;
        let run_dir = spec.dir.join("run");
        std::fs::create_dir_all(&run_dir).map_err(|source| RuntimeError::Io {
            act: "make",
            path: run_dir,
            source,
        })?;
        for _ in 0..RACES_MAX {
            let Some(found) = self.find(spec.lease).await? else {
                match self.create(spec).await {
                    // Someone made it in between: look again.
                    Err(RuntimeError::Engine { source, .. }) if status(&source) == Some(409) => {}
                    created => created?,
                }
                continue;
            };
            let current = generation(&found);
            if spec.generation < current {
                let (lease, asked) = (spec.lease, spec.generation);
                return Err(RuntimeError::Superseded { lease, asked, current });
            }
            if let Some(init_pid) = presence(&found).init_pid() {
                return Ok(Running { init_pid });
            }
            self.start(spec.lease).await?;
        }
        // The loop ends here when each start was followed by an early end of the agent.
        match self.inspect(spec.lease).await?.init_pid() {
            Some(init_pid) => Ok(Running { init_pid }),
            None => Err(RuntimeError::NotRunning { lease: spec.lease }),
        }
    }

    async fn inspect(&self, lease: LeaseId) -> Result<Presence, RuntimeError> {
        Ok(self.find(lease).await?.as_ref().map_or(Presence::Absent, presence))
    }

    async fn pause(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        match self.inspect(lease).await? {
            Presence::Paused { .. } => Ok(()),
            Presence::Running { .. } => {
                let paused = self.engine.pause_container(&request::name(lease)).await;
                paused.map_err(engine_error("pausing a container"))
            }
            Presence::Absent | Presence::Exited => Err(RuntimeError::NotRunning { lease }),
        }
    }

    async fn resume(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        match self.inspect(lease).await? {
            Presence::Running { .. } => Ok(()),
            Presence::Paused { .. } => {
                let resumed = self.engine.unpause_container(&request::name(lease)).await;
                resumed.map_err(engine_error("resuming a container"))
            }
            Presence::Absent | Presence::Exited => Err(RuntimeError::NotRunning { lease }),
        }
    }

    async fn remove(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        if self.find(lease).await?.is_some() {
            self.remove_container(lease).await?;
        }
        let path = self.config.lease_dir(lease);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RuntimeError::Io { act: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<LeaseId>, RuntimeError> {
        let label = format!("{}={}", request::LABEL_NODE, self.config.node_id);
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = self.engine.list_containers(Some(options)).await;
        let found = found.map_err(engine_error("listing containers"))?;
        let lease =
            |labels: HashMap<String, String>| labels.get(request::LABEL_LEASE)?.parse().ok();
        let mut leases: Vec<LeaseId> = found
            .into_iter()
            .take(LISTED_MAX)
            .filter_map(|container| container.labels.and_then(lease))
            .collect();
        leases.sort_unstable();
        Ok(leases)
    }
}

// === impl EngineFacts ===

impl EngineFacts {
    fn of(info: &SystemInfo) -> Self {
        let driver = info.driver.clone().unwrap_or_default();
        let status = info.driver_status.as_deref().unwrap_or_default();
        let on_xfs = status.iter().any(|pair| {
            matches!(pair.as_slice(), [key, value] if key == "Backing Filesystem" && value == "xfs")
        });
        let mut runtimes: Vec<String> =
            info.runtimes.iter().flat_map(HashMap::keys).cloned().collect();
        runtimes.sort_unstable();
        let own_quota = matches!(driver.as_str(), "btrfs" | "zfs");
        Self {
            version: info.server_version.clone().unwrap_or_default(),
            live_restore: info.live_restore_enabled.unwrap_or(false),
            runtimes,
            disk_quota: own_quota || (driver == "overlay2" && on_xfs),
            storage_driver: driver,
        }
    }
}

fn find_socket(wanted: Option<&Path>) -> Result<PathBuf, DockerError> {
    let places: Vec<PathBuf> = wanted
        .map_or_else(|| SOCKETS.iter().map(PathBuf::from).collect(), |path| vec![path.into()]);
    let Some(path) = places.iter().find(|path| path.exists()) else {
        let tried = places.iter().map(|path| path.display().to_string()).collect();
        return Err(DockerError::NoSocket { tried });
    };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Ok(path.clone()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(DockerError::NotAllowed { path: path.clone() })
        }
        Err(_) => Err(DockerError::Silent { path: path.clone() }),
    }
}

/// The name as the engine lists it: one without a tag means the tag `latest`.
fn with_tag(name: String) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { name } else { format!("{name}:latest") }
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

fn generation(container: &ContainerInspectResponse) -> u64 {
    let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
    let label = labels.and_then(|labels| labels.get(request::LABEL_GENERATION));
    label.and_then(|label| label.parse().ok()).unwrap_or(0)
}

const fn status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether the engine's own words contain a phrase. It has no codes for these two cases.
fn says(error: &EngineError, phrase: &str) -> bool {
    matches!(error, EngineError::DockerResponseServerError { message, .. } if message.contains(phrase))
}

fn create_error(spec: &ContainerSpec, error: EngineError) -> RuntimeError {
    if status(&error) == Some(404) {
        return RuntimeError::ImageMissing { image: spec.image.clone() };
    }
    engine_error("creating a container")(error)
}

fn engine_error(act: &'static str) -> impl Fn(EngineError) -> RuntimeError {
    move |source| RuntimeError::Engine { act, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(message: &str) -> EngineError {
        EngineError::DockerResponseServerError { status_code: 500, message: message.to_owned() }
    }

    /// A quota that the engine cannot keep would be promised in an offer.
    #[test]
    fn facts_follow_the_storage_driver() {
        let info = |driver: &str, backing: &str| SystemInfo {
            driver: Some(driver.to_owned()),
            driver_status: Some(vec![vec!["Backing Filesystem".to_owned(), backing.to_owned()]]),
            runtimes: Some(HashMap::from([
                ("runc".to_owned(), bollard::models::Runtime::default()),
                ("nvidia".to_owned(), bollard::models::Runtime::default()),
            ])),
            live_restore_enabled: Some(true),
            ..SystemInfo::default()
        };
        assert!(!EngineFacts::of(&info("overlay2", "extfs")).disk_quota);
        assert!(EngineFacts::of(&info("overlay2", "xfs")).disk_quota);
        assert!(EngineFacts::of(&info("btrfs", "")).disk_quota);
        let facts = EngineFacts::of(&info("overlay2", "extfs"));
        assert_eq!(facts.runtimes, ["nvidia", "runc"]);
        assert!(facts.live_restore);
        assert!(!EngineFacts::of(&SystemInfo::default()).live_restore);
    }

    /// The two refusals that an operator can do something about must not look like any other.
    #[test]
    fn known_refusals_are_recognised() {
        let quota = "--storage-opt is supported only for overlay over xfs with 'pquota'";
        assert!(says(&refusal(quota), "storage-opt"));
        let gpu = "could not select device driver \"\" with capabilities: [[gpu]]";
        assert!(says(&refusal(gpu), "could not select device driver"));
        assert_eq!(status(&refusal(gpu)), Some(500));
        assert_eq!(status(&EngineError::RequestTimeoutError), None);
    }

    /// An image that the operator allowed by its short name would never be offered, or a registry's port be taken for a tag.
    #[test]
    fn names_without_a_tag_mean_the_latest() {
        for (given, listed) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("127.0.0.1:5000/tools/box", "127.0.0.1:5000/tools/box:latest"),
            ("127.0.0.1:5000/tools/box:2", "127.0.0.1:5000/tools/box:2"),
        ] {
            assert_eq!(with_tag(given.to_owned()), listed);
        }
    }

    /// A missing engine must be told apart from one that may not be used.
    #[test]
    fn a_missing_socket_is_named() {
        let error = find_socket(Some(Path::new("/nowhere/docker.sock"))).expect_err("no socket");
        assert_eq!(error.to_string(), "no engine listens at any of /nowhere/docker.sock");
        assert!(error.remedy().contains("docker.io"));
    }
}
