//! The kernel's and the system's part: what sandboxes and the tenants' network are made of, and the embedded programs.

use std::fs;
use std::path::{Path, PathBuf};

use nicompute_daemon::ErrorChain;

use super::finding::Finding;

/// Where programs lie that root starts.
const PROGRAM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// The cgroup controllers by which tenants are held to their share.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn kernel() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    vec![
        root(),
        user_namespaces(&read("/proc/sys/user/max_user_namespaces")),
        cgroups(&read("/sys/fs/cgroup/cgroup.controllers"), &read("/proc/cgroups")),
        overlay(&read("/proc/filesystems")),
        loops(Path::new("/dev/loop-control")),
    ]
}

fn root() -> Finding {
    const CHECK: &str = "system.root";
    if rustix::process::geteuid().is_root() {
        return Finding::ok(CHECK, "the doctor runs as root, as the node should");
    }
    Finding::warning(
        CHECK,
        "this is not root: limits, disks and networks of tenants cannot be looked at in full",
    )
    .remedy(
        "run both doctor and miner as root, or only with a Docker engine that this user may use",
    )
}

fn user_namespaces(max: &str) -> Finding {
    const CHECK: &str = "system.userns";
    match max.trim().parse::<u64>() {
        Ok(0) => Finding::warning(CHECK, "user namespaces are switched off: no sandbox")
            .remedy("sysctl -w user.max_user_namespaces=65536, and in /etc/sysctl.d"),
        Ok(max) => Finding::ok(CHECK, format!("up to {max} user namespaces")),
        Err(_) => Finding::warning(CHECK, "the kernel has no user namespaces: no sandbox"),
    }
}

/// The unified hierarchy lists its controllers; the old one has a table with a column that says what is switched on.
fn cgroups(unified: &str, table: &str) -> Finding {
    const CHECK: &str = "system.cgroups";
    let in_unified = |name: &str| unified.split_whitespace().any(|known| known == name);
    let in_table = |name: &str| {
        table.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words.as_slice(), [known, _, _, "1"] if *known == name)
        })
    };
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !in_unified(name) && !in_table(name)).collect();
    if missing.is_empty() {
        let version = if unified.trim().is_empty() { "v1" } else { "v2" };
        return Finding::ok(CHECK, format!("{version} with {}", CONTROLLERS.join(", ")));
    }
    Finding::warning(CHECK, format!("the controllers {} are missing", missing.join(", ")))
        .remedy("start the kernel with systemd.unified_cgroup_hierarchy=1")
}

fn overlay(filesystems: &str) -> Finding {
    const CHECK: &str = "system.overlay";
    let has = filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    if has {
        return Finding::ok(CHECK, "overlay file systems can be mounted");
    }
    Finding::warning(CHECK, "the kernel knows no overlay file system yet: no sandbox")
        .remedy("modprobe overlay, and at each start of the machine: /etc/modules-load.d")
}

fn loops(control: &Path) -> Finding {
    const CHECK: &str = "system.loop";
    if control.exists() {
        return Finding::ok(CHECK, "loop devices can be made");
    }
    Finding::warning(CHECK, "there are no loop devices: no disk of a size of its own for tenants")
        .remedy("modprobe loop, and at each start of the machine: /etc/modules-load.d")
}

/// The programs by which tenants get a wire to the outside under our rules.
pub(super) fn network() -> Vec<Finding> {
    [("ip", "iproute2"), ("nft", "nftables")]
        .into_iter()
        .map(|(name, package)| match program(name) {
            Some(path) => Finding::ok("system.network", format!("{name} is {}", path.display())),
            None => Finding::warning(
                "system.network",
                format!("{name} is not installed: tenants get no network of their own"),
            )
            .remedy(format!("apt-get install {package}")),
        })
        .collect()
}

fn program(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// Whether the programs inside this one start here.
pub(super) async fn programs() -> Vec<Finding> {
    const CHECK: &str = "programs";
    match crate::commands::prove::what_provers_see().await {
        Ok((devices, said)) => {
            let mut findings =
                vec![Finding::ok(CHECK, format!("the embedded prover starts and sees {devices}"))];
            if !said.is_empty() {
                findings.push(Finding::ok(CHECK, format!("it says: {said}")));
            }
            findings
        }
        Err(error) => {
            let what =
                format!("the embedded prover does not start: {}", ErrorChain(error.as_ref()));
            let remedy = "set TMPDIR to a folder on a file system that is not mounted noexec";
            vec![Finding::error(CHECK, what).remedy(remedy)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    /// A machine that is called fit and then refuses its first tenant has lost a validator's round.
    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(user_namespaces("0\n").level, Level::Warning);
        assert_eq!(user_namespaces("63000\n").level, Level::Ok);
        assert_eq!(user_namespaces("").level, Level::Warning);
        assert_eq!(cgroups("cpuset cpu io memory pids\n", "").level, Level::Ok);
        let old = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t1\t1\nmemory\t3\t1\t1\npids\t4\t1\t1\n";
        assert_eq!(cgroups("", old).level, Level::Ok);
        assert_eq!(
            cgroups("", &old.replace("memory\t3\t1\t1", "memory\t0\t1\t0")).level,
            Level::Warning
        );
        assert_eq!(cgroups("cpu", "").level, Level::Warning);
        assert_eq!(overlay("nodev\tproc\nnodev\toverlay\n\text4\n").level, Level::Ok);
        assert_eq!(overlay("\text4\n").level, Level::Warning);
        assert_eq!(loops(Path::new("/dev/no-such-node")).level, Level::Warning);
        assert!(program("sh").is_some() && program("no-such-program").is_none());
    }
}
