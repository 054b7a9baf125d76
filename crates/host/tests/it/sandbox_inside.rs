//! The embedded runtime as a tenant sees it: what the machine's own root shows, and what it refuses.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nicompute_daemon::SystemClock;
use nicompute_host::runtime::sandbox::{HOST_IMAGE, ROOTFS_IMAGE, Sandbox};
use nicompute_host::runtime::{ContainerSpec, Presence, Rootfs, Runtime};

use crate::support::{Inside, Node, agent, busybox_image, is_root, lives, sandbox, skip};

/// A tenant would read the provider's keys, see or signal its processes, or change its files.
#[tokio::test]
async fn the_machine_is_out_of_reach() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");

    // Its own processes only, and a machine of its own name.
    let pids = inside.ok("cd /proc; for p in [0-9]*; do echo $p; done | wc -l").await;
    assert!(pids.parse::<u32>().expect("number") < 12, "{pids} processes");
    assert!(inside.ok("tr '\\0' ' ' < /proc/1/cmdline").await.starts_with("/.nicompute/agent"));
    let name = inside.ok("cat /proc/sys/kernel/hostname").await;
    assert_eq!(name, format!("nicompute-{}", spec.lease.short()));
    inside.refused(&format!("kill -0 {}", std::process::id())).await;

    // None of the machine's files but programs, and of those nothing that not everybody may read.
    for gone in ["/root/.ssh", "/var/lib/dpkg", "/run/docker.sock", "/srv", "/boot", "/mnt"] {
        inside.refused(&format!("ls {gone}")).await;
    }
    inside.refused(&format!("ls {}", node.config.state_dir.display())).await;
    assert_eq!(inside.ok("ls -A /root /home | grep -v : | grep . || true").await, "");
    inside.refused("cat /etc/shadow").await;

    // Nothing to write but its own.
    for path in ["/x", "/usr/x", "/etc/x", "/etc/passwd", "/.nicompute/x", "/.nicompute/run/x"] {
        inside.refused(&format!(": > {path}")).await;
    }
    for path in ["/.nicompute/agent", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"] {
        inside.refused(&format!("echo 1 >> {path}")).await;
    }
    inside.refused("rm /.nicompute/run/gateway.sock").await;
    for path in ["/root/x", "/home/x", "/tmp/x", "/var/tmp/x", "/run/x", "/dev/shm/x"] {
        inside.ok(&format!("echo fine > {path}")).await;
    }
    inside.ok("cp /bin/true /run/nicompute/prover && /run/nicompute/prover").await;

    sandbox.remove(spec.lease).await.expect("remove");
}

/// A tenant would get back what was taken away: capabilities, mounts, devices, namespaces, networks.
#[tokio::test]
async fn privileges_stay_away() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");

    let status =
        inside.ok("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs):' /proc/self/status").await;
    let kept = "00000000000404fb";
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t{kept}")), "{kept} {status}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert_eq!(inside.ok("id -u; id -G").await.lines().next(), Some("0"));

    inside.refused("mount -t tmpfs none /tmp").await;
    inside.refused("mount -o remount,rw /usr").await;
    inside.refused("umount /proc").await;
    inside.refused("mknod /tmp/sda b 8 0").await;
    inside.refused("unshare -U true").await;
    inside.refused("unshare -n true").await;
    inside.refused("nsenter -t 1 -m true").await;
    inside.refused("hostname evil").await;
    inside.refused("chroot /proc/1/root ls /srv").await;
    inside.refused("ip link add x type dummy").await;
    assert_eq!(inside.ok("ls /sys/class/net").await, "lo");
    assert_eq!(inside.ok("cat /sys/class/net/lo/operstate").await, "unknown", "loopback is up");
    assert_eq!(inside.ok("cat /proc/kcore 2>/dev/null | wc -c").await, "0");
    assert_eq!(inside.ok("ulimit -c").await, "0");
    // Nothing that the node had open: input, outputs, and what the agent opens itself.
    // What it opened and closed again while the list was read has no target any more.
    let files = inside.ok("for f in /proc/1/fd/*; do readlink $f || true; done").await;
    let own = |line: &str| {
        line == "/dev/null" || line.starts_with("socket:") || line.starts_with("pipe:")
    };
    assert!(files.lines().all(own), "{files}");
    let environment = inside.ok("tr '\\0' '\\n' < /proc/1/environ").await;
    assert!(environment.contains(&format!("NICOMPUTE_LEASE={}", spec.lease)), "{environment}");
    assert!(!environment.contains("CARGO"), "{environment}");

    sandbox.remove(spec.lease).await.expect("remove");
}

