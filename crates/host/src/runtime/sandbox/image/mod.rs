//! Images that were not unpacked by hand: an OCI layout, an archive of one, or what `docker save` writes.
//!
//! They are unpacked once, by this program alone, into `<state>/images/sha256-<id>`, which only root can enter. The id is the
//! hash of the configuration, which names every layer by the hash of its content, and every byte is checked against it. An
//! image has its directory only when it is whole; what a killed node left half-way is removed by the next. Nothing is ever
//! fetched, and nothing of an image is run. Those that neither the operator names nor a lease has make room when it is needed.

mod room;
mod source;
mod tar;
mod tree;

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub(super) use self::room::{Room, make_room};
use self::source::{Blobs, Layer, Recipe};
use self::tree::Tree;

/// Images for training have 30 GB; this is far above, and far below what fills a provider's disk by surprise.
const BYTES_MAX: u64 = 128 << 30;
/// Such images have half a million files.
const ENTRIES_MAX: u64 = 4_000_000;
/// Bytes that come out of one that goes in. Programs and data shrink to a fifth at best; zeroes shrink a thousandfold.
const RATIO_MAX: u64 = 200;
/// Below this, a ratio means nothing.
const RATIO_FREE_BYTES: u64 = 64 << 20;
/// What a half-unpacked image is called.
const NEW: &str = "new-";
/// What a whole one is called, before its id.
const WHOLE: &str = "sha256-";

/// How much an image may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    bytes: u64,
    entries: u64,
    ratio: u64,
    ratio_free_bytes: u64,
}

/// An image that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) files: PathBuf,
    pub(super) environment: Vec<(String, String)>,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What was named cannot be opened or is no archive.
    #[error("cannot open {}", path.display())]
    Open {
        /// What was named.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{0}")]
    Refused(&'static str),
    /// A part of it is not there.
    #[error("{blob} is missing in it")]
    Missing {
        /// The part.
        blob: String,
    },
    /// A part of it is not what its hash says.
    #[error("{blob} has another hash than it should have")]
    Digest {
        /// The part.
        blob: String,
    },
    /// A part of it cannot be parsed.
    #[error("{file} in it cannot be understood")]
    Json {
        /// The part.
        file: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A layer of it cannot be unpacked.
    #[error("its layer {blob} cannot be unpacked")]
    Layer {
        /// The layer.
        blob: String,
        /// The cause.
        #[source]
        source: LayerError,
    },
    /// The directory of images cannot be used.
    #[error("cannot {act} {}", path.display())]
    Store {
        /// The act, as a verb.
        act: &'static str,
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A path leads out of the image, or is too long.
    #[error("the path {path:?} is not one of an image")]
    Path {
        /// The path.
        path: String,
    },
    /// An entry cannot be made.
    #[error("the entry {path:?} cannot be made")]
    Entry {
        /// The entry.
        path: String,
        /// The cause.
        #[source]
        source: Box<Self>,
    },
    /// It is a device.
    #[error("it is a device outside of /dev")]
    Device,
    /// It is a link to nowhere or to a directory.
    #[error("it is a link that cannot be made")]
    Link,
    /// It hides something that has no name.
    #[error("it hides something that cannot be hidden")]
    Whiteout,
    /// It is nothing that a layer has.
    #[error("it is of an unknown kind")]
    Unknown,
    /// A limit is exceeded.
    #[error("it has too many {0}")]
    TooMuch(&'static str),
    /// The archive is damaged.
    #[error("the archive is damaged")]
    Archive(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system refused.
    #[error("the system refused")]
    Io(#[from] io::Error),
}

impl LayerError {
    fn at(self, path: impl FnOnce() -> String) -> Self {
        Self::Entry { path: path(), source: Box::new(self) }
    }
}

impl From<rustix::io::Errno> for LayerError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<tar::TarError> for LayerError {
    fn from(error: tar::TarError) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: BYTES_MAX,
            entries: ENTRIES_MAX,
            ratio: RATIO_MAX,
            ratio_free_bytes: RATIO_FREE_BYTES,
        }
    }
}

/// Where the image at that path is in the store once it is unpacked; nothing where it lies unpacked already.
pub(super) fn place_of(path: &Path, store: &Path) -> Result<Option<PathBuf>, ImageError> {
    if is_unpacked(path) {
        return Ok(None);
    }
    let recipe = Blobs::open(path)?.recipe()?;
    Ok(Some(dir_of(&recipe, store)))
}

fn dir_of(recipe: &Recipe, store: &Path) -> PathBuf {
    store.join(format!("{WHOLE}{}", recipe.id))
}

fn is_unpacked(path: &Path) -> bool {
    path.is_dir() && !path.join("oci-layout").exists() && !path.join("index.json").exists()
}

/// Makes the image at that path ready: an unpacked directory is so already, everything else is unpacked into `store`.
pub(super) fn open(path: &Path, store: &Path) -> Result<Unpacked, ImageError> {
    if is_unpacked(path) {
        return Ok(Unpacked { files: path.to_owned(), environment: Vec::new() });
    }
    unpack(&Blobs::open(path)?, store, Limits::default())
}

/// Removes what a node that was killed has left half-way.
pub(super) fn sweep(store: &Path) -> Result<(), ImageError> {
    let failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::Store { act, path, source }
    };
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("read", store))?,
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(NEW) {
            fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn unpack(blobs: &Blobs, store: &Path, limits: Limits) -> Result<Unpacked, ImageError> {
    let recipe = blobs.recipe()?;
    let dir = dir_of(&recipe, store);
    let ready = Unpacked { files: dir.join("rootfs"), environment: recipe.environment.clone() };
    if ready.files.is_dir() {
        room::mark_used(&dir);
        return Ok(ready);
    }
    let failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::Store { act, path, source }
    };
    let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    private(store).map_err(failed("make", store))?;
    let new = store.join(format!("{NEW}{}", recipe.id));
    let files = new.join("rootfs");
    let made = (|| {
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }?;
        private(&new)?;
        // What everybody sees as the root of the container.
        DirBuilder::new().mode(0o755).create(&files)
    })();
    made.map_err(failed("make", &new))?;
    let whole = lay_all(blobs, &recipe, &files, limits).and_then(|()| {
        let store_file = fs::File::open(&new).map_err(failed("open", &new))?;
        let synced = rustix::fs::syncfs(&store_file).map_err(io::Error::from);
        synced.and_then(|()| fs::rename(&new, &dir)).map_err(failed("finish", &new))
    });
    if let Err(error) = whole {
        fs::remove_dir_all(&new).map_err(failed("remove", &new))?;
        return Err(error);
    }
    Ok(ready)
}

fn lay_all(blobs: &Blobs, recipe: &Recipe, files: &Path, limits: Limits) -> Result<(), ImageError> {
    let tree = Tree::open(files, limits);
    let mut tree =
        tree.map_err(|source| ImageError::Store { act: "open", path: files.to_owned(), source })?;
    let meter = Meter { limits, packed: Cell::new(0), plain: Cell::new(0) };
    for layer in &recipe.layers {
        lay(blobs, layer, &mut tree, &meter)?;
    }
    Ok(())
}

fn lay(blobs: &Blobs, layer: &Layer, tree: &mut Tree, meter: &Meter) -> Result<(), ImageError> {
    let failed = |source| ImageError::Layer { blob: layer.blob.clone(), source };
    let io_failed = |error: io::Error| failed(LayerError::Io(error));
    let mut packed = Hashed::new(blobs.read(&layer.blob)?, &meter.packed);
    let mut plain = Hashed::new(decoder(&mut packed).map_err(io_failed)?, &meter.plain);
    let mut metered = Metered { inner: &mut plain, meter };
    tree.lay(&mut metered).map_err(failed)?;
    // What comes after the archive's end is hashed as well.
    io::copy(&mut metered, &mut io::sink()).map_err(io_failed)?;
    let found = plain.finish();
    if found != layer.plain {
        return Err(ImageError::Digest { blob: layer.blob.clone() });
    }
    io::copy(&mut packed, &mut io::sink()).map_err(io_failed)?;
    match &layer.packed {
        Some(hash) if packed.finish() != *hash => {
            Err(ImageError::Digest { blob: layer.blob.clone() })
        }
        _ => Ok(()),
    }
}

/// What the first bytes say about the compression; names and media types are not asked.
fn decoder<'a>(packed: &'a mut dyn Read) -> io::Result<Box<dyn Read + 'a>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut first = Vec::new();
    packed.take(4).read_to_end(&mut first)?;
    let (is_gzip, is_zstd) = (first.starts_with(&GZIP), first == ZSTD);
    let whole = BufReader::new(io::Cursor::new(first).chain(packed));
    if is_gzip {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole)));
    }
    if is_zstd {
        return Ok(Box::new(Frames { input: Some(whole), current: None }));
    }
    Ok(Box::new(whole))
}

