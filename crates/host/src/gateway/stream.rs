//! One channel to an agent as the gateway sees it: what has arrived and is not yet passed on, and what may be sent.
//!
//! The agent is hostile. It may send no more than the credit it was given, so what is held here is bounded by the
//! window whatever it does; each thing may be said once and in order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nicompute_agent::frames::{Exit, Frame, INCOMING_MAX, WINDOW};
use tokio::sync::Notify;

/// Output is taken in pieces of at most this size, so that credit flows back while the rest waits.
const PIECE_LEN: usize = 128 * 1024;

/// An agent broke the protocol. Its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a frame that only the gateway sends")]
    Direction,
    #[error("a frame for a channel that was never opened")]
    UnknownChannel,
    #[error("too many frames for channels that are closed")]
    Stray,
    #[error("more data than its credit")]
    OverCredit,
    #[error("more credit than a window")]
    OverGrant,
    #[error("something said twice or out of order")]
    Order,
    #[error("more connections than it may offer at once")]
    Flood,
}

/// How a channel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The process ended, or the connection closed.
    Closed(Option<Exit>),
    /// The agent is gone.
    Lost,
}

impl End {
    /// Whether it came in order.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

/// A connection that came to a listener inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrival {
    /// By what the agent hands it out.
    pub(super) token: u32,
    /// Where it says that it comes from.
    pub(super) peer: String,
    pub(super) port: u16,
}

/// What arrived.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) output: Vec<u8>,
    pub(super) error: Vec<u8>,
    /// No more output follows.
    pub(super) eof: bool,
    pub(super) end: Option<End>,
}

#[derive(Debug, Default)]
struct State {
    opened: Option<Result<u16, String>>,
    kind: StreamKind,
    arrivals: VecDeque<Arrival>,
    output: Vec<u8>,
    error: Vec<u8>,
    /// How many bytes the agent may still send.
    room: u32,
    /// How many bytes the agent still takes.
    credit: u32,
    output_end: OutputEnd,
    exit: Option<Exit>,
    over: Option<Over>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum StreamKind {
    /// Bytes in both directions.
    #[default]
    Bytes,
    /// Connections that come.
    Listener,
}

/// Whether more output follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum OutputEnd {
    #[default]
    Open,
    Ended,
    Told,
}

/// Why nothing more arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Closed,
    Lost,
}

/// The channel.
#[derive(Debug)]
pub(super) struct Stream {
    state: Mutex<State>,
    arrived: Notify,
    granted: Notify,
    settled: Notify,
}

