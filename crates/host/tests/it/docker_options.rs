//! What a lease asks for beyond its share, on the machine's engine: given exactly, and held to.

use nicompute_host::runtime::docker::Docker;
use nicompute_host::runtime::{
    ContainerSpec, Network, Options, PIDS_MAX, Presence, RootAccess, Runtime, RuntimeError, Tmpfs,
    Volume,
};

use crate::docker::docker;
use crate::support::{Inside, Node, is_root, lives, skip, wait_for};

fn volume(name: &str, target: &str, bytes: Option<u64>) -> Volume {
    Volume { name: name.to_owned(), target: target.to_owned(), bytes }
}

async fn remove(docker: &Docker, spec: &ContainerSpec) {
    docker.remove(spec.lease).await.expect("remove");
    assert!(!spec.dir.exists(), "the lease's directory is gone");
}

/// A renter would be given another container than the one that was ordered.
#[tokio::test]
async fn options_are_given() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    let hostile = "'; touch /tmp/injected; $(touch /tmp/injected) `id` \\ \" %n é\u{7}";
    let long = "x".repeat(16 << 10);
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut spec = node.spec(&image);
    spec.options = Options {
        shm_bytes: Some(3 << 20),
        root: RootAccess::ReadOnly,
        volumes: vec![volume("data", "/data", None), volume("a-b_1", "/srv/deep/er", None)],
        tmpfs: vec![Tmpfs { target: "/tmp".to_owned(), bytes: 2 << 20 }],
        environment: vec![
            set("HOSTILE", hostile),
            set("LONG", &long),
            set("NVIDIA_VISIBLE_DEVICES", "all"),
        ],
        network: Network::Egress,
        ..Options::default()
    };
    std::fs::create_dir_all(&spec.dir).expect("mkdir");
    std::fs::write(spec.dir.join("resolv.conf"), "nameserver 192.0.2.53\n").expect("write");
    let inside = Inside::listen(&spec);
    docker.ensure(&spec).await.expect("ensure");
    let kilobytes =
        async |at: &str| inside.ok(&format!("df -k {at} | tail -1 | awk '{{print $2}}'")).await;
    assert_eq!(kilobytes("/dev/shm").await, "3072");
    assert_eq!(kilobytes("/tmp").await, "2048");
    assert_eq!(inside.ok("printf %s \"$HOSTILE\"").await, hostile);
    assert_eq!(inside.ok("printf %s \"$LONG\" | wc -c").await, long.len().to_string());
    assert_eq!(inside.ok("echo $NVIDIA_VISIBLE_DEVICES").await, "void");
    inside.refused("ls /tmp/injected").await;
    inside.refused("echo x > /root/x").await;
    inside.ok("echo kept > /data/x && echo kept > /srv/deep/er/x && echo x > /tmp/x").await;
    assert_eq!(inside.ok("cat /etc/resolv.conf").await, "nameserver 192.0.2.53");
    inside.refused("echo x >> /etc/resolv.conf").await;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let files: u64 = inside.ok("ulimit -n").await.parse().expect("a number");
    assert!(files == 1_048_576 || Some(files) <= own, "{files}, an engine that may raise nothing");
    assert_eq!(inside.ok("ulimit -c").await, "0");
    assert_eq!(inside.ok("cat /proc/self/oom_score_adj").await, "500");
    assert_eq!(inside.ok("grep Seccomp: /proc/self/status | cut -f2").await, "2");
    assert_eq!(
        inside.ok("cat /proc/keys /proc/timer_list /proc/scsi 2>/dev/null | wc -c").await,
        "0"
    );
    assert_eq!(inside.ok("ls /sys/class/net").await, "lo", "the wire is laid from outside");
    assert_eq!(std::fs::read_to_string(spec.dir.join("volumes/data/x")).expect("read"), "kept\n");
    remove(&docker, &spec).await;
}

/// A restart would lose a tenant's files, leave its processes, or end in a container that is frozen.
#[tokio::test]
async fn a_restart_ends_processes_and_keeps_files() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    let mut spec = node.spec(&image);
    assert!(matches!(docker.restart(&spec).await, Err(RuntimeError::NotRunning { .. })));
    spec.options.volumes = vec![volume("data", "/data", None)];
    let inside = Inside::listen(&spec);
    let first = docker.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/x; echo kept > /data/x; echo lost > /dev/shm/x").await;
    inside.ok("(trap '' TERM HUP; while :; do sleep 1; done) >/dev/null 2>&1 & echo ok").await;
    let second = docker.restart(&spec).await.expect("restart");
    assert_ne!(first, second);
    assert!(!lives(first.init_pid));
    assert_eq!(inside.ok("cat /root/x /data/x").await, "kept\nkept");
    inside.refused("cat /dev/shm/x").await;
    assert_eq!(inside.ok("ps | grep -c '[s]leep 1' || true").await, "0");
    docker.pause(spec.lease).await.expect("pause");
    let third = docker.restart(&spec).await.expect("restart of a paused one");
    let running = Presence::Running { init_pid: third.init_pid };
    assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), running);
    assert_eq!(inside.ok("cat /data/x").await, "kept");
    let newer = ContainerSpec { generation: spec.generation + 1, ..spec.clone() };
    docker.restart(&newer).await.expect("a later generation");
    let older = ContainerSpec { generation: spec.generation - 1, ..spec.clone() };
    let error = docker.restart(&older).await.expect_err("an earlier generation");
    assert!(matches!(error, RuntimeError::Superseded { .. }), "{error}");
    remove(&docker, &spec).await;
}

