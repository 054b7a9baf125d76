//! Kill -9 of the node, of its helper and of the container, at every moment: a container is either whole or gone, there is
//! never a second one, and nothing of a removed one is left on the machine.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nicompute_daemon::SystemClock;
use nicompute_host::runtime::sandbox::{HOST_IMAGE, Sandbox};
use nicompute_host::runtime::{
    ContainerSpec, NamedImage, Presence, Rootfs, Runtime, RuntimeError, SandboxProgram,
};
use nicompute_market::LeaseId;

use crate::support::{
    Inside, Node, busybox_image, helper, is_root, lives, oci_layout, random, sandbox, wait_for,
};

/// Every process that carries the lease in its environment.
pub(crate) fn processes_of(lease: LeaseId) -> Vec<u32> {
    let mark = format!("NICOMPUTE_LEASE={lease}");
    let pids = fs::read_dir("/proc").expect("proc").flatten();
    let ours = pids.filter(|entry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&mark)
    });
    ours.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|p| lives(*p))
        .collect()
}

/// What a lease may leave on a machine, beyond processes.
fn traces_of(spec: &ContainerSpec) -> Vec<String> {
    let lease = spec.lease.to_string();
    let mut traces = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    traces.extend(mounts.lines().filter(|line| line.contains(&lease)).map(str::to_owned));
    for device in fs::read_dir("/sys/block").expect("block devices").flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        traces.extend(file.lines().filter(|line| line.contains(&lease)).map(str::to_owned));
    }
    let mut groups = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    for _ in 0..4 {
        let inner = groups.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        groups = inner.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        traces
            .extend(groups.iter().map(|p| p.display().to_string()).filter(|p| p.contains(&lease)));
    }
    if spec.dir.exists() {
        traces.push(spec.dir.display().to_string());
    }
    traces
}

/// The loop devices that have the lease's disk.
fn loop_devices_of(lease: LeaseId) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").expect("block devices").flatten();
    let held = devices.filter(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        file.contains(&lease.to_string())
    });
    held.map(|device| Path::new("/dev").join(device.file_name())).collect()
}

pub(crate) async fn nothing_is_left(spec: &ContainerSpec) {
    wait_for("the processes to be gone", || processes_of(spec.lease).is_empty()).await;
    assert_eq!(traces_of(spec), Vec::<String>::new());
}

/// A node that was killed and started again would start a second container, or forget the first.
#[tokio::test]
async fn a_new_node_adopts_the_container() {
    let node = Node::new();
    let Some(first) = sandbox(&node).await else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    let running = first.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/file").await;
    drop(first);
    let Some(second) = sandbox(&node).await else { return };
    assert_eq!(second.list().await.expect("list"), [spec.lease]);
    assert_eq!(second.ensure(&spec).await.expect("ensure"), running);
    assert_eq!(inside.ok("cat /root/file").await, "kept");
    assert_eq!(processes_of(spec.lease).first(), Some(&running.init_pid));
    second.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
}

/// An agent that died would be reported as running for ever, or its restart would lose the tenant's files.
#[tokio::test]
async fn a_dead_container_is_noticed_and_started_again() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    let running = sandbox.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/file; sync").await;
    let pid = i32::try_from(running.init_pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("pid"), rustix::process::Signal::KILL).expect("kill");
    wait_for("the container to end", || !lives(running.init_pid)).await;
    assert_eq!(sandbox.inspect(spec.lease).await.expect("inspect"), Presence::Exited);
    assert_eq!(sandbox.list().await.expect("list"), [spec.lease]);
    let again = sandbox.ensure(&spec).await.expect("ensure");
    assert_ne!(again.init_pid, running.init_pid);
    let file = if is_root() { "kept" } else { "" };
    assert_eq!(inside.ok("cat /root/file 2>/dev/null || true").await, file);
    sandbox.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
}

