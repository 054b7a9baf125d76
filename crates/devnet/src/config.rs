//! What a devnet is started with, and the values of its first state.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nicompute_market::{AccountId, Coldkey, Hotkey, Netuid, Rao};

use crate::schema::Profile;
use crate::yuma::{LiquidAlpha, NEURONS_MAX};

/// The subnet of GPU compute, on this chain as on the main network.
pub const DEFAULT_NETUID: Netuid = Netuid(27);
/// Faster blocks than this leave no time for the disk.
pub const BLOCK_TIME_MIN: Duration = Duration::from_millis(50);
/// Slower blocks than this are of no use to anybody.
pub const BLOCK_TIME_MAX: Duration = Duration::from_secs(60);

/// A larger lag between the best and the finalised head has no use; real chains have a few blocks.
pub const FINALITY_LAG_MAX: u32 = 64;
/// The most mechanisms of one subnet; the real chain allows two.
pub const MECHANISMS_MAX: u8 = 2;

/// Everything that a devnet is started with.
#[derive(Debug, Clone)]
pub struct DevnetConfig {
    /// The folder of its state. One devnet at a time may use it.
    pub dir: PathBuf,
    /// Where it listens: a loopback address; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Time between blocks.
    pub block_time: Duration,
    /// How its metadata writes single-field types.
    pub profile: Profile,
    /// How many blocks the finalised head trails the best one. At 0 every block is final at once, and nothing can be
    /// undone.
    pub finality_lag: u32,
    /// The first state, used only while the folder is empty.
    pub genesis: Genesis,
}

impl DevnetConfig {
    /// A chain in this folder on a free loopback port: a block a second, final at once, readable by every client.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, genesis: Genesis) -> Self {
        Self {
            dir: dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            block_time: Duration::from_secs(1),
            profile: Profile::Flat,
            finality_lag: 0,
            genesis,
        }
    }
}

/// The first state of a chain.
#[derive(Debug, Clone, Default)]
pub struct Genesis {
    /// Who has how many coins.
    pub endowed: Vec<(AccountId, Rao)>,
    /// The subnets besides the root network.
    pub subnets: Vec<SubnetGenesis>,
    /// The stake weight below which a neuron cannot set weights, on every subnet.
    pub stake_threshold: Rao,
    /// The version of sealed weights that the chain says it takes, on every subnet: four if nothing is given. With another one
    /// clients that know only four cannot seal any; at zero they commit by hash.
    pub commit_reveal_version: Option<u16>,
    /// The randomness beacon. Without one a chain with a commit-reveal subnet gets one of its own.
    pub beacon: Option<Beacon>,
}

/// Where the rounds come from that open sealed weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beacon {
    /// The chain signs every round itself as its time reaches it, from its first block on.
    Own {
        /// What the key is made of. It is no secret: it stands in the chain's state.
        seed: [u8; 32],
        /// Seconds between two rounds.
        period_s: u32,
    },
    /// Rounds of another beacon, handed in by `devnet_pulse`.
    Recorded {
        /// The beacon's key.
        public_key: [u8; 96],
        /// When its first round was published, in seconds since 1970.
        genesis_s: u32,
        /// Seconds between two rounds.
        period_s: u32,
    },
}

impl Beacon {
    /// The period of drand's quicknet.
    pub const QUICKNET_PERIOD_S: u32 = 3;

    /// A beacon of the chain's own, as fast as its blocks need: drand's three seconds, or one where blocks are faster.
    #[must_use]
    pub fn own(seed: [u8; 32], block_time: Duration) -> Self {
        let is_slow = block_time >= Duration::from_secs(u64::from(Self::QUICKNET_PERIOD_S));
        Self::Own { seed, period_s: if is_slow { Self::QUICKNET_PERIOD_S } else { 1 } }
    }
}

/// A subnet at the beginning.
#[derive(Debug, Clone)]
pub struct SubnetGenesis {
    /// Its number; 0 is the root network and cannot be given.
    pub netuid: Netuid,
    /// Its name.
    pub name: String,
    /// Its token's symbol.
    pub symbol: String,
    /// Who owns it.
    pub owner_coldkey: Coldkey,
    /// The owner's hotkey, which weights may be burned to.
    pub owner_hotkey: Hotkey,
    /// Blocks between epochs.
    pub tempo: u16,
    /// Its validators, registered and permitted from the first block, with their stake in alpha.
    pub validators: Vec<(Hotkey, Coldkey, Rao)>,
    /// Its miners, registered from the first block behind the validators, without stake.
    pub miners: Vec<(Hotkey, Coldkey)>,
    /// Its other values.
    pub parameters: Parameters,
}

