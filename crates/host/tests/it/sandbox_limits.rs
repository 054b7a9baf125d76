//! The embedded runtime's limits, at their edge: a tenant who takes all it can hurts itself alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nicompute_host::runtime::sandbox::HOST_IMAGE;
use nicompute_host::runtime::{
    ContainerSpec, DISK_BYTES_MIN, Limits, NamedImage, PIDS_MAX, Presence, Rootfs, Runtime,
    RuntimeError,
};

use crate::support::{Inside, Node, busybox_image, is_root, oci_layout, sandbox};

/// A plain user's sandbox must not promise what it cannot keep, and root's must keep what it promises.
#[tokio::test]
async fn promises_follow_the_profile() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let expected = if is_root() { Limits::All } else { Limits::Nothing };
    assert_eq!(sandbox.limits(), expected);
    assert_eq!(sandbox.limits_enforced(), is_root());
    let gpu = ContainerSpec { gpus: vec!["GPU-0".to_owned()], ..node.spec(HOST_IMAGE) };
    let error = sandbox.ensure(&gpu).await.expect_err("no GPUs here");
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    let elsewhere = ContainerSpec { dir: "/tmp".into(), ..node.spec(HOST_IMAGE) };
    let error = sandbox.ensure(&elsewhere).await.expect_err("not the lease's directory");
    assert!(matches!(error, RuntimeError::InvalidSpec { field: "dir", .. }), "{error}");
}

/// A tenant that takes more memory than it rented would have the machine's own processes killed.
#[tokio::test]
async fn memory_is_limited() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await.filter(|_| is_root()) else { return };
    let spec = ContainerSpec { memory_bytes: 64 << 20, ..node.spec(HOST_IMAGE) };
    let inside = Inside::listen(&spec);
    let running = sandbox.ensure(&spec).await.expect("ensure");
    inside.ok("head -c 30000000 /dev/zero | tail -c 20000000 | wc -c").await;
    inside.refused("head -c 300000000 /dev/zero | tail -c 200000000 > /dev/null; exit $?").await;
    // Files in memory count as well.
    inside.refused("head -c 300000000 /dev/zero > /dev/shm/full").await;
    inside.ok("rm -f /dev/shm/full").await;
    let init_pid = running.init_pid;
    let now = sandbox.inspect(spec.lease).await.expect("inspect");
    assert_eq!(now, Presence::Running { init_pid }, "the agent survives its tenant's greed");
    sandbox.remove(spec.lease).await.expect("remove");
}

/// A fork bomb would take the machine's process numbers.
#[tokio::test]
async fn processes_are_limited() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await.filter(|_| is_root()) else { return };
    let spec = ContainerSpec { memory_bytes: 1 << 30, ..node.spec(HOST_IMAGE) };
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    let started: u32 = inside.ok("@threads 5000").await.parse().expect("number");
    assert!((PIDS_MAX - 20..=PIDS_MAX).contains(&started), "{started} threads");
    sandbox.remove(spec.lease).await.expect("remove");
}

/// One tenant would take every terminal of the machine, and no other lease could open a shell.
#[tokio::test]
async fn terminals_are_limited() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    let mounted = inside.ok("grep ' /dev/pts devpts ' /proc/mounts").await;
    assert!(mounted.contains("max=256"), "{mounted}");
    sandbox.remove(spec.lease).await.expect("remove");
}

/// A tenant that fills its disk would fill the machine's.
#[tokio::test]
async fn the_disk_is_limited() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await.filter(|_| is_root()) else { return };
    let spec = ContainerSpec { disk_bytes: DISK_BYTES_MIN, ..node.spec(HOST_IMAGE) };
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    let full = inside.refused("for d in /root /home /tmp /var/tmp; do head -c 50000000 /dev/zero > $d/full || exit 1; done").await;
    assert!(full.contains("No space left"), "{full}");
    let image = fs::metadata(spec.dir.join("disk.img")).expect("disk");
    assert_eq!(image.len(), DISK_BYTES_MIN);
    assert!(image.blocks() * 512 <= DISK_BYTES_MIN, "the file is sparse and never larger");
    sandbox.remove(spec.lease).await.expect("remove");
}

/// A tenant would take the processor time that another one pays for.
#[tokio::test]
async fn processor_time_is_limited() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await.filter(|_| is_root()) else { return };
    let spec = ContainerSpec { cores_milli: 250, ..node.spec(HOST_IMAGE) };
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    // Two loops for two seconds of the clock may use half a second of the processor.
    let spin = "timeout 2 sh -c 'while :; do :; done' & timeout 2 sh -c 'while :; do :; done'; wait; times";
    let times = inside.ok(spin).await;
    let children = times.lines().next_back().expect("times").to_owned();
    let seconds: f64 = children
        .split_whitespace()
        .filter_map(|time| time.strip_prefix("0m")?.strip_suffix('s')?.parse::<f64>().ok())
        .sum();
    assert!(seconds > 0.0 && seconds < 0.8, "{times}");
    sandbox.remove(spec.lease).await.expect("remove");
}

/// Images of former configurations would fill the provider's disk, or a tenant's container lose its files when they go.
#[tokio::test]
async fn former_images_go_when_no_lease_has_them() {
    let Some(files) = busybox_image() else { return };
    let mut node = Node::new();
    let store = node.config.state_dir.join("images");
    let unpacked = || fs::read_dir(&store).map_or(0, Iterator::count);
    let named = |name: &str, path: PathBuf| NamedImage { name: name.to_owned(), path };
    let old = oci_layout(files.path(), &node.config.state_dir.join("old"));
    node.config.rootfs = Some(Rootfs::Images(vec![named("old:1", old)]));
    node.config.image_policy.bytes_max = 0;
    let Some(first) = sandbox(&node).await else { return };
    let spec = node.spec("old:1");
    let inside = Inside::listen(&spec);
    first.ensure(&spec).await.expect("ensure");
    assert_eq!(unpacked(), 1, "what is offered stays, however little room there is");

    fs::write(files.path().join("etc/owner"), "another\n").expect("write");
    let new = oci_layout(files.path(), &node.config.state_dir.join("new"));
    node.config.rootfs = Some(Rootfs::Images(vec![named("new:1", new)]));
    let Some(second) = sandbox(&node).await else { return };
    assert_eq!(unpacked(), 2, "a lease has the former one");
    assert_eq!(inside.ok("cat /etc/owner").await, "image");
    second.remove(spec.lease).await.expect("remove");
    assert_eq!(unpacked(), 1, "nobody has it any more");
    let spec = node.spec("new:1");
    let inside = Inside::listen(&spec);
    second.ensure(&spec).await.expect("ensure");
    assert_eq!(inside.ok("cat /etc/owner").await, "another");
    second.remove(spec.lease).await.expect("remove");
    assert_eq!(unpacked(), 1);
}
