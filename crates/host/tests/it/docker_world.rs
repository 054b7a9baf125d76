//! An engine of a test's own, which it may kill, and a way to the engine that can be made to hang.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

use crate::gateway_world::background;
use crate::support::{is_root, random, skip, wait_for};

const DOCKERD: &str = "/usr/sbin/dockerd";

/// A second engine, apart from the machine's in everything.
pub(crate) struct OwnEngine {
    dir: TempDir,
    bridge: String,
    args: Vec<String>,
    daemon: Option<Child>,
    on_memory: bool,
}

impl OwnEngine {
    /// Starts it, or says why not. Its store lies in memory of a size where one is given.
    pub(crate) async fn start(args: &[&str], store_bytes: Option<u64>) -> Option<Self> {
        if !is_root() || !Path::new(DOCKERD).exists() {
            skip("an engine of the test's own needs root and dockerd");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("nce").tempdir().expect("dir");
        let bridge = format!("nce{}", hex::encode(&random()[..4]));
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let on_memory = store_bytes.is_some();
        let mut engine = Self { dir, bridge, args, daemon: None, on_memory };
        std::fs::create_dir(engine.store()).expect("mkdir");
        if let Some(bytes) = store_bytes {
            let options = format!("size={bytes}");
            let store = engine.store().display().to_string();
            run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &store]);
        }
        run("ip", &["link", "add", "name", &engine.bridge, "type", "bridge"]);
        let [third, fourth, ..] = random();
        let address = format!("198.18.{third}.{}/30", fourth & 0xfc | 1);
        run("ip", &["address", "add", &address, "dev", &engine.bridge]);
        engine.spawn().await;
        Some(engine)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("e.sock")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Starts the engine again over its own store.
    pub(crate) async fn spawn(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let log = std::fs::File::create(self.dir.path().join("log")).expect("log");
        #[expect(clippy::disallowed_methods, reason = "a test starts the engine that it kills")]
        let mut daemon = Command::new(DOCKERD);
        daemon.args(["--data-root", &at("store"), "--exec-root", &at("x"), "-p", &at("pid")]);
        daemon.args(["-H", &format!("unix://{}", at("e.sock")), "--bridge", &self.bridge]);
        daemon.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"]);
        daemon.args(["--ip-forward=false", "--storage-driver=overlay2"]).args(&self.args);
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The old one is dead and, where nobody has buried it, still has its number.
        for left in ["pid", "x/containerd/containerd.pid"] {
            drop(std::fs::remove_file(self.dir.path().join(left)));
        }
        self.daemon = Some(daemon.spawn().expect("dockerd"));
        let socket = self.socket();
        let log = self.dir.path().join("log");
        wait_for("the engine to answer", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.contains("API listen on")
                && std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })
        .await;
    }

    /// Kills the engine as the kernel would: without a word.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("kill");
            daemon.wait().expect("wait");
        }
    }

    /// Stops the engine as an upgrade would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            run("kill", &["-TERM", &daemon.id().to_string()]);
            daemon.wait().expect("wait");
        }
    }

    /// The engine's helpers beside its containers.
    pub(crate) fn helpers(&self) -> Vec<u32> {
        let own = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").expect("proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("containerd-shim") && line.contains(&own)
        })
        .collect()
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.kill();
        for pid in self.helpers() {
            attempt("kill", &["-KILL", &pid.to_string()]);
        }
        let own = self.dir.path().display().to_string();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let name = entry.file_name().to_string_lossy().into_owned();
            if line.starts_with("containerd\0") && line.contains(&own) {
                attempt("kill", &["-KILL", &name]);
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for mount in below.filter(|at| at.starts_with(&own)) {
            attempt("umount", &["-l", mount]);
        }
        attempt("ip", &["link", "delete", &self.bridge]);
        if self.on_memory {
            attempt("umount", &["-l", &self.store().display().to_string()]);
        }
    }
}

fn run(program: &str, args: &[&str]) {
    assert!(attempt(program, args), "{program} {args:?}");
}

fn attempt(program: &str, args: &[&str]) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test arranges its machine")]
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A socket that passes everything on to an engine, until it is told to hang.
pub(crate) struct Way {
    pub(crate) socket: PathBuf,
    hangs: Arc<AtomicBool>,
}

impl Way {
    pub(crate) fn to(engine: PathBuf, dir: &Path) -> Self {
        let socket = dir.join("way.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let hangs = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&hangs);
        drop(background(async move {
            loop {
                let (mut near, _) = listener.accept().await.expect("accept");
                if told.load(Ordering::Relaxed) {
                    // Held until the test ends, and never read.
                    drop(background(async move {
                        std::future::pending::<()>().await;
                        drop(near);
                    }));
                    continue;
                }
                let Ok(mut far) = UnixStream::connect(&engine).await else { continue };
                drop(background(async move {
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok()
                }));
            }
        }));
        Self { socket, hangs }
    }

    /// From now on, questions are answered with silence.
    pub(crate) fn hang(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    /// From now on, questions reach the engine.
    pub(crate) fn open(&self) {
        self.hangs.store(false, Ordering::Relaxed);
    }
}
