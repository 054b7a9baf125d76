//! The frames of a session, and how they stand in a stream of bytes.
//!
//! A frame is its length (4 bytes, little endian) and that many bytes of postcard. The two directions have a type
//! each, so that a frame of the wrong direction cannot be decoded at all. The length is checked against a limit before
//! anything is kept, and a frame is accepted only in its one canonical encoding.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::binding::{Binding, DEVICES_MAX, DeviceClaim, DevicePlan, Nonce};
use crate::bounded::{at_most, exactly};
use crate::legs::Chunk;
use crate::params::{
    PATH_LEN_MAX, ParamsRecord, SAMPLED_ROWS_LEN_MAX, SAMPLED_WALKS_LEN_MAX, WALK_GROUP_LEN,
};
use crate::tree::Digest;

/// The longest frame of a prover: the openings of 256 rows and 64 walks of the largest plot, and of as many
/// of the legs, need two thirds of it.
pub const PROVER_FRAME_LEN_MAX: usize = 1 << 20;
/// The longest frame of a verifier: OPEN for 32 devices needs less than half of it, as does a chunk of NET.
pub const VERIFIER_FRAME_LEN_MAX: usize = 1 << 18;
/// The longest text of an ERROR frame, in bytes.
pub const ERROR_TEXT_LEN_MAX: usize = 256;

const PREFIX_LEN: usize = 4;

/// What a prover sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProverFrame {
    /// First of all: which format it speaks, and its claims.
    Hello {
        /// The newest version that it speaks.
        version: u16,
        /// Its name and version, for logs.
        software: String,
        /// The machine's devices, as the machine describes them.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        devices: Vec<DeviceClaim>,
    },
    /// Memory is allocated and every kernel loaded; nothing has been computed.
    Ready,
    /// The answer to a ping.
    Pong {
        /// The ping's number.
        number: u64,
    },
    /// One more panel of a device is in memory; panels come in order.
    Progress {
        /// Place in the list of claims.
        device: u16,
        /// The panel's number, from 0.
        panel: u32,
        /// The root of the panel's subtree.
        root: Digest,
    },
    /// All plots are in memory.
    Commit {
        /// The root of each planned device's row tree, in the order of the plans.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        roots: Vec<Digest>,
    },
    /// All walks are done.
    Wroot {
        /// The root of each planned device's walk tree, in the order of the plans.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        roots: Vec<Digest>,
    },
    /// All walks over the neighbours' plots are done.
    Lroot {
        /// The root of each planned device's link tree, in the order of the plans.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        roots: Vec<Digest>,
    },
    /// All copied rows are on the host.
    Croot {
        /// The root of each planned device's copy tree, in the order of the plans.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        roots: Vec<Digest>,
    },
    /// The machine cannot do the leg that it was asked for, LINK or COPY; the session goes on without it.
    Decline {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
    /// So many bytes of NET have arrived.
    Got {
        /// Bytes from the beginning of the leg, whole chunks.
        bytes: u64,
    },
    /// All bytes of NET have arrived.
    Digest {
        /// BLAKE3 of them.
        digest: Digest,
    },
    /// The next bytes of NET to the verifier.
    Up {
        /// A whole chunk.
        chunk: Chunk,
    },
    /// The openings of one device; devices come in the order of the plans.
    Openings(DeviceOpenings),
    /// The prover cannot go on.
    Error {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
}

/// What a verifier sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VerifierFrame {
    /// What will be asked, so that memory can be allocated before the clock runs.
    Prepare {
        /// The sizes.
        params: ParamsRecord,
        /// What the session is bound to.
        binding: Binding,
        /// Each device's share, ascending.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        plans: Vec<DevicePlan>,
    },
    /// To be answered at once.
    Ping {
        /// Comes back in the pong.
        number: u64,
    },
    /// Fill the plots; the clock runs.
    Start {
        /// N1.
        nonce: Nonce,
    },
    /// Walk over the plots; the clock runs.
    Walk {
        /// N2.
        nonce: Nonce,
    },
    /// Walk over the next device's plot; the clock runs.
    Link {
        /// NL.
        nonce: Nonce,
    },
    /// Bring rows to the host; the clock runs.
    Copy {
        /// NC.
        nonce: Nonce,
    },
    /// The next bytes of NET to the prover, to be answered with GOT at once.
    Down {
        /// A whole chunk.
        chunk: Chunk,
    },
    /// There are no more bytes; their digest is wanted.
    DownEnd,
    /// Send the bytes of NET; the clock runs. The first [`NET_WINDOW_LEN`](crate::NET_WINDOW_LEN) may come at once.
    Up {
        /// NU.
        nonce: Nonce,
    },
    /// More bytes may come.
    More {
        /// Bytes that may come, from the beginning of the leg.
        bytes: u64,
    },
    /// Open these rows and walks.
    Open {
        /// One for each plan, in the order of the plans.
        #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
        devices: Vec<OpenDevice>,
    },
    /// The session is over; free everything and end.
    Bye,
    /// The session is over because of this.
    Error {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
}

/// What one device is asked to open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenDevice {
    /// Place in the list of claims.
    pub device: u16,
    /// Rows, ascending.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_ROWS_LEN_MAX>")]
    pub rows: Vec<u64>,
    /// Walks, ascending.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_WALKS_LEN_MAX>")]
    pub walks: Vec<u32>,
    /// Walks of LINK, ascending.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_WALKS_LEN_MAX>")]
    pub links: Vec<u32>,
    /// Places in the run of copied rows, ascending.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_ROWS_LEN_MAX>")]
    pub copies: Vec<u64>,
}

