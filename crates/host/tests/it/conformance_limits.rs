//! The leased amounts at their edge, the same list for every runtime: a tenant who takes all it can hurts itself alone.

use nicompute_host::runtime::{ContainerSpec, DISK_BYTES_MIN, Limits, PIDS_MAX, RuntimeKind};

use crate::support::{Subject, wait_for};

/// Runtimes that promise to hold their containers to the share.
async fn holders() -> Vec<Subject> {
    let mut all = Subject::all().await;
    all.retain(|subject| subject.runtime.limits_enforced());
    all
}

/// A tenant that takes more memory than it rented would have the machine's own processes killed.
#[tokio::test]
async fn memory_is_held() {
    for subject in holders().await {
        let spec = ContainerSpec { memory_bytes: 64 << 20, ..subject.spec() };
        let inside = subject.start(&spec).await;
        let before = subject.runtime.inspect(spec.lease).await.expect("inspect");
        inside.ok("head -c 30000000 /dev/zero | tail -c 20000000 | wc -c").await;
        inside
            .refused("head -c 300000000 /dev/zero | tail -c 200000000 > /dev/null; exit $?")
            .await;
        // Files in memory count as well, wherever they lie.
        inside.refused("head -c 300000000 /dev/zero | cat > /dev/shm/full").await;
        inside.ok("rm -f /dev/shm/full").await;
        inside.run("head -c 20000000 /dev/zero > /dev/shm/a; head -c 300000000 /dev/zero > /run/nicompute/b").await;
        inside.ok("rm -f /dev/shm/a /run/nicompute/b").await;
        let after = subject.runtime.inspect(spec.lease).await.expect("inspect");
        assert_eq!(after, before, "the agent of {:?} survives its tenant's greed", subject.kind());
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A tenant would take the machine's process numbers.
#[tokio::test]
async fn processes_are_counted() {
    for subject in holders().await {
        let spec = ContainerSpec { memory_bytes: 1 << 30, ..subject.spec() };
        let inside = subject.start(&spec).await;
        let started: u32 = inside.ok("@threads 5000").await.parse().expect("number");
        assert!((PIDS_MAX - 20..=PIDS_MAX).contains(&started), "{started} threads");
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A fork bomb would hold the machine, or outlive the lease.
#[tokio::test]
async fn a_fork_bomb_ends_with_its_lease() {
    for subject in holders().await {
        let spec = ContainerSpec { memory_bytes: 256 << 20, cores_milli: 200, ..subject.spec() };
        let inside = subject.start(&spec).await;
        let running = subject.runtime.inspect(spec.lease).await.expect("inspect");
        let bomb = inside.accept().await;
        let line = "bomb() { bomb | bomb & }; bomb; sleep 1000\n";
        std::io::Write::write_all(&mut &bomb, line.as_bytes()).expect("send");
        let init = running.init_pid().expect("running");
        let namespace = std::fs::read_link(format!("/proc/{init}/ns/pid")).expect("namespace");
        let members = || {
            let pids = std::fs::read_dir("/proc").expect("proc").flatten();
            let links = pids.filter_map(|pid| std::fs::read_link(pid.path().join("ns/pid")).ok());
            links.filter(|link| *link == namespace).count()
        };
        wait_for("the bomb to go off", || members() > 100).await;
        assert!(members() <= usize::try_from(PIDS_MAX).expect("number"));
        // Pausing and removing work on a container that is busy with itself.
        subject.runtime.pause(spec.lease).await.expect("pause");
        subject.runtime.resume(spec.lease).await.expect("resume");
        subject.remove_at_last(spec.lease).await;
        wait_for("the bomb to be gone", || members() == 0).await;
        assert!(!spec.dir.exists());
    }
}

/// A tenant that fills its disk would fill the machine's.
#[tokio::test]
async fn the_disk_is_held_where_it_is_promised() {
    for subject in holders().await {
        if subject.runtime.limits() != Limits::All {
            continue;
        }
        let spec = ContainerSpec { disk_bytes: DISK_BYTES_MIN, ..subject.spec() };
        let inside = subject.start(&spec).await;
        let fill = "for d in /root /home /tmp /var/tmp; do mkdir -p $d; head -c 50000000 /dev/zero | cat > $d/full || exit 1; done";
        let full = inside.refused(fill).await;
        assert!(full.contains("No space left"), "{full}");
        // A full disk does not keep a lease from being entered, started again or removed.
        inside.ok("true").await;
        subject.runtime.restart(&spec).await.expect("restart with a full disk");
        inside.ok("rm -f /root/full && echo fine > /root/fine").await;
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// Empty files would take what a disk has for names, and the machine's disk would be full with space left.
#[tokio::test]
async fn names_on_the_disk_are_held_where_it_is_promised() {
    for subject in holders().await {
        if subject.runtime.limits() != Limits::All || subject.kind() == RuntimeKind::Docker {
            continue;
        }
        let spec = ContainerSpec { disk_bytes: DISK_BYTES_MIN, ..subject.spec() };
        let inside = subject.start(&spec).await;
        let flood =
            "i=0; while : > /root/f$i; do i=$((i+1)); test $i -lt 20000 || exit 0; done; exit 1";
        inside.refused(flood).await;
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A tenant would take the processor time that another one pays for.
#[tokio::test]
async fn processor_time_is_held() {
    for subject in holders().await {
        let spec = ContainerSpec { cores_milli: 250, ..subject.spec() };
        let inside = subject.start(&spec).await;
        // Two loops for two seconds of the clock may use half a second of the processor.
        let spin = "timeout 2 sh -c 'while :; do :; done' & timeout 2 sh -c 'while :; do :; done'; wait; times";
        let times = inside.ok(spin).await;
        let children = times.lines().next_back().expect("times").to_owned();
        let seconds: f64 = children
            .split_whitespace()
            .filter_map(|time| time.strip_prefix("0m")?.strip_suffix('s')?.parse::<f64>().ok())
            .sum();
        assert!(seconds > 0.0 && seconds < 0.8, "{:?}: {times}", subject.kind());
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}
