//! Images of our own, packed here and imported through the engine: no Dockerfile, no registry, no network. The local
//! market's has a static busybox and the names of its programs; the one for trials has nothing but empty folders. The agent
//! is in neither; it is mounted into every container.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bollard::errors::Error as EngineError;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

/// The repository part of the image's name; the tag follows from its content.
pub const DEVNET_REPOSITORY: &str = "nicompute/devnet";

/// The repository part of the name of the image for trials.
const TRIAL_REPOSITORY: &str = "nicompute/trial";

/// Where distributions put busybox.
const BUSYBOX_PLACES: [&str; 4] =
    ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox", "/bin/busybox.static"];
/// A static busybox has about two megabytes.
const BUSYBOX_BYTES_MAX: u64 = 16 << 20;
/// It lists about four hundred names of a few letters.
const LIST_BYTES_MAX: u64 = 64 << 10;
/// Longest name of a program that the archive format takes without an extension.
const NAME_BYTES_MAX: usize = 60;
/// Digits of the content's hash in the tag.
const TAG_DIGITS: usize = 16;
const BLOCK: usize = 512;

const DIRS: [(&str, u32); 13] = [
    (".nicompute/", 0o755),
    (".nicompute/run/", 0o755),
    ("bin/", 0o755),
    ("dev/", 0o755),
    ("etc/", 0o755),
    ("home/", 0o755),
    ("proc/", 0o555),
    ("root/", 0o700),
    ("run/", 0o755),
    ("sys/", 0o555),
    ("tmp/", 0o1777),
    ("var/", 0o755),
    ("var/tmp/", 0o1777),
];
const FILES: [(&str, &str); 3] = [
    (".nicompute/agent", ""),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
];

/// Why the image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no busybox.
    #[error("busybox is not installed")]
    NoBusybox,
    /// There is one that needs libraries, which the image would not have.
    #[error("{} is not linked statically", path.display())]
    NotStatic {
        /// Where it lies.
        path: PathBuf,
    },
    /// It could not be read or asked for its names.
    #[error("cannot read {}", path.display())]
    Busybox {
        /// Where it lies.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The engine refused the image.
    #[error("the engine does not take the image")]
    Engine(#[source] EngineError),
}

impl ImageError {
    /// What an operator can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoBusybox | Self::NotStatic { .. } | Self::Busybox { .. } => {
                "install a static busybox (apt-get install busybox-static), or use --runtime sandbox"
            }
            Self::Engine(_) => "check the engine with `docker info`, or use --runtime sandbox",
        }
    }
}

/// The local market's image.
pub(super) async fn build(engine: &bollard::Docker) -> Result<String, ImageError> {
    import(engine, DEVNET_REPOSITORY, pack().await?).await
}

/// The image for trials.
pub(super) async fn build_trial(engine: &bollard::Docker) -> Result<String, ImageError> {
    let mut archive = Vec::new();
    append_skeleton(&mut archive);
    finish(&mut archive);
    import(engine, TRIAL_REPOSITORY, archive).await
}

/// Hands an archive to the engine under a name that follows from its content. What is there already stays.
async fn import(
    engine: &bollard::Docker,
    repository: &str,
    archive: Vec<u8>,
) -> Result<String, ImageError> {
    let hash = hex::encode(Sha256::digest(&archive));
    let tag = hash.get(..TAG_DIGITS).unwrap_or(&hash);
    let name = format!("{repository}:{tag}");
    match engine.inspect_image(&name).await {
        Ok(_) => return Ok(name),
        Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(error) => return Err(ImageError::Engine(error)),
    }
    let options =
        CreateImageOptionsBuilder::default().from_src("-").repo(repository).tag(tag).build();
    let mut import = Box::pin(engine.create_image(
        Some(options),
        Some(bollard::body_full(archive.into())),
        None,
    ));
    while let Some(progress) = import.next().await {
        progress.map_err(ImageError::Engine)?;
    }
    Ok(name)
}

