//! A registry on loopback that serves what a test puts into it, also what no registry should.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::gateway_world::background;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// How a blob is served.
#[derive(Clone)]
pub(crate) enum Blob {
    /// As it is.
    Whole(Bytes),
    /// Half of it, and then the end.
    Half(Bytes),
    /// Half of it, and then nothing for ever.
    Stuck(Bytes),
}

#[derive(Default)]
struct Shelf {
    manifests: BTreeMap<String, (String, Bytes)>,
    blobs: BTreeMap<String, Blob>,
}

/// A registry that runs as long as the test.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) address: String,
    shelf: Arc<Mutex<Shelf>>,
    /// Requests so far.
    pub(crate) requests: Arc<AtomicUsize>,
}

/// An image to be put into it.
pub(crate) struct Image {
    pub(crate) config: Value,
    pub(crate) layer: Vec<u8>,
    pub(crate) architecture: &'static str,
}

impl Image {
    /// An image with one file of some bytes, and no program at all.
    pub(crate) fn with_file(bytes: usize, salt: &str) -> Self {
        let mut content = salt.as_bytes().to_vec();
        content.resize(bytes.max(content.len()), 0);
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Self { config: json!({}), layer: tar("content", &content), architecture }
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let registry = Self { address, shelf, requests: Arc::default() };
        let app = axum::Router::new().fallback(serve).with_state(registry.clone());
        drop(background(async move { axum::serve(listener, app).await.expect("serve") }));
        registry
    }

    /// The name of an image in this registry.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Puts an image in under a repository and a tag, and returns its digest.
    pub(crate) fn put(&self, repository: &str, tag: &str, image: &Image) -> String {
        let layer = digest(&image.layer);
        let config = json!({
            "architecture": image.architecture, "os": "linux", "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let config = config.to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": config.len(), "digest": digest(config.as_bytes())},
            "layers": [{"mediaType": LAYER, "size": image.layer.len(), "digest": layer}],
        });
        self.put_blob(&digest(config.as_bytes()), Blob::Whole(config.into()));
        self.put_blob(&layer, Blob::Whole(image.layer.clone().into()));
        self.put_manifest(repository, tag, MANIFEST, manifest.to_string())
    }

    /// Puts any text in as a manifest, and returns its digest.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        manifest: impl Into<Bytes>,
    ) -> String {
        let manifest: Bytes = manifest.into();
        let found = digest(&manifest);
        let mut shelf = self.shelf.lock().expect("lock");
        for version in [tag, &found] {
            let place = format!("{repository}/{version}");
            shelf.manifests.insert(place, (kind.to_owned(), manifest.clone()));
        }
        found
    }

    pub(crate) fn put_blob(&self, digest: &str, blob: Blob) {
        self.shelf.lock().expect("lock").blobs.insert(digest.to_owned(), blob);
    }

    fn answer(&self, method: &Method, path: &str) -> Response {
        if path == "/v2/" {
            return StatusCode::OK.into_response();
        }
        let shelf = self.shelf.lock().expect("lock");
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        if let Some((repository, version)) = rest.split_once("/manifests/") {
            let Some((kind, manifest)) = shelf.manifests.get(&format!("{repository}/{version}"))
            else {
                let body = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
                return (StatusCode::NOT_FOUND, axum::Json(body)).into_response();
            };
            let headers = [
                (header::CONTENT_TYPE.as_str(), kind.clone()),
                (header::CONTENT_LENGTH.as_str(), manifest.len().to_string()),
                ("docker-content-digest", digest(manifest)),
            ];
            let body = if method == Method::HEAD { Bytes::new() } else { manifest.clone() };
            return (headers, body).into_response();
        }
        let blob = rest.split_once("/blobs/").and_then(|(_, digest)| shelf.blobs.get(digest));
        match blob {
            None => StatusCode::NOT_FOUND.into_response(),
            Some(blob) => blob.clone().into_response(),
        }
    }
}

impl Blob {
    fn into_response(self) -> Response {
        let (bytes, sent) = match &self {
            Self::Whole(bytes) => (bytes, bytes.len()),
            Self::Half(bytes) => (bytes, bytes.len() / 2),
            Self::Stuck(bytes) => (bytes, bytes.len() / 2),
        };
        let length = [(header::CONTENT_LENGTH, bytes.len().to_string())];
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes.slice(..sent))]);
        match self {
            Self::Whole(bytes) => (length, bytes).into_response(),
            Self::Half(_) => {
                let end = futures_util::stream::iter([Err(std::io::ErrorKind::BrokenPipe.into())]);
                let body = futures_util::StreamExt::chain(first, end);
                (length, Body::from_stream(body)).into_response()
            }
            Self::Stuck(_) => {
                let never = futures_util::stream::once(async {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    Err(std::io::ErrorKind::BrokenPipe.into())
                });
                let body = futures_util::StreamExt::chain(first, never);
                (length, Body::from_stream(body)).into_response()
            }
        }
    }
}

async fn serve(State(registry): State<Registry>, method: Method, uri: Uri) -> Response {
    registry.requests.fetch_add(1, Ordering::Relaxed);
    registry.answer(&method, uri.path())
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An archive with one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}
