//! Damaged transcripts, with the signature that they had and with a fresh one of a signer that lies.

use std::collections::BTreeMap;

use nicompute_proof::{
    Exchange, SIGNATURE_LEN, SignedTranscript, TRANSCRIPT_BODY_LEN_MAX, TRANSCRIPT_MAGIC,
    TranscriptError, verify_transcript,
};
use nicompute_prover::{Prover, prove_in_process};

use crate::allocations::peak_of;
use crate::mutation::{Harm, Random};
use crate::{devices, session, validator};

const DAMAGED: u64 = 5_000;
const SIGNED_AGAIN: u64 = 1_500;
/// Magic and length.
pub(crate) const HEADER_LEN: usize = TRANSCRIPT_MAGIC.len() + 4;
/// What a check may take at once: the file some times over, what sequences are given before they have proven their length, and
/// the matrix of the session.
const ALLOWED_PER_BYTE: i64 = 8;
const ALLOWED: i64 = 4 << 20;

pub(crate) fn good() -> Vec<u8> {
    let mut now = 0;
    let mut clock = || {
        now += 1_000_000;
        now
    };
    let mut prover = Prover::new(devices());
    let transcript = prove_in_process(&mut session(0), &mut prover, &mut clock).unwrap();
    transcript.sign(&validator()).unwrap().into_bytes()
}

fn check(bytes: &[u8]) -> Result<(), TranscriptError> {
    let (peak, checked) = peak_of(|| verify_transcript(bytes).map(drop));
    let allowed = i64::try_from(bytes.len()).unwrap() * ALLOWED_PER_BYTE + ALLOWED;
    assert!(peak <= allowed, "{peak} bytes for a file of {}: {checked:?}", bytes.len());
    checked
}

fn name(error: &TranscriptError) -> &'static str {
    match error {
        TranscriptError::Magic => "magic",
        TranscriptError::Oversized(_) => "oversized",
        TranscriptError::Length { .. } => "length",
        TranscriptError::Signature(_) => "signature",
        TranscriptError::Body(_) => "body",
        TranscriptError::Exchange(_) => "exchange",
        TranscriptError::Verdict { .. } => "verdict",
        TranscriptError::Measured => "measured",
        TranscriptError::Times => "times",
    }
}

/// A damaged file that passes, stops the checker or fills its memory makes evidence worthless.
#[test]
fn damaged_transcripts_are_refused() {
    let good = good();
    assert_eq!(check(&good), Ok(()));
    let mut reasons = BTreeMap::<(Harm, &str), u32>::new();
    for seed in 0..DAMAGED {
        let mut random = Random(seed << 20);
        let harm = Harm::ALL[random.below(Harm::ALL.len())];
        let mut bytes = good.clone();
        harm.on(&mut bytes, &mut random);
        if bytes == good {
            continue;
        }
        let error = check(&bytes).unwrap_err();
        let expected: &[&str] = match harm {
            Harm::Truncated | Harm::Extended | Harm::Removed | Harm::Duplicated => {
                &["magic", "oversized", "length"]
            }
            Harm::Flipped | Harm::Reordered | Harm::Overwritten => {
                &["magic", "oversized", "length", "body", "signature"]
            }
        };
        assert!(expected.contains(&name(&error)), "seed {seed}, {harm:?}: {error}");
        *reasons.entry((harm, name(&error))).or_default() += 1;
    }
    println!("{reasons:#?}");
    let longest = u32::try_from(TRANSCRIPT_BODY_LEN_MAX + 1).unwrap().to_le_bytes();
    let mut oversized = good;
    oversized[TRANSCRIPT_MAGIC.len()..HEADER_LEN].copy_from_slice(&longest);
    assert!(matches!(check(&oversized), Err(TranscriptError::Oversized(_))));
}

/// A signer that signs damaged content must be found out, unless what changed is its own word anyway.
#[test]
fn a_lying_signer_is_found_out() {
    let good = good();
    let original = SignedTranscript::decode(&good).unwrap();
    let body = &good[HEADER_LEN..good.len() - SIGNATURE_LEN];
    let mut reasons = BTreeMap::<&str, u32>::new();
    for seed in 0..SIGNED_AGAIN {
        let mut random = Random(seed << 24 | 1);
        let harm = Harm::ALL[random.below(Harm::ALL.len())];
        let mut changed = body.to_vec();
        harm.on(&mut changed, &mut random);
        if changed == body {
            continue;
        }
        let bytes = signed(&changed);
        let reason = match check(&bytes) {
            Err(error) => name(&error),
            Ok(()) => {
                let accepted = SignedTranscript::decode(&bytes).unwrap();
                let (was, is) = (original.transcript(), accepted.transcript());
                assert_eq!(proven(&was.exchange), proven(&is.exchange), "seed {seed}, {harm:?}");
                assert_eq!(was.verdict, is.verdict, "seed {seed}, {harm:?}");
                "only the signer's word"
            }
        };
        *reasons.entry(reason).or_default() += 1;
    }
    println!("{reasons:#?}");
    assert!(reasons.contains_key("exchange") && reasons.contains_key("verdict"), "{reasons:?}");
}

pub(crate) fn signed(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_le_bytes();
    let mut bytes = [TRANSCRIPT_MAGIC.as_slice(), &len, body].concat();
    let message = [TRANSCRIPT_MAGIC.as_slice(), blake3::hash(&bytes).as_bytes()].concat();
    bytes.extend_from_slice(&validator().sign(&message));
    bytes
}

/// What a checker computes again: everything but names, software and claimed memory, and the moments of the panels.
fn proven(exchange: &Exchange) -> Exchange {
    let mut proven = exchange.clone();
    proven.software = String::new();
    for claim in &mut proven.claims {
        claim.name = String::new();
        claim.memory_bytes = 0;
    }
    for device in &mut proven.devices {
        device.panel_ns.fill(0);
    }
    proven
}
