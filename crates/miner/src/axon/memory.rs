//! What was asked lately, by everybody: a signature covers neither path nor body, so a request that was accepted for one
//! thing must be worth nothing for another, whatever is known of its caller by then.

use std::sync::{Mutex, PoisonError};

use nicompute_wire::axon::{NonceStore, NotVerified, Verified};

/// Dendrites of strangers that are remembered, in all and of one: they may only ask whether somebody is there.
const STRANGERS_NONCES_MAX: usize = 4_096;
const STRANGER_NONCES_MAX: usize = 16;

/// Whose room a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// The lists and the stake let it in.
    Accepted,
    /// Anybody with a key.
    Stranger,
}

/// Nonces of both, with limits of their own, so that strangers do not fill the memory of the others.
#[derive(Debug)]
pub(super) struct Memory(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    accepted: NonceStore,
    strangers: NonceStore,
}

// === impl Memory ===

impl Memory {
    pub(super) fn new(start_ns: u64) -> Self {
        let strangers =
            NonceStore::with_limits(start_ns, STRANGERS_NONCES_MAX, STRANGER_NONCES_MAX);
        Self(Mutex::new(Seen { accepted: NonceStore::new(start_ns), strangers }))
    }

    /// Remembers a request that neither has seen. A caller may have been a stranger a moment ago.
    pub(super) fn admit(
        &self,
        guest: Guest,
        call: &Verified,
        now_ns: u64,
    ) -> Result<(), NotVerified> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { accepted, strangers } = &mut *seen;
        let (own, other) = match guest {
            Guest::Accepted => (accepted, strangers),
            Guest::Stranger => (strangers, accepted),
        };
        other.is_new(call, now_ns)?;
        own.admit(call, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use nicompute_market::AccountId;
    use nicompute_wire::axon::{NONCES_MAX, NONCES_PER_SENDER_MAX, TIMEOUT_MAX};

    use super::*;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn call(sender: u64, uuid: usize) -> Verified {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&sender.to_le_bytes());
        let account = AccountId::from_bytes(bytes);
        Verified { account, nonce_ns: NOW, uuid: uuid.to_string(), timeout: TIMEOUT_MAX }
    }

    /// Whoever saw a ping must not be able to send its headers again as another request, in either direction.
    #[test]
    fn what_one_has_seen_is_seen_for_both() {
        for (first, then) in
            [(Guest::Stranger, Guest::Accepted), (Guest::Accepted, Guest::Stranger)]
        {
            let memory = Memory::new(NOW - 1);
            assert_eq!(memory.admit(first, &call(1, 1), NOW), Ok(()));
            assert_eq!(memory.admit(then, &call(1, 1), NOW), Err(NotVerified::Replayed));
            let newer = Verified { nonce_ns: NOW + 1, ..call(1, 1) };
            assert_eq!(memory.admit(then, &newer, NOW), Ok(()));
            assert_eq!(memory.admit(first, &newer, NOW), Err(NotVerified::Replayed));
        }
    }

    /// Keys are free: a crowd of strangers fills its own room and nobody else's, and no accepted caller fills another's.
    #[test]
    fn a_crowd_fills_its_own_room() {
        let memory = Memory::new(0);
        let admit = |guest, sender, uuid| memory.admit(guest, &call(sender, uuid), NOW);
        for uuid in 0..STRANGER_NONCES_MAX {
            assert_eq!(admit(Guest::Stranger, 0, uuid), Ok(()));
        }
        assert_eq!(admit(Guest::Stranger, 0, STRANGER_NONCES_MAX), Err(NotVerified::Full));
        for sender in 1.. {
            if admit(Guest::Stranger, sender, 0).is_err() {
                assert_eq!(sender, 1 + 4_096 - 16);
                break;
            }
        }
        for sender in 0..8 {
            for uuid in 100..100 + NONCES_PER_SENDER_MAX {
                assert_eq!(admit(Guest::Accepted, sender, uuid), Ok(()));
            }
            assert_eq!(admit(Guest::Accepted, sender, 0xffff), Err(NotVerified::Full));
        }
        assert_eq!(NONCES_MAX, 8 * NONCES_PER_SENDER_MAX);
        assert_eq!(admit(Guest::Accepted, 1 << 40, 0), Ok(()), "a ninth validator");
    }
}
