//! Weights that nobody can read before a beacon's round: sealing them as the chain opens them, and choosing the round.
//!
//! The sealing is identity-based encryption on BLS12-381 under the public key of a drand beacon: the identity is
//! sha256 of the round's number, and the round's signature, which the beacon publishes, is the key that opens it. The
//! key is read from the chain (`Drand.BeaconConfig`), so that a private chain may run a beacon of its own. This file
//! never opens anything and trusts no length that it did not write itself.

use ark_serialize::{CanonicalDeserialize as _, CanonicalSerialize as _};
use ark_std::Zero as _;
use ark_std::rand::SeedableRng as _;
use ark_std::rand::rngs::StdRng;
use nicompute_market::{BlockNumber, Hotkey, Netuid, Uid};
use parity_scale_codec::Encode as _;
use sha2::{Digest as _, Sha256};
use subxt::config::Hasher as _;
use subxt::config::substrate::BlakeTwo256;
use timelock::block_ciphers::AESGCMBlockCipherProvider;
use timelock::engines::EngineBLS;
use timelock::engines::drand::TinyBLS381;
use timelock::ibe::fullident::Identity;
use timelock::tlock::{TLECiphertext, tle};

use crate::error::ReadError;
use crate::runtime::SUBTENSOR;
use crate::subnets::Beacon;
use crate::view::View;

/// The longest commit that the chain takes.
pub const COMMIT_BYTES_MAX: usize = 5_000;
/// The most weights that one commit can carry: four bytes each, beside under 500 bytes of envelope.
pub const COMMIT_WEIGHTS_MAX: usize = 1_024;
/// The bytes of a beacon's public key.
pub const BEACON_KEY_LEN: usize = 96;
/// Blocks behind the first one of the reveal epoch at which the round is aimed, as Bittensor's own clients do, so that
/// a block that comes early does not find the commit opened before its epoch.
const SAFETY_BLOCKS: u64 = 3;

type PublicKey = <TinyBLS381 as EngineBLS>::PublicKeyGroup;

/// Why weights could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The beacon's key is no point of its curve, or the neutral one, under which everybody could open the weights.
    #[error("the beacon's public key is not one")]
    Key,
    /// More weights than a commit can carry.
    #[error("{0} weights are more than one commit can carry")]
    Long(usize),
    /// The machine gave no random bytes.
    #[error("the machine gave no random bytes")]
    Random,
    /// The encryption itself failed.
    #[error("the weights could not be encrypted")]
    Encrypt,
}

/// Why no round can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// The chain's numbers make no schedule.
    #[error("the chain's epochs or its beacon make no schedule")]
    Schedule,
    /// The epoch is shorter than the beacon's period: a commit would be thrown away before it could be opened.
    #[error("the subnet's epochs are too short for the beacon")]
    TooShort,
}

/// What the weights of a commit say, before they are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// Who sets them; the chain drops a commit that names another hotkey than its sender.
    pub hotkey: &'a Hotkey,
    /// The weights, by slot.
    pub weights: &'a [(Uid, u16)],
    /// The subnet's version key.
    pub version_key: u64,
}

/// A drand beacon's clock: round `n` is published `n − 1` periods after the genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeaconClock {
    /// When round 1 was published, in seconds since 1970.
    pub genesis_s: u64,
    /// Seconds between two rounds.
    pub period_s: u64,
    /// The newest round whose signature the chain has.
    pub last_stored: u64,
}

/// When a subnet's epochs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochSchedule {
    /// Since dynamic tempos: an epoch runs when `tempo` blocks have passed since the last one.
    Counted {
        /// The block of the last epoch.
        last_epoch: BlockNumber,
        /// Blocks between two epochs.
        tempo: u64,
    },
    /// Before: an epoch runs where `block + netuid + 1` is a multiple of `tempo + 1`.
    Modulo {
        /// The subnet.
        netuid: u16,
        /// Its tempo.
        tempo: u64,
    },
}

/// Everything that the choice of a round depends on, as of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevealClock {
    /// The block.
    pub block: BlockNumber,
    /// Its timestamp, in milliseconds since 1970. The chain's own time: a validator's clock may be wrong.
    pub now_ms: u64,
    /// Milliseconds between blocks.
    pub block_ms: u64,
    /// The subnet's epochs.
    pub schedule: EpochSchedule,
    /// How many epochs after its own a commit is opened.
    pub reveal_period_epochs: u64,
    /// The beacon.
    pub beacon: BeaconClock,
}

