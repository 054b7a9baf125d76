//! What the tests of runtimes share: a node's directory, specs, and a way to run commands inside a container.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nicompute_daemon::{ErrorChain, SystemClock};
use nicompute_host::runtime::docker::Docker;
use nicompute_host::runtime::sandbox::{HOST_IMAGE, Sandbox};
use nicompute_host::runtime::{
    ContainerSpec, ImagePolicy, NamedImage, Options, Rootfs, Running, Runtime, RuntimeConfig,
    RuntimeError, RuntimeKind, SandboxProgram,
};
use nicompute_market::LeaseId;
use tempfile::TempDir;

/// The name of the sandbox's image that was unpacked from an OCI layout.
pub(crate) const OCI_IMAGE: &str = "tests/busybox:oci";
/// Times that an engine is asked again.
pub(crate) const ASKED_MAX: u32 = 50;
/// Longest wait for anything in these tests; the machine may be busy with others.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// One node's directory and what its runtimes are told.
pub(crate) struct Node {
    pub(crate) config: RuntimeConfig,
    _dir: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("dir");
        let node_id = format!("node-{}", hex::encode(random()));
        let state_dir = dir.path().canonicalize().expect("path").join("state");
        std::fs::create_dir(&state_dir).expect("state dir");
        let sandbox_program = SandboxProgram { path: helper(), args: Vec::new() };
        let config = RuntimeConfig {
            node_id,
            state_dir,
            rootfs: Some(Rootfs::Host),
            sandbox_program,
            docker_socket: None,
            images: Vec::new(),
            image_policy: ImagePolicy::default(),
            trial_agent: None,
            classes: Vec::new(),
        };
        Self { config, _dir: dir }
    }

    /// A fresh lease's spec.
    pub(crate) fn spec(&self, image: &str) -> ContainerSpec {
        let lease = LeaseId::from_random_bytes(random());
        ContainerSpec {
            lease,
            generation: 3,
            cores_milli: 500,
            memory_bytes: 128 << 20,
            disk_bytes: 48 << 20,
            gpus: Vec::new(),
            image: image.to_owned(),
            dir: self.config.lease_dir(lease),
            agent: agent(),
            masked_host_paths: Vec::new(),
            options: Options::default(),
        }
    }
}

pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random");
    bytes
}

/// A test that failed half-way must not leave its containers to the next one.
impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let config = self.config.clone();
        let sweep = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(sweep(config));
        });
        if sweep.join().is_err() {
            skip("the sweep after a failed test");
        }
    }
}

async fn sweep(config: RuntimeConfig) {
    let clock = SystemClock::shared();
    let mut runtimes: Vec<Box<dyn Runtime>> = Vec::new();
    if let Ok(sandbox) = Sandbox::without_trial(config.clone(), clock.clone()) {
        runtimes.push(Box::new(sandbox));
    }
    if let Ok(docker) = Docker::detect(config, clock).await {
        runtimes.push(Box::new(docker));
    }
    for runtime in runtimes {
        for lease in runtime.list().await.expect("list") {
            runtime.remove(lease).await.expect("remove");
        }
    }
}

/// The helper that cargo built beside this test.
pub(crate) fn helper() -> PathBuf {
    example("sandbox")
}

/// A program that cargo built beside this test.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let path = test.ancestors().nth(2).expect("target folder").join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    path
}

/// The stand-in for the agent, built once with the compiler that built this test.
pub(crate) fn agent() -> PathBuf {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(build_agent).clone()
}

fn build_agent() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/agent.rs");
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-agent");
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if time(&built) > time(&source) {
        return built;
    }
    let fresh = built.with_extension(hex::encode(random()));
    #[expect(clippy::disallowed_methods, reason = "a test builds its fixture")]
    let mut rustc = Command::new(option_env!("RUSTC").unwrap_or("rustc"));
    rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]);
    assert!(rustc.arg(&fresh).arg(source).status().expect("rustc").success());
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&fresh, everybody).expect("mode");
    std::fs::rename(&fresh, &built).expect("rename");
    built
}

/// The gateway's end of a container's socket.
pub(crate) struct Inside {
    listener: UnixListener,
}

