//! What a client asks about subnets: their rules, their epochs, and how they take weights.

use std::time::Duration;

use nicompute_market::{BlockNumber, Coldkey, Hotkey, Netuid, Rao};
use scale_value::Value;

use crate::error::{ReadError, ShapeError};
use crate::link::Rpc;
use crate::plain::Plain;
use crate::runtime::{SUBTENSOR, account_value, number_value};
use crate::view::{Item, View, shape};

pub(crate) const SUBNET_API: &str = "SubnetInfoRuntimeApi";
/// The length of a beacon's public key: a compressed point of the second group.
const BEACON_KEY_LEN: usize = 96;
/// Epochs of timelocked commits that are looked through; the chain keeps those of the last few.
const COMMIT_EPOCHS_MAX: u32 = 64;

/// The rules of a subnet that its miners and validators live by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the chain has these switches, each of its own")]
pub struct Hyperparameters {
    /// Blocks of an epoch.
    pub tempo: u16,
    /// Blocks between two settings of weights.
    pub weights_rate_limit: u64,
    /// The lowest version key that weights must carry; zero accepts any.
    pub weights_version_key: u64,
    /// The fewest neurons that weights must name.
    pub min_allowed_weights: u16,
    /// The largest share of one neuron, of 65535; 65535 is no limit.
    pub max_weight_limit: u16,
    /// Whether weights go through commit and reveal.
    pub commit_reveal: bool,
    /// Epochs between a commit and its reveal.
    pub reveal_period_epochs: u64,
    /// The version of timelocked commits that the chain takes; zero if it knows none.
    pub commit_reveal_version: u16,
    /// Blocks for which a new neuron cannot be replaced.
    pub immunity_period: u16,
    /// Blocks after which a neuron that sets no weights counts as gone.
    pub activity_cutoff: u64,
    /// Blocks between two announcements of an address.
    pub serving_rate_limit: u64,
    /// How many neurons the subnet has room for.
    pub max_neurons: u16,
    /// How many validators it has room for.
    pub max_validators: u16,
    /// Whether anybody may register.
    pub registration_allowed: bool,
    /// Whether a registration may be paid with work.
    pub pow_registration_allowed: bool,
    /// The least that a registration ever costs.
    pub min_burn: Rao,
    /// The most that a registration ever costs.
    pub max_burn: Rao,
    /// The share of stake that makes a consensus, of 65535.
    pub kappa: u16,
    /// The weight of old bonds, of 1,000,000.
    pub bonds_moving_average: u64,
    /// The least stake weight with which weights may be set.
    pub stake_threshold: u64,
    /// How many mechanisms the subnet has.
    pub mechanisms: u8,
}

/// How a subnet takes weights now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsWay {
    /// In the clear.
    Plain,
    /// By their hash, and revealed by whoever committed.
    Hash {
        /// Epochs between the commit and the reveal.
        reveal_period_epochs: u64,
    },
    /// Encrypted to a round of the beacon, and opened by the chain.
    Timelocked {
        /// The version of the format.
        version: u16,
        /// Epochs between the commit and its opening.
        reveal_period_epochs: u64,
    },
}

/// The randomness beacon that the chain follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Its public key, to which commits are encrypted.
    pub public_key: [u8; BEACON_KEY_LEN],
    /// When its first round was, in seconds since 1970.
    pub genesis_s: u64,
    /// Seconds between two rounds.
    pub period_s: u64,
}

/// Weights that wait, encrypted, for their round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelockedCommit {
    /// The subnet's epoch in which it was made.
    pub epoch: u64,
    /// The block in which it was made.
    pub block: BlockNumber,
    /// The encrypted weights.
    pub commit: Vec<u8>,
    /// The round that opens it.
    pub reveal_round: u64,
}

/// Weights that wait, hashed, for their revelation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCommit {
    /// The hash.
    pub hash: [u8; 32],
    /// The block in which it was made.
    pub block: BlockNumber,
    /// The subnet's epoch in which it was made; older runtimes count blocks only.
    pub epoch: Option<u64>,
}

/// A subnet among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetInfo {
    /// Its number.
    pub netuid: Netuid,
    /// Its name, as its owner says.
    pub name: String,
    /// The symbol of its alpha.
    pub symbol: String,
    /// Blocks of an epoch.
    pub tempo: u16,
    /// The owner's hotkey.
    pub owner_hotkey: Hotkey,
    /// The owner.
    pub owner_coldkey: Coldkey,
    /// Coins in its pool.
    pub tao_in: Rao,
    /// Alpha in its pool.
    pub alpha_in: Rao,
    /// Alpha outside of it.
    pub alpha_out: Rao,
    /// The block in which it was made.
    pub registered_at: BlockNumber,
}