impl Stream {
    pub(super) fn new(kind: StreamKind) -> Self {
        let state = State { room: WINDOW, credit: WINDOW, kind, ..State::default() };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            granted: Notify::new(),
            settled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame from the agent. `true` when it was the last.
    pub(super) fn accept(&self, frame: &Frame<'_>) -> Result<bool, Violation> {
        let mut state = self.lock();
        let last = state.accept(frame)?;
        drop(state);
        self.arrived.notify_one();
        if matches!(frame, Frame::Credit(_)) {
            self.granted.notify_one();
        }
        self.settled.notify_one();
        Ok(last)
    }

    /// The agent is gone.
    pub(super) fn lose(&self) {
        self.lock().over.get_or_insert(Over::Lost);
        self.arrived.notify_one();
        self.granted.notify_one();
        self.settled.notify_one();
    }

    /// Waits for the answer to the request, which for a listener is its port; `None` when the agent went away first.
    pub(super) async fn opened(&self) -> Option<Result<u16, String>> {
        loop {
            {
                let state = self.lock();
                match &state.opened {
                    Some(answer) => return Some(answer.clone()),
                    None if state.over.is_some() => return None,
                    None => {}
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Waits for something to arrive. What was taken must be granted again, see [`Stream::reopen`].
    pub(super) async fn next(&self) -> Piece {
        loop {
            if let Some(piece) = self.lock().take_piece() {
                return piece;
            }
            self.arrived.notified().await;
        }
    }

    /// Waits for the next connection of a listener; `None` when it listens no more.
    pub(super) async fn arrival(&self) -> Option<Arrival> {
        loop {
            {
                let mut state = self.lock();
                match state.arrivals.pop_front() {
                    Some(arrival) => return Some(arrival),
                    None if state.over.is_some() => return None,
                    None => {}
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Lets the agent send so many bytes more; the caller tells it.
    pub(super) fn reopen(&self, bytes: u32) {
        let mut state = self.lock();
        state.room = state.room.saturating_add(bytes).min(WINDOW);
    }

    /// Takes up to `want` bytes of credit, without waiting.
    pub(super) fn take_credit(&self, want: u32) -> u32 {
        let mut state = self.lock();
        let taken = want.min(state.credit);
        state.credit -= taken;
        taken
    }

    /// Waits until `sent` holds and the agent has passed on all that it was sent, or is gone.
    pub(super) async fn settled(&self, sent: impl Fn() -> bool) {
        loop {
            {
                let state = self.lock();
                if state.over.is_some() || (state.credit == WINDOW && sent()) {
                    return;
                }
            }
            self.settled.notified().await;
        }
    }

    /// Waits until there may be new credit.
    pub(super) async fn granted(&self) {
        self.granted.notified().await;
    }
}

impl State {
    fn accept(&mut self, frame: &Frame<'_>) -> Result<bool, Violation> {
        let listens = self.kind == StreamKind::Listener;
        let is_open = matches!(self.opened, Some(Ok(_))) && !listens;
        let may_flow = is_open && self.output_end == OutputEnd::Open;
        match frame {
            Frame::Opened if self.opened.is_none() && !listens => self.opened = Some(Ok(0)),
            Frame::Listening { port } if self.opened.is_none() && listens => {
                self.opened = Some(Ok(*port));
            }
            Frame::Incoming(incoming) if matches!(self.opened, Some(Ok(_))) && listens => {
                if self.arrivals.len() >= INCOMING_MAX {
                    return Err(Violation::Flood);
                }
                let (token, port) = (incoming.token, incoming.port);
                self.arrivals.push_back(Arrival { token, peer: printable(incoming.peer), port });
            }
            Frame::Refused(reason) if self.opened.is_none() => {
                self.opened = Some(Err(printable(reason)));
                self.over = Some(Over::Closed);
                return Ok(true);
            }
            Frame::Data(bytes) if may_flow => {
                self.charge(bytes.len())?;
                self.output.extend_from_slice(bytes);
            }
            Frame::ErrorData(bytes) if may_flow => {
                self.charge(bytes.len())?;
                self.error.extend_from_slice(bytes);
            }
            Frame::Eof if may_flow => self.output_end = OutputEnd::Ended,
            Frame::Credit(bytes) if is_open => {
                let sum = self.credit.checked_add(*bytes).filter(|sum| *sum <= WINDOW);
                self.credit = sum.ok_or(Violation::OverGrant)?;
            }
            Frame::Exit(exit) if is_open && self.exit.is_none() => self.exit = Some(*exit),
            // An agent closes what it could not open by refusing it; what the gateway gave up is closed at any time.
            Frame::Close => {
                self.over = Some(Over::Closed);
                return Ok(true);
            }
            Frame::Hello { .. } | Frame::Open(_) | Frame::Resize(_) | Frame::Signal(_) => {
                return Err(Violation::Direction);
            }
            Frame::Opened
            | Frame::Refused(_)
            | Frame::Listening { .. }
            | Frame::Incoming(_)
            | Frame::Data(_)
            | Frame::ErrorData(_)
            | Frame::Eof
            | Frame::Credit(_)
            | Frame::Exit(_) => return Err(Violation::Order),
        }
        Ok(false)
    }

    fn charge(&mut self, len: usize) -> Result<(), Violation> {
        let len = u32::try_from(len).map_err(|_| Violation::OverCredit)?;
        self.room = self.room.checked_sub(len).ok_or(Violation::OverCredit)?;
        Ok(())
    }

    fn take_piece(&mut self) -> Option<Piece> {
        let mut piece = Piece {
            output: take_front(&mut self.output),
            error: take_front(&mut self.error),
            ..Piece::default()
        };
        let drained = self.output.is_empty() && self.error.is_empty();
        if drained {
            if self.output_end == OutputEnd::Ended {
                self.output_end = OutputEnd::Told;
                piece.eof = true;
            }
            piece.end = self.over.map(|over| match over {
                Over::Closed => End::Closed(self.exit),
                Over::Lost => End::Lost,
            });
        }
        let something = !piece.output.is_empty() || !piece.error.is_empty();
        (something || piece.eof || piece.end.is_some()).then_some(piece)
    }
}

fn take_front(bytes: &mut Vec<u8>) -> Vec<u8> {
    if bytes.len() <= PIECE_LEN {
        return std::mem::take(bytes);
    }
    let rest = bytes.split_off(PIECE_LEN);
    std::mem::replace(bytes, rest)
}

/// A tenant's words without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