/// What one device opens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceOpenings {
    /// Place in the list of claims.
    pub device: u16,
    /// The rows that were asked for, in that order.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_ROWS_LEN_MAX>")]
    pub rows: Vec<RowOpening>,
    /// The walks that were asked for, in that order.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_WALKS_LEN_MAX>")]
    pub walks: Vec<WalkOpening>,
    /// The walks of LINK that were asked for, in that order.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_WALKS_LEN_MAX>")]
    pub links: Vec<WalkOpening>,
    /// The copied rows that were asked for, in that order; `row` is the place in the run.
    #[serde(deserialize_with = "at_most::<_, _, SAMPLED_ROWS_LEN_MAX>")]
    pub copies: Vec<RowOpening>,
}

/// The path of a row. The row itself is not sent: the verifier computes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowOpening {
    /// The row.
    pub row: u64,
    /// Siblings from the leaf upwards.
    #[serde(deserialize_with = "at_most::<_, _, PATH_LEN_MAX>")]
    pub path: Vec<Digest>,
}

/// The leaf in which a walk's result stands, and the leaf's path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalkOpening {
    /// The walk.
    pub walk: u32,
    /// The results of the 64 walks of its group.
    #[serde(deserialize_with = "exactly::<_, _, WALK_GROUP_LEN>")]
    pub group: Vec<u64>,
    /// Siblings from the leaf upwards.
    #[serde(deserialize_with = "at_most::<_, _, PATH_LEN_MAX>")]
    pub path: Vec<Digest>,
}

/// Why a side ends a session early.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The other side broke the protocol.
    Protocol,
    /// A version that this side does not speak.
    Version,
    /// Memory could not be had.
    Memory,
    /// A device failed.
    Device,
    /// The other side was too slow.
    Deadline,
    /// The proof is wrong.
    Refused,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length above the limit of its direction.
    #[error("a frame of {len} bytes, at most {max}")]
    Oversized {
        /// The length that was announced.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes that are no frame of this direction.
    #[error("bytes that are no frame")]
    Malformed,
    /// A frame in another than its shortest encoding, or followed by something.
    #[error("a frame that is not in its canonical encoding")]
    NotCanonical,
}

/// A direction of the stream.
pub trait Frame: Serialize + DeserializeOwned {
    /// The limit on the length of an encoded frame, without its prefix.
    const LEN_MAX: usize;
}

/// Cuts a stream of bytes into frames; holds at most one frame.
#[derive(Debug)]
pub struct FrameDecoder<F> {
    buffer: Vec<u8>,
    direction: PhantomData<fn() -> F>,
}

impl Frame for ProverFrame {
    const LEN_MAX: usize = PROVER_FRAME_LEN_MAX;
}

impl Frame for VerifierFrame {
    const LEN_MAX: usize = VERIFIER_FRAME_LEN_MAX;
}

impl ProverFrame {
    /// The frame's name, for errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "HELLO",
            Self::Ready => "READY",
            Self::Pong { .. } => "PONG",
            Self::Progress { .. } => "PROGRESS",
            Self::Commit { .. } => "COMMIT",
            Self::Wroot { .. } => "WROOT",
            Self::Lroot { .. } => "LROOT",
            Self::Croot { .. } => "CROOT",
            Self::Decline { .. } => "DECLINE",
            Self::Got { .. } => "GOT",
            Self::Digest { .. } => "DIGEST",
            Self::Up { .. } => "UP",
            Self::Openings(_) => "OPENINGS",
            Self::Error { .. } => "ERROR",
        }
    }
}

impl VerifierFrame {
    /// The frame's name, for errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "PREPARE",
            Self::Ping { .. } => "PING",
            Self::Start { .. } => "START",
            Self::Walk { .. } => "WALK",
            Self::Link { .. } => "LINK",
            Self::Copy { .. } => "COPY",
            Self::Down { .. } => "DOWN",
            Self::DownEnd => "DOWNEND",
            Self::Up { .. } => "UP",
            Self::More { .. } => "MORE",
            Self::Open { .. } => "OPEN",
            Self::Bye => "BYE",
            Self::Error { .. } => "ERROR",
        }
    }
}

