//! Runtime classes: which of the engine's runtimes stands for which, and whether it works here.
//!
//! A class that is installed is tried once at the start: an image of ours, our agent as its first process, and a socket on
//! which the agent must report under the process number that the engine names. What does not pass is not offered, with its
//! reason; nothing is concluded from a name or a version.

use std::collections::BTreeMap;

use nicompute_market::RuntimeClass;

use super::super::RuntimeError;
use super::{EngineFacts, Maker};

/// Names that installers give to each class's runtime.
const GVISOR: [&str; 2] = ["runsc", "gvisor"];
const KATA: [&str; 6] =
    ["kata", "kata-runtime", "kata-qemu", "kata-clh", "kata-fc", "io.containerd.kata.v2"];
const SYSBOX: [&str; 1] = ["sysbox-runc"];
/// The runtime of the standard class; never the engine's default, which may hand out devices on a variable's word.
const STANDARD: &str = "runc";
/// gVisor's option without which a container reaches no socket of the machine.
const HOST_SOCKETS: &str = "--host-uds=";

/// How a class stands on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassReport {
    /// The engine's runtime that stands for it, where one is installed.
    pub runtime: Option<String>,
    /// Why it is not offered; `None` where it works.
    pub refusal: Option<ClassRefusal>,
}

/// Why a class is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRefusal {
    /// What stands in the way.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Every class with how it stands.
pub(super) type Classes = BTreeMap<RuntimeClass, ClassReport>;

/// The engine's runtime for a class, where one is installed. The standard class may have none by name; then the engine's own
/// choice is taken.
pub(super) fn runtime_of(class: RuntimeClass, facts: &EngineFacts) -> Option<String> {
    let names: &[&str] = match class {
        // Podman ignores the name and takes its own.
        RuntimeClass::Standard if facts.maker == Maker::Podman => &[],
        RuntimeClass::Standard => &[STANDARD],
        RuntimeClass::Gvisor => &GVISOR,
        RuntimeClass::Kata => &KATA,
        RuntimeClass::Sysbox => &SYSBOX,
    };
    names.iter().find(|name| facts.runtimes.contains_key(**name)).map(|name| (*name).to_owned())
}

/// The refusal that is known without a trial.
pub(super) fn refusal_of(class: RuntimeClass, facts: &EngineFacts) -> Option<ClassRefusal> {
    if class == RuntimeClass::Standard {
        return None;
    }
    let Some(runtime) = runtime_of(class, facts) else {
        let what = format!("the engine has no runtime for the class {class}");
        return Some(ClassRefusal { what, remedy: install(class) });
    };
    let args = facts.runtimes.get(&runtime).map(Vec::as_slice).unwrap_or_default();
    let reaches_sockets = |arg: &String| {
        let value = arg.trim_start_matches('-').strip_prefix(HOST_SOCKETS.trim_start_matches('-'));
        matches!(value, Some("open" | "all"))
    };
    // Installed by its shim, its options are in a file of its own and a trial tells.
    if class == RuntimeClass::Gvisor && !args.is_empty() && !args.iter().any(reaches_sockets) {
        let what = format!("{runtime} keeps containers away from the gateway's socket");
        return Some(ClassRefusal { what, remedy: install(class) });
    }
    None
}

/// The refusal that a failed trial gives.
pub(super) fn tried(class: RuntimeClass, error: &RuntimeError) -> ClassRefusal {
    let reason = nicompute_daemon::ErrorChain(error);
    let what = format!("a trial container of the class {class} does not work: {reason}");
    ClassRefusal {
        what,
        remedy: if class == RuntimeClass::Standard { REPAIR } else { install(class) },
    }
}

/// What is said to a lease whose class is not offered.
pub(super) fn refuse(class: RuntimeClass, report: Option<&ClassReport>) -> RuntimeError {
    let refusal = report.and_then(|report| report.refusal.clone());
    let (what, remedy) = refusal.map_or_else(
        || (format!("this node does not offer the class {class}"), "ask for another class"),
        |refusal| (refusal.what, refusal.remedy),
    );
    RuntimeError::Unsupported { what, remedy }
}

const REPAIR: &str = "see the cause; `docker run --rm --network none` must work on this machine";

const fn install(class: RuntimeClass) -> &'static str {
    match class {
        RuntimeClass::Standard => REPAIR,
        RuntimeClass::Gvisor => {
            "install runsc and name it in /etc/docker/daemon.json with runtimeArgs [\"--host-uds=open\"], then restart the engine"
        }
        RuntimeClass::Kata => {
            "Kata's virtual machine does not reach a socket of the host in its usual set-up; lease the class standard or gvisor"
        }
        RuntimeClass::Sysbox => {
            "install sysbox-ce, which adds sysbox-runc to /etc/docker/daemon.json, then restart the engine"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(runtimes: &[(&str, &[&str])]) -> EngineFacts {
        let entry = |(name, args): &(&str, &[&str])| {
            ((*name).to_owned(), args.iter().map(|arg| (*arg).to_owned()).collect())
        };
        EngineFacts { runtimes: runtimes.iter().map(entry).collect(), ..EngineFacts::default() }
    }

    /// A wall that was rented would not be the one that stands: the engine's default instead of the class's runtime.
    #[test]
    fn each_class_has_its_runtime() {
        let all = facts(&[("runc", &[]), ("nvidia", &[]), ("runsc", &[]), ("kata-qemu", &[])]);
        let found = |class| runtime_of(class, &all);
        assert_eq!(found(RuntimeClass::Standard).as_deref(), Some("runc"));
        assert_eq!(found(RuntimeClass::Gvisor).as_deref(), Some("runsc"));
        assert_eq!(found(RuntimeClass::Kata).as_deref(), Some("kata-qemu"));
        assert_eq!(found(RuntimeClass::Sysbox), None);
        let podman = EngineFacts { maker: Maker::Podman, ..all };
        assert_eq!(runtime_of(RuntimeClass::Standard, &podman), None);
    }

    /// A class that is not there would be refused without a word on what to do.
    #[test]
    fn what_is_missing_has_a_remedy() {
        let bare = facts(&[("runc", &[])]);
        assert_eq!(refusal_of(RuntimeClass::Standard, &bare), None);
        for class in [RuntimeClass::Gvisor, RuntimeClass::Kata, RuntimeClass::Sysbox] {
            let refusal = refusal_of(class, &bare).expect("not installed");
            assert!(refusal.what.contains(class.as_str()), "{}", refusal.what);
            let report = ClassReport { runtime: None, refusal: Some(refusal) };
            let error = refuse(class, Some(&report));
            assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()));
        }
        assert!(refuse(RuntimeClass::Kata, None).to_string().contains("kata"));
    }

    /// gVisor without sockets of the host would be offered, and no one ever enter such a lease.
    #[test]
    fn gvisor_needs_the_hosts_sockets() {
        let refused =
            |args: &[&str]| refusal_of(RuntimeClass::Gvisor, &facts(&[("runsc", args)])).is_some();
        assert!(refused(&["--platform=systrap"]));
        assert!(refused(&["--host-uds=none"]));
        assert!(refused(&["--host-uds=create"]));
        assert!(!refused(&["--host-uds=open"]));
        assert!(!refused(&["--platform=systrap", "-host-uds=all"]));
        assert!(!refused(&[]), "its options may stand elsewhere");
    }
}
