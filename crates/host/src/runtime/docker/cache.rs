//! Which images the node itself has fetched, in a file that survives the node.
//!
//! Only what stands in it is ever removed, so that an image of the operator's own is never touched. A fetch is written down
//! before it begins: a node that is killed in the middle finds what it began and either keeps or forgets it. The file is
//! replaced as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::{ImageName, RuntimeError};

/// The file in the node's state directory.
const FILE: &str = "fetched-images.json";
/// Images that are remembered; a disk holds a few hundred.
pub(super) const IMAGES_MAX: usize = 10_000;
/// The file's size with all of them.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is known of a fetched image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetched {
    /// The name at its digest, where its registry said one.
    pub(super) pinned: Option<ImageName>,
    /// Its size on disk; zero while it is being fetched.
    pub(super) bytes: u64,
    /// When it was last leased or fetched.
    pub(super) used_ms: u64,
    /// Whether the fetch has ended.
    pub(super) is_whole: bool,
}

/// The fetched images by the name that was asked for.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    images: BTreeMap<ImageName, Fetched>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFile {
    version: u32,
    images: Vec<StoredImage>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredImage {
    name: String,
    pinned: Option<String>,
    bytes: u64,
    used_ms: u64,
    whole: bool,
}

impl Cache {
    /// Reads the file. One that cannot be read is set aside: what it named stays on the engine and is the operator's to
    /// remove, which is better than removing something that was never ours.
    pub(super) fn open(state: &Path) -> Self {
        let path = state.join(FILE);
        let images = match read(&path) {
            Ok(images) => images,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let aside = path.with_extension("json.unreadable");
                let moved = fs::rename(&path, &aside);
                tracing::warn!(%error, path = %path.display(), moved = moved.is_ok(), "the list of fetched images is set aside");
                BTreeMap::new()
            }
        };
        Self { path, images }
    }

    pub(super) fn get(&self, name: &ImageName) -> Option<&Fetched> {
        self.images.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ImageName, &Fetched)> {
        self.images.iter()
    }

    /// Bytes of all images.
    pub(super) fn bytes(&self) -> u64 {
        self.images.values().fold(0, |sum, image| sum.saturating_add(image.bytes))
    }

    /// Writes one image down, before or after its fetch.
    pub(super) fn set(&mut self, name: ImageName, fetched: Fetched) -> Result<(), RuntimeError> {
        if self.images.len() >= IMAGES_MAX && !self.images.contains_key(&name) {
            return Err(RuntimeError::NoSpace { act: "writing an image down" });
        }
        let before = self.images.insert(name.clone(), fetched);
        let saved = self.save();
        if saved.is_err() {
            match before {
                Some(before) => self.images.insert(name, before),
                None => self.images.remove(&name),
            };
        }
        saved
    }

    /// Forgets an image.
    pub(super) fn remove(&mut self, name: &ImageName) -> Result<(), RuntimeError> {
        if self.images.remove(name).is_none() {
            return Ok(());
        }
        self.save()
    }

    /// What is to be written down for one more name of an image that was fetched; nothing where it was not. Its bytes are
    /// counted with its first name.
    pub(super) fn another_name(&self, pinned: &ImageName, used_ms: u64) -> Option<Fetched> {
        let mut all = self.images.iter();
        let is_ours =
            all.any(|(name, image)| name == pinned || image.pinned.as_ref() == Some(pinned));
        is_ours.then(|| Fetched { pinned: Some(pinned.clone()), bytes: 0, used_ms, is_whole: true })
    }

    /// Forgets a name that was removed. Where the image has another one, it is still there, and is counted with that.
    pub(super) fn remove_name(&mut self, name: &ImageName) -> Result<(), RuntimeError> {
        let Some(gone) = self.images.remove(name) else { return Ok(()) };
        let heir = gone.pinned.as_ref().and_then(|pinned| {
            let mut others = self.images.iter_mut();
            others.find(|(other, image)| image.pinned.as_ref() == Some(pinned) || *other == pinned)
        });
        if let Some((_, heir)) = heir {
            heir.bytes = heir.bytes.max(gone.bytes);
        }
        self.save()
    }

    /// The images that may be removed, the one that nobody has used longest first.
    pub(super) fn oldest_first(&self, is_kept: impl Fn(&ImageName) -> bool) -> Vec<ImageName> {
        let whole = self.images.iter().filter(|(name, image)| image.is_whole && !is_kept(name));
        let mut found: Vec<(u64, &ImageName)> =
            whole.map(|(name, image)| (image.used_ms, name)).collect();
        found.sort();
        found.into_iter().map(|(_, name)| name.clone()).collect()
    }

    fn save(&self) -> Result<(), RuntimeError> {
        let images = self.images.iter().map(|(name, image)| StoredImage {
            name: name.to_string(),
            pinned: image.pinned.as_ref().map(ToString::to_string),
            bytes: image.bytes,
            used_ms: image.used_ms,
            whole: image.is_whole,
        });
        let file = StoredFile { version: 1, images: images.collect() };
        write(&self.path, &file).map_err(|source| {
            if source.kind() == io::ErrorKind::StorageFull {
                return RuntimeError::NoSpace { act: "writing an image down" };
            }
            RuntimeError::Io { act: "write", path: self.path.clone(), source }
        })
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<ImageName, Fetched>> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let file: StoredFile = serde_json::from_str(&text)?;
    if file.version != 1 || file.images.len() > IMAGES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.images.into_iter().map(parse).collect()
}

