//! What is on disk when the process dies at any moment.

use std::fs;
use std::path::{Path, PathBuf};

use nicompute_daemon::ManualClock;

use super::first_state;
use crate::config::DevnetConfig;
use crate::devnet::{self, StartError};
use crate::node::Node;
use crate::store::StoreError;

fn open(dir: &Path) -> Result<Node, StartError> {
    devnet::open(&DevnetConfig::new(dir, first_state()), ManualClock::at_unix_ms(1_000))
}

fn head(node: &Node) -> (u32, [u8; 32]) {
    let inner = node.read();
    (inner.ledger.head().block.header.number, inner.ledger.head().hash)
}

fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == end)).collect()
}

/// A snapshot that loses blocks or states sends the chain back in time.
#[test]
fn a_chain_goes_on_across_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).unwrap();
    for _ in 0..530 {
        node.make_block().unwrap();
    }
    let (number, hash) = head(&node);
    let (ledger, early) = {
        let inner = node.read();
        (inner.ledger.clone(), inner.ledger.hash_of(3).unwrap())
    };
    drop(node);
    assert_eq!(files(dir.path(), "snapshot").len(), 1, "the old snapshot is gone");
    let node = open(dir.path()).unwrap();
    assert_eq!(head(&node), (number, hash));
    assert_eq!(node.read().ledger, ledger);
    assert!(node.read().ledger.state_after(&early).is_some());
    node.make_block().unwrap();
}

/// A crash in the middle of a write must cost at most the block that nobody has heard of.
#[test]
fn a_torn_last_record_is_cut_off_wherever_it_tore() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).unwrap();
    node.make_block().unwrap();
    let log = files(dir.path(), "log").pop().unwrap();
    let whole = fs::read(&log).unwrap().len();
    node.make_block().unwrap();
    drop(node);
    let bytes = fs::read(&log).unwrap();
    for cut in (whole..bytes.len()).step_by(7).chain([whole + 1, bytes.len() - 1]) {
        fs::write(&log, &bytes[..cut]).unwrap();
        assert_eq!(head(&open(dir.path()).unwrap()).0, 1, "cut at {cut}");
    }
    fs::write(&log, &bytes).unwrap();
    assert_eq!(head(&open(dir.path()).unwrap()).0, 2);
}

/// A changed byte under blocks that were announced is damage, and must be said.
#[test]
fn damage_in_the_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path()).unwrap();
    for _ in 0..3 {
        node.make_block().unwrap();
    }
    drop(node);
    let log = files(dir.path(), "log").pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[60] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let Err(StartError::Store { source: StoreError::Damaged(path), .. }) = open(dir.path()) else {
        panic!("a damaged log was read")
    };
    assert_eq!(path, log);
    let snapshot = files(dir.path(), "snapshot").pop().unwrap();
    fs::write(&snapshot, b"short").unwrap();
    assert!(matches!(
        open(dir.path()),
        Err(StartError::Store { source: StoreError::Damaged(_), .. })
    ));
}