/// The bytes of a frame in the stream, its length first.
///
/// # Errors
/// Where the frame is above the limit of its direction.
pub fn encode<F: Frame>(frame: &F) -> Result<Vec<u8>, FrameError> {
    let mut bytes =
        postcard::to_extend(frame, vec![0_u8; PREFIX_LEN]).map_err(|_| FrameError::Malformed)?;
    let len = bytes.len().saturating_sub(PREFIX_LEN);
    let prefix = u32::try_from(len).ok().filter(|_| len <= F::LEN_MAX);
    let prefix = prefix.ok_or(FrameError::Oversized { len, max: F::LEN_MAX })?;
    if let Some(place) = bytes.first_chunk_mut::<PREFIX_LEN>() {
        *place = prefix.to_le_bytes();
    }
    Ok(bytes)
}

/// Decodes one frame without its prefix.
///
/// # Errors
/// Where the bytes are not the canonical encoding of one frame.
pub fn decode<F: Frame>(bytes: &[u8]) -> Result<F, FrameError> {
    if bytes.len() > F::LEN_MAX {
        return Err(FrameError::Oversized { len: bytes.len(), max: F::LEN_MAX });
    }
    from_canonical(bytes)
}

/// Decodes any value of ours and insists on its one encoding.
pub(crate) fn from_canonical<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, FrameError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| FrameError::Malformed)?;
    let again = postcard::to_stdvec(&value).map_err(|_| FrameError::Malformed)?;
    if rest.is_empty() && again == bytes { Ok(value) } else { Err(FrameError::NotCanonical) }
}

/// Makes a text fit an ERROR frame.
#[must_use]
pub fn error_text(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.len().saturating_add(c.len_utf8()) > ERROR_TEXT_LEN_MAX {
            break;
        }
        short.push(c);
    }
    short
}

impl<F: Frame> FrameDecoder<F> {
    /// An empty stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), direction: PhantomData }
    }

    /// Takes bytes from the front of `input` until one frame is whole; `None` means that all were taken and more are
    /// needed.
    ///
    /// # Errors
    /// Where the next frame is too long or is none; the stream is of no use after that.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<F>, FrameError> {
        self.take_up_to(input, PREFIX_LEN);
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let len = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if len > F::LEN_MAX {
            return Err(FrameError::Oversized { len, max: F::LEN_MAX });
        }
        let whole = len.saturating_add(PREFIX_LEN);
        self.take_up_to(input, whole);
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let frame = from_canonical(self.buffer.get(PREFIX_LEN..).unwrap_or_default());
        self.buffer.clear();
        frame.map(Some)
    }

    /// Whether the stream ended in the middle of a frame.
    #[must_use]
    pub const fn is_inside_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn take_up_to(&mut self, input: &mut &[u8], whole: usize) {
        let missing = whole.saturating_sub(self.buffer.len()).min(input.len());
        let (taken, left) = input.split_at(missing);
        self.buffer.extend_from_slice(taken);
        *input = left;
    }
}

impl<F: Frame> Default for FrameDecoder<F> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames that arrive in pieces, or several at once, must come out the same.
    #[test]
    fn frames_survive_any_cut() {
        let frames = [ProverFrame::Ready, ProverFrame::Pong { number: 300 }, ProverFrame::Ready];
        let stream: Vec<u8> = frames.iter().flat_map(|frame| encode(frame).unwrap()).collect();
        for size in 1..=stream.len() {
            let mut decoder = FrameDecoder::<ProverFrame>::new();
            let mut seen = Vec::new();
            for mut piece in stream.chunks(size) {
                while let Some(frame) = decoder.take(&mut piece).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
            assert!(!decoder.is_inside_frame());
        }
    }

    /// A length that is believed before it is checked lets a prover fill the validator's memory.
    #[test]
    fn an_oversized_frame_is_refused_by_its_prefix() {
        let max = PROVER_FRAME_LEN_MAX;
        let prefix = u32::try_from(max + 1).unwrap().to_le_bytes();
        let refused = FrameDecoder::<ProverFrame>::new().take(&mut &prefix[..]);
        assert_eq!(refused, Err(FrameError::Oversized { len: max + 1, max }));
        let at_limit = u32::try_from(max).unwrap().to_le_bytes();
        assert_eq!(FrameDecoder::<ProverFrame>::new().take(&mut &at_limit[..]), Ok(None));
    }

    /// Two encodings of one frame would make two transcripts of one session.
    #[test]
    fn only_the_canonical_encoding_is_a_frame() {
        // PONG with 5 as a two-byte varint.
        assert_eq!(decode::<ProverFrame>(&[2, 0x85, 0x00]), Err(FrameError::NotCanonical));
        assert_eq!(decode::<ProverFrame>(&[2, 5, 0]), Err(FrameError::NotCanonical));
        assert_eq!(decode::<ProverFrame>(&[2, 5]), Ok(ProverFrame::Pong { number: 5 }));
        assert_eq!(decode::<ProverFrame>(&[99]), Err(FrameError::Malformed));
        assert_eq!(decode::<ProverFrame>(&[]), Err(FrameError::Malformed));
    }

    /// A prover's error text is shown to operators: it must be short and plain.
    #[test]
    fn error_texts_are_cut_and_cleaned() {
        assert_eq!(error_text("a\nb\u{1b}c"), "a b c");
        assert_eq!(error_text(&"ü".repeat(200)).len(), ERROR_TEXT_LEN_MAX);
    }
}
