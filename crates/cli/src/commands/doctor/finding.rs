//! What the doctor found: one line a check, with its reason and what to do.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::text::plain;

/// Characters of one reason or remedy that are shown.
const TEXT_CHARS_MAX: usize = 600;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    /// The node works, and could be better.
    Warning,
    /// The node does not start, or earns nothing.
    Error,
    /// Not looked at.
    Skipped,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The check, in stable words.
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) remedy: Option<String>,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Skipped => "skipped",
        }
    }
}

impl Finding {
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, what)
    }

    pub(super) fn warning(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, what)
    }

    pub(super) fn error(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Error, what)
    }

    pub(super) fn skipped(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, what)
    }

    /// Other people's text, such as a driver's, is stripped of what a terminal obeys.
    fn new(check: &'static str, level: Level, what: impl Into<String>) -> Self {
        Self { check, level, what: plain(&what.into(), TEXT_CHARS_MAX), remedy: None }
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(plain(&remedy.into(), TEXT_CHARS_MAX));
        self
    }
}

/// The findings for a person.
pub(super) fn lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, level, what, remedy } in findings {
        let mut line = |line: String| {
            writeln!(text, "{line}").expect("writing into a string cannot fail");
        };
        line(format!("{:<8} {check:<18} {what}", level.as_str()));
        if let Some(remedy) = remedy {
            line(format!("{:<27} do: {remedy}", ""));
        }
    }
    let count = |wanted| findings.iter().filter(|finding| finding.level == wanted).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    writeln!(text, "{errors} errors, {warnings} warnings")
        .expect("writing into a string cannot fail");
    text
}

/// The findings for a program.
pub(super) fn document(findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "check": finding.check,
            "level": finding.level.as_str(),
            "reason": finding.what,
            "remedy": finding.remedy,
        })
    };
    let count = |wanted| findings.iter().filter(|finding| finding.level == wanted).count();
    json!({
        "findings": findings.iter().map(finding).collect::<Vec<_>>(),
        "errors": count(Level::Error),
        "warnings": count(Level::Warning),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// A remedy that is far from its error, or a name that clears the screen, helps nobody.
    #[test]
    fn findings_are_lines_and_json() {
        let findings = [
            Finding::ok("gpu.driver", "NVIDIA 550.54.15 with 1 GPU"),
            Finding::error("gpu.device", "GPU evil\u{1b}[2J\nfails").remedy("dmesg"),
            Finding::warning("engine.restart", "restarts end tenants"),
            Finding::skipped("ports", "not tried"),
        ];
        expect![[r#"
            ok       gpu.driver         NVIDIA 550.54.15 with 1 GPU
            error    gpu.device         GPU evil [2J fails
                                        do: dmesg
            warning  engine.restart     restarts end tenants
            skipped  ports              not tried
            1 errors, 1 warnings
        "#]]
        .assert_eq(&lines(&findings));
        let document = document(&findings);
        assert_eq!(document["errors"], 1);
        assert_eq!(document["findings"][1]["remedy"], "dmesg");
    }
}
