//! GPUs without a GPU: the CUDA kernels under the host's compiler, as a library for tests and inside a mock driver.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::judges::Judge;
use crate::{run, test};

/// What names the folder to the tests.
pub(crate) const VARIABLE: &str = "NICOMPUTE_TEST_MOCK_CUDA";

const SOURCES: &str = "crates/prover/cuda";
/// The kernels alone.
const EMULATED: [&str; 2] = ["libnicompute_emulated.so", "emulated.cpp"];
/// The driver, which the loader must find under its real name.
const DRIVER: [&str; 2] = ["libcuda.so.1", "mock_driver.cpp"];
/// The emulator must judge what it claims to judge: a program with one wrong kernel for each of its rules.
const FAULTS: [&str; 2] = ["emulator_faults", "emulator_faults.cpp"];
/// Times the kernels on whatever device the driver has.
const MEASURE: [&str; 2] = ["measure", "measure.cpp"];
/// Sizes of a measurement, unless others are asked for: width, rows of a step, bytes to walk over (0: nine tenths of the memory).
const SIZES: [&str; 3] = ["4096", "65536", "0"];
/// Fibers jump between stacks, which checked jumps and shadow stacks refuse.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",
    "-fcf-protection=none",
];

/// Builds what is out of date and prints the folder.
pub(crate) fn run() -> anyhow::Result<()> {
    let folder = build(&test::target_folder()?).map_err(anyhow::Error::msg)?;
    println!("{VARIABLE}={}", folder.display());
    Ok(())
}

/// Compares the kernels with their emulation on the machine's own GPU and times them; says so where there is none.
pub(crate) fn measure(sizes: &[&str]) -> anyhow::Result<()> {
    let folder = build(&test::target_folder()?).map_err(anyhow::Error::msg)?;
    let fatbin = format!("{SOURCES}/kernels.fatbin");
    let sizes = if sizes.is_empty() { &SIZES } else { sizes };
    let mut measure = run::command(folder.join(MEASURE[0]), &[&fatbin]);
    measure.args(sizes);
    run::must(measure)
}

/// The folder with the emulated kernels and `libcuda.so.1`, built again where a source or a flag has changed.
pub(crate) fn build(target: &Path) -> Judge {
    try_build(target).map_err(|error| format!("{error:#}"))
}

fn try_build(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("judges/mock-cuda");
    let stamp = folder.join("sources.txt");
    let wanted = state()?;
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    compile(&folder, EMULATED, &["-fPIC", "-shared"])?;
    let soname = format!("-Wl,-soname,{}", DRIVER[0]);
    compile(&folder, DRIVER, &["-fPIC", "-shared", "-pthread", &soname])?;
    compile(&folder, FAULTS, &[])?;
    compile(&folder, MEASURE, &[])?;
    // Loaders that look for the unversioned name first must not find a real driver by it.
    let unversioned = folder.join("libcuda.so");
    if fs::symlink_metadata(&unversioned).is_err() {
        std::os::unix::fs::symlink(DRIVER[0], &unversioned)?;
    }
    fs::write(&stamp, &wanted)?;
    Ok(folder)
}

fn compile(folder: &Path, [output, source]: [&str; 2], flags: &[&str]) -> anyhow::Result<()> {
    let (output, source) = (folder.join(output), Path::new(SOURCES).join(source));
    let mut compiler = run::command("g++", &FLAGS);
    compiler.args(flags).arg("-o").arg(output).arg(source).arg("-ldl");
    run::must(compiler)
}

/// Everything that the result depends on.
fn state() -> anyhow::Result<String> {
    let folder = run::root().join(SOURCES);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("list {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut state = FLAGS.join(" ");
    for file in files {
        if file.extension().is_some_and(|end| end == "cu" || end == "h" || end == "cpp") {
            state.push_str(&fs::read_to_string(&file)?);
        }
    }
    Ok(state)
}
