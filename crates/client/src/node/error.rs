//! What can go wrong between a validator and a provider's node.

use nicompute_daemon::Kind;
use nicompute_wire::btauth::AnswerError;
use nicompute_wire::codes::Code;
use nicompute_wire::hostkey::HostKeyError;
use nicompute_wire::node::ViewError;

use crate::access::AccessError;
use crate::http::TransportError;
use crate::refusal::Refusal;

/// Why a node gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No answer.
    #[error("the provider's node gave no answer")]
    Transport(#[from] TransportError),
    /// An answer that the provider did not sign, or not for this request.
    #[error("an answer with status {status} is not the provider's own")]
    NotBelieved {
        /// The status that was shown.
        status: u16,
        /// What is wrong with the signature.
        #[source]
        source: AnswerError,
    },
    /// The provider said no, and signed that.
    #[error("the provider refused: {0}")]
    Refused(Refusal),
    /// A body that is not the JSON of this answer.
    #[error("the provider's answer is not of the shape that this version knows")]
    Decode(#[source] serde_json::Error),
    /// A body that breaks its own rules.
    #[error("the provider's answer breaks a rule of the node API")]
    View(#[from] ViewError),
    /// The hotkey does not vouch for the SSH host key.
    #[error("the provider's hotkey does not vouch for its SSH host key")]
    HostKey(#[source] HostKeyError),
    /// An SSH address that cannot be used.
    #[error("the provider's SSH address cannot be used")]
    Access(#[from] AccessError),
    /// An answer about somebody else's lease, another lease or another node.
    #[error("the provider's answer is about another {0}")]
    Other(&'static str),
    /// Our own request could not be written.
    #[error("the request could not be written")]
    Encode(#[source] serde_json::Error),
}

impl NodeError {
    /// Whether asking again may help.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Transport(error) => error.kind(),
            Self::Refused(refusal) => refusal.kind(),
            Self::Encode(_) => Kind::Bug,
            Self::NotBelieved { .. }
            | Self::Decode(_)
            | Self::View(_)
            | Self::HostKey(_)
            | Self::Access(_)
            | Self::Other(_) => Kind::Elsewhere,
        }
    }

    /// The code of a refusal, where this version knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => refusal.known(),
            _ => None,
        }
    }

    /// Whether it may be gone in a moment: a broken connection or a node that is busy. An answer that is not the
    /// provider's own is waited out too, for anybody on the way can send one.
    pub(crate) const fn may_pass(&self) -> bool {
        match self {
            Self::Transport(TransportError::Unreachable(_)) | Self::NotBelieved { .. } => true,
            Self::Refused(refusal) => matches!(refusal.kind(), Kind::Elsewhere),
            _ => false,
        }
    }
}
