//! What goes wrong with the chain, as exit codes and hints.

use nicompute_chain::{ReadError, SubmitError};

use crate::exit::{Exit, Failure};

/// A read that failed.
pub(crate) fn unread(error: ReadError) -> anyhow::Error {
    let exit = exit_of(&error);
    let hint = error.remedy();
    with_hint(Failure::new(exit, "the chain was not read").because(error), hint)
}

/// A transaction that was not carried out, or whose fate is not known.
pub(crate) fn unsent(error: SubmitError) -> anyhow::Error {
    let exit = match &error {
        SubmitError::Read(error) => exit_of(error),
        SubmitError::Unknown { .. } => Exit::Deadline,
        // Nothing has changed, and it may be done again: not to be mistaken for an unknown end.
        SubmitError::Expired { .. } => Exit::Unavailable,
        SubmitError::Encode(_) => Exit::Config,
        _ => Exit::Refused,
    };
    let what = match &error {
        SubmitError::Unknown { .. } => "it is not known whether the chain did it",
        _ => "the chain did not do it",
    };
    let hint = error.remedy();
    with_hint(Failure::new(exit, what).because(error), hint)
}

const fn exit_of(error: &ReadError) -> Exit {
    match error {
        ReadError::Gone { .. } | ReadError::Refused { .. } => Exit::Unavailable,
        ReadError::NoSubnet(_) => Exit::NotFound,
        _ => Exit::Config,
    }
}

fn with_hint(failure: Failure, hint: Option<&'static str>) -> anyhow::Error {
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}
