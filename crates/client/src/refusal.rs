//! The other side's "no", as a value.

use std::fmt;

use nicompute_daemon::Kind;
use nicompute_wire::codes::{Code, Problem};

use crate::text::plain;

/// Characters of a refusal's text that are kept.
const TEXT_CHARS_MAX: usize = 512;
/// Characters of an error code that are kept.
const CODE_CHARS_MAX: usize = 32;
/// Too many requests.
const STATUS_BUSY: u16 = 429;

/// An error answer, cleaned for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The public code as it was sent; empty when the answer had none.
    pub code: String,
    /// What is wrong this time.
    pub detail: String,
    /// What the caller can do about it, where the other side said so.
    pub hint: Option<String>,
}

impl Refusal {
    /// Reads the body of an error answer. A body that is no problem document still gives the status.
    #[must_use]
    pub fn parse(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => Self {
                status,
                code: plain(&problem.code, CODE_CHARS_MAX),
                detail: plain(&problem.detail, TEXT_CHARS_MAX),
                hint: problem.hint.map(|hint| plain(&hint, TEXT_CHARS_MAX)),
            },
            Err(_) => Self {
                status,
                code: String::new(),
                detail: "the answer does not say why".to_owned(),
                hint: None,
            },
        }
    }

    /// The code, where this version knows it.
    #[must_use]
    pub fn known(&self) -> Option<Code> {
        self.code.parse().ok()
    }

    /// Whether asking again later may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        if self.status == STATUS_BUSY || self.status >= 500 {
            Kind::Elsewhere
        } else {
            Kind::Caller
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() {
            write!(f, "status {}: {}", self.status, self.detail)
        } else {
            write!(f, "{} ({})", self.detail, self.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller that repeats what was refused for good hammers the other side; one that gives up on "busy" loses its machine.
    #[test]
    fn kinds_follow_the_status() {
        for (status, kind) in [
            (400, Kind::Caller),
            (404, Kind::Caller),
            (409, Kind::Caller),
            (429, Kind::Elsewhere),
            (500, Kind::Elsewhere),
            (503, Kind::Elsewhere),
        ] {
            assert_eq!(Refusal::parse(status, b"not json").kind(), kind, "{status}");
        }
    }

    /// An error text is shown on terminals: it must arrive clean and short.
    #[test]
    fn hostile_texts_are_cleaned() {
        let problem = Problem::new(Code::NoCapacity, "x\u{1b}]0;".repeat(1000), "r");
        let body = serde_json::to_vec(&problem).unwrap();
        let refusal = Refusal::parse(507, &body);
        assert_eq!(refusal.known(), Some(Code::NoCapacity));
        assert!(refusal.detail.chars().count() <= TEXT_CHARS_MAX);
        assert!(!refusal.detail.chars().any(char::is_control));
    }
}