/// A subnet's hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// How many neurons there can be.
    pub max_uids: u16,
    /// How many validator permits there are.
    pub max_validators: u16,
    /// Fewest weights of one vector.
    pub min_allowed_weights: u16,
    /// The largest share of one weight; 65,535 for no limit.
    pub max_weight: u16,
    /// Blocks between two weight vectors of one neuron.
    pub weights_rate_limit: u64,
    /// The lowest accepted version key; 0 accepts all.
    pub weights_version_key: u64,
    /// Who may register.
    pub registration: Registration,
    /// The lowest price of a registration, and the first.
    pub burn: Rao,
    /// The highest price of a registration.
    pub burn_max: Rao,
    /// Blocks in which the price of a registration halves; 0 keeps it.
    pub burn_half_life: u16,
    /// What a registration multiplies its price by, in percent.
    pub burn_increase_percent: u16,
    /// Blocks during which a new neuron is not replaced.
    pub immunity_period: u16,
    /// How many neurons beyond their immunity stay, so that new ones can be protected.
    pub min_non_immune_uids: u16,
    /// Blocks after which a neuron that set no weights is inactive.
    pub activity_cutoff: u16,
    /// The majority of the consensus, of 65,535.
    pub kappa: u16,
    /// How much of the old bonds an epoch keeps, in millionths.
    pub bonds_moving_average: u64,
    /// How much of a weight above the consensus is left out of the bonds, of 65,535.
    pub bonds_penalty: u16,
    /// A moving average of its own for each bond; counts with Yuma 3 only.
    pub liquid_alpha: Option<LiquidAlpha>,
    /// How many mechanisms weigh the miners, each by weights of its own, and share the emission equally.
    pub mechanisms: u8,
    /// Blocks between two announcements of one neuron.
    pub serving_rate_limit: u64,
    /// Epochs from a commit of weights to its reveal, where they are committed.
    pub reveal_period_epochs: u64,
    /// Which switches are on.
    pub switches: Switches,
}

/// Whether a subnet takes new neurons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Registration {
    /// Whoever pays the price.
    #[default]
    Open,
    /// Nobody: `burned_register` fails with `SubNetRegistrationDisabled`.
    Closed,
}

/// A subnet's switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switches {
    /// Weights must be committed first and are revealed later, so that `set_weights` is refused.
    pub commit_reveal: bool,
    /// Bonds of weights (Yuma 3) instead of bonds of stake.
    pub yuma3: bool,
}

impl Default for Parameters {
    /// The values of the local market.
    fn default() -> Self {
        Self {
            max_uids: 256,
            max_validators: 64,
            min_allowed_weights: 1,
            max_weight: u16::MAX,
            weights_rate_limit: 1,
            weights_version_key: 0,
            registration: Registration::Open,
            burn: Rao(100_000_000),
            burn_max: Rao(100_000_000_000),
            burn_half_life: 360,
            burn_increase_percent: 126,
            immunity_period: 100,
            min_non_immune_uids: 10,
            activity_cutoff: 5_000,
            kappa: 32_767,
            bonds_moving_average: 900_000,
            bonds_penalty: u16::MAX,
            liquid_alpha: None,
            mechanisms: 1,
            serving_rate_limit: 0,
            reveal_period_epochs: 1,
            switches: Switches::default(),
        }
    }
}

impl SubnetGenesis {
    /// A subnet with the local market's values and no validators yet.
    #[must_use]
    pub fn new(netuid: Netuid, owner_coldkey: Coldkey, owner_hotkey: Hotkey) -> Self {
        Self {
            netuid,
            name: format!("subnet {}", netuid.0),
            symbol: "\u{3b1}".to_owned(),
            owner_coldkey,
            owner_hotkey,
            tempo: 10,
            validators: Vec::new(),
            miners: Vec::new(),
            parameters: Parameters::default(),
        }
    }
}

/// A genesis that no chain can begin with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Netuid 0, or one above what the metagraph's keys can hold.
    #[error("subnet {0} cannot be created: choose a netuid from 1 to 4095")]
    Netuid(u16),
    /// The same subnet twice.
    #[error("subnet {0} is listed twice")]
    Twice(u16),
    /// A tempo that never ends.
    #[error("subnet {0} has a tempo of 0 blocks: choose 1 or more")]
    Tempo(u16),
    /// More neurons than slots.
    #[error("subnet {0} has more validators and miners than uids")]
    TooManyNeurons(u16),
    /// More slots than the epoch counts.
    #[error("subnet {0} has {1} uids: choose 1 to {NEURONS_MAX}")]
    Uids(u16, u16),
    /// No mechanism, or more than a subnet may have.
    #[error("subnet {0} has {1} mechanisms: choose 1 to {MECHANISMS_MAX}")]
    Mechanisms(u16, u8),
    /// A hotkey under two coldkeys, or registered twice.
    #[error("hotkey {0} is listed twice")]
    Hotkey(Hotkey),
    /// A beacon that cannot be: no point of the curve for a key, or no time between rounds.
    #[error("the beacon has no usable key or period")]
    Beacon,
    /// A reveal period that the real chain does not take.
    #[error("subnet {0} has a reveal period that is not from 1 to 100 epochs")]
    RevealPeriod(u16),
    /// More coins than the chain can count.
    #[error("the endowments add up to more than the chain can count")]
    Coins,
}
