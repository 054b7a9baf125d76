//! What a client has sent into a channel and the agent has not yet taken.
//!
//! The SSH library refills a channel's window as soon as data arrives, so a program that does not read would stop the
//! whole connection. Here each channel has room of its own, and each lease a total. A channel whose room is half full is
//! slowed down, see `stall`; only when the room is full does the connection wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nicompute_agent::frames::{Frame, WindowSize, encode};
use nicompute_daemon::CancellationToken;
use tokio::sync::{Notify, Semaphore};

use super::Limits;
use super::lease::Lease;

/// Signals that wait to be sent; more are dropped, since a program that is sent the same signal twice sees it once.
const SIGNALS_MAX: usize = 16;
/// A channel with so much waiting counts as stalled.
const STALLED_FROM: usize = 4 << 20;
/// Moved-out bytes are dropped from the front of the buffer only when they are this many.
const COMPACT_FROM: usize = 256 * 1024;

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
    end_told: bool,
    resize: Option<WindowSize>,
    signals: VecDeque<u8>,
}

/// The client's side of one channel.
#[derive(Debug)]
pub(super) struct Upload {
    state: Mutex<State>,
    changed: Notify,
    abandoned: CancellationToken,
    stalled_from: usize,
    room: Semaphore,
    lease_room: Arc<Semaphore>,
}

impl Upload {
    /// For one channel into the lease.
    pub(super) fn of(limits: &Limits, lease: &Lease) -> Self {
        Self::new(limits.upload_per_channel, Arc::clone(&lease.upload_room))
    }

    fn new(room: usize, lease_room: Arc<Semaphore>) -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Notify::new(),
            abandoned: CancellationToken::new(),
            stalled_from: STALLED_FROM.min(room / 2),
            room: Semaphore::new(room),
            lease_room,
        }
    }

    /// Whether so much waits that the client should be slowed down.
    pub(super) fn is_stalled(&self) -> bool {
        self.waiting() >= self.stalled_from
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes data from the client; waits while there is no room for it. Drops it when the channel is over.
    pub(super) async fn push(&self, data: &[u8], over: &CancellationToken) {
        let Ok(count) = u32::try_from(data.len()) else { return };
        let reserve = async {
            let own = self.room.acquire_many(count).await;
            let shared = self.lease_room.acquire_many(count).await;
            if let (Ok(own), Ok(shared)) = (own, shared) {
                own.forget();
                shared.forget();
                self.lock().bytes.extend_from_slice(data);
                self.changed.notify_one();
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = reserve => {}
        }
    }

    /// No more data follows.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// The client has closed the channel in order: what it sent before is still to arrive. `false` where it broke off.
    pub(super) fn abandon(&self) -> bool {
        self.abandoned.cancel();
        self.lock().ended
    }

    /// Waits until the client has closed the channel.
    pub(super) async fn until_abandoned(&self) {
        self.abandoned.cancelled().await;
    }

    /// The client's window changed; only the latest size matters.
    pub(super) fn resize(&self, size: WindowSize) {
        self.lock().resize = Some(size);
        self.changed.notify_one();
    }

    /// The client sends a signal.
    pub(super) fn signal(&self, number: u8) {
        let mut state = self.lock();
        if state.signals.len() < SIGNALS_MAX {
            state.signals.push_back(number);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until there may be something to send.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        state.bytes.len() - state.start
    }

    /// Appends frames for what waits: controls, up to `credit` bytes of data, and the end after the last byte.
    pub(super) fn take(&self, channel: u32, credit: usize, out: &mut Vec<u8>) {
        let mut state = self.lock();
        if let Some(size) = state.resize.take() {
            encode(channel, &Frame::Resize(size), out);
        }
        for number in state.signals.drain(..) {
            encode(channel, &Frame::Signal(number), out);
        }
        let waiting = state.bytes.get(state.start..).unwrap_or_default();
        let count = waiting.len().min(credit);
        if let (data, true) = (&waiting[..count], count > 0) {
            encode(channel, &Frame::Data(data), out);
        }
        state.start += count;
        if state.start == state.bytes.len() {
            state.bytes = Vec::new();
            state.start = 0;
            if state.ended && !state.end_told {
                state.end_told = true;
                encode(channel, &Frame::Eof, out);
            }
        } else if state.start >= COMPACT_FROM && state.start * 2 >= state.bytes.len() {
            let start = state.start;
            state.bytes.drain(..start);
            state.start = 0;
        }
        drop(state);
        self.room.add_permits(count);
        self.lease_room.add_permits(count);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.lease_room.add_permits(self.waiting());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nicompute_agent::frames::parse;

    fn drain(upload: &Upload, credit: usize) -> Vec<u8> {
        let mut frames = Vec::new();
        upload.take(1, credit, &mut frames);
        let mut data = Vec::new();
        let mut rest = frames.as_slice();
        while let Ok(Some((message, taken))) = parse(rest) {
            if let Frame::Data(bytes) = message.frame {
                data.extend_from_slice(bytes);
            }
            rest = &rest[taken..];
        }
        data
    }

    /// An upload that takes more than its room lets one stalled program eat the provider's memory.
    #[tokio::test]
    async fn a_full_channel_waits_and_goes_on() {
        let lease_room = Arc::new(Semaphore::new(1 << 20));
        let upload = Upload::new(1000, Arc::clone(&lease_room));
        let over = CancellationToken::new();
        upload.push(&[1; 1000], &over).await;
        {
            let late = upload.push(&[2; 10], &over);
            tokio::pin!(late);
            tokio::select! { biased; () = &mut late => panic!("over the limit"), () = tokio::task::yield_now() => {} }
            assert_eq!(drain(&upload, 400), [1; 400]);
            late.await;
        }
        assert_eq!(upload.waiting(), 610);
        drop(upload);
        assert_eq!(lease_room.available_permits(), 1 << 20);
    }

    /// A lease's channels together must stay within the lease's total, and get it back when they end.
    #[tokio::test]
    async fn a_lease_has_a_total() {
        let lease_room = Arc::new(Semaphore::new(100));
        let over = CancellationToken::new();
        let first = Upload::new(1000, Arc::clone(&lease_room));
        let second = Upload::new(1000, Arc::clone(&lease_room));
        first.push(&[1; 100], &over).await;
        {
            let late = second.push(&[2], &over);
            tokio::pin!(late);
            tokio::select! { biased; () = &mut late => panic!("over the total"), () = tokio::task::yield_now() => {} }
            drop(first);
            late.await;
        }
        assert_eq!(lease_room.available_permits(), 99);
    }

    /// A client that is gone must not leave a reader waiting for room for ever.
    #[tokio::test]
    async fn the_end_of_the_channel_ends_the_wait() {
        let upload = Upload::new(1, Arc::new(Semaphore::new(1)));
        let over = CancellationToken::new();
        over.cancel();
        upload.push(&[0; 2], &over).await;
        assert_eq!(upload.waiting(), 0);
    }

    /// Signals and sizes are kept within bounds while an agent does not listen.
    #[test]
    fn controls_are_bounded() {
        let upload = Upload::new(1, Arc::new(Semaphore::new(1)));
        for columns in 0..100 {
            upload.signal(15);
            upload.resize(WindowSize { columns, ..WindowSize::default() });
        }
        upload.end();
        let mut frames = Vec::new();
        upload.take(1, 0, &mut frames);
        let mut count = 0;
        let mut rest = frames.as_slice();
        while let Ok(Some((_, taken))) = parse(rest) {
            count += 1;
            rest = &rest[taken..];
        }
        assert_eq!(count, SIGNALS_MAX + 2);
    }
}
