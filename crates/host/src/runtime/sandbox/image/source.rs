//! Where an image's blobs lie: a directory of the OCI's layout, or an archive of one, or one of `docker save`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::tar::{Archive, Kind};

/// Files of an archive of an image: two a layer, and a handful of others.
const FILES_MAX: usize = 4096;
/// A manifest or a configuration has a few kilobytes.
const JSON_BYTES_MAX: u64 = 4 << 20;
/// Docker itself allows 127.
const LAYERS_MAX: usize = 256;
/// Variables of one image, and their bytes in all.
const ENVIRONMENT_MAX: usize = 256;
const ENVIRONMENT_BYTES_MAX: usize = 64 << 10;
/// Manifests that lead to manifests.
const INDEX_DEPTH_MAX: u32 = 3;

/// The blobs of one image.
#[derive(Debug)]
pub(super) enum Blobs {
    Folder(OwnedFd),
    Archive { file: File, places: HashMap<String, (u64, u64)> },
}

/// What an image is made of, verified as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    /// The hash of the configuration, which names every layer by its content.
    pub(super) id: String,
    pub(super) environment: Vec<(String, String)>,
    pub(super) layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) blob: String,
    /// The hash of the blob as it lies there, where the manifest tells.
    pub(super) packed: Option<String>,
    /// The hash of the archive in it.
    pub(super) plain: String,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Settings,
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
struct Settings {
    #[serde(rename = "Env", default)]
    environment: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl Blobs {
    /// Opens what lies at the path, or says that it is no image.
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Open { path: path.to_owned(), source };
        if path.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(path, flags, Mode::empty());
            return Ok(Self::Folder(dir.map_err(|error| failed(error.into()))?));
        }
        let file = File::open(path).map_err(failed)?;
        let mut archive = Archive::new(file.try_clone().map_err(failed)?);
        let (mut places, mut links) = (HashMap::new(), Vec::new());
        while let Some(entry) = archive.next().map_err(|error| failed(io::Error::other(error)))? {
            let name = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
            match entry.kind {
                Kind::File => {
                    places.insert(name, (archive.position(), entry.size));
                }
                Kind::Symlink | Kind::HardLink => {
                    links.push((name, String::from_utf8_lossy(&entry.link).into_owned()));
                }
                Kind::Device | Kind::Directory | Kind::Fifo | Kind::Other(_) => {}
            }
            if places.len() + links.len() > FILES_MAX {
                return Err(ImageError::Refused("it has more files than an image has"));
            }
            archive.seek_over().map_err(|error| failed(io::Error::other(error)))?;
        }
        // `docker save` writes a layer that occurs twice as a link `../<layer>/layer.tar`.
        for (name, target) in links {
            if let Some(place) = places.get(target.trim_start_matches("../")).copied() {
                places.insert(name, place);
            }
        }
        Ok(Self::Archive { file, places })
    }

    /// The bytes of one blob, by its name in the layout. No link leads to it, and no name out of the image.
    pub(super) fn read(&self, name: &str) -> Result<Box<dyn Read + '_>, ImageError> {
        let missing = || ImageError::Missing { blob: name.to_owned() };
        match self {
            Self::Folder(dir) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let file = rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve);
                let file = File::from(file.map_err(|_| missing())?);
                let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
                if is_file { Ok(Box::new(file)) } else { Err(missing()) }
            }
            Self::Archive { file, places } => {
                let (at, left) = *places.get(name).ok_or_else(missing)?;
                Ok(Box::new(Window { file, at, left }))
            }
        }
    }

    /// Reads what the image says of itself.
    pub(super) fn recipe(&self) -> Result<Recipe, ImageError> {
        if self.read("index.json").is_ok() {
            let index: Manifest = parse("index.json", &self.small("index.json")?)?;
            return self.follow(index, INDEX_DEPTH_MAX);
        }
        if self.read("manifest.json").is_ok() {
            return self.saved();
        }
        Err(ImageError::Refused(
            "it is neither an OCI layout nor an archive of one nor what `docker save` writes, uncompressed",
        ))
    }

    fn follow(&self, manifest: Manifest, depth: u32) -> Result<Recipe, ImageError> {
        let Some(config) = manifest.config else {
            let depth =
                depth.checked_sub(1).ok_or(ImageError::Refused("its indexes are nested"))?;
            let mut fitting = manifest.manifests.iter().filter(|found| found.fits_here());
            let chosen = fitting
                .next()
                .ok_or(ImageError::Refused("it has no manifest for this machine's processor"))?;
            if fitting.next().is_some() {
                return Err(ImageError::Refused("it holds more than one image"));
            }
            let hash = hash_of(&chosen.digest)?;
            let text = self.verified(&blob(&hash), &hash)?;
            return self.follow(parse(&chosen.digest, &text)?, depth);
        };
        let id = hash_of(&config.digest)?;
        let text = self.verified(&blob(&id), &id)?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            if !layer.urls.is_empty() || layer.media_type.contains("foreign") {
                return Err(ImageError::Refused("a layer of it lies elsewhere"));
            }
            let hash = hash_of(&layer.digest)?;
            layers.push((blob(&hash), Some(hash)));
        }
        recipe(id, &text, layers)
    }

    fn saved(&self) -> Result<Recipe, ImageError> {
        let saved: Vec<Saved> = parse("manifest.json", &self.small("manifest.json")?)?;
        let [saved] = <[Saved; 1]>::try_from(saved)
            .map_err(|_| ImageError::Refused("it holds more than one image, or none"))?;
        let name = saved.config.rsplit('/').next().unwrap_or_default();
        let id = hash_of(&format!("sha256:{}", name.trim_end_matches(".json")))?;
        let text = self.verified(&saved.config, &id)?;
        recipe(id, &text, saved.layers.into_iter().map(|layer| (layer, None)).collect())
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut text = Vec::new();
        let read = self.read(name)?.take(JSON_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|_| ImageError::Missing { blob: name.to_owned() })?;
        Ok(text)
    }

    fn verified(&self, name: &str, hash: &str) -> Result<Vec<u8>, ImageError> {
        let text = self.small(name)?;
        if hex::encode(Sha256::digest(&text)) != hash {
            return Err(ImageError::Digest { blob: name.to_owned() });
        }
        Ok(text)
    }
}

