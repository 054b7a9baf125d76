//! The engine as a runtime, where one answers.

use nicompute_daemon::{ErrorChain, SystemClock};
use nicompute_host::runtime::docker::{Docker, DockerError};
use nicompute_host::runtime::{
    ContainerSpec, Limits, Presence, Runtime, RuntimeConfig, RuntimeError,
};
use nicompute_market::RuntimeClass;

use crate::support::{Inside, Node, skip, wait_for};

/// The engine's runtime with the local market's image, or a line that says why the test did not run.
pub(crate) async fn docker(node: &Node) -> Option<(Docker, String)> {
    let mut docker = match Docker::detect(node.config.clone(), SystemClock::shared()).await {
        Ok(docker) => docker,
        Err(error) => {
            skip(&format!("no engine: {}; {}", ErrorChain(&error), error.remedy()));
            return None;
        }
    };
    match docker.build_devnet_image().await {
        Ok(image) => Some((docker, image)),
        Err(error) => {
            skip(&format!("no image: {}; {}", ErrorChain(&error), error.remedy()));
            None
        }
    }
}

/// The local market would have no image on a machine without a network.
#[tokio::test]
async fn the_image_is_built_offline_and_once() {
    let node = Node::new();
    let Some((mut docker, image)) = docker(&node).await else { return };
    assert_eq!(docker.build_devnet_image().await.expect("again"), image);
    assert_eq!(docker.images().await.expect("images"), [image]);
    assert!(!docker.facts().version.is_empty());
    assert!(docker.facts().runtimes.contains_key("runc"));
}

/// Any image on the operator's engine could be leased, with whatever secrets lie in it.
#[tokio::test]
async fn only_allowed_images_can_be_leased() {
    let node = Node::new();
    let Some((_, image)) = docker(&node).await else { return };
    let detect = async |images: &[&str]| {
        let images = images.iter().map(|image| (*image).to_owned()).collect();
        let config = RuntimeConfig { images, ..node.config.clone() };
        Docker::detect(config, SystemClock::shared()).await.expect("docker")
    };
    for images in [&[][..], &["no-such-image:0"]] {
        let docker = detect(images).await;
        assert_eq!(docker.images().await.expect("images"), Vec::<String>::new());
        let spec = node.spec(&image);
        let error = docker.ensure(&spec).await.expect_err("refused");
        assert!(matches!(error, RuntimeError::ImageMissing { .. }), "{error}");
        assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
    }
    let docker = detect(&[&*image, "no-such-image:0"]).await;
    assert_eq!(docker.images().await.expect("images"), [image]);
}