async fn pack() -> Result<Vec<u8>, ImageError> {
    let path = BUSYBOX_PLACES.iter().map(Path::new).find(|path| path.exists());
    let path = path.ok_or(ImageError::NoBusybox)?;
    let failed = |source| ImageError::Busybox { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > BUSYBOX_BYTES_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let busybox = fs::read(path).map_err(failed)?;
    if needs_loader(&busybox) != Some(false) {
        return Err(ImageError::NotStatic { path: path.to_owned() });
    }
    let names = program_names(path).await.map_err(failed)?;
    Ok(archive(&busybox, &names))
}

async fn program_names(busybox: &Path) -> io::Result<Vec<String>> {
    let mut child = tokio::process::Command::new(busybox)
        .arg("--list")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut text = String::new();
    stdout.take(LIST_BYTES_MAX).read_to_string(&mut text).await?;
    child.wait().await?;
    let plain = |name: &&str| {
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.[".contains(c));
        letters && !name.is_empty() && name.len() <= NAME_BYTES_MAX && *name != "busybox"
    };
    let mut seen = HashSet::new();
    Ok(text.lines().filter(plain).filter(|name| seen.insert(*name)).map(str::to_owned).collect())
}

/// The same bytes for the same busybox on every machine: times are zero, the order is fixed.
fn archive(busybox: &[u8], names: &[String]) -> Vec<u8> {
    let mut archive = Vec::new();
    append_skeleton(&mut archive);
    append(&mut archive, "bin/busybox", 0o755, Entry::File(busybox));
    for name in names {
        append(&mut archive, &format!("bin/{name}"), 0o777, Entry::Link("busybox"));
    }
    finish(&mut archive);
    archive
}

fn append_skeleton(archive: &mut Vec<u8>) {
    for (name, mode) in DIRS {
        append(archive, name, mode, Entry::Directory);
    }
    for (name, content) in FILES {
        append(archive, name, 0o644, Entry::File(content.as_bytes()));
    }
}

fn finish(archive: &mut Vec<u8>) {
    archive.resize(archive.len() + 2 * BLOCK, 0);
}

#[derive(Clone, Copy)]
enum Entry<'a> {
    Directory,
    File(&'a [u8]),
    Link(&'a str),
}

/// Adds one entry in the POSIX archive format.
fn append(archive: &mut Vec<u8>, name: &str, mode: u32, entry: Entry<'_>) {
    let (kind, content, target): (u8, &[u8], &str) = match entry {
        Entry::Directory => (b'5', &[], ""),
        Entry::File(content) => (b'0', content, ""),
        Entry::Link(target) => (b'2', &[], target),
    };
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| {
        for (to, from) in header.iter_mut().skip(at).zip(text) {
            *to = *from;
        }
    };
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").as_bytes()) {
        *to = *from;
    }
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

/// Whether a 64-bit little-endian ELF program names a loader. `None` for anything else.
fn needs_loader(program: &[u8]) -> Option<bool> {
    const LOADER: u32 = 3;
    let bytes = |at: usize, len: usize| program.get(at..at.checked_add(len)?);
    let u16_at = |at| Some(usize::from(u16::from_le_bytes(bytes(at, 2)?.try_into().ok()?)));
    let u32_at = |at| Some(u32::from_le_bytes(bytes(at, 4)?.try_into().ok()?));
    let u64_at = |at| usize::try_from(u64::from_le_bytes(bytes(at, 8)?.try_into().ok()?)).ok();
    if bytes(0, 6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (u64_at(32)?, u16_at(54)?, u16_at(56)?);
    for index in 0..count {
        let at = table.checked_add(index.checked_mul(size)?)?;
        if u32_at(at)? == LOADER {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image whose shell needs a library that is not in it would start and then refuse every command.
    #[test]
    fn dynamic_programs_are_told_apart() {
        let mut program = vec![0; 64];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[32] = 64;
        program[54] = 56;
        program[56] = 1;
        program.resize(64 + 56, 0);
        program[64] = 1;
        assert_eq!(needs_loader(&program), Some(false));
        program[64] = 3;
        assert_eq!(needs_loader(&program), Some(true));
        program.truncate(64);
        assert_eq!(needs_loader(&program), None);
        program[0] = 0;
        assert_eq!(needs_loader(&program), None);
        for length in 0..64 {
            assert_eq!(needs_loader(&vec![0x7f; length]), None);
        }
    }

    /// An archive that engines cannot read leaves the local market without an image.
    #[test]
    fn archives_are_whole() {
        let packed = archive(b"#!", &["sh".to_owned(), "[".to_owned()]);
        assert_eq!(packed.len() % BLOCK, 0);
        assert_eq!(packed, archive(b"#!", &["sh".to_owned(), "[".to_owned()]), "same bytes");
        let checksum = |header: &[u8]| -> u32 {
            let blank = |(at, byte): (usize, &u8)| {
                if (148..156).contains(&at) { 32 } else { u32::from(*byte) }
            };
            header.iter().enumerate().map(blank).sum()
        };
        let header = &packed[..BLOCK];
        let stored = std::str::from_utf8(&header[148..154]).expect("digits");
        assert_eq!(u32::from_str_radix(stored, 8).expect("octal"), checksum(header));
        let tail = &packed[packed.len() - 2 * BLOCK..];
        assert!(tail.iter().all(|byte| *byte == 0));
    }
}