impl Inside {
    pub(crate) fn listen(spec: &ContainerSpec) -> Self {
        let run = spec.dir.join("run");
        std::fs::create_dir_all(&run).expect("run dir");
        let socket = run.join("gateway.sock");
        if socket.exists() {
            std::fs::remove_file(&socket).expect("old socket");
        }
        let listener = UnixListener::bind(&socket).expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        Self { listener }
    }

    /// Runs a shell command in the container and returns its exit code and output.
    pub(crate) async fn run(&self, command: &str) -> (i32, String) {
        let mut text = String::new();
        while text.is_empty() {
            // What an agent left in the queue that has died since answers nothing.
            let stream = self.accept().await;
            let mut sent = stream.try_clone().expect("clone");
            if sent.write_all(format!("{command}\n").as_bytes()).is_ok() {
                text = tokio::task::spawn_blocking(move || read(stream)).await.expect("reader");
            }
        }
        let (code, output) = text.split_once('\n').expect("an exit code, a line end, output");
        (code.parse().expect("code"), output.to_owned())
    }

    /// The output of a command that must succeed.
    pub(crate) async fn ok(&self, command: &str) -> String {
        let (code, output) = self.run(command).await;
        assert_eq!(code, 0, "{command}: {output}");
        output.trim_end().to_owned()
    }

    /// The output of a command that must fail.
    pub(crate) async fn refused(&self, command: &str) -> String {
        let (code, output) = self.run(command).await;
        assert_ne!(code, 0, "{command}: {output}");
        output
    }

    pub(crate) async fn accept(&self) -> UnixStream {
        let mut accepted = None;
        wait_for("the agent to dial", || {
            accepted = self.listener.accept().ok();
            accepted.is_some()
        })
        .await;
        let (stream, _) = accepted.expect("stream");
        stream.set_nonblocking(false).expect("blocking");
        stream.set_read_timeout(Some(LIMIT)).expect("timeout");
        stream
    }
}

fn read(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer in time");
    text
}

/// Polls until something holds; fails the test when it never does.
pub(crate) async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test's own limit")]
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A runtime, or a line that says why the test did not run.
pub(crate) async fn sandbox(node: &Node) -> Option<Sandbox> {
    match Sandbox::detect(node.config.clone(), SystemClock::shared()).await {
        Ok(sandbox) => Some(sandbox),
        Err(error) => {
            let chain = ErrorChain(&error).to_string();
            skip(&format!("the sandbox does not work here: {chain}; {}", error.remedy()));
            None
        }
    }
}

/// One runtime of this machine with an image, for checks that hold for every runtime.
pub(crate) struct Subject {
    pub(crate) node: Node,
    pub(crate) runtime: Box<dyn Runtime>,
    pub(crate) image: String,
    /// The image's directory, where the test made one.
    _files: Option<TempDir>,
}

impl Subject {
    /// Every runtime that works here: the engine, the sandbox with the machine as image, and the sandbox with an unpacked
    /// image. An ordinary user has no engine, and nobody misses it.
    pub(crate) async fn all() -> Vec<Self> {
        let mut all = Vec::new();
        if is_root() {
            let node = Node::new();
            if let Some((docker, image)) = crate::docker::docker(&node).await {
                all.push(Self { node, runtime: Box::new(docker), image, _files: None });
            }
        }
        let node = Node::new();
        if let Some(sandbox) = sandbox(&node).await {
            let image = HOST_IMAGE.to_owned();
            all.push(Self { node, runtime: Box::new(sandbox), image, _files: None });
        }
        let mut node = Node::new();
        if let Some(files) = busybox_image() {
            let path = oci_layout(files.path(), &node.config.state_dir.join("layout"));
            let image = OCI_IMAGE.to_owned();
            let name = image.clone();
            node.config.rootfs = Some(Rootfs::Images(vec![NamedImage { name, path }]));
            if let Some(sandbox) = sandbox(&node).await {
                all.push(Self { node, runtime: Box::new(sandbox), image, _files: Some(files) });
            }
        }
        all
    }

    pub(crate) fn spec(&self) -> ContainerSpec {
        self.node.spec(&self.image)
    }

