//! How a connection whose one upload stalls goes on with its other channels.
//!
//! The SSH library refills a channel's window by itself as soon as data arrives, up to one size for the whole connection,
//! and asks for that size after each refill. Refilled in full, a channel whose program does not read would fill its room
//! and then stop the connection. So while a channel is stalled the size is two bytes: a channel that has used up its
//! window gets two bytes more and is asked about again. The stalled one then creeps, by two bytes a round trip and with a
//! pause after each, and its room lasts for hours. Another one that runs dry is owed a piece of a window; since nobody can
//! say whose refill is the next, the stalled one may take such a piece too, and its room is big enough for many.

use std::time::Duration;

/// The window of a connection without a stalled channel.
pub(super) const WINDOW_FULL: u32 = 2 << 20;
/// The smallest window that the library refills at all, when it is empty.
const WINDOW_CREEP: u32 = 2;
/// What a channel that is read gets beside a stalled one.
const WINDOW_PIECE: u32 = 64 << 10;
/// How often a stalled channel may take what is owed to another.
const TAKEN_MAX: u32 = 8;
/// A creeping channel's data holds up its connection for this long, so that it does not turn in a circle.
pub(super) const CREEP_PAUSE: Duration = Duration::from_millis(4);

/// Which channels of a connection hold more than they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    None,
    /// The channel in question.
    Own,
    /// Another one.
    Others,
}

/// The size that the library refills windows to.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    /// How often a stalled channel took the piece that is owed to another.
    taken: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { size: WINDOW_FULL, taken: 0 }
    }
}

impl Window {
    /// A channel was refilled to the size of before; gives the size of the next refill, of whichever channel.
    pub(super) fn after_refill(&mut self, stall: Stall) -> u32 {
        let owed = self.size == WINDOW_PIECE;
        self.size = match stall {
            Stall::None => WINDOW_FULL,
            // It has just got two bytes and is owed more.
            Stall::Others if self.size == WINDOW_CREEP => {
                self.taken = 0;
                WINDOW_PIECE
            }
            Stall::Own if owed && self.taken < TAKEN_MAX => {
                self.taken += 1;
                WINDOW_PIECE
            }
            Stall::Own | Stall::Others => WINDOW_CREEP,
        };
        self.size
    }

    /// Whether the data is what a stalled channel sends with the window it is left.
    pub(super) fn is_creeping(&self, stall: Stall, len: usize) -> bool {
        let creep = usize::try_from(WINDOW_CREEP).unwrap_or(usize::MAX);
        stall == Stall::Own && self.size == WINDOW_CREEP && len <= creep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's rule for refilling, so that the sizes above can be judged by it.
    struct Peer {
        window: u32,
    }

    impl Peer {
        fn sends(&mut self, bytes: u32, target: u32) -> bool {
            assert!(bytes <= self.window, "a client keeps to its window");
            self.window -= bytes;
            let refilled = self.window < target / 2;
            if refilled {
                self.window = target;
            }
            refilled
        }
    }

    /// Both send all that their windows let them, the stalled one first, as it is when both wait for the same answer.
    fn rounds(count: usize, window: &mut Window, stalled: &mut Peer, other: &mut Peer) -> [u64; 2] {
        let mut target = window.size;
        let mut moved = [0, 0];
        for _ in 0..count {
            let bytes = stalled.window.min(32 << 10);
            if bytes > 0 && stalled.sends(bytes, target) {
                target = window.after_refill(Stall::Own);
            }
            moved[0] += u64::from(bytes);
            let bytes = other.window.min(32 << 10);
            if bytes > 0 && other.sends(bytes, target) {
                target = window.after_refill(Stall::Others);
            }
            moved[1] += u64::from(bytes);
        }
        moved
    }

    /// A stalled upload that is refilled in full stops every other channel of its connection after a few megabytes.
    #[test]
    fn a_stalled_channel_creeps_and_the_others_go_on() {
        let mut window = Window::default();
        let (mut stalled, mut other) = (Peer { window: WINDOW_FULL }, Peer { window: 0 });
        let [held, _] = rounds(20_000, &mut window, &mut stalled, &mut other);
        assert!(held < 5 << 20, "{held} bytes are held");
        other.window = WINDOW_FULL;
        let [held, moved] = rounds(1000, &mut window, &mut stalled, &mut other);
        assert!(moved > 8 << 20, "{moved} bytes went through beside it");
        assert!(held < moved * 3 / 2, "{held} bytes more are held for {moved}");
        // The other one has gone in the middle of its refill: the stalled one takes some of it and creeps again.
        window.size = WINDOW_PIECE;
        let [held, _] = rounds(1000, &mut window, &mut stalled, &mut Peer { window: 0 });
        assert!(held < 1 << 20, "{held}");
        while stalled.window < WINDOW_FULL / 2 {
            let bytes = stalled.window;
            let target = window.size;
            if stalled.sends(bytes, target) {
                window.after_refill(Stall::None);
            }
        }
        assert_eq!(window.size, WINDOW_FULL, "all is as before");
    }
}