// === impl View ===

impl View {
    /// When a commit that is sent now is opened, and by whose rounds; none on a chain without a beacon.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn reveal_clock(
        &self,
        netuid: Netuid,
    ) -> Result<Option<(RevealClock, Beacon)>, ReadError> {
        let Some(beacon) = self.beacon().await? else { return Ok(None) };
        self.shared().note_beacon(&beacon.public_key);
        let rules = self.hyperparameters(netuid).await?;
        let tempo = u64::from(rules.tempo);
        let schedule = if self.at.runtime.has_storage(SUBTENSOR, "SubnetEpochIndex") {
            let next = self.next_epoch_start(netuid).await?;
            let last_epoch = BlockNumber(next.get().saturating_sub(tempo.max(1)));
            EpochSchedule::Counted { last_epoch, tempo }
        } else {
            EpochSchedule::Modulo { netuid: netuid.0, tempo }
        };
        let clock = RevealClock {
            block: self.head().number,
            now_ms: self.timestamp_ms().await?,
            block_ms: u64::try_from(self.block_time()?.as_millis()).unwrap_or(u64::MAX),
            schedule,
            reveal_period_epochs: rules.reveal_period_epochs,
            beacon: BeaconClock {
                genesis_s: beacon.genesis_s,
                period_s: beacon.period_s,
                last_stored: self.last_stored_round().await?,
            },
        };
        Ok(Some((clock, beacon)))
    }
}

// === impl EpochSchedule ===

impl EpochSchedule {
    /// The first epoch at or after a block.
    fn next_from(self, block: u64) -> Option<u64> {
        match self {
            Self::Counted { last_epoch, tempo } => {
                let due = last_epoch.get().checked_add(tempo.max(1))?;
                Some(due.max(block))
            }
            Self::Modulo { netuid, tempo } => {
                let length = tempo.checked_add(1)?;
                let shifted = block.checked_add(u64::from(netuid))?.checked_add(1)?;
                let rest = shifted.checked_rem(length)?;
                block.checked_add(length.checked_sub(rest)?.checked_rem(length)?)
            }
        }
    }

    fn length(self) -> u64 {
        match self {
            Self::Counted { tempo, .. } => tempo.max(1),
            Self::Modulo { tempo, .. } => tempo.saturating_add(1),
        }
    }
}

impl RevealClock {
    /// The first block of the epoch in which a commit that gets into the next block is opened.
    ///
    /// A commit belongs to the epoch that runs in its own block or came before it, because the chain runs epochs at the
    /// beginning of a block; it is opened `reveal_period_epochs` epochs later, for the first time in the block that begins
    /// that epoch. (Subtensor: `current_epoch_with_lookahead`, `reveal_crv3_commits_for_subnet`; Bittensor's clients
    /// count the same way from one block after the head.)
    ///
    /// # Errors
    /// When the numbers make no schedule.
    pub fn reveal_block(&self) -> Result<BlockNumber, RoundError> {
        let inclusion = self.block.get().checked_add(1).ok_or(RoundError::Schedule)?;
        let first = self.schedule.next_from(inclusion).ok_or(RoundError::Schedule)?;
        // An epoch in the block of inclusion itself is the commit's own and not the first after it.
        let later = if first == inclusion {
            self.reveal_period_epochs
        } else {
            self.reveal_period_epochs.checked_sub(1).ok_or(RoundError::Schedule)?
        };
        let blocks = later.checked_mul(self.schedule.length());
        let block = blocks.and_then(|blocks| first.checked_add(blocks));
        block.map(BlockNumber).ok_or(RoundError::Schedule)
    }

