//! Names from outside that want to be more than names, the same list for every runtime.

use nicompute_daemon::Kind;
use nicompute_host::runtime::{ContainerSpec, Presence, RuntimeError};

use crate::support::Subject;

/// A name of an image would be run, be looked for in a registry, or reach a file of the machine.
#[tokio::test]
async fn image_names_are_data() {
    for subject in Subject::all().await {
        for image in [
            "no-such-image:0",
            "",
            " ",
            "/",
            "/etc",
            "..",
            "../../etc",
            "host/../../etc",
            "$(touch /tmp/pwned)",
            "`id`",
            "a;b",
            "a\nb",
            "a\0b",
            "-v",
            "--privileged",
            "name@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "127.0.0.1:1/name:tag",
            &"x".repeat(256),
            &"a/".repeat(5_000),
        ] {
            let spec = ContainerSpec { image: image.to_owned(), ..subject.spec() };
            let error = subject.runtime.ensure(&spec).await.expect_err("refused");
            assert_eq!(error.kind(), Kind::Caller, "{image:?}: {error}");
            let presence = subject.runtime.inspect(spec.lease).await.expect("inspect");
            assert_eq!(presence, Presence::Absent);
            subject.runtime.remove(spec.lease).await.expect("remove");
        }
    }
}

/// A lease's directory would be somebody else's, and be wiped at the lease's end.
#[tokio::test]
async fn directories_are_the_lease_s_own() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let relative = ContainerSpec { dir: "leases/x".into(), ..spec.clone() };
        let error = subject.runtime.ensure(&relative).await.expect_err("refused");
        assert!(matches!(error, RuntimeError::InvalidSpec { field: "dir", .. }), "{error}");
        // A directory that is a link is not followed when it is wiped.
        let bait = tempfile::TempDir::new().expect("bait");
        std::fs::write(bait.path().join("precious"), "x").expect("write");
        std::fs::create_dir_all(spec.dir.parent().expect("leases")).expect("leases");
        std::os::unix::fs::symlink(bait.path(), &spec.dir).expect("link");
        let removed = subject.runtime.remove(spec.lease).await;
        assert!(bait.path().join("precious").exists(), "{:?} {removed:?}", subject.kind());
        std::fs::remove_file(&spec.dir).unwrap_or(());
    }
}

/// What a tenant leaves in its directory's reach would be followed when the lease is wiped.
#[tokio::test]
async fn a_tenant_s_links_are_wiped_not_followed() {
    for subject in Subject::all().await {
        let bait = tempfile::TempDir::new().expect("bait");
        let target = bait.path().join("precious");
        std::fs::write(&target, "x").expect("write");
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        let dir = bait.path().display();
        inside
            .ok(&format!("cd /root; ln -s {dir} a; ln -s / b; mkdir -p d/d; ln -s {dir} d/d/e"))
            .await;
        inside.ok("cd /root; i=0; while [ $i -lt 60 ]; do mkdir deep && cd deep; i=$((i+1)); done; : > 'a b\"c'").await;
        subject.runtime.remove(spec.lease).await.expect("remove");
        assert!(target.exists());
        assert!(!spec.dir.exists());
    }
}
