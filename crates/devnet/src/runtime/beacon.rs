//! The chain's randomness beacon: its key, its rounds, and what can be opened with them.
//!
//! It has the shape of drand's quicknet: BLS12-381 with signatures in G1 and keys in G2, the message of a round is sha256
//! of its number. A beacon of the chain's own signs every round as the chain's time reaches it; a recorded one is fed from
//! outside, and a pulse is taken only with a signature under its key. Nothing here is secret on a devnet: the seed stands
//! in the state.
//!
//! Everything that comes out of a commit is hostile. Lengths are checked against the bytes that are there before any
//! decoder of a dependency sees them.

use std::collections::BTreeMap;

use ark_ec::PrimeGroup as _;
use ark_ff::{PrimeField as _, Zero as _};
use ark_serialize::{CanonicalDeserialize as _, CanonicalSerialize};
use parity_scale_codec::{Decode, Encode};
use sha2::{Digest as _, Sha256};
use timelock::block_ciphers::AESGCMBlockCipherProvider;
use timelock::engines::EngineBLS;
use timelock::engines::drand::TinyBLS381;
use timelock::ibe::fullident::{Ciphertext, Identity};
use timelock::tlock::{TLECiphertext, tld};

use crate::config::{Beacon, GenesisError};
use crate::events::{DrandEvent, Event};
use crate::hash::blake2_256;
use crate::items;
use crate::runtime::Exec;
use crate::state::{Changes, Map, Overlay, Read};

/// The bytes of a beacon's public key.
pub(crate) const KEY_LEN: usize = 96;
/// The bytes of a round's signature.
pub(crate) const SIGNATURE_LEN: usize = 48;
/// Rounds that one block catches up with; the real chain's number.
const ROUNDS_PER_BLOCK_MAX: u64 = 50;
/// Rounds whose signatures are kept. The real chain keeps a week; three hours are more than any epoch here.
const PULSES_KEPT_MAX: u64 = 4_096;
/// Old rounds that one block forgets; the real chain's number.
const PULSES_REMOVED_MAX: u64 = 100;
/// Where the seed of the chain's own beacon stands.
const SEED_KEY: &[u8] = b":nicompute-devnet:beacon-seed";
/// What drand calls this construction.
const SCHEME: &[u8] = b"bls-unchained-g1-rfc9380";

type Scalar = <TinyBLS381 as EngineBLS>::Scalar;
type PublicKey = <TinyBLS381 as EngineBLS>::PublicKeyGroup;
type Signature = <TinyBLS381 as EngineBLS>::SignatureGroup;

/// `pallet_drand::types::BeaconConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct BeaconConfiguration {
    pub(crate) public_key: Vec<u8>,
    pub(crate) period: u32,
    pub(crate) genesis_time: u32,
    pub(crate) hash: Vec<u8>,
    pub(crate) group_hash: Vec<u8>,
    pub(crate) scheme_id: Vec<u8>,
    pub(crate) beacon_id: Vec<u8>,
}

/// `pallet_drand::types::Pulse`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Pulse {
    pub(crate) round: u64,
    pub(crate) randomness: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

/// Pulses that were handed in and verified, by round.
pub(crate) type Recorded = BTreeMap<u64, [u8; SIGNATURE_LEN]>;

/// Why a commit does not open. The chain drops it without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the commit is not laid out as one")]
    Layout,
    #[error("the commit holds no point of the curve")]
    Point,
    #[error("the round's signature is none")]
    Signature,
    #[error("the commit does not open with the round's signature")]
    Key,
}

/// Why a pulse is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PulseError {
    /// The chain's rounds do not come from outside.
    #[error("this chain runs its own beacon, or none")]
    NotRecorded,
    /// The chain has a later round already.
    #[error("the round is past")]
    Round,
    /// No signature of this round under the beacon's key.
    #[error("the signature is not the beacon's for this round")]
    Signature,
    /// Rounds wait for one that is missing.
    #[error("too many pulses wait")]
    Full,
}

