//! Builds the agent and the provers as programs of their own and hands their paths to the main program, which embeds
//! them: one `cargo run` is enough, and a provider copies one file.
//!
//! The agent and the prover of processors must run in any image, so they are linked statically, which the main program is
//! not. The prover of GPUs loads the driver's library and so cannot be static; the images of a machine with GPUs have a
//! C library, at least as old as the one here or, in a release, as any (`cargo xtask prover`). All this needs a cargo of
//! its own with other flags and other target folders; the folders are shared by all profiles of the main program, so that
//! a test, a lint and a release pay for one build.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One build: flags, and the programs that come of it, each with its package and the variable that names it to the compiler.
struct Build {
    folder: &'static str,
    flags: &'static str,
    features: &'static [&'static str],
    programs: &'static [(&'static str, &'static str, &'static str)],
}

/// A library that a static program finds missing shows when it is built, not in a renter's container.
const STATIC: Build = Build {
    folder: "embedded",
    flags: "-Ctarget-feature=+crt-static",
    features: &["--no-default-features"],
    programs: &[
        ("nicompute-agent", "nicompute-agent", "NICOMPUTE_AGENT_BIN"),
        ("nicompute-prover", "nicompute-prover", "NICOMPUTE_PROVER_BIN"),
    ],
};
/// With support for GPUs.
const DYNAMIC: Build = Build {
    folder: "embedded-cuda",
    flags: "",
    features: &[],
    programs: &[("nicompute-prover", "nicompute-prover", CUDA_PROVER)],
};
const CUDA_PROVER: &str = "NICOMPUTE_PROVER_CUDA_BIN";
/// Names a prover with support for GPUs that is embedded as it is: a release's, linked for old C libraries.
const READY: &str = "NICOMPUTE_PROVER_CUDA";
/// The rooms whose sources are in them.
const ROOMS: [&str; 5] = ["agent", "prover", "proof", "market", "keys"];
/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "embedded";
/// What cargo and clippy tell the programs they start about the build under way. The inner cargo must not hear it: it
/// would take the outer build's flags, folders and wrappers for its own.
const FOREIGN: [&str; 15] = [
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "DEBUG",
    "HOST",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "TARGET",
    "__CARGO_DEFAULT_LIB_METADATA",
];
/// Of cargo's own variables the inner one keeps those that say where its files are, how it reaches a registry, and whom
/// to ask for a free processor.
const KEPT: [&str; 8] = [
    "CARGO_BUILD_JOBS",
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

fn main() -> Result<(), Box<dyn Error>> {
    let workspace = workspace()?;
    for changed in watched(&workspace) {
        println!("cargo::rerun-if-changed={}", changed.display());
    }
    println!("cargo::rerun-if-env-changed={READY}");
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    // The host's own triple, named: flags then apply to the programs and not to build scripts and macros.
    let target = text_variable("TARGET")?;
    embed(&STATIC, &workspace, &target, &out_dir)?;
    match std::env::var_os(READY) {
        Some(ready) => {
            println!("cargo::rerun-if-changed={}", Path::new(&ready).display());
            hand_over(Path::new(&ready), &out_dir.join(CUDA_PROVER), CUDA_PROVER)
        }
        None => embed(&DYNAMIC, &workspace, &target, &out_dir),
    }
}

fn embed(
    build: &Build,
    workspace: &Path,
    target: &str,
    out_dir: &Path,
) -> Result<(), Box<dyn Error>> {
    let target_dir = shared_target_dir(out_dir, build.folder)?;
    run_cargo(build, workspace, target, &target_dir)?;
    let built = target_dir.join(target).join(PROFILE);
    for (_, program, name) in build.programs {
        hand_over(&built.join(program), &out_dir.join(name), name)?;
    }
    Ok(())
}

/// The copy is what is embedded: another profile's build may replace the original at any time.
fn hand_over(from: &Path, to: &Path, name: &str) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(from).map_err(|error| format!("reading {}: {error}", from.display()))?;
    if fs::read(to).ok().as_ref() != Some(&bytes) {
        fs::write(to, bytes)?;
    }
    println!("cargo::rustc-env={name}={}", to.display());
    Ok(())
}

fn variable(name: &str) -> Result<OsString, Box<dyn Error>> {
    std::env::var_os(name).ok_or_else(|| format!("cargo sets {name} for build scripts").into())
}

fn text_variable(name: &str) -> Result<String, Box<dyn Error>> {
    variable(name)?.into_string().map_err(|_| format!("{name} is not text").into())
}

fn workspace() -> Result<PathBuf, Box<dyn Error>> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace =
        package.ancestors().nth(2).ok_or("the package lies in crates/ of a workspace")?;
    Ok(workspace.to_path_buf())
}

fn watched(workspace: &Path) -> Vec<PathBuf> {
    let mut watched = vec![PathBuf::from("build.rs")];
    watched.extend(["Cargo.toml", "Cargo.lock"].map(|file| workspace.join(file)));
    for room in ROOMS {
        let room = workspace.join("crates").join(room);
        watched.extend([room.join("src"), room.join("Cargo.toml")]);
    }
    watched.push(workspace.join("crates/prover/cuda/kernels.fatbin"));
    watched
}

/// A folder in `…/target`, from `…/target/<profile>/build/<package>/out`; in the latter where that shape is not found.
fn shared_target_dir(out_dir: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let is_build =
        out_dir.ancestors().nth(2).and_then(Path::file_name) == Some(OsStr::new("build"));
    let base = if is_build { out_dir.ancestors().nth(4) } else { Some(out_dir) };
    Ok(base.ok_or("the output folder has no parents")?.join(name))
}

fn run_cargo(
    build: &Build,
    workspace: &Path,
    target: &str,
    target_dir: &Path,
) -> Result<(), Box<dyn Error>> {
    #[expect(clippy::disallowed_methods, reason = "a build script runs the build")]
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(workspace).args([
        "build",
        "--locked",
        "--profile",
        PROFILE,
        "--target",
        target,
    ]);
    cargo.args(build.features).arg("--target-dir").arg(target_dir);
    for (package, program, _) in build.programs {
        cargo.args(["--package", package, "--bin", program]);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
        cargo.env_remove(name);
    }
    let status = cargo.env("CARGO_ENCODED_RUSTFLAGS", build.flags).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("building the agent and the provers: cargo ended with {status}").into())
    }
}

fn is_foreign(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let kept = KEPT.iter().any(|kept| name.starts_with(kept));
    FOREIGN.contains(&name) || (name.starts_with("CARGO_") && !kept)
}