fn parse(image: StoredImage) -> io::Result<(ImageName, Fetched)> {
    let name = |text: String| text.parse::<ImageName>().map_err(io::Error::other);
    let fetched = Fetched {
        pinned: image.pinned.map(name).transpose()?,
        bytes: image.bytes,
        used_ms: image.used_ms,
        is_whole: image.whole,
    };
    Ok((name(image.name)?, fetched))
}

fn write(path: &Path, file: &StoredFile) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut opened = fs::File::create(&new)?;
    let written = serde_json::to_vec(file)
        .map_err(io::Error::other)
        .and_then(|text| opened.write_all(&text))
        .and_then(|()| opened.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // Half of a file is no use and takes room.
        drop(fs::remove_file(&new));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        text.parse().expect("name")
    }

    fn fetched(used_ms: u64) -> Fetched {
        Fetched { pinned: None, bytes: 10, used_ms, is_whole: true }
    }

    /// A node that was killed would forget what it fetched, and its images stay for ever.
    #[test]
    fn the_file_outlives_the_node() {
        let dir = tempfile::tempdir().expect("dir");
        let digest = format!("box@sha256:{}", "0".repeat(64));
        let mut cache = Cache::open(dir.path());
        let whole = Fetched { pinned: Some(name(&digest)), ..fetched(5) };
        cache.set(name("box"), whole.clone()).expect("set");
        let begun = Fetched { is_whole: false, bytes: 0, ..fetched(9) };
        cache.set(name("other:1"), begun.clone()).expect("set");
        let mut again = Cache::open(dir.path());
        assert_eq!(again.get(&name("box:latest")), Some(&whole));
        assert_eq!(again.get(&name("other:1")), Some(&begun));
        assert_eq!(again.bytes(), 10);
        again.remove(&name("box")).expect("remove");
        again.remove(&name("box")).expect("remove nothing");
        assert_eq!(Cache::open(dir.path()).iter().count(), 1);
    }

    /// An image with two names would leave the count and stay on the disk for ever.
    #[test]
    fn the_last_name_takes_the_image_along() {
        let dir = tempfile::tempdir().expect("dir");
        let mut cache = Cache::open(dir.path());
        let pinned = name(&format!("box@sha256:{}", "0".repeat(64)));
        let first = Fetched { pinned: Some(pinned.clone()), ..fetched(1) };
        cache.set(name("box:a"), first).expect("set");
        let other = name(&format!("box@sha256:{}", "1".repeat(64)));
        assert_eq!(cache.another_name(&other, 2), None, "the operator's own");
        let second = cache.another_name(&pinned, 2).expect("ours");
        cache.set(name("box:b"), second).expect("set");
        assert_eq!(cache.bytes(), 10, "once on the disk");
        cache.remove_name(&name("box:a")).expect("remove");
        let mut cache = Cache::open(dir.path());
        assert_eq!(cache.bytes(), 10, "still on the disk");
        assert_eq!(cache.oldest_first(|_| false), [name("box:b")]);
        cache.remove_name(&name("box:b")).expect("remove");
        assert_eq!((cache.bytes(), cache.iter().count()), (0, 0));
    }

    /// The image in use, or the operator's, would be removed to make room.
    #[test]
    fn the_longest_unused_goes_first() {
        let dir = tempfile::tempdir().expect("dir");
        let mut cache = Cache::open(dir.path());
        for (text, used) in [("a", 30), ("b", 10), ("c", 20), ("kept", 1)] {
            cache.set(name(text), fetched(used)).expect("set");
        }
        cache.set(name("begun"), Fetched { is_whole: false, ..fetched(0) }).expect("set");
        let order = cache.oldest_first(|image| *image == name("kept"));
        assert_eq!(order, [name("b"), name("c"), name("a")]);
    }

    /// A damaged file would stop the node, or make it remove images that it never fetched.
    #[test]
    fn a_damaged_file_names_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(FILE);
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":2,"images":[]}"#,
            r#"{"version":1,"images":[{"name":"../x","pinned":null,"bytes":1,"used_ms":1,"whole":true}]}"#,
            r#"{"version":1,"images":[],"more":1}"#,
        ] {
            fs::write(&path, text).expect("write");
            let mut cache = Cache::open(dir.path());
            assert_eq!(cache.iter().count(), 0, "{text}");
            assert!(!path.exists(), "{text}");
            cache.set(name("a"), fetched(1)).expect("a new file");
        }
    }
}
