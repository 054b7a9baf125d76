//! The legs that follow the walks: LINK, COPY, and NET in both directions.
//!
//! Each is asked for by a size in the parameters, has a nonce, a deadline, a time and a rate of its own, and is
//! checked by recomputation as everything else is. A machine that cannot do LINK or COPY says so and is proven without.

mod check;
mod chunk;
mod copy;
mod net;

use serde::{Deserialize, Serialize};

use crate::binding::Nonce;
use crate::frame::ErrorCode;
use crate::tree::Digest;

pub use chunk::{Chunk, ChunkError, NET_CHUNK_LEN};
pub use copy::CopyKey;
pub use net::{NET_WINDOW_LEN, NetStream};

/// What became of the legs, as it stands in a transcript.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Legs {
    /// LINK.
    pub link: Leg,
    /// COPY.
    pub copy: Leg,
    /// NET to the prover.
    pub down: Option<Net>,
    /// NET to the verifier.
    pub up: Option<Net>,
}

/// What became of LINK or COPY.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Leg {
    /// The parameters do not ask for it.
    NotAsked,
    /// The prover cannot do it.
    Declined {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people, cut and cleaned.
        text: String,
    },
    /// The prover committed itself to an answer.
    Answered {
        /// Drawn when the leg began.
        nonce: Nonce,
    },
}

/// One direction of NET.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Net {
    /// Drawn when the leg began.
    pub nonce: Nonce,
    /// Bytes that went through: what the parameters ask for, or less where the time was over before.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub digest: Digest,
}

/// The legs with an answer that can be sampled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// LINK.
    pub link: bool,
    /// COPY.
    pub copy: bool,
}

impl Legs {
    /// Before any leg began.
    pub(crate) const NONE: Self =
        Self { link: Leg::NotAsked, copy: Leg::NotAsked, down: None, up: None };

    /// The legs with an answer that can be sampled.
    #[must_use]
    pub const fn answered(&self) -> Answered {
        Answered { link: self.link.nonce().is_some(), copy: self.copy.nonce().is_some() }
    }
}

impl Leg {
    /// The nonce of a leg that was answered.
    #[must_use]
    pub const fn nonce(&self) -> Option<&Nonce> {
        match self {
            Self::Answered { nonce } => Some(nonce),
            Self::NotAsked | Self::Declined { .. } => None,
        }
    }
}

impl Answered {
    /// No leg at all.
    pub const NONE: Self = Self { link: false, copy: false };
}
