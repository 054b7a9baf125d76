//! A session over a pair of byte streams: what the shipped binary does with its standard input and output.

use std::io::{self, Read, Write};

use nicompute_proof::{FrameDecoder, VerifierFrame};

use crate::device::Gone;
use crate::prover::{Flow, Prover, ProverError, Sink};

/// Bytes that are read at a time.
const READ_LEN: usize = 16 * 1024;

/// Runs one session until BYE, an error, or the end of the input.
///
/// # Errors
/// Where the session ends before BYE.
pub fn run(
    prover: &mut Prover,
    mut input: impl Read,
    output: impl Write,
) -> Result<(), ProverError> {
    let mut sink = WriteSink(output);
    sink.send(&prover.hello())?;
    let mut decoder = FrameDecoder::<VerifierFrame>::new();
    let mut buffer = vec![0_u8; READ_LEN];
    loop {
        let len = match input.read(&mut buffer) {
            Ok(0) => return Err(Gone.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(Gone.into()),
        };
        let mut bytes = &buffer[..len];
        while let Some(frame) = decoder.take(&mut bytes)? {
            if prover.on_frame(frame, &mut sink)? == Flow::End {
                return Ok(());
            }
        }
    }
}

struct WriteSink<W>(W);

impl<W: Write> Sink for WriteSink<W> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).map_err(|_| Gone)
    }
}
