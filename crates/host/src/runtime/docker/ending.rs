//! The end of a container, also of one that the engine cannot end.
//!
//! An engine asks its helper beside the container, which asks the kernel; each of them can hang. Thousands of processes
//! that share a fraction of a core need minutes to die, since dying takes processor time too. What the engine does not
//! manage is done here in the same order: first the container is given all cores and its first process is killed, whose end
//! takes all others with it, then the engine's helper. Both are found by the container's own id, never by a name that a
//! tenant may choose.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerUpdateBody, Volume};
use bollard::query_parameters::{
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder,
    StopContainerOptionsBuilder,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::super::RuntimeError;
use super::engine::{ASK, Engine, says, status};

/// Longest time for the engine to end a container by itself; it waits ten seconds for the kernel and asks again.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Attempts: the engine's own, one after the first process was killed, one after the helper was.
const ATTEMPTS_MAX: u32 = 3;
/// Longest time for a removal that another client has begun.
const OTHERS: Duration = Duration::from_secs(30);
/// Billionths of a core, in which engines count.
const NANO: i64 = 1_000_000_000;
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);
/// Bytes of a process's command line and groups that are looked at.
const PROC_BYTES_MAX: u64 = 64 << 10;
/// The engine's helper beside each container.
const HELPER: &str = "containerd-shim";

/// Removes a container with its volumes and waits until it is gone.
pub(super) async fn remove(
    engine: &Engine,
    name: &str,
    found: &ContainerInspectResponse,
) -> Result<(), RuntimeError> {
    let mut last = None;
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 || init_pid(found).is_some() {
            help(engine, name, found, attempt).await;
        }
        match attempt_removal(engine, name).await {
            Ok(()) => return Ok(()),
            // An engine that is not there cannot be helped by ending its processes.
            Err(error) if !is_stubborn(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(name, attempt, %error, "a container does not end");
                last = Some(error);
            }
        }
    }
    let init_pid = init_pid(found).filter(|pid| is_of(*pid, container_id(found)));
    match (init_pid, last) {
        (Some(init_pid), _) => Err(RuntimeError::Unkillable { name: name.to_owned(), init_pid }),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(()),
    }
}

/// Ends every process of a container that runs, after some seconds in which they may end by themselves. It has all cores
/// afterwards; whoever starts it again holds it to its share.
pub(super) async fn stop(
    engine: &Engine,
    name: &str,
    found: &ContainerInspectResponse,
    grace_s: i32,
) -> Result<(), RuntimeError> {
    let mut attempt = 0;
    help(engine, name, found, attempt).await;
    loop {
        let options = StopContainerOptionsBuilder::default().t(grace_s).build();
        let stopping = engine.client.stop_container(name, Some(options));
        match engine.within("stopping a container", ATTEMPT, stopping).await {
            // It has ended by itself.
            Err(error) if matches!(status(&error), Some(304 | 404)) => return Ok(()),
            Err(error) if is_stubborn(&error) && attempt + 1 < ATTEMPTS_MAX => {
                tracing::warn!(name, attempt, %error, "a container does not end");
                attempt += 1;
                help(engine, name, found, attempt).await;
            }
            stopped => return stopped,
        }
    }
}

async fn help(engine: &Engine, name: &str, found: &ContainerInspectResponse, attempt: u32) {
    match attempt {
        0 => {
            let all = i64::from(engine.cores).saturating_mul(NANO);
            if let Err(error) = give_cores(engine, name, all).await {
                tracing::debug!(name, %error, "a container's share cannot be changed");
            }
        }
        1 => kill_first_process(found),
        _ => kill_helper(found),
    }
}

/// Changes how much processor time a container has.
pub(super) async fn give_cores(
    engine: &Engine,
    name: &str,
    nano_cpus: i64,
) -> Result<(), RuntimeError> {
    let body = ContainerUpdateBody { nano_cpus: Some(nano_cpus), ..ContainerUpdateBody::default() };
    let update = engine.client.update_container(name, body);
    engine.within("changing a container's share", ASK, update).await
}

/// Removes one volume of the engine's. What is not there is removed.
pub(super) async fn remove_volume(engine: &Engine, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveVolumeOptionsBuilder::default().force(true).build();
    let removal = engine.client.remove_volume(name, Some(options));
    match engine.within("removing a volume", ASK, removal).await {
        Err(error) if status(&error) == Some(404) => Ok(()),
        removed => removed,
    }
}

/// The engine's volumes with a label, and all labels of each.
pub(super) async fn volumes(
    engine: &Engine,
    label: String,
) -> Result<HashMap<String, HashMap<String, String>>, RuntimeError> {
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
    let listing = engine.client.list_volumes(Some(options));
    let found = engine.within("listing volumes", ASK, listing).await?;
    Ok(labelled(found.volumes.unwrap_or_default()))
}

