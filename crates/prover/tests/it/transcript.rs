//! Transcripts: anyone can check one again, and nobody can change one.

use nicompute_keys::{Keypair, Scheme};
use nicompute_proof::{
    ParamsRecord, Place, ProofParams, SignError, SignedTranscript, Transcript, TranscriptError,
    Verdict, verify_transcript,
};

use crate::harness::{boxed, config, honest, prove, prove_with, tiny, validator};

fn transcript() -> Transcript {
    *prove(boxed(honest())).unwrap()
}

/// A changed byte that is not noticed would make evidence worthless.
#[test]
fn every_single_byte_counts() {
    // A small sample keeps the file short, so that every byte of it can be tried.
    let sample = ParamsRecord { sampled_rows: 8, sampled_walks: 2, ..tiny().record() };
    let config = config(ProofParams::try_from(sample).unwrap());
    let transcript = prove_with(config, boxed(honest())).unwrap();
    let bytes = transcript.sign(&validator()).unwrap().into_bytes();
    assert!(verify_transcript(&bytes).is_ok());
    let mut changed = bytes.clone();
    for at in 0..bytes.len() {
        changed[at] ^= 1 << (at % 8);
        assert!(verify_transcript(&changed).is_err(), "byte {at}");
        changed[at] = bytes[at];
    }
    for len in [0, 1, 22, 23, 26, 27, bytes.len() - 65, bytes.len() - 1] {
        assert!(verify_transcript(&bytes[..len]).is_err(), "cut to {len}");
    }
    changed.push(0);
    assert!(verify_transcript(&changed).is_err());
}

/// A validator that signs something that does not hold must be found out without its help.
#[test]
fn a_lying_signer_is_found_out() {
    let resigned = |change: &dyn Fn(&mut Transcript)| {
        let mut changed = transcript();
        change(&mut changed);
        verify_transcript(changed.sign(&validator()).unwrap().as_bytes()).unwrap_err()
    };
    let verdicts: [&dyn Fn(&mut Transcript); 9] = [
        &|t| t.exchange.n1.0[0] ^= 1,
        &|t| t.exchange.n2.0[0] ^= 1,
        &|t| t.exchange.n3.0[0] ^= 1,
        &|t| t.exchange.binding.provider[0] ^= 1,
        &|t| t.exchange.binding.block_number += 1,
        &|t| t.exchange.devices[0].row_root.0[0] ^= 1,
        &|t| t.exchange.devices[0].walk_root.0[0] ^= 1,
        &|t| t.exchange.devices[0].rows[7].path[0].0[0] ^= 1,
        &|t| t.exchange.claims[0].id.push('x'),
    ];
    for (number, change) in verdicts.iter().enumerate() {
        let error = resigned(change);
        let found = matches!(error, TranscriptError::Verdict { .. } | TranscriptError::Exchange(_));
        assert!(found, "change {number}: {error}");
    }
    assert_eq!(resigned(&|t| t.measured.operations_per_second += 1), TranscriptError::Measured);
    assert_eq!(resigned(&|t| t.times.commit_ns -= 1), TranscriptError::Measured);
    assert_eq!(resigned(&|t| t.exchange.devices[0].panel_ns.reverse()), TranscriptError::Times);
    assert_eq!(resigned(&|t| t.limits.fill_ns = 1), TranscriptError::Times);
    let accused = Verdict::Mismatch { device: 0, place: Place::Row(1) };
    let error = resigned(&|t| t.verdict = accused);
    assert_eq!(error, TranscriptError::Verdict { stated: accused, found: Verdict::Proven });
}

/// A transcript must carry the signature of the validator that it names, and no other.
#[test]
fn only_the_named_validator_signs() {
    let bob = Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap();
    let named = validator().hotkey();
    assert_eq!(transcript().sign(&bob), Err(SignError::Signer(named)));
    let ed25519 = Keypair::from_seed([1; 32], Scheme::Ed25519);
    assert_eq!(transcript().sign(&ed25519), Err(SignError::Scheme));
}

/// Two encodings of one session would be two pieces of evidence.
#[test]
fn only_the_canonical_encoding_is_a_transcript() {
    let signed = transcript().sign(&validator()).unwrap();
    let again = SignedTranscript::decode(signed.as_bytes()).unwrap();
    assert_eq!(again, signed);
    // The body's first varint after the binding's 112 bytes of keys and id: the block number in one byte too many.
    let encoded = transcript().encode().unwrap();
    let at = 27 + 32 + 32 + 16;
    assert_eq!(encoded[at..at + 2], [0xD2, 0x09]);
    let mut longer = encoded;
    longer.splice(at + 1..at + 2, [0x89, 0x00]);
    let len = u32::try_from(longer.len() - 27).unwrap();
    longer[23..27].copy_from_slice(&len.to_le_bytes());
    let message = [b"nicompute-transcript/2\n".as_slice(), &blake3_of(&longer)].concat();
    let signature = validator().sign(&message);
    longer.extend_from_slice(&signature);
    assert!(matches!(verify_transcript(&longer), Err(TranscriptError::Body(_))));
}

/// A file that announces more than there may be must cost nothing.
#[test]
fn an_oversized_body_is_refused() {
    let mut bytes = b"nicompute-transcript/2\n".to_vec();
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(verify_transcript(&bytes), Err(TranscriptError::Oversized(_))));
    assert_eq!(verify_transcript(b"something else"), Err(TranscriptError::Magic));
}

fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
