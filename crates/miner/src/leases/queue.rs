//! Who is next for an offer that several wait for.
//!
//! Renters come before validators' proofs, in the order in which they asked. Among validators the one that was served
//! longest ago, or never, is next; among equals the one with more stake, then the one that asked first. So one with much
//! stake goes first once, and not again before everybody else who waits had their turn.

use std::cmp::Reverse;

use nicompute_market::{Hotkey, LeaseId, Purpose, Rao};

use crate::store::Waiting;

/// How many may wait for one offer.
pub(crate) const WAITING_MAX: u32 = 16;
/// How long a proof waits for its turn before it fails as occupied.
pub(crate) const PROOF_WAIT_MILLIS_MAX: u64 = 45_000;
/// How long a rental waits for a proof to end.
pub(crate) const RENTAL_WAIT_MILLIS_MAX: u64 = 100_000;

/// What is known of a caller's weight. The subnet is the real one.
pub(crate) trait Stakes: Send + Sync + std::fmt::Debug {
    /// The stake of a hotkey, as far as it is known without asking.
    fn stake_of(&self, hotkey: &Hotkey) -> Rao;
}

/// Whose turn it is.
pub(super) fn first(waiting: &[Waiting], stakes: &dyn Stakes) -> Option<LeaseId> {
    let turn = |waits: &&Waiting| match waits.purpose {
        Purpose::Rental => (0, None, Reverse(Rao(0)), waits.requested_at, waits.id),
        Purpose::Proof => {
            let stake = Reverse(stakes.stake_of(&waits.holder));
            (1, waits.served_at, stake, waits.requested_at, waits.id)
        }
    };
    waiting.iter().min_by_key(turn).map(|waits| waits.id)
}

/// How long a lease of this purpose waits.
pub(crate) const fn wait_millis_max(purpose: Purpose) -> u64 {
    match purpose {
        Purpose::Proof => PROOF_WAIT_MILLIS_MAX,
        Purpose::Rental => RENTAL_WAIT_MILLIS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use nicompute_market::UnixMillis;

    use super::*;

    #[derive(Debug)]
    struct ByFirstByte;

    impl Stakes for ByFirstByte {
        fn stake_of(&self, hotkey: &Hotkey) -> Rao {
            Rao(hotkey.0.as_bytes()[0].into())
        }
    }

    fn waits(id: u8, holder: u8, purpose: Purpose, at: u64, served_at: Option<u64>) -> Waiting {
        Waiting {
            id: LeaseId::from_random_bytes([id; 16]),
            holder: Hotkey::from_bytes([holder; 32]),
            purpose,
            requested_at: UnixMillis(at),
            served_at: served_at.map(UnixMillis),
        }
    }

    fn order(mut waiting: Vec<Waiting>) -> Vec<LeaseId> {
        let mut order = Vec::new();
        while let Some(next) = first(&waiting, &ByFirstByte) {
            waiting.retain(|waits| waits.id != next);
            order.push(next);
        }
        order
    }

    /// A validator with much stake that is always first keeps the others from ever proving a machine; a renter that
    /// waits behind proofs pays for nothing.
    #[test]
    fn renters_then_the_longest_unserved_then_stake_then_arrival() {
        let id = |byte| LeaseId::from_random_bytes([byte; 16]);
        let waiting = vec![
            waits(1, 9, Purpose::Proof, 1, Some(50)),
            waits(2, 1, Purpose::Proof, 2, None),
            waits(3, 5, Purpose::Proof, 4, None),
            waits(4, 5, Purpose::Proof, 3, Some(40)),
            waits(5, 1, Purpose::Rental, 9, None),
            waits(6, 1, Purpose::Rental, 8, Some(1)),
        ];
        assert_eq!(order(waiting), [6, 5, 3, 2, 4, 1].map(id));
        assert!(order(Vec::new()).is_empty());
    }
}
