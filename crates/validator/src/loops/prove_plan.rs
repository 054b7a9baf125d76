//! Which providers are to be proven now: a pure decision.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nicompute_market::{BlockNumber, Hotkey, UnixMillis, Verdict};

use crate::board::Inner;
use crate::chain_view::ChainView;
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

/// The providers whose turn it is, those without any evidence first, then those whose evidence is oldest.
pub(crate) fn due(
    view: &ChainView,
    head: BlockNumber,
    latest: &BTreeMap<Hotkey, StoredEvidence>,
    board: &Inner,
    rhythm: Rhythm,
) -> Vec<Due> {
    let mut turns: Vec<(Option<BlockNumber>, Due)> = Vec::new();
    for peer in &view.peers {
        let Some(address) = peer.address else { continue };
        if board.sessions.contains_key(&peer.hotkey) {
            continue;
        }
        let evidence = latest.get(&peer.hotkey);
        let tried = board.tries.get(&peer.hotkey).map(|tries| tries.last);
        if is_due(evidence, tried, head, rhythm) {
            let at = evidence.map(|evidence| evidence.block);
            turns.push((at, Due { provider: peer.hotkey, address }));
        }
    }
    turns.sort_by_key(|(at, due)| (*at, due.provider));
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

    use nicompute_market::{Capability, DeviceKind, Evidence};

    use super::*;

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
            detail: String::new(),
            transcript: None,
        }
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
}
