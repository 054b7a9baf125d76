//! GPUs without a GPU, as NVIDIA's management library would tell of them: a stand-in that tests steer by a file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::judges::Judge;
use crate::{run, test};

/// What names the folder to the tests.
pub(crate) const VARIABLE: &str = "NICOMPUTE_TEST_MOCK_NVML";

const SOURCE: &str = "crates/host/nvml-mock/mock_nvml.cpp";
/// The name under which drivers install the library.
const LIBRARY: &str = "libnvidia-ml.so.1";
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fvisibility=hidden",
    "-fPIC",
    "-shared",
    "-Wl,-soname,libnvidia-ml.so.1",
];

/// Builds what is out of date and prints the folder.
pub(crate) fn run() -> anyhow::Result<()> {
    let folder = build(&test::target_folder()?).map_err(anyhow::Error::msg)?;
    println!("{VARIABLE}={}", folder.display());
    Ok(())
}

/// The folder with the library, built again where source or flags have changed.
pub(crate) fn build(target: &Path) -> Judge {
    try_build(target).map_err(|error| format!("{error:#}"))
}

fn try_build(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("judges/mock-nvml");
    let stamp = folder.join("sources.txt");
    let source = run::root().join(SOURCE);
    let wanted = FLAGS.join(" ") + &fs::read_to_string(&source)?;
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    let mut compiler = run::command("g++", &FLAGS);
    compiler.arg("-o").arg(folder.join(LIBRARY)).arg(source).arg("-ldl");
    run::must(compiler)?;
    fs::write(&stamp, &wanted)?;
    Ok(folder)
}
