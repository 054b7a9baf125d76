//! What this machine has for containers, and what its process table says of them.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::super::disk;
use super::SandboxError;
use super::cgroup::Layout;
use super::process::{self, ProcessId};

/// What root has at hand.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) cgroups: Layout,
    pub(super) mkfs: PathBuf,
}

pub(super) fn find_root() -> Result<Root, SandboxError> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| SandboxError::Cgroups(Box::new(error)))?;
    let cgroups =
        Layout::discover(&mountinfo).map_err(|error| SandboxError::Cgroups(Box::new(error)))?;
    let mkfs = disk::find_mkfs().map_err(|_| SandboxError::NoMkfs)?;
    Ok(Root { cgroups, mkfs })
}

/// Names the switch that is off; the trial would only say that something is not permitted.
pub(super) fn userns_allowed(root: Option<&Root>) -> Result<(), SandboxError> {
    let says =
        |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if says("/proc/sys/user/max_user_namespaces", "0") {
        return Err(SandboxError::NoUserns { sysctl: "user.max_user_namespaces is 0" });
    }
    if root.is_none() && says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return Err(SandboxError::NoUserns { sysctl: "kernel.unprivileged_userns_clone is 0" });
    }
    Ok(())
}

/// Whether a process stands still: stopped, held by a tracer that is stopped itself, or asleep in the kernel with the
/// order to stop before it. The last is a parent whose child was stopped between `vfork` and `exec`.
pub(super) fn is_stopped(process: ProcessId, state: char) -> bool {
    matches!(state, 'T' | 't') || (state == 'D' && process.stop_pending())
}

/// The process and all its descendants, with their states. In a process namespace everything descends from the first.
pub(super) fn family(init: ProcessId) -> io::Result<Vec<(ProcessId, char)>> {
    let all = process::all()?;
    let mut members = match init.stat()? {
        Some(stat) => vec![(init, stat.state)],
        None => return Ok(Vec::new()),
    };
    let mut next = 0;
    while let Some((parent, _)) = members.get(next).copied() {
        let children = all.iter().filter(|(_, stat)| stat.parent == parent.pid);
        members.extend(children.map(|(pid, stat)| {
            (ProcessId { pid: *pid, start_ticks: stat.start_ticks }, stat.state)
        }));
        next += 1;
    }
    Ok(members)
}
