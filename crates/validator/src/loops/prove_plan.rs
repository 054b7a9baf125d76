//! Which providers are to be proven now: a pure decision.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nicompute_market::{BlockNumber, Hotkey, UnixMillis, Verdict};

use crate::board::Inner;
use crate::chain_view::Peer;
use crate::config::Intervals;
use crate::store::StoredEvidence;

/// A provider whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) provider: Hotkey,
    pub(crate) address: SocketAddr,
}

/// When evidence is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rhythm {
    pub(crate) intervals: Intervals,
    /// Evidence from before this moment is due at once. On a local market that is the validator's start: whoever starts it
    /// again wants to see it prove.
    pub(crate) fresh_since: Option<UnixMillis>,
}

/// The providers whose turn it is, those that were never tried first, then those whose last try is longest ago: whoever
/// wastes a session goes to the end of the queue, as whoever passes one does.
pub(crate) fn due(
    peers: &[Peer],
    head: BlockNumber,
    latest: &BTreeMap<Hotkey, StoredEvidence>,
    board: &Inner,
    rhythm: Rhythm,
) -> Vec<Due> {
    let mut turns: Vec<(Option<BlockNumber>, Due)> = Vec::new();
    for peer in peers {
        let Some(address) = peer.address else { continue };
        if board.sessions.contains_key(&peer.hotkey) {
            continue;
        }
        let evidence = latest.get(&peer.hotkey);
        let tried = board.tries.get(&peer.hotkey).map(|tries| tries.last);
        if is_due(evidence, tried, head, rhythm) {
            let at = evidence.map(|evidence| evidence.block).max(tried);
            turns.push((at, Due { provider: peer.hotkey, address }));
        }
    }
    // A block beyond the head is one of a chain that is no more: as long ago as any.
    turns.sort_by_key(|(at, due)| (at.filter(|at| *at <= head), due.provider));
    turns.into_iter().map(|(_, due)| due).collect()
}

fn is_due(
    evidence: Option<&StoredEvidence>,
    tried: Option<BlockNumber>,
    head: BlockNumber,
    rhythm: Rhythm,
) -> bool {
    let Rhythm { intervals, fresh_since } = rhythm;
    // A block beyond the head is one of a chain that is no more.
    let is_past = |since: BlockNumber, blocks: u64| {
        head < since || head.get().saturating_sub(since.get()) >= blocks
    };
    if tried.is_some_and(|tried| !is_past(tried, intervals.retry_blocks)) {
        return false;
    }
    match evidence {
        None => true,
        // A wrong answer is no accident: neither a short pause nor a restart gives another try.
        Some(StoredEvidence { block, is_wrong: true, .. }) => {
            is_past(*block, intervals.proof_blocks)
        }
        Some(stored) if fresh_since.is_some_and(|since| stored.evidence.at < since) => true,
        Some(StoredEvidence { block, evidence, .. }) => match evidence.verdict {
            Verdict::Passed(_) => is_past(*block, intervals.proof_blocks),
            Verdict::Refused | Verdict::Unreachable => is_past(*block, intervals.retry_blocks),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nicompute_market::{Capability, DeviceKind, Evidence, Uid};

    use super::*;
    use crate::board::Tries;

    const INTERVALS: Intervals = Intervals {
        chain: Duration::ZERO,
        discover: Duration::ZERO,
        tick: Duration::ZERO,
        proof_blocks: 100,
        retry_blocks: 10,
    };

    fn evidence(block: u64, verdict: Verdict) -> StoredEvidence {
        StoredEvidence {
            provider: Hotkey::from_bytes([1; 32]),
            lease: None,
            block: BlockNumber(block),
            evidence: Evidence { at: UnixMillis(1), verdict },
            is_wrong: false,
            detail: String::new(),
            transcript: None,
        }
    }

    /// Hostile hotkeys that waste every round never have evidence: they must not stand before the others each time.
    #[test]
    fn whoever_was_tried_goes_to_the_end() {
        let hotkey = |byte: u8| Hotkey::from_bytes([byte; 32]);
        let peer = |byte: u8| Peer {
            uid: Uid(u16::from(byte)),
            hotkey: hotkey(byte),
            address: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
        };
        let mut board = Inner::default();
        for (byte, block) in [(1, 950), (2, 960)] {
            let tries = Tries { last: BlockNumber(block), missed: 1, was_preempted: false };
            board.tries.insert(hotkey(byte), tries);
        }
        let latest = BTreeMap::from([(hotkey(3), evidence(900, Verdict::Unreachable))]);
        let rhythm = Rhythm { intervals: INTERVALS, fresh_since: None };
        let turns = due(&[1, 2, 3, 4].map(peer), BlockNumber(1_000), &latest, &board, rhythm);
        let order: Vec<_> = turns.into_iter().map(|due| due.provider).collect();
        assert_eq!(order, [4, 3, 1, 2].map(hotkey));
    }

    /// A proof too often takes machines from renters; one too seldom pays for hardware that is gone.
    #[test]
    fn proofs_come_at_their_intervals() {
        let at = |evidence: Option<&StoredEvidence>, tried: Option<u64>, head: u64| {
            let rhythm = Rhythm { intervals: INTERVALS, fresh_since: None };
            is_due(evidence, tried.map(BlockNumber), BlockNumber(head), rhythm)
        };
        assert!(at(None, None, 5));
        assert!(!at(None, Some(5), 14) && at(None, Some(5), 15));
        let shown = Capability {
            kind: DeviceKind::Cpu,
            devices: 1,
            bytes_per_device: 1,
            ops_per_second: 1,
            walk_bytes_per_second: 1,
        };
        let passed = evidence(1_000, Verdict::Passed(shown));
        assert!(!at(Some(&passed), None, 1_099) && at(Some(&passed), None, 1_100));
        assert!(!at(Some(&passed), Some(1_100), 1_109) && at(Some(&passed), Some(1_100), 1_110));
        let refused = evidence(1_000, Verdict::Refused);
        assert!(!at(Some(&refused), None, 1_009) && at(Some(&refused), None, 1_010));
        assert!(at(Some(&passed), None, 3), "evidence of a chain that is no more");
        let anew = |since: u64, tried: Option<u64>| {
            let rhythm = Rhythm { intervals: INTERVALS, fresh_since: Some(UnixMillis(since)) };
            is_due(Some(&passed), tried.map(BlockNumber), BlockNumber(1_001), rhythm)
        };
        assert!(!anew(1, None) && anew(2, None), "evidence from before the start");
        assert!(!anew(2, Some(1_000)), "not without a pause");
    }

    /// A prover that is caught and tries again every ten minutes is paid as soon as a sample misses what is wrong.
    #[test]
    fn a_wrong_answer_costs_a_whole_interval() {
        let wrong = StoredEvidence { is_wrong: true, ..evidence(1_000, Verdict::Refused) };
        for fresh_since in [None, Some(UnixMillis(2))] {
            let rhythm = Rhythm { intervals: INTERVALS, fresh_since };
            let at = |head| is_due(Some(&wrong), None, BlockNumber(head), rhythm);
            assert!(!at(1_010) && !at(1_099) && at(1_100), "{fresh_since:?}");
        }
    }
}