/// A tenant would have more of the machine than it rented, or less of its container than it needs.
#[tokio::test]
async fn a_tenant_sees_its_own_container() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    let spec = node.spec(&image);
    let inside = Inside::listen(&spec);
    docker.ensure(&spec).await.expect("ensure");
    assert!(inside.ok("tr '\\0' ' ' < /proc/1/cmdline").await.starts_with("/.nicompute/agent"));
    assert_eq!(inside.ok("ls /sys/class/net").await, "lo");
    let status = inside.ok("grep -E '^(CapBnd|NoNewPrivs):' /proc/self/status").await;
    assert!(status.contains("CapBnd:\t00000000000404fb"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    inside.refused("mount -t tmpfs none /tmp").await;
    inside.refused("rm /.nicompute/run/gateway.sock").await;
    inside.refused("echo x >> /.nicompute/agent").await;
    inside.ok("cp /bin/busybox /run/nicompute/true && /run/nicompute/true").await;
    inside.ok("echo fine > /root/x && echo fine > /tmp/x").await;
    inside.refused("head -c 300000000 /dev/zero | tail -c 200000000 > /dev/null; exit $?").await;
    assert_ne!(docker.limits(), Limits::Nothing);
    docker.remove(spec.lease).await.expect("remove");
}

/// A container of another node on the same machine would be adopted or removed.
#[tokio::test]
async fn others_containers_are_left_alone() {
    let (node, other) = (Node::new(), Node::new());
    let (Some((docker, image)), Some((others, _))) = (docker(&node).await, docker(&other).await)
    else {
        return;
    };
    let spec = node.spec(&image);
    docker.ensure(&spec).await.expect("ensure");
    assert_eq!(others.list().await.expect("list"), []);
    let theirs = ContainerSpec { dir: other.config.lease_dir(spec.lease), ..spec.clone() };
    for refused in [
        others.ensure(&theirs).await.map(|_| ()),
        others.remove(spec.lease).await,
        others.pause(spec.lease).await,
    ] {
        assert!(matches!(refused, Err(RuntimeError::Foreign { .. })), "{refused:?}");
    }
    assert!(matches!(docker.inspect(spec.lease).await, Ok(Presence::Running { .. })));
    docker.remove(spec.lease).await.expect("remove");
}

/// An agent that ended would be taken for a running one, or its container could not be used again.
#[tokio::test]
async fn an_ended_container_is_started_again() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    let spec = node.spec(&image);
    let inside = Inside::listen(&spec);
    let running = docker.ensure(&spec).await.expect("ensure");
    inside.ok("echo kept > /root/file").await;
    let pid = i32::try_from(running.init_pid).ok().and_then(rustix::process::Pid::from_raw);
    if rustix::process::kill_process(pid.expect("pid"), rustix::process::Signal::KILL).is_err() {
        skip("this user may not kill a container's process");
        docker.remove(spec.lease).await.expect("remove");
        return;
    }
    let mut presence = Presence::Absent;
    while presence != Presence::Exited {
        presence = docker.inspect(spec.lease).await.expect("inspect");
        wait_for("the engine to notice", || true).await;
    }
    docker.ensure(&spec).await.expect("ensure");
    assert_eq!(inside.ok("cat /root/file").await, "kept");
    docker.remove(spec.lease).await.expect("remove");
}

/// A machine without the vendor's toolkit would answer a GPU lease with a riddle, and keep a container that cannot start.
#[tokio::test]
async fn missing_gpu_support_is_named() {
    let node = Node::new();
    let Some((docker, image)) = docker(&node).await else { return };
    if docker.gives_gpus() {
        skip("this engine can give GPUs to containers");
        return;
    }
    let spec = ContainerSpec { gpus: vec!["GPU-0".to_owned()], ..node.spec(&image) };
    let error = docker.ensure(&spec).await.expect_err("no toolkit");
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    assert!(error.remedy().expect("remedy").contains("toolkit"));
    assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
}

/// A node would offer containers whose agents never reach its gateway, or leave its trials on the machine.
#[tokio::test]
async fn an_engine_is_tried_with_an_agent() {
    let node = Node::new();
    let Some((_, image)) = docker(&node).await else { return };
    let detect = async |agent: &str| {
        let trial_agent = Some(agent.into());
        let images = vec![image.clone()];
        let config = RuntimeConfig { trial_agent, images, ..node.config.clone() };
        Docker::detect(config, SystemClock::shared()).await
    };
    let agent = crate::support::agent();
    let docker = detect(&agent.display().to_string()).await.expect("it reports");
    assert_eq!(docker.classes(), [RuntimeClass::Standard]);
    assert!(!docker.user_namespaces());
    let spec = node.spec(&image);
    docker.ensure(&spec).await.expect("ensure");
    docker.remove(spec.lease).await.expect("remove");
    for broken in ["/nowhere/agent", "/etc/hostname"] {
        let error = detect(broken).await.expect_err("it cannot report");
        assert!(
            matches!(error, DockerError::Class { class: RuntimeClass::Standard, .. }),
            "{error}"
        );
        assert!(!error.remedy().is_empty());
    }
    assert!(
        !node.config.state_dir.join("trials").read_dir().is_ok_and(|mut dir| dir.next().is_some())
    );
    let client = bollard::Docker::connect_with_defaults().expect("connect");
    let client = client.negotiate_version().await.expect("version");
    let label = format!("io.nicompute.node={}", node.config.node_id);
    let filters = std::collections::HashMap::from([("label", vec![label])]);
    let options = bollard::query_parameters::ListContainersOptionsBuilder::default();
    let options = options.all(true).filters(&filters).build();
    assert_eq!(client.list_containers(Some(options)).await.expect("list").len(), 0);
}
