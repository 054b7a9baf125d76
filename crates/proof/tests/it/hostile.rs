//! Arbitrary bytes against the decoders.

use nicompute_proof::{
    FrameDecoder, ProverFrame, SignedTranscript, VerifierFrame, decode, encode, verify_transcript,
};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

const TRANSCRIPT: &str = include_str!("../../testdata/transcript-v2.hex");

proptest! {
    /// A decoder that panics is a way to stop a validator from outside; one that accepts two encodings of a frame is a
    /// way to make it disagree with others.
    #[test]
    fn frames_from_noise(bytes in vec(any::<u8>(), 0..300), tag in 0_u8..16) {
        let mut bytes = bytes;
        for tagged in [false, true] {
            if let Some(first) = bytes.first_mut().filter(|_| tagged) {
                *first = tag;
            }
            if let Ok(frame) = decode::<ProverFrame>(&bytes) {
                assert_eq!(&encode(&frame).unwrap()[4..], bytes.as_slice());
            }
            if let Ok(frame) = decode::<VerifierFrame>(&bytes) {
                assert_eq!(&encode(&frame).unwrap()[4..], bytes.as_slice());
            }
        }
    }

    /// However a hostile stream is cut, the decoder ends at the first bad frame and keeps no more than one.
    #[test]
    fn streams_from_noise(bytes in vec(any::<u8>(), 0..300), cut in 1_usize..40) {
        let mut decoder = FrameDecoder::<ProverFrame>::new();
        for mut piece in bytes.chunks(cut) {
            while let Ok(Some(_)) = decoder.take(&mut piece) {}
        }
    }

    /// No noise after the magic may be taken for evidence.
    #[test]
    fn transcripts_from_noise(at in any::<proptest::sample::Index>(), noise in vec(any::<u8>(), 1..40)) {
        let mut bytes = hex::decode(TRANSCRIPT.trim()).unwrap();
        let good = bytes.clone();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + noise.len());
        bytes.splice(at..end, noise);
        assert!(bytes == good || verify_transcript(&bytes).is_err());
        drop(SignedTranscript::decode(&bytes));
    }
}
