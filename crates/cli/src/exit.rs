//! How a command ends: one number for scripts, one sentence and a hint for people.

use std::fmt;
use std::process::ExitCode;

use nicompute_daemon::{BoxError, ErrorChain};

use crate::text::shown;

/// The exit codes of the program. They are a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was tried and failed.
    Failed,
    /// The command line was wrong.
    Usage,
    /// The other side said no.
    Refused,
    /// The other side could not be reached.
    Unavailable,
    /// There is no such thing.
    NotFound,
    /// The caller may not.
    NotAllowed,
    /// A configuration value, a key file or a folder is unusable.
    Config,
    /// The time was over.
    Deadline,
}

impl Exit {
    const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unavailable => 4,
            Self::NotFound => 5,
            Self::NotAllowed => 6,
            Self::Config => 78,
            Self::Deadline => 124,
        }
    }
}

/// A failure that knows its exit code and what the caller can do.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    hint: Option<String>,
    source: Option<BoxError>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None, source: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Prints an error with its causes and its hint to standard error, and returns the code of the first cause that has one.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let known = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let hint = known.and_then(|failure| failure.hint.as_deref());
    #[expect(clippy::print_stderr, reason = "the program's last word to the person who started it")]
    {
        eprintln!("error: {}", shown(&ErrorChain(error.as_ref()).to_string()));
        if let Some(hint) = hint {
            eprintln!("hint: {}", shown(hint));
        }
    }
    ExitCode::from(known.map_or(Exit::Failed, |failure| failure.exit).code())
}
