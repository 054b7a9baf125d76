//! What the tests of runtimes share: a node's directory, specs, and a way to run commands inside a container.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nicompute_host::runtime::{ContainerSpec, Rootfs, RuntimeConfig, SandboxProgram};
use nicompute_market::LeaseId;
use tempfile::TempDir;

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
        }
    }
}

pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random");
    bytes
}

/// The helper that cargo built beside this test.
pub(crate) fn helper() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let path = test.ancestors().nth(2).expect("target folder").join("examples/sandbox");
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

/// Whether a process of that number exists and is not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
