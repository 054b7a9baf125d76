//! GPUs in the embedded runtime, with specs of a machine whose GPUs are harmless devices of the kernel: what a lease sees of
//! its own GPUs, and nothing of the others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nicompute_daemon::SystemClock;
use nicompute_host::runtime::sandbox::{GpuSource, HOST_IMAGE, ROOTFS_IMAGE, Sandbox};
use nicompute_host::runtime::{
    ContainerSpec, Presence, Rootfs, Runtime, RuntimeConfig, RuntimeError,
};
use nicompute_host::telemetry::NvmlLibrary;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Inside, Node, busybox_image, is_root, lives, skip};

const FIRST: &str = "GPU-1";
const SECOND: &str = "GPU-2";
/// The kernel's `/dev/null`, `/dev/zero` and `/dev/full`: each answers in its own way.
const CONTROL: (u32, u32) = (1, 3);
const ZERO: (u32, u32) = (1, 5);
const FULL: (u32, u32) = (1, 7);

/// A machine with two GPUs that are none.
struct Machine {
    /// Not below `/tmp`, from which nothing is shown to a tenant.
    dir: TempDir,
}

impl Machine {
    fn new() -> Option<Self> {
        if !is_root() {
            skip("only root makes device nodes");
            return None;
        }
        let machine = Self { dir: tempfile::tempdir_in("/var/tmp").expect("dir") };
        for folder in ["cdi", "dev", "lib"] {
            fs::create_dir(machine.at(folder)).expect("mkdir");
        }
        let open = |path: &Path| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
        };
        open(machine.dir.path());
        open(&machine.at("lib"));
        for (name, number) in [("nvidiactl", CONTROL), ("nvidia0", ZERO), ("nvidia1", FULL)] {
            machine.node(name, number);
        }
        fs::write(machine.at("lib/libcuda.so.550.1"), "the driver\n").expect("write");
        symlink("libcuda.so.550.1", machine.at("lib/libcuda.so.1")).expect("link");
        machine.write(&machine.spec());
        Some(machine)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn node(&self, name: &str, (major, minor): (u32, u32)) {
        let (path, mode) = (self.at("dev").join(name), Mode::from_raw_mode(0o600));
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)).expect("node");
    }

    /// What the driver's tools write, in the shape that they write.
    fn spec(&self) -> Value {
        let node = |name: &str| json!({"path": format!("/dev/{name}"), "hostPath": self.at("dev").join(name)});
        let gpu = |uuid: &str, name: &str| json!({"name": uuid, "containerEdits": {"deviceNodes": [node(name)]}});
        json!({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
            "devices": [gpu(FIRST, "nvidia0"), gpu(SECOND, "nvidia1")],
            "containerEdits": {
                "env": ["DRIVER=550.1"],
                "deviceNodes": [node("nvidiactl")],
                "mounts": [{"hostPath": self.at("lib/libcuda.so.550.1"),
                    "containerPath": "/usr/lib/gpu/libcuda.so.550.1",
                    "options": ["rw", "suid", "bind"]}],
                "hooks": [
                    {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
                     "args": ["nvidia-cdi-hook", "create-symlinks",
                        "--link", "libcuda.so.1::/usr/lib/gpu/libcuda.so"]},
                    {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
                     "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/gpu"]}]}})
    }

    fn write(&self, spec: &Value) {
        fs::write(self.at("cdi/nvidia.json"), spec.to_string()).expect("write");
    }

    fn source(&self) -> GpuSource {
        let library = NvmlLibrary::at(self.at("no-library"));
        GpuSource { dirs: vec![self.at("cdi")], library }
    }

    async fn sandbox(&self, config: &RuntimeConfig) -> Sandbox {
        let found = Sandbox::detect_with(config.clone(), SystemClock::shared(), self.source());
        found.await.expect("the sandbox works for root")
    }
}

/// A node whose image is a folder with a busybox.
fn node_with(image: &Path) -> Node {
    let mut node = Node::new();
    node.config.rootfs = Some(Rootfs::Directory(image.to_owned()));
    node
}