/// A wallet folder that lies below a directory that is shown would be read.
#[tokio::test]
async fn masked_paths_are_empty() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let dirs = fs::read_dir("/usr/share").expect("list").map(|entry| entry.expect("entry").path());
    let full = |dir: &PathBuf| fs::read_dir(dir).is_ok_and(|mut inner| inner.next().is_some());
    let secret = dirs.into_iter().find(full).expect("a directory with something in it");
    let link = node.config.state_dir.join("link");
    symlink("/etc/hosts", &link).expect("link");

    let open = node.spec(HOST_IMAGE);
    let masked_host_paths = vec![secret.clone(), link, "/usr/share/not-there".into()];
    let masked = ContainerSpec { masked_host_paths, ..node.spec(HOST_IMAGE) };
    let (see, blind) = (Inside::listen(&open), Inside::listen(&masked));
    sandbox.ensure(&open).await.expect("ensure");
    sandbox.ensure(&masked).await.expect("ensure");
    let list = format!("ls -A '{}'; cat /etc/hosts", secret.display());
    assert_ne!(see.ok(&list).await, "");
    assert_eq!(blind.ok(&list).await, "");
    blind.refused(&format!("umount '{}'", secret.display())).await;
    for spec in [open, masked] {
        sandbox.remove(spec.lease).await.expect("remove");
    }
}

/// A paused rental would go on computing, or a resumed one would not.
#[tokio::test]
async fn pausing_stops_every_process() {
    let node = Node::new();
    let Some(sandbox) = sandbox(&node).await else { return };
    let spec = node.spec(HOST_IMAGE);
    let inside = Inside::listen(&spec);
    sandbox.ensure(&spec).await.expect("ensure");
    // Processes that come and go all the time, one of them reparented to the first process, and one that resists.
    let work = "(while :; do /bin/true; done) & (setsid sh -c 'while :; do /bin/true; done' &) ; \
                (while :; do kill -CONT -1; done) & sleep 1000";
    let worker = inside.accept().await;
    std::io::Write::write_all(&mut &worker, format!("{work}\n").as_bytes()).expect("send");
    for _ in 0..5 {
        let count = || {
            fs::read_to_string("/proc/stat").map_or(0, |stat| {
                stat.lines()
                    .find_map(|line| line.strip_prefix("processes ")?.parse::<u64>().ok())
                    .unwrap_or(0)
            })
        };
        let before = count();
        crate::support::wait_for("processes to be born", || count() > before).await;
        sandbox.pause(spec.lease).await.expect("pause");
        assert!(matches!(sandbox.inspect(spec.lease).await, Ok(Presence::Paused { .. })));
        let ticks = cpu_ticks(&spec);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(cpu_ticks(&spec), ticks, "something went on");
        sandbox.resume(spec.lease).await.expect("resume");
        assert!(matches!(sandbox.inspect(spec.lease).await, Ok(Presence::Running { .. })));
    }
    drop(worker);
    inside.ok("true").await;
    sandbox.remove(spec.lease).await.expect("remove, with its processes at work");
}

/// Processor time of every process of the lease, found by its environment.
fn cpu_ticks(spec: &ContainerSpec) -> u64 {
    let mark = format!("NICOMPUTE_LEASE={}", spec.lease);
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&mark) {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let times = fields.split_ascii_whitespace().skip(11).take(2);
            ticks += times.filter_map(|time| time.parse::<u64>().ok()).sum::<u64>();
        }
    }
    ticks
}

