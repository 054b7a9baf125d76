//! The legs after the walks: each begins with a fresh nonce and ends with a commitment, a digest or the last byte.
//!
//! A leg that is not asked for takes no time and draws no nonce.

use crate::binding::Nonce;
use crate::exchange::DeviceExchange;
use crate::frame::{ErrorCode, VerifierFrame, error_text};
use crate::legs::{Chunk, Leg, NET_CHUNK_LEN, NET_WINDOW_LEN, Net, NetStream};
use crate::session::{Phase, Refusal, Running, Stage, Step, VerifierSession};
use crate::tree::Digest;

/// The part of NET's limit after which no more bytes are begun.
const NET_BEGIN_DIVISOR: u64 = 4;
const CHUNK: u64 = NET_CHUNK_LEN as u64;

/// Bytes on their way to the prover.
#[derive(Debug)]
pub(super) struct Download {
    nonce: Nonce,
    stream: NetStream,
    got: u64,
    is_ended: bool,
}

/// Bytes on their way from the prover.
#[derive(Debug)]
pub(super) struct Upload {
    nonce: Nonce,
    stream: NetStream,
    allowed: u64,
}

impl VerifierSession {
    pub(super) fn after_walk(
        &mut self,
        mut running: Box<Running>,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if !self.config.params.link() {
            running.times.lroot_ns = running.times.wroot_ns;
            return self.after_link(running, at_ns);
        }
        let nonce = self.draw()?;
        running.exchange.legs.link = Leg::Answered { nonce };
        self.enter(Phase::Link(running), at_ns);
        Ok(Step::Send(VerifierFrame::Link { nonce }))
    }

    pub(super) fn on_lroot(
        &mut self,
        mut running: Box<Running>,
        roots: &[Digest],
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if !running.set_roots(roots, |device| &mut device.link_root) {
            return Err(Refusal::Protocol { stage: Stage::Link, got: "LROOT of other devices" });
        }
        running.times.lroot_ns = at_ns.saturating_sub(running.start_ns);
        self.after_link(running, at_ns)
    }

    pub(super) fn on_croot(
        &mut self,
        mut running: Box<Running>,
        roots: &[Digest],
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        if !running.set_roots(roots, |device| &mut device.copy_root) {
            return Err(Refusal::Protocol { stage: Stage::Copy, got: "CROOT of other devices" });
        }
        running.times.croot_ns = at_ns.saturating_sub(running.start_ns);
        self.after_copy(running, at_ns)
    }

    /// LINK or COPY is left out, and the reason kept.
    pub(super) fn on_decline(
        &mut self,
        phase: Phase,
        code: ErrorCode,
        text: &str,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let declined = Leg::Declined { code, text: error_text(text) };
        match phase {
            Phase::Link(mut running) => {
                running.exchange.legs.link = declined;
                running.times.lroot_ns = at_ns.saturating_sub(running.start_ns);
                self.after_link(running, at_ns)
            }
            Phase::Copy(mut running) => {
                running.exchange.legs.copy = declined;
                running.times.croot_ns = at_ns.saturating_sub(running.start_ns);
                self.after_copy(running, at_ns)
            }
            Phase::Hello
            | Phase::Ready(_)
            | Phase::Pings(_)
            | Phase::Fill(_)
            | Phase::Walk(_)
            | Phase::Down(..)
            | Phase::Up(..)
            | Phase::Openings(_)
            | Phase::Over => Err(Refusal::Protocol { stage: Stage::Over, got: "DECLINE" }),
        }
    }

    pub(super) fn on_got(
        &mut self,
        running: Box<Running>,
        mut download: Download,
        bytes: u64,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        // One GOT for each chunk, in order, and none for what was not sent.
        if bytes != download.got.saturating_add(CHUNK) || bytes > download.stream.bytes() {
            return Err(Refusal::Protocol { stage: Stage::Down, got: "GOT of other bytes" });
        }
        download.got = bytes;
        let frames = self.next_chunks(&mut download, at_ns);
        self.phase = Phase::Down(running, download);
        Ok(if frames.is_empty() { Step::Wait } else { Step::SendAll(frames) })
    }

    pub(super) fn on_digest(
        &mut self,
        mut running: Box<Running>,
        download: &Download,
        digest: Digest,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let stage = Stage::Down;
        let bytes = download.stream.bytes();
        if !download.is_ended || download.got != bytes {
            return Err(Refusal::Protocol { stage, got: "DIGEST before the last byte" });
        }
        if digest != download.stream.digest() {
            return Err(Refusal::Stream { stage });
        }
        running.exchange.legs.down = Some(Net { nonce: download.nonce, bytes, digest });
        running.times.down_ns = at_ns.saturating_sub(running.start_ns);
        self.after_down(running, at_ns)
    }

