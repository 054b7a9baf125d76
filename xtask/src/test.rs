//! Every test, with everything that the tests judge by, and a loud list of what was skipped.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::{emulator, judges, mock_nvml, rootfs, run};

/// The word with which a test says that it could not judge.
const SKIP_MARK: &str = "SKIPPED:";
/// Skips that are no loss: of the judge that no machine has by itself, a node of the real chain, which a person names;
/// and of instructions that the machine's processor does not have.
const OPTIONAL: [&str; 2] = ["NICOMPUTE_TEST_ENDPOINT", "this processor has no "];
/// Failed tests that may be run a second time; more are no accident.
const UNSTEADY_MAX: usize = 3;

/// Installs what the tests need where it may, runs them all, and says what was skipped and why. Under `CI=true` a judge that
/// is missing is a failure.
pub(crate) fn run() -> anyhow::Result<()> {
    let is_strict = std::env::var_os("CI").is_some_and(|value| value == "true");
    let target = target_folder()?;
    let mut missing = judges::debian();
    let mut environment: Vec<(&str, PathBuf)> = Vec::new();
    let fetched = judges::python(&target).into_iter().chain([judges::metadata(&target)]);
    for (name, judge) in fetched {
        match judge {
            Ok(path) => environment.push((name, path)),
            Err(why) => missing.push(format!("{name}: {why}")),
        }
    }
    let (clients, engine) = (judges::ssh_clients(&target), judges::docker(&target));
    let rootfs = rootfs::judge(&target, &clients, &engine);
    let named =
        [(rootfs::CLIENTS, clients), ("NICOMPUTE_TEST_DOCKER", engine), (rootfs::VARIABLE, rootfs)];
    for (name, judge) in named {
        match judge {
            Ok(path) => environment.push((name, path)),
            Err(why) => missing.push(format!("{name}: {why}")),
        }
    }
    match emulator::build(&target) {
        Ok(folder) => environment.push((emulator::VARIABLE, folder)),
        Err(why) => missing.push(format!("{}: {why}", emulator::VARIABLE)),
    }
    match mock_nvml::build(&target) {
        Ok(folder) => environment.push((mock_nvml::VARIABLE, folder)),
        Err(why) => missing.push(format!("{}: {why}", mock_nvml::VARIABLE)),
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

/// What a run of tests printed that counts.
#[derive(Default)]
struct Seen {
    /// Lines in which tests say what they skipped.
    skipped: Vec<String>,
    /// Tests that failed.
    failed: Vec<String>,
    /// Tests that passed, as the test programs count them.
    passed: usize,
    /// Test programs that began to run.
    begun: usize,
    /// Test programs that ran to their end and said how it went.
    ended: usize,
}

/// Runs every test; a few that fail run once more, one at a time, and where they pass then they are named as unsteady.
///
/// The suite starts real engines, shells and daemons on machines that do other things too. A test that fails beside
/// others and passes alone is a defect of the test, to be mended, and no reason to hold a change back; a defect of the
/// product fails twice.
fn run_tests(environment: &[(&str, PathBuf)], strict: &str) -> anyhow::Result<Vec<String>> {
    let (passed, mut seen) = run_once(environment, strict, &[])?;
    if passed {
        return Ok(seen.skipped);
    }
    if seen.failed.is_empty() || seen.failed.len() > UNSTEADY_MAX {
        bail!("the tests failed, {} of them by name", seen.failed.len());
    }
    // A program that was killed names no test that failed.
    if seen.begun != seen.ended {
        bail!("{} test programs began and {} came to an end", seen.begun, seen.ended);
    }
    let mut again = vec!["--test-threads=1", "--exact"];
    again.extend(seen.failed.iter().map(String::as_str));
    let (passed, second) = run_once(environment, strict, &again)?;
    if !passed || second.begun != second.ended {
        bail!("tests failed twice: {}", seen.failed.join(", "));
    }
    if second.passed < seen.failed.len() {
        bail!("{} tests failed, and {} ran again", seen.failed.len(), second.passed);
    }
    for test in &seen.failed {
        println!("test: UNSTEADY {test} failed beside the others and passed alone: mend it");
    }
    Ok(std::mem::take(&mut seen.skipped))
}

/// Runs the tests, all or those that arguments choose, and shows their output as it comes.
fn run_once(
    environment: &[(&str, PathBuf)],
    strict: &str,
    arguments: &[&str],
) -> anyhow::Result<(bool, Seen)> {
    let mut tests =
        run::cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"]);
    tests.args(arguments).envs(environment.iter().map(|(name, path)| (name, path)));
    tests.env("NICOMPUTE_TEST_STRICT", strict);
    let mut child = tests.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has an output")?;
    let mut seen = Seen::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(at) = line.find(SKIP_MARK) {
            seen.skipped.push(line[at..].to_owned());
        }
        if let Some(test) = failed_test(&line) {
            seen.failed.push(test.to_owned());
        }
        seen.begun += usize::from(is_beginning(&line));
        if let Some(passed) = passed_tests(&line) {
            seen.ended += 1;
            seen.passed += passed;
        }
        println!("{line}");
    }
    Ok((child.wait()?.success(), seen))
}

/// The name in `test some::name ... FAILED`, without what a doc test adds to it.
fn failed_test(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(name.strip_suffix(" - should panic").unwrap_or(name))
}

/// Whether this is the line `running 5 tests` that a test program begins with.
fn is_beginning(line: &str) -> bool {
    let count = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
    count.is_some_and(|(count, end)| count.parse::<usize>().is_ok() && matches!(end, "" | "s"))
}

/// How many tests passed, from the line `test result: ok. 5 passed; 0 failed; …` that a test program ends with.
fn passed_tests(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    counts.split_once(" passed;")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test program that is killed names no failed test: only its missing last line tells.
    #[test]
    fn programs_that_begin_must_end() {
        assert!(is_beginning("running 1 test") && is_beginning("running 0 tests"));
        assert!(!is_beginning("running tests") && !is_beginning("running 2 tests of many"));
        let ended =
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out";
        assert_eq!(passed_tests(ended), Some(3));
        assert_eq!(passed_tests("test result: ok. 0 passed; 0 failed; 0 ignored"), Some(0));
        assert_eq!(passed_tests("test a::b ... ok"), None);
    }

    /// A failed test whose name is not found would not be run again, and one that passed must not be.
    #[test]
    fn failures_are_found_by_name() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b - should panic ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test a::b ... ok"), None);
        assert_eq!(failed_test("test result: FAILED. 1 passed; 1 failed"), None);
    }
}
