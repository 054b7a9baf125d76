//! The prover's side of the legs that follow the walks: LINK, COPY, and NET in both directions.
//!
//! What a device cannot do is declined, and the session goes on without that leg.

use std::thread;

use nicompute_proof::{
    Chunk, Digest, NET_CHUNK_LEN, NET_WINDOW_LEN, NetStream, Nonce, ProverFrame, VerifierFrame,
    error_text,
};

use crate::device::{Device, DeviceError, Peer};
use crate::machine::with_causes;
use crate::prover::{ProverError, Sink, Work, planned};

/// How far the legs are; each comes at most once, and in order.
#[derive(Debug, Default)]
pub(crate) struct LegsPlayed {
    last: Last,
}

#[derive(Debug, Default)]
enum Last {
    #[default]
    Nothing,
    Link,
    Copy,
    /// Bytes come in.
    Down(Incoming),
    /// All bytes came in.
    DownEnded,
    /// Bytes go out.
    Up(Box<NetStream>),
}

struct Incoming {
    bytes: u64,
    hasher: Box<blake3::Hasher>,
}

impl LegsPlayed {
    /// Answers the frame of a leg.
    pub(crate) fn answer(
        &mut self,
        devices: &mut [Box<dyn Device>],
        work: &Work,
        frame: VerifierFrame,
        sink: &mut dyn Sink,
    ) -> Result<(), ProverError> {
        let name = frame.name();
        let params = &work.params;
        let last = std::mem::take(&mut self.last);
        self.last = match (last, frame) {
            (Last::Nothing, VerifierFrame::Link { nonce }) if params.link() => {
                let roots = link(devices, work, &nonce);
                sink.send(&answer_of(roots, |roots| ProverFrame::Lroot { roots })?)?;
                Last::Link
            }
            (Last::Nothing | Last::Link, VerifierFrame::Copy { nonce })
                if params.copy_rows() > 0 =>
            {
                let roots = copy(devices, work, &nonce);
                sink.send(&answer_of(roots, |roots| ProverFrame::Croot { roots })?)?;
                Last::Copy
            }
            (Last::Nothing | Last::Link | Last::Copy, VerifierFrame::Down { chunk }) => {
                down(Incoming::new(), work, &chunk, sink)?
            }
            (Last::Down(incoming), VerifierFrame::Down { chunk }) => {
                down(incoming, work, &chunk, sink)?
            }
            (Last::Down(incoming), VerifierFrame::DownEnd) => {
                let digest = Digest(*incoming.hasher.finalize().as_bytes());
                sink.send(&ProverFrame::Digest { digest })?;
                Last::DownEnded
            }
            (
                Last::Nothing | Last::Link | Last::Copy | Last::DownEnded,
                VerifierFrame::Up { nonce },
            ) if params.net_up_bytes() > 0 => {
                let stream = Box::new(NetStream::new(work.session.net_up(&nonce)));
                up(stream, params.net_up_bytes().min(NET_WINDOW_LEN), sink)?
            }
            (Last::Up(stream), VerifierFrame::More { bytes })
                if bytes <= params.net_up_bytes() && bytes > stream.bytes() =>
            {
                up(stream, bytes, sink)?
            }
            _ => return Err(ProverError::Protocol(name)),
        };
        Ok(())
    }
}

impl Incoming {
    fn new() -> Self {
        Self { bytes: 0, hasher: Box::default() }
    }
}

fn down(
    mut incoming: Incoming,
    work: &Work,
    chunk: &Chunk,
    sink: &mut dyn Sink,
) -> Result<Last, ProverError> {
    incoming.bytes += NET_CHUNK_LEN as u64;
    if incoming.bytes > work.params.net_down_bytes() {
        return Err(ProverError::Protocol("more of DOWN than was announced"));
    }
    incoming.hasher.update(chunk.as_bytes());
    sink.send(&ProverFrame::Got { bytes: incoming.bytes })?;
    Ok(Last::Down(incoming))
}

fn up(mut stream: Box<NetStream>, to: u64, sink: &mut dyn Sink) -> Result<Last, ProverError> {
    while stream.bytes() < to {
        let chunk = stream.next_chunk();
        sink.send(&ProverFrame::Up { chunk })?;
    }
    Ok(Last::Up(stream))
}

/// Roots make an answer, and a device that cannot do it declines for the whole machine. What breaks the session is no
/// answer.
fn answer_of(
    roots: Result<Vec<Digest>, DeviceError>,
    answer: impl FnOnce(Vec<Digest>) -> ProverFrame,
) -> Result<ProverFrame, ProverError> {
    match roots {
        Ok(roots) => Ok(answer(roots)),
        Err(error @ (DeviceError::Order | DeviceError::Gone(_))) => Err(error.into()),
        Err(error) => {
            let text = error_text(&with_causes(&error));
            Ok(ProverFrame::Decline { code: error.code(), text })
        }
    }
}

/// Every device walks over the plot of the next planned one, the last over the first, all at the same time.
fn link(
    devices: &mut [Box<dyn Device>],
    work: &Work,
    nonce: &Nonce,
) -> Result<Vec<Digest>, DeviceError> {
    let mut peers = planned(devices, &work.plans)
        .map(|(device, plan)| Some(Peer { view: device.plot()?, rows: plan.rows }))
        .collect::<Option<Vec<Peer>>>()
        .ok_or(DeviceError::Unsupported("plot that others can reach"))?;
    peers.rotate_left(1);
    thread::scope(|scope| {
        let workers: Vec<_> = planned(devices, &work.plans)
            .zip(&peers)
            .map(|((device, _), peer)| scope.spawn(|| device.link(nonce, peer)))
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|root| root.expect("a device reports its failures")).collect()
    })
}

/// Every device brings its rows to the host, all at the same time.
fn copy(
    devices: &mut [Box<dyn Device>],
    work: &Work,
    nonce: &Nonce,
) -> Result<Vec<Digest>, DeviceError> {
    thread::scope(|scope| {
        let workers: Vec<_> = planned(devices, &work.plans)
            .map(|(device, _)| scope.spawn(|| device.copy(nonce)))
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|root| root.expect("a device reports its failures")).collect()
    })
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