/// An image is its author's: its links must not lead our mounts, or the tenant, out of it, and two leases must not
/// see each other's changes.
#[tokio::test]
async fn a_hostile_image_stays_in_its_place() {
    let Some(image) = busybox_image() else { return };
    let bait = tempfile::TempDir::new().expect("bait");
    let outside = bait.path().display().to_string();
    let root = image.path();
    let mut node = Node::new();
    if sandbox(&node).await.is_none() {
        return;
    }
    node.config.rootfs = Some(Rootfs::Directory(root.to_owned()));
    let links = [
        ("dev", outside.as_str()),
        ("dev", "/bin"),
        ("proc", "/etc"),
        ("sys", "../../../../../../etc"),
        ("run", "../../../../../../../../etc"),
        (".nicompute", "/"),
        (".nicompute", "/proc/self/root"),
        ("root", "/"),
    ];
    for (name, target) in links {
        symlink(target, root.join(name)).expect("link");
        // A trial would fail for the same reason as the lease.
        let sandbox = Sandbox::without_trial(node.config.clone(), SystemClock::shared());
        let sandbox = sandbox.expect("sandbox");
        let spec = node.spec(ROOTFS_IMAGE);
        let inside = Inside::listen(&spec);
        let started = sandbox.ensure(&spec).await;
        let made = fs::read_dir(bait.path()).expect("list").count();
        assert_eq!(made, 0, "{name} -> {target}: something was made outside");
        match started {
            Ok(_) => {
                inside.refused(&format!("ls {outside}")).await;
                inside.refused("ls /usr").await;
                inside.refused("cat /etc/shadow").await;
            }
            Err(error) => assert!(error.to_string().starts_with("sandbox: "), "{error}"),
        }
        sandbox.remove(spec.lease).await.expect("remove");
        fs::remove_file(root.join(name)).expect("unlink");
    }
}

/// An unpacked image would not be usable, or a tenant's changes would reach the next one's.
#[tokio::test]
async fn images_are_shared_and_changes_are_not() {
    let Some(image) = busybox_image() else { return };
    let mut node = Node::new();
    node.config.rootfs = Some(Rootfs::Directory(image.path().to_owned()));
    let Some(sandbox) = sandbox(&node).await else { return };
    let (first, second) = (node.spec(ROOTFS_IMAGE), node.spec(ROOTFS_IMAGE));
    let (one, two) = (Inside::listen(&first), Inside::listen(&second));
    sandbox.ensure(&first).await.expect("ensure");
    sandbox.ensure(&second).await.expect("ensure");
    one.refused("ls /usr/share /lib/x86_64-linux-gnu").await;
    if is_root() {
        // The owner inside is root, and everything can be changed.
        assert_eq!(one.ok("stat -c %u:%g /etc/owner /bin/busybox").await, "0:0\n0:0");
        one.ok("echo changed > /etc/owner; rm /etc/passwd; echo new > /new; chown 7:7 /new").await;
        assert_eq!(one.ok("cat /etc/owner /new; stat -c %u /new").await, "changed\nnew\n7");
    } else {
        one.refused("echo changed > /etc/owner").await;
    }
    assert_eq!(two.ok("cat /etc/owner; ls /etc/passwd").await, "image\n/etc/passwd");
    assert_eq!(fs::read_to_string(image.path().join("etc/owner")).expect("read"), "image\n");
    for spec in [first, second] {
        sandbox.remove(spec.lease).await.expect("remove");
    }
}

/// Everything above must hold for an ordinary user too; most machines that run these tests are root's.
#[tokio::test]
async fn all_of_it_as_an_ordinary_user() {
    const NOBODY: u32 = 65_534;
    if !is_root() {
        return;
    }
    let built = agent();
    let test = std::env::current_exe().expect("own path");
    for path in [&built, &test] {
        let open = |dir: &Path| dir.metadata().is_ok_and(|data| data.permissions().mode() & 1 == 1);
        if !path.ancestors().all(open) {
            skip(&format!("an ordinary user cannot reach {}", path.display()));
            return;
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the test runs itself as somebody else")]
    let mut command = Command::new(test);
    command
        .args(["sandbox", "conformance", "--nocapture", "--test-threads", "2"])
        .env("TMPDIR", "/tmp");
    command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("join");
    let ran = ran.expect("run");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    // What only root can do has its turn as root, in this same program.
    let is_lost = |line: &&str| line.contains("SKIPPED:") && !line.contains("only root");
    for line in out.lines().filter(is_lost) {
        skip(line.trim_start_matches("SKIPPED: "));
    }
    assert!(ran.status.success(), "{out}\n{err}");
    assert!(lives(std::process::id()));
}
