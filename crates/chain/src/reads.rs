//! What a client can ask the chain. Every answer is of one block, the best one unless it says otherwise.

use nicompute_market::{AccountId, BlockNumber, Hotkey, Netuid, Rao, Uid};
use scale_value::Value;
use subxt::config::Header as _;

use crate::chain::{At, Chain, no_head};
use crate::error::{ReadError, ShapeError};
use crate::link::{Hash, Rpc};
use crate::neurons::Metagraph;
use crate::plain::Plain;
use crate::runtime::{SUBTENSOR, account_value, number_value};

const NEURONS_API: &str = "NeuronInfoRuntimeApi";
const SUBNET_API: &str = "SubnetInfoRuntimeApi";

/// A block by its number and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// The height.
    pub number: BlockNumber,
    /// The hash.
    pub hash: [u8; 32],
}

/// The rules of a subnet that its miners and validators live by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Blocks for which a new neuron cannot be replaced.
    pub immunity_period: u16,
    /// Blocks between two announcements of an address.
    pub serving_rate_limit: u64,
    /// How many neurons the subnet has room for.
    pub max_neurons: u16,
    /// How many validators it has room for.
    pub max_validators: u16,
}

impl Chain {
    /// The best block.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn head(&self) -> Result<Head, ReadError> {
        let ask = |rpc: Rpc| async move {
            let Some(hash) = rpc.chain_get_block_hash(None).await? else { return Ok(None) };
            Ok(rpc.chain_get_header(Some(hash)).await?.map(|header| (hash, header.number())))
        };
        self.head_by("chain_getBlockHash", ask).await
    }

    /// The newest block that will never be undone.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn finalized(&self) -> Result<Head, ReadError> {
        let ask = |rpc: Rpc| async move {
            let hash = rpc.chain_get_finalized_head().await?;
            Ok(rpc.chain_get_header(Some(hash)).await?.map(|header| (hash, header.number())))
        };
        self.head_by("chain_getFinalizedHead", ask).await
    }

    async fn head_by<F, Fut>(&self, request: &'static str, ask: F) -> Result<Head, ReadError>
    where
        F: Fn(Rpc) -> Fut,
        Fut: Future<Output = Result<Option<(Hash, u64)>, subxt::rpcs::Error>>,
    {
        let found = self.shared.link.ask(self.shared.limits.read, request, ask).await?;
        let (hash, number) = found.ok_or_else(no_head)?;
        Ok(Head { number: BlockNumber(number), hash: hash.0 })
    }

    /// The hash of a block by its height; none if the chain is not that high.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn block_hash(&self, number: BlockNumber) -> Result<Option<[u8; 32]>, ReadError> {
        let ask = |rpc: Rpc| async move { rpc.chain_get_block_hash(Some(number.0.into())).await };
        let limit = self.shared.limits.read;
        let hash = self.shared.link.ask(limit, "chain_getBlockHash", ask).await?;
        Ok(hash.map(|hash| hash.0))
    }

    /// All neurons of a subnet.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn metagraph(&self, netuid: Netuid) -> Result<Metagraph, ReadError> {
        let at = self.at().await?;
        let arguments = vec![number_value(netuid.0)];
        if !self.subnet_exists(&at, netuid).await? {
            return Err(ReadError::NoSubnet(netuid));
        }
        let list = self.api(&at, NEURONS_API, "get_neurons_lite", arguments.clone()).await?;
        let stake = if at.runtime.has_api(SUBNET_API, "get_subnet_state") {
            Some(self.api(&at, SUBNET_API, "get_subnet_state", arguments).await?)
        } else {
            None
        };
        let about = "the neurons of a subnet";
        let shape = |source| ReadError::Shape { about, source };
        let stake = match &stake {
            Some(answer) => answer.option().map_err(shape)?,
            None => None,
        };
        Metagraph::read(at.head.number, &list, stake).map_err(shape)
    }

    /// The rules of a subnet.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn hyperparameters(&self, netuid: Netuid) -> Result<Hyperparameters, ReadError> {
        const NAMES: [&str; 11] = [
            "NetworksAdded",
            "Tempo",
            "WeightsSetRateLimit",
            "WeightsVersionKey",
            "MinAllowedWeights",
            "MaxWeightsLimit",
            "CommitRevealWeightsEnabled",
            "ImmunityPeriod",
            "ServingRateLimit",
            "MaxAllowedUids",
            "MaxAllowedValidators",
        ];
        let at = self.at().await?;
        let values = self.subnet_values(&at, netuid, &NAMES).await?;
        let [added, values @ ..] = values.as_slice() else {
            return Err(ReadError::NoSubnet(netuid));
        };
        if !added.bool().unwrap_or(false) {
            return Err(ReadError::NoSubnet(netuid));
        }
        read_hyperparameters(values)
            .map_err(|source| ReadError::Shape { about: "a subnet's hyperparameters", source })
    }

    /// An account's free coins.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn balance(&self, account: &AccountId) -> Result<Rao, ReadError> {
        let at = self.at().await?;
        let about = "an account";
        let keys = vec![account_value(account)];
        let info = self.storage(&at, about, ("System", "Account"), keys).await?;
        let Some(info) = info else { return Ok(Rao(0)) };
        let free = info.field("data").and_then(|data| data.field("free")).and_then(Plain::u64);
        free.map(Rao).map_err(|source| ReadError::Shape { about, source })
    }

    /// The slot of a hotkey on a subnet; none if it is not registered there.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn uid_of(&self, netuid: Netuid, hotkey: &Hotkey) -> Result<Option<Uid>, ReadError> {
        let at = self.at().await?;
        let about = "a neuron's uid";
        let keys = vec![number_value(netuid.0), account_value(&hotkey.0)];
        let uid = self.storage(&at, about, (SUBTENSOR, "Uids"), keys).await?;
        let uid = uid.map(|uid| uid.u16().map(Uid)).transpose();
        uid.map_err(|source| ReadError::Shape { about, source })
    }

    /// The price of a registration now.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn burn(&self, netuid: Netuid) -> Result<Rao, ReadError> {
        let at = self.at().await?;
        let values = self.subnet_values(&at, netuid, &["NetworksAdded", "Burn"]).await?;
        match values.as_slice() {
            [added, burn] if added.bool().unwrap_or(false) => burn
                .u64()
                .map(Rao)
                .map_err(|source| ReadError::Shape { about: "the registration's price", source }),
            _ => Err(ReadError::NoSubnet(netuid)),
        }
    }

    /// The hotkey of the subnet's owner, which burns what it earns; none if the subnet has none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn owner_hotkey(&self, netuid: Netuid) -> Result<Option<Hotkey>, ReadError> {
        let at = self.at().await?;
        let about = "the subnet's owner";
        let keys = vec![number_value(netuid.0)];
        let owner = self.storage(&at, about, (SUBTENSOR, "SubnetOwnerHotkey"), keys).await?;
        let owner = owner.map(|owner| owner.account().map(Hotkey)).transpose();
        owner.map_err(|source| ReadError::Shape { about, source })
    }

    /// The weights that a neuron has set.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn weights_of(&self, netuid: Netuid, uid: Uid) -> Result<Vec<(Uid, u16)>, ReadError> {
        let at = self.at().await?;
        let about = "a neuron's weights";
        let keys = vec![number_value(netuid.0), number_value(uid.0)];
        let row = self.storage(&at, about, (SUBTENSOR, "Weights"), keys).await?;
        let Some(row) = row else { return Ok(Vec::new()) };
        let entry = |entry: &Plain| {
            let (uid, weight) = entry.pair()?;
            Ok((Uid(uid.u16()?), weight.u16()?))
        };
        let read: Result<Vec<_>, ShapeError> =
            row.list().and_then(|row| row.iter().map(entry).collect());
        read.map_err(|source| ReadError::Shape { about, source })
    }

    pub(crate) async fn at(&self) -> Result<At, ReadError> {
        self.shared.at_best(self.shared.limits.read).await
    }

    pub(crate) async fn subnet_exists(&self, at: &At, netuid: Netuid) -> Result<bool, ReadError> {
        let values = self.subnet_values(at, netuid, &["NetworksAdded"]).await?;
        Ok(values.first().is_some_and(|added| added.bool().unwrap_or(false)))
    }

    /// One storage item.
    pub(crate) async fn storage(
        &self,
        at: &At,
        about: &'static str,
        (pallet, name): (&str, &str),
        keys: Vec<Value>,
    ) -> Result<Option<Plain>, ReadError> {
        let entry = at.runtime.entry(pallet, name, keys)?;
        let (key, hash) = (&*entry.key, at.hash());
        let ask = |rpc: Rpc| async move { rpc.state_get_storage(key, Some(hash)).await };
        let limit = self.shared.limits.read;
        let stored = self.shared.link.ask(limit, "state_getStorage", ask).await?;
        at.runtime.value(about, &entry, stored.as_deref())
    }

    /// Several items of a subnet in one request, each with its default where nothing is stored.
    pub(crate) async fn subnet_values(
        &self,
        at: &At,
        netuid: Netuid,
        names: &[&str],
    ) -> Result<Vec<Plain>, ReadError> {
        let about = "a subnet's storage";
        let entry = |name: &&str| at.runtime.entry(SUBTENSOR, name, vec![number_value(netuid.0)]);
        let entries: Vec<_> = names.iter().map(entry).collect::<Result<_, _>>()?;
        let (keys, hash) = (&entries, at.hash());
        let ask = |rpc: Rpc| async move {
            let keys = keys.iter().map(|entry| &*entry.key);
            rpc.state_query_storage_at(keys, Some(hash)).await
        };
        let limit = self.shared.limits.read;
        let sets = self.shared.link.ask(limit, "state_queryStorageAt", ask).await?;
        let stored = |key: &[u8]| {
            let mut changes = sets.iter().flat_map(|set| &set.changes);
            changes.find(|(known, _)| &**known == key).and_then(|(_, value)| value.as_ref())
        };
        let missing = || ReadError::Shape { about, source: ShapeError::Kind("a value") };
        let value = |entry: &crate::runtime::Entry| {
            let stored = stored(&entry.key).map(|bytes| &**bytes);
            at.runtime.value(about, entry, stored)?.ok_or_else(missing)
        };
        entries.iter().map(value).collect()
    }

    /// A runtime API's answer.
    async fn api(
        &self,
        at: &At,
        api: &str,
        method: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Plain, ReadError> {
        let arguments = at.runtime.api_arguments(api, method, arguments)?;
        let (arguments, hash) = (&arguments, at.hash());
        let function = &format!("{api}_{method}");
        let ask =
            |rpc: Rpc| async move { rpc.state_call(function, Some(arguments), Some(hash)).await };
        let bytes = self.shared.link.ask(self.shared.limits.read, method, ask).await?;
        at.runtime.api_answer(api, method, &bytes)
    }
}

fn read_hyperparameters(values: &[Plain]) -> Result<Hyperparameters, ShapeError> {
    let [
        tempo,
        weights_rate_limit,
        weights_version_key,
        min_allowed_weights,
        max_weight_limit,
        commit_reveal,
        immunity_period,
        serving_rate_limit,
        max_neurons,
        max_validators,
    ] = values
    else {
        return Err(ShapeError::Kind("ten values"));
    };
    Ok(Hyperparameters {
        tempo: tempo.u16()?,
        weights_rate_limit: weights_rate_limit.u64()?,
        weights_version_key: weights_version_key.u64()?,
        min_allowed_weights: min_allowed_weights.u16()?,
        max_weight_limit: max_weight_limit.u16()?,
        commit_reveal: commit_reveal.bool()?,
        immunity_period: immunity_period.u16()?,
        serving_rate_limit: serving_rate_limit.u64()?,
        max_neurons: max_neurons.u16()?,
        max_validators: max_validators.u16()?,
    })
}