/// What the beacon adds to the first state.
pub(crate) fn genesis(beacon: &Beacon, now_s: u64) -> Result<Changes, GenesisError> {
    let empty = Map::new();
    let mut state = Overlay::new(&empty);
    let (public_key, genesis_time, period, id) = match beacon {
        Beacon::Own { seed, period_s } => {
            state.write(SEED_KEY.to_vec(), Some(seed.to_vec()));
            let genesis = u32::try_from(now_s).unwrap_or(u32::MAX);
            (public_key(seed), genesis, *period_s, &b"devnet"[..])
        }
        Beacon::Recorded { public_key, genesis_s, period_s } => {
            (*public_key, *genesis_s, *period_s, &b"recorded"[..])
        }
    };
    let key = PublicKey::deserialize_compressed(&public_key[..]);
    if period == 0 || key.map_or(true, |key| key.is_zero()) {
        return Err(GenesisError::Beacon);
    }
    let config = BeaconConfiguration {
        hash: blake2_256(&public_key).to_vec(),
        group_hash: blake2_256(&(&public_key[..], genesis_time).encode()).to_vec(),
        public_key: public_key.to_vec(),
        period,
        genesis_time,
        scheme_id: SCHEME.to_vec(),
        beacon_id: id.to_vec(),
    };
    items::BEACON_CONFIG.put(&mut state, &config);
    Ok(state.into_changes())
}

/// Stores the rounds that are due at this block's time. They stand in the state from the next block's beginning on, as on
/// the real chain, where they come as extrinsics.
pub(crate) fn step(exec: &mut Exec<'_>, now_ms: u64, recorded: &Recorded) {
    let Some(config) = items::BEACON_CONFIG.get(&exec.state) else { return };
    let last = items::LAST_STORED_ROUND.get(&exec.state).unwrap_or_default();
    let fresh = match seed(&exec.state) {
        Some(seed) => own(&seed, &config, last, now_ms),
        None => following(recorded, last),
    };
    let rounds: Vec<u64> = fresh.iter().map(|(round, _)| *round).collect();
    let (Some(first), Some(newest)) = (rounds.first(), rounds.last()) else { return };
    let state = &mut exec.state;
    for (round, signature) in &fresh {
        let pulse = Pulse {
            round: *round,
            randomness: Sha256::digest(signature).to_vec(),
            signature: signature.to_vec(),
        };
        items::PULSES.put(state, round, &pulse);
    }
    items::LAST_STORED_ROUND.put(state, newest);
    let oldest = items::OLDEST_STORED_ROUND.get(state).filter(|round| *round > 0);
    let oldest = oldest.unwrap_or(*first);
    let keep_from = newest.saturating_sub(PULSES_KEPT_MAX).saturating_add(1);
    let kept = keep_from.clamp(oldest, oldest.saturating_add(PULSES_REMOVED_MAX));
    (oldest..kept).for_each(|round| items::PULSES.remove(state, &round));
    items::OLDEST_STORED_ROUND.put(state, &kept);
    exec.emit(Event::Drand(DrandEvent::NewPulse { rounds }));
}

/// Checks a pulse that was handed in: only a recorded beacon takes one, in order, with its signature.
pub(crate) fn check(
    state: &impl Read,
    round: u64,
    signature: &[u8; SIGNATURE_LEN],
) -> Result<(), PulseError> {
    let config = items::BEACON_CONFIG.get(state).ok_or(PulseError::NotRecorded)?;
    if seed(state).is_some() {
        return Err(PulseError::NotRecorded);
    }
    if round <= items::LAST_STORED_ROUND.get(state).unwrap_or_default() {
        return Err(PulseError::Round);
    }
    if verify(&config.public_key, round, signature) { Ok(()) } else { Err(PulseError::Signature) }
}

/// Opens a commit in the chain's layout with a round's signature.
pub(crate) fn open(commit: &[u8], signature: &[u8]) -> Result<Vec<u8>, OpenError> {
    let sealed = layout(commit)?;
    let signature =
        Signature::deserialize_compressed(signature).map_err(|_| OpenError::Signature)?;
    tld::<TinyBLS381, AESGCMBlockCipherProvider>(sealed, signature).map_err(|_| OpenError::Key)
}

/// The public key of a seed.
pub(crate) fn public_key(seed: &[u8; 32]) -> [u8; KEY_LEN] {
    compressed(&(PublicKey::generator() * secret(seed)))
}

/// The signature of a round.
pub(crate) fn sign(seed: &[u8; 32], round: u64) -> [u8; SIGNATURE_LEN] {
    compressed(&identity(round).extract::<TinyBLS381>(secret(seed)).0)
}

