//! The promises of `Runtime`, held against every implementation: the fake always, the others where the machine lets them.

use nicompute_daemon::Kind;
use nicompute_host::runtime::sandbox::HOST_IMAGE;
use nicompute_host::runtime::{
    ContainerSpec, FakeMachine, FakeRuntime, Presence, Runtime, RuntimeError,
};

use crate::docker::docker;
use crate::support::{Node, lives, sandbox};

/// The fake is what other rooms trust: if it breaks a promise, their tests prove nothing.
#[tokio::test]
async fn the_fake_keeps_the_promises() {
    let node = Node::new();
    let fake = FakeRuntime::new(node.config.clone(), FakeMachine::new());
    let again = FakeRuntime::new(node.config.clone(), FakeMachine::new());
    promises(&fake, &node.spec("fake"), |_| true).await;
    let machine = FakeMachine::new();
    machine.give_no_gpus();
    let without = FakeRuntime::new(node.config.clone(), machine);
    promises(&without, &node.spec("fake"), |_| true).await;
    let spec = node.spec("fake");
    fake.ensure(&spec).await.expect("ensure");
    assert_eq!(again.list().await.expect("list"), [], "another machine");
}

/// The embedded runtime would lose, double or leak a rental.
#[tokio::test]
async fn the_sandbox_keeps_the_promises() {
    let node = Node::new();
    if let Some(sandbox) = sandbox(&node).await {
        assert!(!sandbox.gives_gpus());
        promises(&sandbox, &node.spec(HOST_IMAGE), lives).await;
    }
}

/// The engine would lose, double or leak a rental.
#[tokio::test]
async fn docker_keeps_the_promises() {
    let node = Node::new();
    if let Some((docker, image)) = docker(&node).await {
        promises(&docker, &node.spec(&image), lives).await;
    }
}

/// Runs one container through everything that a lease can go through.
async fn promises(runtime: &dyn Runtime, spec: &ContainerSpec, lives: impl Fn(u32) -> bool) {
    let lease = spec.lease;
    assert_eq!(runtime.inspect(lease).await.expect("inspect"), Presence::Absent);
    assert!(!runtime.list().await.expect("list").contains(&lease));
    runtime.remove(lease).await.expect("removing nothing succeeds");
    for act in [runtime.pause(lease), runtime.resume(lease)] {
        assert!(matches!(act.await, Err(RuntimeError::NotRunning { .. })));
    }
    assert!(runtime.images().await.expect("images").contains(&spec.image));
    refusals(runtime, spec).await;

    let first = runtime.ensure(spec).await.expect("ensure");
    assert!(lives(first.init_pid));
    let running = Presence::Running { init_pid: first.init_pid };
    assert_eq!(runtime.inspect(lease).await.expect("inspect"), running);
    assert_eq!(runtime.list().await.expect("list"), [lease]);
    let second = runtime.ensure(spec).await.expect("ensure again");
    assert_eq!(first, second, "the same container is adopted");
    let newer = ContainerSpec { generation: spec.generation + 1, ..spec.clone() };
    assert_eq!(runtime.ensure(&newer).await.expect("a later generation adopts"), first);
    let older = ContainerSpec { generation: spec.generation - 1, ..spec.clone() };
    let refused = runtime.ensure(&older).await.expect_err("an earlier generation is refused");
    assert!(matches!(refused, RuntimeError::Superseded { .. }), "{refused}");

    let paused = Presence::Paused { init_pid: first.init_pid };
    for _ in 0..2 {
        runtime.pause(lease).await.expect("pause");
        assert_eq!(runtime.inspect(lease).await.expect("inspect"), paused);
    }
    assert_eq!(runtime.ensure(spec).await.expect("ensure"), first);
    assert_eq!(runtime.inspect(lease).await.expect("inspect"), paused, "a paused one stays so");
    for _ in 0..2 {
        runtime.resume(lease).await.expect("resume");
        assert_eq!(runtime.inspect(lease).await.expect("inspect"), running);
    }
    runtime.pause(lease).await.expect("pause");
    for _ in 0..2 {
        runtime.remove(lease).await.expect("remove, also when paused, also twice");
        assert_eq!(runtime.inspect(lease).await.expect("inspect"), Presence::Absent);
    }
    assert!(!runtime.list().await.expect("list").contains(&lease));
    assert!(!spec.dir.exists(), "the lease's directory is gone");
}

async fn refusals(runtime: &dyn Runtime, spec: &ContainerSpec) {
    if !runtime.gives_gpus() {
        let spec = ContainerSpec { gpus: vec!["GPU-0".to_owned()], ..spec.clone() };
        let error = runtime.ensure(&spec).await.expect_err("refused");
        assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    }
    let bad = [
        ContainerSpec { image: "no-such-image:0".to_owned(), ..spec.clone() },
        ContainerSpec { image: String::new(), ..spec.clone() },
        ContainerSpec { cores_milli: 0, ..spec.clone() },
        ContainerSpec { memory_bytes: 1, ..spec.clone() },
        ContainerSpec { disk_bytes: 1, ..spec.clone() },
        ContainerSpec { agent: "agent".into(), ..spec.clone() },
    ];
    for spec in bad {
        let error = runtime.ensure(&spec).await.expect_err("refused");
        assert_eq!(error.kind(), Kind::Caller, "{error}");
        assert_eq!(runtime.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
    }
}
