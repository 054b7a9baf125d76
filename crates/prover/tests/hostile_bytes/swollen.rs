//! Files and frames in which a sequence announces more than any session has, with a byte or three for each element: they
//! must be refused before their elements take memory.

use nicompute_proof::{
    Frame, PROVER_FRAME_LEN_MAX, ProverFrame, SIGNATURE_LEN, TRANSCRIPT_BODY_LEN_MAX,
    TRANSCRIPT_MAGIC, TranscriptError, VERIFIER_FRAME_LEN_MAX, VerifierFrame, decode,
    verify_transcript,
};

use crate::allocations::peak_of;
use crate::frames::recorded;
use crate::transcripts::{HEADER_LEN, good, signed};

/// What a decoder may take for a transcript that is refused: all sequences up to their limits, for one device.
const REFUSED_TRANSCRIPT_ALLOWED: i64 = 2 << 20;
/// Zeros after the announcement: a third of a million empty openings, twenty megabytes if they were built.
const TAIL_LEN: usize = 1 << 20;
/// An announcement of 11,184,810 elements, three bytes of the longest body each.
const MANY: [u8; 4] = [0xAA, 0xD5, 0xAA, 0x05];
/// Places of a transcript that are tried: all of the beginning, where each kind of sequence is, and some further on.
const PLACES: usize = 2_500;
const STRIDE: usize = 37;

/// The bytes up to a place, an announcement of many elements there, and zeros up to a length.
fn swollen(bytes: &[u8], at: usize, len: usize) -> Vec<u8> {
    let mut swollen = [&bytes[..at], &MANY].concat();
    swollen.resize(len.max(swollen.len()), 0);
    swollen
}

/// A stranger's file of 32 MiB must not cost whoever checks it twenty times as much.
#[test]
fn swollen_transcripts_are_refused_for_little() {
    let good = good();
    let body = &good[HEADER_LEN..good.len() - SIGNATURE_LEN];
    let places = (0..PLACES.min(body.len())).chain((PLACES..body.len()).step_by(STRIDE));
    let mut bodies = 0;
    for at in places {
        let swollen = swollen(body, at, TAIL_LEN);
        let len = u32::try_from(swollen.len()).unwrap().to_le_bytes();
        let file = [TRANSCRIPT_MAGIC.as_slice(), &len, &swollen, &[0; SIGNATURE_LEN]].concat();
        let (peak, refused) = peak_of(|| verify_transcript(&file).map(drop));
        let refused = refused.unwrap_err();
        assert!(peak <= REFUSED_TRANSCRIPT_ALLOWED, "at {at}: {peak} bytes for {refused}");
        bodies += u32::from(matches!(refused, TranscriptError::Body(_)));
    }
    assert!(bodies > 1_000, "{bodies}");
}

/// The longest file of all, signed by its maker, with eleven million elements of three bytes.
#[test]
fn the_longest_file_of_empty_openings_costs_no_more_than_itself() {
    let good = good();
    let body = &good[HEADER_LEN..good.len() - SIGNATURE_LEN];
    for at in (0..body.len()).step_by(401) {
        let file = signed(&swollen(body, at, TRANSCRIPT_BODY_LEN_MAX));
        let (peak, refused) = peak_of(|| verify_transcript(&file).map(drop));
        assert!(refused.is_err());
        assert!(peak <= REFUSED_TRANSCRIPT_ALLOWED, "at {at}: {peak} bytes");
    }
}

fn refused_for_little<F: Frame>(frames: &[Vec<u8>], allowed: usize) {
    for frame in frames {
        let frame = &frame[4..];
        for at in 1..frame.len().min(400) {
            let bytes = swollen(frame, at, F::LEN_MAX);
            let (peak, _) = peak_of(|| decode::<F>(&bytes).map(drop));
            assert!(peak <= i64::try_from(allowed).unwrap(), "at {at}: {peak} bytes");
        }
    }
}

/// A HELLO of a quarter of a million devices must not cost sixteen times its length, nor any other frame.
#[test]
fn swollen_frames_are_refused_for_little() {
    let (mut from_prover, mut from_verifier) = recorded(0);
    from_prover.dedup_by_key(|frame| frame[4]);
    from_verifier.dedup_by_key(|frame| frame[4]);
    refused_for_little::<ProverFrame>(&from_prover, PROVER_FRAME_LEN_MAX);
    refused_for_little::<VerifierFrame>(&from_verifier, VERIFIER_FRAME_LEN_MAX);
}
