//! The gate: what every change must pass.

use crate::{kernels, run, test, tidy};

/// Whether the tests are part of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    /// Run them.
    Run,
    /// They ran already.
    Skip,
}

/// Formatting, the house rules, lints, documentation, and the tests.
pub(crate) fn run(tests: Tests) -> anyhow::Result<()> {
    for tool in ["fmt", "clippy"] {
        if !run::succeeds(run::cargo(&[tool, "--version"])) {
            anyhow::bail!(
                "cargo {tool} is not here; install it: rustup component add rustfmt clippy"
            );
        }
    }
    run::must(run::cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    // Only continuous integration fetches the compiler unasked.
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    if is_ci {
        kernels::check()?;
    } else {
        kernels::check_recorded()?;
    }
    run::must(run::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut doc =
        run::cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D rustdoc::broken_intra_doc_links -D rustdoc::invalid_html_tags");
    run::must(doc)?;
    if tests == Tests::Run {
        test::run()?;
    }
    println!("check: everything holds");
    Ok(())
}
