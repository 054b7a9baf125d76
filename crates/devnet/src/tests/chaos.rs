//! Forks, restarts and upgrades, on a node without server.

use std::fs;
use std::path::Path;

use nicompute_daemon::ManualClock;
use nicompute_market::Rao;

use super::pool::{bob, immortal, signed, transfer};
use super::{COIN, first_state};
use crate::chaos::{Change, ChaosError};
use crate::config::DevnetConfig;
use crate::devnet;
use crate::hash::H256;
use crate::items;
use crate::node::{Node, SubmitError, Undone};
use crate::pool::Status;
use crate::runtime::validity::Invalid;
use crate::schema::{Profile, skip};
use crate::state::Read as _;

fn open(dir: &Path) -> Node {
    let mut genesis = first_state();
    genesis.endowed.push((bob().account(), Rao(1_000 * COIN)));
    let config = DevnetConfig { finality_lag: 3, ..DevnetConfig::new(dir, genesis) };
    devnet::open(&config, ManualClock::at_unix_ms(1_000_000)).unwrap()
}

fn head(node: &Node) -> (u32, H256) {
    let inner = node.read();
    (inner.ledger.head().block.header.number, inner.ledger.head().hash)
}

/// The coins that the transfers of these tests go to, after a block.
fn received(node: &Node, block: &H256) -> u64 {
    let inner = node.read();
    let state = inner.ledger.state_after(block).unwrap();
    items::ACCOUNT.get(&state, &[9; 32]).unwrap_or_default().free
}

/// A client that was told "in block" must hear that the block is gone, and must find its transfer in the new branch;
/// what it read at the old block must still be there.
#[test]
fn a_fork_puts_extrinsics_back_and_keeps_the_old_blocks_readable() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    node.make_block().unwrap();
    let mut statuses = node.submit_and_watch(immortal(&node, &transfer(), 0)).unwrap();
    node.make_block().unwrap();
    node.make_block().unwrap();
    let (number, old) = head(&node);
    assert_eq!(received(&node, &old), COIN);
    let (parent, included) = {
        let inner = node.read();
        let hash = |number| inner.ledger.hash_of(number).unwrap();
        (hash(1), hash(2))
    };
    node.fork(2, Undone::PutBack).unwrap();
    let (longer, new) = head(&node);
    assert_eq!(longer, number + 1);
    assert_eq!(received(&node, &new), 0, "the new branch has no transfer yet");
    assert_eq!(received(&node, &old), COIN, "the stale block's state stays");
    assert_eq!(received(&node, &parent), 0);
    {
        let inner = node.read();
        assert_eq!(inner.ledger.by_hash(&included).unwrap().extrinsics.len(), 2);
        assert_ne!(inner.ledger.hash_of(2), Some(included));
        let (newer, _) = inner.ledger.since(&old);
        assert_eq!(newer.len(), 3, "the branch begins behind block 1");
    }
    node.make_block().unwrap();
    let (_, again) = head(&node);
    assert_eq!(received(&node, &again), COIN);
    let mut seen = Vec::new();
    for _ in 0..4 {
        node.make_block().unwrap();
    }
    while let Ok(status) = statuses.try_recv() {
        seen.push(status);
    }
    let expected = [
        Status::Ready,
        Status::InBlock(included),
        Status::Retracted(included),
        Status::Ready,
        Status::InBlock(again),
        Status::Finalized(again),
    ];
    assert_eq!(seen, expected);
}

/// An extrinsic that is lost with its block must be said to be lost, and its sender must be able to send it again.
#[test]
fn a_fork_can_lose_extrinsics() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    let bytes = immortal(&node, &transfer(), 0);
    let mut statuses = node.submit_and_watch(bytes.clone()).unwrap();
    node.make_block().unwrap();
    let (_, included) = head(&node);
    assert!(matches!(node.submit(bytes.clone()), Err(SubmitError::Invalid(Invalid::Stale))));
    node.fork(1, Undone::Lost).unwrap();
    let seen: Vec<Status> = std::iter::from_fn(|| statuses.try_recv().ok()).collect();
    let expected =
        [Status::Ready, Status::InBlock(included), Status::Retracted(included), Status::Dropped];
    assert_eq!(seen, expected);
    node.make_block().unwrap();
    assert_eq!(received(&node, &head(&node).1), 0);
    node.submit(bytes).unwrap();
    node.make_block().unwrap();
    assert_eq!(received(&node, &head(&node).1), COIN);
}

/// A fork through a final block breaks the only promise that clients may rely on.
#[test]
fn final_blocks_are_never_undone() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    assert!(matches!(
        node.fork(1, Undone::PutBack),
        Err(ChaosError::Depth { depth: 1, blocks: 0 })
    ));
    for _ in 0..6 {
        node.make_block().unwrap();
    }
    let last = |node: &Node| {
        let inner = node.read();
        let kept = node.finalized(&inner.ledger);
        (kept.block.header.number, kept.hash)
    };
    let (number, hash) = last(&node);
    assert_eq!(number, 3);
    assert!(matches!(node.fork(4, Undone::PutBack), Err(ChaosError::TooDeep { depth: 4, lag: 3 })));
    assert!(matches!(node.fork(0, Undone::PutBack), Err(ChaosError::Depth { .. })));
    node.fork(3, Undone::PutBack).unwrap();
    assert_eq!(last(&node).0, 4);
    assert_eq!(node.read().ledger.hash_of(3), Some(hash));
    assert_eq!(head(&node).0, 7);
}