fn lease(node: &Node, image: &str, gpus: &[&str]) -> ContainerSpec {
    let gpus = gpus.iter().map(|uuid| (*uuid).to_owned()).collect();
    ContainerSpec { gpus, ..node.spec(image) }
}

/// A tenant would see its neighbour's GPU, none of its own, or neither the driver's libraries.
#[tokio::test]
async fn each_lease_sees_its_own_gpu() {
    let (Some(machine), Some(image)) = (Machine::new(), busybox_image()) else { return };
    let node = node_with(image.path());
    let sandbox = machine.sandbox(&node.config).await;
    assert!(sandbox.gives_gpus());
    let [first, second, both, none] = [&[FIRST][..], &[SECOND], &[FIRST, SECOND], &[]]
        .map(|gpus| lease(&node, ROOTFS_IMAGE, gpus));
    let mut insides = Vec::new();
    for spec in [&first, &second, &both, &none] {
        let inside = Inside::listen(spec);
        let running = sandbox.ensure(spec).await.expect("ensure");
        assert!(lives(running.init_pid));
        insides.push(inside);
    }
    let seen = "cd /dev; ls -d nvidia* 2>/dev/null | tr '\\n' ' '";
    for (inside, devices) in insides.iter().zip([
        "nvidia0 nvidiactl",
        "nvidia1 nvidiactl",
        "nvidia0 nvidia1 nvidiactl",
        "",
    ]) {
        assert_eq!(inside.ok(seen).await, devices);
    }
    let [one, two, all, without] = &*insides else { unreachable!() };
    // They are the machine's devices: the first gives zeroes, the second is full.
    for inside in [one, all] {
        assert_eq!(inside.ok("head -c 3 /dev/nvidia0 | od -An -tx1").await.trim(), "00 00 00");
    }
    for inside in [two, all] {
        assert!(inside.refused("echo x > /dev/nvidia1").await.contains("No space"));
    }
    for (inside, other) in [(one, "nvidia1 c 1 7"), (two, "nvidia0 c 1 5"), (without, "x c 1 5")] {
        let name = other.split(' ').next().expect("a name");
        inside.refused(&format!("head -c 1 /dev/{name}")).await;
        for place in ["/tmp", "/dev", "/dev/shm", "/run/nicompute", "/root"] {
            inside.refused(&format!("mknod {place}/{other}")).await;
        }
    }
    // The driver's files can be read under each of their names and changed under none.
    for name in ["libcuda.so.550.1", "libcuda.so.1", "libcuda.so"] {
        assert_eq!(one.ok(&format!("cat /usr/lib/gpu/{name}")).await, "the driver");
        one.refused(&format!("echo x > /usr/lib/gpu/{name}")).await;
        without.refused(&format!("cat /usr/lib/gpu/{name}")).await;
    }
    let shown = one.ok("echo $DRIVER $LD_LIBRARY_PATH $NVIDIA_VISIBLE_DEVICES").await;
    assert_eq!(shown, "550.1 /usr/lib/gpu void");
    one.refused("chmod 777 /dev/nvidia0").await;
    one.refused("rm /dev/nvidia0").await;
    // It stays so when the container is started anew, and what runs is kept when the specs are gone.
    sandbox.restart(&first).await.expect("restart");
    assert_eq!(one.ok(seen).await, "nvidia0 nvidiactl");
    fs::remove_file(machine.at("cdi/nvidia.json")).expect("remove");
    sandbox.ensure(&first).await.expect("it runs");
    assert_eq!(one.ok(seen).await, "nvidia0 nvidiactl");
    for spec in [first, second, both, none] {
        sandbox.remove(spec.lease).await.expect("remove");
        crate::sandbox_crash::nothing_is_left(&spec).await;
    }
    assert!(machine.at("dev/nvidia0").exists(), "the machine's own nodes stay");
}

