//! The rules of the house that no compiler knows: who may use whom, how long a file may be, tests that nobody runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::run;

/// Lines of one source file. A longer one is two things.
const FILE_LINES_MAX: usize = 800;
/// Packages in `Cargo.lock`. Raised on purpose only: every one is built by every newcomer.
const LOCKED_PACKAGES_MAX: usize = 760;
/// The page whose defences are shown by tests.
const THREAT_MODEL: &str = "docs/threat-model.md";
/// Folders that may hold `unsafe` blocks.
const UNSAFE_FOLDERS: [&str; 4] =
    ["crates/prover/", "crates/agent/", "crates/host/", "crates/proof/src/kernel/"];

/// Checks every rule and lists every breach before it fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = run::root();
    let mut breaches = Vec::new();
    breaches.extend(arrows(&root)?);
    breaches.extend(lock_size(&root)?);
    for file in tracked_files(&root)? {
        breaches.extend(file_rules(&root, &file)?);
    }
    breaches.extend(forgotten_tests(&root)?);
    breaches.extend(named_tests(&root)?);
    for breach in &breaches {
        eprintln!("tidy: {breach}");
    }
    if !breaches.is_empty() {
        bail!("{} breaches of the house rules", breaches.len());
    }
    println!("tidy: the house is in order");
    Ok(())
}

