//! The embedded runtime: containers without an engine, with root or without.
//!
//! Nothing of it stays resident. A container is made by a helper, which is this program started again with one thread (see
//! `helper`), and then consists of the agent and its children alone; its mounts, network and disk live in namespaces that
//! end with them. What it is, the lease's directory records. So a node that was killed finds its containers by reading,
//! and there is nothing to clean up after a container but its files and its control groups.
//!
//! The plain-user profile maps one uid and limits nothing. The root profile maps 65,536 ids of its own, gives the container a
//! disk of the leased size and control groups with the leased processor, memory and process limits.

mod cgroup;
mod gpus;
mod helper;
mod ids;
mod image;
mod images;
mod machine;
mod order;
mod process;
mod protocol;
mod state;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use nicompute_daemon::SharedClock;
use nicompute_market::{LeaseId, RuntimeClass};

use self::cgroup::Motion;
use self::gpus::{Gpus, Maker};
use self::images::Images;
use self::machine::Root;
use self::process::ProcessId;
use self::protocol::{Answer, End, Failure, Image, MESSAGE_BYTES_MAX, Remedy};
use self::state::{Lock, Record};
use super::{
    ContainerSpec, Limits, Network, Options, Presence, Running, Runtime, RuntimeConfig,
    RuntimeError, RuntimeKind, disk,
};
use crate::cdi;

pub use self::gpus::GpuSource;
pub use self::helper::sandbox_main;
pub use self::image::{ImageError, LayerError};

/// The name of the machine's own root as an image.
pub const HOST_IMAGE: &str = "host";
/// The name of the unpacked image in `Rootfs::Directory`.
pub const ROOTFS_IMAGE: &str = "rootfs";

/// The lease's disk, in its directory.
const DISK: &str = "disk.img";
/// Longest time for making a container; it takes a tenth of a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for a container to end, to freeze, or for its disk to be let go of.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(5);
/// Rounds of telling newborn processes to stop before the others of this thread get their turn.
const STOP_ROUNDS_MAX: u32 = 10;
/// How often a directory is removed in which another one's lock file appears meanwhile.
const REMOVALS_MAX: u32 = 16;
const USE_DOCKER: &str = "use --runtime docker";
const RUN_AS_ROOT: &str = "run the node as root, or use --runtime docker";
/// The embedded runtime.
#[derive(Debug)]
pub struct Sandbox {
    config: RuntimeConfig,
    clock: SharedClock,
    images: Images,
    root: Option<Root>,
    gpus: Gpus,
}

