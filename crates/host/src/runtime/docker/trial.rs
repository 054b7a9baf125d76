//! Trials at the start: what the engine says it can do is asked of it once, with a container of our own that is removed
//! again, before any of it stands in an offer.

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum};
use bollard::query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::HashMap;
use tokio::net::UnixListener;

use super::super::{
    AGENT_IN_CONTAINER, DISK_BYTES_MIN, MEMORY_BYTES_MIN, RUN_IN_CONTAINER, RuntimeConfig,
    RuntimeError, SOCKET_IN_CONTAINER,
};
use super::ending;
use super::engine::{ACT, ASK, Engine};
use super::gpus::GpuRequest;
use super::request::{LABEL_NODE, LABEL_ROLE, ROLE_TRIAL, read_only};

/// Longest time for the agent of a trial to report; a virtual machine starts in a few seconds.
const REPORT: Duration = Duration::from_secs(40);
/// Memory of a trial; a virtual machine needs its own.
const MEMORY_BYTES: u64 = 8 * MEMORY_BYTES_MIN;
const SOCKET: &str = "gateway.sock";
/// The folder of trials in the state directory.
const FOLDER: &str = "trials";
/// Left-over trials that are removed at the start.
const LEFT_MAX: usize = 1_000;

/// What is tried.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The engine's runtime.
    pub(super) runtime: Option<String>,
    /// A request for GPUs.
    pub(super) gpus: GpuRequest,
    /// Whether the engine holds the container to a disk size. Making the container tells.
    pub(super) with_disk_limit: bool,
}

/// The place of trials: an engine, an image of ours, a node.
#[derive(Debug)]
pub(super) struct Laboratory<'a> {
    pub(super) engine: &'a Engine,
    pub(super) config: &'a RuntimeConfig,
    pub(super) image: String,
}

