//! Names of images, and which of them a node may fetch. Names come from renters: they are taken apart once, here, and what
//! is not a name in the registries' own grammar never reaches an engine or a registry.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest image name that is passed on to an engine.
pub const IMAGE_NAME_LEN_MAX: usize = 255;
/// The registry of names without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry keeps names of one word.
const DEFAULT_FOLDER: &str = "library/";
/// The tag of names without a tag and a digest.
const DEFAULT_TAG: &str = "latest";
/// Longest tag that registries take.
const TAG_LEN_MAX: usize = 128;
/// Digits of a SHA-256 digest.
const DIGEST_DIGITS: usize = 64;
/// What a node may fetch in all, where its operator said nothing.
const BYTES_MAX: u64 = 200 << 30;
/// What stays free on the engine's disk, where its operator said nothing.
const FREE_BYTES_MIN: u64 = 20 << 30;
/// How long a fetch may stand still; unpacking one large layer takes minutes and is not always reported.
const STALL: Duration = Duration::from_secs(600);
/// How long a fetch may take in all.
const WHOLE: Duration = Duration::from_secs(4 * 3600);

/// An image's name in full. Two spellings of one name are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Version {
    Tag(String),
    Digest(String),
}

/// What is not an image's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an image's name, expected [REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]")]
pub struct NotAnImage;

/// Images that may be fetched: `[REGISTRY/]REPOSITORY` with any version or with one, or everything below a folder of a
/// registry as `[REGISTRY/][FOLDER/]*`. A registry is always named, so that no renter sends the node to a machine in its
/// provider's own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern {
    registry: String,
    what: Below,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Below {
    /// Every repository whose name begins so; empty for all.
    Folder(String),
    /// One repository, with one version or with any.
    Repository(String, Option<Version>),
}

/// What is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an image pattern, expected [REGISTRY/]REPOSITORY[:TAG|@DIGEST] or REGISTRY/[FOLDER/]*"
)]
pub struct NotAPattern;

/// Which images a node may fetch, and how much room they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePolicy {
    /// What may be fetched beside the images that the operator named one by one.
    pub allow: Vec<ImagePattern>,
    /// Bytes of all images that the node has fetched. The ones that nobody has used longest make room.
    pub bytes_max: u64,
    /// Bytes that stay free on the engine's disk.
    pub free_bytes_min: u64,
    /// How long a fetch may stand still.
    pub stall: Duration,
    /// How long a fetch may take in all.
    pub whole: Duration,
}

impl Default for ImagePolicy {
    /// Nothing but what the operator names.
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            bytes_max: BYTES_MAX,
            free_bytes_min: FREE_BYTES_MIN,
            stall: STALL,
            whole: WHOLE,
        }
    }
}

// === impl ImageName ===

impl ImageName {
    /// The name without its version, as engines show it.
    #[must_use]
    pub fn repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        let short = self.repository.strip_prefix(DEFAULT_FOLDER);
        short.filter(|rest| !rest.contains('/')).unwrap_or(&self.repository).to_owned()
    }

    /// The tag, where the version is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, where the version is one: `sha256:` and 64 digits.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        match &self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    /// The same repository at a digest.
    ///
    /// # Errors
    /// When it is not a SHA-256 digest.
    pub fn at_digest(&self, digest: &str) -> Result<Self, NotAnImage> {
        let version = Version::Digest(checked_digest(digest)?);
        Ok(Self { version, ..self.clone() })
    }
}

impl FromStr for ImageName {
    type Err = NotAnImage;

    fn from_str(text: &str) -> Result<Self, NotAnImage> {
        if text.len() > IMAGE_NAME_LEN_MAX {
            return Err(NotAnImage);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(checked_digest(digest)?)),
            None => (text, None),
        };
        let (registry, path) = split_registry(rest)?;
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(checked_tag(tag)?)),
            None => (path, None),
        };
        let repository = full_repository(&registry, repository);
        if !repository.split('/').all(is_path_part) {
            return Err(NotAnImage);
        }
        // A digest says more than a tag beside it.
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, Some(tag)) => Version::Tag(tag),
            (None, None) => Version::Tag(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { registry, repository, version })
    }
}

impl fmt::Display for ImageName {
    /// As engines show it: without the default registry, with the version.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository()),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository()),
        }
    }
}

// === impl ImagePattern ===

impl ImagePattern {
    /// Whether it covers the image.
    #[must_use]
    pub fn covers(&self, image: &ImageName) -> bool {
        self.registry == image.registry
            && match &self.what {
                Below::Folder(folder) => image.repository.starts_with(folder.as_str()),
                Below::Repository(repository, version) => {
                    *repository == image.repository
                        && version.as_ref().is_none_or(|version| *version == image.version)
                }
            }
    }