impl View {
    /// The rules of a subnet.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn hyperparameters(&self, netuid: Netuid) -> Result<Hyperparameters, ReadError> {
        let about = "a subnet's hyperparameters";
        let items = NAMES.iter().map(|name| of_subnet(name, netuid));
        let items = items.chain(GLOBAL_NAMES.iter().map(|name| ((SUBTENSOR, *name), Vec::new())));
        let values = self.items(about, items.collect()).await?;
        let names = NAMES.iter().chain(&GLOBAL_NAMES).copied();
        let values = Values(names.zip(values).collect());
        if !values.added() {
            return Err(ReadError::NoSubnet(netuid));
        }
        values.hyperparameters().map_err(shape(about))
    }

    /// How a subnet takes weights now.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn weights_way(&self, netuid: Netuid) -> Result<WeightsWay, ReadError> {
        let rules = self.hyperparameters(netuid).await?;
        let reveal_period_epochs = rules.reveal_period_epochs;
        Ok(if !rules.commit_reveal {
            WeightsWay::Plain
        } else if rules.commit_reveal_version > 0
            && self.at.runtime.has_call(SUBTENSOR, "commit_timelocked_weights")
        {
            WeightsWay::Timelocked { version: rules.commit_reveal_version, reveal_period_epochs }
        } else {
            WeightsWay::Hash { reveal_period_epochs }
        })
    }

    /// The block in which the subnet's next epoch begins.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn next_epoch_start(&self, netuid: Netuid) -> Result<BlockNumber, ReadError> {
        let about = "a subnet's next epoch";
        if self.has_api(SUBNET_API, "get_next_epoch_start_block") {
            let arguments = vec![number_value(netuid.0)];
            let answer = self.api(SUBNET_API, "get_next_epoch_start_block", arguments).await?;
            let block = answer.option().map_err(shape(about))?;
            let block = block.ok_or(ReadError::NoSubnet(netuid))?;
            return block.u64().map(BlockNumber).map_err(shape(about));
        }
        if self.at.runtime.has_storage(SUBTENSOR, "LastEpochBlock") {
            return self.next_epoch_by_storage(netuid).await;
        }
        // Older runtimes: the block at which block + netuid + 1 is a multiple of tempo + 1.
        let tempo = u64::from(self.hyperparameters(netuid).await?.tempo);
        let next = self.at.head.number.0.saturating_add(1);
        let period = tempo.saturating_add(1);
        let past = next.saturating_add(u64::from(netuid.0)).saturating_add(1) % period;
        let wait = if past == 0 { 0 } else { period - past };
        Ok(BlockNumber(next.saturating_add(wait)))
    }

    /// An epoch begins a tempo after the last one, or sooner where one was asked for.
    async fn next_epoch_by_storage(&self, netuid: Netuid) -> Result<BlockNumber, ReadError> {
        let about = "a subnet's next epoch";
        let names = ["NetworksAdded", "LastEpochBlock", "Tempo", "PendingEpochAt"];
        let items = names.iter().map(|name| of_subnet(name, netuid)).collect();
        let values = Values(names.into_iter().zip(self.items(about, items).await?).collect());
        if !values.added() {
            return Err(ReadError::NoSubnet(netuid));
        }
        let number = |name| values.or(name, 0).map_err(shape(about));
        let planned = number("LastEpochBlock")?.saturating_add(number("Tempo")?);
        let asked = number("PendingEpochAt")?;
        let start = if asked == 0 { planned } else { planned.min(asked) };
        Ok(BlockNumber(start.max(self.at.head.number.0.saturating_add(1))))
    }

    /// Which of the subnet's epochs it is, counted from its beginning.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn epoch_index(&self, netuid: Netuid) -> Result<u64, ReadError> {
        let about = "a subnet's epoch";
        if self.at.runtime.has_storage(SUBTENSOR, "SubnetEpochIndex") {
            let keys = vec![number_value(netuid.0)];
            let index = self.item(about, (SUBTENSOR, "SubnetEpochIndex"), keys).await?;
            return index.map_or(Ok(0), |index| index.u64()).map_err(shape(about));
        }
        // Older runtimes count by the block's height alone.
        let tempo = u64::from(self.hyperparameters(netuid).await?.tempo);
        let counted = self.at.head.number.0.saturating_add(u64::from(netuid.0)).saturating_add(1);
        Ok(counted / tempo.saturating_add(1))
    }

    /// The beacon that the chain follows; none if it follows none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn beacon(&self) -> Result<Option<Beacon>, ReadError> {
        let about = "the randomness beacon";
        let item = vec![(("Drand", "BeaconConfig"), Vec::<Value>::new())];
        let Some(config) = self.items(about, item).await?.pop().flatten() else { return Ok(None) };
        let read = || {
            let public_key = config.field("public_key")?.bytes()?;
            Ok(Beacon {
                public_key: public_key
                    .try_into()
                    .map_err(|_| ShapeError::Kind("a public key of 96 bytes"))?,
                genesis_s: config.field("genesis_time")?.u64()?,
                period_s: config.field("period")?.u64()?,
            })
        };
        let beacon = read().map_err(shape(about))?;
        if beacon.period_s == 0 {
            return Err(shape(about)(ShapeError::Kind("a period above zero")));
        }
        Ok(Some(beacon))
    }

    /// The newest round whose randomness the chain has; zero if it has none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn last_stored_round(&self) -> Result<u64, ReadError> {
        let about = "the beacon's last round";
        let item = vec![(("Drand", "LastStoredRound"), Vec::<Value>::new())];
        let round = self.items(about, item).await?.pop().flatten();
        round.map_or(Ok(0), |round| round.u64()).map_err(shape(about))
    }

    /// Time between two blocks, as the runtime plans it.
    ///
    /// # Errors
    /// When the node's runtime does not tell.
    pub fn block_time(&self) -> Result<Duration, ReadError> {
        let about = "the block time";
        let slot = self.at.runtime.constant(about, "Aura", "SlotDuration")?;
        let slot_ms = slot.u64().map_err(shape(about))?;
        if slot_ms == 0 {
            return Err(shape(about)(ShapeError::Kind("a block time above zero")));
        }
        Ok(Duration::from_millis(slot_ms))
    }

    /// When the block was made, in milliseconds since 1970, by the chain's own clock.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn timestamp_ms(&self) -> Result<u64, ReadError> {
        let about = "the chain's clock";
        let now = self.item(about, ("Timestamp", "Now"), Vec::new()).await?;
        now.map_or(Ok(0), |now| now.u64()).map_err(shape(about))
    }

    /// The price of a registration now.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn burn(&self, netuid: Netuid) -> Result<Rao, ReadError> {
        let about = "the registration's price";
        let items = vec![of_subnet("NetworksAdded", netuid), of_subnet("Burn", netuid)];
        let values = self.items(about, items).await?;
        match values.as_slice() {
            [Some(added), Some(burn)] if added.bool().unwrap_or(false) => {
                burn.u64().map(Rao).map_err(shape(about))
            }
            _ => Err(ReadError::NoSubnet(netuid)),
        }
    }

    /// Whether there is such a subnet.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn subnet_exists(&self, netuid: Netuid) -> Result<bool, ReadError> {
        let values = self.items("a subnet", vec![of_subnet("NetworksAdded", netuid)]).await?;
        Ok(matches!(values.as_slice(), [Some(Plain::Bool(true))]))
    }

    /// All subnets, the root first.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn subnets(&self) -> Result<Vec<SubnetInfo>, ReadError> {
        let about = "the subnets";
        let list = self.api(SUBNET_API, "get_all_dynamic_info", Vec::new()).await?;
        let read = || {
            let mut subnets = Vec::new();
            for info in list.list()? {
                if let Some(info) = info.option()? {
                    subnets.push(SubnetInfo::read(info)?);
                }
            }
            Ok(subnets)
        };
        let mut subnets: Vec<SubnetInfo> = read().map_err(shape(about))?;
        subnets.sort_by_key(|subnet| subnet.netuid);
        Ok(subnets)
    }

    /// A hotkey's timelocked commits that the chain has not opened yet, the oldest first.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn timelocked_commits_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Vec<TimelockedCommit>, ReadError> {
        let about = "timelocked commits";
        const NAME: &str = "TimelockedWeightCommits";
        if !self.at.runtime.has_storage(SUBTENSOR, NAME) {
            return Ok(Vec::new());
        }
        let prefix = self.at.runtime.prefix(SUBTENSOR, NAME, vec![number_value(netuid.0)])?;
        let (prefix, hash) = (&*prefix, self.at.hash());
        let ask = |rpc: Rpc| async move {
            rpc.state_get_keys_paged(prefix, COMMIT_EPOCHS_MAX, None, Some(hash)).await
        };
        let limit = self.shared().limits.read;
        let asked = self.shared().link.ask(limit, "state_getKeysPaged", ask).await;
        let keys = asked.map_err(|error| error.at_block(self.at.head.hash))?;
        // The key's last part is hashed so that the epoch stands at its end.
        let epochs: Vec<u64> = keys
            .iter()
            .filter_map(|key| key.last_chunk::<8>())
            .map(|bytes| u64::from_le_bytes(*bytes))
            .collect();
        let item =
            |epoch: &u64| ((SUBTENSOR, NAME), vec![number_value(netuid.0), number_value(*epoch)]);
        let values = self.items(about, epochs.iter().map(item).collect()).await?;
        let mut commits = Vec::new();
        for (epoch, value) in epochs.into_iter().zip(values) {
            let Some(value) = value else { continue };
            commits.extend(commits_in(epoch, &value, hotkey).map_err(shape(about))?);
        }
        commits.sort_by_key(|commit| (commit.epoch, commit.block));
        Ok(commits)
    }

    /// A hotkey's hashed commits that are not revealed yet, the oldest first.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn hash_commits_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Vec<HashCommit>, ReadError> {
        let about = "hashed commits";
        let keys = vec![number_value(netuid.0), account_value(&hotkey.0)];
        let list = self.item(about, (SUBTENSOR, "WeightCommits"), keys).await?;
        let Some(list) = list else { return Ok(Vec::new()) };
        // Runtimes that count epochs write the epoch before the block; older ones the block, and its window behind it.
        let counts_epochs = self.at.runtime.has_storage(SUBTENSOR, "SubnetEpochIndex");
        let commit = |entry: &Plain| match entry.list()? {
            [hash, epoch, block, _] if counts_epochs => Ok(HashCommit {
                hash: *hash.account()?.as_bytes(),
                block: BlockNumber(block.u64()?),
                epoch: Some(epoch.u64()?),
            }),
            [hash, block, _, _] => Ok(HashCommit {
                hash: *hash.account()?.as_bytes(),
                block: BlockNumber(block.u64()?),
                epoch: None,
            }),
            _ => Err(ShapeError::Kind("a commit of four parts")),
        };
        let commits: Result<Vec<_>, ShapeError> =
            list.list().and_then(|list| list.iter().map(commit).collect());
        commits.map_err(shape(about))
    }
}

