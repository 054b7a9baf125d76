//! What a dynamic program asks of the machine that it is started on: libraries, and versions of their symbols.
//!
//! Reads 64-bit little-endian ELF files, which is all that is built here.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// `SHT_DYNAMIC` and `SHT_GNU_verneed`.
const DYNAMIC: u32 = 6;
const VERSIONS_NEEDED: u32 = 0x6fff_fffe;
/// `DT_NEEDED`.
const NEEDED: u64 = 1;
const SECTION_LEN: usize = 64;
const DYNAMIC_LEN: usize = 16;
/// More libraries or versions than any program here has; a damaged file ends the walk.
const ENTRIES_MAX: usize = 4096;

/// What a program needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Names of libraries.
    pub(crate) libraries: BTreeSet<String>,
    /// Versions of symbols, such as `GLIBC_2.17`.
    pub(crate) versions: BTreeSet<String>,
}

struct Section {
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

/// Reads a program's needs.
pub(crate) fn needs(file: &[u8]) -> anyhow::Result<Needs> {
    if !file.starts_with(MAGIC) {
        bail!("not a 64-bit ELF file");
    }
    let (start, count) = (number(file, 40, 8)?, number(file, 60, 2)?);
    let sections: Vec<Section> =
        (0..count).map(|at| section(file, start + at * SECTION_LEN)).collect::<Result<_, _>>()?;
    let mut needs = Needs::default();
    for section in &sections {
        let texts = sections.get(section.link).context("a section without its texts")?;
        match section.kind {
            DYNAMIC => libraries(file, section, texts, &mut needs)?,
            VERSIONS_NEEDED => versions(file, section, texts, &mut needs)?,
            _ => {}
        }
    }
    Ok(needs)
}

/// The newest version of the C library that is asked for, as (2, 17).
pub(crate) fn newest_glibc(needs: &Needs) -> Option<(u32, u32)> {
    let parse = |version: &String| {
        let mut parts = version.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    needs.versions.iter().filter_map(parse).max()
}

fn section(file: &[u8], at: usize) -> anyhow::Result<Section> {
    Ok(Section {
        kind: u32::try_from(number(file, at + 4, 4)?)?,
        offset: number(file, at + 24, 8)?,
        size: number(file, at + 32, 8)?,
        link: number(file, at + 40, 4)?,
    })
}

fn libraries(
    file: &[u8],
    dynamic: &Section,
    texts: &Section,
    to: &mut Needs,
) -> anyhow::Result<()> {
    for at in (dynamic.offset..).step_by(DYNAMIC_LEN).take(dynamic.size / DYNAMIC_LEN) {
        if number(file, at, 8)? as u64 == NEEDED {
            to.libraries.insert(text(file, texts.offset + number(file, at + 8, 8)?)?);
        }
    }
    Ok(())
}

/// A chain of libraries, each with a chain of versions; both by distances.
fn versions(file: &[u8], needed: &Section, texts: &Section, to: &mut Needs) -> anyhow::Result<()> {
    let mut library = needed.offset;
    for _ in 0..ENTRIES_MAX {
        let mut version = library + number(file, library + 8, 4)?;
        for _ in 0..ENTRIES_MAX {
            to.versions.insert(text(file, texts.offset + number(file, version + 8, 4)?)?);
            match number(file, version + 12, 4)? {
                0 => break,
                next => version += next,
            }
        }
        match number(file, library + 12, 4)? {
            0 => return Ok(()),
            next => library += next,
        }
    }
    bail!("a chain of libraries without an end")
}

fn number(file: &[u8], at: usize, len: usize) -> anyhow::Result<usize> {
    let bytes = file.get(at..at + len).context("the file ends too early")?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn text(file: &[u8], at: usize) -> anyhow::Result<String> {
    let bytes = file.get(at..).context("a text outside of the file")?;
    let end = bytes.iter().position(|byte| *byte == 0).context("a text without an end")?;
    Ok(std::str::from_utf8(&bytes[..end])?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that overlooks a version would let a prover out that does not start on older machines.
    #[test]
    fn this_program_needs_a_c_library() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&file).unwrap();
        assert!(needs.libraries.contains("libc.so.6"), "{needs:?}");
        assert!(newest_glibc(&needs).unwrap() >= (2, 2), "{needs:?}");
    }

    /// Versions are compared as numbers, and those of other libraries do not count.
    #[test]
    fn the_newest_version_is_found() {
        let versions = ["GLIBC_2.9", "GLIBC_2.17", "GLIBC_2.2.5", "GCC_3.0", "GLIBC_PRIVATE"];
        let versions = versions.map(str::to_owned).into();
        assert_eq!(newest_glibc(&Needs { versions, ..Needs::default() }), Some((2, 17)));
    }

    /// A damaged file must be refused, not read beyond its end.
    #[test]
    fn damaged_files_are_refused() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs(&file[..100]).is_err());
        assert!(needs(b"#!/bin/sh").is_err());
    }
}
