//! Proof of hardware, the verifier's side: parameters, keys, frames, commitments, transcript, and a verifier that
//! needs only a CPU.
//!
//! A prover fills memory with rows that each cost a chain of matrix products, commits to them, then follows walks in
//! which every address depends on the row before. The verifier computes a random sample again, bit for bit, and takes
//! the times from its own clock. The byte formats are frozen in `docs/proof.md`; a change is a new version.
//!
//! This room does no I/O, reads no clock and draws no randomness: the caller hands in bytes, moments and entropy. It
//! trusts nothing that a prover says beyond what was computed again, and it knows no GPU.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod binding;
mod bounded;
mod derive;
mod exchange;
mod frame;
mod freivalds;
mod kernel;
mod legs;
mod measured;
mod operand;
mod params;
mod report;
mod session;
mod transcript;
mod tree;
mod walk;

pub use binding::{
    Binding, ClaimError, DEVICES_MAX, DeviceClaim, DeviceKind, DevicePlan, Nonce, TEXT_LEN_MAX,
    check_claims, plan_devices, plans_are_sound,
};
pub use derive::{DeviceKeys, Sample, SessionKeys, context, scale};
pub use exchange::{DeviceExchange, Exchange, ExchangeError, Place, Verdict, walk_leaf};
pub use frame::{
    DeviceOpenings, ERROR_TEXT_LEN_MAX, ErrorCode, Frame, FrameDecoder, FrameError, OpenDevice,
    PROVER_FRAME_LEN_MAX, ProverFrame, RowOpening, VERIFIER_FRAME_LEN_MAX, VerifierFrame,
    WalkOpening, decode, encode, error_text,
};
pub use freivalds::{Audit, AuditError, FREIVALDS_PRIME};
pub use kernel::{BLOCK_ROWS, ChainMatrix, Kernel, Replay, mix_to_operands, mix_to_plot};
pub use legs::{
    Answered, Chunk, ChunkError, CopyKey, Leg, Legs, NET_CHUNK_LEN, NET_WINDOW_LEN, Net, NetStream,
};
pub use measured::{Measured, RTT_CREDIT_NS_MAX, Rate, Times};
/// The moment in a session's settings, for callers that have no other use for the market's units.
pub use nicompute_market::UnixMillis;
pub use operand::{
    MIX_COLUMN, MIX_MULTIPLIERS, MIX_STEP, key_stream, mix_tweak, mix32, next_operand, operand_row,
    plot_byte,
};
pub use params::{
    Exactness, OPERAND_MAX, PROOF_VERSION, ParamsError, ParamsRecord, ProofParams, WALK_GROUP,
};
pub use report::{Report, SIGNERS_WORD};
pub use session::{
    Entropy, EntropyError, Limits, Output, PINGS, Refusal, SessionConfig, Stage, Step,
    VerifierSession,
};
pub use transcript::{
    EncodeError, SIGNATURE_LEN, SignError, SignedTranscript, TRANSCRIPT_BODY_LEN_MAX,
    TRANSCRIPT_MAGIC, Transcript, TranscriptError, verify_transcript,
};
pub use tree::{Digest, Tree, TreeError, TreeKeys, check_indices, path_length};
pub use walk::{MIX64_MULTIPLIERS, WALK_STRIDE, WalkKey, mix64};
