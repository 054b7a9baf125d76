//! What runs tenants: the engine, the sandbox, and whether one of them works.

use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{ErrorChain, SharedClock};
use nicompute_host::runtime::docker::{ClassReport, Docker, EngineFacts};
use nicompute_host::runtime::sandbox::Sandbox;
use nicompute_host::runtime::{Rootfs, Runtime};
use nicompute_market::RuntimeClass;

use super::Patient;
use super::finding::{Finding, Level};

/// How long an engine or a first sandbox may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The findings, and the runtime that a node would take.
pub(super) async fn runtimes(patient: &Patient<'_>) -> (Vec<Finding>, Option<Arc<dyn Runtime>>) {
    let wanted = &*patient.args.runtime;
    let (mut of_engine, mut of_sandbox) = (Vec::new(), Vec::new());
    let (mut engine_runtime, mut sandbox_runtime) = (None, None);
    if wanted != "sandbox" {
        (of_engine, engine_runtime) = engine(patient).await;
    }
    if wanted != "docker" {
        let (finding, runtime) = sandbox(patient).await;
        (of_sandbox, sandbox_runtime) = (vec![finding], runtime);
    }
    // The node takes the engine where it works; what is wrong with the one that it does not take is no error.
    match (&engine_runtime, &sandbox_runtime) {
        (Some(_), _) => of_sandbox.iter_mut().for_each(demote),
        (None, Some(_)) => of_engine.iter_mut().for_each(demote),
        (None, None) => {
            let what = "no runtime works here: the node does not start";
            let remedy = "install Docker (apt-get install docker.io), or name an unpacked image with --rootfs";
            of_sandbox.push(Finding::error("runtime", what).remedy(remedy));
        }
    }
    of_engine.append(&mut of_sandbox);
    (of_engine, engine_runtime.or(sandbox_runtime))
}

fn demote(finding: &mut Finding) {
    if finding.level == Level::Error {
        finding.level = Level::Warning;
    }
}

async fn engine(patient: &Patient<'_>) -> (Vec<Finding>, Option<Arc<dyn Runtime>>) {
    const CHECK: &str = "engine";
    let clock = SharedClock::clone(&patient.clock);
    let detect = Box::pin(Docker::detect(patient.runtime_config(), clock));
    let docker = match tokio::time::timeout(LIMIT, detect).await {
        Ok(Ok(docker)) => docker,
        Ok(Err(error)) => {
            let finding = Finding::error(CHECK, ErrorChain(&error).to_string());
            return (vec![finding.remedy(error.remedy())], None);
        }
        Err(_) => {
            let what = format!("the engine did not answer within {} s", LIMIT.as_secs());
            let finding = Finding::error(CHECK, what).remedy("systemctl restart docker");
            return (vec![finding], None);
        }
    };
    let mut findings = of_engine(docker.facts());
    let reports = docker.class_reports().iter();
    findings.extend(reports.filter_map(|(class, report)| of_class(*class, report)));
    findings.push(images(&docker, &patient.args.images).await);
    (findings, Some(Arc::new(docker)))
}

fn of_engine(facts: &EngineFacts) -> Vec<Finding> {
    let EngineFacts { version, storage_driver, has, .. } = facts;
    let mut findings =
        vec![Finding::ok("engine", format!("version {version}, storage {storage_driver}"))];
    findings.push(if has.live_restore {
        Finding::ok("engine.restart", "tenants outlive a restart of the engine")
    } else {
        Finding::warning("engine.restart", "a restart of the engine stops every tenant for a while")
            .remedy("put \"live-restore\": true into /etc/docker/daemon.json, then: systemctl reload docker")
    });
    findings.push(if has.disk_quota {
        Finding::ok("engine.disk", "tenants can be held to their share of the disk")
    } else {
        Finding::warning(
            "engine.disk",
            "the engine cannot hold tenants to their share of the disk by itself",
        )
        .remedy("put the engine's data on XFS mounted with pquota")
    });
    if !has.limits {
        findings.push(
            Finding::error(
                "engine.limits",
                "the engine cannot limit memory, processors and processes",
            )
            .remedy("start the kernel with the cgroup controllers cpu, memory and pids"),
        );
    }
    if !has.seccomp {
        findings.push(
            Finding::error("engine.seccomp", "the engine filters no system calls")
                .remedy("install an engine that is built with seccomp"),
        );
    }
    findings
}

/// The classes of walls, and why those that are installed do not work.
fn of_class(class: RuntimeClass, report: &ClassReport) -> Option<Finding> {
    const CHECK: &str = "engine.classes";
    match (&report.refusal, &report.runtime) {
        (None, _) => Some(Finding::ok(CHECK, format!("{class} works"))),
        // A class that nobody has installed is no finding.
        (Some(_), None) if class != RuntimeClass::Standard => None,
        (Some(refusal), _) => {
            let what = format!("{class} does not work: {}", refusal.what);
            Some(Finding::warning(CHECK, what).remedy(refusal.remedy))
        }
    }
}

