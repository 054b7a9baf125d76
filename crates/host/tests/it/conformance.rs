//! The promises of `Runtime`, held against every implementation: the fake always, the others where the machine lets them.

use nicompute_daemon::Kind;
use nicompute_host::runtime::sandbox::HOST_IMAGE;
use nicompute_host::runtime::{
    ContainerSpec, FakeMachine, FakeRuntime, Presence, Runtime, RuntimeError, RuntimeKind,
};
use nicompute_market::RuntimeClass;

use crate::docker::docker;
use crate::support::{Node, Subject, is_root, lives, sandbox, skip, wait_for};

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
        promises(&sandbox, &node.spec(HOST_IMAGE), lives).await;
    }
}

/// The engine would lose, double or leak a rental.
#[tokio::test]
async fn docker_keeps_the_promises() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    if let Some((docker, image)) = docker(&node).await {
        promises(&docker, &node.spec(&image), lives).await;
    }
}

/// An agent that died would be reported as running for ever, or its restart would lose the tenant's files.
#[tokio::test]
async fn an_ended_container_is_started_again_with_its_disk() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let inside = subject.start(&spec).await;
        let before = subject.runtime.inspect(spec.lease).await.expect("inspect");
        inside.ok("echo kept > /root/file; echo gone > /dev/shm/file; sync").await;
        let init = i32::try_from(before.init_pid().expect("running")).expect("pid");
        let init = rustix::process::Pid::from_raw(init).expect("pid");
        rustix::process::kill_process(init, rustix::process::Signal::KILL).expect("kill");
        let mut presence = before;
        while presence != Presence::Exited {
            presence = subject.runtime.inspect(spec.lease).await.expect("inspect");
            wait_for("the runtime to notice", || true).await;
        }
        assert_eq!(subject.runtime.list().await.expect("list"), [spec.lease]);
        for act in [subject.runtime.pause(spec.lease), subject.runtime.resume(spec.lease)] {
            assert!(matches!(act.await, Err(RuntimeError::NotRunning { .. })));
        }
        let again = subject.runtime.ensure(&spec).await.expect("ensure");
        assert_ne!(Some(again.init_pid), before.init_pid());
        let kept = if subject.has_disk() { "kept" } else { "" };
        assert_eq!(inside.ok("cat /root/file 2>/dev/null || true").await, kept);
        inside.refused("cat /dev/shm/file").await;
        if let Ok(after) = subject.runtime.restart(&spec).await {
            assert_ne!(after, again);
            assert_eq!(inside.ok("cat /root/file 2>/dev/null || true").await, kept);
        }
        subject.runtime.remove(spec.lease).await.expect("remove");
    }
}

/// Two nodes, or two tasks of one, would make two containers for one lease, or leave one behind.
#[tokio::test]
async fn many_hands_make_one_container() {
    for subject in Subject::all().await {
        let spec = subject.spec();
        let (one, two, three) = tokio::join!(
            subject.ensure_at_last(&spec),
            subject.ensure_at_last(&spec),
            subject.ensure_at_last(&spec)
        );
        assert_eq!([one, one], [two, three]);
        assert_eq!(crate::sandbox_crash::processes_of(spec.lease), [one.init_pid]);
        tokio::join!(subject.remove_at_last(spec.lease), subject.remove_at_last(spec.lease));
        crate::sandbox_crash::nothing_is_left(&spec).await;
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
    assert!(runtime.classes().contains(&RuntimeClass::Standard));
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
    restarts(runtime, spec, &lives).await;
    runtime.pause(lease).await.expect("pause");
    for _ in 0..2 {
        runtime.remove(lease).await.expect("remove, also when paused, also twice");
        assert_eq!(runtime.inspect(lease).await.expect("inspect"), Presence::Absent);
    }
    assert!(!runtime.list().await.expect("list").contains(&lease));
    assert!(!spec.dir.exists(), "the lease's directory is gone");
}

/// A container that is started afresh, out of a pause too, is another one in the same place.
async fn restarts(runtime: &dyn Runtime, spec: &ContainerSpec, lives: &impl Fn(u32) -> bool) {
    let lease = spec.lease;
    let before = runtime.inspect(lease).await.expect("inspect").init_pid().expect("a process");
    let after = match runtime.restart(spec).await {
        Err(RuntimeError::Unsupported { what, .. }) => {
            skip(&what);
            runtime.resume(lease).await.expect("resume");
            return;
        }
        after => after.expect("restart"),
    };
    assert_ne!(after.init_pid, before);
    assert!(lives(after.init_pid));
    let running = Presence::Running { init_pid: after.init_pid };
    assert_eq!(runtime.inspect(lease).await.expect("inspect"), running, "also when it was paused");
    let older = ContainerSpec { generation: spec.generation - 1, ..spec.clone() };
    let refused = runtime.restart(&older).await.expect_err("an earlier generation is refused");
    assert!(matches!(refused, RuntimeError::Superseded { .. }), "{refused}");
    assert_eq!(runtime.inspect(lease).await.expect("inspect"), running);
    assert_eq!(runtime.list().await.expect("list"), [lease]);
}

async fn refusals(runtime: &dyn Runtime, spec: &ContainerSpec) {
    // No machine has this one. Where a sandbox gives GPUs, it knows them all; an engine may have to be asked.
    let knows = matches!(runtime.kind(), RuntimeKind::SandboxRoot | RuntimeKind::SandboxUser);
    if knows || !runtime.gives_gpus() {
        let spec = ContainerSpec { gpus: vec!["GPU-none".to_owned()], ..spec.clone() };
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
