//! A whole session inside one process, over a pipe in memory: for tests and for worlds without a network.

use nicompute_proof::{
    FrameDecoder, ProverFrame, Refusal, Transcript, VerifierFrame, VerifierSession,
};

use crate::device::Gone;
use crate::prover::{Prover, Sink};

/// Runs a session to its end. Every frame passes through its bytes in both directions, and `now_ns` is the verifier's
/// monotonic clock, read whenever a frame of the prover arrives.
///
/// # Errors
/// Where the verifier refuses.
pub fn prove_in_process(
    session: &mut VerifierSession,
    prover: &mut Prover,
    now_ns: &mut dyn FnMut() -> u64,
) -> Result<Box<Transcript>, Refusal> {
    let hello = prover.hello();
    let mut talk = |frame: VerifierFrame, sink: &mut dyn Sink| {
        // What the prover could not do, it has told the verifier in a frame.
        drop(prover.on_frame(frame, sink));
    };
    exchange(session, &hello, &mut talk, now_ns)
}

/// The same with anything that answers frames in the place of a prover.
///
/// # Errors
/// Where the verifier refuses.
pub fn exchange(
    session: &mut VerifierSession,
    hello: &ProverFrame,
    answer: &mut dyn FnMut(VerifierFrame, &mut dyn Sink),
    now_ns: &mut dyn FnMut() -> u64,
) -> Result<Box<Transcript>, Refusal> {
    let mut pipe = Pipe { session, now_ns, waiting: Vec::new(), end: None };
    // Where HELLO is refused, the pipe holds the refusal.
    pipe.send(hello).unwrap_or(());
    let mut decoder = FrameDecoder::<VerifierFrame>::new();
    while pipe.end.is_none() {
        let bytes = std::mem::take(&mut pipe.waiting);
        if bytes.is_empty() {
            // The prover has fallen silent; the verifier's clock runs on to the stage's limit.
            let late = pipe.session.deadline_ns().unwrap_or(u64::MAX).saturating_add(1);
            let refusal = pipe.session.on_time(late).err().unwrap_or(Refusal::Clock);
            pipe.end = Some(Err(refusal));
        }
        let mut rest = bytes.as_slice();
        while let Ok(Some(frame)) = decoder.take(&mut rest) {
            answer(frame, &mut pipe);
        }
    }
    pipe.end.unwrap_or(Err(Refusal::Clock))
}

struct Pipe<'a> {
    session: &'a mut VerifierSession,
    now_ns: &'a mut dyn FnMut() -> u64,
    waiting: Vec<u8>,
    end: Option<Result<Box<Transcript>, Refusal>>,
}

impl Sink for Pipe<'_> {
    fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        if self.end.is_some() {
            return Err(Gone);
        }
        match self.session.on_bytes(bytes, (self.now_ns)()) {
            Ok(output) => {
                self.waiting.extend(output.send);
                self.end = output.done.map(Ok);
                Ok(())
            }
            Err(refusal) => {
                self.end = Some(Err(refusal));
                Err(Gone)
            }
        }
    }
}