/// On a machine whose own programs are the image, tenants would see every GPU of the machine, or no driver.
#[tokio::test]
async fn the_machine_as_image_shows_leased_gpus_alone() {
    let Some(machine) = Machine::new() else { return };
    let mut spec = machine.spec();
    let mounts = &mut spec["containerEdits"]["mounts"];
    *mounts = json!([
        // It is there already.
        {"hostPath": "/usr/bin/env", "containerPath": "/usr/bin/env"},
        {"hostPath": machine.at("lib"), "containerPath": "/etc/gpu/lib"},
    ]);
    machine.write(&spec);
    let node = Node::new();
    let sandbox = machine.sandbox(&node.config).await;
    let spec = lease(&node, HOST_IMAGE, &[SECOND]);
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    assert_eq!(inside.ok("cd /dev; echo nvidia*").await, "nvidia1 nvidiactl");
    assert_eq!(inside.ok("cat /etc/gpu/lib/libcuda.so.1").await, "the driver");
    inside.refused(": > /etc/gpu/lib/x").await;
    sandbox.remove(spec.lease).await.expect("remove");
}

/// An image would have the driver's files, or the machine's, mounted over what is not its own.
#[tokio::test]
async fn links_of_an_image_lead_nowhere_else() {
    let (Some(machine), Some(image)) = (Machine::new(), busybox_image()) else { return };
    let bait = tempfile::tempdir_in("/var/tmp").expect("bait");
    let root = image.path();
    // Legal: an image whose libraries lie behind a link.
    fs::create_dir_all(root.join("opt/lib/gpu")).expect("mkdir");
    fs::create_dir(root.join("usr")).expect("mkdir");
    symlink("../opt/lib", root.join("usr/lib")).expect("link");
    let node = node_with(root);
    let sandbox = machine.sandbox(&node.config).await;
    let spec = lease(&node, ROOTFS_IMAGE, &[FIRST]);
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    assert_eq!(inside.ok("cat /opt/lib/gpu/libcuda.so.1").await, "the driver");
    sandbox.remove(spec.lease).await.expect("remove");

    let outside = bait.path().display().to_string();
    let up = format!("{}{outside}", "../".repeat(20));
    for target in [&*outside, &up, "/proc/self/root", "lib", "/dev", "/proc", "/.nicompute"] {
        fs::remove_file(root.join("usr/lib")).expect("remove");
        symlink(target, root.join("usr/lib")).expect("link");
        let spec = lease(&node, ROOTFS_IMAGE, &[FIRST]);
        // It fails or it stays inside; the machine never changes.
        if sandbox.ensure(&spec).await.is_ok() {
            let inside = Inside::listen(&spec);
            assert_eq!(inside.ok("cat /.nicompute/agent | head -c 4 | tail -c 3").await, "ELF");
        }
        sandbox.remove(spec.lease).await.expect("remove");
        assert_eq!(fs::read_dir(bait.path()).expect("list").count(), 0, "{target}");
        assert!(!root.join("usr/lib/gpu/libcuda.so.1").exists(), "{target}: the image is kept");
    }
}

/// A renter whose GPU's spec is stale would ask for a restart, be refused it, and have lost what ran all the same.
#[tokio::test]
async fn a_refused_restart_ends_nothing() {
    let (Some(machine), Some(image)) = (Machine::new(), busybox_image()) else { return };
    let node = node_with(image.path());
    let sandbox = machine.sandbox(&node.config).await;
    let spec = lease(&node, ROOTFS_IMAGE, &[FIRST]);
    let inside = Inside::listen(&spec);
    let running = sandbox.ensure(&spec).await.expect("ensure");
    fs::remove_file(machine.at("cdi/nvidia.json")).expect("remove");
    let error = sandbox.restart(&spec).await.expect_err("no spec knows the GPU");
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    let there = sandbox.inspect(spec.lease).await.expect("inspect");
    assert_eq!(there, Presence::Running { init_pid: running.init_pid });
    assert_eq!(inside.ok("cd /dev; echo nvidia*").await, "nvidia0 nvidiactl");
    machine.write(&machine.spec());
    let again = sandbox.restart(&spec).await.expect("restart");
    assert_ne!(again, running);
    sandbox.remove(spec.lease).await.expect("remove");
    crate::sandbox_crash::nothing_is_left(&spec).await;
}

