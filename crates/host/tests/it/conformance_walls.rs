//! The wall around a tenant, the same list for every runtime: what a container must not see, must not have and must not do.

use std::fs;

use nicompute_host::runtime::RuntimeKind;

use crate::support::{Inside, OCI_IMAGE, Subject};

/// What a container's root keeps of its capabilities.
const CAPABILITIES: &str = "00000000000404fb";
/// "Not permitted" and "not implemented": the answers of a filter or of a missing capability.
const REFUSALS: [&str; 2] = ["1", "38"];

/// A tenant would have the means with which containers are broken out of.
#[tokio::test]
async fn rights_are_taken_away() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        let status =
            inside.ok("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs):' /proc/self/status").await;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(status.contains(&format!("{set}:\t{CAPABILITIES}")), "{set}: {status}");
        }
        assert!(status.contains("CapAmb:\t0000000000000000"), "{status}");
        // Of every process, the first one included.
        let all =
            "for p in /proc/[0-9]*; do grep -E '^(NoNewPrivs|Seccomp):' $p/status; done | sort -u";
        assert_eq!(inside.ok(all).await, "NoNewPrivs:\t1\nSeccomp:\t2", "{:?}", subject.kind());
        if subject.kind() != RuntimeKind::Docker {
            let map = inside.ok("cat /proc/1/uid_map").await;
            let ids: Vec<u32> = map.split_whitespace().map(|id| id.parse().expect("id")).collect();
            let [0, first, count] = *ids else { panic!("{map}") };
            assert_ne!(first, 0, "the container's root is nobody on this machine");
            let expected = if subject.kind() == RuntimeKind::SandboxRoot { 65_536 } else { 1 };
            assert_eq!(count, expected);
        }
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A call that reaches the kernel's dangerous corners would be answered.
#[tokio::test]
async fn dangerous_calls_are_refused() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        let answers = inside.ok("@calls").await;
        let allowed: Vec<&str> = answers
            .lines()
            .filter(|line| !line.rsplit_once('=').is_some_and(|(_, no)| REFUSALS.contains(&no)))
            // Engines' own filters know it or not, by their age. The agent's refuses it everywhere; this stand-in has none.
            .filter(|line| {
                subject.kind() != RuntimeKind::Docker || !line.starts_with("socket vsock=")
            })
            .collect();
        assert_eq!(allowed, [""; 0], "{:?}", subject.kind());
        for command in [
            "mount -t tmpfs none /tmp",
            "mount -o remount,rw /proc/sys",
            "umount /proc",
            "umount -l /.nicompute/run",
            "mknod /tmp/sda b 8 0",
            "mknod /tmp/kmsg c 1 11",
            "unshare -U true",
            "unshare -m true",
            "unshare -n true",
            "hostname evil",
            "chroot /proc/1/root/../../.. ls /nowhere",
            "ip link add x type dummy",
            "ip link set lo down",
            "echo b > /proc/sysrq-trigger",
            "echo x > /proc/sys/kernel/core_pattern",
            "echo 1 > /proc/sys/kernel/panic",
            "echo x > /sys/kernel/uevent_helper",
            "dd if=/dev/mem of=/dev/null count=1",
            "cat /dev/kmsg",
            "cat /dev/sda /dev/vda /dev/nvme0n1",
        ] {
            inside.refused(command).await;
        }
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A tenant would read or signal what belongs to the machine or to another tenant.
#[tokio::test]
async fn the_machine_is_not_there() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        for kind in ["pid", "ipc", "uts", "net", "mnt", "cgroup"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).expect("namespace");
            let theirs = inside.ok(&format!("readlink /proc/self/ns/{kind}")).await;
            assert_ne!(ours.to_string_lossy(), theirs, "{kind} of {:?}", subject.kind());
        }
        let pids = inside.ok("cd /proc; for p in [0-9]*; do echo $p; done | wc -l").await;
        assert!(pids.parse::<u32>().expect("number") < 12, "{pids} processes");
        assert!(inside.ok("tr '\\0' ' ' < /proc/1/cmdline").await.starts_with("/.nicompute/agent"));
        inside.refused(&format!("kill -0 {}", std::process::id())).await;
        inside.refused(&format!("ls {}", subject.node.config.state_dir.display())).await;
        for path in ["/var/run/docker.sock", "/run/docker.sock", "/root/.ssh", "/etc/shadow"] {
            inside.refused(&format!("ls {path} && cat {path}")).await;
        }
        for empty in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats"] {
            let read = inside.ok(&format!("head -c 100 {empty} 2>/dev/null | wc -c")).await;
            assert_eq!(read, "0", "{empty}");
        }
        assert_eq!(inside.ok("ls -A /sys/firmware").await, "");
        inside.refused(": > /sys/kernel/mm/ksm/run").await;
        assert_eq!(inside.ok("ls /sys/class/net").await, "lo");
        no_host_mounts(&inside).await;
        let environment = inside.ok("tr '\\0' '\\n' < /proc/1/environ").await;
        assert!(!environment.contains("CARGO"), "{environment}");
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// Everything that is mounted is known, and nothing of it is the machine's to write.
async fn no_host_mounts(inside: &Inside) {
    const OURS: [&str; 7] =
        ["/proc", "/sys", "/dev", "/run", "/.nicompute/run", "/.nicompute/agent", "/etc"];
    const PROGRAMS: [&str; 9] =
        ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix"];
    const OWN_DISK: [&str; 4] = ["/root", "/home", "/tmp", "/var"];
    let text = inside.ok("cat /proc/self/mountinfo").await;
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (at, flags) = (fields[4], fields[5]);
        let below = |places: &[&str]| {
            places.iter().any(|place| at == *place || at.starts_with(&format!("{place}/")))
        };
        let read_only = flags.split(',').any(|flag| flag == "ro");
        let known =
            at == "/" || below(&OURS) || below(&OWN_DISK) || (below(&PROGRAMS) && read_only);
        assert!(known, "{line}");
    }
    for file in ["/.nicompute/agent", "/.nicompute/run/x"] {
        inside.refused(&format!("echo x >> {file}")).await;
    }
    inside.refused("rm -f /.nicompute/run/gateway.sock").await;
    inside.refused("mv /.nicompute/run /.nicompute/away").await;
}