/// One failed start of the agent would count as the loss of a running lease, and its tenant's disk be wiped.
#[tokio::test]
async fn a_failed_start_is_no_loss_of_what_has_run() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let agent = node.config.state_dir.join("agent");
    fs::write(&agent, "no program").expect("write");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&agent, everybody).expect("mode");
    let spec = node.spec(HOST_IMAGE);
    let broken = ContainerSpec { agent, ..spec.clone() };
    let inside = Inside::listen(&spec);
    sandbox.ensure(&broken).await.expect_err("it cannot be started");
    assert_eq!(sandbox.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
    sandbox.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/file; sync").await;
    let error = sandbox.restart(&broken).await.expect_err("it cannot be started");
    assert!(matches!(error, RuntimeError::Step { .. }), "{error}");
    assert_eq!(sandbox.inspect(spec.lease).await.expect("inspect"), Presence::Exited);
    sandbox.ensure(&spec).await.expect("ensure");
    let file = if is_root() { "kept" } else { "" };
    assert_eq!(inside.ok("cat /root/file 2>/dev/null || true").await, file);
    sandbox.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
}

/// An operator who offers an image no longer would lock its tenants out of their disks when the machine restarts.
#[tokio::test]
async fn a_lease_outlives_the_name_of_its_image() {
    let Some(files) = busybox_image() else { return };
    let mut node = Node::new();
    let layouts = node.config.state_dir.join("layouts");
    let image = |name: &str| {
        let path = oci_layout(files.path(), &layouts.join(name));
        Some(Rootfs::Images(vec![NamedImage { name: name.to_owned(), path }]))
    };
    node.config.rootfs = image("former");
    let Some(first) = sandbox(&node).await else { return };
    let spec = node.spec("former");
    let inside = Inside::listen(&spec);
    let running = first.ensure(&spec).await.expect("ensure");
    inside.ok("if [ $(id -u) = 0 ]; then echo kept > /root/file; sync; fi").await;
    drop(first);
    fs::write(files.path().join("etc/owner"), "another image").expect("write");
    node.config.rootfs = image("latter");
    node.config.image_policy.bytes_max = 0;
    let Some(second) = sandbox(&node).await else { return };
    assert_eq!(second.images().await.expect("images"), ["latter"]);
    let pid = i32::try_from(running.init_pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("pid"), rustix::process::Signal::KILL).expect("kill");
    wait_for("the container to end", || !lives(running.init_pid)).await;
    second.ensure(&spec).await.expect("started again");
    assert_eq!(inside.ok("cat /etc/owner; echo $FROM_IMAGE").await, "image\nyes");
    let file = if is_root() { "kept" } else { "" };
    assert_eq!(inside.ok("cat /root/file 2>/dev/null || true").await, file);
    second.restart(&spec).await.expect("restart");
    let other = second.ensure(&node.spec("former")).await.expect_err("nobody else gets it");
    assert!(matches!(other, RuntimeError::ImageMissing { .. }), "{other}");
    second.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
}

/// A container started again before its last run has let go of the disk would mount the disk twice, and destroy it.
#[tokio::test]
async fn a_disk_is_mounted_once() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await.filter(|_| is_root()) else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    let running = sandbox.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/file; sync").await;
    let devices = loop_devices_of(spec.lease);
    let [device] = &*devices else { panic!("one device: {devices:?}") };
    // An open device stays bound to its file, as it does while the kernel tears the last mount down.
    let held = fs::File::open(device).expect("open the device");
    let pid = i32::try_from(running.init_pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("pid"), rustix::process::Signal::KILL).expect("kill");
    wait_for("the container to end", || !lives(running.init_pid)).await;
    let early = tokio::time::timeout(Duration::from_secs(2), sandbox.ensure(&spec)).await;
    assert!(early.is_err(), "the disk is still in use: {early:?}");
    assert_eq!(loop_devices_of(spec.lease), devices);
    drop(held);
    let again = sandbox.ensure(&spec).await.expect("ensure");
    assert_ne!(again.init_pid, running.init_pid);
    assert_eq!(loop_devices_of(spec.lease).len(), 1);
    assert_eq!(inside.ok("cat /root/file").await, "kept");
    sandbox.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
}

/// A node killed while a container is being made would leave half of one, or make two.
#[tokio::test]
async fn the_node_dies_while_a_container_is_made() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    for delay_ms in 0..25 {
        let spec = node.spec(HOST_IMAGE);
        let making = sandbox.ensure(&spec);
        // Dropping the call is what remains of it when the node is killed; the helper goes on by itself.
        let made = tokio::time::timeout(Duration::from_millis(delay_ms * 2), making).await;
        let (one, two) = tokio::join!(sandbox.ensure(&spec), sandbox.ensure(&spec));
        let one = one.expect("ensure after the crash");
        assert_eq!(one, two.expect("and again"), "one container");
        if let Ok(made) = made {
            assert_eq!(made.expect("ensure"), one);
        }
        assert_eq!(processes_of(spec.lease), [one.init_pid]);
        sandbox.remove(spec.lease).await.expect("remove");
        nothing_is_left(&spec).await;
    }
}