// === impl Hyperparameters ===

impl Hyperparameters {
    /// What the main network gives a new subnet.
    pub const NEW_SUBNET: Self = Self {
        tempo: 360,
        weights_rate_limit: 100,
        weights_version_key: 0,
        min_allowed_weights: 1,
        max_weight_limit: u16::MAX,
        commit_reveal: true,
        reveal_period_epochs: 1,
        commit_reveal_version: 4,
        immunity_period: 4_096,
        activity_cutoff: 5_000,
        serving_rate_limit: 50,
        max_neurons: 256,
        max_validators: 64,
        registration_allowed: true,
        pow_registration_allowed: true,
        min_burn: Rao(500_000),
        max_burn: Rao(100_000_000_000),
        kappa: 32_767,
        bonds_moving_average: 900_000,
        stake_threshold: 0,
        mechanisms: 1,
    };
}

// === impl SubnetInfo ===

impl SubnetInfo {
    fn read(info: &Plain) -> Result<Self, ShapeError> {
        Ok(Self {
            netuid: Netuid(info.field("netuid")?.u16()?),
            name: info.field("subnet_name")?.text()?,
            symbol: info.field("token_symbol")?.text()?,
            tempo: info.field("tempo")?.u16()?,
            owner_hotkey: Hotkey(info.field("owner_hotkey")?.account()?),
            owner_coldkey: Coldkey(info.field("owner_coldkey")?.account()?),
            tao_in: Rao(info.field("tao_in")?.u64()?),
            alpha_in: Rao(info.field("alpha_in")?.u64()?),
            alpha_out: Rao(info.field("alpha_out")?.u64()?),
            registered_at: BlockNumber(info.field("network_registered_at")?.u64()?),
        })
    }
}