    /// Whether it covers every image that another pattern covers.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        self.registry == other.registry
            && match (&self.what, &other.what) {
                (Below::Folder(all), Below::Folder(some) | Below::Repository(some, _)) => {
                    some.starts_with(all.as_str())
                }
                (Below::Repository(..), Below::Folder(_)) => false,
                (Below::Repository(all, any), Below::Repository(some, one)) => {
                    all == some && (any.is_none() || any == one)
                }
            }
    }
}

impl fmt::Display for ImagePattern {
    /// With its registry, so that it reads back as the same pattern.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.registry)?;
        match &self.what {
            Below::Folder(folder) => write!(f, "{folder}*"),
            Below::Repository(repository, None) => f.write_str(repository),
            Below::Repository(repository, Some(Version::Tag(tag))) => {
                write!(f, "{repository}:{tag}")
            }
            Below::Repository(repository, Some(Version::Digest(digest))) => {
                write!(f, "{repository}@{digest}")
            }
        }
    }
}

impl FromStr for ImagePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        if let Some(folder) = text.strip_suffix('*') {
            return folder_pattern(folder);
        }
        let image: ImageName = text.parse().map_err(|NotAnImage| NotAPattern)?;
        let last = text.rsplit('/').next().unwrap_or_default();
        let version = last.contains([':', '@']).then_some(image.version);
        Ok(Self { registry: image.registry, what: Below::Repository(image.repository, version) })
    }
}

fn folder_pattern(folder: &str) -> Result<ImagePattern, NotAPattern> {
    let path = folder.strip_suffix('/').ok_or(NotAPattern)?;
    let (registry, rest) = match path.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ if is_registry(path) => (path, ""),
        _ => (DEFAULT_REGISTRY, path),
    };
    if path.is_empty()
        || !is_host(registry)
        || (!rest.is_empty() && !rest.split('/').all(is_path_part))
    {
        return Err(NotAPattern);
    }
    let folder = if rest.is_empty() { String::new() } else { format!("{rest}/") };
    Ok(ImagePattern { registry: registry.to_owned(), what: Below::Folder(folder) })
}

/// A first part with a dot or a port, or `localhost`, is a registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn split_registry(text: &str) -> Result<(String, &str), NotAnImage> {
    match text.split_once('/') {
        Some((first, rest)) if is_registry(first) => {
            let registry = if first == "index.docker.io" { DEFAULT_REGISTRY } else { first };
            if is_host(registry) { Ok((registry.to_owned(), rest)) } else { Err(NotAnImage) }
        }
        _ => Ok((DEFAULT_REGISTRY.to_owned(), text)),
    }
}

fn full_repository(registry: &str, repository: &str) -> String {
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("{DEFAULT_FOLDER}{repository}")
    } else {
        repository.to_owned()
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_path_part(part: &str) -> bool {
    let ends = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    ends(part.bytes().next())
        && ends(part.bytes().last())
        && !part.contains("..")
        && part.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        })
}

fn checked_tag(tag: &str) -> Result<String, NotAnImage> {
    let first = tag.bytes().next().ok_or(NotAnImage)?;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = tag.len() <= TAG_LEN_MAX
        && is_word(first)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'));
    if fits { Ok(tag.to_owned()) } else { Err(NotAnImage) }
}

