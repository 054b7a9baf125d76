//! The document of a finished session: what was said, when, with which verdict, signed by the validator.
//!
//! A transcript has one encoding. Everything in it but the times and the identity of the machine can be computed again
//! by anyone, and [`verify_transcript`] does so; the rest is the signer's word, and the report keeps the two apart.

use serde::{Deserialize, Serialize};

use nicompute_keys::{Keypair, Scheme, verify};
use nicompute_market::{AccountId, Hotkey};

use crate::exchange::{Exchange, ExchangeError, Verdict};
use crate::frame::{FrameError, from_canonical};
use crate::measured::{Measured, Times};
use crate::params::ProofParams;
use crate::report::Report;
use crate::session::Limits;

/// The first bytes of a transcript, and of the message that is signed.
pub const TRANSCRIPT_MAGIC: &[u8; 23] = b"nicompute-transcript/2\n";
/// The longest body: 32 devices with the most samples there are need two thirds of it.
pub const TRANSCRIPT_BODY_LEN_MAX: usize = 32 << 20;
/// A signature of sr25519.
pub const SIGNATURE_LEN: usize = 64;

const PREFIX_LEN: usize = 4;

/// A finished session, not yet signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transcript {
    /// What both sides said.
    pub exchange: Exchange,
    /// How long each stage was allowed to take.
    pub limits: Limits,
    /// How long the stages took.
    pub times: Times,
    /// What the recomputation found.
    pub verdict: Verdict,
    /// What was proven, in numbers.
    pub measured: Measured,
}

/// A transcript with its validator's signature, as it is stored and passed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedTranscript {
    transcript: Transcript,
    bytes: Vec<u8>,
}

/// Why a transcript cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The session was bound to another validator.
    #[error("the transcript belongs to another validator: {0}")]
    Signer(Hotkey),
    /// Hotkeys that sign transcripts are sr25519.
    #[error("transcripts are signed with sr25519 keys")]
    Scheme,
    /// The transcript is longer than a transcript may be.
    #[error("the transcript cannot be encoded")]
    Encode(#[from] EncodeError),
}

/// Why a transcript cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a transcript of {0} bytes, at most 32 MiB")]
pub struct EncodeError(usize);

/// Why bytes are not a transcript that holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// Not a transcript of this version, or not a transcript at all.
    #[error("the file does not begin as a transcript of version 2 does")]
    Magic,
    /// A body above the limit.
    #[error("a body of {0} bytes, at most 32 MiB")]
    Oversized(usize),
    /// Bytes missing or left over.
    #[error("the file has {got} bytes, its header asks for {expected}")]
    Length {
        /// The file's length.
        got: usize,
        /// What it must be.
        expected: usize,
    },
    /// The signature is not the validator's.
    #[error("the signature is not the one of validator {0}")]
    Signature(Hotkey),
    /// A body that is not in the one encoding of a transcript.
    #[error("the body is not the encoding of a transcript")]
    Body(#[source] FrameError),
    /// Content that contradicts itself.
    #[error("the content contradicts itself")]
    Exchange(#[from] ExchangeError),
    /// The signer states another verdict than the content gives.
    #[error("the stated verdict is {stated:?}, the content gives {found:?}")]
    Verdict {
        /// What the signer states.
        stated: Verdict,
        /// What was computed.
        found: Verdict,
    },
    /// The signer states other numbers than the sizes and times give.
    #[error("the stated measurements do not follow from the sizes and times")]
    Measured,
    /// Times that go backwards or exceed the stated limits.
    #[error("the stated times go backwards or exceed the stated limits")]
    Times,
}

impl Transcript {
    /// The one encoding, without a signature: the magic, the body's length in 4 bytes, the body in postcard.
    ///
    /// # Errors
    /// Where the body is longer than a body may be.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let body = postcard::to_stdvec(self).map_err(|_| EncodeError(0))?;
        let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= TRANSCRIPT_BODY_LEN_MAX);
        let len = len.ok_or(EncodeError(body.len()))?;
        Ok([TRANSCRIPT_MAGIC.as_slice(), &len.to_le_bytes(), &body].concat())
    }

    /// The validator that the session was bound to.
    #[must_use]
    pub const fn validator(&self) -> Hotkey {
        Hotkey::from_bytes(self.exchange.binding.validator)
    }

    /// Signs with the hotkey that the session was bound to.
    ///
    /// # Errors
    /// Where the key is another one.
    pub fn sign(self, keypair: &Keypair) -> Result<SignedTranscript, SignError> {
        if keypair.scheme() != Scheme::Sr25519 {
            return Err(SignError::Scheme);
        }
        if keypair.hotkey() != self.validator() {
            return Err(SignError::Signer(self.validator()));
        }
        let mut bytes = self.encode()?;
        let signature = keypair.sign(&signed_message(&bytes));
        bytes.extend_from_slice(&signature);
        Ok(SignedTranscript { transcript: self, bytes })
    }

    fn times_hold(&self) -> bool {
        let Times { commit_ns, wroot_ns, lroot_ns, croot_ns, down_ns, up_ns, openings_ns, .. } =
            self.times;
        let params = self.exchange.params;
        let stage =
            |from: u64, to: u64, limit: u64| to.checked_sub(from).is_some_and(|took| took <= limit);
        let panels_hold = self.exchange.devices.iter().all(|device| {
            device.panel_ns.is_sorted() && device.panel_ns.iter().all(|at| *at <= commit_ns)
        });
        panels_hold
            && self.times.rtt_min_ns <= self.limits.pong_ns
            && stage(0, commit_ns, self.limits.fill_ns)
            && stage(commit_ns, wroot_ns, self.limits.walk_ns)
            && stage(wroot_ns, lroot_ns, self.limits.link_ns)
            && stage(lroot_ns, croot_ns, self.limits.copy_ns)
            && stage(croot_ns, down_ns, self.limits.net_ns)
            && stage(down_ns, up_ns, self.limits.net_ns)
            && (params.link_walks > 0 || lroot_ns == wroot_ns)
            && (params.copy_rows > 0 || croot_ns == lroot_ns)
            && (params.net_down_bytes > 0 || down_ns == croot_ns)
            && (params.net_up_bytes > 0 || up_ns == down_ns)
            && stage(up_ns, openings_ns, self.limits.openings_ns)
    }

    fn measured_again(&self) -> Result<Measured, ExchangeError> {
        let params = ProofParams::try_from(self.exchange.params)?;
        let plans: Vec<_> = self.exchange.devices.iter().map(|device| device.plan).collect();
        Ok(Measured::from_times(&params, &plans, &self.exchange.legs, &self.times))
    }
}

