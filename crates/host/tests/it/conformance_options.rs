//! What a lease may ask for beyond its share, the same list for every runtime.

use nicompute_host::runtime::{
    ContainerSpec, Limits, Options, RootAccess, RuntimeError, RuntimeKind, Tmpfs, Volume,
};

use crate::support::{Subject, skip};

/// Runtimes that give options. The others say that they give none, which is heard.
async fn givers() -> Vec<Subject> {
    let mut givers = Vec::new();
    for subject in Subject::all().await {
        let environment = vec![("X".to_owned(), "1".to_owned())];
        let options = Options { environment, ..Options::default() };
        let spec = ContainerSpec { options, ..subject.spec() };
        match subject.runtime.ensure(&spec).await {
            Err(RuntimeError::Unsupported { what, .. }) if what.contains("no options") => {
                skip(&what);
            }
            started => {
                started.expect("ensure");
                subject.runtime.remove(spec.lease).await.expect("remove");
                givers.push(subject);
            }
        }
    }
    givers
}

fn volume(name: &str, target: &str, bytes: Option<u64>) -> Volume {
    Volume { name: name.to_owned(), target: target.to_owned(), bytes }
}

/// A renter's values would be cut, changed or run.
#[tokio::test]
async fn environment_is_passed_as_data() {
    const HOSTILE: [&str; 8] = [
        "",
        " a  b ",
        "'\"; touch /root/pwned; echo \"'",
        "$(touch /root/pwned) `touch /root/pwned` ${HOME}",
        "line\nNICOMPUTE_LEASE=forged\n",
        "tab\tback\\slash %s %n \\0 \u{1b}[31m",
        "ünïcödé \u{1f980} \u{feff}",
        "-e --privileged -v /:/host",
    ];
    for subject in givers().await {
        let value = |number: usize, text: &&str| (format!("V{number}"), (*text).to_owned());
        let mut environment: Vec<(String, String)> =
            HOSTILE.iter().enumerate().map(|(number, text)| value(number, text)).collect();
        environment.push(("BIG".to_owned(), "x".repeat(60_000)));
        environment.push(("PATH".to_owned(), "/bin:/usr/bin:/mine".to_owned()));
        let options = Options { environment, ..Options::default() };
        let spec = ContainerSpec { options, ..subject.spec() };
        let inside = subject.start(&spec).await;
        for (number, text) in HOSTILE.iter().enumerate() {
            let said = inside.ok(&format!("printf '%s|' \"$V{number}\"")).await;
            assert_eq!(said, format!("{text}|"), "{:?}", subject.kind());
        }
        assert_eq!(inside.ok("printf %s \"$BIG\" | wc -c").await, "60000");
        assert_eq!(inside.ok("echo $PATH").await, "/bin:/usr/bin:/mine");
        let lease = inside
            .ok("tr '\\0' '|' < /proc/1/environ | tr '\\n' ' ' | tr '|' '\\n' | grep ^NICOMPUTE_");
        assert_eq!(lease.await, format!("NICOMPUTE_LEASE={}", spec.lease));
        inside.refused("ls /root/pwned").await;
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A tenant's data would be gone after a restart, or be there for the next tenant.
#[tokio::test]
async fn volumes_outlive_the_container_and_end_with_the_lease() {
    for subject in givers().await {
        let sized = (subject.kind() != RuntimeKind::SandboxUser).then_some(40 << 20);
        let volumes = vec![
            volume("data", "/data", None),
            volume("deep", "/data/inner/deep", None),
            volume("Sized_1-a", "/srv/sized", sized),
        ];
        let options = Options { volumes, ..Options::default() };
        let spec = ContainerSpec { options, disk_bytes: 160 << 20, ..subject.spec() };
        let inside = subject.start(&spec).await;
        for target in ["/data", "/data/inner/deep", "/srv/sized"] {
            assert_eq!(inside.ok(&format!("ls -A {target} | grep -v inner || true")).await, "");
            inside.ok(&format!("echo kept > {target}/file && chmod 600 {target}/file")).await;
        }
        inside.ok("sync").await;
        match subject.runtime.restart(&spec).await {
            Err(RuntimeError::Unsupported { what, .. }) => skip(&what),
            restarted => {
                restarted.expect("restart");
                let all = "cat /data/file /data/inner/deep/file /srv/sized/file";
                assert_eq!(inside.ok(all).await, "kept\nkept\nkept", "{:?}", subject.kind());
            }
        }
        subject.runtime.remove(spec.lease).await.expect("remove");
        assert!(!spec.dir.exists(), "the volumes are wiped with the lease");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(&spec.lease.to_string()), "{mounts}");
        // The same lease again begins with nothing.
        let inside = subject.start(&spec).await;
        inside.refused("ls /data/file").await;
        inside.refused("ls /srv/sized/file").await;
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A volume of a size would be one in name only, and a full one would fill the lease's disk or the machine's.
#[tokio::test]
async fn sized_volumes_hold() {
    for subject in givers().await {
        let options = Options {
            volumes: vec![volume("small", "/small", Some(32 << 20))],
            ..Options::default()
        };
        let spec = ContainerSpec { options, disk_bytes: 80 << 20, ..subject.spec() };
        if subject.kind() == RuntimeKind::SandboxUser {
            let error = subject.runtime.ensure(&spec).await.expect_err("no disks without root");
            assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
            continue;
        }
        let inside = subject.start(&spec).await;
        let full = inside.refused("head -c 60000000 /dev/zero | cat > /small/full").await;
        assert!(full.contains("No space left"), "{full}");
        inside.ok("rm /small/full && head -c 20000000 /dev/zero | cat > /small/half").await;
        inside.ok("echo fine > /root/fine").await;
        if subject.runtime.limits() == Limits::All {
            // What the volume has is not there a second time.
            let full = inside.refused("head -c 50000000 /dev/zero | cat > /root/full").await;
            assert!(full.contains("No space left"), "{full}");
        }
        subject.runtime.remove(spec.lease).await.expect("remove");
        let greedy =
            Options { volumes: vec![volume("big", "/big", Some(70 << 20))], ..Options::default() };
        let spec = ContainerSpec { options: greedy, disk_bytes: 80 << 20, ..subject.spec() };
        let error = subject.runtime.ensure(&spec).await.expect_err("more than was leased");
        assert!(
            matches!(error, RuntimeError::InvalidSpec { field: "volumes.bytes", .. }),
            "{error}"
        );
    }
}

/// A tenant would write where nothing should be kept, or not where it must, or more than it asked for.
#[tokio::test]
async fn memory_file_systems_and_a_read_only_root() {
    for subject in givers().await {
        let options = Options {
            root: RootAccess::ReadOnly,
            shm_bytes: Some(8 << 20),
            tmpfs: vec![Tmpfs { target: "/scratch".to_owned(), bytes: 4 << 20 }],
            volumes: vec![volume("data", "/data", None)],
            ..Options::default()
        };
        let spec = ContainerSpec { options, ..subject.spec() };
        let inside = subject.start(&spec).await;
        for path in ["/x", "/root/x", "/home/x", "/tmp/x", "/etc/x", "/usr/x", "/var/x", "/bin/x"] {
            inside.refused(&format!("echo x > {path}")).await;
        }
        inside.ok("echo x > /data/x; echo x > /scratch/x; echo x > /run/nicompute/x").await;
        for (file, fits, too_much) in
            [("/dev/shm/x", 7_000_000, 9_000_000), ("/scratch/x", 3_500_000, 5_000_000)]
        {
            inside.ok(&format!("head -c {fits} /dev/zero | cat > {file}")).await;
            let full =
                inside.refused(&format!("head -c {too_much} /dev/zero | cat > {file}")).await;
            assert!(full.contains("No space left"), "{:?} {full}", subject.kind());
            inside.ok(&format!("rm {file}")).await;
        }
        inside.refused("mount -o remount,rw /").await;
        let flags =
            inside.ok("grep ' /data \\| /scratch \\| /dev/shm ' /proc/self/mountinfo").await;
        assert!(flags.lines().all(|line| line.contains("nodev")), "{flags}");
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// A target that leads elsewhere would put a tenant's directory over the machine's files or over the agent's.
#[tokio::test]
async fn targets_stay_in_the_container() {
    for subject in givers().await {
        for target in [
            "/proc/self",
            "/.nicompute",
            "/dev",
            "/etc/x",
            "/../x",
            "/a/../../x",
            "relative",
            "/",
            "/a\0b",
            "/a\nb",
            "/run/nicompute/x",
            "/x:/y",
            "/sys/fs/cgroup",
        ] {
            let volumes = vec![volume("data", target, None)];
            let options = Options { volumes, ..Options::default() };
            let spec = ContainerSpec { options, ..subject.spec() };
            let error = subject.runtime.ensure(&spec).await.expect_err("refused");
            assert!(matches!(error, RuntimeError::InvalidSpec { field: "target", .. }), "{error}");
            subject.runtime.remove(spec.lease).await.expect("remove");
        }
        // What is legal and looks like an order is a name.
        let target = "/$(touch pwned) 'a' \"b\" ;&|<>*?`id` -v --privileged";
        let volumes = vec![volume("-rf", target, None)];
        let spec =
            ContainerSpec { options: Options { volumes, ..Options::default() }, ..subject.spec() };
        let inside = subject.start(&spec).await;
        inside.ok("cd / && cd ./*privileged && echo here > file").await;
        inside.refused("ls /pwned /root/pwned").await;
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}