    /// The round that opens a commit sent now: `(now + (reveal block + 3 − block) × block time − genesis) / period`, the
    /// rule of Bittensor's clients, and never one that is published already, because such a commit would be no secret and
    /// the chain refuses it.
    ///
    /// # Errors
    /// When the numbers make no schedule, or the round would be published after the chain has thrown the commit away.
    pub fn reveal_round(&self) -> Result<u64, RoundError> {
        let reveal = self.reveal_block()?.get();
        let blocks = reveal.saturating_sub(self.block.get());
        let genesis_ms = self.beacon.genesis_s.checked_mul(1_000).ok_or(RoundError::Schedule)?;
        let period_ms = self.beacon.period_s.checked_mul(1_000).filter(|period| *period > 0);
        let period_ms = period_ms.ok_or(RoundError::Schedule)?;
        let at = |blocks: u64| {
            let wait = blocks.checked_mul(self.block_ms)?;
            self.now_ms.checked_add(wait)
        };
        let target = at(blocks.saturating_add(SAFETY_BLOCKS)).ok_or(RoundError::Schedule)?;
        let aimed = target.saturating_sub(genesis_ms).checked_div(period_ms).unwrap_or_default();
        let unpublished = self.beacon.last_stored.saturating_add(1);
        let round = aimed.max(unpublished).max(1);
        let before = round.saturating_sub(1).checked_mul(period_ms);
        let published = before.and_then(|before| before.checked_add(genesis_ms));
        let ends = at(blocks.saturating_add(self.schedule.length()));
        match (published, ends) {
            (Some(published), Some(ends)) if published < ends => Ok(round),
            (Some(_), Some(_)) => Err(RoundError::TooShort),
            (None, _) | (_, None) => Err(RoundError::Schedule),
        }
    }
}

/// Seals weights for a round under a beacon's key, in the layout in which the chain reads a commit.
///
/// # Errors
/// When the key is none, the weights do not fit, or the machine has no randomness.
pub fn seal(
    public_key: &[u8; BEACON_KEY_LEN],
    round: u64,
    weights: Sealed<'_>,
) -> Result<Vec<u8>, SealError> {
    if weights.weights.len() > COMMIT_WEIGHTS_MAX {
        return Err(SealError::Long(weights.weights.len()));
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| SealError::Random)?;
    let sealed = seal_with(public_key, round, &payload(weights), seed)?;
    if sealed.len() > COMMIT_BYTES_MAX {
        return Err(SealError::Long(weights.weights.len()));
    }
    Ok(sealed)
}

/// The hash that a commit promises weights with, where they are not sealed: blake2b-256 of who, where, the weights, a salt and
/// the version key.
#[must_use]
pub fn commit_hash(netuid: Netuid, weights: Sealed<'_>, salt: &[u16]) -> [u8; 32] {
    let (uids, values) = columns(weights);
    let who = weights.hotkey.as_bytes();
    let said = (who, netuid.0, uids, values, salt, weights.version_key).encode();
    BlakeTwo256.hash(&said).0
}

fn columns(sealed: Sealed<'_>) -> (Vec<u16>, Vec<u16>) {
    sealed.weights.iter().map(|(uid, value)| (uid.0, *value)).unzip()
}

/// `WeightsTlockPayload` of the chain.
fn payload(sealed: Sealed<'_>) -> Vec<u8> {
    let (uids, values) = columns(sealed);
    (sealed.hotkey.as_bytes().to_vec(), uids, values, sealed.version_key).encode()
}

fn seal_with(
    public_key: &[u8; BEACON_KEY_LEN],
    round: u64,
    payload: &[u8],
    seed: [u8; 32],
) -> Result<Vec<u8>, SealError> {
    let key = PublicKey::deserialize_compressed(&public_key[..]).map_err(|_| SealError::Key)?;
    if key.is_zero() {
        return Err(SealError::Key);
    }
    let mut rng = StdRng::from_seed(seed);
    let mut secret = [0; 32];
    ark_std::rand::RngCore::fill_bytes(&mut rng, &mut secret);
    let identity = Identity::new(b"", &Sha256::digest(round.to_be_bytes()));
    let sealed =
        tle::<TinyBLS381, AESGCMBlockCipherProvider, _>(key, secret, payload, identity, rng);
    chain_layout(&sealed.map_err(|_| SealError::Encrypt)?)
}

