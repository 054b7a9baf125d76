//! Images from a registry: what may be fetched, what arrives, and what is left when it does not.

use std::time::Duration;

use nicompute_daemon::{Kind, SystemClock};
use nicompute_host::runtime::docker::Docker;
use nicompute_host::runtime::{
    ContainerSpec, ImagePolicy, Presence, PullProgress, Runtime, RuntimeConfig, RuntimeError,
};
use serde_json::json;
use tokio::sync::watch;

use crate::docker::docker;
use crate::docker_registry::{Blob, Image, Registry, digest};
use crate::support::{Inside, Node, random, wait_for};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A node that may fetch everything from one registry, on the machine's engine.
pub(crate) struct Fetcher {
    registry: Registry,
    pub(crate) node: Node,
    salt: String,
}

impl Fetcher {
    pub(crate) async fn new() -> Option<Self> {
        let node = Node::new();
        docker(&node).await?;
        Some(Self { registry: Registry::start().await, node, salt: hex::encode(random()) })
    }

    fn config(&self, policy: &ImagePolicy) -> RuntimeConfig {
        let pattern = self.registry.name("*").parse().expect("pattern");
        let image_policy =
            ImagePolicy { allow: vec![pattern], free_bytes_min: 0, ..policy.clone() };
        RuntimeConfig { image_policy, ..self.node.config.clone() }
    }

    pub(crate) async fn docker(&self, policy: &ImagePolicy) -> Docker {
        detect(self.config(policy)).await
    }

    pub(crate) fn put(&self, repository: &str, bytes: usize) -> (String, String) {
        let salt = format!("{repository} {}", self.salt);
        let digest = self.registry.put(repository, "1", &Image::with_file(bytes, &salt));
        (self.registry.name(&format!("{repository}:1")), digest)
    }

    /// What the node has recorded.
    fn recorded(&self) -> String {
        let file = self.node.config.state_dir.join("fetched-images.json");
        std::fs::read_to_string(file).unwrap_or_default()
    }
}

/// The registry goes with its test; what was fetched from it must not stay on the machine's engine.
impl Drop for Fetcher {
    fn drop(&mut self) {
        let address = self.registry.address.clone();
        let sweep = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(sweep(&address));
        });
        drop(sweep.join());
    }
}

async fn sweep(address: &str) {
    let client = bollard::Docker::connect_with_defaults().expect("connect");
    let client = client.negotiate_version().await.expect("version");
    let options = bollard::query_parameters::ListImagesOptionsBuilder::default().digests(true);
    let images = client.list_images(Some(options.build())).await.expect("images");
    let names = images.into_iter().flat_map(|i| i.repo_tags.into_iter().chain(i.repo_digests));
    for name in names.filter(|name| name.starts_with(address)) {
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true);
        drop(client.remove_image(&name, Some(options.build()), None).await);
    }
}

async fn detect(config: RuntimeConfig) -> Docker {
    Docker::detect(config, SystemClock::shared()).await.expect("docker")
}

pub(crate) async fn pull(docker: &Docker, image: &str) -> Result<PullProgress, RuntimeError> {
    let progress = watch::Sender::new(PullProgress::default());
    docker.pull(image, &progress).await?;
    Ok(*progress.borrow())
}

