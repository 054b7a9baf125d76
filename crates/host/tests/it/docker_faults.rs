//! An engine that is killed, restarted, hung or full under running leases.

use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{Kind, ManualClock, SharedClock, SystemClock};
use nicompute_host::runtime::docker::Docker;
use nicompute_host::runtime::{
    ContainerSpec, ImagePolicy, Options, Presence, PullProgress, Runtime, RuntimeConfig,
    RuntimeError, Volume,
};
use tokio::sync::watch;

use crate::docker::docker;
use crate::docker_registry::{Image, Registry};
use crate::docker_world::{OwnEngine, Way};
use crate::support::{Inside, Node, lives, wait_for};

/// Something that is asked of the engine.
type Call<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), RuntimeError>> + 'a>>;

async fn on(engine: &OwnEngine, node: &Node) -> (Docker, String) {
    let config = RuntimeConfig { docker_socket: Some(engine.socket()), ..node.config.clone() };
    let mut docker = Docker::detect(config, SystemClock::shared()).await.expect("detect");
    let image = docker.build_devnet_image().await.expect("image");
    (docker, image)
}

fn with_volume(node: &Node, image: &str) -> ContainerSpec {
    let volume = Volume { name: "data".to_owned(), target: "/data".to_owned(), bytes: None };
    let options = Options { volumes: vec![volume], ..Options::default() };
    ContainerSpec { options, ..node.spec(image) }
}

/// A restart of the engine would lose a tenant's files, double its container, or end its lease.
#[tokio::test]
async fn leases_outlive_the_engine() {
    let Some(mut engine) = OwnEngine::start(&[], None).await else { return };
    let node = Node::new();
    let (docker, image) = on(&engine, &node).await;
    let spec = with_volume(&node, &image);
    let inside = Inside::listen(&spec);
    docker.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/x; echo kept > /data/x").await;
    for is_killed in [true, false] {
        if is_killed {
            engine.kill();
        } else {
            engine.stop();
        }
        for refused in [
            docker.ensure(&spec).await.map(drop),
            docker.inspect(spec.lease).await.map(drop),
            docker.list().await.map(drop),
            docker.remove(spec.lease).await,
            docker.restart(&spec).await.map(drop),
            docker.images().await.map(drop),
        ] {
            let error = refused.expect_err("there is no engine");
            assert_eq!(error.kind(), Kind::Elsewhere, "{error}");
        }
        assert!(spec.dir.exists(), "no news is no reason to remove anything");
        engine.spawn().await;
        assert_eq!(docker.list().await.expect("list"), [spec.lease]);
        let first = docker.ensure(&spec).await.expect("ensure");
        assert_eq!(docker.ensure(&spec).await.expect("again"), first);
        assert!(lives(first.init_pid));
        assert_eq!(inside.ok("cat /root/x /data/x").await, "kept\nkept");
        assert_eq!(docker.list().await.expect("list"), [spec.lease]);
    }
    // The engine dies in the middle of a removal, at whatever moment.
    tokio::select! {
        biased;
        done = docker.remove(spec.lease) => done.expect("it was faster"),
        () = tokio::time::sleep(Duration::from_millis(20)) => engine.kill(),
    }
    engine.kill();
    engine.spawn().await;
    docker.remove(spec.lease).await.expect("remove");
    assert_eq!(docker.list().await.expect("list"), []);
    assert!(!spec.dir.exists());
    wait_for("the helpers to be gone", || engine.helpers().is_empty()).await;
}

/// An operator who turned live-restore on would see tenants restarted all the same.
#[tokio::test]
async fn live_restore_keeps_processes() {
    let Some(mut engine) = OwnEngine::start(&["--live-restore"], None).await else { return };
    let node = Node::new();
    let (docker, image) = on(&engine, &node).await;
    assert!(docker.facts().has.live_restore);
    let spec = node.spec(&image);
    let inside = Inside::listen(&spec);
    let first = docker.ensure(&spec).await.expect("ensure");
    engine.kill();
    assert!(lives(first.init_pid));
    assert_eq!(inside.ok("echo here").await, "here");
    engine.spawn().await;
    assert_eq!(docker.ensure(&spec).await.expect("ensure"), first);
    docker.remove(spec.lease).await.expect("remove");
    assert!(!lives(first.init_pid));
}