/// A crash in the middle of a fork must leave the old branch or the new one, never a piece of either.
#[test]
fn a_fork_is_on_disk_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    for _ in 0..4 {
        node.make_block().unwrap();
    }
    let before = head(&node);
    let log = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let log = log.into_iter().find(|path| path.extension().is_some_and(|end| end == "log"));
    let log = log.unwrap();
    let whole = fs::read(&log).unwrap().len();
    node.fork(3, Undone::PutBack).unwrap();
    let after = head(&node);
    let ledger = node.read().ledger.clone();
    drop(node);
    let bytes = fs::read(&log).unwrap();
    for cut in (whole..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        fs::write(&log, &bytes[..cut]).unwrap();
        assert_eq!(head(&open(dir.path())), before, "cut at {cut}");
    }
    fs::write(&log, &bytes).unwrap();
    let node = open(dir.path());
    assert_eq!(head(&node), after);
    assert_eq!(node.read().ledger, ledger);
    // The stale blocks go into a snapshot too.
    for _ in 0..530 {
        node.make_block().unwrap();
    }
    drop(node);
    let node = open(dir.path());
    assert!(node.read().ledger.state_after(&before.1).is_some());
    node.fork(2, Undone::PutBack).unwrap();
}

/// After a restart the pool's watchers are gone, and a fork must still find the extrinsics in the blocks.
#[test]
fn a_restart_loses_the_pool_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    node.submit(immortal(&node, &transfer(), 0)).unwrap();
    node.make_block().unwrap();
    let mut waiting = node.submit_and_watch(immortal(&node, &transfer(), 1)).unwrap();
    let before = (head(&node), node.read().ledger.clone());
    node.reload().unwrap();
    assert_eq!((head(&node), node.read().ledger.clone()), before);
    assert_eq!(node.read().pool.iter().count(), 0);
    assert_eq!(waiting.try_recv(), Ok(Status::Ready));
    assert!(waiting.try_recv().is_err() && waiting.is_closed());
    node.fork(1, Undone::PutBack).unwrap();
    assert_eq!(received(&node, &head(&node).1), 0);
    node.make_block().unwrap();
    assert_eq!(received(&node, &head(&node).1), COIN);
}

/// An upgrade that is told in one place and not in another makes clients sign what nobody takes.
#[test]
fn an_upgrade_changes_version_numbers_and_metadata_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    node.make_block().unwrap();
    let (_, before) = head(&node);
    let waiting = immortal(&node, &transfer(), 0);
    node.upgrade(Change::All);
    node.make_block().unwrap();
    let face = node.current();
    assert_eq!(face.runtime.spec_version, 462);
    assert_eq!(face.runtime.profile, Profile::Modern);
    assert!(matches!(node.submit(waiting), Err(SubmitError::Invalid(Invalid::BadProof))));
    node.make_block().unwrap();
    {
        let inner = node.read();
        let state = inner.ledger.state_after(&head(&node).1).unwrap();
        let (version, name) = items::LAST_RUNTIME_UPGRADE.get(&state).unwrap();
        assert_eq!((version.0, name), (462, b"node-subtensor".to_vec()));
        let old = inner.ledger.state_after(&before).unwrap();
        assert_eq!(node.face_of(&old).runtime.spec_version, 461);
        // The new item can be found and read with the new metadata.
        let item = face.interface.schema.storage("SubtensorModule", "DevnetUpgrades").unwrap();
        let key = ["SubtensorModule", "DevnetUpgrades"]
            .map(|name| crate::hash::twox_128(name.as_bytes()))
            .concat();
        let mut value = state.raw(&key).unwrap();
        let id = face.interface.id(&item.value).unwrap();
        skip(&face.interface.registry, id, &mut value).unwrap();
        assert!(value.is_empty() && old.raw(&key).is_none());
    }
    // Registration was call 7 of pallet 7 and is call 107 now.
    let mut call = vec![7, 107, 27, 0];
    call.extend([8; 32]);
    let genesis = node.read().ledger.genesis;
    node.submit(signed(&node, &call, 0, (&[0], genesis))).unwrap();
    node.make_block().unwrap();
    let registered = |node: &Node| {
        let inner = node.read();
        let state = inner.ledger.state_after(&inner.ledger.head().hash).unwrap();
        items::UIDS.get(&state, &27, &[8; 32])
    };
    assert_eq!(registered(&node), Some(2));
    // Back from disk it is the same runtime; a fork through the upgrade brings the old one back.
    drop(node);
    let node = open(dir.path());
    assert_eq!(node.current().runtime.spec_version, 462);
    node.fork(3, Undone::Lost).unwrap();
    assert_eq!(node.current().runtime.spec_version, 461);
    assert_eq!(registered(&node), None);
    for change in [Change::Version, Change::Calls, Change::Storage, Change::Profile, Change::Calls]
    {
        node.upgrade(change);
        node.make_block().unwrap();
    }
    let runtime = node.current().runtime;
    assert_eq!((runtime.spec_version, runtime.calls_moved_by), (466, 0));
}