/// The arrows that ARCHITECTURE.md allows, against those that the manifests have.
fn arrows(root: &Path) -> anyhow::Result<Vec<String>> {
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let allowed = allowed_arrows(&page);
    let metadata =
        run::output(run::cargo(&["metadata", "--no-deps", "--format-version", "1", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("parse cargo metadata")?;
    Ok(breached_arrows(&allowed, &metadata))
}

/// Rows `| `room` | sentence | uses |` as room → rooms that it may use.
fn allowed_arrows(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut allowed = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [room, _, uses] = *cells
            && let Some(room) = room.strip_prefix('`').and_then(|room| room.strip_suffix('`'))
        {
            let uses =
                uses.split_whitespace().filter(|word| *word != "–").map(str::to_owned).collect();
            allowed.insert(room.to_owned(), uses);
        }
    }
    allowed
}

fn breached_arrows(allowed: &BTreeMap<String, BTreeSet<String>>, metadata: &Value) -> Vec<String> {
    let mut breaches = Vec::new();
    let none = Vec::new();
    for package in metadata["packages"].as_array().unwrap_or(&none) {
        let Some(room) = package["name"].as_str().and_then(|name| name.strip_prefix("nicompute-"))
        else {
            continue;
        };
        let Some(uses) = allowed.get(room) else {
            breaches.push(format!("room {room} is not in the table of ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&none) {
            let is_normal = dependency["kind"].is_null();
            let name = dependency["name"].as_str().unwrap_or_default();
            match name.strip_prefix("nicompute-") {
                Some(used) if is_normal && !uses.contains(used) => {
                    breaches.push(format!("room {room} uses {used}, which its row does not allow"));
                }
                None if is_normal && name == "subxt" && room != "chain" => {
                    breaches.push(format!("room {room} uses subxt; only chain may"));
                }
                Some(_) | None => {}
            }
        }
    }
    breaches
}

fn lock_size(root: &Path) -> anyhow::Result<Vec<String>> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("read Cargo.lock")?;
    let count = lock.lines().filter(|line| *line == "[[package]]").count();
    let breach =
        format!("Cargo.lock has {count} packages, at most {LOCKED_PACKAGES_MAX} are wanted");
    Ok((count > LOCKED_PACKAGES_MAX).then_some(breach).into_iter().collect())
}

fn tracked_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for top in ["crates", "xtask", "tests", "docs"] {
        walk(&root.join(top), &mut files)?;
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "__pycache__") {
                walk(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn file_rules(root: &Path, path: &Path) -> anyhow::Result<Vec<String>> {
    let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let mut breaches = Vec::new();
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !["rs", "md", "toml", "py", "sh"].contains(&extension) {
        return Ok(breaches);
    }
    let text = fs::read_to_string(path).with_context(|| format!("read {shown}"))?;
    if extension == "rs" {
        breaches.extend(source_rules(&shown, &text));
    }
    if path.file_name().is_some_and(|name| name == "Cargo.toml")
        && !text.contains("[lints]\nworkspace = true")
    {
        breaches.push(format!("{shown}: no `[lints] workspace = true`"));
    }
    Ok(breaches)
}

fn source_rules(shown: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        breaches.push(format!("{shown}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    let in_unsafe_folder = UNSAFE_FOLDERS.iter().any(|folder| shown.starts_with(folder));
    if shown.contains("/src/") && !text.trim_start().starts_with("//!") {
        breaches.push(format!("{shown}: no module documentation"));
    }
    for (line, number) in text.lines().zip(1_usize..) {
        let code = line.trim_start();
        let marker = concat!("TO", "DO");
        if code.contains(marker) && !code.contains(concat!("TO", "DO(#")) {
            breaches.push(format!("{shown}:{number}: a {marker} without an issue"));
        }
        let is_unsafe =
            code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " fn"));
        if is_unsafe && !code.starts_with("//") && !in_unsafe_folder {
            breaches.push(format!("{shown}:{number}: unsafe code outside its folders"));
        }
    }
    breaches
}

/// Test files that no test binary names, and test binaries beside `tests/it`.
fn forgotten_tests(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut breaches = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let tests = entry?.path().join("tests");
        let Ok(entries) = fs::read_dir(&tests) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                breaches.push(format!("{}: tests stand in tests/it/", path.display()));
            }
        }
        let folder = tests.join("it");
        let main = fs::read_to_string(folder.join("main.rs")).unwrap_or_default();
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_module =
                path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
            let is_data = path.is_dir() && !path.join("mod.rs").exists();
            if is_module && !is_data && name != "main" && !main.contains(&format!("mod {name};")) {
                breaches.push(format!("{}: no test binary names it", path.display()));
            }
        }
    }
    Ok(breaches)
}

/// Tests that the threat model names and that are gone: a defence that nothing shows any more.
fn named_tests(root: &Path) -> anyhow::Result<Vec<String>> {
    let page = fs::read_to_string(root.join(THREAT_MODEL)).context("read the threat model")?;
    let mut breaches = Vec::new();
    for (room, test) in tests_named_in(&page) {
        let folder = root.join("crates").join(room);
        let mut files = Vec::new();
        walk(&folder, &mut files)?;
        let line = format!("fn {test}(");
        let is_there = files.iter().any(|file| {
            file.extension().is_some_and(|extension| extension == "rs")
                && fs::read_to_string(file).is_ok_and(|text| text.contains(&line))
        });
        if !is_there {
            breaches.push(format!("{THREAT_MODEL}: there is no test {test} in crates/{room}"));
        }
    }
    Ok(breaches)
}

/// Pairs `room/name_of_a_test` between backticks.
fn tests_named_in(page: &str) -> Vec<(&str, &str)> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
    };
    let quoted = page.split('`').skip(1).step_by(2);
    let pairs = quoted.filter_map(|text| text.split_once('/'));
    let is_test = |test: &str| is_name(test) && test.contains('_');
    pairs.filter(|(room, test)| *room != "crates" && is_name(room) && is_test(test)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TABLE: &str = "| room (crates/…) | one sentence | may use |\n|---|---|---|\n\
        | `market` | Nouns. | – |\n| `keys` | Keys. | market |\n";

    fn package(name: &str, uses: &[&str]) -> Value {
        let uses: Vec<_> = uses.iter().map(|used| json!({"name": used, "kind": null})).collect();
        json!({"name": name, "dependencies": uses})
    }

    /// A wall that nobody checks is no wall.
    #[test]
    fn a_forbidden_arrow_is_named() {
        let allowed = allowed_arrows(TABLE);
        let metadata = json!({"packages": [
            package("nicompute-market", &["nicompute-keys"]),
            package("nicompute-keys", &["nicompute-market", "subxt"]),
            package("nicompute-attic", &[]),
        ]});
        let breaches = breached_arrows(&allowed, &metadata);
        assert_eq!(
            breaches,
            [
                "room market uses keys, which its row does not allow",
                "room keys uses subxt; only chain may",
                "room attic is not in the table of ARCHITECTURE.md",
            ]
        );
    }

    /// A page that names tests which are gone promises what nobody checks.
    #[test]
    fn tests_are_found_in_a_page() {
        let page = "in `crates/host`: `host/a_test`, `B1`, `GET /v1/leases/{id}`, `btauth/1` and `wire/few_2`";
        assert_eq!(tests_named_in(page), [("host", "a_test"), ("wire", "few_2")]);
    }

    /// The rules about single files must fire, or they are decoration.
    #[test]
    fn file_rules_fire() {
        let long = "//! Long.\n".repeat(FILE_LINES_MAX + 1);
        assert_eq!(source_rules("crates/market/src/a.rs", &long).len(), 1);
        let marked = concat!("//! Marked.\n// TO", "DO later\n");
        assert_eq!(source_rules("crates/market/src/a.rs", marked).len(), 1);
        let raw = concat!("//! Raw.\nfn f() { unsafe", " {} }\n");
        assert_eq!(source_rules("crates/market/src/a.rs", raw).len(), 1);
        assert_eq!(source_rules("crates/host/src/a.rs", raw).len(), 0);
        assert_eq!(source_rules("crates/proof/src/a.rs", raw).len(), 1);
        assert_eq!(source_rules("crates/proof/src/kernel/a.rs", raw).len(), 0);
        assert_eq!(source_rules("crates/host/src/a.rs", "fn f() {}\n").len(), 1);
    }
}