/// A hung engine would hold the whole node up, or be taken for one that has no leases.
#[tokio::test]
async fn a_hung_engine_holds_nothing_up() {
    let node = Node::new();
    let Some((_, image)) = docker(&node).await else { return };
    let way = Way::to("/var/run/docker.sock".into(), &node.config.state_dir);
    let clock = ManualClock::at_unix_ms(1_000);
    let config = RuntimeConfig {
        docker_socket: Some(way.socket.clone()),
        images: vec![image.clone()],
        ..node.config.clone()
    };
    let shared: SharedClock = Arc::<ManualClock>::clone(&clock);
    let docker = Docker::detect(config.clone(), SharedClock::clone(&shared)).await.expect("detect");
    let spec = node.spec(&image);
    let first = docker.ensure(&spec).await.expect("ensure");
    way.hang();
    let in_time = async |call: &mut (dyn Future<Output = Result<(), RuntimeError>> + Unpin)| {
        loop {
            tokio::select! {
                biased;
                done = &mut *call => return done,
                () = tokio::task::yield_now() => clock.advance(Duration::from_secs(1)),
            }
        }
    };
    let progress = watch::Sender::new(PullProgress::default());
    let calls: Vec<Call<'_>> = vec![
        Box::pin(async { docker.ensure(&spec).await.map(drop) }),
        Box::pin(async { docker.restart(&spec).await.map(drop) }),
        Box::pin(async { docker.inspect(spec.lease).await.map(drop) }),
        Box::pin(async { docker.list().await.map(drop) }),
        Box::pin(async { docker.images().await.map(drop) }),
        Box::pin(docker.pause(spec.lease)),
        Box::pin(docker.resume(spec.lease)),
        Box::pin(docker.remove(spec.lease)),
        Box::pin(docker.pull(&image, &progress)),
    ];
    for mut call in calls {
        let error = in_time(&mut call).await.expect_err("nobody answers");
        assert!(matches!(error, RuntimeError::Timeout { .. }), "{error}");
    }
    let mut start: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(async {
        Docker::detect(config.clone(), SharedClock::clone(&shared)).await.map(drop)
    });
    let error = loop {
        tokio::select! {
            biased;
            done = &mut start => break done.expect_err("nobody answers"),
            () = tokio::task::yield_now() => clock.advance(Duration::from_secs(1)),
        }
    };
    assert!(error.to_string().contains("does not answer"), "{error}");
    way.open();
    assert_eq!(docker.ensure(&spec).await.expect("ensure"), first);
    docker.remove(spec.lease).await.expect("remove");
}

/// A container whose helper hangs would stay on the machine, with its GPUs, for ever.
#[tokio::test]
async fn what_the_engine_cannot_end_is_ended() {
    let Some(engine) = OwnEngine::start(&[], None).await else { return };
    let node = Node::new();
    let (docker, image) = on(&engine, &node).await;
    let spec = node.spec(&image);
    let running = docker.ensure(&spec).await.expect("ensure");
    let helpers = engine.helpers();
    assert_eq!(helpers.len(), 1);
    let helper = i32::try_from(helpers[0]).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(helper.expect("pid"), rustix::process::Signal::STOP)
        .expect("stop");
    docker.remove(spec.lease).await.expect("remove");
    assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
    assert!(!lives(running.init_pid) && !lives(helpers[0]));
    assert_eq!(docker.list().await.expect("list"), []);
}

/// A full disk would leave half an image, a container that cannot start, or an error that nobody can act on.
#[tokio::test]
async fn a_full_disk_leaves_nothing() {
    let Some(engine) = OwnEngine::start(&[], Some(24 << 20)).await else { return };
    let node = Node::new();
    let registry = Registry::start().await;
    let (small, large) = (registry.name("small:1"), registry.name("large:1"));
    registry.put("small", "1", &Image::with_file(1 << 20, "small"));
    registry.put("large", "1", &Image::with_file(64 << 20, "large"));
    let image_policy = ImagePolicy {
        allow: vec![registry.name("*").parse().expect("pattern")],
        free_bytes_min: 0,
        ..ImagePolicy::default()
    };
    let config =
        RuntimeConfig { docker_socket: Some(engine.socket()), image_policy, ..node.config.clone() };
    let docker = Docker::detect(config, SystemClock::shared()).await.expect("detect");
    let progress = watch::Sender::new(PullProgress::default());
    let error = docker.pull(&large, &progress).await.expect_err("no room");
    assert!(matches!(error, RuntimeError::NoSpace { .. }), "{error}");
    assert!(error.remedy().is_some());
    assert_eq!(docker.images().await.expect("images"), Vec::<String>::new());
    docker.pull(&small, &progress).await.expect("a smaller one fits: nothing was left");
    let fill = std::fs::write(engine.store().join("fill"), vec![1; 32 << 20]);
    fill.expect_err("it is full now");
    let spec = node.spec(&small);
    let error = docker.ensure(&spec).await.expect_err("no room");
    assert!(matches!(error, RuntimeError::NoSpace { .. }), "{error}");
    assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
    std::fs::remove_file(engine.store().join("fill")).expect("remove");
    docker.ensure(&spec).await.expect("ensure");
    docker.remove(spec.lease).await.expect("remove");
}
