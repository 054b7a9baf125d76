//! The images that are offered, made ready at the start, and room for them beside those of former configurations.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nicompute_daemon::ErrorChain;

use super::super::{IMAGE_NAME_LEN_MAX, NamedImage, Rootfs, RuntimeConfig, RuntimeError};
use super::image::{self, ImageError, Room};
use super::protocol::Image;
use super::{HOST_IMAGE, ROOTFS_IMAGE, SandboxError, state};

/// Unpacked images, in the state directory.
const STORE: &str = "images";

/// An image by the name under which it is offered.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) files: Image,
    /// What its author set.
    pub(super) environment: Vec<(String, String)>,
}

/// The images of a node.
#[derive(Debug, Clone)]
pub(super) struct Images {
    pub(super) shown: Vec<Shown>,
    store: PathBuf,
    leases: PathBuf,
    room: Room,
}

impl Images {
    /// Makes every image ready. Blocks while one is unpacked.
    pub(super) fn open(config: &RuntimeConfig) -> Result<Self, SandboxError> {
        let rootfs = config.rootfs.as_ref().ok_or(SandboxError::NoImage)?;
        let policy = &config.image_policy;
        let mut images = Self {
            shown: Vec::new(),
            store: config.state_dir.join(STORE),
            leases: config.state_dir.join("leases"),
            room: Room { bytes_max: policy.bytes_max, free_bytes_min: policy.free_bytes_min },
        };
        image::sweep(&images.store).map_err(failed(STORE))?;
        let shown =
            |name: &str, files| Shown { name: name.to_owned(), files, environment: Vec::new() };
        match rootfs {
            Rootfs::Host => images.shown.push(shown(HOST_IMAGE, Image::Host)),
            Rootfs::Directory(dir) => {
                images.shown.push(shown(ROOTFS_IMAGE, Image::Directory(dir.clone())));
            }
            Rootfs::Images(named) => images.unpack(named)?,
        }
        images.make_room(&HashSet::new());
        Ok(images)
    }

    fn unpack(&mut self, named: &[NamedImage]) -> Result<(), SandboxError> {
        let mut places = HashSet::new();
        let mut names: HashSet<&str> = HashSet::new();
        for NamedImage { name, path } in named {
            let legal = !name.is_empty() && name.len() <= IMAGE_NAME_LEN_MAX;
            let is_new = names.insert(name);
            if !legal || !is_new || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return Err(SandboxError::ImageName { name: name.clone() });
            }
            places.extend(image::place_of(path, &self.store).map_err(failed(name))?);
        }
        // The new ones may need the room of those that nobody needs any more.
        self.make_room(&places);
        for NamedImage { name, path } in named {
            let unpacked = image::open(path, &self.store).map_err(failed(name))?;
            let (files, environment) = (Image::Directory(unpacked.files), unpacked.environment);
            self.shown.push(Shown { name: name.clone(), files, environment });
        }
        if self.shown.is_empty() { Err(SandboxError::NoImage) } else { Ok(()) }
    }

    pub(super) fn find(&self, name: &str) -> Result<&Shown, RuntimeError> {
        let found = self.shown.iter().find(|image| image.name == name);
        found.ok_or_else(|| RuntimeError::ImageMissing { image: name.to_owned() })
    }

    /// Whether an image that a lease had may be needed by nobody after it.
    pub(super) fn is_former(&self, files: &Path) -> bool {
        files.starts_with(&self.store) && !self.offered().any(|dir| files.starts_with(dir))
    }

    /// Removes unpacked images that are not needed while there are too many. A failure keeps them.
    pub(super) fn make_room(&self, more: &HashSet<PathBuf>) {
        let made = self.needed(more).map_err(|source| ImageError::Store {
            act: "read",
            path: self.leases.clone(),
            source,
        });
        match made.and_then(|needed| image::make_room(&self.store, &needed, self.room)) {
            Ok(removed) => {
                for image in removed {
                    tracing::info!(image = %image.display(), "removed an unpacked image that nobody needs");
                }
            }
            Err(error) => {
                let error = ErrorChain(&error).to_string();
                tracing::warn!(error, "no room was made among the unpacked images");
            }
        }
    }

    /// What is offered, and what a lease was made from. Where one cannot be asked, nobody can say what is needed.
    fn needed(&self, more: &HashSet<PathBuf>) -> io::Result<HashSet<PathBuf>> {
        let mut needed = more.clone();
        needed.extend(self.offered().map(Path::to_owned));
        let leases = match fs::read_dir(&self.leases) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(needed),
            leases => leases?,
        };
        // What a lease has written down is canonical, and the store may lie behind a link.
        let store = fs::canonicalize(&self.store).unwrap_or_else(|_| self.store.clone());
        for lease in leases {
            let Some(kept) = state::kept_image(&lease?.path())? else { continue };
            let files = kept.files;
            let name = files.strip_prefix(&store).or_else(|_| files.strip_prefix(&self.store));
            let first = name.ok().and_then(|name| name.components().next());
            needed.extend(first.map(|first| self.store.join(first)));
        }
        Ok(needed)
    }

    /// The directories of offered images in the store.
    fn offered(&self) -> impl Iterator<Item = &Path> {
        self.shown.iter().filter_map(|image| match &image.files {
            Image::Directory(files) => files.parent().filter(|dir| dir.starts_with(&self.store)),
            Image::Host => None,
        })
    }
}

fn failed(name: &str) -> impl Fn(ImageError) -> SandboxError + use<> {
    let name = name.to_owned();
    move |source| SandboxError::Image { name: name.clone(), source: Box::new(source) }
}