/// A renter's image would not arrive, be fetched again each time, or run as something else than what its digest says.
#[tokio::test]
async fn an_image_is_fetched_once_and_runs() {
    let Some(world) = Fetcher::new().await else { return };
    let docker = world.docker(&ImagePolicy::default()).await;
    let mut image = Image::with_file(1 << 20, &world.salt);
    // All that an image can say about how it wants to be run; its container is ours nevertheless.
    image.config = json!({
        "Env": ["NVIDIA_VISIBLE_DEVICES=all", "LD_PRELOAD=/evil.so", "NICOMPUTE_LEASE=other"],
        "Labels": {"io.nicompute.role": "trial", "io.nicompute.lease": "x", "io.nicompute.gen": "99"},
        "Entrypoint": ["/no/such"], "Cmd": ["x"], "User": "1234", "WorkingDir": "/nowhere",
        "StopSignal": "SIGSTOP", "Healthcheck": {"Test": ["CMD", "/no/such"], "Interval": 1_000_000_000},
        "Volumes": {"/data": {}}, "ExposedPorts": {"22/tcp": {}},
    });
    let digest = world.registry.put("tools/box", "1", &image);
    let name = world.registry.name("tools/box:1");
    assert!(!docker.images().await.expect("images").contains(&name));
    let progress = pull(&docker, &name).await.expect("pull");
    assert!(progress.bytes_total >= 1 << 20, "{progress:?}");
    assert_eq!(progress.bytes_done, progress.bytes_total);
    assert_eq!(docker.digest(&name).await.expect("digest"), Some(digest.clone()));
    let asked = world.registry.requests();
    pull(&docker, &name).await.expect("again");
    let pinned = world.registry.name(&format!("tools/box@{digest}"));
    pull(&docker, &pinned).await.expect("by digest");
    assert_eq!(world.registry.requests(), asked, "it was there");
    let listed = docker.images().await.expect("images");
    assert!(listed.contains(&name) && listed.contains(&pinned), "{listed:?}");

    let spec = world.node.spec(&name);
    let inside = Inside::listen(&spec);
    let running = docker.ensure(&spec).await.expect("ensure");
    // There is no shell in it; the agent answers all the same.
    let (code, said) = inside.run("true").await;
    assert_eq!(code, -2, "{said}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.init_pid));
    assert!(status.is_err() || status.is_ok_and(|text| text.contains("Uid:\t0\t")));
    assert_eq!(docker.list().await.expect("list"), [spec.lease]);
    // A node that starts again clears its trials away, and this is none.
    let again = world.docker(&ImagePolicy::default()).await;
    let running = Presence::Running { init_pid: running.init_pid };
    assert_eq!(again.inspect(spec.lease).await.expect("inspect"), running);
    again.remove(spec.lease).await.expect("remove");
    assert_eq!(again.list().await.expect("list"), []);
}

/// A renter would make the provider's machine fetch what its operator never allowed, or wait for what does not exist.
#[tokio::test]
async fn what_may_not_or_cannot_be_fetched_is_refused() {
    let Some(world) = Fetcher::new().await else { return };
    let docker = world.docker(&ImagePolicy::default()).await;
    let before = world.registry.requests();
    for name in ["busybox", "127.0.0.1:1/box:1", "169.254.169.254/box", "localhost/box"] {
        let error = pull(&docker, name).await.expect_err("not allowed");
        assert!(matches!(error, RuntimeError::ImageRefused { .. }), "{name}: {error}");
    }
    let base = world.registry.name("box");
    for tail in [":1\n", ":$(id)", "?x=1", "/../../x", ":1 ", "@sha256:1", ":\0"] {
        let error = pull(&docker, &format!("{base}{tail}")).await.expect_err("no name");
        assert_eq!(error.kind(), Kind::Caller, "{tail:?}: {error}");
    }
    let long = format!("{base}:{}", "a".repeat(16 << 10));
    assert!(matches!(pull(&docker, &long).await, Err(RuntimeError::ImageRefused { .. })));
    assert_eq!(world.registry.requests(), before, "nobody was asked");

    let (name, _) = world.put("known", 1_000);
    let other = name.replace(":1", ":2");
    assert!(matches!(pull(&docker, &other).await, Err(RuntimeError::ImageUnknown { .. })));
    let zeros = format!("{}@sha256:{}", name.trim_end_matches(":1"), "0".repeat(64));
    assert!(matches!(pull(&docker, &zeros).await, Err(RuntimeError::ImageUnknown { .. })));
    let foreign = Image { architecture: "s390x", ..Image::with_file(10, &world.salt) };
    world.registry.put("foreign", "1", &foreign);
    let error =
        pull(&docker, &world.registry.name("foreign:1")).await.expect_err("another processor");
    assert!(matches!(error, RuntimeError::ImageRefused { .. }), "{error}");
    assert_eq!(docker.images().await.expect("images"), Vec::<String>::new());
    assert!(!world.recorded().contains("name"), "{}", world.recorded());
    // The machine's own images are as far away as ever.
    let spec = world.node.spec("busybox");
    assert!(matches!(docker.ensure(&spec).await, Err(RuntimeError::ImageMissing { .. })));
}

/// A broken or hostile registry would fill the provider's disk, hang its node, or put a wrong image under a right name.
#[tokio::test]
async fn broken_images_leave_nothing() {
    let Some(world) = Fetcher::new().await else { return };
    let stall = Duration::from_secs(3);
    let docker =
        world.docker(&ImagePolicy { stall, bytes_max: 1 << 20, ..ImagePolicy::default() }).await;
    let layer_of = |salt: &str| Image::with_file(1 << 18, &format!("{salt} {}", world.salt));
    let put = |name: &str, blob: fn(axum::body::Bytes) -> Blob| {
        let image = layer_of(name);
        world.registry.put(name, "1", &image);
        world.registry.put_blob(&digest(&image.layer), blob(image.layer.into()));
        world.registry.name(&format!("{name}:1"))
    };
    let wrong = put("wrong", |bytes| Blob::Whole(vec![7; bytes.len()].into()));
    let error = pull(&docker, &wrong).await.expect_err("other bytes than the digest says");
    assert!(matches!(error, RuntimeError::Pull { .. }), "{error}");
    for name in [put("half", Blob::Half), put("stuck", Blob::Stuck)] {
        let error = pull(&docker, &name).await.expect_err("it never ends");
        assert!(matches!(error, RuntimeError::Timeout { limit_s: 3, .. }), "{name}: {error}");
        assert_eq!(error.kind(), Kind::Elsewhere);
    }
    let (huge, _) = world.put("huge", 3 << 20);
    let error = pull(&docker, &huge).await.expect_err("too large");
    assert!(matches!(error, RuntimeError::ImageTooLarge { bytes_max: 0x10_0000, .. }), "{error}");
    // The engine refuses a manifest like this by itself; what it makes of it must be an error all the same.
    for (name, text) in
        [("nothing", String::new()), ("text", "x".repeat(5 << 20)), ("json", "{}".to_owned())]
    {
        world.registry.put_manifest(name, "1", MANIFEST, text);
        let name = world.registry.name(&format!("{name}:1"));
        pull(&docker, &name).await.expect_err("no manifest");
    }
    assert_eq!(docker.images().await.expect("images"), Vec::<String>::new());
    assert!(!world.recorded().contains("name"), "{}", world.recorded());

    let full = world.config(&ImagePolicy::default());
    let image_policy = ImagePolicy { free_bytes_min: u64::MAX, ..full.image_policy.clone() };
    let full = detect(RuntimeConfig { image_policy, ..full }).await;
    let (name, _) = world.put("small", 1_000);
    let error = pull(&full, &name).await.expect_err("the disk must keep its room");
    assert!(matches!(error, RuntimeError::NoSpace { .. }), "{error}");
}

/// A fetch that nobody waits for would go on, or a node that was killed in it never look at it again.
#[tokio::test]
async fn a_fetch_can_be_given_up() {
    let Some(world) = Fetcher::new().await else { return };
    let docker = world.docker(&ImagePolicy::default()).await;
    let image = Image::with_file(1 << 20, &world.salt);
    world.registry.put("slow", "1", &image);
    world.registry.put_blob(&digest(&image.layer), Blob::Stuck(image.layer.clone().into()));
    let name = world.registry.name("slow:1");
    let progress = watch::Sender::new(PullProgress::default());
    let mut seen = progress.subscribe();
    tokio::select! {
        done = docker.pull(&name, &progress) => panic!("it cannot end: {done:?}"),
        moved = seen.changed() => moved.expect("progress"),
    }
    assert!(world.recorded().contains("slow"), "its intent is written down first");
    drop(docker);
    // The node starts again: what did not arrive is forgotten, and can be fetched.
    let docker = world.docker(&ImagePolicy::default()).await;
    assert!(!world.recorded().contains("slow"), "{}", world.recorded());
    world.registry.put_blob(&digest(&image.layer), Blob::Whole(image.layer.into()));
    pull(&docker, &name).await.expect("pull");
    assert!(docker.images().await.expect("images").contains(&name));
}

/// The image that a tenant runs, that the operator named or that was there before would be removed to make room.
#[tokio::test]
async fn only_fetched_images_make_room() {
    let Some(world) = Fetcher::new().await else { return };
    let (named, _) = world.put("named", 300_000);
    let (leased, _) = world.put("leased", 300_000);
    let (idle, _) = world.put("idle", 300_000);
    let (last, _) = world.put("last", 300_000);
    let (own, _) = world.put("own", 300_000);
    // The operator's own: it was there before this node, which finds it present and takes no note of it.
    let theirs = world.docker(&ImagePolicy::default()).await;
    pull(&theirs, &own).await.expect("the operator's pull");
    std::fs::remove_file(world.node.config.state_dir.join("fetched-images.json")).expect("forget");

    let policy = ImagePolicy { bytes_max: 1_000_000, ..ImagePolicy::default() };
    let config = RuntimeConfig { images: vec![named.clone()], ..world.config(&policy) };
    let docker = detect(config).await;
    for image in [&own, &named, &leased, &idle] {
        pull(&docker, image).await.expect("pull");
    }
    assert!(!world.recorded().contains("own"), "{}", world.recorded());
    let spec = world.node.spec(&leased);
    docker.ensure(&spec).await.expect("ensure");
    pull(&docker, &last).await.expect("pull");
    let left = docker.images().await.expect("images");
    for image in [&own, &named, &leased, &last] {
        assert!(left.contains(image), "{image} is gone: {left:?}");
    }
    assert!(!left.contains(&idle), "{left:?}");
    // The one that is in use stays, and there is nothing else to remove.
    let (more, _) = world.put("more", 800_000);
    let error = pull(&docker, &more).await.expect_err("no room");
    assert!(matches!(error, RuntimeError::ImageTooLarge { .. }), "{error}");
    let left = docker.images().await.expect("images");
    assert!(left.contains(&leased) && left.contains(&named) && left.contains(&own), "{left:?}");
    docker.remove(spec.lease).await.expect("remove");
}

/// A second name of a fetched image would keep it on the disk for ever, uncounted.
#[tokio::test]
async fn every_name_of_a_fetched_image_makes_room() {
    let Some(world) = Fetcher::new().await else { return };
    let image = Image::with_file(300_000, &world.salt);
    for tag in ["a", "b"] {
        world.registry.put("twice", tag, &image);
    }
    let (first, second) = (world.registry.name("twice:a"), world.registry.name("twice:b"));
    let docker = world.docker(&ImagePolicy::default()).await;
    for name in [&first, &second] {
        pull(&docker, name).await.expect("pull");
    }
    assert!(world.recorded().contains(&second), "{}", world.recorded());
    let policy = ImagePolicy { bytes_max: 400_000, ..ImagePolicy::default() };
    let docker = world.docker(&policy).await;
    let (other, _) = world.put("other", 300_000);
    pull(&docker, &other).await.expect("pull");
    let left = docker.images().await.expect("images");
    assert!(left.contains(&other), "{left:?}");
    assert!(!left.contains(&first) && !left.contains(&second), "{left:?}");
}

/// An image would escape the lease's disk and its end through a volume that it declares.
#[tokio::test]
async fn an_images_volumes_go_with_the_lease() {
    let Some(world) = Fetcher::new().await else { return };
    let docker = world.docker(&ImagePolicy::default()).await;
    let mut image = Image::with_file(1_000, &world.salt);
    image.config = json!({"Volumes": {"/data": {}, "/var/db/": {}}});
    world.registry.put("declares", "1", &image);
    let name = world.registry.name("declares:1");
    pull(&docker, &name).await.expect("pull");
    let spec = world.node.spec(&name);
    docker.ensure(&spec).await.expect("ensure");
    let client = bollard::Docker::connect_with_defaults().expect("connect");
    let client = client.negotiate_version().await.expect("version");
    let volumes = async || {
        let label = format!("io.nicompute.lease={}", spec.lease);
        let filters = std::collections::HashMap::from([("label", vec![label])]);
        let options = bollard::query_parameters::ListVolumesOptionsBuilder::default();
        let options = options.filters(&filters).build();
        client.list_volumes(Some(options)).await.expect("volumes").volumes.unwrap_or_default().len()
    };
    assert_eq!(volumes().await, 2);
    // Somebody removes the container and leaves the volumes: the node still finds the lease, and clears it away.
    let options = bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true);
    let container = format!("nicompute-{}", spec.lease);
    client.remove_container(&container, Some(options.v(false).build())).await.expect("remove");
    assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
    let left = volumes().await;
    if left > 0 {
        assert_eq!(docker.list().await.expect("list"), [spec.lease]);
    }
    docker.remove(spec.lease).await.expect("remove");
    wait_for("the volumes to be gone", || true).await;
    assert_eq!(volumes().await, 0);
    assert_eq!(docker.list().await.expect("list"), []);

    image.config = json!({"Volumes": {"/.nicompute/run": {}}});
    world.registry.put("hostile", "1", &image);
    let name = world.registry.name("hostile:1");
    pull(&docker, &name).await.expect("pull");
    let spec: ContainerSpec = world.node.spec(&name);
    let error = docker.ensure(&spec).await.expect_err("over the agent's folder");
    assert!(matches!(error, RuntimeError::ImageRefused { .. }), "{error}");
    assert_eq!(docker.inspect(spec.lease).await.expect("inspect"), Presence::Absent);
}