/// As many as containers are looked at, and as an image may declare for each: those of the whole node, not of one lease.
fn labelled(volumes: Vec<Volume>) -> HashMap<String, HashMap<String, String>> {
    let volumes = volumes.into_iter().take(super::LISTED_MAX * super::request::IMAGE_VOLUMES_MAX);
    volumes.map(|volume| (volume.name, volume.labels)).collect()
}

async fn attempt_removal(engine: &Engine, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let start = engine.clock.monotonic();
    loop {
        let removal = engine.client.remove_container(name, Some(options.clone()));
        match engine.within("removing a container", ATTEMPT, removal).await {
            Ok(()) => return Ok(()),
            Err(error) if status(&error) == Some(404) => return Ok(()),
            // Another client's removal is under way, or an earlier one of ours.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(error),
        }
        if engine.clock.monotonic().saturating_sub(start) > OTHERS {
            let limit_s = OTHERS.as_secs();
            return Err(RuntimeError::Timeout { act: "removing a container", limit_s });
        }
        engine.clock.sleep(POLL).await;
    }
}

/// Whether the engine is there and does not manage it.
fn is_stubborn(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::Timeout { .. })
        || says(error, "kill")
        || says(error, "could not stop")
        || says(error, "exit event")
}

fn container_id(found: &ContainerInspectResponse) -> &str {
    found.id.as_deref().unwrap_or_default()
}

fn init_pid(found: &ContainerInspectResponse) -> Option<u32> {
    let pid = found.state.as_ref()?.pid?;
    u32::try_from(pid).ok().filter(|pid| *pid > 1)
}

fn kill_first_process(found: &ContainerInspectResponse) {
    if let Some(pid) = init_pid(found) {
        kill_if(pid, |pid| is_of(pid, container_id(found)));
    }
}

fn kill_helper(found: &ContainerInspectResponse) {
    let id = container_id(found);
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| is_helper_of(*pid, id)) {
        kill_if(pid, |pid| is_helper_of(pid, id));
    }
}

/// Kills a process that is still what it was when its descriptor was opened, so that a number that is used again is not hit.
fn kill_if(pid: u32, is_it: impl Fn(u32) -> bool) {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return };
    if is_it(pid) {
        let sent = pidfd_send_signal(&process, Signal::KILL);
        tracing::warn!(pid, sent = sent.is_ok(), "killed what the engine could not end");
    }
}

/// Whether a process is in the control groups of a container. The id has 64 digits, which no tenant can choose.
fn is_of(pid: u32, id: &str) -> bool {
    is_id(id) && read(pid, "cgroup").is_some_and(|groups| groups.contains(id))
}

/// Whether a process is the engine's helper of a container. A tenant's process is turned away before its command line is
/// read: whoever reads that waits for the process, which its tenant can draw out.
fn is_helper_of(pid: u32, id: &str) -> bool {
    let of_us = |what: &str| fs::read_link(format!("/proc/{what}/ns/pid")).ok();
    let (theirs, ours) = (of_us(&pid.to_string()), of_us("self"));
    if theirs.is_none() || theirs != ours {
        return false;
    }
    let named = read(pid, "comm").is_some_and(|comm| comm.starts_with("containerd-shi"));
    if !named {
        return false;
    }
    let Some(line) = is_id(id).then(|| read(pid, "cmdline")).flatten() else { return false };
    let mut words = line.split('\0');
    let is_helper = words.next().is_some_and(|program| program.contains(HELPER));
    let own = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(format!("/proc/{pid}"))
        .is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == own);
    is_helper && owner && words.any(|word| word == id)
}

fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read(pid: u32, file: &str) -> Option<String> {
    let mut text = Vec::new();
    let opened = fs::File::open(format!("/proc/{pid}/{file}")).ok()?;
    opened.take(PROC_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a lease left behind would be hidden by the volumes of a hundred others, and stay.
    #[test]
    fn the_volumes_of_many_leases_are_seen() {
        let volume = |number| Volume { name: format!("v{number}"), ..Volume::default() };
        assert_eq!(labelled((0..5_000).map(volume).collect()).len(), 5_000);
    }

    /// A process of the machine would be killed because a tenant, or an engine that lies, named it.
    #[test]
    fn only_a_containers_own_processes_are_found() {
        let here = std::process::id();
        assert!(!is_of(here, ""));
        assert!(!is_of(here, "/"));
        assert!(!is_of(here, &"a".repeat(64)));
        assert!(!is_helper_of(here, &"a".repeat(64)));
        let with = |pid: i64| ContainerInspectResponse {
            id: Some("a".repeat(64)),
            state: Some(bollard::models::ContainerState {
                pid: Some(pid),
                ..bollard::models::ContainerState::default()
            }),
            ..ContainerInspectResponse::default()
        };
        for pid in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(init_pid(&with(pid)), None, "{pid}");
        }
        // This very process is named and is no container's: it is still here afterwards.
        kill_first_process(&with(i64::from(here)));
        kill_helper(&with(i64::from(here)));
        assert_eq!(init_pid(&with(i64::from(here))), Some(here));
    }
}