/// Items of one subnet.
const NAMES: [&str; 21] = [
    "NetworksAdded",
    "Tempo",
    "WeightsSetRateLimit",
    "WeightsVersionKey",
    "MinAllowedWeights",
    "MaxWeightsLimit",
    "CommitRevealWeightsEnabled",
    "RevealPeriodEpochs",
    "ImmunityPeriod",
    "ActivityCutoff",
    "ActivityCutoffFactorMilli",
    "ServingRateLimit",
    "MaxAllowedUids",
    "MaxAllowedValidators",
    "NetworkRegistrationAllowed",
    "NetworkPowRegistrationAllowed",
    "MinBurn",
    "MaxBurn",
    "Kappa",
    "BondsMovingAverage",
    "MechanismCountCurrent",
];
/// Items of the whole chain.
const GLOBAL_NAMES: [&str; 2] = ["CommitRevealWeightsVersion", "StakeThreshold"];

/// Read items by their names.
struct Values(Vec<(&'static str, Option<Plain>)>);

impl Values {
    fn added(&self) -> bool {
        self.of("NetworksAdded").is_some_and(|added| added.bool().unwrap_or(false))
    }

    fn hyperparameters(&self) -> Result<Hyperparameters, ShapeError> {
        let standard = Hyperparameters::NEW_SUBNET;
        let tempo = u16_of(self.needed("Tempo")?)?;
        // Newer runtimes count the cutoff in thousandths of an epoch.
        let activity_cutoff = match self.of("ActivityCutoffFactorMilli") {
            Some(factor) => u64::from(tempo).saturating_mul(factor.u64()?) / 1_000,
            None => self.or("ActivityCutoff", standard.activity_cutoff)?,
        };
        let mechanisms = self.of("MechanismCountCurrent").map_or(Ok(1), Plain::u8)?;
        Ok(Hyperparameters {
            tempo,
            weights_rate_limit: self.needed("WeightsSetRateLimit")?.u64()?,
            weights_version_key: self.needed("WeightsVersionKey")?.u64()?,
            min_allowed_weights: u16_of(self.needed("MinAllowedWeights")?)?,
            max_weight_limit: u16_of(self.needed("MaxWeightsLimit")?)?,
            commit_reveal: self.needed("CommitRevealWeightsEnabled")?.bool()?,
            reveal_period_epochs: self.or("RevealPeriodEpochs", standard.reveal_period_epochs)?,
            commit_reveal_version: self
                .of("CommitRevealWeightsVersion")
                .map_or(Ok(0), Plain::u16)?,
            immunity_period: u16_of(self.needed("ImmunityPeriod")?)?,
            activity_cutoff,
            serving_rate_limit: self.needed("ServingRateLimit")?.u64()?,
            max_neurons: u16_of(self.needed("MaxAllowedUids")?)?,
            max_validators: u16_of(self.needed("MaxAllowedValidators")?)?,
            registration_allowed: self.needed("NetworkRegistrationAllowed")?.bool()?,
            pow_registration_allowed: self
                .of("NetworkPowRegistrationAllowed")
                .map_or(Ok(false), Plain::bool)?,
            min_burn: Rao(self.or("MinBurn", standard.min_burn.0)?),
            max_burn: Rao(self.or("MaxBurn", standard.max_burn.0)?),
            kappa: u16_of(self.needed("Kappa")?)?,
            bonds_moving_average: self.or("BondsMovingAverage", standard.bonds_moving_average)?,
            stake_threshold: self.or("StakeThreshold", 0)?,
            mechanisms,
        })
    }

    fn of(&self, name: &str) -> Option<&Plain> {
        self.0.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.as_ref())
    }

    fn needed(&self, name: &'static str) -> Result<&Plain, ShapeError> {
        self.of(name).ok_or(ShapeError::Field(name))
    }

    /// A number that some runtimes do not have.
    fn or(&self, name: &str, otherwise: u64) -> Result<u64, ShapeError> {
        self.of(name).map_or(Ok(otherwise), Plain::u64)
    }
}

fn u16_of(value: &Plain) -> Result<u16, ShapeError> {
    value.u16()
}

fn of_subnet(name: &'static str, netuid: Netuid) -> Item<'static> {
    ((SUBTENSOR, name), vec![number_value(netuid.0)])
}

fn commits_in(
    epoch: u64,
    list: &Plain,
    hotkey: &Hotkey,
) -> Result<Vec<TimelockedCommit>, ShapeError> {
    let mut commits = Vec::new();
    for entry in list.list()? {
        let [who, block, commit, round] = entry.list()? else {
            return Err(ShapeError::Kind("a commit of four parts"));
        };
        if who.account()? != hotkey.0 {
            continue;
        }
        commits.push(TimelockedCommit {
            epoch,
            block: BlockNumber(block.u64()?),
            commit: commit.bytes()?.to_vec(),
            reveal_round: round.u64()?,
        });
    }
    Ok(commits)
}
