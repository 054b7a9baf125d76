//! Kill -9 of the process that drives a runtime, at a list of moments of every act, for every runtime: whoever comes after it
//! finds one container or none, can go on, and can remove it so that nothing is left.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nicompute_host::runtime::{ContainerSpec, Presence, RuntimeKind};

use crate::sandbox_crash::{nothing_is_left, processes_of};
use crate::support::{
    ASKED_MAX, LIMIT, OCI_IMAGE, Subject, example, helper, is_root, skip, wait_for,
};

/// Moments of each act, evenly over the time that it takes when nobody kills it.
const MOMENTS: u32 = 9;
const MOMENTS_DOCKER: u32 = 4;

/// Begins an act in a process of its own.
fn begin(subject: &Subject, act: &str, spec: &ContainerSpec) -> Child {
    let kind = if subject.kind() == RuntimeKind::Docker { "docker" } else { "sandbox" };
    let config = &subject.node.config;
    #[expect(clippy::disallowed_methods, reason = "the driver is a program")]
    let mut driver = Command::new(example("drive"));
    driver.args([kind, act, &spec.lease.to_string(), &spec.image]);
    driver.args([&spec.agent, &config.state_dir]).arg(&config.node_id).arg(helper());
    driver.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    driver.spawn().expect("start")
}

/// Lets an act end, and tells how long it took.
async fn whole(subject: &Subject, act: &str, spec: &ContainerSpec) -> Option<Duration> {
    #[expect(clippy::disallowed_methods, reason = "a test measures")]
    let start = Instant::now();
    let mut child = begin(subject, act, spec);
    let mut ended = None;
    wait_for("the driver", || {
        ended = child.try_wait().expect("wait");
        ended.is_some()
    })
    .await;
    ended.is_some_and(|status| status.success()).then(|| start.elapsed())
}

/// A node killed in the middle of any act would leave half a container, two of them, or something on the machine for ever.
#[tokio::test]
async fn whoever_drives_dies_at_any_moment() {
    for subject in Subject::all().await {
        if subject.image == OCI_IMAGE {
            // The driver has the machine as its image; the steps are the same.
            continue;
        }
        let moments = if subject.kind() == RuntimeKind::Docker { MOMENTS_DOCKER } else { MOMENTS };
        for act in ["ensure", "ensure-volumes", "pause", "restart", "remove"] {
            if act == "ensure-volumes" && !is_root() {
                continue;
            }
            die_at_every_moment(&subject, act, moments).await;
        }
        for lease in subject.runtime.list().await.expect("list") {
            assert_eq!(subject.kind(), RuntimeKind::Docker, "{lease}");
            subject.remove_at_last(lease).await;
        }
        assert_eq!(subject.runtime.list().await.expect("list"), []);
    }
}

async fn die_at_every_moment(subject: &Subject, act: &str, moments: u32) {
    let spec = ContainerSpec { disk_bytes: 80 << 20, ..subject.spec() };
    if !act.starts_with("ensure") {
        subject.runtime.ensure(&spec).await.expect("ensure");
    }
    let Some(time) = whole(subject, act, &spec).await else {
        skip(&format!("{act} does not work on {:?}", subject.kind()));
        subject.runtime.remove(spec.lease).await.expect("remove");
        return;
    };
    subject.runtime.remove(spec.lease).await.expect("remove");
    nothing_is_left(&spec).await;
    for moment in 0..=moments {
        let spec = ContainerSpec { disk_bytes: 80 << 20, ..subject.spec() };
        if !act.starts_with("ensure") {
            subject.runtime.ensure(&spec).await.expect("ensure");
        }
        let mut child = begin(subject, act, &spec);
        tokio::time::sleep((time * moment / moments).min(LIMIT)).await;
        child.kill().expect("kill");
        child.wait().expect("reap");
        if moment % 2 == 0 {
            go_on(subject, act, &spec).await;
        }
        subject.remove_at_last(spec.lease).await;
        if subject.kind() == RuntimeKind::Docker {
            // The engine goes on with an order whose sender is dead; what comes of it is swept below.
            continue;
        }
        nothing_is_left(&spec).await;
        assert!(!subject.runtime.list().await.expect("list").contains(&spec.lease), "{act}");
        let presence = subject.runtime.inspect(spec.lease).await.expect("inspect");
        assert_eq!(presence, Presence::Absent, "{act}");
    }
    // What the reconciler does: whatever is there and is not wanted goes away.
    for lease in subject.runtime.list().await.expect("list") {
        subject.remove_at_last(lease).await;
        wait_for("the processes to be gone", || processes_of(lease).is_empty()).await;
    }
}

/// A new node goes on with whatever is there, and has exactly one container in the end. One that was told to die when its
/// driver was killed may be found alive once more: the reconciler asks again, and so does this.
async fn go_on(subject: &Subject, act: &str, spec: &ContainerSpec) {
    for _ in 0..ASKED_MAX {
        let (one, two) = tokio::join!(subject.ensure_at_last(spec), subject.ensure_at_last(spec));
        match subject.runtime.inspect(spec.lease).await.expect("inspect") {
            Presence::Paused { .. } => {
                subject.runtime.resume(spec.lease).await.expect("resume");
            }
            Presence::Running { init_pid } if one == two && one.init_pid == init_pid => {
                let found = processes_of(spec.lease);
                assert!(found.len() <= 1 || subject.kind() == RuntimeKind::Docker, "{found:?}");
                if found == [init_pid] {
                    return;
                }
            }
            Presence::Running { .. } | Presence::Exited | Presence::Absent => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        processes_of(spec.lease).len() == 1,
        "no container of {:?} after {act}",
        subject.kind()
    );
}
