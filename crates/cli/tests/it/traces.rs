//! What a lease may leave on a machine, found from outside: nothing of the product is asked.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nicompute_market::{Hotkey, LeaseId};

use crate::renting::judge;
use crate::world::{program, wait_for};

/// Everything on this machine that still names the lease.
pub(crate) fn of_lease(state_dir: &Path, lease: LeaseId, engine: Option<&Path>) -> Vec<String> {
    let name = lease.to_string();
    let mut left = Vec::new();
    if state_dir.join("leases").join(&name).exists() {
        left.push("folder".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned));
    let seen = of_files(&[("environ", &name), ("cgroup", &name), ("mountinfo", &name)]);
    left.extend(seen.iter().map(|pid| format!("process {pid}")));
    for device in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if file.contains(&name) {
            left.push(format!("{} of {}", device.path().display(), file.trim()));
        }
    }
    let links = said("ip", &["link", "show"]);
    left.extend(links.lines().filter(|line| line.contains(&name)).map(str::to_owned));
    left.extend(groups(&name));
    let shared = judge("NICOMPUTE_TEST_DOCKER");
    if let Some(socket) = engine.or(shared.as_deref()) {
        let containers = ask(socket, "/containers/json?all=1");
        if containers.contains(&name) {
            left.push(format!("container in {containers}"));
        }
    }
    left
}

/// Rules, routes and links of the node itself.
pub(crate) fn of_node(hotkey: Hotkey) -> Vec<String> {
    let label = label(hotkey);
    let short = &label[..6];
    // The node's place among the machine's routing rules.
    let place = 20_000 + u32::from_str_radix(&label[..8], 16).unwrap() % 10_000;
    let mut left = Vec::new();
    for (name, args) in [
        ("nft", &["list", "tables"][..]),
        ("iptables", &["-S", "FORWARD"]),
        ("ip", &["route", "show"]),
        ("ip", &["-4", "rule", "show"]),
        ("ip", &["link", "show"]),
    ] {
        let names = |line: &&str| {
            let is_named = line.contains(&label) || line.contains(&format!("n{short}-"));
            is_named || line.starts_with(&format!("{place}:"))
        };
        left.extend(said(name, args).lines().filter(names).map(str::to_owned));
    }
    left
}

/// Processes of the lease itself, to be killed as a loss of power does it: those that carry the lease in their environment
/// and have a mount namespace of their own. No process of the machine is ever one of them, whatever it sees of a lease.
pub(crate) fn processes(lease: LeaseId) -> Vec<u32> {
    let mark = format!("NICOMPUTE_LEASE={lease}");
    let place = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let machines = [place("self"), place("1")];
    let mut found = of_files(&[("environ", &mark)]);
    found.retain(|pid| {
        let its = place(&pid.to_string());
        its.is_some() && !machines.contains(&its)
    });
    found
}

fn of_files(marks: &[(&str, &str)]) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        marks.iter().any(|(file, mark)| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(mark)
        })
    })
    .collect()
}

/// Waits until neither lease nor node left anything.
pub(crate) fn wait_until_gone(
    state_dir: &Path,
    lease: LeaseId,
    hotkey: Hotkey,
    engine: Option<&Path>,
) {
    let mut last = Vec::new();
    let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("a clean machine", || {
            last = of_lease(state_dir, lease, engine);
            last.extend(of_node(hotkey));
            last.is_empty().then_some(())
        });
    }));
    assert!(gone.is_ok(), "left: {last:#?}");
}

/// The digest of the node by which its rules are labelled.
fn label(hotkey: Hotkey) -> String {
    let mut digest = program("sha256sum");
    digest.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = digest.spawn().unwrap();
    child.stdin.take().unwrap().write_all(hotkey.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..16].to_owned()
}

fn groups(name: &str) -> Vec<String> {
    let mut left = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(name) {
                    left.push(entry.path().display().to_string());
                }
                folders.push(entry.path());
            }
        }
    }
    left
}

fn said(name: &str, args: &[&str]) -> String {
    let output = program(name).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A plain question to an engine.
pub(crate) fn ask(socket: &Path, path: &str) -> String {
    let mut engine = UnixStream::connect(socket).unwrap();
    let question = format!("GET {path} HTTP/1.0\r\nhost: docker\r\n\r\n");
    engine.write_all(question.as_bytes()).unwrap();
    let mut answer = String::new();
    engine.read_to_string(&mut answer).unwrap();
    answer
}
