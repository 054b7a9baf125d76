//! Why a session ends without a proof, and at which stage.

use crate::binding::ClaimError;
use crate::exchange::{ExchangeError, Place};
use crate::frame::{ErrorCode, FrameError, VerifierFrame, error_text};
use crate::params::PROOF_VERSION;
use crate::session::EntropyError;

/// The stages of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Until HELLO.
    Hello,
    /// Until READY.
    Ready,
    /// Until the last PONG.
    Pings,
    /// Until COMMIT.
    Fill,
    /// Until WROOT.
    Walk,
    /// Until LROOT.
    Link,
    /// Until CROOT.
    Copy,
    /// Until the digest of the bytes to the prover.
    Down,
    /// Until the last of the bytes from the prover.
    Up,
    /// Until the last OPENINGS.
    Openings,
    /// Nothing is expected any more.
    Over,
}

/// Why a session ended without a proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A frame that is longer than any frame may be.
    #[error("a frame of {len} bytes, at most {max}")]
    Oversized {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes that are no frame.
    #[error("the prover sent bytes that are no frame")]
    Malformed(#[source] FrameError),
    /// A frame that does not belong here.
    #[error("{got} in the stage {stage}")]
    Protocol {
        /// The stage.
        stage: Stage,
        /// The frame's name, or what is wrong with it.
        got: &'static str,
    },
    /// Another version of the format.
    #[error("the prover speaks version {0} of the proof, this verifier {PROOF_VERSION}")]
    Version(u16),
    /// Claims that cannot be planned with.
    #[error("the prover's claims cannot be used")]
    Claims(#[source] ClaimError),
    /// Too late.
    #[error("the stage {stage} took {took_ns} ns, at most {limit_ns}")]
    Deadline {
        /// The stage.
        stage: Stage,
        /// How long it took, or has taken.
        took_ns: u64,
        /// How long it may take.
        limit_ns: u64,
    },
    /// Commitments or openings that contradict themselves.
    #[error("the prover's commitments or openings contradict themselves")]
    Openings(#[source] ExchangeError),
    /// The sampled places are not what the keys give. This is a wrong proof.
    #[error("device {device}: {place} is not what the session's keys give")]
    Mismatch {
        /// The device.
        device: u16,
        /// The first wrong place.
        place: Place,
    },
    /// Bytes of NET, or their digest, that are not the stream's. This is a wrong proof.
    #[error("the bytes of the stage {stage} are not those that were sent or asked for")]
    Stream {
        /// The stage.
        stage: Stage,
    },
    /// The prover gave up.
    #[error("the prover ended the session ({code:?}): {text}")]
    Prover {
        /// Its code.
        code: ErrorCode,
        /// Its text, cut and cleaned.
        text: String,
    },
    /// The caller's clock went backwards. Not the prover's fault.
    #[error("the verifier's clock went backwards")]
    Clock,
    /// No random bytes. Not the prover's fault.
    #[error("the verifier has no random bytes")]
    Entropy(#[source] EntropyError),
    /// A frame of ours is too long to send. Not the prover's fault.
    #[error("the verifier's frame is too long")]
    Unsendable(#[source] FrameError),
}

impl Refusal {
    /// Whether the session failed on the verifier's side, so that it says nothing about the provider.
    #[must_use]
    pub const fn is_own_fault(&self) -> bool {
        matches!(self, Self::Clock | Self::Entropy(_) | Self::Unsendable(_))
    }

    /// The ERROR frame that tells the prover.
    #[must_use]
    pub fn farewell(&self) -> VerifierFrame {
        let code = match self {
            Self::Oversized { .. }
            | Self::Malformed(_)
            | Self::Protocol { .. }
            | Self::Claims(_)
            | Self::Prover { .. }
            | Self::Openings(_) => ErrorCode::Protocol,
            Self::Version(_) => ErrorCode::Version,
            Self::Deadline { .. } => ErrorCode::Deadline,
            Self::Mismatch { .. } | Self::Stream { .. } => ErrorCode::Refused,
            Self::Clock | Self::Entropy(_) | Self::Unsendable(_) => ErrorCode::Device,
        };
        VerifierFrame::Error { code, text: error_text(&self.to_string()) }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Ready => "ready",
            Self::Pings => "pings",
            Self::Fill => "fill",
            Self::Walk => "walk",
            Self::Link => "link",
            Self::Copy => "copy",
            Self::Down => "net down",
            Self::Up => "net up",
            Self::Openings => "openings",
            Self::Over => "over",
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(row) => write!(f, "row {row}"),
            Self::Walk(walk) => write!(f, "walk {walk}"),
            Self::Link(walk) => write!(f, "link walk {walk}"),
            Self::Copy(place) => write!(f, "copied row {place}"),
        }
    }
}
