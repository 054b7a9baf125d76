//! Every test, with everything that the tests judge by, and a loud list of what was skipped.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::{emulator, judges, run};

/// The word with which a test says that it could not judge.
const SKIP_MARK: &str = "SKIPPED:";
/// Skips that are no loss: of the judge that no machine has by itself, a node of the real chain, which a person names;
/// and of instructions that the machine's processor does not have.
const OPTIONAL: [&str; 2] = ["NICOMPUTE_TEST_ENDPOINT", "this processor has no "];

/// Installs what the tests need where it may, runs them all, and says what was skipped and why. Under `CI=true` a judge that
/// is missing is a failure.
pub(crate) fn run() -> anyhow::Result<()> {
    let is_strict = std::env::var_os("CI").is_some_and(|value| value == "true");
    let target = target_folder()?;
    let mut missing = judges::debian();
    let mut environment: Vec<(&str, PathBuf)> = Vec::new();
    for (name, judge) in judges::python(&target) {
        match judge {
            Ok(path) => environment.push((name, path)),
            Err(why) => missing.push(format!("{name}: {why}")),
        }
    }
    match judges::docker(&target) {
        Ok(socket) => environment.push(("NICOMPUTE_TEST_DOCKER", socket)),
        Err(why) => missing.push(format!("Docker engine: {why}")),
    }
    match emulator::build(&target) {
        Ok(folder) => environment.push((emulator::VARIABLE, folder)),
        Err(why) => missing.push(format!("{}: {why}", emulator::VARIABLE)),
    }
    environment.extend(embedded_programs(&target)?);
    for judge in &missing {
        eprintln!("xtask: MISSING JUDGE {judge}");
    }
    if is_strict && !missing.is_empty() {
        bail!("{} judges are missing", missing.len());
    }
    let skipped = run_tests(&environment, if is_strict { "1" } else { "0" })?;
    for line in &skipped {
        eprintln!("xtask: {line}");
    }
    let is_lost = |line: &&String| !OPTIONAL.iter().any(|optional| line.contains(optional));
    let lost = skipped.iter().filter(is_lost).count();
    if is_strict && lost > 0 {
        bail!("{lost} tests were skipped where every judge is demanded");
    }
    println!("test: all passed, {} skipped, {} judges missing", skipped.len(), missing.len());
    Ok(())
}

/// Where cargo builds to.
pub(crate) fn target_folder() -> anyhow::Result<PathBuf> {
    let metadata = run::output(run::cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("cargo metadata names no target folder")
}

/// Builds the binary and lets it write out the agent and the prover that it carries, for the tests of other rooms.
fn embedded_programs(target: &Path) -> anyhow::Result<[(&'static str, PathBuf); 2]> {
    run::must(run::cargo(&["build", "--locked", "--package", "nicompute-cli"]))?;
    let folder = target.join("judges/programs");
    let binary = target.join("debug/nicompute");
    let shown = folder.display().to_string();
    run::must(run::command(binary, &["__materialize", &shown]))?;
    Ok([
        ("NICOMPUTE_TEST_AGENT", folder.join("nicompute-agent")),
        ("NICOMPUTE_TEST_PROVER", folder.join("nicompute-prover")),
    ])
}

/// Runs every test; shows the output as it comes, and returns the lines in which tests say what they skipped.
fn run_tests(environment: &[(&str, PathBuf)], strict: &str) -> anyhow::Result<Vec<String>> {
    let mut tests =
        run::cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"]);
    tests.envs(environment.iter().map(|(name, path)| (name, path)));
    tests.env("NICOMPUTE_TEST_STRICT", strict);
    let mut child = tests.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has an output")?;
    let mut skipped = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(at) = line.find(SKIP_MARK) {
            skipped.push(line[at..].to_owned());
        }
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the tests ended with {status}");
    }
    Ok(skipped)
}