/// A volume would hold more than its renter paid for, or be lost or left behind when the machine starts again.
#[tokio::test]
async fn a_sized_volume_is_held_to_its_size() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    if !is_root() {
        skip("volumes of a size need root");
        return;
    }
    let mut spec = ContainerSpec { disk_bytes: 80 << 20, ..node.spec(&image) };
    spec.options.volumes = vec![volume("data", "/data", Some(40 << 20))];
    let inside = Inside::listen(&spec);
    docker.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /data/x").await;
    let said = inside.refused("dd if=/dev/zero of=/data/full bs=1M count=60").await;
    assert!(said.contains("No space"), "{said}");
    inside.ok("rm /data/full").await;
    // As after a start of the machine: nothing is mounted, and the container is there.
    docker.restart(&spec).await.expect("restart");
    assert_eq!(inside.ok("cat /data/x").await, "kept");
    remove(&docker, &spec).await;
    let lease = spec.lease.to_string();
    wait_for("the mounts to be gone", || {
        !std::fs::read_to_string("/proc/self/mounts").expect("mounts").contains(&lease)
    })
    .await;
}

/// One tenant would take processes, memory or memory file systems from the machine and everybody on it.
#[tokio::test]
async fn a_hostile_tenant_harms_itself() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    // A thread takes memory of the kernel's, which is counted: with less, memory is the first limit that is met.
    let mut spec = ContainerSpec { memory_bytes: 512 << 20, ..node.spec(&image) };
    spec.options.tmpfs = vec![Tmpfs { target: "/mnt".to_owned(), bytes: spec.memory_bytes }];
    let inside = Inside::listen(&spec);
    docker.ensure(&spec).await.expect("ensure");
    let threads = inside.run(&format!("@threads {}", PIDS_MAX * 2)).await.1;
    let threads: u32 = threads.trim().parse().expect("a number");
    assert!(threads < PIDS_MAX, "{threads} threads");
    docker.restart(&spec).await.expect("restart");
    // Each of these is stopped by its own limit or ends some of the tenant's own processes, the agent perhaps with them.
    for hog in [
        "b() { b | b & }; b",
        "head -c 900000000 /dev/zero | tail -c 800000000",
        "head -c 900000000 /dev/zero > /dev/shm/full",
        "head -c 900000000 /dev/zero > /mnt/full; head -c 900000000 /dev/zero > /run/nicompute/full",
    ] {
        // What an agent left in the queue that has died since takes nothing.
        while std::io::Write::write_all(&mut inside.accept().await, format!("{hog}\n").as_bytes())
            .is_err()
        {}
        let began = docker.inspect(spec.lease).await.expect("inspect");
        assert!(matches!(began, Presence::Running { .. } | Presence::Exited), "{began:?}");
        docker.restart(&spec).await.expect("restart");
        assert_eq!(inside.ok("echo well").await, "well");
    }
    let limit = spec.memory_bytes.to_string();
    let groups = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let seen = inside.ok(&format!("cat {groups} 2>/dev/null | head -1")).await;
    assert!(seen == limit || seen.is_empty(), "{seen}");
    let quota =
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | head -1";
    let held = inside.ok(quota).await;
    assert!(held.is_empty() || held.starts_with("50000"), "it has its share again: {held}");
    remove(&docker, &spec).await;
}

/// Another folder of the machine would be shown to a tenant by whoever can put a link into the state directory.
#[tokio::test]
async fn links_in_a_leases_directory_stop_it() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    let mut spec = node.spec(&image);
    spec.options.volumes = vec![volume("data", "/data", None)];
    docker.ensure(&spec).await.expect("ensure");
    let elsewhere = node.config.state_dir.join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("mkdir");
    std::fs::write(elsewhere.join("secret"), "x").expect("write");
    if is_root() {
        nicompute_host::runtime::disk::unmount_below(&spec.dir).expect("unmount");
    }
    std::fs::remove_dir_all(spec.dir.join("volumes/data")).expect("rmdir");
    std::os::unix::fs::symlink(&elsewhere, spec.dir.join("volumes/data")).expect("link");
    let error = docker.restart(&spec).await.expect_err("a link");
    assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
    let left = docker.inspect(spec.lease).await.expect("inspect");
    assert!(matches!(left, Presence::Running { .. }), "what is refused ends nothing: {left:?}");
    remove(&docker, &spec).await;
    assert!(elsewhere.join("secret").exists());
}

/// Sizes that no machine has would reach the engine, which takes zero for no limit at all.
#[tokio::test]
async fn senseless_sizes_are_refused() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    let with = |options: Options| ContainerSpec { options, ..node.spec(&image) };
    let tmpfs = |bytes| Options {
        tmpfs: vec![Tmpfs { target: "/t".to_owned(), bytes }],
        ..Options::default()
    };
    let sized = |bytes| Options {
        volumes: vec![volume("data", "/data", Some(bytes))],
        ..Options::default()
    };
    let shm = |bytes| Options { shm_bytes: Some(bytes), ..Options::default() };
    for options in [shm(0), shm(u64::MAX), tmpfs(0), tmpfs(u64::MAX), sized(0), sized(u64::MAX)] {
        let error = docker.ensure(&with(options)).await.expect_err("senseless");
        assert!(matches!(error, RuntimeError::InvalidSpec { .. }), "{error}");
    }
}