/// A helper killed at any of its steps would leave mounts, a loop device, control groups or a container without a record.
#[tokio::test]
async fn the_helper_dies_at_any_step() {
    let node = Node::new();
    let Some(healthy) = sandbox(&node).await else { return };
    for delay_ms in 0..40 {
        let mut config = node.config.clone();
        let script = format!("exec timeout -s KILL 0.{delay_ms:03} {}", helper().display());
        config.sandbox_program =
            SandboxProgram { path: "/bin/sh".into(), args: vec!["-c".to_owned(), script] };
        // Only whether it works on this machine was tried with the healthy helper; this one is made without a trial.
        let broken = Sandbox::without_trial(config, SystemClock::shared()).expect("sandbox");
        let spec = node.spec(HOST_IMAGE);
        let made = broken.ensure(&spec).await;
        let there = healthy.inspect(spec.lease).await.expect("inspect");
        if let Ok(running) = &made {
            assert_eq!(there.init_pid(), Some(running.init_pid));
        }
        if delay_ms % 2 == 0 {
            let running = healthy.ensure(&spec).await.expect("ensure after the crash");
            wait_for("one container", || processes_of(spec.lease) == [running.init_pid]).await;
        }
        healthy.remove(spec.lease).await.expect("remove");
        nothing_is_left(&spec).await;
        assert!(!healthy.list().await.expect("list").contains(&spec.lease));
    }
}

/// Whoever can write to the helper's input would crash it or make it do something.
#[test]
fn the_helper_refuses_nonsense() {
    let valid = r#"{"node_id":"n","lease":"00000000-0000-4000-8000-000000000000"}"#;
    let mut orders: Vec<Vec<u8>> =
        vec![Vec::new(), b"{".to_vec(), valid.into(), vec![b'['; 200_000]];
    for _ in 0..8 {
        orders.push(random().to_vec());
        let mut mutated = valid.as_bytes().to_vec();
        let at = usize::from(random()[0]) % mutated.len();
        mutated[at] ^= random()[1] | 1;
        orders.push(mutated);
    }
    for order in orders {
        #[expect(clippy::disallowed_methods, reason = "the helper is a program")]
        let mut child = Command::new(helper())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        // It stops reading at its limit, and then the pipe breaks.
        let sent = child.stdin.take().expect("input").write_all(&order);
        assert!(sent.is_ok() || order.len() > 65_536);
        let answer = child.wait_with_output().expect("answer");
        assert_eq!(answer.status.code(), Some(1));
        let text = String::from_utf8(answer.stdout).expect("text");
        assert!(text.starts_with("{\"Failed\":"), "{text}");
    }
}

/// A state directory that was deleted by hand would leave a container that nobody can find.
#[tokio::test]
async fn control_groups_name_their_lease() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await.filter(|_| is_root()) else { return };
    let spec = node.spec(HOST_IMAGE);
    sandbox.ensure(&spec).await.expect("ensure");
    fs::remove_dir_all(&spec.dir).expect("delete");
    assert_eq!(sandbox.list().await.expect("list"), [spec.lease]);
    sandbox.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
    assert_eq!(sandbox.list().await.expect("list"), []);
}

/// A lease that was removed while its container failed to be made would leave its control groups on the machine for ever.
#[tokio::test]
async fn a_container_that_cannot_be_made_leaves_no_groups() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let agent = node.config.state_dir.join("agent");
    fs::write(&agent, "for root alone").expect("write");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&agent, private).expect("mode");
    let spec = ContainerSpec { agent, ..node.spec(HOST_IMAGE) };
    let error = sandbox.ensure(&spec).await.expect_err("nobody could start it");
    assert!(matches!(error, RuntimeError::Step { .. }), "{error}");
    let folder = [spec.dir.display().to_string()];
    wait_for("the groups and the disk to be gone", || traces_of(&spec) == folder).await;
    sandbox.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
}
