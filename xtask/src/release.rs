//! The prover of GPUs as a release carries it, and the release itself.
//!
//! A provider's image may have an older C library than the machine that builds, so this prover is linked against the
//! symbols of glibc 2.17 (2012) by zig's linker, which comes from the Python package index at a pinned version.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::{elf, judges, run, test};

/// The linker, and the C library that it links for.
const ZIG: [&str; 1] = ["ziglang==0.13.0"];
const ZIG_TARGET: &str = "x86_64-linux-gnu.2.17";
const RUST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Newest version of a symbol that the prover may ask for.
const GLIBC_MAX: (u32, u32) = (2, 17);
/// The prover is uploaded into every lease that is proven.
const PROVER_BYTES_MAX: u64 = 2_000_000;
/// All of it stands in every image with a C library.
const LIBRARIES: [&str; 7] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
];

/// Builds the prover of GPUs for old C libraries, checks it, and says where it is.
pub(crate) fn prover() -> anyhow::Result<PathBuf> {
    let target = test::target_folder()?;
    let linker = linker(&target)?;
    let folder = target.join("prover-cuda");
    let shown = folder.display().to_string();
    let package = ["--package", "nicompute-prover", "--bin", "nicompute-prover"];
    let mut build = run::cargo(&["build", "--locked", "--profile", "embedded"]);
    build.args(["--target", RUST_TARGET, "--target-dir", &shown]).args(package);
    // The toolchain's own linker is told off: zig brings one, and only that one knows the old symbols.
    let flags = format!("-Clinker={}\x1f-Clinker-features=-lld", linker.display());
    build.env("CARGO_ENCODED_RUSTFLAGS", flags);
    run::must(build)?;
    let program = folder.join(RUST_TARGET).join("embedded/nicompute-prover");
    check(&program)?;
    Ok(program)
}

/// Builds the main program with that prover inside.
pub(crate) fn release() -> anyhow::Result<()> {
    let prover = prover()?;
    let mut build = run::cargo(&["build", "--release", "--locked", "--package", "nicompute-cli"]);
    build.env("NICOMPUTE_PROVER_CUDA", prover);
    run::must(build)
}

fn check(program: &Path) -> anyhow::Result<()> {
    let file = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let needs = elf::needs(&file)?;
    let newest = elf::newest_glibc(&needs).context("the prover asks for no version of glibc")?;
    let shown = program.display();
    let length = file.len();
    println!("prover: {length} bytes, glibc {}.{} or newer: {shown}", newest.0, newest.1);
    if newest > GLIBC_MAX {
        bail!("the prover asks for {:?}, at most GLIBC_2.17 is wanted", needs.versions);
    }
    if length as u64 > PROVER_BYTES_MAX {
        bail!("the prover has {length} bytes, at most {PROVER_BYTES_MAX} are wanted");
    }
    let foreign: Vec<_> =
        needs.libraries.iter().filter(|name| !LIBRARIES.contains(&name.as_str())).collect();
    if !foreign.is_empty() {
        bail!("the prover asks for {foreign:?}, which an image may lack");
    }
    Ok(())
}

/// A program that links as the compiler's own would, with zig.
fn linker(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("judges/zig");
    let python = judges::environment(&folder, &ZIG).map_err(anyhow::Error::msg)?;
    let linker = folder.join("cc");
    let script = format!(
        "#!/bin/sh\nexec '{}' -m ziglang cc -target {ZIG_TARGET} \"$@\"\n",
        python.display()
    );
    fs::write(&linker, script)?;
    fs::set_permissions(&linker, fs::Permissions::from_mode(0o755))?;
    Ok(linker)
}