    pub(super) fn on_up(
        &mut self,
        mut running: Box<Running>,
        mut upload: Upload,
        chunk: &Chunk,
        at_ns: u64,
    ) -> Result<Step, Refusal> {
        let stage = Stage::Up;
        if upload.stream.bytes() >= upload.allowed {
            return Err(Refusal::Protocol { stage, got: "more bytes than were allowed" });
        }
        if upload.stream.next_chunk() != *chunk {
            return Err(Refusal::Stream { stage });
        }
        let bytes = upload.stream.bytes();
        if upload.allowed < self.config.params.net_up_bytes() && self.may_begin(at_ns) {
            upload.allowed = upload.allowed.saturating_add(CHUNK);
            let frame = VerifierFrame::More { bytes: upload.allowed };
            self.phase = Phase::Up(running, upload);
            return Ok(Step::Send(frame));
        }
        if bytes < upload.allowed {
            self.phase = Phase::Up(running, upload);
            return Ok(Step::Wait);
        }
        let digest = upload.stream.digest();
        running.exchange.legs.up = Some(Net { nonce: upload.nonce, bytes, digest });
        running.times.up_ns = at_ns.saturating_sub(running.start_ns);
        self.open(running, at_ns)
    }

    fn after_link(&mut self, mut running: Box<Running>, at_ns: u64) -> Result<Step, Refusal> {
        if self.config.params.copy_rows() == 0 {
            running.times.croot_ns = running.times.lroot_ns;
            return self.after_copy(running, at_ns);
        }
        let nonce = self.draw()?;
        running.exchange.legs.copy = Leg::Answered { nonce };
        self.enter(Phase::Copy(running), at_ns);
        Ok(Step::Send(VerifierFrame::Copy { nonce }))
    }

    fn after_copy(&mut self, mut running: Box<Running>, at_ns: u64) -> Result<Step, Refusal> {
        if self.config.params.net_down_bytes() == 0 {
            running.times.down_ns = running.times.croot_ns;
            return self.after_down(running, at_ns);
        }
        let nonce = self.draw()?;
        let stream = NetStream::new(running.keys.net_down(&nonce));
        let mut download = Download { nonce, stream, got: 0, is_ended: false };
        // The stage begins here, so that the first chunks may be begun.
        self.stage_began_ns = at_ns;
        let frames = self.next_chunks(&mut download, at_ns);
        self.enter(Phase::Down(running, download), at_ns);
        Ok(Step::SendAll(frames))
    }

    fn after_down(&mut self, mut running: Box<Running>, at_ns: u64) -> Result<Step, Refusal> {
        let all = self.config.params.net_up_bytes();
        if all == 0 {
            running.times.up_ns = running.times.down_ns;
            return self.open(running, at_ns);
        }
        let nonce = self.draw()?;
        let stream = NetStream::new(running.keys.net_up(&nonce));
        let upload = Upload { nonce, stream, allowed: all.min(NET_WINDOW_LEN) };
        self.enter(Phase::Up(running, upload), at_ns);
        Ok(Step::Send(VerifierFrame::Up { nonce }))
    }

    /// As many chunks as the window has room for, and the end after the last.
    fn next_chunks(&self, download: &mut Download, at_ns: u64) -> Vec<VerifierFrame> {
        let all = self.config.params.net_down_bytes();
        let mut frames = Vec::new();
        while download.stream.bytes() < all
            && download.stream.bytes().saturating_sub(download.got) < NET_WINDOW_LEN
            && self.may_begin(at_ns)
        {
            frames.push(VerifierFrame::Down { chunk: download.stream.next_chunk() });
        }
        let is_last = download.stream.bytes() >= all || !self.may_begin(at_ns);
        if is_last && !download.is_ended {
            download.is_ended = true;
            frames.push(VerifierFrame::DownEnd);
        }
        frames
    }

    /// Whether NET still has time for more bytes.
    fn may_begin(&self, at_ns: u64) -> bool {
        let limit = self.config.limits.net_ns.checked_div(NET_BEGIN_DIVISOR).unwrap_or(0);
        at_ns.saturating_sub(self.stage_began_ns) <= limit
    }
}

impl Running {
    /// Takes over one root for each device; `false` where there are more or fewer.
    fn set_roots(
        &mut self,
        roots: &[Digest],
        place: impl Fn(&mut DeviceExchange) -> &mut Option<Digest>,
    ) -> bool {
        if roots.len() != self.exchange.devices.len() {
            return false;
        }
        for (device, root) in self.exchange.devices.iter_mut().zip(roots) {
            *place(device) = Some(*root);
        }
        true
    }
}
