//! Starting programs, from the project's root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The project's root: the folder above this crate.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// A command that will run in the project's root, without standard input.
pub(crate) fn command<S: AsRef<OsStr>>(program: S, args: &[&str]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a task runner runs programs")]
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Cargo, the one that runs this task.
pub(crate) fn cargo(args: &[&str]) -> Command {
    command(option_env!("CARGO").unwrap_or("cargo"), args)
}

/// Runs a command to its end and fails when it does.
pub(crate) fn must(mut command: Command) -> anyhow::Result<()> {
    let shown = shown(&command);
    eprintln!("xtask: {shown}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(mut command: Command) -> anyhow::Result<String> {
    let shown = shown(&command);
    let output = command.output().with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether a command can be started and succeeds; says nothing.
pub(crate) fn succeeds(mut command: Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
