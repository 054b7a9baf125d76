//! Builds the agent and the prover as programs of their own and hands their paths to the main program, which embeds
//! them: one `cargo run` is enough, and a provider copies one file.
//!
//! They must run in any image, so they are linked statically, which the main program is not. That needs a cargo of its
//! own with other flags and another target folder; the folder is shared by all profiles of the main program, so that a
//! test, a lint and a release pay for one build.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is built: package, program, and the variable that names it to the compiler.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("nicompute-agent", "nicompute-agent", "NICOMPUTE_AGENT_BIN"),
    ("nicompute-prover", "nicompute-prover", "NICOMPUTE_PROVER_BIN"),
];
/// The rooms whose sources are in them.
const ROOMS: [&str; 5] = ["agent", "prover", "proof", "market", "keys"];
/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "embedded";
/// A library that a static program finds missing shows when it is built, not in a renter's container.
const STATIC: &str = "-Ctarget-feature=+crt-static";

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
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    // The host's own triple, named: flags then apply to the programs and not to build scripts and macros.
    let target = text_variable("TARGET")?;
    let target_dir = shared_target_dir(&out_dir)?;
    build(&workspace, &target, &target_dir)?;
    let built = target_dir.join(&target).join(PROFILE);
    for (_, program, name) in PROGRAMS {
        let copy = out_dir.join(program);
        copy_changed(&built.join(program), &copy)?;
        println!("cargo::rustc-env={name}={}", copy.display());
    }
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
    watched
}

/// `…/target/embedded`, from `…/target/<profile>/build/<package>/out`; in the latter where that shape is not found.
fn shared_target_dir(out_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let is_build =
        out_dir.ancestors().nth(2).and_then(Path::file_name) == Some(OsStr::new("build"));
    let base = if is_build { out_dir.ancestors().nth(4) } else { Some(out_dir) };
    Ok(base.ok_or("the output folder has no parents")?.join("embedded"))
}

fn build(workspace: &Path, target: &str, target_dir: &Path) -> Result<(), Box<dyn Error>> {
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
    cargo.arg("--target-dir").arg(target_dir);
    for (package, program, _) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
        cargo.env_remove(name);
    }
    let status = cargo.env("CARGO_ENCODED_RUSTFLAGS", STATIC).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("building the agent and the prover: cargo ended with {status}").into())
    }
}

fn is_foreign(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let kept = KEPT.iter().any(|kept| name.starts_with(kept));
    FOREIGN.contains(&name) || (name.starts_with("CARGO_") && !kept)
}

/// The copy is what is embedded: another profile's build may replace the original at any time.
fn copy_changed(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(from).map_err(|error| format!("reading {}: {error}", from.display()))?;
    if fs::read(to).ok().as_ref() != Some(&bytes) {
        fs::write(to, bytes)?;
    }
    Ok(())
}
