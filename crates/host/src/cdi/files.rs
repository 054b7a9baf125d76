//! The spec files of a folder, read within bounds. Who may write a spec decides what a container gets, so a file that others
//! than root can change is not read.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::SpecProblem;

/// Bytes of one spec. Eight GPUs cut into seven slices each need some hundred kilobytes.
pub(super) const SPEC_BYTES_MAX: u64 = 1 << 20;
/// Specs of one folder that are read, in the order of their names.
const SPECS_MAX: usize = 64;
/// Entries of one folder that are looked at.
const ENTRIES_MAX: usize = 4_096;

/// The specs of a folder. One that is missing has none.
pub(super) fn spec_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let is_spec = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
    };
    let paths = entries.take(ENTRIES_MAX).filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(is_spec).collect();
    files.sort();
    files.truncate(SPECS_MAX);
    files
}

pub(super) fn read(path: &Path) -> Result<String, SpecProblem> {
    // A pipe under the name of a spec must not hold anybody up.
    let file =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = file.map_err(SpecProblem::Read)?;
    let meta = file.metadata().map_err(SpecProblem::Read)?;
    if !meta.is_file() {
        return Err(SpecProblem::NotAFile);
    }
    let is_ours = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || meta.mode() & 0o022 != 0 {
        return Err(SpecProblem::Writable);
    }
    let mut text = String::new();
    file.take(SPEC_BYTES_MAX + 1).read_to_string(&mut text).map_err(SpecProblem::Read)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > SPEC_BYTES_MAX {
        return Err(SpecProblem::TooLarge);
    }
    Ok(text)
}
