//! The archive format of layers, read by hand: every byte is its author's, nothing is trusted, everything is bounded.

use std::io::{self, Read, Seek, SeekFrom};

/// The unit of the format.
const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = 512;
/// Bytes of one extension header; a path has at most 4,096 bytes, and attributes are few.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Extension headers before one entry.
const EXTENSIONS_MAX: u32 = 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Device,
    Directory,
    Fifo,
    /// Something that this program does not know, by its letter.
    Other(u8),
}

/// One entry, before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) modified_s: i64,
}

/// A damaged archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    #[error("the archive is damaged: {0}")]
    Damaged(&'static str),
}

/// An archive that is read from front to back.
#[derive(Debug)]
pub(super) struct Archive<R> {
    input: R,
    /// Bytes of the current entry that were not read yet.
    left: u64,
    /// Bytes after it up to the next block.
    padding: u64,
    position: u64,
}

/// What extension headers say of the next entry.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified_s: Option<i64>,
}

impl<R: Read> Archive<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, position: 0 }
    }

    /// Where the current entry's content begins.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The next entry; what was not read of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip()?;
        let mut extension = Extension::default();
        for _ in 0..=EXTENSIONS_MAX {
            let Some(header) = self.header()? else { return Ok(None) };
            let letter = header[156];
            let size = extension.size.map_or_else(|| number(&header[124..136]), Ok)?;
            match letter {
                b'x' | b'g' | b'L' | b'K' => {
                    let text = self.extension(number(&header[124..136])?)?;
                    match letter {
                        b'x' => extension.read(&text)?,
                        b'L' => extension.path = Some(until_zero(&text)),
                        b'K' => extension.link = Some(until_zero(&text)),
                        _ => {}
                    }
                }
                _ => {
                    let entry = entry(&header, extension, size)?;
                    let has_content = matches!(entry.kind, Kind::File | Kind::Other(_));
                    self.expect(if has_content { size } else { 0 });
                    return Ok(Some(entry));
                }
            }
        }
        Err(TarError::Damaged("too many extension headers"))
    }

    /// Passes over the rest of the current entry.
    fn skip(&mut self) -> Result<(), TarError> {
        let all =
            self.left.checked_add(self.padding).ok_or(TarError::Damaged("an entry's size"))?;
        let passed = io::copy(&mut (&mut self.input).take(all), &mut io::sink());
        if passed.map_err(TarError::Read)? != all {
            return Err(TarError::Damaged("it ends too soon"));
        }
        self.position = self.position.saturating_add(all);
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES;
    }

    /// The next header; none at the end, which is a block of zeroes or nothing at all.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Damaged("it ends too soon")),
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        self.position = self.position.saturating_add(BLOCK_BYTES);
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let byte = |(at, byte): (usize, &u8)| {
            if (148..156).contains(&at) { 32 } else { u64::from(*byte) }
        };
        let sum: u64 = block.iter().enumerate().map(byte).sum();
        if number(&block[148..156])? != sum {
            return Err(TarError::Damaged("a checksum"));
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_BYTES_MAX {
            return Err(TarError::Damaged("an extension header is too long"));
        }
        self.expect(size);
        let mut text = Vec::new();
        self.read_to_end(&mut text).map_err(TarError::Read)?;
        self.skip()?;
        Ok(text)
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Passes over the current entry's content without reading it.
    pub(super) fn seek_over(&mut self) -> Result<(), TarError> {
        let all =
            self.left.checked_add(self.padding).ok_or(TarError::Damaged("an entry's size"))?;
        let to = self.position.checked_add(all).ok_or(TarError::Damaged("an entry's size"))?;
        self.input.seek(SeekFrom::Start(to)).map_err(TarError::Read)?;
        self.position = to;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

/// The content of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let read = (&mut self.input).take(self.left).read(buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read_u64 = u64::try_from(read).map_err(io::Error::other)?;
        self.left = self.left.saturating_sub(read_u64);
        self.position = self.position.saturating_add(read_u64);
        Ok(read)
    }
}

impl Extension {
    /// Records of the form `length key=value\n`.
    fn read(&mut self, text: &[u8]) -> Result<(), TarError> {
        const BAD: TarError = TarError::Damaged("an extension header");
        let mut rest = text;
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
            let length: usize = decimal(rest.get(..space).ok_or(BAD)?).ok_or(BAD)?;
            let record = rest.get(space + 1..length).ok_or(BAD)?;
            let record = record.strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
            let (key, value) =
                (record.get(..equals).ok_or(BAD)?, record.get(equals + 1..).ok_or(BAD)?);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or(BAD)?),
                b"uid" => self.uid = Some(decimal(value).ok_or(BAD)?),
                b"gid" => self.gid = Some(decimal(value).ok_or(BAD)?),
                b"mtime" => {
                    let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                    self.modified_s = Some(decimal(whole).ok_or(BAD)?);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(TarError::Damaged("a file with holes, which layers do not have"));
                }
                _ => {}
            }
            rest = rest.get(length..).ok_or(BAD)?;
        }
        Ok(())
    }
}

fn entry(header: &[u8; BLOCK], extension: Extension, size: u64) -> Result<Entry, TarError> {
    let kind = match header[156] {
        b'0' | 0 | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => Kind::Other(other),
    };
    let mut path = until_zero(&header[..100]);
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        let mut prefix = until_zero(&header[345..500]);
        prefix.push(b'/');
        prefix.append(&mut path);
        path = prefix;
    }
    let path = extension.path.unwrap_or(path);
    // Old archives mark a directory by the end of its name alone.
    let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Directory } else { kind };
    Ok(Entry {
        path,
        link: extension.link.unwrap_or_else(|| until_zero(&header[157..257])),
        kind,
        mode: u32::try_from(number(&header[100..108])? & 0o7777).unwrap_or(0),
        uid: extension.uid.map_or_else(|| number(&header[108..116]), Ok)?,
        gid: extension.gid.map_or_else(|| number(&header[116..124]), Ok)?,
        size,
        modified_s: match extension.modified_s {
            Some(seconds) => seconds,
            None => i64::try_from(number(&header[136..148])?).unwrap_or(0),
        },
    })
}

/// An octal number, or a binary one where the first bit says so.
fn number(field: &[u8]) -> Result<u64, TarError> {
    const BAD: TarError = TarError::Damaged("a number");
    let (first, rest) = field.split_first().ok_or(BAD)?;
    if first & 0x80 != 0 {
        let mut value = u64::from(first & 0x7f);
        for byte in rest {
            value = value.checked_mul(256).ok_or(BAD)? | u64::from(*byte);
        }
        return Ok(value);
    }
    let text = until_zero(field);
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| BAD)?;
    u64::from_str_radix(digits, 8).map_err(|_| BAD)
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn until_zero(text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