/// A tenant could end its own lease from inside, and take the door that leads to it along.
#[tokio::test]
async fn the_first_process_cannot_be_killed_from_inside() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        let before = subject.runtime.inspect(spec.lease).await.expect("inspect");
        for signal in ["KILL", "STOP", "SEGV", "TERM"] {
            inside.run(&format!("kill -s {signal} 1")).await;
        }
        inside.run("kill -9 -1").await;
        inside.ok("true").await;
        assert_eq!(subject.runtime.inspect(spec.lease).await.expect("inspect"), before);
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A tenant would find no place for what a validator or a program brings along.
#[tokio::test]
async fn what_is_rented_is_there() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        // Whatever user, directory and program the image names: the agent is there for the tenant, who is root.
        assert_eq!(inside.ok("id -u; id -g; pwd; echo $HOME").await, "0\n0\n/\n/root");
        for path in ["/root/x", "/tmp/x", "/dev/shm/x", "/run/nicompute/x"] {
            inside.ok(&format!("echo fine > {path} && rm {path}")).await;
        }
        inside.ok("cp /bin/true /run/nicompute/true && /run/nicompute/true").await;
        for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
            inside.ok(&format!("test -c /dev/{device}")).await;
        }
        inside.ok("echo x > /dev/null && head -c 4 /dev/zero > /dev/null && ls /dev/pts").await;
        let environment = inside.ok("tr '\\0' '\\n' < /proc/1/environ").await;
        assert!(environment.contains(&format!("NICOMPUTE_LEASE={}", spec.lease)), "{environment}");
        assert!(environment.contains("PATH=/usr/local/sbin"), "{environment}");
        if subject.image == OCI_IMAGE {
            assert!(environment.contains("FROM_IMAGE=yes"), "{environment}");
            assert!(!environment.contains("forged"), "{environment}");
            let owner = inside.ok("stat -c %u:%g /etc/owner /bin/busybox").await;
            let expected = if subject.kind() == RuntimeKind::SandboxRoot { "0:0" } else { "0:" };
            assert!(owner.lines().all(|owner| owner.starts_with(expected)), "{owner}");
        }
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}
