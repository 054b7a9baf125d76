//! The pool, the shield and the era of an extrinsic, on a node without clock or server.

use nicompute_daemon::ManualClock;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Rao;
use parity_scale_codec::{Compact, Encode};

use super::{COIN, first_state};
use crate::config::DevnetConfig;
use crate::devnet;
use crate::events;
use crate::items;
use crate::node::{Node, SubmitError};
use crate::pool::{POOL_PER_SIGNER_MAX, PoolError, Status};
use crate::runtime::hooks::BLOCK_HASH_COUNT;
use crate::runtime::validity::Invalid;
use crate::shield;
use crate::state::Overlay;

pub(super) fn bob() -> Keypair {
    Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap()
}

fn node() -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut genesis = first_state();
    genesis.endowed.push((bob().account(), Rao(1_000 * COIN)));
    let config = DevnetConfig::new(dir.path(), genesis);
    (devnet::open(&config, ManualClock::at_unix_ms(1_000)).unwrap(), dir)
}

/// A transfer of one coin to nobody in particular.
pub(super) fn transfer() -> Vec<u8> {
    let mut call = vec![5, 3, 0];
    call.extend([9; 32]);
    Compact(COIN).encode_to(&mut call);
    call
}

pub(super) fn signed(node: &Node, call: &[u8], nonce: u32, era: (&[u8], [u8; 32])) -> Vec<u8> {
    let key = bob();
    let mut extra = era.0.to_vec();
    Compact(nonce).encode_to(&mut extra);
    extra.extend([0, 0]);
    let mut payload = [call, &extra].concat();
    let genesis = node.read().ledger.genesis;
    (node.current().runtime.spec_version, 1_u32, genesis, era.1, 0_u8).encode_to(&mut payload);
    if payload.len() > 256 {
        payload = crate::hash::blake2_256(&payload).to_vec();
    }
    let mut body = vec![0x84, 0];
    body.extend(key.account().as_bytes());
    body.push(1);
    body.extend(key.sign(&payload));
    body.extend(extra);
    body.extend(call);
    body.encode()
}

pub(super) fn immortal(node: &Node, call: &[u8], nonce: u32) -> Vec<u8> {
    let genesis = node.read().ledger.genesis;
    signed(node, call, nonce, (&[0], genesis))
}

/// A pool without limits is filled by one client until the chain stops.
#[test]
fn the_pool_is_limited_per_signer() {
    let (node, _dir) = node();
    for nonce in 0..u32::try_from(POOL_PER_SIGNER_MAX).unwrap() {
        node.submit(immortal(&node, &transfer(), nonce)).unwrap();
    }
    let first = immortal(&node, &transfer(), 0);
    assert!(matches!(
        node.submit(first),
        Err(SubmitError::Pool(PoolError::AlreadyImported | PoolError::NonceTaken))
    ));
    let over = immortal(&node, &transfer(), u32::try_from(POOL_PER_SIGNER_MAX).unwrap());
    assert_eq!(node.submit(over), Err(SubmitError::Pool(PoolError::Full)));
    node.make_block().unwrap();
    let inner = node.read();
    assert_eq!(inner.ledger.head().block.extrinsics.len(), POOL_PER_SIGNER_MAX + 1);
    assert_eq!(inner.pool.iter().count(), 0);
}

/// A signature must be bound to its era: one that is over must not come back.
#[test]
fn eras_end() {
    let (node, _dir) = node();
    node.make_block().unwrap();
    let head = node.read().ledger.head().hash;
    // Period 4, phase 1: born in block 1, valid before block 5.
    let era = [0b0001_0001, 0];
    let early = signed(&node, &transfer(), 0, (&era, head));
    for _ in 1..5 {
        node.make_block().unwrap();
    }
    assert_eq!(node.submit(early), Err(SubmitError::Invalid(Invalid::BadProof)));
    // Period 65,536, phase 16: born in block 16, whose hash is forgotten some hundred blocks later.
    while node.read().ledger.head().block.header.number < 16 {
        node.make_block().unwrap();
    }
    let born = node.read().ledger.head().hash;
    let old = signed(&node, &transfer(), 0, (&[0b0001_1111, 0], born));
    for _ in 0..=BLOCK_HASH_COUNT {
        node.make_block().unwrap();
    }
    assert_eq!(node.submit(old), Err(SubmitError::Invalid(Invalid::AncientBirthBlock)));
}

/// A shielded registration that is lost after its carrier has paid would be a silent loss.
#[test]
fn a_shielded_extrinsic_lands_behind_its_carrier() {
    let (node, _dir) = node();
    let announced = {
        let inner = node.read();
        items::NEXT_KEY.get(&Overlay::new(inner.ledger.state())).unwrap()
    };
    let inside = immortal(&node, &transfer(), 1);
    let carrier = |ciphertext: &Vec<u8>| {
        let mut call = vec![30, 1];
        ciphertext.encode_to(&mut call);
        immortal(&node, &call, 0)
    };
    let sealed = shield::tests::seal(&announced, &inside);
    let mut foreign = sealed.clone();
    foreign[0] ^= 1;
    let refused = node.submit(carrier(&foreign));
    assert_eq!(refused, Err(SubmitError::Invalid(Invalid::Custom(255))));
    let mut statuses = node.submit_and_watch(carrier(&sealed)).unwrap();
    node.make_block().unwrap();
    let inner = node.read();
    assert_eq!(inner.ledger.head().block.extrinsics[2], inside);
    let received = items::ACCOUNT.get(&Overlay::new(inner.ledger.state()), &[9; 32]).unwrap();
    assert_eq!(received.free, COIN);
    assert_eq!(statuses.try_recv(), Ok(Status::Ready));
    assert_eq!(statuses.try_recv(), Ok(Status::InBlock(inner.ledger.head().hash)));
    assert_eq!(statuses.try_recv(), Ok(Status::Finalized(inner.ledger.head().hash)));
}

/// A shield around another shield would let one extrinsic make the author work for ever.
#[test]
fn a_shield_in_a_shield_is_left_out() {
    let (node, _dir) = node();
    let announced = {
        let inner = node.read();
        items::NEXT_KEY.get(&Overlay::new(inner.ledger.state())).unwrap()
    };
    let carry = |inside: &[u8], nonce: u32| {
        let mut call = vec![30, 1];
        shield::tests::seal(&announced, inside).encode_to(&mut call);
        immortal(&node, &call, nonce)
    };
    let nested = carry(&carry(&immortal(&node, &transfer(), 2), 1), 0);
    node.submit(nested).unwrap();
    node.make_block().unwrap();
    assert_eq!(node.read().ledger.head().block.extrinsics.len(), 2);
}

/// Whoever asks for a filtered call must find the reason in the block's events.
#[test]
fn a_filtered_call_is_a_failure_in_the_events() {
    let (node, _dir) = node();
    // System.remark, which this chain lists and does not carry out.
    node.submit(immortal(&node, &[0, 0, 0], 0)).unwrap();
    node.make_block().unwrap();
    let inner = node.read();
    let events = inner.ledger.state().get(&items::EVENTS.0.prefix()).unwrap();
    let failure = events::CALL_FILTERED.encode();
    assert!(events.windows(failure.len()).any(|window| window == failure));
}