/// A GPU would be offered that no container can have, or a spec show a tenant the machine's files or another's GPU.
#[tokio::test]
async fn specs_that_cannot_be_kept_give_nothing() {
    let Some(machine) = Machine::new() else { return };
    let node = Node::new();
    let config = &node.config;
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut spec = machine.spec();
        change(&mut spec);
        spec
    };
    let mount = |host: &str| {
        changed(&|spec: &mut Value| {
            spec["containerEdits"]["mounts"] =
                json!([{"hostPath": host, "containerPath": "/etc/gpu/x"}]);
        })
    };
    symlink("/root", machine.at("lib/root")).expect("link");
    let linked = machine.at("lib/root").display().to_string();
    let hostile = [
        mount("/etc/shadow"),
        mount("/root"),
        mount("/proc/1"),
        mount("/usr/../root"),
        mount(&linked),
        mount("/usr/lib/not-there.so"),
        changed(&|spec: &mut Value| {
            spec["containerEdits"]["mounts"][0]["containerPath"] = json!("/dev/sda");
        }),
        changed(&|spec: &mut Value| {
            spec["containerEdits"]["hooks"][0]["args"] = json!(["x", "run-something"]);
        }),
        // The node of another GPU under this one's name, one GPU too many, and one node under two names.
        changed(&|spec: &mut Value| {
            let nodes = &mut spec["devices"][0]["containerEdits"]["deviceNodes"];
            nodes[0]["hostPath"] = json!(machine.at("dev/nvidia1"));
        }),
        changed(&|spec: &mut Value| {
            let other = spec["devices"][1]["containerEdits"]["deviceNodes"][0].clone();
            let nodes = &mut spec["devices"][0]["containerEdits"]["deviceNodes"];
            nodes.as_array_mut().expect("nodes").push(other);
        }),
        changed(&|spec: &mut Value| {
            let disk = json!([{"path": "/dev/nvidia0", "hostPath": "/dev/loop0"}]);
            spec["devices"][0]["containerEdits"]["deviceNodes"] = disk;
        }),
    ];
    for spec in hostile {
        machine.write(&spec);
        let sandbox = machine.sandbox(config).await;
        assert!(!sandbox.gives_gpus(), "{spec}");
        let lease = lease(&node, HOST_IMAGE, &[FIRST]);
        let error = sandbox.ensure(&lease).await.expect_err("refused");
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}: {spec}");
        assert!(error.remedy().is_some(), "{error}");
    }
    machine.write(&machine.spec());
    let sandbox = machine.sandbox(config).await;
    let unknown = lease(&node, HOST_IMAGE, &[FIRST, "GPU-9"]);
    let error = sandbox.ensure(&unknown).await.expect_err("unknown");
    assert!(error.to_string().contains("GPU-9"), "{error}");
    for bad in [&["all"][..], &[FIRST, FIRST], &["0"], &["GPU-1,GPU-2"], &["GPU-1/../GPU-2"]] {
        let error = sandbox.ensure(&lease(&node, HOST_IMAGE, bad)).await.expect_err("not a GPU");
        assert!(matches!(error, RuntimeError::InvalidSpec { field: "gpus", .. }), "{error}");
    }
    // Two names of one device: the second lease would have the first one's GPU.
    fs::remove_file(machine.at("dev/nvidia1")).expect("remove");
    machine.node("nvidia1", ZERO);
    let both = lease(&node, HOST_IMAGE, &[FIRST, SECOND]);
    let error = sandbox.ensure(&both).await.expect_err("one device");
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    assert_eq!(sandbox.list().await.expect("list"), []);
}