/// The chain's `tle` writes the lengths of `v` and `w`, which this crate knows to be 32 and leaves out.
fn chain_layout(sealed: &TLECiphertext<TinyBLS381>) -> Result<Vec<u8>, SealError> {
    let mut bytes = Vec::new();
    let written = sealed.header.u.serialize_compressed(&mut bytes);
    written.map_err(|_| SealError::Encrypt)?;
    for part in [&sealed.header.v[..], &sealed.header.w, &sealed.body, &sealed.cipher_suite] {
        let len = u64::try_from(part.len()).map_err(|_| SealError::Encrypt)?;
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use timelock::tlock::tld;

    use super::*;

    /// Round 1000 of drand's quicknet, which is public.
    const QUICKNET: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a\
                            2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76\
                            eae8991ef5ece45a";
    const SIGNATURE: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b\
                             63ed5e39";
    /// A commit of seven weights in the chain's layout, as another implementation opened it.
    const COMMIT: &str = "89217bb5e6c77760b8808f8db65ecf13e14f348250f497e224912d2e0f742291fd1b58b0cb62ab0c0cc1c81c\
        3b8415fd15b0c1d56a994f0b993d24dd7b79341a3d11274ea6211429f92d95d3769e6909f99850b359c4fbff9d5fb6ff1e1ed6e0\
        20000000000000007f321e81ed1bed7f557f92038c09b13d4168cbc59f46d915f5dbf3dbcc2eae572000000000000000200393b9\
        79dfd10c6fdd42eb9a7dacd3e1003ce87e1ad8fb04c3eb75f2380e7c63000000000000004700000000000000230bface749281d2\
        5f33c65baf0c3f090b59fc24db059bb210ddb23a385bfe8b57c0978fd45376b59491757febef3c7b7f106786f49b5624a77936df\
        ce29ee1ac85431cb2825240c000000000000003b096eefa432e240f6c4efc108000000000000004145535f47434d5f";
    const COMMIT_PAYLOAD: &str = "80070707070707070707070707070707070707070707070707070707070707070\
                                  70c0000010005000cffff64000300be00000000000000";

    fn key() -> [u8; BEACON_KEY_LEN] {
        hex::decode(QUICKNET).unwrap().try_into().unwrap()
    }

    /// Opens the chain's layout with a round's signature, as the chain does.
    fn open(commit: &[u8], signature: &str) -> Vec<u8> {
        let mut bare = commit[..96].to_vec();
        bare.extend_from_slice(&commit[104..136]);
        bare.extend_from_slice(&commit[144..]);
        let sealed = TLECiphertext::<TinyBLS381>::deserialize_compressed(&bare[..]).unwrap();
        let signature = hex::decode(signature).unwrap();
        let signature =
            <TinyBLS381 as EngineBLS>::SignatureGroup::deserialize_compressed(&signature[..]);
        tld::<TinyBLS381, AESGCMBlockCipherProvider>(sealed, signature.unwrap()).unwrap()
    }

    /// A commit that the chain cannot read is dropped without a word, and the validator's weights grow old.
    #[test]
    fn a_sealed_commit_opens_with_the_rounds_signature() {
        let hotkey = Hotkey::from_bytes([7; 32]);
        let weights = [(Uid(0), u16::MAX), (Uid(1), 100), (Uid(5), 3)];
        let sealed = Sealed { hotkey: &hotkey, weights: &weights, version_key: 190 };
        assert_eq!(hex::encode(payload(sealed)), COMMIT_PAYLOAD);
        let commit = seal(&key(), 1_000, sealed).unwrap();
        assert_eq!(commit[96..104], 32_u64.to_le_bytes());
        assert_eq!(commit[136..144], 32_u64.to_le_bytes());
        assert_eq!(commit[commit.len() - 8..], *b"AES_GCM_");
        assert_eq!(hex::encode(open(&commit, SIGNATURE)), COMMIT_PAYLOAD);
        assert_ne!(commit, seal(&key(), 1_000, sealed).unwrap(), "the same secret twice");
    }

    /// A hash that the chain computes otherwise can never be revealed. The value is that of Bittensor's SDK 9.0.0.
    #[test]
    fn a_hash_commit_is_that_of_the_python_client() {
        let alice = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d";
        let hotkey = Hotkey::from_bytes(hex::decode(alice).unwrap().try_into().unwrap());
        let weights = [(Uid(0), u16::MAX), (Uid(1), 100), (Uid(5), 3)];
        let sealed = Sealed { hotkey: &hotkey, weights: &weights, version_key: 190 };
        let hash = commit_hash(Netuid(27), sealed, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(
            hex::encode(hash),
            "32b7a1ad22d7d843869d550f5442a77390bf540f7922bc76e88f60f8e0d8307e"
        );
    }

    /// What another implementation wrote must be read, or ours and theirs are different formats.
    #[test]
    fn a_recorded_commit_is_read() {
        assert_eq!(hex::encode(open(&hex::decode(COMMIT).unwrap(), SIGNATURE)), COMMIT_PAYLOAD);
        let same = seal_with(&key(), 1, &hex::decode(COMMIT_PAYLOAD).unwrap(), [1; 32]).unwrap();
        assert_eq!(same.len(), hex::decode(COMMIT).unwrap().len());
    }

    /// A commit longer than the chain takes is refused by it after the fee; a key that is none must not panic, and
    /// under the neutral key everybody reads the weights.
    #[test]
    fn limits_of_sealing() {
        let hotkey = Hotkey::from_bytes([7; 32]);
        let most: Vec<_> = (0..1_024).map(|uid| (Uid(uid), u16::MAX)).collect();
        let sealed = Sealed { hotkey: &hotkey, weights: &most, version_key: u64::MAX };
        assert!(seal(&key(), u64::MAX, sealed).unwrap().len() <= COMMIT_BYTES_MAX);
        let more: Vec<_> = (0..1_025).map(|uid| (Uid(uid), 1)).collect();
        let sealed = Sealed { weights: &more, ..sealed };
        assert_eq!(seal(&key(), 1, sealed), Err(SealError::Long(1_025)));
        let mut neutral = [0; 96];
        neutral[0] = 0xc0;
        for bad in [[0; 96], [0xff; 96], [0x80; 96], [0xc0; 96], neutral] {
            assert_eq!(seal(&bad, 1, Sealed { weights: &[], ..sealed }), Err(SealError::Key));
        }
    }

    const CLOCK: RevealClock = RevealClock {
        block: BlockNumber(1_000),
        now_ms: 1_692_803_367_000 + 3_000_000,
        block_ms: 12_000,
        schedule: EpochSchedule::Counted { last_epoch: BlockNumber(900), tempo: 360 },
        reveal_period_epochs: 1,
        beacon: BeaconClock { genesis_s: 1_692_803_367, period_s: 3, last_stored: 1_000 },
    };

    /// A round too early shows the weights before their time; one too late throws them away.
    #[test]
    fn the_round_follows_from_the_epochs() {
        let reveal = |clock: RevealClock| clock.reveal_block().unwrap().get();
        assert_eq!(reveal(CLOCK), 1_260);
        assert_eq!(reveal(RevealClock { reveal_period_epochs: 3, ..CLOCK }), 1_260 + 720);
        // The commit gets into the very block that begins an epoch: it belongs to that epoch.
        let edge = RevealClock { block: BlockNumber(1_259), ..CLOCK };
        assert_eq!(reveal(edge), 1_260 + 360);
        assert_eq!(reveal(RevealClock { block: BlockNumber(1_258), ..CLOCK }), 1_260);
        // An epoch that is overdue runs in the next block.
        assert_eq!(reveal(RevealClock { block: BlockNumber(1_400), ..CLOCK }), 1_401 + 360);
        let old = EpochSchedule::Modulo { netuid: 27, tempo: 360 };
        let block = reveal(RevealClock { schedule: old, ..CLOCK });
        assert_eq!(((block + 28) % 361, block > 1_001, block <= 1_362), (0, true, true));
        // (3,000,000 + 263 × 12,000) / 3,000
        assert_eq!(CLOCK.reveal_round(), Ok(1_000 + 263 * 4));
    }

    /// A commit to a round that everybody has seen hides nothing, and the chain refuses it.
    #[test]
    fn a_published_round_is_never_chosen() {
        let ahead = BeaconClock { last_stored: 2_500, ..CLOCK.beacon };
        assert_eq!(RevealClock { beacon: ahead, ..CLOCK }.reveal_round(), Ok(2_501));
        let gone = BeaconClock { last_stored: u64::MAX, ..CLOCK.beacon };
        assert!(RevealClock { beacon: gone, ..CLOCK }.reveal_round().is_err());
        let far = BeaconClock { last_stored: 1_000_000, ..CLOCK.beacon };
        assert_eq!(RevealClock { beacon: far, ..CLOCK }.reveal_round(), Err(RoundError::TooShort));
    }

    /// Numbers of a hostile node must not overflow into a round that is published already.
    #[test]
    fn absurd_numbers_are_refused() {
        let zero = BeaconClock { period_s: 0, ..CLOCK.beacon };
        assert_eq!(RevealClock { beacon: zero, ..CLOCK }.reveal_round(), Err(RoundError::Schedule));
        for clock in [
            RevealClock { reveal_period_epochs: 0, ..CLOCK },
            RevealClock { reveal_period_epochs: u64::MAX, ..CLOCK },
            RevealClock { block: BlockNumber(u64::MAX), ..CLOCK },
            RevealClock { block_ms: u64::MAX, ..CLOCK },
        ] {
            assert!(clock.reveal_round().is_err(), "{clock:?}");
        }
    }
}
