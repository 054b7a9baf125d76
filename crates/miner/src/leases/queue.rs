//! Who is next for an offer that several wait for.
//!
//! Renters come before validators' proofs, in the order in which they asked, and a proof that had its sure time ends for one
//! who waits. Among validators the one that was served longest ago, or never, is next; among equals the one with more stake,
//! then the one that asked first. So one with much stake goes first once, and not again before everybody else who waits, or
//! who came in vain and comes again, had their turn.

use std::cmp::Reverse;

use nicompute_market::{
    Hotkey, Lease, LeaseId, PROOF_SURE_MILLIS, Purpose, RENTAL_WAIT_MILLIS_MAX, Rao, UnixMillis,
};

use crate::store::{Holding, Waiting};

/// How many rentals, and beside them how many proofs, may wait for one offer.
pub(crate) const WAITING_MAX: u32 = 16;
/// How long a proof waits for its turn before it fails as occupied. Its holder is remembered, and comes again.
pub(crate) const PROOF_WAIT_MILLIS_MAX: u64 = 45_000;

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
    // A rental's holder is the validator that brought the renter, who gives way to no proof.
    let is_in_line = |waits: &&Waiting| waits.purpose == Purpose::Rental || !waits.gives_way;
    waiting.iter().filter(is_in_line).min_by_key(turn).map(|waits| waits.id)
}

/// Whether what holds an offer is a proof that ends for a lease that waits. Callers of the v1.9.0 door do not wait.
pub(super) fn makes_room(held: &Holding, lease: &Lease, now: UnixMillis) -> bool {
    let is_rental = lease.terms.purpose == Purpose::Rental && lease.terms.legacy.is_none();
    let is_proof = held.purpose == Purpose::Proof && !held.is_ending;
    is_rental && is_proof && now.millis_since(held.granted_at) >= PROOF_SURE_MILLIS
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
            gives_way: false,
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
        let gives_way = Waiting { gives_way: true, ..waits(1, 9, Purpose::Proof, 1, None) };
        assert_eq!(order(vec![gives_way, waits(2, 1, Purpose::Proof, 2, Some(9))]), [id(2)]);
        let rental = Waiting { gives_way: true, ..waits(1, 9, Purpose::Rental, 1, None) };
        assert_eq!(order(vec![rental]), [id(1)]);
    }
}