impl Laboratory<'_> {
    /// Removes what trials of this node have left that was killed in one.
    pub(super) async fn sweep(&self) -> Result<(), RuntimeError> {
        let labels =
            [format!("{LABEL_NODE}={}", self.config.node_id), format!("{LABEL_ROLE}={ROLE_TRIAL}")];
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listing = self.engine.client.list_containers(Some(options));
        let found = self.engine.within("listing containers", ASK, listing).await?;
        for left in found.into_iter().take(LEFT_MAX).filter_map(|container| container.id) {
            self.remove(&left).await?;
        }
        match std::fs::remove_dir_all(self.config.state_dir.join(FOLDER)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let path = self.config.state_dir.join(FOLDER);
                Err(RuntimeError::Io { act: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Makes the container of a trial and removes it: enough for what an engine refuses when it is asked.
    pub(super) async fn make(&self, trial: Trial) -> Result<(), RuntimeError> {
        let name = fresh_name()?;
        let made = self.create(&name, trial, None).await;
        self.remove(&name).await?;
        made
    }

    /// Starts the container of a trial and removes it. With an agent, the agent must report under the process number that
    /// the engine names; without one, it is enough that the engine starts it or fails at the program that is not there.
    pub(super) async fn start(&self, trial: Trial) -> Result<(), RuntimeError> {
        let name = fresh_name()?;
        let dir = self.config.state_dir.join(FOLDER).join(&name);
        let done = match self.config.trial_agent.as_deref() {
            Some(agent) => self.run(&name, trial, agent, &dir).await,
            None => self.run_nothing(&name, trial).await,
        };
        self.remove(&name).await?;
        match std::fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RuntimeError::Io { act: "remove", path: dir, source })
            }
            _ => done,
        }
    }

    async fn run(
        &self,
        name: &str,
        trial: Trial,
        agent: &Path,
        dir: &Path,
    ) -> Result<(), RuntimeError> {
        let socket = listen(dir).map_err(|source| RuntimeError::Io {
            act: "listen in",
            path: dir.to_owned(),
            source,
        })?;
        self.create(name, trial, Some((agent, dir))).await?;
        let start = self.engine.client.start_container(name, None);
        self.engine.within("starting a container", ACT, start).await?;
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = self.engine.clock.sleep(REPORT) => {
                let limit_s = REPORT.as_secs();
                return Err(RuntimeError::Timeout { act: "the report of a trial's agent", limit_s });
            }
        };
        let peer = accepted.and_then(|(stream, _)| stream.peer_cred());
        let peer = peer.ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
        let inspection = self.engine.client.inspect_container(name, None);
        let found = self.engine.within("inspecting a container", ASK, inspection).await?;
        let named = found.state.and_then(|state| u32::try_from(state.pid?).ok());
        if peer.is_none() || peer != named {
            return Err(RuntimeError::Unsupported {
                what: "its agent reports as another process than the one that the engine names"
                    .to_owned(),
                remedy: "lease another class",
            });
        }
        Ok(())
    }

    async fn run_nothing(&self, name: &str, trial: Trial) -> Result<(), RuntimeError> {
        self.create(name, trial, None).await?;
        let start = self.engine.client.start_container(name, None);
        match self.engine.within("starting a container", ACT, start).await {
            Err(error) if super::gpus::is_refusal(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn create(
        &self,
        name: &str,
        trial: Trial,
        agent: Option<(&Path, &Path)>,
    ) -> Result<(), RuntimeError> {
        let text = str::to_owned;
        let signed = |amount: u64| Some(i64::try_from(amount).unwrap_or(i64::MAX));
        let mut mounts = trial.gpus.mounts;
        if let Some((agent, dir)) = agent {
            mounts.push(read_only(agent, AGENT_IN_CONTAINER));
            mounts.push(read_only(dir, RUN_IN_CONTAINER));
        }
        let size = || HashMap::from([(text("size"), DISK_BYTES_MIN.to_string())]);
        let host = HostConfig {
            memory: signed(MEMORY_BYTES),
            pids_limit: Some(64),
            mounts: Some(mounts),
            device_requests: trial.gpus.requests,
            devices: trial.gpus.devices,
            runtime: trial.runtime,
            storage_opt: trial.with_disk_limit.then(size),
            cap_drop: Some(vec![text("ALL")]),
            security_opt: Some(vec![text("no-new-privileges")]),
            network_mode: Some(text("none")),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            ..HostConfig::default()
        };
        let body = ContainerCreateBody {
            user: Some(text("0:0")),
            cmd: Some(vec![text("--socket"), text(SOCKET_IN_CONTAINER)]),
            entrypoint: Some(vec![text(AGENT_IN_CONTAINER)]),
            image: Some(self.image.clone()),
            network_disabled: Some(true),
            labels: Some(HashMap::from([
                (text(LABEL_NODE), self.config.node_id.clone()),
                (text(LABEL_ROLE), text(ROLE_TRIAL)),
            ])),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let creation = self.engine.client.create_container(Some(options), body);
        self.engine.within("creating a container", ACT, creation).await.map(drop)
    }

    async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        let inspection = self.engine.client.inspect_container(name, None);
        match self.engine.within("inspecting a container", ASK, inspection).await {
            Ok(found) => ending::remove(self.engine, name, &found).await,
            Err(error) if super::engine::status(&error) == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn fresh_name() -> Result<String, RuntimeError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| RuntimeError::Io {
        act: "read",
        path: PathBuf::from("/dev/urandom"),
        source: std::io::Error::other(error),
    })?;
    Ok(format!("nicompute-trial-{}", hex::encode(random)))
}

/// A socket as the gateway makes it: in a folder that a container's root may pass through, whoever it is on this side.
fn listen(dir: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(dir)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = rustix::fs::open(dir, flags, Mode::empty())?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o711))?;
    // By way of the descriptor, since a socket's own path may have 107 bytes.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
    rustix::fs::chmodat(&folder, SOCKET, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    Ok(listener)
}
