//! The programs inside this one: the agent that runs in every container, and the two provers that a validator uploads, the
//! static one for processors and the one that loads a GPU's driver.
//!
//! They are written out beside their place and renamed into it: a container that runs keeps the file that it has mounted,
//! and the next one gets the new one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

static AGENT: &[u8] = include_bytes!(env!("NICOMPUTE_AGENT_BIN"));
static PROVER: &[u8] = include_bytes!(env!("NICOMPUTE_PROVER_BIN"));
static CUDA_PROVER: &[u8] = include_bytes!(env!("NICOMPUTE_PROVER_CUDA_BIN"));

/// Readable and executable by everyone, a container's mapped root included; writable by the owner alone.
const MODE: u32 = 0o755;

/// Where the programs were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    /// The agent.
    pub(crate) agent: PathBuf,
    /// The prover of processors.
    pub(crate) prover: PathBuf,
    /// The prover of GPUs.
    pub(crate) cuda_prover: PathBuf,
}

/// A program could not be written out.
#[derive(Debug, thiserror::Error)]
#[error("could not write the embedded program {}", path.display())]
pub(crate) struct MaterializeError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The agent's bytes.
pub(crate) const fn agent() -> &'static [u8] {
    AGENT
}

/// The bytes of the prover of processors.
pub(crate) const fn prover() -> &'static [u8] {
    PROVER
}

/// The bytes of the prover of GPUs.
pub(crate) const fn cuda_prover() -> &'static [u8] {
    CUDA_PROVER
}

/// Writes all programs into the folder, unless they are there already, byte for byte.
///
/// # Errors
/// When the folder or a file cannot be written.
pub(crate) fn materialize(dir: &Path) -> Result<Programs, MaterializeError> {
    Ok(Programs {
        agent: write_program(dir, "nicompute-agent", agent())?,
        prover: write_program(dir, "nicompute-prover", prover())?,
        cuda_prover: write_program(dir, "nicompute-prover-cuda", cuda_prover())?,
    })
}

fn write_program(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, MaterializeError> {
    let path = dir.join(name);
    match write_unless_same(&path, bytes) {
        Ok(()) => Ok(path),
        Err(source) => Err(MaterializeError { path, source }),
    }
}

fn write_unless_same(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if is_same(path, bytes)? {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // The process's number keeps two starting processes off each other's file; the last rename wins with equal bytes.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&fresh)?;
    file.write_all(bytes)?;
    // The mode given at creation passes through the umask.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, path)
}

/// Whether the file is there whole and unchanged. A damaged one is written anew.
fn is_same(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let plausible =
        meta.is_file() && meta.len() == length && meta.permissions().mode() & 0o7777 == MODE;
    Ok(plausible && fs::read(path)? == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damaged agent on disk would end every lease at its start.
    #[test]
    fn programs_are_written_once_and_repaired() {
        let dir = tempfile::tempdir().expect("dir");
        let programs = materialize(&dir.path().join("bin")).expect("writes");
        assert_eq!(fs::read(&programs.agent).expect("reads"), agent());
        assert_eq!(fs::read(&programs.prover).expect("reads"), prover());
        assert_eq!(fs::read(&programs.cuda_prover).expect("reads"), cuda_prover());
        let written = |path: &Path| fs::metadata(path).expect("exists").modified().expect("known");
        let first = written(&programs.agent);
        assert_eq!(materialize(&dir.path().join("bin")).expect("again"), programs);
        assert_eq!(written(&programs.agent), first);
        fs::write(&programs.agent, "damaged").expect("writes");
        materialize(&dir.path().join("bin")).expect("repairs");
        assert_eq!(fs::read(&programs.agent).expect("reads"), agent());
        let mode = fs::metadata(&programs.prover).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        assert_eq!(fs::read_dir(dir.path().join("bin")).expect("lists").count(), 3);
    }

    /// What cheats in this program for the sake of a doubter must not be in the one that providers are asked to run.
    #[test]
    fn the_prover_has_no_cheaters() {
        let holds = |program: &[u8], text: &str| {
            program.windows(text.len()).any(|window| window == text.as_bytes())
        };
        for program in [prover(), cuda_prover()] {
            assert!(holds(program, "nicompute-prover"), "its own words are found in it");
            for cheat in nicompute_prover::cheats::table() {
                assert!(!holds(program, cheat.does), "{}", cheat.name);
            }
        }
    }

    /// Programs that need a library do not start in an image without it; a driver's library cannot be loaded by a static one.
    #[test]
    fn the_programs_are_static_but_for_the_prover_of_gpus() {
        assert!(!needs_loader(agent()) && !needs_loader(prover()));
        assert!(needs_loader(cuda_prover()));
    }

    /// The prover is uploaded into every lease that is proven, over lines that may be slow.
    #[test]
    fn the_provers_are_small() {
        assert!(prover().len() < 2_000_000, "{}", prover().len());
        assert!(cuda_prover().len() < 2_000_000, "{}", cuda_prover().len());
    }

    fn needs_loader(program: &[u8]) -> bool {
        const INTERPRETER: [u8; 4] = [3, 0, 0, 0];
        assert_eq!(program.get(..6), Some(&b"\x7fELF\x02\x01"[..]));
        let number = |at: usize, len: usize| {
            let bytes = &program[at..at + len];
            bytes.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        assert!(count > 0);
        (0..count).any(|at| program[headers + at * size..].starts_with(&INTERPRETER))
    }
}
