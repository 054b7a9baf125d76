//! What the market does not do for a caller, in public words.

use nicompute_client::{NodeError, TransportError};
use nicompute_daemon::{ErrorChain, Kind};
use nicompute_wire::codes::Code;

use crate::loops::LoopError;
use crate::store::StoreError;

/// A request that is not done. What it says may be shown to anybody; the inner cause stays in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    /// The public code; status and exit code follow from it.
    pub code: Code,
    /// What is wrong this time.
    pub detail: String,
    /// What the caller can do about it.
    pub hint: Option<String>,
}

impl Denied {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Who can do something about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self.code.status() {
            500 => Kind::Bug,
            429 | 501..=599 => Kind::Elsewhere,
            _ => Kind::Caller,
        }
    }

    /// A provider's own refusal keeps its words; whatever else went wrong with it is said in ours.
    pub(crate) fn from_node(error: &NodeError) -> Self {
        match error {
            NodeError::Refused(refusal) => {
                let code = refusal.known().filter(|code| is_for_renters(*code));
                let denied = Self::new(
                    code.unwrap_or(Code::ProviderUnreachable),
                    format!("the provider says: {}", refusal.detail),
                );
                Self { hint: refusal.hint.clone(), ..denied }
            }
            NodeError::Transport(TransportError::Deadline(_)) => {
                Self::new(Code::Deadline, "the provider did not answer in time")
                    .hint("ask for the lease again with the same id, or take another offer")
            }
            NodeError::Transport(_) => {
                Self::new(Code::ProviderUnreachable, "the provider cannot be reached")
                    .hint("take another offer")
            }
            _ => Self::new(Code::ProviderNotBelieved, "the provider's answer is not believed")
                .hint("take another offer"),
        }
    }
}

/// Codes of a node that say something about what the renter asked for. What a node says about our own request does not.
const fn is_for_renters(code: Code) -> bool {
    matches!(
        code,
        Code::NoSuchOffer
            // A rule that the market does not know: the offer's, or the runtime's.
            | Code::BadRequest
            | Code::NotSupported
            | Code::NoCapacity
            | Code::NoSuchImage
            | Code::BadSshKey
            | Code::OverTheOffer
            | Code::Occupied
            | Code::RuntimeFailed
            | Code::Overloaded
            | Code::ShuttingDown
            | Code::ChainUnavailable
            | Code::LeaseConflict
            | Code::WrongState
    )
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %ErrorChain(&error), "the store failed");
        Self::new(Code::Internal, "the market's store failed")
    }
}

impl From<LoopError> for Denied {
    fn from(error: LoopError) -> Self {
        tracing::error!(error = %ErrorChain(&error), "a request failed");
        Self::new(Code::Internal, "the market failed")
    }
}
