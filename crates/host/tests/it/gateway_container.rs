//! The whole path of a rental on the provider's side: a container of each runtime, the real agent in it, the gateway, and
//! OpenSSH's client.

use nicompute_host::gateway::{Limits, Route};
use nicompute_host::runtime::sandbox::HOST_IMAGE;
use nicompute_host::runtime::{ContainerSpec, ImagePolicy, Presence, Runtime};

use crate::docker::docker;
use crate::docker_pull::{Fetcher, pull};
use crate::gateway_world::{World, agent_program, run, run_with_input, stderr};
use crate::support::{Node, sandbox};

/// A renter of the embedded runtime would not get in, or would get in without the filter on system calls.
#[tokio::test]
async fn ssh_reaches_a_sandbox() {
    let node = Node::new();
    if agent_program().is_none() {
        return;
    }
    if let Some(sandbox) = sandbox(&node).await {
        rent(&node, &sandbox, HOST_IMAGE).await;
    }
}

/// A renter of an engine's container would not get in.
#[tokio::test]
async fn ssh_reaches_a_docker_container() {
    let node = Node::new();
    if agent_program().is_none() {
        return;
    }
    if let Some((docker, image)) = docker(&node).await {
        rent(&node, &docker, &image).await;
    }
}

/// A renter of an image without a shell would run nothing, or have what only a shell understands half done.
#[tokio::test]
async fn an_image_without_a_shell_runs_plain_commands() {
    let Some(agent) = agent_program() else { return };
    let Some(fetcher) = Fetcher::new().await else { return };
    let docker = fetcher.docker(&ImagePolicy::default()).await;
    let (image, _) = fetcher.put("tools/bare", 1 << 10);
    pull(&docker, &image).await.expect("pull");
    let spec = ContainerSpec { agent, ..fetcher.node.spec(&image) };
    let mut world = World::without_agent(Limits::standard()).await;
    let keys = world.route.keys.clone();
    world.route = Route::new(spec.lease, keys, spec.dir.join("run"));
    world.gateway.open(&world.route).expect("open");
    let running = docker.ensure(&spec).await.expect("ensure");
    world.route.init_pid = Some(running.init_pid);
    world.gateway.open(&world.route).expect("open again, with the process to expect");
    world.connected().await;
    // The one program that every container has.
    let ran = run(world.ssh_to("/.nicompute/agent --help")).await;
    assert_eq!(ran.status.code(), Some(0), "{}", stderr(&ran));
    assert!(stderr(&ran).contains("--socket"), "{}", stderr(&ran));
    for (line, why) in
        [("/.nicompute/agent --help; echo $HOME", "plain words"), ("true", "no program")]
    {
        let refused = run(world.ssh_to(line)).await;
        let said = stderr(&refused);
        assert!(!refused.status.success() && said.contains(why), "{line}: {said}");
    }
    docker.remove(spec.lease).await.expect("remove");
}

async fn rent(node: &Node, runtime: &dyn Runtime, image: &str) {
    let agent = agent_program().expect("checked before");
    let spec = ContainerSpec { agent, ..node.spec(image) };
    let mut world = World::without_agent(Limits::standard()).await;
    let (keys, socket_dir) = (world.route.keys.clone(), spec.dir.join("run"));
    world.route = Route::new(spec.lease, keys, socket_dir);
    world.gateway.open(&world.route).expect("open");
    let running = runtime.ensure(&spec).await.expect("ensure");
    world.route.init_pid = Some(running.init_pid);
    world.gateway.open(&world.route).expect("open again, with the process to expect");
    world.connected().await;

    let told = run(world.ssh_to("id -u; cd && pwd; grep Seccomp: /proc/self/status")).await;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(text, "0\n/root\nSeccomp:\t2\n", "{}", String::from_utf8_lossy(&told.stderr));
    // A program is sent in and run, as a validator does it.
    let program = b"#!/bin/sh\necho measured\n".to_vec();
    let upload = "cat > /run/nicompute/prover && chmod 700 /run/nicompute/prover";
    assert!(run_with_input(world.ssh_to(upload), program).await.status.success());
    let ran = run(world.ssh_to("/run/nicompute/prover; exit 7")).await;
    assert_eq!((ran.stdout.as_slice(), ran.status.code()), (b"measured\n".as_slice(), Some(7)));

    // The node's restart must find the tenant where it was.
    world.restart_gateway().await;
    world.connected().await;
    let again = run(world.ssh_to("ls /run/nicompute")).await;
    assert_eq!(again.stdout, b"prover\n");
    world.gateway.close(spec.lease);
    runtime.remove(spec.lease).await.expect("remove");
    assert_eq!(runtime.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
}