fn checked_digest(digest: &str) -> Result<String, NotAnImage> {
    let digits = digest.strip_prefix("sha256:").ok_or(NotAnImage)?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    let fits = digits.len() == DIGEST_DIGITS && digits.bytes().all(is_digit);
    if fits { Ok(digest.to_owned()) } else { Err(NotAnImage) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn name(text: &str) -> ImageName {
        text.parse().unwrap_or_else(|NotAnImage| panic!("{text}"))
    }

    /// One image under two spellings would be fetched twice, or allowed under one and refused under the other.
    #[test]
    fn spellings_of_one_name_are_equal() {
        for (text, shown) in [
            ("busybox", "busybox:latest"),
            ("library/busybox", "busybox:latest"),
            ("docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/library/busybox", "busybox:latest"),
            ("docker.io/pytorch/pytorch:2", "pytorch/pytorch:2"),
            ("127.0.0.1:5000/tools/box", "127.0.0.1:5000/tools/box:latest"),
            ("127.0.0.1:5000/box:2", "127.0.0.1:5000/box:2"),
            ("localhost/box", "localhost/box:latest"),
            ("ghcr.io/a/b/c:V1.2_x-y", "ghcr.io/a/b/c:V1.2_x-y"),
        ] {
            assert_eq!(name(text).to_string(), shown);
            assert_eq!(name(shown), name(text));
        }
        let pinned = name(&format!("busybox:1.36@{DIGEST}"));
        assert_eq!(pinned.to_string(), format!("busybox@{DIGEST}"));
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(DIGEST)));
        assert_eq!(name("busybox").at_digest(DIGEST), Ok(pinned));
    }

    /// A name that leads an engine to another of its paths, or a registry to another host, would be a renter's command.
    #[test]
    fn what_is_not_a_name_is_refused() {
        let long = "a".repeat(IMAGE_NAME_LEN_MAX + 1);
        let tag = format!("box:{}", "a".repeat(TAG_LEN_MAX + 1));
        for text in [
            "",
            "/",
            "a//b",
            "../x",
            "a/../b",
            "a/./b",
            "Box",
            "box:",
            "box:.x",
            "box:a/b",
            "box@",
            "box@sha256:12",
            "box@md5:00",
            "box?x=1",
            "box#x",
            "box json",
            "box\n",
            "box\0",
            "$(id)",
            "-x",
            "a/-x",
            "x-",
            "é",
            "a.b:99999/x",
            "a..b/x",
            "-.b/x",
            "a.b/",
            "http://a/b",
            "user@host/x",
            "box%2f..",
            "a\\b",
            "'box'",
            "[::1]:5/x",
            &long,
            &tag,
        ] {
            assert_eq!(text.parse::<ImageName>(), Err(NotAnImage), "{text:?}");
        }
        for digest in [DIGEST.to_uppercase(), format!("{DIGEST}0"), DIGEST.replace('0', "g")] {
            assert_eq!(format!("box@{digest}").parse::<ImageName>(), Err(NotAnImage), "{digest}");
        }
    }

    /// An operator who allows one repository must not have allowed its neighbours, nor another registry's.
    #[test]
    fn patterns_cover_what_they_name() {
        let covers = |pattern: &str, image: &str| {
            let pattern: ImagePattern = pattern.parse().expect("pattern");
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            pattern.covers(&name(image))
        };
        for (pattern, image, covered) in [
            ("pytorch/pytorch", "docker.io/pytorch/pytorch:2", true),
            ("pytorch/pytorch", "pytorch/pytorch-nightly:2", false),
            ("pytorch/pytorch", "ghcr.io/pytorch/pytorch:2", false),
            ("pytorch/pytorch:2", "pytorch/pytorch:2", true),
            ("pytorch/pytorch:2", "pytorch/pytorch:3", false),
            ("pytorch/pytorch:2", &format!("pytorch/pytorch@{DIGEST}"), false),
            ("pytorch/pytorch", &format!("pytorch/pytorch@{DIGEST}"), true),
            ("pytorch/*", "pytorch/pytorch:2", true),
            ("pytorch/*", "pytorchx/pytorch:2", false),
            ("library/*", "busybox", true),
            ("docker.io/*", "busybox", true),
            ("docker.io/*", "ghcr.io/a/b", false),
            ("ghcr.io/a/*", "ghcr.io/a/b", true),
            ("ghcr.io/a/*", "ghcr.io/ab/b", false),
            ("127.0.0.1:5000/*", "127.0.0.1:5000/x", true),
            ("127.0.0.1:5000/*", "127.0.0.1:5001/x", false),
        ] {
            assert_eq!(covers(pattern, image), covered, "{pattern} {image}");
        }
    }

    /// An offer that says more than its node fetches takes rentals that cannot begin.
    #[test]
    fn patterns_include_patterns() {
        let includes = |all: &str, some: &str| {
            let read = |text: &str| text.parse::<ImagePattern>().expect("pattern");
            read(all).includes(&read(some))
        };
        for (all, some, is_so) in [
            ("docker.io/*", "pytorch/*", true),
            ("pytorch/*", "docker.io/*", false),
            ("pytorch/*", "pytorch/pytorch:2", true),
            ("pytorch/*", "ghcr.io/pytorch/pytorch", false),
            ("pytorch/pytorch", "pytorch/pytorch:2", true),
            ("pytorch/pytorch:2", "pytorch/pytorch", false),
            ("pytorch/pytorch:2", "pytorch/pytorch:2", true),
            ("pytorch/pytorch", "pytorch/*", false),
        ] {
            assert_eq!(includes(all, some), is_so, "{all} {some}");
        }
    }

    /// A pattern that means every registry would let renters send the node into its provider's network.
    #[test]
    fn a_pattern_names_its_registry() {
        for text in [
            "",
            "*",
            "/*",
            "a*",
            "a/*b",
            "a/*/b",
            "*/a",
            "a/**",
            "../*",
            "ghcr.io/../*",
            "A/*",
            "a b/*",
            "a//*",
        ] {
            assert_eq!(text.parse::<ImagePattern>(), Err(NotAPattern), "{text:?}");
        }
    }
}