impl SignedTranscript {
    /// Takes apart a file: the framing, the signature and the encoding are checked, nothing is computed again.
    ///
    /// # Errors
    /// Where any of them does not hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, TranscriptError> {
        let rest = bytes.strip_prefix(TRANSCRIPT_MAGIC).ok_or(TranscriptError::Magic)?;
        let (prefix, rest) =
            rest.split_first_chunk::<PREFIX_LEN>().ok_or(TranscriptError::Magic)?;
        let len = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if len > TRANSCRIPT_BODY_LEN_MAX {
            return Err(TranscriptError::Oversized(len));
        }
        let header = TRANSCRIPT_MAGIC.len().saturating_add(PREFIX_LEN);
        let expected = header.saturating_add(len).saturating_add(SIGNATURE_LEN);
        let length = TranscriptError::Length { got: bytes.len(), expected };
        if bytes.len() != expected {
            return Err(length);
        }
        let (body, signature) = rest.split_last_chunk::<SIGNATURE_LEN>().ok_or(length)?;
        let transcript: Transcript = from_canonical(body).map_err(TranscriptError::Body)?;
        let signer = transcript.validator();
        let signed = bytes.get(..header.saturating_add(len)).unwrap_or_default();
        let account = AccountId::from_bytes(*signer.as_bytes());
        if !verify(Scheme::Sr25519, &account, &signed_message(signed), signature) {
            return Err(TranscriptError::Signature(signer));
        }
        Ok(Self { transcript, bytes: bytes.to_vec() })
    }

    /// What was signed.
    #[must_use]
    pub const fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// The bytes to store and to pass on.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes to store and to pass on.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// BLAKE3 of the whole file: the name of this evidence.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }
}

/// Checks a transcript file as anyone can, offline: the encoding, the signature, every sampled row and walk, the verdict
/// and the arithmetic of the measurements.
///
/// # Errors
/// At the first thing that does not hold.
pub fn verify_transcript(bytes: &[u8]) -> Result<Report, TranscriptError> {
    let signed = SignedTranscript::decode(bytes)?;
    let transcript = signed.transcript();
    if transcript.measured_again()? != transcript.measured {
        return Err(TranscriptError::Measured);
    }
    if !transcript.times_hold() {
        return Err(TranscriptError::Times);
    }
    let found = transcript.exchange.check()?;
    if found != transcript.verdict {
        return Err(TranscriptError::Verdict { stated: transcript.verdict, found });
    }
    Ok(Report::new(&signed))
}

/// The message under the signature: the magic, then BLAKE3 of everything before the signature.
fn signed_message(encoded: &[u8]) -> Vec<u8> {
    [TRANSCRIPT_MAGIC.as_slice(), blake3::hash(encoded).as_bytes()].concat()
}
