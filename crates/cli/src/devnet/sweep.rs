//! Nothing may be left of a released lease: no container, no process, no mount, no folder.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nicompute_daemon::SystemClock;
use nicompute_host::runtime::{Rootfs, detect};
use nicompute_market::{Hotkey, LeaseId};

use crate::commands::miner;
use crate::exit::{Exit, Failure};

/// How long a provider may take to sweep.
const SWEEP_MAX: Duration = Duration::from_secs(15);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(50);
/// The mount table is read up to this size.
const MOUNTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Waits until nothing on this machine names the lease any more, or says what does.
pub(crate) async fn wait_until_gone(dir: &Path, lease: LeaseId) -> anyhow::Result<()> {
    let mut left = remains(dir, lease);
    let until = tokio::time::Instant::now() + SWEEP_MAX;
    while !left.is_empty() && tokio::time::Instant::now() < until {
        tokio::time::sleep(POLL).await;
        left = remains(dir, lease);
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("left of lease {lease}: {}", left.join(", "))).into())
}

/// Asks the runtime itself, as the node does at its start, whether it still has anything of the lease: a stopped container has
/// no process and no mount, and would not be seen otherwise.
pub(crate) async fn runtime_has_nothing(
    dir: &Path,
    (node, hotkey): (&str, Hotkey),
    runtime: &str,
    lease: LeaseId,
) -> anyhow::Result<()> {
    let config = miner::runtime_config(hotkey, dir.join(node), Some(Rootfs::Host));
    let clock = SystemClock::shared();
    let runtime = Box::pin(detect(miner::choice(runtime), &config, &clock)).await?;
    if runtime.list().await?.contains(&lease) {
        let what = format!("the runtime still has a container of lease {lease}");
        return Err(Failure::new(Exit::Failed, what).into());
    }
    Ok(())
}

/// What is left of any lease or daemon below a market's folder once all its daemons have ended.
pub(crate) fn remains_of_market(dir: &Path) -> Vec<String> {
    // With its end, so that a neighbour with a longer name is not taken for it.
    let name = format!("{}/", dir.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts =
        mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}"));
    let daemon = format!("--state-dir\0{name}");
    let daemons = processes(&["cmdline"], &daemon);
    mounts.chain(daemons).chain(processes(&["mountinfo"], &name)).collect()
}

/// What still names the lease: folders, mounts, processes.
pub(crate) fn remains(dir: &Path, lease: LeaseId) -> Vec<String> {
    let name = lease.to_string();
    let mut left = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let folder = entry.path().join("leases").join(&name);
        if folder.exists() {
            left.push(format!("folder {}", folder.display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts.get(..mounts.len().min(MOUNTS_BYTES_MAX)).unwrap_or_default();
    left.extend(
        mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")),
    );
    left.extend(processes(&["cgroup", "environ", "mountinfo"], &name));
    left
}

/// Other processes of which one of these files under `/proc/<id>` has the text.
fn processes(files: &[&str], text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if id == own || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let path = entry.path();
        let has_text = |file: &&str| {
            let bytes = fs::read(path.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        if files.iter().any(has_text) {
            let command = fs::read_to_string(path.join("comm")).unwrap_or_default();
            left.push(format!("process {id} ({})", command.trim()));
        }
    }
    left
}