    /// A running container of that spec, and the way in.
    pub(crate) async fn start(&self, spec: &ContainerSpec) -> Inside {
        let inside = Inside::listen(spec);
        self.runtime.ensure(spec).await.expect("ensure");
        inside
    }

    pub(crate) fn kind(&self) -> RuntimeKind {
        self.runtime.kind()
    }

    /// Makes the container as the reconciler does: an engine that is busy with it is asked again.
    pub(crate) async fn ensure_at_last(&self, spec: &ContainerSpec) -> Running {
        let mut asked = 0;
        loop {
            match self.runtime.ensure(spec).await {
                // Another's removal may be under way.
                Err(RuntimeError::NotRunning { .. } | RuntimeError::Engine { .. })
                    if self.kind() == RuntimeKind::Docker =>
                {
                    asked += 1;
                    assert!(asked < ASKED_MAX, "the engine never made the container");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                made => return made.expect("ensure"),
            }
        }
    }

    /// Removes the container as the reconciler does: an engine that is busy with it is asked again.
    pub(crate) async fn remove_at_last(&self, lease: LeaseId) {
        let mut asked = 0;
        loop {
            match self.runtime.remove(lease).await {
                Err(RuntimeError::Engine { .. } | RuntimeError::Timeout { .. })
                    if self.kind() == RuntimeKind::Docker =>
                {
                    asked += 1;
                    assert!(asked < ASKED_MAX, "the engine never removed the container");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                removed => return removed.expect("remove"),
            }
        }
    }

    /// Whether what the container writes outlives its processes.
    pub(crate) fn has_disk(&self) -> bool {
        self.kind() != RuntimeKind::SandboxUser
    }
}

/// An OCI layout with one layer of these files, packed by the machine's own `tar`.
pub(crate) fn oci_layout(files: &Path, at: &Path) -> PathBuf {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("mkdir");
    let hash = |bytes: &[u8]| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(bytes));
    let put = |bytes: &[u8]| {
        std::fs::write(blobs.join(hash(bytes)), bytes).expect("write");
        serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", hash(bytes)), "size": bytes.len() })
    };
    let tar = |flags| {
        #[expect(clippy::disallowed_methods, reason = "a test packs an image as others do")]
        let packed = Command::new("tar").arg("-C").arg(files).args([flags, "-", "."]).output();
        packed.expect("tar").stdout
    };
    let plain = tar("-cf");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&plain).expect("pack");
    let layer = put(&packer.finish().expect("pack"));
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = serde_json::json!({ "architecture": architecture, "os": "linux",
        "config": { "Env": ["FROM_IMAGE=yes", "NICOMPUTE_LEASE=forged"],
            "User": "nobody", "WorkingDir": "/etc", "Entrypoint": ["/bin/false"],
            "Volumes": { "/etc": {} } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hash(&plain))] } });
    let config = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let index = serde_json::json!({ "manifests": [put(manifest.to_string().as_bytes())] });
    std::fs::write(at.join("index.json"), index.to_string()).expect("write");
    at.to_owned()
}

/// An image of nothing but a static busybox.
pub(crate) fn busybox_image() -> Option<TempDir> {
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        skip("no /bin/busybox to make an image of (apt-get install busybox-static)");
        return None;
    }
    let image = TempDir::new().expect("image");
    let root = image.path();
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).expect("mode");
    for dir in ["bin", "etc"] {
        std::fs::create_dir(root.join(dir)).expect("dir");
    }
    std::fs::copy(busybox, root.join("bin/busybox")).expect("copy");
    #[expect(clippy::disallowed_methods, reason = "a test asks for the names of programs")]
    let listed = Command::new(busybox).arg("--list").output().expect("list");
    let names = String::from_utf8(listed.stdout).expect("text");
    for name in names.lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("link");
    }
    std::fs::write(root.join("etc/owner"), "image\n").expect("write");
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
    Some(image)
}

/// Says aloud that something was not tested.
pub(crate) fn skip(why: &str) {
    #[expect(clippy::print_stdout, reason = "a test that did not run must be heard")]
    {
        println!("SKIPPED: {why}");
    }
}

/// Whether this test runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a process of that number exists and is not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