impl Descriptor {
    /// Whether it is a manifest of an image for this machine; attestations and signatures are not.
    fn fits_here(&self) -> bool {
        let kind = self.media_type.contains("manifest") || self.media_type.contains("index");
        let fits = |platform: &Platform| is_here(&platform.architecture, &platform.os);
        kind && self.platform.as_ref().is_none_or(fits)
    }
}

fn recipe(
    id: String,
    config: &[u8],
    layers: Vec<(String, Option<String>)>,
) -> Result<Recipe, ImageError> {
    let config: Config = parse("its configuration", config)?;
    if !is_here(&config.architecture, &config.os) {
        return Err(ImageError::Refused("it is made for another processor or system"));
    }
    if layers.len() != config.rootfs.diff_ids.len() || layers.len() > LAYERS_MAX {
        return Err(ImageError::Refused("its layers are not those of its configuration"));
    }
    let plain = config.rootfs.diff_ids.iter().map(|hash| hash_of(hash));
    let layers = layers
        .into_iter()
        .zip(plain)
        .map(|((blob, packed), plain)| Ok(Layer { blob, packed, plain: plain? }));
    let environment = environment(&config.config.environment.unwrap_or_default())?;
    Ok(Recipe { id, environment, layers: layers.collect::<Result<_, ImageError>>()? })
}

/// `NAME=value` lines; what cannot be a variable, or is ours, is left out.
fn environment(lines: &[String]) -> Result<Vec<(String, String)>, ImageError> {
    let bytes: usize = lines.iter().map(String::len).sum();
    if lines.len() > ENVIRONMENT_MAX || bytes > ENVIRONMENT_BYTES_MAX {
        return Err(ImageError::Refused("its environment is too large"));
    }
    let legal = |name: &str| {
        !name.is_empty()
            && !name.starts_with("NICOMPUTE_")
            && !name.contains(|c: char| c.is_control())
    };
    let split = |line: &String| {
        let (name, value) = line.split_once('=')?;
        (legal(name) && !value.contains('\0')).then(|| (name.to_owned(), value.to_owned()))
    };
    Ok(lines.iter().filter_map(split).collect())
}

fn is_here(architecture: &str, os: &str) -> bool {
    let ours = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    architecture == ours && os == "linux"
}

fn blob(hash: &str) -> String {
    format!("blobs/sha256/{hash}")
}

/// The digits of a SHA-256 in the form `sha256:…`.
fn hash_of(digest: &str) -> Result<String, ImageError> {
    let hash = digest.strip_prefix("sha256:").unwrap_or_default();
    let legal = hash.len() == 64 && hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if legal { Ok(hash.to_owned()) } else { Err(ImageError::Refused("a digest is not a SHA-256")) }
}

fn parse<T: DeserializeOwned>(file: &str, text: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(text)
        .map_err(|source| ImageError::Json { file: file.to_owned(), source })
}

/// A part of a file.
struct Window<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        let read_u64 = u64::try_from(read).map_err(io::Error::other)?;
        (self.at, self.left) =
            (self.at.saturating_add(read_u64), self.left.saturating_sub(read_u64));
        Ok(read)
    }
}