/// Why the embedded runtime cannot work on this machine.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It was not told what to show as a container's files.
    #[error("the sandbox has no image")]
    NoImage,
    /// An image has a name that another one has, or that nobody could ask for.
    #[error("{name:?} cannot be the name of an image")]
    ImageName {
        /// The name.
        name: String,
    },
    /// An image cannot be used.
    #[error("the image {name} cannot be used")]
    Image {
        /// Its name.
        name: String,
        /// The cause.
        #[source]
        source: Box<ImageError>,
    },
    /// The kernel does not let this user make containers.
    #[error("user namespaces are switched off ({sysctl})")]
    NoUserns {
        /// The switch that is off.
        sysctl: &'static str,
    },
    /// A program is missing.
    #[error("mkfs.ext4 is not installed")]
    NoMkfs,
    /// Control groups cannot be used.
    #[error("control groups cannot be used")]
    Cgroups(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A trial container could not be made.
    #[error("a trial container could not be made")]
    Trial(#[source] Box<RuntimeError>),
}

impl SandboxError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoImage => "name an unpacked image with --rootfs, or use --runtime docker",
            Self::ImageName { .. } => "name each image once, with 1 to 255 printable characters",
            Self::Image { .. } => {
                "see the cause; an image is an unpacked directory, an OCI layout, an archive of one, or what docker save \
                 writes"
            }
            Self::NoUserns { .. } => Remedy::Userns.text(),
            Self::NoMkfs => Remedy::Mkfs.text(),
            Self::Cgroups(_) => Remedy::Cgroup.text(),
            Self::Trial(error) => error.remedy().unwrap_or("see the cause above"),
        }
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Finds out whether the embedded runtime works here, by making a container up to its last step and letting it go.
    ///
    /// # Errors
    /// Why it does not, with a remedy.
    pub async fn detect(config: RuntimeConfig, clock: SharedClock) -> Result<Self, SandboxError> {
        Self::detect_with(config, clock, GpuSource::default()).await
    }

    /// The same, with GPUs as other specs and another library than the machine's tell of them.
    ///
    /// # Errors
    /// See [`Self::detect`].
    pub async fn detect_with(
        config: RuntimeConfig,
        clock: SharedClock,
        source: GpuSource,
    ) -> Result<Self, SandboxError> {
        let made =
            tokio::task::spawn_blocking(move || Self::make_with(config, clock, source)).await;
        let mut sandbox = match made {
            Ok(made) => made?,
            Err(error) => return Err(SandboxError::Trial(Box::new(helper_error(error)))),
        };
        let tried = sandbox.try_out(Vec::new()).await;
        tried.map_err(|error| SandboxError::Trial(Box::new(error)))?;
        let given = std::mem::take(&mut sandbox.gpus.given);
        if !given.is_empty() {
            match sandbox.try_out(given.clone()).await {
                Ok(()) => sandbox.gpus.given = given,
                Err(error) => {
                    let remedy = error.remedy();
                    let error = nicompute_daemon::ErrorChain(&error).to_string();
                    tracing::warn!(error, remedy, "the sandbox cannot give GPUs");
                }
            }
        }
        Ok(sandbox)
    }

    /// The embedded runtime of a machine that is known to be able to run it. Images that are not unpacked yet are, which
    /// blocks.
    ///
    /// # Errors
    /// What can be seen to be missing without making a container.
    pub fn without_trial(config: RuntimeConfig, clock: SharedClock) -> Result<Self, SandboxError> {
        Self::make_with(config, clock, GpuSource::default())
    }

    fn make_with(
        config: RuntimeConfig,
        clock: SharedClock,
        source: GpuSource,
    ) -> Result<Self, SandboxError> {
        if config.rootfs.is_none() {
            return Err(SandboxError::NoImage);
        }
        let root =
            if rustix::process::geteuid().is_root() { Some(machine::find_root()?) } else { None };
        machine::userns_allowed(root.as_ref())?;
        let images = Images::open(&config)?;
        let gpus = Gpus::find(source, maker(root.as_ref()));
        Ok(Self { config, clock, images, root, gpus })
    }

    async fn try_out(&self, gpus: Vec<String>) -> Result<(), RuntimeError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| RuntimeError::Step {
            step: "draw a random name".to_owned(),
            remedy: None,
            source: io::Error::other(error),
        })?;
        let lease = LeaseId::from_random_bytes(random);
        let dir = self.config.lease_dir(lease);
        let spec = ContainerSpec {
            lease,
            generation: 0,
            cores_milli: 1000,
            memory_bytes: super::MEMORY_BYTES_MIN,
            disk_bytes: super::DISK_BYTES_MIN,
            gpus,
            image: self.images.shown.first().map(|image| image.name.clone()).unwrap_or_default(),
            dir: dir.clone(),
            // Any file that everybody may execute will do: it is mounted and never started.
            agent: PathBuf::from("/bin/sh"),
            masked_host_paths: Vec::new(),
            options: Options::default(),
        };
        let tried = self.make(&spec, End::Tried).await;
        let removed = self.remove(lease).await;
        tried?;
        removed
    }

    /// Refuses what this machine or this profile cannot give.
    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        spec.check()?;
        if !cdi::are_uuids(&spec.gpus) {
            let rule = "must be different GPUs by their UUIDs";
            return Err(RuntimeError::InvalidSpec { lease: spec.lease, field: "gpus", rule });
        }
        if spec.dir != self.config.lease_dir(spec.lease) {
            let rule = "must be the lease's directory below the node's state directory";
            return Err(RuntimeError::InvalidSpec { lease: spec.lease, field: "dir", rule });
        }
        let cannot =
            |what: &str, remedy| Err(RuntimeError::Unsupported { what: what.to_owned(), remedy });
        if spec.options.class != RuntimeClass::Standard {
            return cannot("the sandbox has the runtime class standard only", USE_DOCKER);
        }
        let shown = self.shown(spec)?;
        if self.root.is_some() {
            return Ok(());
        }
        if spec.options.volumes.iter().any(|volume| volume.bytes.is_some()) {
            return cannot("a plain user's sandbox cannot hold a volume to a size", RUN_AS_ROOT);
        }
        if spec.options.network != Network::None {
            return cannot("a plain user's sandbox has no network", RUN_AS_ROOT);
        }
        if !spec.gpus.is_empty() && !matches!(shown.files, Image::Host) {
            let what = "a plain user's sandbox cannot show the driver's files in an image";
            return cannot(what, RUN_AS_ROOT);
        }
        Ok(())
    }

    /// The container that runs already. What a spec of the machine's GPUs says by now does not concern it.
    async fn adopted(&self, spec: &ContainerSpec) -> Result<Option<Running>, RuntimeError> {
        let Some(_lock) = self.lock(&spec.dir).await? else { return Ok(None) };
        let Some(record) = self.record(spec.lease)? else { return Ok(None) };
        if record.generation > spec.generation {
            let (lease, asked, current) = (spec.lease, spec.generation, record.generation);
            return Err(RuntimeError::Superseded { lease, asked, current });
        }
        Ok(self.living(&record)?.map(|init| Running { init_pid: init.pid }))
    }

    /// Makes the container, or finds it.
    async fn make(&self, spec: &ContainerSpec, end: End) -> Result<Running, RuntimeError> {
        let order = self.order(spec, end).await?;
        self.carry_out(spec, &order).await
    }

    /// Runs the helper and waits for its answer.
    async fn carry_out(&self, spec: &ContainerSpec, order: &[u8]) -> Result<Running, RuntimeError> {
        match self.run_helper(order).await? {
            Answer::Running { init_pid } => Ok(Running { init_pid }),
            Answer::Superseded { current } => {
                let (lease, asked) = (spec.lease, spec.generation);
                Err(RuntimeError::Superseded { lease, asked, current })
            }
            Answer::Failed(failure) => Err(failed(spec.lease, failure)),
        }
    }

    async fn run_helper(&self, order: &[u8]) -> Result<Answer, RuntimeError> {
        let program = &self.config.sandbox_program;
        let mut child = tokio::process::Command::new(&program.path)
            .args(&program.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(io_error("start", &program.path))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let talk = async {
            let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            stdin.write_all(order).await?;
            drop(stdin);
            let mut answer = Vec::new();
            stdout.take(MESSAGE_BYTES_MAX).read_to_end(&mut answer).await?;
            // What it has mounted goes with it, which takes the kernel a moment that nobody needs to wait for.
            if let Ok(answer) = serde_json::from_slice(&answer) {
                return Ok(Ok(answer));
            }
            let ended = child.wait().await?;
            let detail = |error| format!("{ended}, {} bytes, {error}", answer.len());
            Ok::<_, io::Error>(serde_json::from_slice(&answer).map_err(detail))
        };
        let spoken = tokio::select! {
            spoken = talk => Some(spoken),
            () = self.clock.sleep(START_LIMIT) => None,
        };
        let Some(spoken) = spoken else {
            // Its namer and init notice that it is gone and end; what they mounted ends with them.
            child.kill().await.map_err(io_error("stop", &program.path))?;
            return Err(too_long("making the container", START_LIMIT));
        };
        let answer: Result<Answer, String> = spoken.map_err(helper_error)?;
        answer.map_err(|detail| RuntimeError::Helper { detail })
    }

    fn record(&self, lease: LeaseId) -> Result<Option<Record>, RuntimeError> {
        let dir = self.config.lease_dir(lease);
        Record::read(&dir).map_err(io_error("read the record in", &dir))
    }

    fn living(&self, record: &Record) -> Result<Option<ProcessId>, RuntimeError> {
        record.living().map_err(io_error("read", Path::new("/proc")))
    }

    /// The first process of a container that must be there.
    fn init_of(&self, lease: LeaseId) -> Result<ProcessId, RuntimeError> {
        let record = self.record(lease)?.ok_or(RuntimeError::NotRunning { lease })?;
        self.living(&record)?.ok_or(RuntimeError::NotRunning { lease })
    }

    fn is_paused(&self, lease: LeaseId, init: ProcessId) -> Result<bool, RuntimeError> {
        match &self.root {
            Some(root) => root
                .cgroups
                .frozen(&self.config.node_id, lease)
                .map_err(io_error("read", Path::new("/sys/fs/cgroup"))),
            None => {
                let stat = init.stat().map_err(io_error("read", Path::new("/proc")))?;
                Ok(stat.is_some_and(|stat| machine::is_stopped(init, stat.state)))
            }
        }
    }

    /// Waits until something holds.
    async fn wait_for(
        &self,
        act: &'static str,
        mut holds: impl FnMut() -> Result<bool, RuntimeError> + Send,
    ) -> Result<(), RuntimeError> {
        let start = self.clock.monotonic();
        while !holds()? {
            if self.clock.monotonic().saturating_sub(start) > END_LIMIT {
                return Err(too_long(act, END_LIMIT));
            }
            self.clock.sleep(POLL).await;
        }
        Ok(())
    }

    async fn freeze(
        &self,
        root: &Root,
        lease: LeaseId,
        motion: Motion,
    ) -> Result<(), RuntimeError> {
        let (node, groups) = (&self.config.node_id, Path::new("/sys/fs/cgroup"));
        let (act, wanted) = match motion {
            Motion::Freeze => ("freezing the container", true),
            Motion::Thaw => ("thawing the container", false),
        };
        root.cgroups.freeze(node, lease, motion).map_err(io_error("write", groups))?;
        self.wait_for(act, || {
            let frozen = root.cgroups.frozen(node, lease).map_err(io_error("read", groups))?;
            // Version 1 forgets the order when a process is born at the wrong moment: give it again.
            if frozen != wanted {
                root.cgroups.freeze(node, lease, motion).map_err(io_error("write", groups))?;
            }
            Ok(frozen == wanted)
        })
        .await
    }

    /// Ends everything that belongs to the lease and waits until it is gone.
    async fn kill(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let proc = Path::new("/proc");
        let record = match self.record(lease) {
            Err(error) if self.root.is_some() => {
                // A damaged record names nobody; the control groups still do.
                let error = nicompute_daemon::ErrorChain(&error).to_string();
                tracing::warn!(%lease, error, "unreadable record of a container");
                None
            }
            record => record?,
        };
        if let Some(root) = &self.root {
            let groups = root.cgroups.groups(&self.config.node_id, lease);
            if groups.iter().any(|group| group.exists()) {
                let freed = root.cgroups.unthrottle(&self.config.node_id, lease);
                freed.map_err(io_error("write", Path::new("/sys/fs/cgroup")))?;
                self.freeze(root, lease, Motion::Thaw).await?;
            }
        }
        if let Some(init) = record.map(|record| self.living(&record)).transpose()?.flatten() {
            // The kernel ends everything else in the process namespace with its first process.
            init.signal(Signal::KILL).map_err(io_error("signal a process in", proc))?;
            let is_gone = || Ok(init.stat().map_err(io_error("read", proc))?.is_none());
            self.wait_for("ending the container", is_gone).await?;
        }
        let Some(root) = &self.root else { return Ok(()) };
        self.wait_for("ending the container", || {
            let groups = Path::new("/sys/fs/cgroup");
            let pids = root.cgroups.pids(&self.config.node_id, lease);
            let pids = pids.map_err(io_error("read", groups))?;
            for pid in &pids {
                let Some(process) = ProcessId::of(*pid).map_err(io_error("read", proc))? else {
                    continue;
                };
                process.signal(Signal::KILL).map_err(io_error("signal a process in", proc))?;
            }
            Ok(pids.is_empty())
        })
        .await
    }

    async fn remove_locked(&self, lease: LeaseId, dir: &Path) -> Result<(), RuntimeError> {
        self.kill(lease).await?;
        if let Some(root) = &self.root {
            let node = &self.config.node_id;
            self.wait_for("removing the control groups", || {
                root.cgroups
                    .remove(node, lease)
                    .map_err(io_error("remove", "/sys/fs/cgroup".as_ref()))
            })
            .await?;
            root.cgroups.tidy(node);
            self.wait_for("releasing the disk", || Ok(!disk::is_any_held(&lease.to_string())))
                .await?;
        }
        let (doomed, path) = (dir.to_owned(), dir.to_owned());
        let removed = tokio::task::spawn_blocking(move || remove_tree(&doomed)).await;
        match removed.map_err(io::Error::other).flatten() {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::Io { act: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The lock of a lease's directory; none where there is no directory, or where it goes away while we wait.
    async fn lock(&self, dir: &Path) -> Result<Option<Lock>, RuntimeError> {
        let mut held = None;
        self.wait_for("waiting for the lease's helper", || {
            held = match Lock::try_take(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                taken => taken.map_err(io_error("lock", dir))?,
            };
            Ok(held.is_some())
        })
        .await?;
        Ok(held)
    }

    /// Stops every process of the container, or lets all go on, by signals. It takes a moment until the kernel has told
    /// each of them, and new ones are born meanwhile.
    async fn signal_all(&self, init: ProcessId, motion: Motion) -> Result<(), RuntimeError> {
        let proc = Path::new("/proc");
        let (act, signal) = match motion {
            Motion::Freeze => ("stopping the container", Signal::STOP),
            Motion::Thaw => ("continuing the container", Signal::CONT),
        };
        let done = |process: ProcessId, state| match motion {
            Motion::Freeze => machine::is_stopped(process, state),
            // One that is held by a tracer inside goes on when its tracer says so.
            Motion::Thaw => state != 'T',
        };
        let mut told = HashSet::new();
        self.wait_for(act, || {
            // Newborns are told at once; those that were told in this turn need a moment. The next turn tells all
            // again, since a process inside may have told them the opposite.
            told.clear();
            for _ in 0..STOP_ROUNDS_MAX {
                let mut waiting = machine::family(init).map_err(io_error("read", proc))?;
                waiting.retain(|(process, state)| !done(*process, *state));
                if waiting.is_empty() {
                    return Ok(true);
                }
                let before = told.len();
                for (process, _) in waiting {
                    if told.insert(process) {
                        process.signal(signal).map_err(io_error("signal a process in", proc))?;
                    }
                }
                if told.len() == before {
                    break;
                }
            }
            Ok(false)
        })
        .await
    }
}

#[async_trait]
impl Runtime for Sandbox {
    fn kind(&self) -> RuntimeKind {
        if self.root.is_some() { RuntimeKind::SandboxRoot } else { RuntimeKind::SandboxUser }
    }

    fn limits(&self) -> Limits {
        if self.root.is_some() { Limits::All } else { Limits::Nothing }
    }

    fn gives_gpus(&self) -> bool {
        !self.gpus.given.is_empty()
    }

    async fn images(&self) -> Result<Vec<String>, RuntimeError> {
        Ok(self.images.shown.iter().map(|image| image.name.clone()).collect())
    }

    async fn ensure(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        self.check(spec)?;
        if !spec.gpus.is_empty()
            && let Some(running) = self.adopted(spec).await?
        {
            return Ok(running);
        }
        self.make(spec, End::Started).await
    }

    async fn restart(&self, spec: &ContainerSpec) -> Result<Running, RuntimeError> {
        self.check(spec)?;
        // What is refused is refused while the tenant's processes live.
        let order = self.order(spec, End::Started).await?;
        let lock = self.lock(&self.config.lease_dir(spec.lease)).await?;
        if lock.is_some() {
            let current = self.record(spec.lease)?.map_or(0, |record| record.generation);
            if spec.generation < current {
                let (lease, asked) = (spec.lease, spec.generation);
                return Err(RuntimeError::Superseded { lease, asked, current });
            }
            self.kill(spec.lease).await?;
        }
        drop(lock);
        self.carry_out(spec, &order).await
    }

    async fn inspect(&self, lease: LeaseId) -> Result<Presence, RuntimeError> {
        let Some(record) = self.record(lease)? else { return Ok(Presence::Absent) };
        let Some(init) = self.living(&record)? else { return Ok(Presence::Exited) };
        let init_pid = init.pid;
        Ok(if self.is_paused(lease, init)? {
            Presence::Paused { init_pid }
        } else {
            Presence::Running { init_pid }
        })
    }

    async fn pause(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let init = self.init_of(lease)?;
        match &self.root {
            Some(root) => self.freeze(root, lease, Motion::Freeze).await,
            None => self.signal_all(init, Motion::Freeze).await,
        }
    }

    async fn resume(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let init = self.init_of(lease)?;
        match &self.root {
            Some(root) => self.freeze(root, lease, Motion::Thaw).await,
            None => self.signal_all(init, Motion::Thaw).await,
        }
    }

    async fn remove(&self, lease: LeaseId) -> Result<(), RuntimeError> {
        let dir = self.config.lease_dir(lease);
        let lock = self.lock(&dir).await?;
        let image = state::kept_image(&dir).ok().flatten();
        let removed = self.remove_locked(lease, &dir).await;
        drop(lock);
        if removed.is_ok() && image.is_some_and(|image| self.images.is_former(&image.files)) {
            let images = self.images.clone();
            let made = tokio::task::spawn_blocking(move || images.make_room(&HashSet::new()));
            made.await.map_err(helper_error)?;
        }
        removed
    }

    async fn list(&self) -> Result<Vec<LeaseId>, RuntimeError> {
        let leases = self.config.state_dir.join("leases");
        let mut found = Vec::new();
        match fs::read_dir(&leases) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => {
                for entry in entries.map_err(io_error("read", &leases))? {
                    let entry = entry.map_err(io_error("read", &leases))?;
                    let name = entry.file_name();
                    let lease = name.to_str().and_then(|name| name.parse::<LeaseId>().ok());
                    found.extend(lease.filter(|_| state::has_traces(&entry.path())));
                }
            }
        }
        if let Some(root) = &self.root {
            let groups = root.cgroups.leases(&self.config.node_id);
            found.extend(groups.map_err(io_error("read", Path::new("/sys/fs/cgroup")))?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

const fn maker(root: Option<&Root>) -> Maker {
    if root.is_some() { Maker::Root } else { Maker::User }
}

// === errors ===

/// Removes a lease's directory. Whoever waits for its lock makes the lock's file, which may happen between the removal of
/// what is in the directory and that of the directory itself.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for _ in 1..REMOVALS_MAX {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed,
        }
    }
    fs::remove_dir_all(dir)
}

fn absolute(path: &Path) -> Result<PathBuf, RuntimeError> {
    fs::canonicalize(path).map_err(io_error("find", path))
}

fn io_error(act: &'static str, path: &Path) -> impl Fn(io::Error) -> RuntimeError + use<> {
    let path = path.to_owned();
    move |source| RuntimeError::Io { act, path: path.clone(), source }
}

fn helper_error(error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Helper { detail: error.to_string() }
}

fn cgroup_error(error: cgroup::LayoutError) -> RuntimeError {
    RuntimeError::Step {
        step: "preparing the control groups".to_owned(),
        remedy: Some(Remedy::Cgroup.text()),
        source: io::Error::other(error),
    }
}

fn failed(lease: LeaseId, failure: Failure) -> RuntimeError {
    if failure.remedy == Some(Remedy::Target) {
        let rule = "must not lead through a link or a file of the image";
        return RuntimeError::InvalidSpec { lease, field: "target", rule };
    }
    let source = failure.source();
    RuntimeError::Step { step: failure.step, remedy: failure.remedy.map(Remedy::text), source }
}

const fn too_long(act: &'static str, limit: Duration) -> RuntimeError {
    RuntimeError::Timeout { act, limit_s: limit.as_secs() }
}