/// Frames of the Zstandard format one after the other; the decoder knows one.
struct Frames<R: Read> {
    input: Option<R>,
    current: Option<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
}

impl<R: io::BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.current {
                let read = decoder.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.input = self.current.take().map(|done| done.into_parts().0);
            }
            let Some(mut input) = self.input.take() else { return Ok(0) };
            if input.fill_buf()?.is_empty() {
                self.input = Some(input);
                return Ok(0);
            }
            let next = ruzstd::decoding::StreamingDecoder::new(input).map_err(io::Error::other)?;
            self.current = Some(next);
        }
    }
}

/// How much went in and came out.
struct Meter {
    limits: Limits,
    packed: Cell<u64>,
    plain: Cell<u64>,
}

/// Counts and hashes what is read through it.
struct Hashed<'a, R> {
    inner: R,
    hash: Sha256,
    count: &'a Cell<u64>,
}

impl<'a, R> Hashed<'a, R> {
    fn new(inner: R, count: &'a Cell<u64>) -> Self {
        Self { inner, hash: Sha256::new(), count }
    }

    fn finish(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        let counted = u64::try_from(read).map_err(io::Error::other)?;
        self.count.set(self.count.get().saturating_add(counted));
        Ok(read)
    }
}

/// Ends what unpacks to more than an image has.
struct Metered<'a, R> {
    inner: &'a mut R,
    meter: &'a Meter,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let Meter { limits, packed, plain } = self.meter;
        let fits =
            packed.get().saturating_mul(limits.ratio).saturating_add(limits.ratio_free_bytes);
        if plain.get() > fits || plain.get() > limits.bytes.saturating_mul(2) {
            return Err(io::Error::other("it unpacks to far more than it is"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