async fn images(docker: &Docker, named: &[String]) -> Finding {
    const CHECK: &str = "engine.images";
    if named.is_empty() {
        return Finding::warning(CHECK, "no image was named: nothing could be leased")
            .remedy("name one that the engine has: --image NAME");
    }
    match tokio::time::timeout(LIMIT, docker.images()).await {
        Ok(Ok(images)) if images.is_empty() => {
            Finding::error(CHECK, "the engine has none of the images that were named")
                .remedy(format!("docker pull {}", named.join(" && docker pull ")))
        }
        Ok(Ok(images)) if images.len() < named.len() => {
            Finding::warning(CHECK, format!("the engine has only {}", images.join(", ")))
                .remedy("docker pull what is missing")
        }
        Ok(Ok(images)) => Finding::ok(CHECK, images.join(", ")),
        Ok(Err(error)) => Finding::error(CHECK, ErrorChain(&error).to_string()),
        Err(_) => Finding::error(CHECK, "the engine did not list its images in time"),
    }
}

async fn sandbox(patient: &Patient<'_>) -> (Finding, Option<Arc<dyn Runtime>>) {
    const CHECK: &str = "sandbox";
    let mut config = patient.runtime_config();
    let has_image = config.rootfs.is_some();
    if !has_image {
        if patient.args.runtime == "sandbox" {
            let finding = Finding::error(CHECK, "the sandbox has no image");
            return (finding.remedy("name an unpacked one: --rootfs DIR"), None);
        }
        // What the machine can do is worth knowing also without an image to rent.
        config.rootfs = Some(Rootfs::Host);
    }
    let clock = SharedClock::clone(&patient.clock);
    let detect = Box::pin(Sandbox::detect(config.clone(), clock));
    match tokio::time::timeout(LIMIT, detect).await {
        Ok(Ok(sandbox)) => {
            let kind = sandbox.kind();
            let enforced = if sandbox.limits_enforced() { "enforced" } else { "not enforced" };
            let what = format!("{kind} works, limits are {enforced}");
            let finding = if sandbox.limits_enforced() {
                Finding::ok(CHECK, what)
            } else {
                Finding::warning(CHECK, what).remedy("start the node as root")
            };
            let runtime: Option<Arc<dyn Runtime>> =
                if has_image { Some(Arc::new(sandbox)) } else { None };
            (finding, runtime)
        }
        Ok(Err(error)) => {
            let remedy = error.remedy().to_owned();
            (Finding::error(CHECK, ErrorChain(&error).to_string()).remedy(remedy), None)
        }
        Err(_) => (Finding::error(CHECK, "a first sandbox did not start in time"), None),
    }
}

#[cfg(test)]
mod tests {
    use nicompute_host::runtime::docker::{ClassRefusal, Features};

    use super::*;

    /// An engine that stops all tenants at its next update must be known before the first tenant.
    #[test]
    fn an_engine_is_judged_by_what_tenants_get() {
        let facts = EngineFacts {
            version: "20.10.24".to_owned(),
            storage_driver: "overlay2".to_owned(),
            has: Features { limits: true, seccomp: true, ..Features::default() },
            ..EngineFacts::default()
        };
        let levels = |facts: &EngineFacts| -> Vec<Level> {
            of_engine(facts).iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(&facts), [Level::Ok, Level::Warning, Level::Warning]);
        let good = Features { live_restore: true, disk_quota: true, ..facts.has };
        assert_eq!(levels(&EngineFacts { has: good, ..facts.clone() }), [Level::Ok; 3]);
        let bare = EngineFacts { has: Features::default(), ..facts };
        assert_eq!(levels(&bare)[3..], [Level::Error, Level::Error]);
    }

    /// A class that is installed and does not work would be missed only by its first tenant.
    #[test]
    fn classes_that_are_installed_must_work() {
        let report = |runtime: Option<&str>, what: Option<&str>| ClassReport {
            runtime: runtime.map(str::to_owned),
            refusal: what.map(|what| ClassRefusal { what: what.to_owned(), remedy: "mend it" }),
        };
        let level = |class, report: &ClassReport| of_class(class, report).map(|found| found.level);
        let gvisor = RuntimeClass::Gvisor;
        assert_eq!(level(gvisor, &report(Some("runsc"), None)), Some(Level::Ok));
        assert_eq!(level(gvisor, &report(Some("runsc"), Some("no socket"))), Some(Level::Warning));
        assert_eq!(level(gvisor, &report(None, Some("not installed"))), None);
    }
}