/// Whether a signature is the one of a round under a public key.
pub(crate) fn verify(public_key: &[u8], round: u64, signature: &[u8; SIGNATURE_LEN]) -> bool {
    let (Ok(key), Ok(signature)) = (
        PublicKey::deserialize_compressed(public_key),
        Signature::deserialize_compressed(&signature[..]),
    ) else {
        return false;
    };
    let expected = TinyBLS381::pairing(key, identity(round).public::<TinyBLS381>());
    !key.is_zero() && TinyBLS381::pairing(PublicKey::generator(), signature) == expected
}

fn seed(state: &impl Read) -> Option<[u8; 32]> {
    state.raw(SEED_KEY)?.try_into().ok()
}

fn secret(seed: &[u8; 32]) -> Scalar {
    // A zero scalar, which one seed of 2^255 gives, is refused with its key at the genesis.
    Scalar::from_le_bytes_mod_order(seed)
}

fn identity(round: u64) -> Identity {
    Identity::new(b"", &Sha256::digest(round.to_be_bytes()))
}

/// A point in its compressed form; the length is the group's.
fn compressed<const N: usize>(point: &impl CanonicalSerialize) -> [u8; N] {
    let mut bytes = [0; N];
    let written = point.serialize_compressed(&mut bytes[..]);
    debug_assert!(written.is_ok(), "a point of the group has this length");
    bytes
}

fn own(
    seed: &[u8; 32],
    config: &BeaconConfiguration,
    last: u64,
    now_ms: u64,
) -> Vec<(u64, [u8; SIGNATURE_LEN])> {
    let passed = (now_ms / 1_000).checked_sub(u64::from(config.genesis_time));
    let rounds = passed.and_then(|passed| passed.checked_div(u64::from(config.period)));
    let current = rounds.map_or(0, |rounds| rounds.saturating_add(1));
    let until = current.min(last.saturating_add(ROUNDS_PER_BLOCK_MAX));
    (last.saturating_add(1)..=until).map(|round| (round, sign(seed, round))).collect()
}

/// The recorded rounds that follow the last one without a gap; the first of all may be any.
fn following(recorded: &Recorded, last: u64) -> Vec<(u64, [u8; SIGNATURE_LEN])> {
    let mut next = (last > 0).then(|| last.saturating_add(1));
    let mut out = Vec::new();
    for (round, signature) in recorded.range(last.saturating_add(1)..) {
        let is_full = out.len() >= usize::try_from(ROUNDS_PER_BLOCK_MAX).unwrap_or(usize::MAX);
        if is_full || next.is_some_and(|next| next != *round) {
            break;
        }
        next = Some(round.saturating_add(1));
        out.push((*round, *signature));
    }
    out
}

/// Takes the chain's layout apart: `u ‖ 32 ‖ v ‖ 32 ‖ w ‖ body ‖ suite`, the body again a ciphertext and a nonce, each
/// behind its length in eight bytes. What follows is ignored, as on the real chain.
fn layout(commit: &[u8]) -> Result<TLECiphertext<TinyBLS381>, OpenError> {
    let (point, mut rest) = commit.split_at_checked(KEY_LEN).ok_or(OpenError::Layout)?;
    let v = part(&mut rest)?.try_into().map_err(|_| OpenError::Layout)?;
    let w = part(&mut rest)?.try_into().map_err(|_| OpenError::Layout)?;
    let mut inner = part(&mut rest)?;
    let suite = part(&mut rest)?.to_vec();
    let (text, nonce) = (part(&mut inner)?, part(&mut inner)?);
    let mut body = Vec::new();
    for part in [text, nonce] {
        let len = u64::try_from(part.len()).map_err(|_| OpenError::Layout)?;
        body.extend_from_slice(&len.to_le_bytes());
        body.extend_from_slice(part);
    }
    let u = PublicKey::deserialize_compressed(point).map_err(|_| OpenError::Point)?;
    Ok(TLECiphertext { header: Ciphertext { u, v, w }, body, cipher_suite: suite })
}

/// The next part behind its length, which must be there in full.
fn part<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8], OpenError> {
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or(OpenError::Layout)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| OpenError::Layout)?;
    let (part, rest) = rest.split_at_checked(len).ok_or(OpenError::Layout)?;
    *bytes = rest;
    Ok(part)
}
